//! Compares what is on disk with the applied revision: the worktree with its tree, published releases with theirs.
//! Follows no link.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Error, Result};
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::paths::PathPatterns;
use crate::domain::repository::change::{FileStat, RepoPath, StagedEntry, TreeChange, TreeEntry};
use crate::domain::repository::drift::{self, Difference, DriftRecord, DriftedFile};
use crate::engine::repository::targets::{self, ShownRelease};
use crate::engine::repository::{Repository, tree};
use crate::system::git::Git;
use crate::system::git::objects::Index;
use crate::system::worktree::Worktree;
use crate::system::worktree::compare::KnownFiles;

/// A tree on disk, the revision that it should be, and where it is not.
pub struct ComparedTree {
    /// The tree on disk.
    pub worktree: Worktree,
    /// What it should be, without sizes.
    pub tree: TreeChange,
    /// The revision.
    pub revision: Commit,
    /// Its directory at the target; empty for a worktree and for a target of one branch.
    pub directory: String,
    /// The places in `tree` that differ, ascending.
    pub found: Vec<(usize, Difference)>,
    /// Those that differ and may, by `drift_ignore`.
    pub ignored: Vec<(usize, Difference)>,
    /// The newest change time in a release; `None`: it is a worktree, or something in it differs.
    newest: Option<(i64, u32)>,
}

impl ComparedTree {
    /// The paths that differ.
    pub fn paths(&self) -> impl Iterator<Item = (&RepoPath, Difference)> {
        let path = |(at, how): &(usize, Difference)| Some((&self.tree.ops.get(*at)?.path, *how));
        self.found.iter().filter_map(path)
    }

    /// The files that differ.
    pub fn files(&self) -> impl Iterator<Item = DriftedFile> {
        self.paths().map(|(path, how)| DriftedFile { path: self.key(path).to_string(), how })
    }

    /// The files that differ and are among `left`, paths with the name of the directory.
    pub fn left(&self, left: &BTreeSet<Vec<u8>>) -> Vec<DriftedFile> {
        let is_left = |(path, _): &(&RepoPath, _)| left.contains(self.key(path).as_bytes());
        let left = self.paths().filter(is_left);
        left.map(|(path, how)| DriftedFile { path: self.key(path).to_string(), how }).collect()
    }

    /// The path of a file with the name of the directory, as people see it, and as it is kept.
    pub fn key(&self, path: &RepoPath) -> RepoPath {
        match self.directory.as_str() {
            "" => path.clone(),
            directory => RepoPath::new(directory.as_bytes()).join(path.as_bytes()),
        }
    }
}

/// Compares the files here with `revision`, or the published releases with theirs. `drift_ignore` is left out.
///
/// # Errors
/// When something cannot be read.
pub fn compare(repository: &Repository, revision: Commit) -> Result<Vec<ComparedTree>> {
    let ignore = &repository.repo.settings.policy.drift.ignore;
    let ignored = PathPatterns::new(ignore).map_err(Error::from)?;
    let is_ignored = |path: &RepoPath| !ignore.is_empty() && ignored.matches(path.as_bytes());
    let mut all = match repository.publishes() {
        false => vec![compare_worktree(repository, revision)?],
        true => compare_releases(repository)?,
    };
    for it in &mut all {
        let tree = &it.tree;
        let may =
            |(at, _): &mut (usize, _)| tree.ops.get(*at).is_none_or(|op| is_ignored(&op.path));
        it.ignored = it.found.extract_if(.., may).collect();
    }
    Ok(all)
}

/// The record of `files` that differ at `now`; `revision` is the one of a worktree or of one target.
pub fn record(
    repository: &Repository,
    files: Vec<DriftedFile>,
    revision: Commit,
    now: DateTime<Utc>,
) -> DriftRecord {
    let one = (!repository.fetches_all()).then_some(revision);
    DriftRecord::new(one, now, files.into_iter())
}

/// A repair whose programs have not succeeded yet.
#[derive(Clone, Debug)]
pub struct PendingRepair {
    /// The name of its directory.
    pub name: String,
    /// The directory at the target; empty for a worktree and for a target of one branch.
    pub directory: String,
}

impl PendingRepair {
    /// What it wrote anew, paths with the name of the directory; `None`: its list cannot be read.
    pub fn keys(&self, repository: &Repository) -> Option<Vec<Vec<u8>>> {
        let keys = repository.records.kept_paths(&self.name)?;
        let prefix = self.prefix();
        Some(keys.into_iter().filter(|key| key.starts_with(prefix.as_bytes())).collect())
    }

    /// The paths in the tree that it wrote anew; `None`: its list cannot be read.
    pub fn paths(&self, repository: &Repository) -> Option<Vec<Vec<u8>>> {
        let (keys, prefix) = (self.keys(repository)?, self.prefix());
        let path = |key: &Vec<u8>| key.strip_prefix(prefix.as_bytes()).map(<[u8]>::to_vec);
        Some(keys.iter().filter_map(path).collect())
    }

    fn prefix(&self) -> String {
        match self.directory.as_str() {
            "" => String::new(),
            directory => format!("{directory}/"),
        }
    }
}

/// The repair of the one worktree or target that is still to run the programs.
///
/// # Errors
/// When the record cannot be read.
pub fn pending(repository: &Repository) -> Result<Option<PendingRepair>> {
    let name = repository.records.memory()?.drift.and_then(|drift| drift.pending);
    Ok(name.map(|name| PendingRepair { name, directory: String::new() }))
}

/// The paths that were repaired so often within an hour that they are left.
pub fn left_alone(repository: &Repository, now: DateTime<Utc>) -> BTreeSet<Vec<u8>> {
    let mut times: BTreeMap<Vec<u8>, Vec<DateTime<Utc>>> = BTreeMap::new();
    for (at, paths) in repository.records.recent_repairs(now) {
        for path in paths {
            times.entry(path).or_default().push(at);
        }
    }
    times.retain(|_, times| drift::is_left(times, now));
    times.into_keys().collect()
}

fn compare_worktree(repository: &Repository, revision: Commit) -> Result<ComparedTree> {
    let git = &repository.git;
    let worktree = Worktree::open(&repository.repo.path)?;
    let tree = TreeChange::listing(tree::tree_of(git, revision)?, git)?;
    let found = worktree.differences(&tree, git, &IndexedFiles::of(git)?)?;
    let (directory, ignored, newest) = (String::new(), Vec::new(), None);
    Ok(ComparedTree { worktree, tree, revision, directory, found, ignored, newest })
}

/// Compares each release that a target shows with its revision.
fn compare_releases(repository: &Repository) -> Result<Vec<ComparedTree>> {
    let git = &repository.git;
    let known = repository.records.compared_releases();
    let compared = |it: ShownRelease| {
        let ShownRelease { directory, revision, dir, path } = it;
        let tree = TreeChange::listing(tree::tree_of(git, revision)?, git)?;
        let since = known.get(&path.display().to_string()).copied();
        let message = || format!("cannot compare {}", path.display());
        let worktree = Worktree::at(dir, path.clone());
        let files = ReleasedFiles { since, newest: Cell::default() };
        let found = worktree.differences(&tree, git, &files).with_context(message)?;
        let newest = found.is_empty().then(|| files.newest.get());
        let ignored = Vec::new();
        Ok(ComparedTree { worktree, tree, revision, directory, found, ignored, newest })
    };
    targets::shown_releases(repository)?.into_iter().map(compared).collect()
}

/// Records which releases were compared whole, so that the next look reads only what changed since.
///
/// # Errors
/// When the record cannot be written.
pub fn note_whole(repository: &Repository, compared: &[ComparedTree]) -> Result<()> {
    let whole = |it: &ComparedTree| Some((it.worktree.path().display().to_string(), it.newest?));
    let whole: BTreeMap<_, _> = compared.iter().filter_map(whole).collect();
    if whole == repository.records.compared_releases() {
        return Ok(());
    }
    repository.records.put_compared_releases(&whole)
}

/// The files of a worktree, as the index knows them.
pub struct IndexedFiles {
    index: Index,
    counts_modes: bool,
}

impl IndexedFiles {
    /// Those of the worktree of `git`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn of(git: &Git) -> Result<Self> {
        let modes = git.setting("core.filemode");
        let is_off = |value: &str| {
            matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0")
        };
        Ok(Self { index: git.index()?, counts_modes: !modes.as_deref().is_some_and(is_off) })
    }
}

impl KnownFiles for IndexedFiles {
    fn staged(&self, path: &RepoPath) -> Option<StagedEntry> {
        self.index.staged(path)
    }

    fn is_unchanged(
        &self,
        staged: Option<&StagedEntry>,
        entry: &TreeEntry,
        found: &FileStat,
    ) -> bool {
        let Some(staged) = staged else { return false };
        let is_recorded = || staged.recorded.is_some_and(|recorded| recorded.is_unchanged(found));
        staged.assumed || (staged.entry == *entry && is_recorded())
    }

    fn counts_modes(&self) -> bool {
        self.counts_modes
    }
}

/// The files of a release, which has no index. None that changed since all of them were right can be otherwise: no
/// program sets the change time of a file.
struct ReleasedFiles {
    /// The newest change time when the release was compared whole; `None`: it never was.
    since: Option<(i64, u32)>,
    /// The newest change time now.
    newest: Cell<(i64, u32)>,
}

impl KnownFiles for ReleasedFiles {
    fn staged(&self, _: &RepoPath) -> Option<StagedEntry> {
        None
    }

    fn is_unchanged(&self, _: Option<&StagedEntry>, _: &TreeEntry, found: &FileStat) -> bool {
        self.newest.set(self.newest.get().max(found.ctime));
        self.since.is_some_and(|since| found.ctime < since)
    }

    fn counts_modes(&self) -> bool {
        true
    }
}
