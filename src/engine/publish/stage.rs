//! Stages trees for a target: reads them from git, checks them against the rules and writes them where
//! no reader looks yet. Works on several at once, one thread per processor. Shows nothing.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::publish::state::PendingRef;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::change::{ObjectSource, TreeChange};
use crate::domain::repository::finding::Finding;
use crate::engine::error::one_line;
use crate::engine::publish::object_cache::ObjectCache;
use crate::engine::repository::Repository;
use crate::engine::repository::targets::{ReleaseState, Seals, TargetStore};
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

impl ReadyTree {
    /// The path of a tree that was written just now.
    pub fn staged_path(&self) -> Option<&Path> {
        match self {
            Self::Staged(staged) => Some(staged.path()),
            Self::Existing => None,
        }
    }
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
    /// Use it if it is still what was written.
    Reuse,
    /// Write it anew, because it may have been changed. Readers see the old one until then.
    Rewrite,
}

impl ExistingRelease {
    /// Rewrites for [`Trigger::Redo`] only: `agent redo` repairs a changed release.
    pub fn when(trigger: Trigger) -> Self {
        if trigger == Trigger::Redo { Self::Rewrite } else { Self::Reuse }
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
    let seals = Seals::read(repository)?;
    let accepted = repository.records.memory()?.accepted;
    let store = StagingStore { target_store, seals, known, accepted };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pending_refs.len());
    if threads <= 1 {
        let objects = ObjectCache::of(&repository.git);
        return pending_refs
            .iter()
            .map(|due| one(&repository.git, &objects, &store, due))
            .collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(pending_refs.len()));
    let work = || -> Result<()> {
        // A libgit2 repository handle is for one thread.
        let git = Git::open_trusting(&repository.repo.path, &repository.repo.trust)?;
        let objects = ObjectCache::of(&git);
        while let Some(due) = pending_refs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = one(&git, &objects, &store, due)?;
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
            one(&repository.git, &ObjectCache::of(&repository.git), &store, due)
        }
        answer => Ok(answer),
    };
    done.into_iter().map(|(_, answer)| answer).zip(pending_refs).map(again).collect()
}

/// The store that trees are staged in.
struct StagingStore<'a> {
    target_store: &'a TargetStore,
    seals: Seals,
    known: ExistingRelease,
    /// The revision that a person accepted although it holds itself.
    accepted: Option<Commit>,
}

fn one(
    git: &Git,
    objects: &impl ObjectSource,
    store: &StagingStore<'_>,
    due: &PendingRef,
) -> Result<Result<ReadyTree, StageError>> {
    let verdict = |finding| Ok(Err(StageError::Verdict(finding)));
    let failed = |error: anyhow::Error| Ok(Err(StageError::Hindered(one_line(&error))));
    match tree::tree_settings(git, due.revision) {
        Err(TreeFileError::Refused(reason)) => return verdict(Finding::Refused { reason }),
        Err(TreeFileError::Unreadable(error)) => return failed(error),
        Ok(tree) => {
            // What is shown already was let in, or taken by a person.
            let is_known = due.repairs || store.accepted == Some(due.revision);
            if let Some(reason) = tree.hold.filter(|_| !is_known) {
                return verdict(Finding::Held { reason });
            }
        }
    }
    let tree = match tree::whole_tree(git, objects, due.revision) {
        Ok(tree) => tree,
        Err(error) => return verdict(Finding::of(error)?),
    };
    let shared = &store.target_store.shared;
    if let Some(finding) = Finding::of_shared(tree.ops.iter().map(|op| &op.path), shared) {
        return verdict(finding);
    }
    Ok(store.stage(due, &tree, objects).map_err(|error| StageError::Hindered(one_line(&error))))
}

impl StagingStore<'_> {
    /// Writes `tree` for `due`, unless a release of it can be used again.
    fn stage(
        &self,
        due: &PendingRef,
        tree: &TreeChange,
        objects: &impl ObjectSource,
    ) -> Result<ReadyTree> {
        let TargetStore { store, shared, .. } = self.target_store;
        let place = self.target_store.place(&due.directory)?;
        let state =
            self.target_store.release_state(&self.seals, &place, due.revision, tree, objects)?;
        if (state, self.known) == (ReleaseState::Whole, ExistingRelease::Reuse) {
            return Ok(ReadyTree::Existing);
        }
        store.make_shared(&place, shared)?;
        let staged = store.stage(&place, due.revision, tree, objects)?;
        staged.link_shared(shared)?;
        Ok(ReadyTree::Staged(staged))
    }
}
