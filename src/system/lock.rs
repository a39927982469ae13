//! The right to act upon one repository, and what a run leaves behind when it dies.
//!
//! - `.git/pmpy/lock` is held with flock(2) for as long as a worker works. It is never unlinked;
//!   should somebody do so, the holder of the old file no longer counts, which the check of the
//!   inode after locking shows. The kernel lets go when the holder dies.
//! - `.git/pmpy/journal` says how far the run is. Each step is written down before it is made, so
//!   that the next run can put right whatever a death leaves.
//! - `.temp/nodeinfo/currentaction.txt` tells people and scripts which revision is acted upon. One
//!   that the journal does not know is somebody else's and holds the repository.
//!
//! Knows neither git nor scripts.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::files;
use super::node;
use super::pid::Process;
use super::record::{Records, is_newer};
use crate::domain::action::{Outcome, Trigger};
use crate::domain::git::{Commit, RefName};
use crate::domain::plan::Hold;

const CURRENT: &str = "currentaction.txt";
const JOURNAL: &str = "journal";
/// The version of what is written into the journal.
const FORMAT: u32 = 1;

/// How far a run is, and all that is needed to put it right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The version of this format.
    pub format: u32,
    /// The same for every record of this run.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// Why it happens.
    pub trigger: Trigger,
    /// When it began.
    pub since: DateTime<Utc>,
    /// The boot during which it ran: after another one none of its processes is alive.
    pub boot_id: String,
    /// The worker.
    pub worker: Process,
    /// What it acts upon; from `Apply` on.
    pub step: Option<Step>,
}

/// What a run acts upon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The branch that is followed; in a worktree the one that moves.
    pub branch: RefName,
    /// The full name of the ref, where each of several is acted upon by itself.
    #[serde(default)]
    pub reference: Option<String>,
    /// From where.
    pub head: Option<Commit>,
    /// To where.
    pub target: Commit,
    /// `lastaction.txt` before it.
    pub previous: Option<Commit>,
    /// 1, 2, 3 …
    pub attempt: u32,
    /// An earlier run of the same revision was cut off.
    pub resumed: bool,
    /// What was written into `currentaction.txt`.
    pub current: Option<Identity>,
    /// The script that runs; in `Run`.
    pub script: Option<Running>,
    /// The script that did not succeed; in `Done`.
    #[serde(default)]
    pub culprit: Option<String>,
    /// The name of the log file.
    pub log: Option<String>,
    /// How the scripts ended; in `Done`.
    pub ended: Option<Ending>,
}

/// The script of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub process: Process,
    /// When its time is up, as time since boot.
    pub deadline: Duration,
}

/// How the scripts of a journal ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// How long they took.
    pub seconds: f64,
    /// When.
    pub at: DateTime<Utc>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It fetches; the worktree and the branch are as they were.
    Fetch,
    /// It writes the worktree, the index and the branch. To be carried on to its end.
    Apply,
    /// It runs the scripts; the worktree and the branch are at the target.
    Run,
    /// The scripts ended; to be recorded.
    Done,
}

/// What tells our `currentaction.txt` from one that somebody else wrote: a person's `echo` or
/// `touch` changes the time. Device and inode do not count, for they change when a disk is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Time of last modification: seconds.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: i64,
    /// What it says.
    pub text: String,
}

/// The held lock. Having the value is the permission to act; [`ActionLock::finish`] gives it back.
pub struct ActionLock {
    records: Records,
    file: File,
}

/// What trying to lock led to.
pub enum Tried {
    /// It is ours.
    Held(ActionLock),
    /// Another worker has it.
    Busy,
}

impl ActionLock {
    /// Tries to lock; never waits.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked at all.
    pub fn acquire(records: &Records) -> Result<Tried> {
        let path = records.private.join("lock");
        loop {
            let file = open_lock(&path)?;
            match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) => {}
                Err(error)
                    if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() =>
                {
                    return Ok(Tried::Busy);
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if is_still_at(&file, &path) {
                return Ok(Tried::Held(Self { records: records.clone(), file }));
            }
        }
    }

    /// Waits until the lock is free.
    ///
    /// # Errors
    /// As [`ActionLock::acquire`].
    pub fn wait(records: &Records) -> Result<Self> {
        let path = records.private.join("lock");
        loop {
            let file = open_lock(&path)?;
            fs2::FileExt::lock_exclusive(&file)
                .with_context(|| format!("cannot lock {}", path.display()))?;
            if is_still_at(&file, &path) {
                return Ok(Self { records: records.clone(), file });
            }
        }
    }

    /// The records that it protects.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Begins a run: from now on a death leaves a trace.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(&self, trigger: Trigger, boot_id: &str, now: DateTime<Utc>) -> Result<Journal> {
        let path = self.records.private.join("lock");
        if !is_still_at(&self.file, &path) {
            bail!("somebody removed {} while it was held", path.display());
        }
        let worker = Process::current();
        let journal = Journal {
            format: FORMAT,
            id: format!("{}-{}", now.format("%Y%m%dT%H%M%S%.9fZ"), worker.pid),
            phase: Phase::Fetch,
            trigger,
            since: now,
            boot_id: boot_id.to_owned(),
            worker,
            step: None,
        };
        // A power cut may take it or damage it: a damaged one says as much as this one does.
        let bytes = serde_json::to_vec(&journal)?;
        files::put_lazily(&self.records.private, JOURNAL, &bytes, 0o600)?;
        Ok(journal)
    }

    /// Writes down how far the run is.
    ///
    /// # Errors
    /// When the journal cannot be written; the old one stays.
    pub fn write(&self, journal: &Journal) -> Result<()> {
        files::put(&self.records.private, JOURNAL, &serde_json::to_vec(journal)?, 0o600)
    }

    /// Puts up `currentaction.txt` for `target`, with its identity in the journal first. `Some`:
    /// somebody else's was there before, nothing was changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn announce(&self, journal: &mut Journal, mut step: Step) -> Result<Option<Hold>> {
        let folder = &self.records.public;
        let text = format!("{}\n", step.target);
        let staged = files::prepare(folder, CURRENT, text.as_bytes(), 0o644)?;
        let meta = staged.metadata()?;
        step.current =
            Some(Identity { seconds: meta.mtime(), nanoseconds: meta.mtime_nsec(), text });
        journal.step = Some(step);
        journal.phase = Phase::Apply;
        self.write(journal)?;
        if staged.commit_unless_taken()? {
            return Ok(None);
        }
        let hold = current_action(&self.records)
            .map(|found| found.as_hold())
            .unwrap_or_else(|| bail_hold(journal.since));
        Ok(Some(hold))
    }

    /// Takes down `currentaction.txt` when it is the one that `journal` put up; anybody else's stays.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn withdraw(&self, journal: &Journal) -> Result<()> {
        let ours = journal.step.as_ref().and_then(|step| step.current.as_ref());
        match (current_action(&self.records), ours) {
            (Some(found), Some(ours)) if found.identity.as_ref() == Some(ours) => {
                files::remove(&self.records.public, CURRENT)
            }
            _ => Ok(()),
        }
    }

    /// Ends a run: the journal goes, then the lock.
    ///
    /// # Errors
    /// When the journal cannot be removed.
    pub fn finish(self) -> Result<()> {
        self.clear()?;
        drop(self.file);
        Ok(())
    }

    /// The journal goes, the lock stays: another pass follows.
    ///
    /// # Errors
    /// When the journal cannot be removed.
    pub fn clear(&self) -> Result<()> {
        // Should a power cut bring it back, it is what a death just before this line leaves.
        files::remove_lazily(&self.records.private, JOURNAL)
    }
}

fn bail_hold(since: DateTime<Utc>) -> Hold {
    Hold {
        by: CURRENT.to_owned(),
        reason: "it appeared and went while the action began".to_owned(),
        since,
        until: None,
    }
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The journal of a run that goes on or died; `None` when there is none.
///
/// # Errors
/// When it is no regular file, or was written by a newer agent. One that is damaged counts as a
/// run that died while fetching: the lock, not the journal, keeps runs apart.
pub fn journal(records: &Records) -> Result<Option<Journal>> {
    let path = records.private.join(JOURNAL);
    let Some(bytes) = files::read_small(&path, 64 * 1024)? else { return Ok(None) };
    if is_newer(&bytes, FORMAT) {
        bail!("{} was written by a newer agent\nhint: let that one finish its run", path.display());
    }
    match serde_json::from_slice::<Journal>(&bytes) {
        Ok(journal) => Ok(Some(journal)),
        Err(_) => Ok(Some(Journal {
            format: FORMAT,
            id: "damaged".to_owned(),
            phase: Phase::Fetch,
            trigger: Trigger::Cron,
            since: node::now(),
            boot_id: String::new(),
            worker: Process { pid: 0, start: 0 },
            step: None,
        })),
    }
}

/// The worker whose run is under way, when it is not this process.
///
/// # Errors
/// As [`journal`].
pub fn other_worker(records: &Records, boot_id: &str) -> Result<Option<Process>> {
    let worker = journal(records)?.filter(|run| run.boot_id == boot_id).map(|run| run.worker);
    Ok(worker.filter(|worker| *worker != Process::current() && worker.lives()))
}

/// `currentaction.txt`, as found.
#[derive(Clone, Debug)]
pub struct CurrentAction {
    /// What tells it from others; `None` for what is no small regular file.
    pub identity: Option<Identity>,
    /// Its text, or what it is instead.
    pub text: String,
    /// The owner's number.
    pub uid: u32,
    /// Since when it is there.
    pub since: DateTime<Utc>,
}

impl CurrentAction {
    /// As a hold by whoever wrote it.
    pub fn as_hold(&self) -> Hold {
        let text = self.text.trim();
        Hold {
            by: format!("{CURRENT} of {}", node::user_name(self.uid)),
            reason: if text.is_empty() { "no reason given" } else { text }.to_owned(),
            since: self.since,
            until: None,
        }
    }

    /// Whether `journal` put it up.
    pub fn is_of(&self, journal: &Journal) -> bool {
        let ours = journal.step.as_ref().and_then(|step| step.current.as_ref());
        ours.is_some() && self.identity.as_ref() == ours
    }
}

/// `currentaction.txt`, whatever is there under that name.
pub fn current_action(records: &Records) -> Option<CurrentAction> {
    let path = records.public.join(CURRENT);
    let meta = std::fs::symlink_metadata(&path).ok()?;
    let (text, identity) = match files::read_small(&path, 4096) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes?).into_owned();
            let identity = Identity {
                seconds: meta.mtime(),
                nanoseconds: meta.mtime_nsec(),
                text: text.clone(),
            };
            (text, Some(identity))
        }
        Err(error) => (error.to_string(), None),
    };
    let since = meta.modified().map_or_else(|_| node::now(), DateTime::from);
    Some(CurrentAction { identity, text, uid: meta.uid(), since })
}

/// Removes a `currentaction.txt` that is not ours; returns what it said.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_current_action(records: &Records) -> Result<Option<CurrentAction>> {
    let Some(found) = current_action(records) else { return Ok(None) };
    files::remove(&records.public, CURRENT)?;
    Ok(Some(found))
}
