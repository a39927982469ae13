//! The keys `health`, `health_within` and `on_failure`. Runs no check.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::faults::{ConfigError, ConfigFaults};
use super::file::{ConfigFile, RepoSection};
use super::modes;
use super::source::ConfigTexts;
use crate::domain::repository::health::OnFailure;

/// The default of `health_within`.
const WITHIN: Duration = Duration::from_secs(5 * 60);

/// The settings of the health check, and of what follows when it does not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSettings {
    /// `health`: a program and its arguments; empty: the scripts of the tree, in mode `work`.
    pub program: Vec<String>,
    /// `health_within`: how long it may take until the check passes.
    pub within: Duration,
    /// `on_failure`: what follows when a revision turns out bad.
    pub on_failure: OnFailure,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { program: Vec::new(), within: WITHIN, on_failure: OnFailure::default() }
    }
}

/// Overwrites `health` with the keys that are set.
pub fn lay_over(health: &mut HealthSettings, keys: &RepoSection) {
    if let Some(program) = &keys.health {
        health.program.clone_from(&program.get_ref().0);
    }
    if let Some(within) = &keys.health_within {
        health.within = within.get_ref().0;
    }
    if let Some(on_failure) = &keys.on_failure {
        health.on_failure = *on_failure.get_ref();
    }
}

/// Adds sections whose `on_failure` cannot be followed to `faults`.
pub fn check_health(source: &ConfigTexts, file: &ConfigFile, faults: &mut ConfigFaults) {
    for (title, own) in &file.repo {
        let name = &title.get_ref().0;
        if !faults.has(name) {
            faults.check_repo(name, refuse_without_release(source, &file.defaults, own));
        }
    }
}

/// Refuses to go back to a release where none is kept.
fn refuse_without_release(
    source: &ConfigTexts,
    defaults: &RepoSection,
    own: &RepoSection,
) -> Result<(), ConfigError> {
    let mode = own.mode.as_ref().or(defaults.mode.as_ref());
    let publishes = mode.is_some_and(|mode| modes::needs_target(*mode.get_ref()));
    let keep = own.keep.as_ref().or(defaults.keep.as_ref()).filter(|keep| *keep.get_ref() == 0);
    let on_failure = own.on_failure.as_ref().or(defaults.on_failure.as_ref());
    let goes_back = on_failure.filter(|it| *it.get_ref() == OnFailure::Rollback);
    match (keep, goes_back) {
        (Some(keep), Some(goes_back)) if publishes => Err(source.error(
            keep.span(),
            &format!(
                "keep = 0 leaves no release to go back to, and on_failure = \"rollback\" at {} needs one\n\
                 hint: keep one at least, or leave on_failure out",
                source.place(goes_back.span().start)
            ),
        )),
        _ => Ok(()),
    }
}
