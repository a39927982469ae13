//! Checks the page: where it is served, and who can read it. Asks for no page.

use crate::config::PageSettings;
use crate::engine::finding::CheckFinding;

const SUBJECT: &str = "page";

/// The finding for `page`.
pub fn verdict(page: &PageSettings) -> CheckFinding {
    let PageSettings { bind, allowed_hosts } = page;
    let names = match allowed_hosts.as_slice() {
        [] => String::new(),
        names => format!(", also by the name {}", names.join(", ")),
    };
    let served = format!("agent listen serves it on http://{bind}/");
    match bind.ip().is_loopback() {
        true => CheckFinding::ok(SUBJECT, format!("{served}, to this machine only{names}")),
        false => CheckFinding::warn(
            SUBJECT,
            format!(
                "{served}{names}, without TLS and password: who reaches it reads states, revisions and reasons\n\
                 hint: bind = \"127.0.0.1:{}\", and a web server with TLS and a password before it",
                bind.port()
            ),
        ),
    }
}
