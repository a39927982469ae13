//! What releases left behind, in `STORE/.left`: counts it, and removes it after its time or above its
//! limit. Works on open directories and follows no link: another user may have made what is in it.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, FileType, Statx};
use rustix::io::Errno;

use super::remove::remove_tree;
use super::{Dir, ReleaseStore, is_mount_point};
use crate::domain::publish::release_paths::{LEFT, LEFT_DAYS, LeftFiles, MAX_LEFT};
use crate::domain::repository::change::{MAX_DEPTH, RepoPath};
use crate::system::watchdog;

/// The limit of entries that are counted.
const MAX_COUNTED: usize = 100_000;

/// One file of a unit: a directory of `.left`, or a file in it.
struct LeftFile {
    dir: RepoPath,
    name: Vec<u8>,
    bytes: u64,
    /// When its unit and its content changed last, in seconds of Unix time.
    since: (i64, i64),
}

/// The result of a walk over `.left`.
#[derive(Default)]
struct LeftWalk {
    files: Vec<LeftFile>,
    entries: usize,
    /// Part of it was not counted.
    is_more: bool,
}

impl ReleaseStore {
    /// What releases of this store left behind; `None`: nothing.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn left_files(&self) -> Result<Option<LeftFiles>> {
        let path = self.path.join(LEFT);
        let message = || format!("cannot read {}", path.display());
        let Some(left) = self.open_left().with_context(message)? else { return Ok(None) };
        let walk = LeftWalk::of(&left).with_context(message)?;
        let files = walk.files.len() as u64;
        let bytes = walk.bytes();
        let path = path.display().to_string();
        let is_more = walk.is_more;
        Ok((files > 0 || is_more).then_some(LeftFiles { path, files, bytes, is_more }))
    }

    /// Removes what is older than [`LEFT_DAYS`], and the oldest files of what is more than [`MAX_LEFT`].
    ///
    /// # Errors
    /// When something cannot be removed; the rest is.
    pub fn expire_left(&self, now: DateTime<Utc>) -> Result<()> {
        let message = || format!("cannot clean up {}", self.path.join(LEFT).display());
        let Some(left) = self.open_left().with_context(message)? else { return Ok(()) };
        let limit = (now - chrono::Duration::days(LEFT_DAYS)).timestamp();
        let mut outcome = Ok(());
        let mut units = units(&left).with_context(message)?;
        units.retain(|(since, unit)| {
            let is_old = *since < limit;
            if is_old {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(remove_tree(&left, unit));
            }
            !is_old
        });
        outcome
            .and_then(|()| shrink(&left, units, &self.path.display().to_string()))
            .with_context(message)
    }

    fn open_left(&self) -> Result<Option<Dir>, Errno> {
        match self.dir.beneath(LEFT.as_bytes()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            left => left.map(Some),
        }
    }
}

/// The entries of `.left` and when each was last moved to, the oldest first.
fn units(left: &Dir) -> Result<Vec<(i64, Vec<u8>)>, Errno> {
    let mut units = Vec::new();
    for (name, _) in left.entries()? {
        let since = left.look_at(&name)?.map_or(0, |found| found.stx_ctime.tv_sec);
        units.push((since, name));
    }
    units.sort();
    Ok(units)
}

/// Removes the oldest files until all are within the limits.
fn shrink(left: &Dir, units: Vec<(i64, Vec<u8>)>, store: &str) -> Result<()> {
    let mut walk = LeftWalk::of(left)?;
    let mut oldest = units.iter();
    while walk.entries > MAX_COUNTED && oldest.len() > 1 {
        let Some((_, unit)) = oldest.next() else { break };
        remove_tree(left, unit)?;
        walk = LeftWalk::of(left)?;
    }
    let mut bytes = walk.bytes();
    if bytes <= MAX_LEFT {
        return Ok(());
    }
    walk.files.sort_by_key(|file| file.since);
    let mut removed = 0;
    for file in &walk.files {
        if bytes <= MAX_LEFT {
            break;
        }
        let dir = left.beneath(file.dir.as_bytes())?;
        rustix::fs::unlinkat(&dir, &*file.name, AtFlags::empty())?;
        bytes = bytes.saturating_sub(file.bytes);
        removed += 1;
    }
    tracing::warn!(
        files = removed,
        "{store}/{LEFT} was larger than 1 GiB: the oldest files were removed"
    );
    Ok(())
}

impl LeftWalk {
    fn of(left: &Dir) -> Result<Self, Errno> {
        let mut walk = Self::default();
        for (since, unit) in units(left)? {
            let Some(found) = left.look_at(&unit)? else { continue };
            let mut pending = walk.add(RepoPath::top(), unit, &found, since);
            while let Some(at) = pending.pop() {
                if walk.entries > MAX_COUNTED || at.dirs().count() >= MAX_DEPTH {
                    walk.is_more = true;
                    continue;
                }
                // One that its owner closed is not counted.
                let Ok(dir) = left.beneath(at.as_bytes()) else {
                    walk.is_more = true;
                    continue;
                };
                for (name, _) in dir.entries()? {
                    watchdog::progress();
                    let Some(found) = dir.look_at(&name)? else { continue };
                    pending.extend(walk.add(at.clone(), name, &found, since));
                }
            }
        }
        Ok(walk)
    }

    /// Counts one entry; returns the path of a directory, which is to be entered.
    fn add(&mut self, dir: RepoPath, name: Vec<u8>, found: &Statx, since: i64) -> Vec<RepoPath> {
        self.entries += 1;
        if super::kind(found) == FileType::Directory {
            self.is_more |= is_mount_point(found);
            let inside = (!is_mount_point(found)).then(|| dir.join(&name));
            return inside.into_iter().collect();
        }
        let since = (since, found.stx_mtime.tv_sec);
        self.files.push(LeftFile { dir, name, bytes: found.stx_size, since });
        Vec::new()
    }

    fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}
