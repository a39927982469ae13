//! The gates of a repository that waits: each with its verdict, when all are open, and how a person passes them.

use chrono::{DateTime, Utc};

use crate::cmd::format;
use crate::domain::repository::gate::{GateAnswer, GateVerdict};
use crate::domain::repository::gates;
use crate::domain::repository::observed::{Observed, Policy};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::status::StatusRow;
use crate::system::host;

/// When all gates are open, and how a person passes those of time.
pub fn wait(
    row: &StatusRow,
    seen: &Observed,
    policy: &Policy,
    name: &str,
    now: DateTime<Utc>,
) -> Vec<String> {
    let shut = gates::of_the_next(seen, policy, ActionRequest::OF_CRON, now);
    let open_at = shut
        .and_then(|(_, verdicts)| gates::all_open_at(&verdicts, &policy.gates, &seen.gates, now));
    let first = match (open_at, &row.gate) {
        (Some(at), _) => {
            format!(
                "All gates are open {}; the first tick after that applies it.",
                format::when(at, now)
            )
        }
        (None, Some(gate)) => {
            format!("Nothing, until this gate is open: {}.", format::escaped(gate.gate.as_str()))
        }
        (None, None) => "Nothing, until the gates are open.".to_owned(),
    };
    vec![first, format!("To apply it at once: agent tick {name} --override REASON")]
}

/// The gates that are set, one line each, where a revision waits for them.
pub fn lines(seen: &Observed, policy: &Policy, now: DateTime<Utc>) -> Vec<String> {
    let (open, shut) = if host::shows_unicode() { ("✓", "✗") } else { ("+", "x") };
    let Some((revision, verdicts)) = gates::of_the_next(seen, policy, ActionRequest::OF_CRON, now)
    else {
        return Vec::new();
    };
    let line = |verdict: &GateVerdict| match (&verdict.answer, verdict.wait()) {
        (GateAnswer::Open(why) | GateAnswer::Passed(why), _) => {
            format!("{open} {} {}", verdict.gate.as_str(), format::escaped(why))
        }
        (GateAnswer::Shut { .. }, wait) => {
            format!("{shut} {}", wait.map_or(String::new(), |wait| format::gate(&wait, now)))
        }
    };
    let mut lines: Vec<String> = verdicts.iter().map(line).collect();
    if !lines.is_empty() {
        lines.insert(0, format!("{} is applied when all are open:", revision.short()));
    }
    lines
}
