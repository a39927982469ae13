//! Changes the worktree from one commit to another: checks that the change can be made, and makes it.
//! Runs no scripts.

use anyhow::Result;

use crate::domain::repository::change::TreeChange;
use crate::engine::repository::Repository;
use crate::engine::repository::targets::high_water::lower_mark;
use crate::system::lock::JournalStep;
use crate::system::worktree::{ApplyRefusal, ReadyChange, Worktree};

/// A change that may be made in the worktree: the permission that the check of its paths gives.
pub struct ReadyUpdate<'c> {
    change: &'c TreeChange,
    worktree: Worktree,
    ready: ReadyChange<'c>,
}

impl<'c> ReadyUpdate<'c> {
    /// Checks that `change` can be made. Reads only the paths that it touches, and writes nothing.
    ///
    /// # Errors
    /// [`ApplyRefusal`]: local changes are in the way, or a file cannot be read.
    pub fn check(repository: &Repository, change: &'c TreeChange) -> Result<Self, ApplyRefusal> {
        let worktree = Worktree::open(&repository.repo.path)?;
        let index = repository.git.index()?;
        let ready = worktree.classify(change, &repository.git, &|path| index.staged(path))?;
        Ok(Self { change, worktree, ready })
    }

    /// Changes worktree and index. Resumable: a new check accepts what is half done.
    ///
    /// # Errors
    /// When a file or object cannot be read or written, or somebody changed a path since the check.
    pub fn write(&self, repository: &Repository) -> Result<()> {
        let written = self.worktree.apply(&self.ready, &repository.git)?;
        repository.git.update_index(self.change, &written)
    }
}

/// Moves branch and high-water mark to `step.target`, which the worktree has already. Resumable.
///
/// # Errors
/// When somebody moved the branch, or a ref cannot be written.
pub fn move_branch(repository: &Repository, step: &JournalStep) -> Result<()> {
    let message = format!("agent: {}", step.target.short());
    let remote = repository.source.remote.as_str();
    repository.git.move_branch(&step.branch, step.head, step.target, (&message, remote))?;
    lower_mark(repository, step)
}

/// Logs once that submodules are left empty.
///
/// # Errors
/// When the record that it was logged cannot be written.
pub fn report_submodules(repository: &Repository, change: &TreeChange) -> Result<()> {
    let Some(first) = change.submodules().next() else { return Ok(()) };
    let mut memory = repository.records.memory()?;
    if memory.submodules_told {
        return Ok(());
    }
    tracing::warn!(repository = %repository.repo.name, %first, "submodules are never fetched; left empty");
    memory.submodules_told = true;
    repository.records.put_memory(&memory)
}
