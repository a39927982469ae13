//! Directories that all releases of a place share: made once in the store, and linked into each release.
//! Never removes one, and never follows a link where another user could have put it.

use anyhow::{Context, Result, bail};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Dir, ReleaseStore, Slot, StagedRelease, kind};
use crate::domain::publish::release_paths::{SHARED, shared_link};
use crate::domain::repository::change::RepoPath;

impl ReleaseStore {
    /// Makes the directories `shared` of `place` that are missing. An existing one stays as it is, also a
    /// symbolic link of our own or of root.
    ///
    /// # Errors
    /// When something else has the name of one, or it cannot be made.
    pub fn make_shared(&self, place: &Slot, shared: &[RepoPath]) -> Result<()> {
        if shared.is_empty() {
            return Ok(());
        }
        let mut above = self.dir.beneath(b"")?;
        for name in [Some(SHARED), place.slot.as_deref()].into_iter().flatten() {
            let message = || format!("cannot make {}/{SHARED}", self.path.display());
            above = open_or_make(&above, name.as_bytes(), |dir, name| dir.make(name, 0o755))
                .with_context(message)?;
        }
        for path in shared {
            let message = || format!("cannot make {}/{SHARED} for \"{path}\"", self.path.display());
            make_shared_dir(&above, path).with_context(message)?;
        }
        Ok(())
    }
}

/// Opens the directory `name` of `above`, and makes it with `make` where it is missing.
pub(super) fn open_or_make(
    above: &Dir,
    name: &[u8],
    make: impl Fn(&Dir, &[u8]) -> Result<Dir, Errno>,
) -> Result<Dir, Errno> {
    match above.beneath(name) {
        Err(Errno::NOENT) => match make(above, name) {
            // Another thread, which publishes another ref, made it at this moment.
            Err(Errno::EXIST) => above.beneath(name),
            made => made,
        },
        opened => opened,
    }
}

/// Makes the directory `path` in `above` unless it exists.
fn make_shared_dir(above: &Dir, path: &RepoPath) -> Result<()> {
    let mut dir = above.beneath(b"")?;
    for parent in path.dirs() {
        dir = open_or_make(&dir, parent.split().1, Dir::make_as_git)?;
    }
    let name = path.split().1;
    let Some(found) = dir.look_at(name)? else {
        return Ok(open_or_make(&dir, name, Dir::make_as_git).map(drop)?);
    };
    let us = rustix::process::geteuid().as_raw();
    match kind(&found) {
        FileType::Directory => Ok(()),
        // Such as to a larger disk. The agent itself never follows it.
        FileType::Symlink if [us, 0].contains(&found.stx_uid) => Ok(()),
        _ => bail!("it is not a directory\nhint: move it away; the agent makes it anew"),
    }
}

impl StagedRelease {
    /// Adds links to the directories `shared` of its place, with the directories on the way to them.
    ///
    /// # Errors
    /// When the tree has such a path itself, or the disk fails.
    pub fn link_shared(&self, shared: &[RepoPath]) -> Result<()> {
        let slot = Some(self.slot.as_str()).filter(|slot| !slot.is_empty());
        for path in shared {
            let message = || format!("cannot link \"{path}\" into {}", self.path.display());
            let mut dir = self.top().with_context(message)?;
            for parent in path.dirs() {
                dir =
                    open_or_make(&dir, parent.split().1, Dir::make_as_git).with_context(message)?;
            }
            rustix::fs::symlinkat(shared_link(slot, path).as_slice(), &dir, path.split().1)
                .with_context(message)?;
        }
        Ok(())
    }
}
