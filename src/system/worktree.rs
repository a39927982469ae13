//! The only writer of worktrees. It applies a [`TreeChange`] in two parts: [`Worktree::classify`]
//! inspects exactly the paths that the change touches and writes nothing; its result permits
//! [`Worktree::apply`].
//!
//! Guarantees:
//! - A path is changed only while it has the old tree's content, the new tree's, or none. Anything else
//!   is somebody's work: nothing at all is written, and the error names the paths.
//! - No symbolic link is followed, and no file is written in place: new content gets a temporary name
//!   in the same directory, is synced, and is renamed. So a hard link elsewhere keeps its content and a
//!   running script its file.
//! - The new content of all files is on disk before the first name changes: a full disk leaves the
//!   complete old tree, and readers can see a mix only during the renames.
//! - After an interruption anywhere, it can be run again: every path is then old, new or absent.
//!
//! Knows neither git's library nor the index: objects, staged entries and stat data are values.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::files::Dir;
use crate::domain::repository::change::{FileStat, PathOp, RepoPath, TEMPORARY, TreeChange};

pub mod compare;
mod keep;
mod leftovers;
mod local_changes;
mod write;

pub use keep::KeptChange;

/// An open worktree.
#[derive(Debug)]
pub struct Worktree {
    root: Dir,
    path: PathBuf,
}

/// A change that may be applied: every path in its way has the old tree's or the new tree's content.
#[derive(Debug)]
pub struct ReadyChange<'c> {
    change: &'c TreeChange,
    /// One step for each operation, in the same order.
    steps: Vec<PathStep>,
}

/// Operation of an apply at one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathStep {
    /// Absent, as it should be.
    Absent,
    /// Already as in the new tree.
    Keep,
    /// Remove the file.
    Remove(FileStat),
    /// Remove the directory of a submodule, if it is empty.
    RemoveDir,
    /// Write the file where there is nothing.
    Create,
    /// As `Create`, after the removal of the file where its directory belongs.
    CreateLate,
    /// Write the file over the existing one.
    Replace(FileStat),
    /// Write the file in place of a directory that the change empties.
    ReplaceDir,
    /// Create the directory of a submodule; first remove the existing file.
    MakeDir(Option<FileStat>),
}

impl PathStep {
    fn writes(self) -> bool {
        matches!(self, Self::Create | Self::CreateLate | Self::Replace(_) | Self::ReplaceDir)
    }
}

/// Reason why a change may not be applied. Nothing was written.
#[derive(Debug)]
pub enum ApplyRefusal {
    /// Local changes are in the way at these paths.
    Dirty(Vec<RepoPath>),
    /// The check failed, or the apply would fail half-way.
    Failed(Error),
}

impl fmt::Display for ApplyRefusal {
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

impl std::error::Error for ApplyRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dirty(_) => None,
            Self::Failed(error) => error.source(),
        }
    }
}

impl From<Error> for ApplyRefusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Worktree {
    /// Opens the worktree at `path`.
    ///
    /// # Errors
    /// When the directory is missing, or this kernel cannot open directories safely.
    pub fn open(path: &Path) -> Result<Self> {
        let message = || format!("cannot open the worktree {}", path.display());
        let root = Dir::open(path).with_context(message)?;
        root.check_kernel().with_context(message)?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The directory `root`, which is at `path` as messages show it.
    pub fn at(root: Dir, path: PathBuf) -> Self {
        Self { root, path }
    }

    /// Its path, as messages show it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// State of the path where `directory` belongs.
    fn directory(&self, directory: &RepoPath) -> Result<DirState> {
        match self.root.beneath(directory.as_bytes()) {
            Ok(dir) => Ok(DirState::Open(dir)),
            Err(Errno::NOENT) => Ok(DirState::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => self.obstacle(directory),
            Err(error) => Err(error).with_context(|| self.cannot("open", directory)),
        }
    }

    /// Finds the first part of the path `directory` that is not a directory.
    fn obstacle(&self, directory: &RepoPath) -> Result<DirState> {
        for path in directory.dirs().chain([directory.clone()]) {
            let (parent, name) = path.split();
            let looked = match self.root.beneath(parent.as_bytes()) {
                Ok(dir) => look_at(&dir, name),
                Err(error) => Err(error),
            };
            match looked.with_context(|| self.cannot("look at", &path))? {
                Some(found) if kind(&found) == FileType::Directory => {}
                Some(_) => return Ok(DirState::Blocked(path)),
                None => return Ok(DirState::Missing),
            }
        }
        // It became a directory in the meantime.
        Ok(DirState::Missing)
    }

    fn cannot(&self, what: &str, path: &RepoPath) -> String {
        format!("cannot {what} \"{path}\" in {}", self.path.display())
    }
}

/// State of the path where a directory belongs.
enum DirState {
    Open(Dir),
    /// The directory, or one above it, does not exist.
    Missing,
    /// This path, the directory or one above it, is a file or a link.
    Blocked(RepoPath),
}

/// Cache of the last opened directory, because adjacent paths of a change mostly share theirs.
struct RecentDir<'w> {
    worktree: &'w Worktree,
    last: Option<(RepoPath, DirState)>,
}

impl<'w> RecentDir<'w> {
    fn new(worktree: &'w Worktree) -> Self {
        Self { worktree, last: None }
    }

    fn directory(&mut self, path: RepoPath) -> Result<&DirState> {
        let directory = match self.last.take() {
            Some((last, directory)) if last == path => directory,
            _ => self.worktree.directory(&path)?,
        };
        Ok(&self.last.insert((path, directory)).1)
    }
}

/// Attributes of the entry `name` in `dir`, without following a link; `None` when it is missing.
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

fn stat(found: &Statx) -> FileStat {
    FileStat {
        mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        ctime: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: found.stx_size,
    }
}

/// Whether `name` is a temporary name of an apply.
fn is_temporary(name: &[u8]) -> bool {
    let number = name.strip_prefix(TEMPORARY.as_bytes()).unwrap_or_default();
    number.len() == 8 && number.iter().all(u8::is_ascii_hexdigit)
}

/// Whether the change leaves nothing at the path of the operation itself.
fn removes(op: &PathOp) -> bool {
    op.new.is_none()
}
