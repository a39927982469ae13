//! The only writer of worktrees. It applies a [`Change`] in two parts: [`Worktree::classify`] looks
//! at every path that the change touches, and at no other, and writes nothing; what it returns is
//! the permission to [`Worktree::apply`].
//!
//! What it promises:
//! - A path is touched only while it holds the old tree's content, the new tree's, or nothing.
//!   Anything else is somebody's work: nothing is written at all, and the paths are named.
//! - No symbolic link is ever followed, and no file is written in place: new content gets a
//!   temporary name in the same folder, goes to disk, and is renamed. So a hard link elsewhere keeps
//!   its content and a running script its file.
//! - The new content of all files is on disk before the first name changes: a full disk leaves the
//!   old tree, whole, and the time in which a reader can meet a mix is that of the renames.
//! - Ended anywhere, it can be run again: every path is then old, new or absent.
//!
//! Knows neither git's library nor the index: objects, staged entries and stat data are values.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::files::Dir;
use crate::domain::change::{Change, PathOp, RepoPath, Stat, TEMPORARY};

mod look;
mod sweep;
mod write;

/// A worktree, opened.
#[derive(Debug)]
pub struct Worktree {
    root: Dir,
    path: PathBuf,
}

/// A change that may be applied: everything in its way is the old tree's or the new tree's.
#[derive(Debug)]
pub struct Ready<'c> {
    change: &'c Change,
    /// One for each operation, in the same order.
    steps: Vec<Step>,
}

/// What applying does at one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is absent, and is to be.
    Absent,
    /// It is as the new tree has it.
    Keep,
    /// Remove the file.
    Remove(Stat),
    /// Remove the folder of a submodule, if it is empty.
    RemoveFolder,
    /// Write the file where there is nothing.
    Create,
    /// Likewise, once what stands where its folder will be is removed.
    CreateLate,
    /// Write the file over the one that is there.
    Replace(Stat),
    /// Write the file where a folder is that the change empties.
    ReplaceFolder,
    /// Make the folder of a submodule; first remove the file that is there.
    MakeFolder(Option<Stat>),
}

impl Step {
    fn writes(self) -> bool {
        matches!(self, Self::Create | Self::CreateLate | Self::Replace(_) | Self::ReplaceFolder)
    }
}

/// Why a change may not be applied. Nothing was written.
#[derive(Debug)]
pub enum Unready {
    /// Local changes are in the way at these paths.
    Dirty(Vec<RepoPath>),
    /// It could not be found out, or it would fail half-way.
    Failed(Error),
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dirty(paths) => {
                f.write_str("local changes are in the way:")?;
                paths.iter().try_for_each(|path| write!(f, " \"{path}\""))
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Unready {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dirty(_) => None,
            Self::Failed(error) => error.source(),
        }
    }
}

impl From<Error> for Unready {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Worktree {
    /// Opens the worktree at `path`.
    ///
    /// # Errors
    /// When there is no such folder, or this kernel cannot open folders safely.
    pub fn open(path: &Path) -> Result<Self> {
        let told = || format!("cannot open the worktree {}", path.display());
        let root = Dir::open(path).with_context(told)?;
        root.check_kernel().with_context(told)?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// What stands where `folder` should be.
    fn folder(&self, folder: &RepoPath) -> Result<Folder> {
        match self.root.beneath(folder.as_bytes()) {
            Ok(dir) => Ok(Folder::Open(dir)),
            Err(Errno::NOENT) => Ok(Folder::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => self.obstacle(folder),
            Err(error) => Err(error).with_context(|| self.cannot("open", folder)),
        }
    }

    /// The first folder on the way to `folder` that is none.
    fn obstacle(&self, folder: &RepoPath) -> Result<Folder> {
        for path in folder.folders().chain([folder.clone()]) {
            let (parent, name) = path.split();
            let looked = match self.root.beneath(parent.as_bytes()) {
                Ok(dir) => look_at(&dir, name),
                Err(error) => Err(error),
            };
            match looked.with_context(|| self.cannot("look at", &path))? {
                Some(found) if kind(&found) == FileType::Directory => {}
                Some(_) => return Ok(Folder::Blocked(path)),
                None => return Ok(Folder::Missing),
            }
        }
        // It became a folder in the meantime.
        Ok(Folder::Missing)
    }

    fn cannot(&self, what: &str, path: &RepoPath) -> String {
        format!("cannot {what} \"{path}\" in {}", self.path.display())
    }
}

/// What stands where a folder should be.
enum Folder {
    Open(Dir),
    /// It, or one above it, does not exist.
    Missing,
    /// This path, itself or above, is a file or a link.
    Blocked(RepoPath),
}

/// The last folder that was asked for: neighbours in a change mostly share theirs.
struct Recent<'w> {
    worktree: &'w Worktree,
    last: Option<(RepoPath, Folder)>,
}

impl<'w> Recent<'w> {
    fn new(worktree: &'w Worktree) -> Self {
        Self { worktree, last: None }
    }

    fn folder(&mut self, path: RepoPath) -> Result<&Folder> {
        let folder = match self.last.take() {
            Some((last, folder)) if last == path => folder,
            _ => self.worktree.folder(&path)?,
        };
        Ok(&self.last.insert((path, folder)).1)
    }
}

/// What has the name `name` in `dir`; a link is not followed.
fn look_at(dir: &Dir, name: &[u8]) -> Result<Option<Statx>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(found.stx_mode))
}

fn stat(found: &Statx) -> Stat {
    Stat {
        mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        ctime: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: found.stx_size,
    }
}

/// Whether `name` is one of a file that an apply made and did not rename.
fn is_temporary(name: &[u8]) -> bool {
    let number = name.strip_prefix(TEMPORARY.as_bytes()).unwrap_or_default();
    number.len() == 8 && number.iter().all(u8::is_ascii_hexdigit)
}

/// Whether the change leaves nothing at the operation's path itself.
fn removes(op: &PathOp) -> bool {
    op.new.is_none()
}
