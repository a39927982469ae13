//! Checks web hooks: whether the secret is usable, and who can reach the address. Does not know hooks.

use crate::config::WebhookSettings;
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::engine::listen::http;

const SUBJECT: &str = "webhook";

/// The findings for `webhook`.
pub fn verdicts(webhook: &WebhookSettings) -> [CheckFinding; 2] {
    let secret = match http::secret(webhook) {
        Ok(_) => CheckFinding::ok(SUBJECT, "the secret can be read"),
        Err(error) => CheckFinding::of(FindingLevel::Bad, SUBJECT, &error),
    };
    let bind = webhook.bind;
    let reached = match bind.ip().is_loopback() {
        true => CheckFinding::ok(SUBJECT, format!("only this machine reaches {bind}")),
        false => CheckFinding::warn(
            SUBJECT,
            format!(
                "others reach {bind}, where there is no TLS, and may ask for metrics and status\n\
                 hint: bind = \"127.0.0.1:{}\", and a web server with TLS before it",
                bind.port()
            ),
        ),
    };
    [secret, reached]
}
