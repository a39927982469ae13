//! The commits that a fetch reports to the server as present, so that it sends only the rest. All of
//! them go into one message, without rounds of negotiation. Asks no remote.

use std::collections::HashSet;

use anyhow::Result;
use git2::{Oid, Sort};

use crate::domain::git::Commit;
use crate::system::git::{Git, commit_of};

/// The most refs whose tips are reported.
const MOST_TIPS: usize = 64;
/// The most commits back in the history of the main tips that are reported.
const FARTHEST: usize = 1024;

/// Commits that are in the clone with all their history: the tips of the refs, and from the history of
/// the refs `names` and of what is checked out the ancestors at distances that double, for an upstream that was
/// rewritten.
///
/// # Errors
/// When an object is torn, which nothing may be built upon, or refs cannot be listed.
pub(super) fn haves(git: &Git, names: &[&str]) -> Result<Vec<Commit>> {
    git.no_torn_object()?;
    git.no_oversized_ref()?;
    let repo = git.repository();
    let commit_at = |name: &str| commit_behind(git, repo.refname_to_id(name).ok()?);
    let began_at = git.began_at().and_then(|commit| git.oid(&commit.0).ok());
    let head = began_at.and_then(|head| commit_behind(git, head));
    let roots: Vec<Oid> = names.iter().filter_map(|name| commit_at(name)).chain(head).collect();

    let mut offered = HashSet::new();
    let mut haves = Vec::new();
    let mut offer = |oid: Oid| -> Result<()> {
        if offered.insert(oid) {
            haves.push(commit_of(oid)?);
        }
        Ok(())
    };
    roots.iter().try_for_each(|&oid| offer(oid))?;
    for found in repo.references()?.flatten().take(MOST_TIPS) {
        let target = found.resolve().ok().and_then(|found| found.target());
        if let Some(commit) = target.and_then(|target| commit_behind(git, target)) {
            offer(commit)?;
        }
    }
    let mut walk = repo.revwalk()?;
    walk.set_sorting(Sort::TIME)?;
    for &oid in &roots {
        // One that libgit2 does not read is reported alone.
        let _ = walk.push(oid);
    }
    // A history that ends early, or cannot be read further, is reported as far as it can be read.
    for (distance, oid) in walk.map_while(Result::ok).enumerate().take(FARTHEST + 1) {
        if distance.is_power_of_two() {
            offer(oid)?;
        }
    }
    Ok(haves)
}

/// The objects that are in the clone with all their history: its refs, and their ancestors.
pub(super) struct CompleteHistory<'a> {
    git: &'a Git,
    tips: HashSet<Oid>,
}

impl<'a> CompleteHistory<'a> {
    /// Lists the refs of `git`.
    ///
    /// # Errors
    /// When refs cannot be listed.
    pub(super) fn of(git: &'a Git) -> Result<Self> {
        let refs = git.repository().references()?;
        let tips = refs.flatten().filter_map(|found| found.target()).collect();
        Ok(Self { git, tips })
    }

    /// Whether the clone has `id` with all its history: a ref points at it or has it in its history.
    /// Only the refs from which a tip most likely moved on are searched: `name` and HEAD.
    ///
    /// # Errors
    /// When history cannot be read.
    pub(super) fn holds(&self, name: &str, id: Commit) -> Result<bool> {
        if self.tips.contains(&self.git.oid(&id.0)?) {
            return Ok(true);
        }
        let repo = self.git.repository();
        if !self.git.has(id) {
            return Ok(false);
        }
        Ok([name, "HEAD"].into_iter().any(|name| {
            let root = repo.refname_to_id(name).ok();
            let root = root.and_then(|root| self.git.peeled(commit_of(root).ok()?));
            root.is_some_and(|root| self.git.contains(root, id).unwrap_or(false))
        }))
    }
}

/// The commit that the object `id` is or, as an annotated tag, points at; `None` for other objects.
fn commit_behind(git: &Git, id: Oid) -> Option<Oid> {
    git.oid(&git.peeled(commit_of(id).ok()?)?.0).ok()
}
