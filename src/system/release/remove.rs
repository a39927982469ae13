//! Removes directories with all their content. Works on open directories: never follows a link, never
//! enters another file system, never leaves the store, and handles any depth.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, Statx};
use rustix::io::Errno;

use super::{Dir, ReleaseStore, is_mount_point};
use crate::system::watchdog;

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
