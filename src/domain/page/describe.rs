//! Holds, revisions, outcomes and what else several parts of the pages describe in the same way.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{foreign, moment};
use crate::domain::followed::named;
use crate::domain::git::Commit;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::state::Tone;

/// A revision with the subject of its commit.
pub fn revision(id: Commit, tag: Option<&str>, subject: Option<&str>) -> Markup {
    html! {
        code { (foreign(&named(tag, id))) }
        @if let Some(subject) = subject { " " (foreign(subject)) }
    }
}

/// A hold: its author, the reason, when it began and when it ends.
pub fn hold(
    by: &str,
    why: &str,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Markup {
    html! {
        div {
            "held by " (foreign(by)) @if !why.is_empty() { ": " (foreign(why)) }
            " " span.small { "(since " (moment(since, now)) @if let Some(until) = until { "; ends " (moment(until, now)) } ")" }
        }
    }
}

/// How many files were changed by hand.
pub fn drifted(files: usize) -> Markup {
    html! {
        @match files {
            0 => {},
            1 => div { "1 file differs from the applied revision" },
            files => div { (files) " files differ from the applied revision" },
        }
    }
}

/// What the outcome of a run means to a person.
pub fn outcome_tone(outcome: &Outcome) -> Tone {
    match outcome {
        Outcome::Succeeded => Tone::Good,
        Outcome::Deferred | Outcome::Unchecked => Tone::Open,
        _ => Tone::Bad,
    }
}

/// The outcome of a run in a word or two.
pub fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        numbered @ (Outcome::Failed { .. } | Outcome::Killed { .. }) => numbered.to_string(),
        outcome => outcome.word().to_owned(),
    }
}
