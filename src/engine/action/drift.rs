//! Drift in a worker, under the lock: looks for files that differ from the applied revision, and for a repair keeps
//! them; those of a worktree it writes anew. Runs no scripts.

use std::collections::BTreeSet;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::drift::{DriftRecord, DriftRepair, OnDrift};
use crate::engine::error::one_line;
use crate::engine::repository::Repository;
use crate::engine::repository::drift::{self, ComparedTree, PendingRepair};
use crate::system::files::Dir;
use crate::system::syslog;
use crate::system::worktree::{KeptChange, Worktree};

mod refs;

pub use refs::prepare_refs;

/// Compares the files here with `revision`, and records what differs. What cannot be compared is recorded too, so that
/// the next look is not before its time.
///
/// # Errors
/// When the record cannot be written.
pub fn look(repository: &Repository, revision: Commit, now: DateTime<Utc>) -> Result<()> {
    let record = match drift::compare(repository, revision) {
        Ok(compared) => {
            drift::note_whole(repository, &compared)?;
            let left = left_alone(repository, now);
            mark_refs(repository, &compared, &left)?;
            with_left(repository, &compared, &left, revision, now)
        }
        Err(error) => faulty(repository, revision, &error, now),
    };
    tracing::info!(repository = %repository.repo.name, files = record.files, "compared with its revision");
    put(repository, record)
}

fn faulty(
    repository: &Repository,
    revision: Commit,
    error: &anyhow::Error,
    now: DateTime<Utc>,
) -> DriftRecord {
    let fault = Some(one_line(error));
    DriftRecord { fault, ..drift::record(repository, Vec::new(), revision, now) }
}

/// The record of what was compared, with the number of those paths that are left.
fn with_left(
    repository: &Repository,
    compared: &[ComparedTree],
    left: &BTreeSet<Vec<u8>>,
    revision: Commit,
    now: DateTime<Utc>,
) -> DriftRecord {
    let left = compared.iter().map(|tree| tree.left(left).len()).sum();
    let files = compared.iter().flat_map(ComparedTree::files).collect();
    DriftRecord { left, ..drift::record(repository, files, revision, now) }
}

/// The paths that are not repaired again within the hour; none where nothing is repaired.
fn left_alone(repository: &Repository, now: DateTime<Utc>) -> BTreeSet<Vec<u8>> {
    match repository.repo.settings.policy.drift.on {
        OnDrift::Repair => drift::left_alone(repository, now),
        OnDrift::Report | OnDrift::Ignore => BTreeSet::new(),
    }
}

/// Replaces the record; what an earlier repair left to do, and its mention, stay.
fn put(repository: &Repository, record: DriftRecord) -> Result<()> {
    let mut memory = repository.records.memory()?;
    let (pending, repaired) = match memory.drift.take() {
        Some(before) => (before.pending, before.repaired),
        None => (None, None),
    };
    let (pending, repaired) = (record.pending.or(pending), record.repaired.or(repaired));
    memory.drift = Some(DriftRecord { pending, repaired, ..record });
    repository.records.put_memory(&memory)
}

/// Records at each ref whether its release has something to repair.
fn mark_refs(
    repository: &Repository,
    compared: &[ComparedTree],
    left: &BTreeSet<Vec<u8>>,
) -> Result<()> {
    if !repository.fetches_all() {
        return Ok(());
    }
    let mut book = repository.records.book()?;
    let before = book.clone();
    for entry in book.values_mut() {
        let tree = of_release(compared, entry.directory.as_deref(), entry.shown);
        entry.is_drifted = tree.is_some_and(|tree| tree.found.len() > tree.left(left).len());
    }
    if book == before { Ok(()) } else { repository.records.put_book(&book) }
}

/// The release of `revision` in `directory`.
fn of_release<'t>(
    compared: &'t [ComparedTree],
    directory: Option<&str>,
    revision: Option<Commit>,
) -> Option<&'t ComparedTree> {
    let is_it = |tree: &&ComparedTree| {
        Some(tree.directory.as_str()) == directory && Some(tree.revision) == revision
    };
    compared.iter().find(is_it)
}

/// A repair of files that are kept, ready to be written.
pub struct ReadyRepair {
    worktree: Worktree,
    /// What is written, and the directory of what was there; `None`: only the scripts are still to run.
    kept: Option<(KeptChange, Dir)>,
}

/// Compares once more, keeps what is to be replaced, and records that a repair begins; `None`: there is nothing to
/// repair, or it is not possible now, which is recorded.
///
/// # Errors
/// When a record cannot be read or written.
pub fn prepare(
    repository: &Repository,
    revision: Commit,
    now: DateTime<Utc>,
) -> Result<Option<ReadyRepair>> {
    let mut compared = match drift::compare(repository, revision) {
        Ok(compared) => compared,
        Err(error) => {
            put(repository, faulty(repository, revision, &error, now))?;
            return Ok(None);
        }
    };
    let left = left_alone(repository, now);
    let record = with_left(repository, &compared, &left, revision, now);
    let pending = drift::pending(repository)?;
    let has_work = record.files > record.left || pending.is_some();
    let Some(tree) = compared.pop().filter(|_| has_work) else {
        put(repository, record)?;
        return Ok(None);
    };
    let remains = if repository.publishes() { Vec::new() } else { tree.left(&left) };
    let count = remains.len();
    // As it will be: a worker that dies from now on compares again, because of what is pending.
    let after = DriftRecord { left: count, ..drift::record(repository, remains, revision, now) };
    let places = places(repository, &tree, &left);
    if pending.is_some() && places.is_empty() {
        put(repository, after)?;
        return Ok(Some(ReadyRepair { worktree: tree.worktree, kept: None }));
    }
    match keep_one(repository, &tree, &places, pending.as_ref(), now) {
        Ok((kept, repair)) => {
            let repaired = Some(repair.mention(repository, now));
            put(repository, DriftRecord { pending: Some(repair.name), repaired, ..after })?;
            Ok(Some(ReadyRepair { worktree: tree.worktree, kept: Some((kept, repair.dir)) }))
        }
        Err(error) => {
            put(repository, DriftRecord { unrepaired: unrepaired(repository, &error), ..record })?;
            Ok(None)
        }
    }
}

/// Keeps what a repair of the one tree replaces, whole or not at all.
fn keep_one(
    repository: &Repository,
    tree: &ComparedTree,
    places: &[usize],
    pending: Option<&PendingRepair>,
    now: DateTime<Utc>,
) -> Result<(KeptChange, RepairDir)> {
    let mut repair = RepairDir::begin(repository, now)?;
    let kept = repair.keep(repository, tree, places, pending);
    let kept = kept.and_then(|kept| repair.put_list(repository).map(|()| kept));
    if kept.is_err() {
        // What stays there is removed with its time.
        let _ = repository.records.drop_kept(&repair.name);
    }
    Ok((kept?, repair))
}

/// The places of `tree` that a repair writes anew: those that are not left; at a target all that differ, since another
/// release takes the place of the whole one.
fn places(repository: &Repository, tree: &ComparedTree, left: &BTreeSet<Vec<u8>>) -> Vec<usize> {
    let is_whole = repository.publishes();
    let is_left = |at: usize| {
        let op = tree.tree.ops.get(at);
        op.is_none_or(|op| left.contains(tree.key(&op.path).as_bytes()))
    };
    let found = tree.found.iter().filter(|(at, _)| is_whole || !is_left(*at));
    let ignored = tree.ignored.iter().filter(|_| is_whole);
    let mut places: Vec<usize> = found.chain(ignored).map(|(at, _)| *at).collect();
    places.sort_unstable();
    places
}

/// Logs why nothing is repaired, and returns it as the record has it.
fn unrepaired(repository: &Repository, error: &anyhow::Error) -> Option<String> {
    let reason = one_line(error);
    tracing::warn!(repository = %repository.repo.name, %reason, "not repaired");
    Some(reason)
}

/// The directory of a repair that begins, and what is kept in it.
struct RepairDir {
    name: String,
    dir: Dir,
    /// The paths that are written anew, and those of earlier repairs that the programs have not seen yet.
    paths: BTreeSet<Vec<u8>>,
    files: usize,
    first: String,
}

impl RepairDir {
    fn begin(repository: &Repository, now: DateTime<Utc>) -> Result<Self> {
        let (name, dir) = repository.records.begin_keeping(now)?;
        Ok(Self { name, dir, paths: BTreeSet::new(), files: 0, first: String::new() })
    }

    /// Keeps what is at `places` of `tree`, in the directory of the same name; `pending` is its earlier repair.
    fn keep(
        &mut self,
        repository: &Repository,
        tree: &ComparedTree,
        places: &[usize],
        pending: Option<&PendingRepair>,
    ) -> Result<KeptChange> {
        let change = tree.tree.selected(places.iter().copied(), &repository.git)?;
        let keys: Vec<_> = change.ops.iter().map(|op| tree.key(&op.path)).collect();
        let kept = match tree.directory.as_str() {
            "" => tree.worktree.keep(change, &self.dir)?,
            directory => {
                let into = self.dir.make(directory.as_bytes(), 0o700);
                let kept = into.map_err(Into::into).and_then(|into| {
                    self.dir.sync()?;
                    tree.worktree.keep(change, &into)
                });
                kept.inspect_err(|_| {
                    // What stays there is removed with its time.
                    let _ = repository.records.drop_kept(&format!("{}/{directory}", self.name));
                })?
            }
        };
        if self.files == 0 {
            self.first = keys.first().map(ToString::to_string).unwrap_or_default();
        }
        self.files += keys.len();
        let earlier = pending.and_then(|pending| pending.keys(repository)).unwrap_or_default();
        self.paths.extend(keys.into_iter().map(|key| key.as_bytes().to_vec()).chain(earlier));
        Ok(kept)
    }

    /// Writes the list of the paths.
    fn put_list(&self, repository: &Repository) -> Result<()> {
        repository.records.put_kept_paths(&self.name, &self.paths)
    }

    /// Logs the repair, and returns what is said of it.
    fn mention(&self, repository: &Repository, now: DateTime<Utc>) -> DriftRepair {
        let kept = repository.records.kept_dir(&self.name).display().to_string();
        let repair = DriftRepair { at: now, files: self.files, first: self.first.clone(), kept };
        let (name, what) = (&repository.repo.name, repair.sentence());
        tracing::info!(repository = %name, "{what}");
        syslog::send(syslog::SyslogLevel::Warning, &format!("{name}: {what}"));
        repair
    }
}

impl ReadyRepair {
    /// Writes worktree and index anew. A release is not written here: another one takes its place.
    ///
    /// # Errors
    /// When somebody changed a path since it was kept, or the disk is full or fails.
    pub fn write(&self, repository: &Repository) -> Result<()> {
        let Some((kept, into)) = self.kept.as_ref().filter(|_| !repository.publishes()) else {
            return Ok(());
        };
        let written = self.worktree.replace_kept(kept, into, &repository.git)?;
        repository.git.update_index(kept.change(), &written)
    }
}
