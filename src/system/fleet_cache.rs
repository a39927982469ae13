//! What `agent fleet` keeps between two looks: a file for each status repository, and a directory for the objects that
//! a fetch brings, which goes when they were read. Does not know what the file means.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::agent_state::AgentState;
use super::files;

/// Largest file that is read, in bytes: that of 100,000 machines with a few repositories each.
const CAP: u64 = 256 << 20;
/// How long to wait for another process that fetches from the same status repository.
const PATIENCE: Duration = Duration::from_secs(150);

/// What is kept of one status repository.
#[derive(Debug)]
pub struct FleetCache {
    dir: PathBuf,
    key: String,
}

/// The directory for the objects of one fetch. Dropping it removes it; the next one removes what a killed process left.
#[derive(Debug)]
pub struct IncomingObjects {
    path: PathBuf,
    /// Held while it is used.
    _lock: Option<File>,
}

impl FleetCache {
    /// What is kept below the state directory `state` under `key`, which is a file name.
    pub fn of(state: &Path, key: &str) -> Self {
        Self { dir: state.join("fleet"), key: key.to_owned() }
    }

    /// Reads the file; `None` when it is missing, too large or damaged: then all is asked for anew.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let bytes = files::read_small(&self.dir.join(format!("{}.json", self.key)), CAP).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces the file, for its owner alone: a status repository may be less public than the machine.
    ///
    /// # Errors
    /// When it cannot be written; the old file stays.
    pub fn put<T: Serialize>(&self, value: &T) -> Result<()> {
        files::ensure_dir(&self.dir, 0o700)?;
        let bytes = serde_json::to_vec(value)?;
        files::put_lazily(&self.dir, &format!("{}.json", self.key), &bytes, 0o600)
    }

    /// An empty directory for a fetch, after those of other processes have ended.
    ///
    /// # Errors
    /// When it cannot be made, or another process fetches for too long.
    pub fn incoming(&self) -> Result<IncomingObjects> {
        files::ensure_dir(&self.dir, 0o700)?;
        let lock = AgentState::at(&self.dir)
            .lock_within(&format!("{}.lock", self.key), PATIENCE)?
            .context("another agent fleet fetches from the same status repository; it did not end in time")?;
        let path = self.dir.join(format!("{}.incoming", self.key));
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        files::ensure_dir(&path, 0o700)?;
        Ok(IncomingObjects { path, _lock: Some(lock) })
    }
}

impl IncomingObjects {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for IncomingObjects {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!("{} stays: {error}", self.path.display());
        }
    }
}
