//! From one commit to another in the worktree: the change, whether it can be made, and making it.

use anyhow::Result;

use super::observe::Site;
use crate::config::TreeSettings;
use crate::domain::change::{Change, ChangeError, ObjectError, Objects, RepoPath};
use crate::domain::git::{Commit, Id};
use crate::system::git::Git;
use crate::system::lock::Step;
use crate::system::worktree::{Ready, Unready, Worktree};

/// The most that `.pmpy.toml` may hold, in bytes.
const TREE_SETTINGS_CAP: usize = 64 * 1024;

/// What `.pmpy.toml` says in a commit.
///
/// # Errors
/// Why the file cannot be used: the revision is refused then.
pub fn tree_settings(git: &Git, commit: Commit) -> Result<TreeSettings, String> {
    let bytes = git
        .file_at(commit, ".pmpy.toml", TREE_SETTINGS_CAP)
        .map_err(|error| format!(".pmpy.toml: {error:#}"))?;
    let Some(bytes) = bytes else { return Ok(TreeSettings::default()) };
    let text = String::from_utf8(bytes).map_err(|_| ".pmpy.toml is not valid UTF-8".to_owned())?;
    TreeSettings::parse(&text)
}

/// What turns the tree of `from` into that of `to`, held to the rules.
///
/// # Errors
/// When `to` breaks them, or an object cannot be read.
pub fn change_between(git: &Git, from: Option<Commit>, to: Commit) -> Result<Change, ChangeError> {
    let from = from.map(|from| tree_of(git, from)).transpose()?;
    Change::between(from, tree_of(git, to)?, git)
}

/// All that `commit` has, with what its tree names from `objects`.
///
/// # Errors
/// When the tree breaks the rules or an object cannot be read.
pub fn whole_tree(
    git: &Git,
    objects: &impl Objects,
    commit: Commit,
) -> Result<Change, ChangeError> {
    Change::between(None, tree_of(git, commit)?, objects)
}

fn tree_of(git: &Git, commit: Commit) -> Result<Id, ChangeError> {
    git.tree_of(&commit).map_err(|error| {
        ChangeError::Unreadable(ObjectError::Unreadable {
            id: commit.0,
            cause: error.root_cause().to_string(),
        })
    })
}

/// The paths that differ between `previous` and `target`; `None` when there is no previous one, or
/// it is gone.
pub fn changed_since(git: &Git, previous: Option<Commit>, target: Commit) -> Option<Vec<Vec<u8>>> {
    let previous = previous.filter(|previous| git.has(*previous))?;
    change_between(git, Some(previous), target).ok().map(paths)
}

/// Every path of a commit.
pub fn every_path(git: &Git, commit: Commit) -> Vec<Vec<u8>> {
    whole_tree(git, git, commit).map(paths).unwrap_or_default()
}

fn paths(change: Change) -> Vec<Vec<u8>> {
    change.ops.into_iter().map(|op| op.path.as_bytes().to_owned()).collect()
}

/// Paths as scripts read them.
pub fn nul_separated(paths: &[Vec<u8>]) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(path);
        list.push(0);
    }
    list
}

/// Whether `change` can be made; looks only at the paths that it touches, and writes nothing.
///
/// # Errors
/// [`Unready`] tells local changes in the way from what could not be found out.
pub fn ready<'c>(site: &Site, change: &'c Change) -> Result<(Worktree, Ready<'c>), Unready> {
    let worktree = Worktree::open(&site.repo.path)?;
    let index = site.git.index()?;
    let ready = worktree.classify(change, &site.git, &|path| index.staged(path))?;
    Ok((worktree, ready))
}

/// The paths of [`Unready::Dirty`] for people, at most ten.
pub fn shown(paths: &[RepoPath]) -> Vec<String> {
    paths.iter().take(10).map(ToString::to_string).collect()
}

/// Whether a change was carried out.
pub enum Applied {
    /// It was, or it was already.
    Yes,
    /// Local changes are in the way; nothing was written.
    Dirty(Vec<String>),
}

/// Makes worktree, index, branch and the high-water mark those of `step.target`. Resumable.
///
/// # Errors
/// When something cannot be read or written.
pub fn apply(site: &Site, step: &Step) -> Result<Applied> {
    if let Applied::Dirty(paths) = rewrite(site, step.head, step.target)? {
        return Ok(Applied::Dirty(paths));
    }
    let message = format!("agent: {}", step.target.short());
    site.git.move_branch(&step.branch, step.head, step.target, &message)?;
    lower_mark(site, step)?;
    Ok(Applied::Yes)
}

/// Makes worktree and index those of `to` wherever they are those of `from`, which may have been
/// half made. Resumable.
///
/// # Errors
/// When something cannot be read or written.
pub fn rewrite(site: &Site, from: Option<Commit>, to: Commit) -> Result<Applied> {
    let change = change_between(&site.git, from, to)?;
    let (worktree, ready) = match ready(site, &change) {
        Ok(ready) => ready,
        Err(Unready::Dirty(paths)) => return Ok(Applied::Dirty(shown(&paths))),
        Err(Unready::Failed(error)) => return Err(error),
    };
    let written = worktree.apply(&ready, &site.git)?;
    site.git.update_index(&change, &written)?;
    Ok(Applied::Yes)
}

/// After upstream's rewritten tip was taken, it is the new mark.
///
/// # Errors
/// When a ref cannot be read or written.
pub fn lower_mark(site: &Site, step: &Step) -> Result<()> {
    let tip = site.git.ref_commit(&step.branch.tracking())?;
    let mark = site.git.ref_commit(&step.branch.seen())?;
    if tip == Some(step.target) && mark != tip {
        site.git.set_logged_ref(&step.branch.seen(), step.target, "taken")?;
    }
    Ok(())
}
