//! What is remembered of the machine between ticks: when the last one ended, what was said, what was
//! told.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files;

/// The most that a file of the machine may hold.
const CAP: u64 = 16 << 20;

/// The records of the machine: `last-tick`, `status.json`, `reported.json`.
#[derive(Clone, Debug)]
pub struct Machine {
    folder: PathBuf,
}

impl Machine {
    /// In this folder, which is made when it is first written to.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// When the last tick ended.
    pub fn last_tick(&self) -> Option<DateTime<Utc>> {
        let meta = std::fs::metadata(self.folder.join("last-tick")).ok()?;
        meta.modified().ok().map(DateTime::from)
    }

    /// A tick ended at `now`: sets the time of `last-tick`.
    ///
    /// # Errors
    /// When the file cannot be made or its time not set.
    pub fn tick_ended(&self, now: DateTime<Utc>) -> Result<()> {
        let path = self.folder.join("last-tick");
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                files::ensure_dir(&self.folder, 0o755)?;
                File::create(&path).with_context(|| format!("cannot make {}", path.display()))?
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        file.set_modified(now.into())
            .with_context(|| format!("cannot set the time of {}", path.display()))
    }

    /// Waits for its turn among ticks that have something to tell; the value is the turn.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn turn(&self) -> Result<File> {
        files::ensure_dir(&self.folder, 0o755)?;
        let path = self.folder.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        fs2::FileExt::lock_exclusive(&file)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// Whether `trouble` is news: the file `name` does not say that it was told within a day. `None`:
    /// there is none any more.
    pub fn is_news(&self, name: &str, trouble: Option<&str>, now: DateTime<Utc>) -> bool {
        const AGAIN: Duration = Duration::days(1);
        let path = self.folder.join(name);
        let told = files::read_small(&path, CAP).ok().flatten();
        // What cannot be noted down is told again.
        let Some(trouble) = trouble else {
            let _ = told.map(|_| files::remove_lazily(&self.folder, name));
            return false;
        };
        let at = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let lately = at.is_some_and(|at| (now - DateTime::<Utc>::from(at)).abs() < AGAIN);
        if lately && told.as_deref() == Some(trouble.as_bytes()) {
            return false;
        }
        let _ = files::put_lazily(&self.folder, name, trouble.as_bytes(), 0o600);
        true
    }

    /// A JSON file of this folder; `None` when it is missing or damaged.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = files::read_small(&self.folder.join(name), CAP).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces a world-readable JSON file of this folder.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        files::ensure_dir(&self.folder, 0o755)?;
        let mut bytes = serde_json::to_vec_pretty(value)?;
        bytes.push(b'\n');
        files::put_lazily(&self.folder, name, &bytes, 0o644)
    }
}
