//! The tree of a commit: its `.pmpy.toml`, and its differences from another commit. Reads objects only;
//! knows no worktree.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::config::TreeSettings;
use crate::domain::git::{Commit, ObjectId};
use crate::domain::repository::action::TriedRevisions;
use crate::domain::repository::change::{
    ChangeError, ObjectError, ObjectSource, RepoPath, TreeChange,
};
use crate::domain::repository::gaps::ContentGaps;
use crate::system::git::{FileError, Git};

/// The size limit of `.pmpy.toml`, in bytes.
const TREE_SETTINGS_CAP: usize = 64 * 1024;

/// The reason why the `.pmpy.toml` of a commit cannot be used.
#[derive(Debug)]
pub enum TreeFileError {
    /// It is invalid: the revision is refused, and only another revision helps.
    Refused(String),
    /// It cannot be read from this disk, which is no fault of the revision.
    Unreadable(anyhow::Error),
}

/// The settings in the `.pmpy.toml` of a commit; the defaults when it has none.
///
/// # Errors
/// See [`TreeFileError`].
pub fn tree_settings(git: &Git, commit: Commit) -> Result<TreeSettings, TreeFileError> {
    let refused = TreeFileError::Refused;
    let bytes = match git.file_at(commit, ".pmpy.toml", TREE_SETTINGS_CAP) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(TreeSettings::default()),
        Err(FileError::Unfit(reason)) => return Err(refused(reason)),
        Err(FileError::Unreadable(error)) => {
            return Err(TreeFileError::Unreadable(error.context(".pmpy.toml cannot be read")));
        }
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| refused(".pmpy.toml is not valid UTF-8".to_owned()))?;
    TreeSettings::parse(&text).map_err(refused)
}

/// The change from the tree of `from` to that of `to`, checked against the rules.
///
/// # Errors
/// When `to` breaks the rules, or an object cannot be read.
pub fn change_between(
    git: &Git,
    from: Option<Commit>,
    to: Commit,
) -> Result<TreeChange, ChangeError> {
    let from = from.map(|from| tree_of(git, from)).transpose()?;
    TreeChange::between(from, tree_of(git, to)?, git)
}

/// The whole tree of `commit` as a change from nothing, read from `objects`.
///
/// # Errors
/// When the tree breaks the rules or an object cannot be read.
pub fn whole_tree(
    git: &Git,
    objects: &impl ObjectSource,
    commit: Commit,
) -> Result<TreeChange, ChangeError> {
    TreeChange::between(None, tree_of(git, commit)?, objects)
}

pub(in crate::engine) fn tree_of(git: &Git, commit: Commit) -> Result<ObjectId, ChangeError> {
    git.tree_of(&commit).map_err(|error| {
        ChangeError::Unreadable(ObjectError::Unreadable {
            id: commit.0,
            cause: error.root_cause().to_string(),
        })
    })
}

/// What the tree of `revision` names and the agent does not fetch; `None` when that cannot be read.
/// `known`: the same of an earlier revision, which saves to read the whole tree where nothing of it
/// changed.
pub fn gaps(git: &Git, known: Option<&ContentGaps>, revision: Commit) -> Option<ContentGaps> {
    if let Some(known) = known {
        if known.revision == revision {
            return Some(known.clone());
        }
        let change = change_between(git, Some(known.revision), revision).ok();
        let carried = change.map(|change| known.carried_over(revision, &change, git));
        if let Some(Ok(Some(gaps))) = carried {
            return Some(gaps);
        }
    }
    ContentGaps::of(revision, &whole_tree(git, git, revision).ok()?, git).ok()
}

/// The paths that differ between `target` and `previous`, the last success, or any revision that was
/// `tried` since; sorted. `None`: every path may differ, for there is no previous commit, or one is
/// missing.
pub fn changed_since(
    git: &Git,
    previous: Option<Commit>,
    tried: &TriedRevisions,
    target: Commit,
) -> Option<Vec<Vec<u8>>> {
    let mut changed = BTreeSet::new();
    for from in tried.known()?.iter().copied().chain([previous?]) {
        if !git.has(from) {
            return None;
        }
        changed.extend(paths_between(git, Some(from), target).ok()?);
    }
    Some(changed.into_iter().collect())
}

/// Every path of a commit.
pub fn every_path(git: &Git, commit: Commit) -> Vec<Vec<u8>> {
    paths_between(git, None, commit).unwrap_or_default()
}

fn paths_between(git: &Git, from: Option<Commit>, to: Commit) -> Result<Vec<Vec<u8>>, ChangeError> {
    let from = from.map(|from| tree_of(git, from)).transpose()?;
    let paths = TreeChange::paths(from, tree_of(git, to)?, git)?;
    Ok(paths.iter().map(|path| path.as_bytes().to_owned()).collect())
}

/// The paths with local changes, for messages; at most ten.
pub fn printable_paths(paths: &[RepoPath]) -> Vec<String> {
    paths.iter().take(10).map(ToString::to_string).collect()
}
