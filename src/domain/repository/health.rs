//! Which revision is bad: its runs are counted. Knows neither the checks nor the scripts. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::repository::outcome::Outcome;
use crate::domain::text::utc_minute;

/// The failures of the scripts from which a revision is bad, if they took long enough.
const MOST_FAILURES: u32 = 3;
/// The time that lies at least between the first and the last of them: a mirror that is away for two minutes is
/// no bad release.
const FAILING_FOR: TimeDelta = TimeDelta::minutes(10);
/// The runs in a row that were cut off, from which a revision is bad.
const MOST_CUT_OFFS: u32 = 3;
/// For how long such a run lasted at most, in seconds.
const CUT_OFF_WITHIN: f64 = 600.0;

/// `on_failure`: what follows when a revision turns out bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The machine stays at it, and tries again.
    #[default]
    Stay,
    /// The machine goes back to the last revision that succeeded.
    Rollback,
}

/// The reason why a revision is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadCause {
    /// Its health check did not pass in time.
    Health,
    /// Its scripts failed three times over at least ten minutes.
    Scripts,
    /// Three runs in a row were cut off soon after their start.
    CutOff,
}

impl BadCause {
    /// What the revision did, as the end of a sentence.
    fn as_words(self) -> &'static str {
        match self {
            Self::Health => "failed its health check",
            Self::Scripts => "failed three times",
            Self::CutOff => "was cut off three times within ten minutes of its start",
        }
    }
}

/// A revision that is bad on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRevision {
    /// The revision.
    pub revision: Commit,
    /// Why; `None`: only its mark is left.
    pub cause: Option<BadCause>,
    /// Since when the machine is back; `None`: it is not yet.
    pub back_since: Option<DateTime<Utc>>,
}

impl BadRevision {
    /// The ref that marks `revision` as bad here.
    pub fn mark(revision: Commit) -> String {
        format!("refs/pmpy/bad/{revision}")
    }

    /// The revision and what it did, as a part of a sentence.
    pub fn sentence(&self) -> String {
        let words = self.cause.map_or("was found bad here", BadCause::as_words);
        format!("{} {words}", self.revision.short())
    }

    /// What is said once the machine is back at `to`.
    pub(in crate::domain) fn back_at(&self, to: &str) -> String {
        let since =
            self.back_since.map_or(String::new(), |since| format!(" since {}", utc_minute(since)));
        format!("{}; back at {to}{since}; waits for a newer revision", self.sentence())
    }

    /// What is said while the machine goes back to `to`: after an attempt, told by `attempt`, or with an `obstacle` in the
    /// way.
    pub(in crate::domain) fn leaving(
        &self,
        to: &str,
        attempt: Option<String>,
        obstacle: Option<&str>,
    ) -> String {
        match (attempt, obstacle) {
            (Some(why), _) => {
                format!("{} failed, and so did going back to {to}: {why}", self.revision.short())
            }
            (None, Some(obstacle)) => {
                format!("{}, and cannot go back to {to}: {obstacle}", self.sentence())
            }
            (None, None) => format!("{}; goes back to {to}", self.sentence()),
        }
    }
}

/// The unsuccessful runs at one revision, as far as they may make it bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureTally {
    /// How often its scripts failed.
    failures: u32,
    /// When they failed first.
    first_failure: Option<DateTime<Utc>>,
    /// How many runs in a row were cut off soon after their start.
    cut_offs: u32,
}

impl FailureTally {
    /// The tally after one more run, which lasted `seconds` and ended at `at`.
    #[must_use]
    pub fn with(self, outcome: &Outcome, seconds: f64, at: DateTime<Utc>) -> Self {
        let cut_offs = match outcome {
            Outcome::Interrupted if seconds <= CUT_OFF_WITHIN => self.cut_offs.saturating_add(1),
            _ => 0,
        };
        match outcome {
            Outcome::Failed { .. } | Outcome::TimedOut | Outcome::Killed { .. } => Self {
                failures: self.failures.saturating_add(1),
                // A time in the future was written under a clock that has since been set back.
                first_failure: Some(self.first_failure.map_or(at, |first| first.min(at))),
                cut_offs,
            },
            _ => Self { cut_offs, ..self },
        }
    }

    /// Why the revision is bad after a run with this outcome; `None`: it is not.
    pub fn cause(&self, outcome: &Outcome, at: DateTime<Utc>) -> Option<BadCause> {
        let failing_for = self.first_failure.map_or(TimeDelta::zero(), |first| at - first);
        match outcome {
            Outcome::Unhealthy => Some(BadCause::Health),
            Outcome::Failed { .. } | Outcome::TimedOut | Outcome::Killed { .. } => {
                let is_bad = self.failures >= MOST_FAILURES && failing_for >= FAILING_FOR;
                is_bad.then_some(BadCause::Scripts)
            }
            Outcome::Interrupted if self.cut_offs >= MOST_CUT_OFFS => Some(BadCause::CutOff),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
