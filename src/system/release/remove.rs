//! Removes releases: first their name, and after a sync their content. Works on open directories: never
//! follows a link, never enters another file system, never leaves the store, and handles any depth.
//! Does not know which releases are needed.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, Statx};
use rustix::io::Errno;

use super::{
    Dir, LINK, LinkState, Release, ReleaseStore, Slot, fresh, is_mount_point, number, revision,
};
use crate::domain::git::Commit;
use crate::domain::repository::change::TEMPORARY;
use crate::domain::text::EscapeControls;
use crate::system::watchdog;

impl ReleaseStore {
    /// Releases for `place` except those in `keep` and the one that its link shows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn surplus(&self, place: &Slot, keep: &BTreeSet<Commit>) -> Result<Vec<Release>> {
        let shown = match self.standing(place)? {
            LinkState::Ours(shown) => Some(shown),
            _ => None,
        };
        let mut all = self.releases(place)?;
        all.retain(|it| !keep.contains(&it.revision) && shown != Some(it.revision));
        Ok(all)
    }

    /// All releases for `place`.
    pub(super) fn releases(&self, place: &Slot) -> Result<Vec<Release>> {
        let Some(slot) = self.slot(place)? else { return Ok(Vec::new()) };
        let message = || format!("cannot list {}", self.slot_path(place).display());
        let entries = slot.entries().with_context(message)?.into_iter();
        let directories = entries.filter(|(_, kind)| *kind == FileType::Directory);
        let revisions = directories.filter_map(|(name, _)| revision(&name));
        Ok(revisions.map(|revision| Release { place: place.clone(), revision }).collect())
    }

    /// Retires `release`: it loses its name, and the next [`ReleaseStore::sweep`] removes its content.
    ///
    /// # Errors
    /// When the store is not writable.
    pub fn retire(&self, release: &Release) -> Result<()> {
        let Release { place, revision } = release;
        let Some(slot) = self.slot(place)? else { return Ok(()) };
        let name = revision.to_string();
        fresh(TEMPORARY, |temporary| rustix::fs::renameat(&slot, &name, &slot, temporary))
            .map(drop)
            .with_context(|| {
                let path = self.slot_path(place).join(&name);
                format!("cannot retire the release {}", path.display())
            })
    }

    /// Removes retired releases, leftovers of dead runs, and empty slots. No release may be staged
    /// meanwhile.
    ///
    /// # Errors
    /// The first removal that fails; all others are made nevertheless.
    pub fn sweep(&self) -> Result<()> {
        let message = || format!("cannot clean up {}", self.path.display());
        let mut outcome = Ok(());
        for (name, kind) in self.dir.entries().with_context(message)? {
            let swept = if number(&name, LINK).is_some() {
                self.sweep_link(&name)
            } else if number(&name, TEMPORARY).is_some() {
                remove_tree(&self.dir, &name)
            } else if kind == FileType::Directory && revision(&name).is_none() {
                self.sweep_slot(&name)
            } else {
                Ok(())
            };
            let swept = swept.with_context(|| {
                let name = String::from_utf8_lossy(&name);
                format!("cannot clean up {}/{}", self.path.display(), name.escape_controls())
            });
            outcome = outcome.and(swept);
        }
        outcome
    }

    /// Removes a link that did not reach its place, or the empty directory that it replaced.
    fn sweep_link(&self, name: &[u8]) -> Result<()> {
        let removed = match rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&*self.dir, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                bail!(
                    "another process put something into it while a link took its place; move it away"
                )
            }
            removed => Ok(removed?),
        }
    }

    fn sweep_slot(&self, name: &[u8]) -> Result<()> {
        let slot = self.dir.beneath(name)?;
        let mut outcome = Ok(());
        let mut left = 0;
        for (name, _) in slot.entries()? {
            match number(&name, TEMPORARY) {
                Some(_) => outcome = outcome.and(remove_tree(&slot, &name)),
                None => left += 1,
            }
        }
        outcome?;
        if left == 0 {
            rustix::fs::unlinkat(&*self.dir, name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }
}

/// Removes the directory `path` of user `owner` (`None`: of anybody) with all its content, its entry `last` at
/// the end, without following a link. Where its parent may not be written, only its content goes. A missing
/// one is no error.
///
/// # Errors
/// When it is no directory or another user's, or something in it cannot be removed.
pub fn remove_directory(path: &Path, owner: Option<u32>, last: &str) -> Result<()> {
    let message = || format!("cannot remove {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { bail!(message()) };
    let above = match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        above => above.with_context(message)?,
    };
    let name = name.as_bytes();
    let Some(found) = above.look_at(name).with_context(message)? else { return Ok(()) };
    let is_directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
    ensure!(is_directory, "{} is not a directory and stays", path.display());
    if let Some(owner) = owner {
        let other = found.stx_uid;
        ensure!(other == owner, "{} belongs to user {other} and stays", path.display());
    }
    let dir = above.beneath(name).with_context(message)?;
    let mut entries = dir.entries().with_context(message)?;
    entries.sort_by_key(|(entry, _)| entry == last.as_bytes());
    for (entry, _) in entries {
        remove_tree(&dir, &entry).with_context(message)?;
    }
    match rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR) {
        // Its user may not write in the directory above it.
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => Ok(()),
        removed => removed.with_context(message),
    }
}

impl ReleaseStore {
    /// Removes the whole store. The links to it are removed before.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        remove_tree(&self.links_dir, self.name.as_bytes())
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

/// A directory in removal, between the top and the current one.
struct RemovalLevel {
    name: Vec<u8>,
    identity: DirIdentity,
    /// Subdirectories yet to be removed.
    subdirs: Vec<Vec<u8>>,
}

/// Device and inode of a directory.
type DirIdentity = (u32, u32, u64);

/// Removes `name` in `parent` with all its content. Holds one directory open at a time, so that any
/// depth works, and goes up only to the directory it came from.
pub(super) fn remove_tree(parent: &Dir, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let (mut context, top) = empty_of_files(parent, name)?;
    let mut levels = vec![top];
    while let Some(mut level) = levels.pop() {
        if let Some(name) = level.subdirs.pop() {
            levels.push(level);
            let (dir, below) = empty_of_files(&context, &name)?;
            levels.push(below);
            context = dir;
        } else if let Some(above) = levels.last() {
            context = context.above()?;
            ensure!(
                identity(&stat(&context)?) == above.identity,
                "a directory was moved while it was being removed"
            );
            rustix::fs::unlinkat(&context, level.name, AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(parent, level.name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Opens the directory `name` of `dir` and removes everything in it except its subdirectories.
fn empty_of_files(dir: &Dir, name: &[u8]) -> Result<(Dir, RemovalLevel)> {
    let context = dir.beneath(name)?;
    let found = stat(&context)?;
    ensure!(
        !is_mount_point(&found),
        "\"{}\" in it is a mount point; umount it",
        name.escape_ascii()
    );
    // A script may have removed even the owner's permissions.
    if found.stx_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&context, Mode::RWXU)?;
    }
    let mut directories = Vec::new();
    for (inside, kind) in context.entries()? {
        match kind {
            FileType::Directory => directories.push(inside),
            _ => {
                watchdog::progress();
                rustix::fs::unlinkat(&context, inside, AtFlags::empty())?;
            }
        }
    }
    Ok((
        context,
        RemovalLevel { name: name.to_vec(), identity: identity(&found), subdirs: directories },
    ))
}

fn stat(dir: &Dir) -> Result<Statx> {
    dir.look_at(b".")?.context("it went away at this moment")
}

fn identity(found: &Statx) -> DirIdentity {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
}
