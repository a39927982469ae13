//! Records of one repository that last between ticks, and their safe reading. Does not know what they
//! decide.
//!
//! ```text
//! NAME/.temp/nodeinfo/lastaction.txt     the last deployed revision: the commit point
//! NAME/.temp/nodeinfo/currentaction.txt  see `lock`
//! NAME/.git/pmpy/                        0700
//!     lock, journal                      see `lock`
//!     state                              attempt, finding, … (ActionState)
//!     poll                               last result of polling the remote (PollRecord)
//!     hold                               holds by people, with their reasons
//!     pin                                target of a rollback
//!     again                              request for one more pass while busy
//!     stop-check                         request of a rollback to end a health check
//!     repair                             result of the last check for damage (RepairRecord)
//!     collecting                         git's garbage collection, while it runs (RunningGc)
//!     refs                               refs of the remote at the last fetch (RefListing)
//!     heard                              refs just polled, for the worker (RefListing)
//!     canaries                           what the canaries have of the waiting revision (SeenCanaries)
//!     published                          what is published at the targets (PublishRecord)
//!     sealed                             releases that were written completely, one per line
//!     history                            finished runs and people's acts, one JSON object per line
//!     changed                            changed paths of the current action, for the scripts
//!     drift/TIME/, drift/TIME.paths      files that a repair of drift replaced, and all its paths
//!     compared                           when each published release was compared whole
//! ```
//!
//! Every reader accepts only a small regular file: a FIFO, a link, a directory or a huge file in its
//! place is an error or counts as missing, and never blocks. Every writer uses [`files::put`].

mod canaries;
mod drift;
mod history;
mod holds;
pub(super) mod ids;
mod listing;
mod polled;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::ids::ContainsIds;
use super::files;
use super::pid::Process;
use crate::domain::git::{Commit, ObjectFormat};
use crate::domain::repository::action::{ActionCounts, Attempt, FinishedRun, TriedRevisions};
use crate::domain::repository::drift::DriftRecord;
use crate::domain::repository::gaps::ContentGaps;
use crate::domain::repository::gate::{BegunAction, SignedRevision};
use crate::domain::repository::health::BadRevision;
use crate::domain::repository::observed::{Pin, RecordedFinding, TreeRerunPolicy};
use crate::domain::repository::sight::FirstSight;
use crate::domain::text::EscapeControls;

pub use canaries::SeenCanaries;
pub use listing::{ListedRef, RefListing};
pub use polled::PollRecord;

/// Largest state file that is read, in bytes.
const CAP: u64 = 256 * 1024;
/// Name of the file by which a rollback ends a health check.
const END_OF_CHECK: &str = "stop-check";
/// The age at which a rollback that waits writes that file anew.
const RENEWED_AFTER: Duration = Duration::from_secs(20);
/// Format version of `state`. A reader refuses a newer version than its own.
const FORMAT: u32 = 1;

/// The record directories of one repository.
#[derive(Clone, Debug)]
pub struct RepoRecords {
    /// `.git/pmpy`
    pub private: PathBuf,
    /// `.temp/nodeinfo`
    pub public: PathBuf,
    /// Object format of the repository; `None` when unknown. A record with an id of another length is
    /// damaged.
    pub format: Option<ObjectFormat>,
}

/// Content of `lastaction.txt`, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastAction {
    /// No such file: never deployed, or somebody requests another deployment by its removal.
    Missing,
    /// The last deployed revision.
    Revision(Commit),
    /// Invalid content; counts as missing, and a warning is logged.
    Unusable,
}

/// The file `state`: the worker's memory, written under the lock only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionState {
    /// Format version of the file.
    pub format: u32,
    /// The latest attempt, unless it succeeded.
    pub attempt: Option<Attempt>,
    /// The revisions tried since the last success.
    #[serde(default)]
    pub tried: TriedRevisions,
    /// Finding of an earlier pass about a revision.
    pub verdict: Option<RecordedFinding>,
    /// A rewritten upstream revision that an operator accepted.
    pub accepted: Option<Commit>,
    /// The revision whose own hold an operator passed.
    #[serde(default)]
    pub unheld: Option<Commit>,
    /// Keys in the `.pmpy.toml` of the deployed revision that this version ignores.
    #[serde(default)]
    pub ignored_keys: Vec<String>,
    /// Rerun policy (`when`) of the deployed revision's tree.
    #[serde(default)]
    pub tree_when: Option<TreeRerunPolicy>,
    /// What the deployed revision names and the agent does not fetch.
    #[serde(default)]
    pub gaps: Option<ContentGaps>,
    /// The newest revision that waits for a gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sight: Option<FirstSight>,
    /// The revision that the gates let begin last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<BegunAction>,
    /// The revision to which `before` said yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Commit>,
    /// File name of the log of the last question to `before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_log: Option<String>,
    /// The revisions that were judged by their signatures last and may be applied, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed: Vec<SignedRevision>,
    /// `urgent` of the revision that was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heeded: Option<String>,
    /// The revision that turned out bad last, until a newer one succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadRevision>,
    /// What the last comparison of the files with the applied revision found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftRecord>,
    /// When an action wrote the files of another revision last; `None`: by an older version, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<DateTime<Utc>>,
    /// How many runs ended with each outcome; `None`: no run of this version has ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<ActionCounts>,
    /// The latest successful run.
    pub acted: Option<FinishedRun>,
    /// Machine id under which the init scripts succeeded, for clones that the agent made.
    pub init_done: Option<String>,
    /// Whether the agent made this clone, so that the init scripts must run once.
    pub init_due: bool,
    /// Whether the notice that submodules are skipped was given.
    pub submodules_told: bool,
}

/// The file `repair`: result of the last check for damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRecord {
    /// Time of the check.
    pub at: DateTime<Utc>,
    /// Symptom that caused the check, as text.
    pub symptom: String,
    /// Outcome of the check.
    pub led_to: RepairOutcome,
    /// Full id of an object that is still missing, and the commit checked out at that time.
    pub lack: Option<(String, Option<Commit>)>,
}

/// Outcome of a check for damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairOutcome {
    /// No damage.
    Sound,
    /// Repaired, as described.
    Repaired(String),
    /// Not repairable now, as described; a later tick may succeed.
    Postponed(String),
    /// Only an operator can repair it, as described.
    Beyond(String),
}

/// The file `collecting`: git's garbage collection, which runs under the lock and may run longer than
/// its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningGc {
    /// Start time.
    pub since: DateTime<Utc>,
    /// Boot id of the start.
    pub boot_id: String,
    /// Process of git.
    pub process: Process,
    /// Timeout, as time since boot.
    pub deadline: Duration,
}

impl RepoRecords {
    /// The records of the repository with this git directory and worktree.
    pub fn of(git_dir: &Path, worktree: &Path) -> Self {
        let (private, public) = (git_dir.join("pmpy"), worktree.join(".temp/nodeinfo"));
        Self { private, public, format: None }
    }

    /// Sets the object format of the repository.
    pub fn in_format(self, format: ObjectFormat) -> Self {
        Self { format: Some(format), ..self }
    }

    /// Returns `record`, unless an id in it has the wrong length.
    ///
    /// # Errors
    /// When an id has the wrong length.
    pub(super) fn belonging<T: ContainsIds>(&self, record: T) -> Result<T> {
        match self.format.filter(|format| !record.are_of(*format)) {
            Some(format) => anyhow::bail!("it has an object id that is none of {format}"),
            None => Ok(record),
        }
    }

    fn parse<T: ContainsIds + DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        self.belonging(serde_json::from_slice(bytes)?)
    }

    /// Reason, with remedy, why the records must not be written: a symbolic link, or write access of
    /// others; `None` when they may.
    pub fn obstacle(&self) -> Option<String> {
        let dirs = [Some(self.private.as_path()), self.public.parent(), Some(&self.public)];
        let shown = |path: &Path| path.display().to_string().escape_controls();
        for dir in dirs.into_iter().flatten() {
            let Ok(found) = dir.symlink_metadata() else { continue };
            if found.is_symlink() {
                return Some(format!(
                    "{0} is a symbolic link, and the agent's records would be written elsewhere; \
                     remove it: rm {0}",
                    shown(dir)
                ));
            }
            if dir != self.private && !is_ours_alone(dir, &found) {
                let us = rustix::process::geteuid().as_raw();
                return Some(format!(
                    "others can write in {0}, and could hold this repository or have it act again; \
                     look at what is in it, then: chown {us} {0}; chmod go-w {0}",
                    shown(dir)
                ));
            }
        }
        None
    }

    /// Creates the directories and excludes `.temp/` from `git status`.
    ///
    /// # Errors
    /// When a directory cannot be created, or is a symbolic link.
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

    /// Whether [`RepoRecords::make`] has created the directories.
    pub fn exist(&self) -> bool {
        self.private.is_dir() && self.public.is_dir()
    }

    /// Reads `lastaction.txt` and its modification time.
    pub fn last_action(&self) -> (LastAction, Option<DateTime<Utc>>) {
        let path = self.public.join("lastaction.txt");
        let unusable = |what: String| {
            tracing::warn!(file = %path.display(), found = %what, "counts as never applied");
            LastAction::Unusable
        };
        let read = files::read_found(&path, 4096);
        let meta = read.as_ref().ok().and_then(Option::as_ref).map(|(_, meta)| meta.clone());
        let found = match read {
            Ok(None) => LastAction::Missing,
            Ok(Some((_, meta))) if !is_ours_alone(&path, &meta) => {
                unusable("others can write it".to_owned())
            }
            Ok(Some((bytes, _))) => {
                let text = String::from_utf8_lossy(&bytes);
                text.trim()
                    .parse()
                    .map_err(Into::into)
                    .and_then(|it| self.belonging(it))
                    .map_or_else(
                        |_: anyhow::Error| {
                            unusable(text.chars().take(60).collect::<String>().escape_controls())
                        },
                        LastAction::Revision,
                    )
            }
            Err(error) => unusable(error.to_string()),
        };
        let at = match found {
            LastAction::Revision(_) => meta.and_then(|meta| meta.modified().ok()),
            _ => None,
        };
        (found, at.map(DateTime::from))
    }

    /// Prepares `lastaction.txt` up to the final rename, so that recording a success needs no more disk
    /// space.
    ///
    /// # Errors
    /// When it cannot be written, or a directory has its name, which no rename replaces.
    pub fn prepare_last_action(&self, revision: Commit) -> Result<files::PreparedFile> {
        let path = self.public.join("lastaction.txt");
        if path.is_dir() && !path.is_symlink() {
            anyhow::bail!("{0} is a directory\nhint: rm -r {0}", path.display());
        }
        files::prepare(&self.public, "lastaction.txt", format!("{revision}\n").as_bytes(), 0o644)
    }

    /// Reads `state`. A damaged one, for instance on a failing disk, is renamed and counts as empty:
    /// its content is worth less than a blocked repository.
    ///
    /// # Errors
    /// When it is not a regular file, or a newer agent wrote it.
    pub fn memory(&self) -> Result<ActionState> {
        let Some(bytes) = self.read("state")? else {
            return Ok(ActionState { format: FORMAT, ..ActionState::default() });
        };
        if is_newer(&bytes, FORMAT) {
            anyhow::bail!(
                "{} was written by a newer agent\nhint: run that one, or remove the file; \
                 the count of attempts goes with it",
                self.private.join("state").display()
            );
        }
        match self.parse::<ActionState>(&bytes) {
            Ok(mut memory) => {
                // An older agent recorded the last attempt only.
                if let Some(attempt) = memory.attempt.as_ref().filter(|it| it.ran_scripts()) {
                    memory.tried.add(attempt.revision);
                }
                Ok(memory)
            }
            Err(error) => {
                tracing::warn!(file = %self.private.join("state").display(), %error,
                    "the state file is damaged and put aside");
                let _ =
                    std::fs::rename(self.private.join("state"), self.private.join("state.damaged"));
                Ok(ActionState { format: FORMAT, ..ActionState::default() })
            }
        }
    }

    /// Replaces `state`.
    ///
    /// # Errors
    /// When it cannot be written; the old file stays.
    pub fn put_memory(&self, memory: &ActionState) -> Result<()> {
        self.put("state", memory)
    }

    /// Reads `poll`; an unreadable file counts as never polled.
    pub fn polled(&self) -> PollRecord {
        self.read("poll")
            .ok()
            .flatten()
            .and_then(|bytes| self.parse(&bytes).ok())
            .unwrap_or_default()
    }

    /// Replaces `poll`.
    ///
    /// # Errors
    /// When it cannot be written; the old file stays.
    pub fn put_polled(&self, polled: &PollRecord) -> Result<()> {
        files::put_lazily(&self.private, "poll", &serde_json::to_vec(polled)?, 0o600)
    }

    /// Reads `repair`; `None` when it is missing or unreadable.
    pub fn repair(&self) -> Option<RepairRecord> {
        self.read("repair").ok().flatten().and_then(|bytes| self.parse(&bytes).ok())
    }

    /// Replaces `repair`.
    ///
    /// # Errors
    /// When it cannot be written; the old file stays.
    pub fn put_repair(&self, repair: &RepairRecord) -> Result<()> {
        self.put("repair", repair)
    }

    /// Reads `collecting`; `None` when it is missing or unreadable.
    pub fn collecting(&self) -> Option<RunningGc> {
        self.read("collecting").ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// Replaces `collecting`, in place: after the action no worker comes that would remove a temporary
    /// file. Cut off, it is unreadable, and git, which waits for this writer, never began.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_collecting(&self, collecting: &RunningGc) -> Result<()> {
        files::put_in_place(&self.private, "collecting", &serde_json::to_vec(collecting)?, 0o600)
    }

    /// Removes `collecting`.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn collected(&self) -> Result<()> {
        files::remove(&self.private, "collecting")
    }

    /// Reads `pin`, the target of a rollback.
    ///
    /// # Errors
    /// When it cannot be read: going forward by mistake would undo an operator's rollback.
    pub fn pin(&self) -> Result<Option<Pin>> {
        let Some(bytes) = self.read("pin")? else { return Ok(None) };
        self.parse(&bytes).map(Some).with_context(|| {
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

    /// Removes `pin`; `false` when there was none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn lift_pin(&self) -> Result<bool> {
        let pinned = self.private.join("pin").symlink_metadata().is_ok();
        files::remove(&self.private, "pin")?;
        Ok(pinned)
    }

    /// Requests one more pass from the worker that is busy now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn request_rerun(&self) -> Result<()> {
        // No sync, because only live processes use it: after a crash the next tick checks anyway.
        files::put_lazily(&self.private, "again", b"", 0o600)
    }

    /// Removes a request for one more pass; `false` when there was none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn take_rerun_request(&self) -> Result<bool> {
        let asked = self.private.join("again").exists();
        if asked {
            files::remove_lazily(&self.private, "again")?;
        }
        Ok(asked)
    }

    /// Requests the end of a health check, for which a rollback waits. Called again and again while it waits.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn request_end_of_check(&self) -> Result<()> {
        match self.age_of_end_of_check() {
            Some(age) if age < RENEWED_AFTER => Ok(()),
            _ => files::put_lazily(&self.private, END_OF_CHECK, b"", 0o600),
        }
    }

    /// Whether the end of a health check is requested by a rollback that still waits.
    pub fn wants_end_of_check(&self) -> bool {
        self.age_of_end_of_check().is_some_and(|age| age < 3 * RENEWED_AFTER)
    }

    fn age_of_end_of_check(&self) -> Option<Duration> {
        let found = self.private.join(END_OF_CHECK).symlink_metadata().ok()?;
        found.modified().ok()?.elapsed().ok()
    }

    /// Removes the request for the end of a health check.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_end_of_check(&self) -> Result<()> {
        match self.age_of_end_of_check() {
            Some(_) => files::remove_lazily(&self.private, END_OF_CHECK),
            None => Ok(()),
        }
    }

    /// Writes the changed paths, NUL-separated, and returns the path of the file: `changed` for number 0, and one of
    /// its own for each other number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_changed(&self, paths: &[u8], number: usize) -> Result<PathBuf> {
        let name = match number {
            0 => "changed".to_owned(),
            _ => format!("changed-{number}"),
        };
        files::put_lazily(&self.private, &name, paths, 0o600)?;
        Ok(self.private.join(name))
    }

    /// Removes the lists of programs that ran side by side. One that stays does no harm: the next run replaces it.
    pub fn remove_numbered_changes(&self) {
        let Ok(entries) = std::fs::read_dir(&self.private) else { return };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let number = name.strip_prefix("changed-");
            if number.is_some_and(|number| number.parse::<usize>().is_ok()) {
                let _ = files::remove_lazily(&self.private, &name);
            }
        }
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.private.join(name);
        files::read_small(&path, CAP).map_err(|error| self.with_remedy(error))
    }

    /// Adds the remedy where a file belongs to somebody else: mostly a script ran `chown -R` in the clone.
    fn with_remedy(&self, error: files::ReadError) -> anyhow::Error {
        let is_denied = matches!(&error, files::ReadError::Failed { cause, .. }
            if cause.kind() == std::io::ErrorKind::PermissionDenied);
        let clone = self.public.parent().and_then(Path::parent);
        let (Some(clone), true) = (clone, is_denied) else { return error.into() };
        let us = rustix::process::geteuid().as_raw();
        let hint = format!(
            "{error}\nhint: parts of the clone belong to different users, as after a chown -R in a \
             script: give all of it to one, chown -R {us} {}, and leave .git and .temp out in the script",
            clone.display()
        );
        anyhow::Error::new(error).context(hint)
    }

    fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        files::put(&self.private, name, &serde_json::to_vec(value)?, 0o600)
    }
}

/// Whether the file `found` at `path` belongs to us or root, and no other user may write it, also not by
/// an ACL (its mask is in the group bits). Without an ACL, a user's group is assumed to contain only
/// that user.
fn is_ours_alone(path: &Path, found: &Metadata) -> bool {
    let (us, mode) = (|| rustix::process::geteuid().as_raw(), found.mode());
    let has_list = || rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut [0; 0]).is_ok();
    let by_group = || (us() == 0 && found.gid() != 0) || has_list();
    let is_owned = found.uid() == 0 || found.uid() == us();
    is_owned && mode & 0o002 == 0 && (mode & 0o020 == 0 || !by_group())
}

/// Whether a newer agent wrote this file. Only the format number of such a file is known.
pub(super) fn is_newer(bytes: &[u8], ours: u32) -> bool {
    #[derive(Deserialize)]
    struct Numbered {
        format: u32,
    }
    serde_json::from_slice::<Numbered>(bytes).is_ok_and(|found| found.format > ours)
}

/// Adds `.temp/` to `.git/info/exclude`, once.
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
