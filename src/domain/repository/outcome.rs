//! The result of an action.

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
