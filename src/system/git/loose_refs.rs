//! Moves a ref that has a file of its own, as git does: lock, content, log, name. libgit2 syncs, for each
//! ref, its file, its log and the directories of both, or nothing at all. Only the content has to be on disk
//! before the name: then the ref is whole after a power cut, and its log is not needed.
//!
//! It moves only what is as simple as that. Any other ref is left to libgit2.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::iter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use git2::Signature;
use rustix::fs::OFlags;

use super::Git;
use crate::domain::git::{Commit, ObjectId};
use crate::system::files;

/// Bytes of the file of a ref.
const MOST: u64 = 4096;

/// A lock file of git's, which is removed again unless it becomes the ref.
struct RefLock<'a> {
    path: &'a Path,
    file: File,
    is_renamed: bool,
}

impl Drop for RefLock<'_> {
    fn drop(&mut self) {
        if !self.is_renamed {
            // It is ours. One that stays is removed like that of a git command that was killed.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

impl Git {
    /// Points the ref `name` at `to`; `from` is what it must point at now, `None`: anything. `false`: nothing
    /// was done, because it is no ref with a file and a log of its own, is locked, or is elsewhere. A branch
    /// that `is_checked_out` is on disk afterwards; of any other ref a power cut may bring the old target
    /// back.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn move_loose_ref(
        &self,
        name: &str,
        (from, to): (Option<Commit>, Commit),
        message: &str,
        is_checked_out: bool,
    ) -> Result<bool> {
        if self.plain_ref(name).is_err() {
            return Ok(false);
        }
        let path = self.git_dir().join(name);
        let lock_path = self.git_dir().join(format!("{name}.lock"));
        let log = self.git_dir().join("logs").join(name);
        let is_now =
            || Some(Commit(content(&path)?)).filter(|now| from.is_none_or(|from| from == *now));
        // git logs the moves of the checked-out branch in the log of HEAD as well, if there is one.
        let log_of_head = is_checked_out.then(|| self.git_dir().join("logs/HEAD"));
        let log_of_head = log_of_head.filter(|log| log.symlink_metadata().is_ok());
        let logs: Vec<_> = iter::once(log).chain(log_of_head).collect();
        if is_now().is_none() || !logs.iter().all(|log| is_plain(log)) {
            return Ok(false);
        }
        let creation = OFlags::NOFOLLOW.bits().cast_signed();
        let made =
            OpenOptions::new().write(true).create_new(true).custom_flags(creation).open(&lock_path);
        let Ok(file) = made else { return Ok(false) };
        let mut lock = RefLock { path: &lock_path, file, is_renamed: false };
        // Under the lock no process that keeps to git's rules moves it.
        let Some(now) = is_now() else { return Ok(false) };
        if now == to {
            return Ok(true);
        }
        let failed = || format!("the ref {name} cannot be written");
        lock.file
            .write_all(format!("{to}\n").as_bytes())
            .and_then(|()| lock.file.sync_all())
            .with_context(failed)?;
        let line = self.log_line(now, to, message)?;
        logs.iter().try_for_each(|log| append(log, &line)).with_context(failed)?;
        std::fs::rename(&lock_path, &path).with_context(failed)?;
        lock.is_renamed = true;
        if let (true, Some(dir)) = (is_checked_out, path.parent()) {
            files::Dir::open(dir).and_then(|dir| dir.sync()).with_context(failed)?;
        }
        Ok(true)
    }

    /// A line of a log of refs (git-reflog(1)).
    fn log_line(&self, from: Commit, to: Commit, message: &str) -> Result<String> {
        let who = self.repo.signature().or_else(|_| Signature::now("unknown", "unknown"))?;
        let (name, email, when) = (who.name()?, who.email()?, who.when());
        let (sign, minutes) = (when.sign(), when.offset_minutes().abs());
        let message = message.replace(['\n', '\r'], " ");
        Ok(format!(
            "{from} {to} {name} <{email}> {} {sign}{:02}{:02}\t{message}\n",
            when.seconds(),
            minutes / 60,
            minutes % 60
        ))
    }
}

/// The id in the file of a ref; `None` when it is anything else.
fn content(path: &Path) -> Option<ObjectId> {
    let bytes = files::read_small(path, MOST).ok()??;
    std::str::from_utf8(&bytes).ok()?.strip_suffix('\n')?.parse().ok()
}

fn is_plain(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}

fn append(log: &Path, line: &str) -> std::io::Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().append(true).custom_flags(flags).open(log)?.write_all(line.as_bytes())
}
