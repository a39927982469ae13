//! The findings of `agent check`: level, subject, text and remedy. Does not look for them.

use anyhow::Error;
use serde::{Deserialize, Serialize};

use crate::domain::report::error_report::ErrorReport;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FindingLevel {
    /// As it should be.
    Ok,
    /// Works, but needs attention.
    Warn,
    /// Does not work.
    Bad,
}

/// One finding of `agent check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckFinding {
    /// The subject: a part of the machine, or a repository.
    pub subject: String,
    /// The severity.
    pub level: FindingLevel,
    /// The finding as a sentence.
    pub text: String,
    /// The remedy; `None`: there is none to suggest.
    pub remedy: Option<String>,
}

impl CheckFinding {
    /// `text` may end with a line `hint: …`, which becomes the remedy.
    pub(in crate::engine) fn new(
        level: FindingLevel,
        subject: &str,
        text: impl AsRef<str>,
    ) -> Self {
        Self::of_report(level, subject, &ErrorReport::parse(text.as_ref()))
    }

    fn of_report(level: FindingLevel, subject: &str, report: &ErrorReport) -> Self {
        let text = report.sentences().collect::<Vec<_>>().join(": ");
        Self { subject: subject.to_owned(), level, text, remedy: report.hint() }
    }

    pub(in crate::engine) fn ok(subject: &str, text: impl AsRef<str>) -> Self {
        Self::new(FindingLevel::Ok, subject, text)
    }

    pub(in crate::engine) fn warn(subject: &str, text: impl AsRef<str>) -> Self {
        Self::new(FindingLevel::Warn, subject, text)
    }

    pub(in crate::engine) fn bad(subject: &str, text: impl AsRef<str>) -> Self {
        Self::new(FindingLevel::Bad, subject, text)
    }

    /// The finding of an error: all its causes in one sentence, and all its hints.
    pub(in crate::engine) fn of(level: FindingLevel, subject: &str, error: &Error) -> Self {
        Self::of_report(level, subject, &ErrorReport::of_causes(error.chain()))
    }
}

/// The findings about one repository, by its name.
pub type RepoFindings = (String, Vec<CheckFinding>);

/// The scope of `agent check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckScope {
    /// The machine and the remotes.
    Remotes,
    /// Only this machine; no remote is asked.
    Machine,
}
