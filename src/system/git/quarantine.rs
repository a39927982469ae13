//! The quarantine: keeps the parts of a `.git` that a repair removes or replaces. Does not judge what is
//! damaged.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use crate::domain::name_time;
use crate::system::files;

/// The directory `.git/pmpy/quarantine/TIME/` of one repair.
pub struct Quarantine {
    git_dir: PathBuf,
    dir: PathBuf,
}

impl Quarantine {
    /// A quarantine named after `now`. Its directory is made with its first file.
    pub fn begin(git_dir: &Path, now: DateTime<Utc>) -> Self {
        let directory = git_dir.join("pmpy/quarantine").join(name_time::name(now));
        Self { git_dir: git_dir.to_owned(), dir: directory }
    }

    /// The path of its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves `.git/NAME`, a file or a directory, here. It may be gone already.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn take(&self, name: &str) -> Result<()> {
        let to = self.place(name)?;
        match fs::rename(self.git_dir.join(name), &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.cannot("moved to", name))
            }
            _ => Ok(()),
        }
    }

    /// Keeps `.git/NAME`, which is about to be replaced or removed, under a second name. A hard link
    /// takes no room whatever the size, and there is no moment without the file.
    ///
    /// # Errors
    /// When it cannot be linked.
    pub fn keep(&self, name: &str) -> Result<()> {
        let to = self.place(name)?;
        match fs::hard_link(self.git_dir.join(name), &to) {
            // A run that was cut off has kept it already.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.cannot("kept in", name))
            }
            _ => Ok(()),
        }
    }

    /// Exempts it from the removal of old quarantines, by another name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn retain(&mut self) -> Result<()> {
        let lasting = self.dir.with_extension("kept");
        match fs::rename(&self.dir, &lasting) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot rename {}", self.dir.display()))
            }
            _ => {
                self.dir = lasting;
                Ok(())
            }
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let to = self.dir.join(name);
        if let Some(parent) = to.parent() {
            files::ensure_dir(parent, 0o700)?;
        }
        Ok(to)
    }

    fn cannot(&self, what: &str, name: &str) -> String {
        let from = self.git_dir.join(name);
        let (from, directory) = (from.display(), self.dir.display());
        format!(
            "{from} cannot be {what} {directory}, so nothing was done\n\
             hint: look at it, and move it away; .git/pmpy has to be in the file system of .git"
        )
    }
}
