//! The file `history`: finished runs, one JSON object per line. Does not know how a run ends.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

use super::{CAP, RepoRecords, files};
use crate::domain::repository::action::FinishedRun;

/// Number of history lines kept; the file is cut when it has twice as many.
const HISTORY: usize = 1000;

impl RepoRecords {
    /// Finished runs, oldest first. Lines that a crash truncated are skipped.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history(&self) -> Result<Vec<FinishedRun>> {
        let found = files::read_small(&self.private.join("history"), 64 * CAP);
        let Some(bytes) = found.map_err(|error| self.with_remedy(error))? else {
            return Ok(Vec::new());
        };
        Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| self.parse(line).ok()).collect())
    }

    /// Appends a finished run, unless it is already recorded.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_to_history(&self, run: &FinishedRun) -> Result<()> {
        let known = self.history()?;
        if known.iter().rev().take(8).any(|known| known.id == run.id) {
            return Ok(());
        }
        self.append_to_history(known, std::slice::from_ref(run))
    }

    /// Appends finished runs that are not recorded yet.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn add_all_to_history(&self, runs: &[FinishedRun]) -> Result<()> {
        if runs.is_empty() { Ok(()) } else { self.append_to_history(self.history()?, runs) }
    }

    fn append_to_history(&self, mut runs: Vec<FinishedRun>, new: &[FinishedRun]) -> Result<()> {
        if runs.len() + new.len() > 2 * HISTORY {
            runs.extend_from_slice(new);
            runs.drain(..runs.len() - HISTORY);
            let mut text = Vec::new();
            for run in &runs {
                serde_json::to_writer(&mut text, run)?;
                text.push(b'\n');
            }
            return files::put(&self.private, "history", &text, 0o600);
        }
        let path = self.private.join("history");
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // Start on a new line, because a crash may have left the last one unfinished.
        let mut lines = b"\n".to_vec();
        for run in new {
            serde_json::to_writer(&mut lines, run)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)
            .and_then(|()| file.sync_data())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
