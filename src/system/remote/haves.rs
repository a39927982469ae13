//! What a fetch tells a server that is here already, so that it sends the rest only. All of it goes
//! into one message: nothing is negotiated in rounds. Asks no remote.

use std::collections::HashSet;

use anyhow::Result;
use git2::{Oid, Sort};

use crate::domain::git::{Commit, RefName};
use crate::system::git::{Git, commit_of, oid_of};

/// The most refs whose tips are told.
const MOST_TIPS: usize = 64;
/// How far back, in commits, the history of the tips that count most is told.
const FARTHEST: usize = 1024;

/// Commits that are here with all that they contain: the tips of the refs, and of the history of
/// `branch` and HEAD the ancestors at distances that double, for an upstream that was rewritten.
///
/// # Errors
/// When an object is torn, which nothing may be built upon, or refs cannot be listed.
pub(super) fn haves(git: &Git, branch: &RefName) -> Result<Vec<Commit>> {
    git.no_torn_object()?;
    let repo = git.for_the_wire()?;
    let commit_at = |name: &str| {
        let found = repo.find_reference(name).and_then(|found| found.peel_to_commit());
        found.ok().map(|commit| commit.id())
    };
    let roots: Vec<Oid> = [&branch.tracking(), "HEAD"].into_iter().filter_map(commit_at).collect();

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

/// Whether everything that `tip` contains is here: a ref that is here has it in its history.
///
/// # Errors
/// When history cannot be read.
pub(super) fn is_complete(git: &Git, branch: &RefName, tip: Commit) -> Result<bool> {
    if !git.has(tip) {
        return Ok(false);
    }
    let repo = git.for_the_wire()?;
    let tip = oid_of(&tip.0)?;
    for name in [&branch.tracking(), "HEAD"] {
        let Ok(root) = repo.find_reference(name).and_then(|found| found.peel_to_commit()) else {
            continue;
        };
        if root.id() == tip || repo.graph_descendant_of(root.id(), tip).unwrap_or(false) {
            return Ok(true);
        }
    }
    Ok(false)
}
