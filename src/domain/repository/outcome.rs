//! The result of an action.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// Every script exited 0.
    Succeeded,
    /// A script exited with another code than 0 and 75.
    Failed {
        /// The exit code of the script.
        code: i32,
    },
    /// The scripts ran out of time and were terminated.
    TimedOut,
    /// A script was killed by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// A script exited 75 (`EX_TEMPFAIL`, sysexits.h): not now.
    Deferred,
    /// The machine or the worker died while a script ran.
    Interrupted,
    /// Every script exited 0, and the health check did not pass in time.
    Unhealthy,
    /// The health check was ended without a result: by a hold, a rollback, or a revert upstream.
    Unchecked,
    /// The agent itself failed, for example on a full disk. Not counted as an attempt.
    Hindered {
        /// The failure, as a sentence.
        reason: String,
    },
}

impl Outcome {
    /// Every word of [`Outcome::word`].
    pub const WORDS: [&str; 9] = [
        "succeeded",
        "failed",
        "timed-out",
        "killed",
        "deferred",
        "interrupted",
        "unhealthy",
        "unchecked",
        "hindered",
    ];

    /// One word for tables and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::TimedOut => "timed-out",
            Self::Killed { .. } => "killed",
            Self::Deferred => "deferred",
            Self::Interrupted => "interrupted",
            Self::Unhealthy => "unhealthy",
            Self::Unchecked => "unchecked",
            Self::Hindered { .. } => "hindered",
        }
    }

    /// Returns `true` if the next attempt has to wait.
    pub(super) fn backs_off(&self) -> bool {
        !matches!(self, Self::Succeeded | Self::Deferred | Self::Unchecked | Self::Hindered { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed { code } => write!(f, "exited {code}"),
            Self::TimedOut => f.write_str("timed out and was terminated"),
            Self::Killed { signal } => write!(f, "was killed by signal {signal}"),
            Self::Deferred => f.write_str("said \"not now\" (exit 75)"),
            Self::Interrupted => f.write_str("was interrupted"),
            Self::Unhealthy => f.write_str("failed its health check"),
            Self::Unchecked => f.write_str("was not checked to the end"),
            Self::Hindered { reason } => f.write_str(reason),
        }
    }
}

/// How many actions of a repository ended with each outcome. What is counted stays counted when the history is cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionCounts {
    /// By the outcome's word.
    counts: BTreeMap<String, u64>,
    /// The id of the run that was counted last: one that is recorded again counts once.
    last: String,
}

impl ActionCounts {
    /// Counts the run `id`, or `times` runs of which it was the last.
    pub fn add(&mut self, id: &str, outcome: &Outcome, times: u32) {
        if self.last != id {
            let count = self.counts.entry(outcome.word().to_owned()).or_default();
            *count = count.saturating_add(times.into());
            id.clone_into(&mut self.last);
        }
    }

    /// The number of runs by the outcome's word: each word is there.
    pub fn by_word(&self) -> BTreeMap<String, u64> {
        let count = |word: &str| self.counts.get(word).copied().unwrap_or_default();
        Outcome::WORDS.map(|word| (word.to_owned(), count(word))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_word_and_a_run_counts_once() {
        let all = [
            Outcome::Succeeded,
            Outcome::Failed { code: 3 },
            Outcome::TimedOut,
            Outcome::Killed { signal: 9 },
            Outcome::Deferred,
            Outcome::Interrupted,
            Outcome::Unhealthy,
            Outcome::Unchecked,
            Outcome::Hindered { reason: String::new() },
        ];
        assert_eq!(all.each_ref().map(Outcome::word), Outcome::WORDS);
        let mut counts = ActionCounts::default();
        for (number, outcome) in all.iter().enumerate() {
            counts.add(&number.to_string(), outcome, 1);
            counts.add(&number.to_string(), outcome, 1);
        }
        counts.add("folded", &Outcome::Succeeded, 40);
        assert_eq!(counts.by_word()["succeeded"], 41);
        assert_eq!(counts.by_word().values().sum::<u64>(), 49);
    }
}
