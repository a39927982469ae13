//! What is remembered of one repository between ticks, and how it is read back safely.
//!
//! ```text
//! NAME/.temp/nodeinfo/lastaction.txt     the last revision acted upon: the commit point
//! NAME/.temp/nodeinfo/currentaction.txt  see `lock`
//! NAME/.git/pmpy/                        0700
//!     lock, journal                      see `lock`
//!     state                              attempt, verdict, … (Memory)
//!     poll                               what the remote last said (Polled)
//!     hold                               who stopped it and why
//!     pin                                rolled back to this
//!     again                              a wake-up found it busy: one more pass
//!     repair                             what the last look for damage led to (Repair)
//!     collecting                         git's garbage collection, while it runs (Collecting)
//!     refs                               what upstream had at the last fetch (Listing)
//!     heard                              what it has now, from who asked to the worker (Listing)
//!     published                          what stands at the targets (Book)
//!     history                            finished runs, one JSON object a line
//!     changed                            the paths of the current action, for the scripts
//! ```
//!
//! Every reader takes only a small regular file: a FIFO, a link, a folder or a gigabyte in its place
//! is an answer, not a trap. Every writer goes through [`files::put`].

mod history;
mod listing;
mod polled;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::files;
use super::pid::Process;
use crate::domain::action::{Attempt, Finished};
use crate::domain::git::Commit;
use crate::domain::plan::{Hold, Pin, TreeWhen, Verdict};

pub use listing::{Fetched, Listing};
pub use polled::Polled;

/// The most that a state file may hold.
const CAP: u64 = 256 * 1024;
/// The version of what is written into `state`. A reader refuses what is newer than itself.
const FORMAT: u32 = 1;

/// The folders of one repository's records.
#[derive(Clone, Debug)]
pub struct Records {
    /// `.git/pmpy`
    pub private: PathBuf,
    /// `.temp/nodeinfo`
    pub public: PathBuf,
}

/// `lastaction.txt`, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastAction {
    /// No such file: never acted upon, or somebody asks to act again.
    Missing,
    /// It names this revision.
    Revision(Commit),
    /// It names nothing; counts as missing, and is told in the log.
    Unusable,
}

/// `state`: what a worker remembers, written under the lock only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The version of this format.
    pub format: u32,
    /// The latest attempt, unless it succeeded.
    pub attempt: Option<Attempt>,
    /// What an earlier pass found out about a revision.
    pub verdict: Option<Verdict>,
    /// A rewritten upstream revision that a person took.
    pub accepted: Option<Commit>,
    /// What the revision that was acted upon says of `when`.
    #[serde(default)]
    pub tree_when: Option<TreeWhen>,
    /// The latest success.
    pub acted: Option<Finished>,
    /// The machine-id under which the init ladder succeeded, for clones that the agent made.
    pub init_done: Option<String>,
    /// The agent made this clone, so the init ladder is due once.
    pub init_due: bool,
    /// Submodules were said to be left out.
    pub submodules_told: bool,
}

/// `repair`: what the last look for damage led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// When.
    pub at: DateTime<Utc>,
    /// What was the reason to look, in words.
    pub symptom: String,
    /// What it led to.
    pub led_to: LedTo,
    /// An object that is still missing, as a full id, and what was checked out then.
    pub lack: Option<(String, Option<Commit>)>,
}

/// What a look for damage led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedTo {
    /// Nothing is damaged.
    Sound,
    /// This was put right.
    Repaired(String),
    /// It cannot be put right now; a later tick may.
    Postponed(String),
    /// Only a person can put it right: how.
    Beyond(String),
}

/// `collecting`: git's garbage collection, which runs under the lock and may outlive a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collecting {
    /// Since when.
    pub since: DateTime<Utc>,
    /// The boot during which it began.
    pub boot_id: String,
    /// The process.
    pub process: Process,
    /// When its time is up, as time since boot.
    pub deadline: Duration,
}

impl Records {
    /// The records of the repository with this git directory and worktree.
    pub fn of(git_dir: &Path, worktree: &Path) -> Self {
        Self { private: git_dir.join("pmpy"), public: worktree.join(".temp/nodeinfo") }
    }

    /// Why nothing may be written here, with the remedy: a symbolic link would lead it elsewhere.
    pub fn obstacle(&self) -> Option<String> {
        let folders = [Some(self.private.as_path()), self.public.parent(), Some(&self.public)];
        let link = folders.into_iter().flatten().find(|folder| folder.is_symlink())?;
        let shown = link.display().to_string().escape_debug().to_string();
        Some(format!(
            "{shown} is a symbolic link, and the agent's records would be written elsewhere; \
             remove it: rm {shown}"
        ))
    }

    /// Makes the folders and keeps `.temp/` out of `git status`.
    ///
    /// # Errors
    /// When a folder cannot be made, or is a symbolic link.
    pub fn make(&self, git_dir: &Path) -> Result<()> {
        if let Some(obstacle) = self.obstacle() {
            anyhow::bail!(obstacle);
        }
        files::ensure_dir(&self.private, 0o700)?;
        if let Some(temp) = self.public.parent() {
            files::ensure_dir(temp, 0o755)?;
        }
        files::ensure_dir(&self.public, 0o755)?;
        exclude_temp(git_dir)
    }

    /// Whether [`Records::make`] has been here.
    pub fn exist(&self) -> bool {
        self.private.is_dir() && self.public.is_dir()
    }

    /// `lastaction.txt` and when it was written.
    pub fn last_action(&self) -> (LastAction, Option<DateTime<Utc>>) {
        let path = self.public.join("lastaction.txt");
        let unusable = |what: String| {
            tracing::warn!(file = %path.display(), found = %what, "counts as never acted upon");
            LastAction::Unusable
        };
        let found = match files::read_small(&path, 4096) {
            Ok(None) => LastAction::Missing,
            Ok(Some(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                text.trim().parse().map_or_else(
                    |_| {
                        unusable(
                            text.chars().take(60).collect::<String>().escape_debug().to_string(),
                        )
                    },
                    LastAction::Revision,
                )
            }
            Err(error) => unusable(error.to_string()),
        };
        let at = match found {
            LastAction::Revision(_) => {
                std::fs::symlink_metadata(&path).and_then(|meta| meta.modified()).ok()
            }
            _ => None,
        };
        (found, at.map(DateTime::from))
    }

    /// Everything but the last step of writing `lastaction.txt`: once this stands, recording a
    /// success needs no space on the disk any more.
    ///
    /// # Errors
    /// When it cannot be written, or its name is a folder's: no rename replaces that.
    pub fn prepare_last_action(&self, revision: Commit) -> Result<files::Prepared> {
        let path = self.public.join("lastaction.txt");
        if path.is_dir() && !path.is_symlink() {
            anyhow::bail!("{0} is a folder\nhint: rm -r {0}", path.display());
        }
        files::prepare(&self.public, "lastaction.txt", format!("{revision}\n").as_bytes(), 0o644)
    }

    /// `state`. One that is damaged (say by a dying disk) is put aside and counts as empty: what it
    /// held is worth less than a repository that stays stuck.
    ///
    /// # Errors
    /// When it is no regular file, or was written by a newer agent.
    pub fn memory(&self) -> Result<Memory> {
        let Some(bytes) = self.read("state")? else {
            return Ok(Memory { format: FORMAT, ..Memory::default() });
        };
        if is_newer(&bytes, FORMAT) {
            anyhow::bail!(
                "{} was written by a newer agent\nhint: run that one, or remove the file; \
                 the count of attempts goes with it",
                self.private.join("state").display()
            );
        }
        match serde_json::from_slice::<Memory>(&bytes) {
            Ok(memory) => Ok(memory),
            Err(error) => {
                tracing::warn!(file = %self.private.join("state").display(), %error,
                    "the state file is damaged and put aside");
                let _ =
                    std::fs::rename(self.private.join("state"), self.private.join("state.damaged"));
                Ok(Memory { format: FORMAT, ..Memory::default() })
            }
        }
    }

    /// Replaces `state`.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn put_memory(&self, memory: &Memory) -> Result<()> {
        self.put("state", memory)
    }

    /// `poll`; what cannot be read counts as never asked.
    pub fn polled(&self) -> Polled {
        self.read("poll")
            .ok()
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Replaces `poll`.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn put_polled(&self, polled: &Polled) -> Result<()> {
        files::put_lazily(&self.private, "poll", &serde_json::to_vec(polled)?, 0o600)
    }

    /// `repair`; what cannot be read counts as never looked.
    pub fn repair(&self) -> Option<Repair> {
        self.read("repair").ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// Replaces `repair`.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn put_repair(&self, repair: &Repair) -> Result<()> {
        self.put("repair", repair)
    }

    /// `collecting`; what cannot be read counts as none.
    pub fn collecting(&self) -> Option<Collecting> {
        self.read("collecting").ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// Replaces `collecting`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_collecting(&self, collecting: &Collecting) -> Result<()> {
        self.put("collecting", collecting)
    }

    /// Removes `collecting`.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn collected(&self) -> Result<()> {
        files::remove(&self.private, "collecting")
    }

    /// `hold`. One that cannot be read holds all the same, since it was written (or `now`, where
    /// that is not known either): nobody stops a machine by mistake.
    pub fn hold(&self, now: DateTime<Utc>) -> Option<Hold> {
        let path = self.private.join("hold");
        let damaged = |reason: String| {
            let written = std::fs::symlink_metadata(path).and_then(|meta| meta.modified());
            Hold {
                by: "a hold file that cannot be read".to_owned(),
                reason,
                since: written.map_or(now, DateTime::from),
                until: None,
            }
        };
        match self.read("hold") {
            Ok(None) => None,
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(hold) => Some(hold),
                Err(error) => Some(damaged(error.to_string())),
            },
            Err(error) => Some(damaged(format!("{error:#}"))),
        }
    }

    /// Writes `hold`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_hold(&self, hold: &Hold) -> Result<()> {
        self.put("hold", hold)
    }

    /// Removes `hold`.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn lift_hold(&self) -> Result<()> {
        files::remove(&self.private, "hold")
    }

    /// `pin`: rolled back to this.
    ///
    /// # Errors
    /// When it cannot be read: going forward by mistake would undo what somebody did at night.
    pub fn pin(&self) -> Result<Option<Pin>> {
        let Some(bytes) = self.read("pin")? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).with_context(|| {
            format!(
                "{} is damaged\nhint: agent unhold lifts it",
                self.private.join("pin").display()
            )
        })
    }

    /// Writes `pin`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_pin(&self, pin: &Pin) -> Result<()> {
        self.put("pin", pin)
    }

    /// Removes `pin`; tells whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn lift_pin(&self) -> Result<bool> {
        let pinned = self.private.join("pin").symlink_metadata().is_ok();
        files::remove(&self.private, "pin")?;
        Ok(pinned)
    }

    /// Asks the worker that is busy now for one more pass.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn ask_again(&self) -> Result<()> {
        // It is between processes that live: whatever cuts them all off, the next tick looks anyway.
        files::put_lazily(&self.private, "again", b"", 0o600)
    }

    /// Whether somebody asked for one more pass, and takes the wish off the table.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn asked_again(&self) -> Result<bool> {
        let asked = self.private.join("again").exists();
        if asked {
            files::remove_lazily(&self.private, "again")?;
        }
        Ok(asked)
    }

    /// The file with the changed paths, NUL-separated; returns where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_changed(&self, paths: &[u8]) -> Result<PathBuf> {
        files::put_lazily(&self.private, "changed", paths, 0o644)?;
        Ok(self.private.join("changed"))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(files::read_small(&self.private.join(name), CAP)?)
    }

    fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        files::put(&self.private, name, &serde_json::to_vec(value)?, 0o600)
    }
}

/// Whether a later version of the agent wrote this. All that can be known of its format is its number.
pub(super) fn is_newer(bytes: &[u8], ours: u32) -> bool {
    #[derive(Deserialize)]
    struct Numbered {
        format: u32,
    }
    serde_json::from_slice::<Numbered>(bytes).is_ok_and(|found| found.format > ours)
}

/// Puts `.temp/` into `.git/info/exclude`, once.
fn exclude_temp(git_dir: &Path) -> Result<()> {
    let info = git_dir.join("info");
    let path = info.join("exclude");
    let mut text = files::read_small(&path, CAP)?.unwrap_or_default();
    if text.split(|&byte| byte == b'\n').any(|line| line == b".temp/" || line == b"/.temp/") {
        return Ok(());
    }
    files::ensure_dir(&info, 0o755)?;
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(b"/.temp/\n");
    files::put(&info, "exclude", &text, 0o644)
}
