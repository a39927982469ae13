//! Errors of the engine and their text for people: chains of causes as one sentence, with hints.

use std::fmt;

use anyhow::Error;
use serde::{Deserialize, Serialize};

use crate::domain::report::error_report::ErrorReport;
use crate::domain::repository::state::State;
use crate::system::files::DiskFault;
use crate::system::git::ownership::ForeignPart;
use crate::system::trust::UntrustedPart;
use crate::system::users::NameServiceError;

/// The report of an error, with the remedy of a disk fault.
pub fn report(error: &Error) -> ErrorReport {
    let report = ErrorReport::of_causes(error.chain());
    match DiskFault::of(error) {
        Some(fault) => report.with_hint(fault.remedy()),
        None => report,
    }
}

/// An error as one line, hints included.
pub fn one_line(error: &Error) -> String {
    report(error).to_line()
}

/// An error as a `reason`: its causes in one sentence, and all its remedies after `\nhint: `.
pub fn reason(error: &Error) -> String {
    report(error).to_reason()
}

/// The reason given for a repository at which the agent itself panics.
pub const IS_A_BUG: &str = "reading it makes the agent panic, which is a bug in the agent; \
                            please report what agent check says";

/// A worker's failure that could not be recorded in the repository itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerError {
    /// The resulting state: `unreachable` when a remote or the name service is the cause, `denied` when
    /// one refuses access, `no-ref` when the remotes lack the branch, `broken` when
    /// another user could change a file that is needed, else `failing`.
    pub state: State,
    /// The cause as a sentence, with its remedy.
    pub reason: String,
}

impl WorkerError {
    /// Classifies `error`.
    pub fn of(error: &Error) -> Self {
        if let Some(known) = error.downcast_ref::<Self>() {
            return known.clone();
        }
        let state = match error {
            _ if error.is::<RemotesDenied>() => State::Denied,
            _ if error.is::<RemotesUnreachable>() || error.is::<NameServiceError>() => {
                State::Unreachable
            }
            _ if error.is::<RefMissing>() => State::NoRef,
            _ if is_untrusted(error) => State::Broken,
            _ => State::Failing,
        };
        Self { state, reason: reason(error) }
    }

    /// A failure of this machine itself, in state `failing`.
    pub fn failing(reason: impl Into<String>) -> Self {
        Self { state: State::Failing, reason: reason.into() }
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for WorkerError {}

/// No remote answered; holds the reason of each.
#[derive(Debug)]
pub struct RemotesUnreachable(pub(in crate::engine) String);

impl fmt::Display for RemotesUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RemotesUnreachable {}

/// A remote refuses until somebody acts; holds the reasons.
#[derive(Debug)]
pub struct RemotesDenied(pub(in crate::engine) String);

impl fmt::Display for RemotesDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RemotesDenied {}

/// The remotes have no such branch; holds the reason.
#[derive(Debug)]
pub struct RefMissing(pub(in crate::engine) String);

impl fmt::Display for RefMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RefMissing {}

/// Whether `error` says that another user could change a needed file: only a person can fix that.
pub fn is_untrusted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<UntrustedPart>() || cause.is::<ForeignPart>())
}
