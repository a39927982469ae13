//! What a fetch tells a server that is here already, so that it sends the rest only. All of it goes
//! into one message: nothing is negotiated in rounds. Asks no remote.

use std::collections::HashSet;

use anyhow::Result;
use git2::{Oid, Sort};

use crate::domain::git::Commit;
use crate::system::git::{Git, commit_of, oid_of};

/// The most refs whose tips are told.
const MOST_TIPS: usize = 64;
/// How far back, in commits, the history of the tips that count most is told.
const FARTHEST: usize = 1024;

/// Commits that are here with all that they contain: the tips of the refs, and of the history of
/// those called `names` and of HEAD the ancestors at distances that double, for an upstream that was
/// rewritten.
///
/// # Errors
/// When an object is torn, which nothing may be built upon, or refs cannot be listed.
pub(super) fn haves(git: &Git, names: &[&str]) -> Result<Vec<Commit>> {
    git.no_torn_object()?;
    let repo = git.for_the_wire()?;
    let commit_at = |name: &str| {
        let found = repo.find_reference(name).and_then(|found| found.peel_to_commit());
        found.ok().map(|commit| commit.id())
    };
    let roots: Vec<Oid> =
        names.iter().chain(&["HEAD"]).filter_map(|name| commit_at(name)).collect();

    let mut told = HashSet::new();
    let mut haves = Vec::new();
    let mut tell = |oid: Oid| -> Result<()> {
        if told.insert(oid) {
            haves.push(commit_of(oid)?);
        }
        Ok(())
    };
    roots.iter().try_for_each(|&oid| tell(oid))?;
    for found in repo.references()?.flatten().take(MOST_TIPS) {
        if let Ok(commit) = found.peel_to_commit() {
            tell(commit.id())?;
        }
    }
    let mut walk = repo.revwalk()?;
    walk.set_sorting(Sort::TIME)?;
    roots.iter().try_for_each(|&oid| walk.push(oid))?;
    // A history that ends early, or cannot be read further, has been told as far as it goes.
    for (distance, oid) in walk.map_while(Result::ok).enumerate().take(FARTHEST + 1) {
        if distance.is_power_of_two() {
            tell(oid)?;
        }
    }
    Ok(haves)
}

/// What is here with everything that it contains: the refs of a clone, and their history.
pub(super) struct Complete<'a> {
    git: &'a Git,
    tips: HashSet<Oid>,
}

impl<'a> Complete<'a> {
    /// Of `git`.
    ///
    /// # Errors
    /// When refs cannot be listed.
    pub(super) fn of(git: &'a Git) -> Result<Self> {
        let refs = git.for_the_wire()?.references()?;
        let tips = refs.flatten().filter_map(|found| found.target()).collect();
        Ok(Self { git, tips })
    }

    /// Whether everything that `id` contains is here: a ref points at it, or has it in its history.
    /// Only the refs are asked that a tip most likely moved on from: `name` and HEAD.
    ///
    /// # Errors
    /// When history cannot be read.
    pub(super) fn holds(&self, name: &str, id: Commit) -> Result<bool> {
        let id = oid_of(&id.0)?;
        if self.tips.contains(&id) {
            return Ok(true);
        }
        let repo = self.git.for_the_wire()?;
        if repo.find_commit(id).is_err() {
            return Ok(false);
        }
        Ok([name, "HEAD"].into_iter().any(|name| {
            let root = repo.find_reference(name).and_then(|found| found.peel_to_commit());
            root.is_ok_and(|root| repo.graph_descendant_of(root.id(), id).unwrap_or(false))
        }))
    }
}
