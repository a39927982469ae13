//! The only user of libgit2: open, observe, fetch, diff, blobs, refs. It never checks out and never
//! runs anything.

use std::path::Path;

use anyhow::{Context, Result};

pub mod objects;

/// One repository, opened.
pub struct Git {
    repo: git2::Repository,
}

impl Git {
    /// Opens the clone whose worktree is at `path`; never searches upwards.
    pub fn open(path: &Path) -> Result<Self> {
        let none: [&std::ffi::OsStr; 0] = [];
        let repo = git2::Repository::open_ext(path, git2::RepositoryOpenFlags::NO_SEARCH, none)
            .with_context(|| format!("cannot open the repository at {}", path.display()))?;
        Ok(Self { repo })
    }
}
