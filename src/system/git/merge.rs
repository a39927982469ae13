//! True merges: makes a commit with two parents, or lists the paths in conflict. Moves no branch.

use anyhow::{Context, Result};
use git2::ObjectType;

use super::history::History;
use super::{Git, commit_of, missing};
use crate::domain::git::{Commit, RefName};
use crate::domain::text::EscapeControls;

/// The result of merging two commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The merge commit; no branch points at it yet.
    Commit(Commit),
    /// The paths in conflict, at most ten; nothing was written.
    Conflicts(Vec<String>),
}

impl Git {
    /// The newest commit that both histories contain; `None` when there is none.
    ///
    /// # Errors
    /// When history cannot be read.
    pub fn merge_base(&self, one: Commit, other: Commit) -> Result<Option<Commit>> {
        match self.repo.merge_base(self.oid(&one.0)?, self.oid(&other.0)?) {
            Ok(base) => commit_of(base).map(Some),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => {
                let history = History::of(&self.repo);
                let base =
                    history.and_then(|it| it.merge_base(self.oid(&one.0)?, self.oid(&other.0)?));
                let base =
                    base.map_err(|_| error).context("the two histories cannot be compared")?;
                base.map(commit_of).transpose()
            }
        }
    }

    /// Makes a merge commit of `head` and `tip` by `agent@HOST`; no ref points at it yet. It has the
    /// time of the younger parent, so that a repeated merge makes the same commit.
    ///
    /// # Errors
    /// When objects cannot be read or written.
    pub fn merge(
        &self,
        head: Commit,
        tip: Commit,
        branch: &RefName,
        host: &str,
    ) -> Result<MergeOutcome> {
        let (ours, theirs) = (self.oid(&head.0)?, self.oid(&tip.0)?);
        let merged = self
            .repo
            .find_commit(ours)
            .and_then(|ours| self.repo.merge_commits(&ours, &self.repo.find_commit(theirs)?, None));
        let mut index = match merged {
            Ok(index) => index,
            Err(error) => self
                .merge_trees(head, tip)
                .map_err(|_| error)
                .context("libgit2 cannot merge the two histories")?,
        };
        if index.has_conflicts() {
            let mut paths: Vec<String> = index
                .conflicts()?
                .flatten()
                .filter_map(|conflict| conflict.our.or(conflict.their).or(conflict.ancestor))
                .map(|entry| String::from_utf8_lossy(&entry.path).escape_controls())
                .collect();
            paths.dedup();
            paths.truncate(10);
            return Ok(MergeOutcome::Conflicts(paths));
        }
        let tree = index.write_tree_to(&self.repo)?;
        let time = self.raw_commit(ours)?.time.max(self.raw_commit(theirs)?.time).max(0);
        let agent = format!("agent <agent@{host}> {time} +0000");
        let commit = format!(
            "tree {tree}\nparent {head}\nparent {tip}\nauthor {agent}\ncommitter {agent}\n\n\
             Merge branch '{branch}' of upstream\n"
        );
        let merge = self.repo.odb()?.write(ObjectType::Commit, commit.as_bytes())?;
        Ok(MergeOutcome::Commit(commit_of(merge)?))
    }

    /// The merge of the two trees over that of the newest common commit, for histories that libgit2 does
    /// not read.
    fn merge_trees(&self, head: Commit, tip: Commit) -> Result<git2::Index> {
        let tree = |commit: Commit| -> Result<git2::Tree<'_>> {
            Ok(self.repo.find_tree(self.raw_commit(self.oid(&commit.0)?)?.tree)?)
        };
        let base =
            self.merge_base(head, tip)?.context("the two histories have nothing in common")?;
        Ok(self.repo.merge_trees(&tree(base)?, &tree(head)?, &tree(tip)?, None)?)
    }
}
