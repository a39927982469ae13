//! Writes releases again that targets show and that were lost, as after a clean-up or a restore without
//! the store. The links stay, and nothing is run: readers get what they had before.

use anyhow::{Result, bail};

use crate::domain::git::Commit;
use crate::domain::publish::state::PendingRef;
use crate::engine::error::one_line;
use crate::engine::publish::stage::{self, ExistingRelease, ReadyTree, StageError};
use crate::engine::repository::Repository;
use crate::engine::repository::targets::{self, TargetStore};

/// Writes each release that was lost. A failure is only logged: then the target is published anew.
pub fn restore_lost_releases(repository: &Repository) {
    let restored = targets::lost_releases(repository).and_then(|lost| {
        if lost.is_empty() {
            return Ok(());
        }
        tracing::info!(repository = %repository.repo.name, releases = lost.len(), "lost: written again");
        restore(repository, lost)
    });
    if let Err(error) = restored {
        tracing::warn!(repository = %repository.repo.name, error = %one_line(&error), "not restored");
    }
}

fn restore(repository: &Repository, lost: Vec<(String, Commit)>) -> Result<()> {
    let Some(target) = repository.repo.settings.target() else { return Ok(()) };
    let target_store = TargetStore::make(repository, target)?;
    target_store.sweep(repository);
    let pending = |(directory, revision): (String, Commit)| PendingRef {
        name: directory.clone(),
        revision,
        directory,
        attempt: 1,
        resumed: false,
        leaves: None,
        repairs: false,
    };
    let mut pending: Vec<PendingRef> = lost.into_iter().map(pending).collect();
    pending.sort_by(|one, other| one.name.cmp(&other.name));
    let staged = stage::all(repository, &target_store, &pending, ExistingRelease::Reuse)?;
    target_store.store.sync()?;
    let written = pending.iter().zip(&staged).filter(|(_, ready)| ready.is_ok());
    let places: Result<Vec<_>> =
        written.map(|(it, _)| Ok((target_store.place(&it.directory)?, it.revision))).collect();
    target_store.seal(repository, &places?)?;
    let mut failure = None;
    for ready in staged {
        match ready {
            Ok(ReadyTree::Staged(staged)) => staged.publish()?,
            Ok(ReadyTree::Existing) => {}
            Err(StageError::Hindered(reason)) => failure = Some(reason),
            Err(StageError::Verdict(finding)) => failure = Some(finding.state_and_reason().1),
        }
    }
    target_store.store.sync()?;
    target_store.sweep(repository);
    match failure {
        Some(reason) => bail!(reason),
        None => Ok(()),
    }
}
