//! A private directory in the system's directory for temporary files. The caller removes it. Does not
//! know what it contains.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// An empty directory that only its owner may enter.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Creates a directory whose name begins with `name`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn make(name: &str) -> Result<Self> {
        let parent = std::env::temp_dir();
        let message = || {
            format!(
                "cannot make a directory in {}\nhint: TMPDIR may name another place",
                parent.display()
            )
        };
        // A symbolic link in the path would give the directory two names.
        let parent = parent.canonicalize().with_context(message)?;
        let process = std::process::id();
        let mut number = 0;
        loop {
            let path = parent.join(format!("{name}-{process}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // A dead process with our process id left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(message),
            }
        }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with all its content.
    ///
    /// # Errors
    /// When an entry cannot be removed; the rest of it stays then.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}
