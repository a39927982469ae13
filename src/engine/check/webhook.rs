//! The verdict on web hooks: whether the secret is one, and who can reach the address.

use crate::config::Webhook;
use crate::engine::listen::web;

use super::{Level, Verdict};

const SUBJECT: &str = "webhook";

/// What is to be said of `webhook`.
pub fn verdicts(webhook: &Webhook) -> [Verdict; 2] {
    let secret = match web::secret(webhook) {
        Ok(_) => Verdict::ok(SUBJECT, "the secret is there"),
        Err(error) => Verdict::of(Level::Bad, SUBJECT, &error),
    };
    let bind = webhook.bind;
    let reached = match bind.ip().is_loopback() {
        true => Verdict::ok(SUBJECT, format!("only this machine reaches {bind}")),
        false => Verdict::warn(
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
