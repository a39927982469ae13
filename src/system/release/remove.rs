//! Removes directories with all their content. Works on open directories: never follows a link, never
//! enters another file system, never leaves the store, and handles any depth.

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, FileType, Mode, Statx};
use rustix::io::Errno;

use super::{Dir, is_mount_point};
use crate::system::watchdog;

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
