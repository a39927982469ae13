//! The state of the machine that lasts between ticks: the time of the last tick, the published status,
//! and the errors already reported. Does not know what these files mean to their readers.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Utc};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files;
use crate::system::host::since_boot;

/// Time limit for the report lock. Its holder only writes two files.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Interval at which a busy lock is tried again.
const BEAT: std::time::Duration = std::time::Duration::from_millis(10);
/// Name of the file with the status of the machine.
pub const STATUS: &str = "status.json";
/// Name of the file with the memory of publications.
pub const PRESENCE: &str = "presence.json";
/// File name of the memory of `on_change` below `[presence]`.
pub const REACTIONS: &str = "reactions.json";
/// Largest state file that is read, in bytes.
const CAP: u64 = 16 << 20;

/// The state files of the machine: `last-tick`, `status.json`, `reported.json`, `presence.json`.
#[derive(Clone, Debug)]
pub struct AgentState {
    state_dir: PathBuf,
}

impl AgentState {
    /// Uses this directory; the first write creates it.
    pub fn at(dir: &Path) -> Self {
        Self { state_dir: dir.to_owned() }
    }

    /// Time at which the last tick ended; `None` when no tick has ended yet.
    pub fn last_tick(&self) -> Option<DateTime<Utc>> {
        let meta = std::fs::symlink_metadata(self.state_dir.join("last-tick")).ok()?;
        meta.modified().ok().map(DateTime::from)
    }

    /// Records that a tick ended at `now`, as the modification time of `last-tick`.
    ///
    /// # Errors
    /// When the file cannot be created or its time cannot be set.
    pub fn tick_ended(&self, now: DateTime<Utc>) -> Result<()> {
        let path = self.state_dir.join("last-tick");
        let file = self.open("last-tick", 0o644)?;
        file.set_modified(now.into())
            .with_context(|| format!("cannot set the time of {}", path.display()))
    }

    /// Path of the file that the holder of the report lock has locked.
    pub fn turn_file(&self) -> PathBuf {
        self.state_dir.join("lock")
    }

    /// Takes the lock among ticks that have something to report; drop the file to release it. `None`:
    /// another process keeps it past the time limit, for instance a stopped one.
    ///
    /// # Errors
    /// When the lock file cannot be created or locked.
    pub fn turn(&self) -> Result<Option<File>> {
        self.lock_within("lock", PATIENCE)
    }

    /// Takes the lock `name`, and waits for it at most for `patience`; drop the file to release it. `None`: another
    /// process keeps it.
    ///
    /// # Errors
    /// When the lock file cannot be created or locked.
    pub fn lock_within(&self, name: &str, patience: std::time::Duration) -> Result<Option<File>> {
        let path = self.state_dir.join(name);
        let file = self.open(name, 0o600)?;
        let deadline = since_boot() + patience;
        loop {
            match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) => return Ok(Some(file)),
                Err(error)
                    if error.raw_os_error() != fs2::lock_contended_error().raw_os_error() =>
                {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Err(_) if since_boot() >= deadline => return Ok(None),
                Err(_) => std::thread::sleep(BEAT),
            }
        }
    }

    /// Opens a file of our own for writing, and creates it if needed. Replaces a symbolic link or a
    /// named pipe at that path: it neither follows the one nor waits for the other.
    fn open(&self, name: &str, mode: u32) -> Result<File> {
        let path = self.state_dir.join(name);
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(mode).custom_flags(flags);
        let file = match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files::ensure_dir(&self.state_dir, 0o755)?;
                options.open(&path)
            }
            Err(error)
                if matches!(Errno::from_io_error(&error), Some(Errno::LOOP | Errno::NXIO)) =>
            {
                files::put_lazily(&self.state_dir, name, b"", mode)?;
                options.open(&path)
            }
            file => file,
        };
        file.with_context(|| format!("cannot open {}", path.display()))
    }

    /// Whether to report `trouble`: `name` does not record it as reported within the last day. `None`:
    /// the trouble is over, so its record is removed.
    pub fn is_news(&self, name: &str, trouble: Option<&str>, now: DateTime<Utc>) -> bool {
        const AGAIN: Duration = Duration::days(1);
        let path = self.state_dir.join(name);
        let recorded = files::read_small(&path, CAP).ok().flatten();
        // If the record cannot be written, the next tick reports the trouble again.
        let Some(trouble) = trouble else {
            let _ = recorded.map(|_| files::remove_lazily(&self.state_dir, name));
            return false;
        };
        let at = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let lately = at.is_some_and(|at| (now - DateTime::<Utc>::from(at)).abs() < AGAIN);
        if lately && recorded.as_deref() == Some(trouble.as_bytes()) {
            return false;
        }
        let _ = files::put_lazily(&self.state_dir, name, trouble.as_bytes(), 0o600);
        true
    }

    /// Reads a JSON file of this directory; `None` when it is missing or damaged.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = files::read_small(&self.state_dir.join(name), CAP).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces a world-readable JSON file of this directory.
    ///
    /// # Errors
    /// When it cannot be written; the old file stays.
    pub fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        files::ensure_dir(&self.state_dir, 0o755)?;
        let mut bytes = serde_json::to_vec_pretty(value)?;
        bytes.push(b'\n');
        files::put_lazily(&self.state_dir, name, &bytes, 0o644)
    }
}
