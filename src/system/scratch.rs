//! A folder for a while, in the system's place for temporary files. Whoever makes one removes it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// An empty folder of our own that nobody else may enter.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one whose name begins with `name`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(name: &str) -> Result<Self> {
        let parent = std::env::temp_dir();
        let told = || {
            format!(
                "cannot make a folder in {}\nhint: TMPDIR may name another place",
                parent.display()
            )
        };
        // A link on the way would make two names of one folder.
        let parent = parent.canonicalize().with_context(told)?;
        let process = std::process::id();
        let mut number = 0;
        loop {
            let path = parent.join(format!("{name}-{process}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // Left by a dead process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(told),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// When something in it cannot be removed; the rest of it stays then.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}
