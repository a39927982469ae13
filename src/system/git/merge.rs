//! True merges: a commit with two parents, or the paths in conflict. Moves no branch.

use anyhow::{Context, Result};

use super::{Git, commit_of, oid_of};
use crate::domain::git::{Commit, RefName};

/// What merging two commits led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// This commit, which no branch points at yet.
    Commit(Commit),
    /// Conflicts in these paths; nothing was written.
    Conflicts(Vec<String>),
}

impl Git {
    /// Makes a merge commit of `head` and `tip` by `agent@HOST`. Nothing points at it yet. It has the
    /// time of the younger of the two, so that making it again makes the same one.
    ///
    /// # Errors
    /// When objects cannot be read or written.
    pub fn merge(&self, head: Commit, tip: Commit, branch: &RefName, host: &str) -> Result<Merged> {
        let ours = self.repo.find_commit(oid_of(&head.0)?)?;
        let theirs = self.repo.find_commit(oid_of(&tip.0)?)?;
        let mut index = self
            .repo
            .merge_commits(&ours, &theirs, None)
            .context("libgit2 cannot merge the two histories")?;
        if index.has_conflicts() {
            let mut paths: Vec<String> = index
                .conflicts()?
                .flatten()
                .filter_map(|conflict| conflict.our.or(conflict.their).or(conflict.ancestor))
                .map(|entry| String::from_utf8_lossy(&entry.path).escape_debug().to_string())
                .collect();
            paths.dedup();
            paths.truncate(10);
            return Ok(Merged::Conflicts(paths));
        }
        let tree = self.repo.find_tree(index.write_tree_to(&self.repo)?)?;
        let time = ours.time().max(theirs.time());
        let agent = git2::Signature::new("agent", &format!("agent@{host}"), &time)?;
        let message = format!("Merge branch '{branch}' of upstream\n");
        let merge = self.repo.commit(None, &agent, &agent, &message, &tree, &[&ours, &theirs])?;
        Ok(Merged::Commit(commit_of(merge)?))
    }
}
