//! Removing releases: first they lose their name, and after that, when this is on disk, their
//! content goes. By open folders, never through a link, never onto another file system, never out
//! of the store, and however deep they are.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, Statx};
use rustix::io::Errno;

use super::{Dir, LINK, Place, Release, Standing, Store, fresh, is_mount_point, number, revision};
use crate::domain::change::TEMPORARY;
use crate::domain::git::Commit;

impl Store {
    /// The releases for `place` but those in `keep` and the one that its link shows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn surplus(&self, place: &Place, keep: &BTreeSet<Commit>) -> Result<Vec<Release>> {
        let shown = match self.standing(place)? {
            Standing::Ours(shown) => Some(shown),
            _ => None,
        };
        let mut all = self.releases(place)?;
        all.retain(|it| !keep.contains(&it.revision) && shown != Some(it.revision));
        Ok(all)
    }

    /// All releases for `place`.
    pub(super) fn releases(&self, place: &Place) -> Result<Vec<Release>> {
        let Some(slot) = self.slot(place)? else { return Ok(Vec::new()) };
        let told = || format!("cannot list {}", self.slot_path(place).display());
        let entries = slot.entries().with_context(told)?.into_iter();
        let folders = entries.filter(|(_, kind)| *kind == FileType::Directory);
        let revisions = folders.filter_map(|(name, _)| revision(&name));
        Ok(revisions.map(|revision| Release { place: place.clone(), revision }).collect())
    }

    /// Retires `release`: it is none any more, and its content goes with the next
    /// [`Store::sweep`].
    ///
    /// # Errors
    /// When the store cannot be written.
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

    /// Removes what was retired, what dead runs left, and slots that hold nothing any more. No
    /// release may be staged meanwhile.
    ///
    /// # Errors
    /// The first of them that cannot be removed; all the others are gone nonetheless.
    pub fn sweep(&self) -> Result<()> {
        let told = || format!("cannot clean up {}", self.path.display());
        let mut outcome = Ok(());
        for (name, kind) in self.dir.entries().with_context(told)? {
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
                format!("cannot clean up {}/{}", self.path.display(), name.escape_debug())
            });
            outcome = outcome.and(swept);
        }
        outcome
    }

    /// Removes a link that did not come to its place, or the empty folder whose place it took.
    fn sweep_link(&self, name: &[u8]) -> Result<()> {
        let removed = match rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&*self.dir, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                bail!("somebody put something into it while a link took its place; move it away")
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

/// A folder that is being removed, on the way from the top to the one in hand.
struct Level {
    name: Vec<u8>,
    identity: Identity,
    /// Folders in it that are still there.
    folders: Vec<Vec<u8>>,
}

/// Device and inode of a folder.
type Identity = (u32, u32, u64);

/// Removes `name` in `parent` with all that is in it. Holds one folder open at a time, so that no
/// depth is too much for it, and goes up again only to where it came from.
pub(super) fn remove_tree(parent: &Dir, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let (mut here, top) = empty_of_files(parent, name)?;
    let mut levels = vec![top];
    while let Some(mut level) = levels.pop() {
        if let Some(name) = level.folders.pop() {
            levels.push(level);
            let (dir, below) = empty_of_files(&here, &name)?;
            levels.push(below);
            here = dir;
        } else if let Some(above) = levels.last() {
            here = here.above()?;
            ensure!(
                identity(&look(&here)?) == above.identity,
                "somebody moved a folder while it was being removed"
            );
            rustix::fs::unlinkat(&here, level.name, AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(parent, level.name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Opens the folder `name` of `dir` and removes everything in it but its folders.
fn empty_of_files(dir: &Dir, name: &[u8]) -> Result<(Dir, Level)> {
    let here = dir.beneath(name)?;
    let found = look(&here)?;
    ensure!(
        !is_mount_point(&found),
        "\"{}\" in it is a mount point; umount it",
        name.escape_ascii()
    );
    // A script may have closed it even for its owner.
    if found.stx_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&here, Mode::RWXU)?;
    }
    let mut folders = Vec::new();
    for (inside, kind) in here.entries()? {
        match kind {
            FileType::Directory => folders.push(inside),
            _ => rustix::fs::unlinkat(&here, inside, AtFlags::empty())?,
        }
    }
    Ok((here, Level { name: name.to_vec(), identity: identity(&found), folders }))
}

fn look(dir: &Dir) -> Result<Statx> {
    dir.look_at(b".")?.context("it went away at this moment")
}

fn identity(found: &Statx) -> Identity {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
}
