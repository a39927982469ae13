//! The logs of one repository's actions: finds and reads them. Does not write them.

use std::path::PathBuf;

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
