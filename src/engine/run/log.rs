//! The logs of one repository's actions: finds and reads them. Does not write them.

use std::path::PathBuf;

use crate::domain::repository::state::State;
use crate::domain::repository::status::StatusRow;
use crate::engine::context::Context;
use crate::system::logs;

/// The log directory of a repository.
pub fn log_dir(context: &Context, name: &str) -> PathBuf {
    context.settings.world.logs.join(logs::dir_name(name))
}

/// The log of a repository's latest action that ran a program; `None`: there is none.
pub fn latest_log(context: &Context, name: &str) -> Option<PathBuf> {
    Some(logs::list(&log_dir(context, name)).ok()?.into_iter().next()?.path)
}

/// The last lines of [`latest_log`]; empty when there is none.
pub fn log_tail(context: &Context, name: &str, lines: usize) -> Vec<String> {
    latest_log(context, name).and_then(|log| logs::tail(&log, lines).ok()).unwrap_or_default()
}

/// The last lines of the log that says why the state in `row` is not good: the latest one, or that of the bad
/// revision which the machine left.
pub fn telling_tail(context: &Context, row: &StatusRow, lines: usize) -> Vec<String> {
    let Some(bad) = row.bad.filter(|_| row.state == State::RolledBack) else {
        return log_tail(context, &row.name, lines);
    };
    let (dir, bad) = (log_dir(context, &row.name), bad.to_string());
    let mut logs = logs::list(&dir).unwrap_or_default().into_iter();
    let log = logs.find(|log| bad.starts_with(&log.revision));
    log.and_then(|log| logs::tail(&log.path, lines).ok()).unwrap_or_default()
}
