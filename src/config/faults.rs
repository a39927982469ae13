//! Faults in the configuration: their places, their text, and whether one stops the machine or a single
//! repository. Knows no key and reads no file.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::domain::report::error_report::{self, ErrorReport};
use crate::domain::text::EscapeControls;

/// One or more faults in the configuration, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    faults: Vec<ConfigFault>,
    denied: bool,
    metrics_file: Option<PathBuf>,
}

/// A fault in the configuration, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ConfigFault {
    /// `FILE:LINE:COLUMN`, `FILE` for a whole file, `None` without a file.
    place: Option<String>,
    message: String,
    hint: Option<String>,
    /// The order among the faults of all files.
    at: usize,
}

impl ConfigError {
    /// An error; `reason` is a sentence, optionally followed by a line `hint: …`.
    pub(super) fn new(place: Option<String>, reason: &str) -> Self {
        Self::at(0, place, reason)
    }

    /// The error at the offset `at` of all texts.
    pub(super) fn at(at: usize, place: Option<String>, reason: &str) -> Self {
        let report = ErrorReport::parse(reason);
        let message = report.sentences().collect::<Vec<_>>().join(": ");
        let fault = ConfigFault { place, message, hint: report.hint(), at };
        Self { faults: vec![fault], denied: false, metrics_file: None }
    }

    /// The error for a `place` that could not be read.
    pub(super) fn unread(place: String, error: &io::Error) -> Self {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let hint = if denied { "\nhint: run this as its owner or as root" } else { "" };
        Self { denied, ..Self::new(Some(place), &format!("cannot be read: {error}{hint}")) }
    }

    /// The error for a file or directory at `path` that must not be used; `reason` is a sentence, optionally
    /// followed by a line `hint: …`.
    pub fn of_path(path: &Path, reason: &str) -> Self {
        Self::new(Some(path.display().to_string().escape_controls()), reason)
    }

    /// Whether this user may not read the file.
    pub fn is_denied(&self) -> bool {
        self.denied
    }

    /// The file for metrics that the configuration names in spite of its faults.
    pub fn metrics_file(&self) -> Option<&Path> {
        self.metrics_file.as_deref()
    }

    /// All faults as the reason of a state: one line, and a line with the hints.
    pub fn to_reason(&self) -> String {
        error_report::join_reasons(&self.sentences())
    }

    /// Each fault as a sentence, and behind it the line `hint: …` if there is a hint.
    pub fn sentences(&self) -> Vec<String> {
        self.faults.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.as_slice() {
            [fault] => write!(f, "{fault}"),
            // Each hint stays with its fault: readers collect the lines that begin with `hint: `.
            faults => {
                let lines = faults.iter().map(|fault| fault.to_string().replace("\nhint: ", "; "));
                f.write_str(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The faults of a configuration, by what they stop.
#[derive(Debug, Default)]
pub struct ConfigFaults {
    machine: Vec<ConfigFault>,
    repos: BTreeMap<String, Vec<ConfigFault>>,
}

impl ConfigFaults {
    /// Adds a fault that stops everything.
    pub fn add(&mut self, error: ConfigError) {
        self.machine.extend(error.faults);
    }

    /// Adds a fault that stops the repository `name`.
    pub fn add_to_repo(&mut self, name: &str, error: ConfigError) {
        self.repos.entry(name.to_owned()).or_default().extend(error.faults);
    }

    /// The value, or a fault that stops everything.
    pub fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    /// The result of a check of the repository `name`.
    pub fn check_repo(&mut self, name: &str, result: Result<(), ConfigError>) {
        if let Err(error) = result {
            self.add_to_repo(name, error);
        }
    }

    /// Lets the faults of what is no repository stop everything.
    pub fn keep_repos(&mut self, is_repo: impl Fn(&str) -> bool) {
        let (repos, others) =
            std::mem::take(&mut self.repos).into_iter().partition(|(name, _)| is_repo(name));
        self.repos = repos;
        let others: BTreeMap<String, Vec<ConfigFault>> = others;
        self.machine.extend(others.into_values().flatten());
    }

    /// Whether there is a fault of the repository `name`.
    pub fn has(&self, name: &str) -> bool {
        self.repos.contains_key(name)
    }

    /// Ends with all faults, if one of them stops everything.
    ///
    /// # Errors
    /// All faults, in the order of lines.
    pub fn stop(&mut self, metrics_file: Option<&Path>) -> Result<(), ConfigError> {
        if self.machine.is_empty() {
            return Ok(());
        }
        let mut faults = std::mem::take(&mut self.machine);
        faults.extend(std::mem::take(&mut self.repos).into_values().flatten());
        let metrics_file = metrics_file.map(Path::to_owned);
        Err(ConfigError { metrics_file, ..sorted(faults) })
    }

    /// The faults of each repository.
    pub fn into_repos(self) -> BTreeMap<String, ConfigError> {
        self.repos.into_iter().map(|(name, faults)| (name, sorted(faults))).collect()
    }
}

fn sorted(mut faults: Vec<ConfigFault>) -> ConfigError {
    faults.sort_by_key(|fault| fault.at);
    faults.dedup();
    ConfigError { faults, denied: false, metrics_file: None }
}
