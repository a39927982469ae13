//! What dead processes leave in a repository: locks, temporary files, half-received packs. Removes
//! only what the rules here name, and never enters a folder that somebody else made.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::files;

/// How old a lock that is nobody's has to be before it goes.
const STALE: Duration = Duration::from_secs(600);

/// How far the clock that dates files may be behind the wall clock.
const LAG: Duration = Duration::from_secs(1);

/// After a run of ours that began at `since` died: its locks (those younger than it that no process
/// has open) and its half-received packs. The worktree sweeps itself.
///
/// # Errors
/// When a folder cannot be read or a file not removed.
pub fn after_death(git_dir: &Path, since: DateTime<Utc>) -> Result<()> {
    // Files are dated by a clock that lags behind by a few milliseconds.
    let since = SystemTime::from(since).checked_sub(LAG).unwrap_or(SystemTime::UNIX_EPOCH);
    remove_locks(git_dir, |modified| modified >= since)?;
    files::sweep(git_dir)?;
    files::sweep(&git_dir.join("info"))?;
    remove_temporaries(git_dir, |modified| modified >= since)
}

/// Removes what nobody can need any more: locks and temporary files that are older than ten minutes
/// and open in no process.
///
/// # Errors
/// When a folder cannot be read or a file not removed.
pub fn stale(git_dir: &Path, now: DateTime<Utc>) -> Result<()> {
    let limit = SystemTime::from(now).checked_sub(STALE).unwrap_or(SystemTime::UNIX_EPOCH);
    remove_locks(git_dir, |modified| modified <= limit)?;
    remove_temporaries(git_dir, |modified| modified <= limit)
}

/// A lock of git's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Where.
    pub path: PathBuf,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// The locks that stand in the way of whoever writes refs, the index or the configuration.
///
/// # Errors
/// When a folder cannot be read.
pub fn locks(git_dir: &Path) -> Result<Vec<Lock>> {
    let mut found = Vec::new();
    find_locks(&git_dir.join("refs"), &mut found)?;
    for name in ["index.lock", "HEAD.lock", "packed-refs.lock", "config.lock", "shallow.lock"] {
        found.push(git_dir.join(name));
    }
    Ok(found
        .into_iter()
        .filter_map(|path| {
            let since = path.symlink_metadata().and_then(|meta| meta.modified()).ok()?;
            Some(Lock { path, since: since.into() })
        })
        .collect())
}

/// A file as it was found: one that is made anew under the same name is another.
type Found = (PathBuf, (u64, i64, i64));

fn found(path: &Path, counts: &impl Fn(SystemTime) -> bool) -> Option<Found> {
    let meta = path.symlink_metadata().ok()?;
    let counts = meta.modified().is_ok_and(counts);
    counts.then(|| (path.to_owned(), (meta.ino(), meta.ctime(), meta.ctime_nsec())))
}

fn remove_locks(git_dir: &Path, counts: impl Fn(SystemTime) -> bool) -> Result<()> {
    let mut locks = Vec::new();
    find_locks(git_dir, &mut locks)?;
    // First the locks, then the processes: whoever took one of these is seen if it still lives. A git
    // command that begins meanwhile takes another lock, which is left to it.
    let locks: Vec<Found> = locks.iter().filter_map(|path| found(path, &counts)).collect();
    if locks.is_empty() || git_works_in(git_dir) {
        return Ok(());
    }
    remove_unless_open(locks)
}

fn remove_unless_open(files: Vec<Found>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let open = open_files();
    for file in files {
        let path = &file.0;
        // Open files are known by their paths without symbolic links.
        let is_open = path.canonicalize().map_or(true, |real| open.contains(&real));
        if !is_open && found(path, &|_| true).as_ref() == Some(&file) {
            tracing::info!(file = %path.display(), "left by a dead process: removed");
            remove(path)?;
        }
    }
    Ok(())
}

/// Every `*.lock` under `.git`, the folders of loose objects left out.
fn find_locks(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let loose = folder.ends_with("objects") && name.len() == 2;
            if !loose {
                find_locks(&entry.path(), found)?;
            }
        } else if name.as_bytes().ends_with(b".lock") {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Whether a git command of somebody's runs in the repository. Some hold a lock without having it
/// open, a commit for as long as its editor is.
fn git_works_in(git_dir: &Path) -> bool {
    let Some(Ok(worktree)) = git_dir.parent().map(Path::canonicalize) else { return false };
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().map(|process| process.path()).any(|process| {
        let is_git = std::fs::read(process.join("comm")).is_ok_and(|name| name.starts_with(b"git"));
        // One that stays for good holds no lock for long.
        let stays = || {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            line.windows(b"daemon".len()).any(|word| word == b"daemon")
        };
        let is_here = || {
            std::fs::read_link(process.join("cwd"))
                .is_ok_and(|folder| folder.starts_with(&worktree))
        };
        is_git && is_here() && !stays()
    })
}

/// The files that some process has open, as far as we may look.
fn open_files() -> HashSet<PathBuf> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return HashSet::new() };
    processes
        .flatten()
        .filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok())
        .flat_map(|handles| handles.flatten())
        .filter_map(|handle| std::fs::read_link(handle.path()).ok())
        .collect()
}

/// Packs and objects that a dead process was writing: libgit2's `pack_git2_*`, which nothing else ever
/// removes and which count whatever their age, and git's `tmp_*`
/// and `.tmp-*`.
fn remove_temporaries(git_dir: &Path, counts: impl Fn(SystemTime) -> bool) -> Result<()> {
    let objects = git_dir.join("objects");
    let (mut received, mut temporary) = (Vec::new(), Vec::new());
    for folder in [objects.join("pack"), objects] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
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

/// Removes the files and folders directly in `folder` that `is_old` picks by name and last change.
///
/// # Errors
/// When one cannot be removed. A missing folder is fine.
pub fn expired(folder: &Path, is_old: impl Fn(&str, SystemTime) -> bool) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(meta) = entry.metadata() else { continue };
        // Renaming a file changes this time, and not that of its content.
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

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
