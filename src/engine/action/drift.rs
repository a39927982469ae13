//! Drift in a worker, under the lock: looks for files that differ from the applied revision, and for a repair keeps
//! them and writes them anew. Runs no scripts.

use std::collections::BTreeSet;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::drift::{DriftRecord, DriftRepair, OnDrift};
use crate::engine::error::one_line;
use crate::engine::repository::Repository;
use crate::engine::repository::drift::{self, ComparedTree};
use crate::system::files::Dir;
use crate::system::syslog;
use crate::system::worktree::{KeptChange, Worktree};

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
    let paths = compared.iter().flat_map(ComparedTree::paths);
    let left = paths.filter(|(path, _)| left.contains(path.as_bytes())).count();
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
    let pending = repository.records.memory()?.drift.and_then(|it| it.pending);
    let has_work = record.files > record.left || pending.is_some();
    let Some(mut tree) = compared.pop().filter(|_| has_work) else {
        put(repository, record)?;
        return Ok(None);
    };
    let remains = tree.split_off(|path| left.contains(path.as_bytes()));
    // As it will be: a worker that dies from now on compares again, because of what is pending.
    let after = drift::record(repository, remains, revision, now);
    let after = DriftRecord { left: record.left, ..after };
    let (files, first) = (tree.found.len(), tree.paths().next().map(|(path, _)| path.to_string()));
    match keep(repository, tree, pending.as_deref(), now) {
        Ok((ready, name)) => {
            let kept = repository.records.kept_dir(&name).display().to_string();
            let repaired = first.map(|first| DriftRepair { at: now, files, first, kept });
            if let Some(repair) = &repaired {
                report(repository, repair);
            }
            put(repository, DriftRecord { pending: Some(name), repaired, ..after })?;
            Ok(Some(ready))
        }
        Err(error) => {
            let reason = one_line(&error);
            tracing::warn!(repository = %repository.repo.name, %reason, "not repaired");
            put(repository, DriftRecord { unrepaired: Some(reason), ..record })?;
            Ok(None)
        }
    }
}

fn report(repository: &Repository, repair: &DriftRepair) {
    let (name, what) = (&repository.repo.name, repair.sentence());
    tracing::info!(repository = %name, "{what}");
    syslog::send(syslog::SyslogLevel::Warning, &format!("{name}: {what}"));
}

/// Keeps what is at the places of `tree` that differ. Also returns the name of the directory, whose list has the paths
/// of the repair `pending` too: its scripts have not seen them yet.
fn keep(
    repository: &Repository,
    tree: ComparedTree,
    pending: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(ReadyRepair, String)> {
    let records = &repository.records;
    let places = tree.found.iter().map(|(at, _)| *at);
    let change = tree.tree.selected(places, &repository.git)?;
    let worktree = tree.worktree;
    if let (Some(pending), true) = (pending, change.ops.is_empty()) {
        return Ok((ReadyRepair { worktree, kept: None }, pending.to_owned()));
    }
    let (name, into) = records.begin_keeping(now)?;
    let before = pending.and_then(|pending| records.kept_paths(pending)).unwrap_or_default();
    let paths = change.ops.iter().map(|op| op.path.as_bytes().to_vec());
    let paths: BTreeSet<Vec<u8>> = paths.chain(before).collect();
    let kept = worktree.keep(change, &into).and_then(|kept| {
        records.put_kept_paths(&name, &paths)?;
        Ok(kept)
    });
    match kept {
        Ok(kept) => Ok((ReadyRepair { worktree, kept: Some((kept, into)) }, name)),
        Err(error) => {
            // What stays there is removed with its time.
            let _ = records.drop_kept(&name);
            Err(error)
        }
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
