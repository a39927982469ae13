//! Checks web hooks: whether the secret is usable, who can reach the address, and whether a hook can mean a
//! repository at all. Does not know hooks.

use crate::config::WebhookSettings;
use crate::domain::bus::hook_names::HookNames;
use crate::domain::text::EscapeControls;
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::engine::listen::http;
use crate::engine::repository::Repository;

const SUBJECT: &str = "webhook";

/// The findings for `webhook`.
pub fn verdicts(webhook: &WebhookSettings) -> [CheckFinding; 2] {
    let secret = match http::secrets(webhook) {
        Ok(secrets) if secrets.count() > 1 => {
            CheckFinding::ok(SUBJECT, format!("{} secrets can be read", secrets.count()))
        }
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

/// A warning when no name that a forge sends could mean the repository.
pub fn name_in_hooks(repository: &Repository) -> Option<CheckFinding> {
    repository.context.settings.webhook.as_ref()?;
    let (name, settings) = (&repository.repo.name, &repository.repo.settings);
    if !settings.poll && !settings.listen_topics.is_empty() {
        return None;
    }
    let names = HookNames::new(name, settings.topic_name.as_deref(), &settings.urls);
    let sent = names.unmatched(&repository.remotes)?.escape_controls();
    let called = names.called.escape_controls();
    let text = format!(
        "no web hook can mean it: a forge calls it \"{sent}\", and here it is \"{called}\"\n\
         hint: set topic_name = \"{sent}\", or url, in [repo.{}]",
        name.escape_controls()
    );
    Some(CheckFinding::warn(name, text))
}
