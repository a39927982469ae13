//! `history`: finished runs, one JSON object a line.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

use super::{CAP, Records, files};
use crate::domain::action::Finished;

/// History lines kept; twice as many are let grow before the file is cut.
const HISTORY: usize = 1000;

impl Records {
    /// Finished runs, oldest first. Lines that a crash cut off are passed over.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history(&self) -> Result<Vec<Finished>> {
        let Some(bytes) = files::read_small(&self.private.join("history"), 64 * CAP)? else {
            return Ok(Vec::new());
        };
        Ok(bytes
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect())
    }

    /// Adds a finished run, unless it is there already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_to_history(&self, run: &Finished) -> Result<()> {
        let known = self.history()?;
        if known.iter().rev().take(8).any(|known| known.id == run.id) {
            return Ok(());
        }
        self.append_to_history(known, std::slice::from_ref(run))
    }

    /// Adds finished runs that are not there yet.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn add_all_to_history(&self, runs: &[Finished]) -> Result<()> {
        if runs.is_empty() { Ok(()) } else { self.append_to_history(self.history()?, runs) }
    }

    fn append_to_history(&self, mut runs: Vec<Finished>, new: &[Finished]) -> Result<()> {
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
        // A line that a crash cut off must not swallow this one.
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
