//! Stages trees for a target: reads them from git, checks them against the rules and writes them where
//! no reader looks yet. Works on several at once, one thread per processor. Shows nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::publish::state::PendingRef;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::change::ObjectSource;
use crate::domain::repository::finding::Finding;
use crate::engine::error::one_line;
use crate::engine::publish::object_cache::ObjectCache;
use crate::engine::repository::Repository;
use crate::engine::repository::targets::TargetStore;
use crate::engine::repository::tree::{self, TreeFileError};
use crate::system::git::Git;
use crate::system::release::StagedRelease;

/// A tree that is ready to be shown.
#[derive(Debug)]
pub enum ReadyTree {
    /// A tree that was written just now.
    Staged(StagedRelease),
    /// A release of an earlier run.
    Existing,
}

/// The reason why a tree is not ready.
#[derive(Debug)]
pub enum StageError {
    /// A finding about its revision, which must not be shown.
    Verdict(Finding),
    /// It could not be written, with the reason.
    Hindered(String),
}

/// The handling of a release that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingRelease {
    /// Use it as it is.
    Reuse,
    /// Write it anew, because it may have been changed. Readers see the old one until then.
    Rewrite,
}

impl ExistingRelease {
    /// Rewrites for [`Trigger::Redo`] only: `agent redo` repairs a changed release.
    pub fn when(trigger: Trigger) -> Self {
        if trigger == Trigger::Redo { Self::Rewrite } else { Self::Reuse }
    }

    /// Makes a release of `staged`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn publish(self, staged: StagedRelease) -> Result<()> {
        match self {
            Self::Reuse => staged.publish(),
            Self::Rewrite => staged.renew(),
        }
    }
}

/// Writes the trees of `pending_refs`; returns the results in the same order.
///
/// # Errors
/// When the repository cannot be read.
pub fn all(
    repository: &Repository,
    target_store: &TargetStore,
    pending_refs: &[PendingRef],
    known: ExistingRelease,
) -> Result<Vec<Result<ReadyTree, StageError>>> {
    let accepted = repository.records.memory()?.accepted;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pending_refs.len());
    if threads <= 1 {
        let objects = ObjectCache::of(&repository.git);
        return pending_refs
            .iter()
            .map(|due| one(&repository.git, &objects, target_store, due, known, accepted))
            .collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(pending_refs.len()));
    let work = || -> Result<()> {
        // A libgit2 repository handle is for one thread.
        let git = Git::open_trusting(&repository.repo.path, &repository.repo.trust)?;
        let objects = ObjectCache::of(&git);
        while let Some(due) = pending_refs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = one(&git, &objects, target_store, due, known, accepted)?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push((&due.name, answer));
        }
        Ok(())
    };
    let ended: Vec<_> = thread::scope(|scope| {
        // As many threads as the system grants, besides this one.
        let begin = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..threads).filter_map(begin).collect();
        let own = work();
        // A panic in a thread continues here.
        let join = |worker: thread::ScopedJoinHandle<_>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).chain([own]).collect()
    });
    for outcome in ended {
        outcome?;
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Sorted by name, like `pending_refs`.
    done.sort_by_key(|(name, _)| *name);
    let again = |(answer, due): (Result<ReadyTree, StageError>, &PendingRef)| match answer {
        // Trees that are written in parallel may have taken each other's disk space.
        Err(StageError::Hindered(_)) => {
            let objects = ObjectCache::of(&repository.git);
            one(&repository.git, &objects, target_store, due, known, accepted)
        }
        answer => Ok(answer),
    };
    done.into_iter().map(|(_, answer)| answer).zip(pending_refs).map(again).collect()
}

fn one(
    git: &Git,
    objects: &impl ObjectSource,
    target_store: &TargetStore,
    due: &PendingRef,
    known: ExistingRelease,
    accepted: Option<Commit>,
) -> Result<Result<ReadyTree, StageError>> {
    let verdict = |finding| Ok(Err(StageError::Verdict(finding)));
    let failed = |error: anyhow::Error| Ok(Err(StageError::Hindered(one_line(&error))));
    match tree::tree_settings(git, due.revision) {
        Err(TreeFileError::Refused(reason)) => return verdict(Finding::Refused { reason }),
        Err(TreeFileError::Unreadable(error)) => return failed(error),
        Ok(tree) => {
            if let Some(reason) = tree.hold.filter(|_| accepted != Some(due.revision)) {
                return verdict(Finding::Held { reason });
            }
        }
    }
    let place = match target_store.place(&due.directory) {
        Ok(place) => place,
        Err(error) => return failed(error),
    };
    match target_store.store.has(&place, due.revision) {
        Ok(true) if known == ExistingRelease::Reuse => return Ok(Ok(ReadyTree::Existing)),
        Ok(_) => {}
        Err(error) => return failed(error),
    }
    let tree = match tree::whole_tree(git, objects, due.revision) {
        Ok(tree) => tree,
        Err(error) => return verdict(Finding::of(error)?),
    };
    match target_store.store.stage(&place, due.revision, &tree, objects) {
        Ok(staged) => Ok(Ok(ReadyTree::Staged(staged))),
        Err(error) => failed(error),
    }
}
