//! Trees on their way to a target: read from git, held to the rules, written where nobody looks yet.
//! Several at once, as there are processors.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;

use super::Shelf;
use super::shared::Shared;
use crate::domain::action::Trigger;
use crate::domain::change::{ChangeError, Objects};
use crate::domain::plan::Finding;
use crate::domain::publication::Due;
use crate::engine::apply;
use crate::engine::observe::{Site, one_line};
use crate::system::git::Git;
use crate::system::release::Staged;

/// A tree that can be shown soon.
#[derive(Debug)]
pub enum Ready {
    /// Written just now.
    Staged(Staged),
    /// A release of an earlier time.
    Kept,
}

/// Why one is not.
#[derive(Debug)]
pub enum Stop {
    /// Its revision is not to be shown.
    Verdict(Finding),
    /// It could not be written: why.
    Hindered(String),
}

/// What becomes of a release that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is taken as it is.
    Kept,
    /// Somebody may have changed it: it is written anew, and readers meet the old one until then.
    Renewed,
}

impl Known {
    /// That a person wants something done again is what mends a release.
    pub fn when(trigger: Trigger) -> Self {
        if trigger == Trigger::Redo { Self::Renewed } else { Self::Kept }
    }

    /// Makes a release of `staged`.
    ///
    /// # Errors
    /// When the store may not be written.
    pub fn seal(self, staged: Staged) -> Result<()> {
        match self {
            Self::Kept => staged.seal(),
            Self::Renewed => staged.renew(),
        }
    }
}

/// Writes the trees of `dues`; the answers in the same order.
///
/// # Errors
/// When the repository cannot be read.
pub fn all(
    site: &Site,
    shelf: &Shelf,
    dues: &[Due],
    known: Known,
) -> Result<Vec<Result<Ready, Stop>>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(dues.len());
    if threads <= 1 {
        let objects = Shared::of(&site.git);
        return dues.iter().map(|due| one(&site.git, &objects, shelf, due, known)).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(dues.len()));
    let work = || -> Result<()> {
        // The library's handle on a repository is for one thread.
        let git = Git::open(&site.repo.path)?;
        let objects = Shared::of(&git);
        while let Some(due) = dues.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = one(&git, &objects, shelf, due, known)?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push((&due.name, answer));
        }
        Ok(())
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for outcome in ended {
        // A panic there is one here.
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // By name, as they are due.
    done.sort_by_key(|(name, _)| *name);
    let again = |(answer, due): (Result<Ready, Stop>, &Due)| match answer {
        // Side by side each of several may have taken the room that the other wanted.
        Err(Stop::Hindered(_)) => one(&site.git, &Shared::of(&site.git), shelf, due, known),
        answer => Ok(answer),
    };
    done.into_iter().map(|(_, answer)| answer).zip(dues).map(again).collect()
}

fn one(
    git: &Git,
    objects: &impl Objects,
    shelf: &Shelf,
    due: &Due,
    known: Known,
) -> Result<Result<Ready, Stop>> {
    let verdict = |finding| Ok(Err(Stop::Verdict(finding)));
    let hindered = |error: anyhow::Error| Ok(Err(Stop::Hindered(one_line(&error))));
    match apply::tree_settings(git, due.revision) {
        Err(reason) => return verdict(Finding::Refused { reason }),
        Ok(tree) => {
            if let Some(reason) = tree.hold {
                return verdict(Finding::Held { reason });
            }
        }
    }
    let place = match shelf.place(&due.directory) {
        Ok(place) => place,
        Err(error) => return hindered(error),
    };
    match shelf.store.has(&place, due.revision) {
        Ok(true) if known == Known::Kept => return Ok(Ok(Ready::Kept)),
        Ok(_) => {}
        Err(error) => return hindered(error),
    }
    let tree = match apply::whole_tree(git, objects, due.revision) {
        Ok(tree) => tree,
        Err(ChangeError::Refused(refusal)) => {
            return verdict(Finding::Refused { reason: refusal.to_string() });
        }
        Err(ChangeError::Unreadable(error)) => return Err(error.into()),
    };
    match shelf.store.stage(&place, due.revision, &tree, objects) {
        Ok(staged) => Ok(Ok(Ready::Staged(staged))),
        Err(error) => hindered(error),
    }
}
