//! Leftovers of dead processes in a repository: locks, temporary files, partial packs. Removes only
//! files named by the rules here, and never enters a directory that somebody else made.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::files;
use super::git::packs::STAGING;

/// Minimum age of a lock that no process has open before it is removed.
const STALE: Duration = Duration::from_secs(600);

/// Largest lag of the clock for file times behind the wall clock.
const LAG: Duration = Duration::from_secs(1);

/// Cleans up after a run of ours that began at `since` and died: its locks (created since then and open
/// in no process) and its partial packs. The worktree has its own sweep.
///
/// # Errors
/// When a directory cannot be read or a file cannot be removed.
pub fn after_death(git_dir: &Path, since: DateTime<Utc>) -> Result<()> {
    // File times come from a clock that lags behind by a few milliseconds.
    let since = SystemTime::from(since).checked_sub(LAG).unwrap_or(SystemTime::UNIX_EPOCH);
    remove_locks(git_dir, |modified| modified >= since)?;
    files::sweep(git_dir)?;
    files::sweep(&git_dir.join("info"))?;
    remove_temporaries(git_dir, |modified| modified >= since)
}

/// Removes unused leftovers: locks and temporary files that are older than ten minutes and open in no
/// process.
///
/// # Errors
/// When a directory cannot be read or a file cannot be removed.
pub fn stale(git_dir: &Path, now: DateTime<Utc>) -> Result<()> {
    let limit = SystemTime::from(now).checked_sub(STALE).unwrap_or(SystemTime::UNIX_EPOCH);
    remove_locks(git_dir, |modified| modified <= limit)?;
    remove_temporaries(git_dir, |modified| modified <= limit)
}

/// A lock file of git.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitLock {
    /// Path of the lock file.
    pub path: PathBuf,
    /// Modification time of the lock file.
    pub since: DateTime<Utc>,
}

/// Lists the git locks that block writes of refs, the index or the configuration.
///
/// # Errors
/// When a directory cannot be read.
pub fn locks(git_dir: &Path) -> Result<Vec<GitLock>> {
    let mut found = Vec::new();
    find_locks(&git_dir.join("refs"), &mut found)?;
    for name in ["index.lock", "HEAD.lock", "packed-refs.lock", "config.lock", "shallow.lock"] {
        found.push(git_dir.join(name));
    }
    Ok(found
        .into_iter()
        .filter_map(|path| {
            let since = path.symlink_metadata().and_then(|meta| meta.modified()).ok()?;
            Some(GitLock { path, since: since.into() })
        })
        .collect())
}

/// Path and identity of a file: a new file under the same name has another identity.
type FoundFile = (PathBuf, (u64, i64, i64));

fn found(path: &Path, counts: &impl Fn(SystemTime) -> bool) -> Option<FoundFile> {
    let meta = path.symlink_metadata().ok()?;
    let counts = meta.modified().is_ok_and(counts);
    counts.then(|| (path.to_owned(), (meta.ino(), meta.ctime(), meta.ctime_nsec())))
}

fn remove_locks(git_dir: &Path, counts: impl Fn(SystemTime) -> bool) -> Result<()> {
    let mut locks = Vec::new();
    find_locks(git_dir, &mut locks)?;
    // First list the locks, then the processes, so that a live owner of one of these is seen. A git
    // command that begins meanwhile takes another lock, which stays.
    let locks: Vec<FoundFile> = locks.iter().filter_map(|path| found(path, &counts)).collect();
    if locks.is_empty() || git_works_in(git_dir) {
        return Ok(());
    }
    remove_unless_open(locks)
}

fn remove_unless_open(files: Vec<FoundFile>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let open = open_files();
    for file in files {
        let path = &file.0;
        // The kernel shows open files by their paths without symbolic links.
        let is_open = path.canonicalize().map_or(true, |real| open.contains(&real));
        if !is_open && found(path, &|_| true).as_ref() == Some(&file) {
            tracing::info!(file = %path.display(), "left by a dead process: removed");
            files::remove_file(path)?;
        }
    }
    Ok(())
}

/// Finds every `*.lock` under `.git`, except in the directories of loose objects.
fn find_locks(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let loose = dir.ends_with("objects") && name.len() == 2;
            if !loose {
                find_locks(&entry.path(), found)?;
            }
        } else if name.as_bytes().ends_with(b".lock") {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Whether somebody's git command runs in the repository. Some hold a lock without having it open, such
/// as a commit while its editor is open.
fn git_works_in(git_dir: &Path) -> bool {
    let Some(Ok(worktree)) = git_dir.parent().map(Path::canonicalize) else { return false };
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().map(|process| process.path()).any(|process| {
        let is_git = std::fs::read(process.join("comm")).is_ok_and(|name| name.starts_with(b"git"));
        // A git daemon runs permanently but holds no lock for long.
        let stays = || {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            line.windows(b"daemon".len()).any(|word| word == b"daemon")
        };
        let is_here =
            || std::fs::read_link(process.join("cwd")).is_ok_and(|dir| dir.starts_with(&worktree));
        is_git && is_here() && !stays()
    })
}

/// Files that a process has open, as far as /proc shows them to us.
fn open_files() -> HashSet<PathBuf> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return HashSet::new() };
    processes
        .flatten()
        .filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok())
        .flat_map(|handles| handles.flatten())
        .filter_map(|handle| std::fs::read_link(handle.path()).ok())
        .collect()
}

/// Removes packs and objects that a dead process was writing: libgit2's `pack_git2_*` at any age,
/// because nothing else ever removes them, and git's `tmp_*` and `.tmp-*`.
fn remove_temporaries(git_dir: &Path, counts: impl Fn(SystemTime) -> bool) -> Result<()> {
    let objects = git_dir.join("objects");
    // Only the lock holder creates packs there, and this process holds the lock.
    match std::fs::remove_dir_all(git_dir.join(STAGING)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", objects.display()));
        }
        _ => {}
    }
    let (mut received, mut temporary) = (Vec::new(), Vec::new());
    for dir in [objects.join("pack"), objects] {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten().filter(|it| it.file_type().is_ok_and(|it| it.is_file())) {
            let name = entry.file_name();
            match name.as_bytes() {
                name if name.starts_with(b"pack_git2_") => {
                    received.extend(found(&entry.path(), &|_| true));
                }
                name if name.starts_with(b"tmp_") || name.starts_with(b".tmp-") => {
                    temporary.extend(found(&entry.path(), &counts));
                }
                _ => {}
            }
        }
    }
    remove_unless_open(received)?;
    remove_unless_open(temporary)
}

/// Removes files and directories directly in `directory` that `is_old` selects by name and change time.
///
/// # Errors
/// When one cannot be removed. A missing directory is no error.
pub fn expired(dir: &Path, is_old: impl Fn(&str, SystemTime) -> bool) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(meta) = entry.metadata() else { continue };
        // A rename updates the change time (ctime), but not the modification time.
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(meta.ctime().unsigned_abs());
        if name.to_str().is_some_and(|name| is_old(name, changed)) {
            let removed = match meta.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
