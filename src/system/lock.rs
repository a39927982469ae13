//! The lock of one repository, and the files that a run leaves behind when it dies.
//!
//! - `.git/pmpy/lock` is held with flock(2) for as long as a worker works. It is never unlinked; if
//!   somebody unlinks it, the holder of the old file no longer counts, which the check of the inode
//!   after locking detects. The kernel releases the lock when the holder dies.
//! - `.git/pmpy/journal` records the phase of the run. Each step is written before it is made, so that
//!   the next run can repair what a crash leaves.
//! - `.temp/nodeinfo/currentaction.txt` shows people and scripts which revision is being deployed. One
//!   that the journal does not know is another user's and holds the repository.
//!
//! Knows neither git nor scripts.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use rustix::fs::OFlags;

use self::journal::{ENDED, JOURNAL};
use super::files::{self, ReadError};
use super::pid::Process;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::hold::Hold;
use crate::system::repo_state::RepoRecords;
use crate::system::{host, users};

mod journal;

pub use journal::{
    FileIdentity, Journal, JournalStep, RunPhase, RunningCheck, RunningScript, ScriptEnding,
    journal,
};

const CURRENT: &str = "currentaction.txt";

/// The held lock of a repository, required for every change to it; dropping it releases it.
pub struct ActionLock {
    records: RepoRecords,
    file: File,
}

/// Result of a try to lock.
pub enum TryLock {
    /// The lock is ours.
    Held(ActionLock),
    /// Another worker holds the lock.
    Busy,
}

impl ActionLock {
    /// Tries to take the lock without waiting.
    ///
    /// # Errors
    /// When the lock file cannot be created or locked.
    pub fn acquire(records: &RepoRecords) -> Result<TryLock> {
        let path = records.private.join("lock");
        loop {
            let file = open_lock(&path)?;
            match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) => {}
                Err(error)
                    if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() =>
                {
                    return Ok(TryLock::Busy);
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if is_still_at(&file, &path) {
                return Ok(TryLock::Held(Self { records: records.clone(), file }));
            }
        }
    }

    /// The records that the lock protects.
    pub fn records(&self) -> &RepoRecords {
        &self.records
    }

    /// Begins a run: writes the journal, so that a crash from now on leaves a trace.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(&self, trigger: Trigger, boot_id: &str, now: DateTime<Utc>) -> Result<Journal> {
        let path = self.records.private.join("lock");
        if !is_still_at(&self.file, &path) {
            bail!("{} was removed while it was held", path.display());
        }
        let journal = Journal::new(trigger, boot_id, now);
        // A power cut may lose or damage it: a damaged journal is read as this one, a run that died
        // while fetching.
        let bytes = serde_json::to_vec(&journal)?;
        files::put_lazily(&self.records.private, JOURNAL, &bytes, 0o600)?;
        Ok(journal)
    }

    /// Replaces the journal with the current state of the run.
    ///
    /// # Errors
    /// When the journal cannot be written; the old one stays.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        let (dir, bytes) = (&self.records.private, serde_json::to_vec(journal)?);
        match journal.phase {
            // A file of its own needs no sync: the records that follow are synced, and where a power cut
            // takes it before them, the journal says that the run died.
            RunPhase::Done { .. } => files::put_lazily(dir, ENDED, &bytes, 0o600),
            _ => files::put(dir, JOURNAL, &bytes, 0o600),
        }
    }

    /// Writes `currentaction.txt` for `target`, after its identity is in the journal. `Some`: another
    /// writer's file was there before, and nothing was changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_current_action(
        &self,
        journal: &mut Journal,
        step: JournalStep,
    ) -> Result<Option<Hold>> {
        let dir = &self.records.public;
        let text = format!("{}\n", step.target);
        let staged = files::prepare_lazily(dir, CURRENT, text.as_bytes(), 0o644)?;
        let meta = staged.metadata()?;
        journal.current =
            Some(FileIdentity { seconds: meta.mtime(), nanoseconds: meta.mtime_nsec(), text });
        journal.phase = RunPhase::Apply { step };
        self.write(journal)?;
        if staged.commit_unless_taken()? {
            return Ok(None);
        }
        let hold = current_action(&self.records)
            .map(|found| found.as_hold())
            .unwrap_or_else(|| bail_hold(journal.since));
        Ok(Some(hold))
    }

    /// Removes `currentaction.txt` if `journal` wrote it; another writer's file stays.
    ///
    /// # Errors
    /// When it cannot be read or removed: the journal must then stay, because without it our own file
    /// would hold the repository as a foreign one does.
    pub fn remove_current_action(&self, journal: &Journal) -> Result<()> {
        self.remove_own_current_action(journal, files::remove)
    }

    /// As [`ActionLock::remove_current_action`], before something else syncs its directory.
    ///
    /// # Errors
    /// When it cannot be read or removed.
    pub fn remove_current_action_lazily(&self, journal: &Journal) -> Result<()> {
        self.remove_own_current_action(journal, files::remove_lazily)
    }

    fn remove_own_current_action(
        &self,
        journal: &Journal,
        remove: impl FnOnce(&Path, &str) -> Result<()>,
    ) -> Result<()> {
        match read_current_action(&self.records)? {
            Some(found) if found.is_of(journal) => remove(&self.records.public, CURRENT),
            _ => Ok(()),
        }
    }

    /// Removes the journal.
    ///
    /// # Errors
    /// When the journal cannot be removed.
    pub fn remove_journal(&self) -> Result<()> {
        // If a power cut brings it back, it is the same as what a crash just before this line leaves.
        files::remove_lazily(&self.records.private, JOURNAL)?;
        files::remove_lazily(&self.records.private, ENDED)
    }
}

fn bail_hold(since: DateTime<Utc>) -> Hold {
    Hold {
        by: CURRENT.to_owned(),
        reason: "it appeared and went while the action began".to_owned(),
        since,
        ..Hold::default()
    }
}

fn open_lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // A named pipe can be opened and locked too, by any process that has it open.
    ensure!(
        file.metadata().is_ok_and(|found| found.is_file()),
        "{0} is no plain file\nhint: look at what it is, and remove it: rm {0}",
        path.display()
    );
    Ok(file)
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The live worker of the current run, unless it is this process; `None` when there is none.
///
/// # Errors
/// As [`journal`].
pub fn other_worker(records: &RepoRecords, boot_id: &str) -> Result<Option<Process>> {
    let worker = journal(records)?.filter(|run| run.boot_id == boot_id).map(|run| run.worker);
    Ok(worker.filter(|worker| *worker != Process::current() && worker.lives()))
}

/// Process that holds the lock of `records`; `None` when /proc does not show it.
pub fn holder(records: &RepoRecords) -> Option<Process> {
    let inode = std::fs::symlink_metadata(records.private.join("lock")).ok()?.ino().to_string();
    let all = std::fs::read_to_string("/proc/locks").ok()?;
    // A line is `1: FLOCK ADVISORY WRITE PID DEVICE:INODE …` (proc_locks(5)). Every file system may
    // have that inode number, so the process must have this very file open.
    all.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, file) = (words.next()?, words.nth(2)?.parse().ok()?, words.next()?);
        let is_it = kind == "FLOCK" && file.rsplit(':').next() == Some(&inode);
        Process::find(pid).filter(|process| is_it && has_open(*process, &records.private))
    })
}

/// Whether `process` has the lock file of this directory open.
fn has_open(process: Process, dir: &Path) -> bool {
    let lock = std::fs::canonicalize(dir).map(|dir| dir.join("lock"));
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid));
    let (Ok(lock), Ok(open)) = (lock, open) else { return false };
    open.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|path| path == lock))
}

/// The `currentaction.txt` of a repository, as found on disk.
#[derive(Clone, Debug)]
pub struct CurrentAction {
    /// Identity of the file; `None` when it is not a small regular file.
    pub identity: Option<FileIdentity>,
    /// Content, or a description of what is there instead.
    pub text: String,
    /// User id of the owner.
    pub uid: u32,
    /// Modification time.
    pub since: DateTime<Utc>,
}

impl CurrentAction {
    /// Converts the file to a hold by its owner.
    pub fn as_hold(&self) -> Hold {
        let text = self.text.trim();
        Hold {
            by: format!("{CURRENT} of {}", users::user_name(self.uid)),
            reason: if text.is_empty() { "no reason given" } else { text }.to_owned(),
            since: self.since,
            ..Hold::default()
        }
    }

    /// Whether `journal` records this file as its own.
    pub fn is_of(&self, journal: &Journal) -> bool {
        let (Some(ours), Some(found)) = (&journal.current, &self.identity) else { return false };
        // A power cut may have taken its content, which is not synced, and its exact time.
        let was_cut = || {
            found.text.is_empty()
                && (found.seconds - ours.seconds).abs() <= 1
                && journal.boot_id != host::boot_id()
        };
        found == ours || was_cut()
    }
}

/// Reads `currentaction.txt`, whatever has that name; `None` when there is nothing. One that cannot be
/// read counts as foreign, with the error as its text.
pub fn current_action(records: &RepoRecords) -> Option<CurrentAction> {
    read_current_action(records).unwrap_or_else(|error| {
        Some(CurrentAction {
            identity: None,
            text: error.to_string(),
            uid: rustix::process::geteuid().as_raw(),
            since: host::now(),
        })
    })
}

/// Reads `currentaction.txt`; `None` when there is nothing.
///
/// # Errors
/// When its attributes or its content cannot be read.
fn read_current_action(records: &RepoRecords) -> Result<Option<CurrentAction>> {
    let path = records.public.join(CURRENT);
    let meta = match std::fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
    };
    let (text, identity) = match files::read_small(&path, 4096) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let identity = FileIdentity {
                seconds: meta.mtime(),
                nanoseconds: meta.mtime_nsec(),
                text: text.clone(),
            };
            (text, Some(identity))
        }
        // Our own file is readable by everybody, so one that is not is foreign.
        Err(ReadError::Failed { cause, path }) if cause.kind() != ErrorKind::PermissionDenied => {
            return Err(ReadError::Failed { cause, path }.into());
        }
        Err(error) => (error.to_string(), None),
    };
    let since = meta.modified().map_or_else(|_| host::now(), DateTime::from);
    Ok(Some(CurrentAction { identity, text, uid: meta.uid(), since }))
}

/// Removes a foreign `currentaction.txt` and returns it; `None` when there was none.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_foreign_current_action(records: &RepoRecords) -> Result<Option<CurrentAction>> {
    let Some(found) = current_action(records) else { return Ok(None) };
    files::remove(&records.public, CURRENT)?;
    Ok(Some(found))
}
