//! Walks to a path by handle, part by part. Does not know which users are trusted.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Trust, UntrustedPart, WriteAccess, WriteFault, read_acl};

/// Most symbolic links on the way to one file, as in path_resolution(7).
const MOST_LINKS: usize = 40;

/// Most directories that are kept open; the first ones are shared by many paths.
const MOST_KEPT: usize = 64;

/// One directory, link or file on the way to a path.
#[derive(Debug)]
struct PathPart {
    path: PathBuf,
    gid: u32,
    access: WriteAccess,
}

/// An open directory that a walk has reached.
#[derive(Debug)]
struct WalkedDir {
    handle: OwnedFd,
    real: PathBuf,
    above: Option<Arc<WalkedDir>>,
    /// All parts from `/` to this directory, which is the last one.
    parts: Vec<Arc<PathPart>>,
}

/// Cache of walked directories, so that shared parts are checked once. Create it for one pass over the
/// machine and drop it afterwards.
#[derive(Debug, Default)]
pub struct PathWalk {
    dirs: Mutex<HashMap<PathBuf, Arc<WalkedDir>>>,
}

/// Result of a walk: the real path and the parts on the way.
#[derive(Debug)]
pub struct WalkedPath {
    /// Real path: absolute, without a symbolic link. Parts that do not exist yet are appended
    /// unchanged.
    pub real: PathBuf,
    /// Attributes of the file; `None` when it does not exist.
    pub found: Option<Stat>,
    parts: Vec<Arc<PathPart>>,
}

impl PathWalk {
    /// Walks to the absolute `path`.
    ///
    /// # Errors
    /// When a part cannot be read or is not a directory, or links form a loop.
    pub fn walk(&self, path: &Path) -> io::Result<WalkedPath> {
        let mut rest: VecDeque<OsString> = names(path).collect();
        let mut dir = self.top()?;
        let mut parts = dir.parts.clone();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                dir = dir.above.clone().unwrap_or(dir);
                continue;
            }
            let real = dir.real.join(&name);
            if let Some(known) = self.known(&real) {
                parts.extend(known.parts.last().cloned());
                dir = known;
                continue;
            }
            let found = match rustix::fs::statat(&dir.handle, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let real =
                        std::iter::once(name).chain(rest).fold(dir.real.clone(), |at, it| {
                            if it == ".." {
                                at.parent().unwrap_or(&at).to_owned()
                            } else {
                                at.join(it)
                            }
                        });
                    return Ok(WalkedPath { real, found: None, parts });
                }
                found => found?,
            };
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let (target, found) = read_link(&dir, &name)?;
                    parts.push(part(&dir, &name, real, &found));
                    if target.is_absolute() {
                        dir = self.top()?;
                        parts.extend(dir.parts.iter().cloned());
                    }
                    names(&target).rev().for_each(|name| rest.push_front(name));
                }
                FileType::Directory if !rest.is_empty() => {
                    dir = self.enter(&dir, &name, real)?;
                    parts.extend(dir.parts.last().cloned());
                }
                _ if !rest.is_empty() => return Err(Errno::NOTDIR.into()),
                _ => {
                    parts.push(part(&dir, &name, real.clone(), &found));
                    return Ok(WalkedPath { real, found: Some(found), parts });
                }
            }
        }
        // The path ended in an already open directory, or in "..".
        let found = rustix::fs::fstat(&dir.handle)?;
        Ok(WalkedPath { real: dir.real.clone(), found: Some(found), parts })
    }

    fn top(&self) -> io::Result<Arc<WalkedDir>> {
        let top = Path::new("/");
        if let Some(known) = self.known(top) {
            return Ok(known);
        }
        let handle = open_path(CWD, top.as_os_str())?;
        let found = rustix::fs::fstat(&handle)?;
        let access = WriteAccess::of(&found, || read_acl(handle.as_fd(), Path::new("."), &found));
        let part = PathPart { path: top.to_owned(), gid: found.st_gid, access };
        Ok(self.keep(WalkedDir {
            handle,
            real: top.to_owned(),
            above: None,
            parts: vec![Arc::new(part)],
        }))
    }

    /// Opens the directory `name` in `dir` and checks the attributes of the opened one.
    fn enter(
        &self,
        dir: &Arc<WalkedDir>,
        name: &OsStr,
        real: PathBuf,
    ) -> io::Result<Arc<WalkedDir>> {
        let handle = open_path(&dir.handle, name)?;
        let found = rustix::fs::fstat(&handle)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            // Another file replaced it at this moment.
            return Err(Errno::NOTDIR.into());
        }
        let access = WriteAccess::of(&found, || read_acl(handle.as_fd(), Path::new("."), &found));
        let mut parts = dir.parts.clone();
        parts.push(Arc::new(PathPart { path: real.clone(), gid: found.st_gid, access }));
        Ok(self.keep(WalkedDir { handle, real, above: Some(Arc::clone(dir)), parts }))
    }

    fn known(&self, real: &Path) -> Option<Arc<WalkedDir>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).get(real).cloned()
    }

    fn keep(&self, dir: WalkedDir) -> Arc<WalkedDir> {
        let dir = Arc::new(dir);
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if dirs.len() < MOST_KEPT {
            dirs.insert(dir.real.clone(), Arc::clone(&dir));
        }
        dir
    }
}

/// Names in a path, including `..`.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

fn open_path(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Reads the text and the attributes of one link, both of the same inode.
fn read_link(dir: &WalkedDir, name: &OsStr) -> io::Result<(PathBuf, Stat)> {
    let handle = open_path(&dir.handle, name)?;
    let found = rustix::fs::fstat(&handle)?;
    let target = rustix::fs::readlinkat(&handle, "", Vec::new())?;
    Ok((PathBuf::from(OsString::from_vec(target.into_bytes())), found))
}

fn part(dir: &WalkedDir, name: &OsStr, path: PathBuf, found: &Stat) -> Arc<PathPart> {
    let access = WriteAccess::of(found, || read_acl(dir.handle.as_fd(), Path::new(name), found));
    Arc::new(PathPart { path, gid: found.st_gid, access })
}

impl WalkedPath {
    /// Device and inode of the file; `None` when it does not exist.
    pub fn id(&self) -> Option<(u64, u64)> {
        self.found.as_ref().map(|found| (found.st_dev, found.st_ino))
    }

    /// User id of the file's owner; `None` when it does not exist.
    pub fn owner(&self) -> Option<u32> {
        self.found.as_ref().map(|found| found.st_uid)
    }

    /// Checks that only users whom `trust` includes can change the file or put another one at its path.
    ///
    /// # Errors
    /// The first part, from `/` on, that another user could change.
    pub fn check(&self, trust: &Trust) -> Result<(), UntrustedPart> {
        self.judge_parts(trust, |_| false)
    }

    /// As [`WalkedPath::check`], except for the file itself: checks that no other user can redirect the
    /// path.
    ///
    /// # Errors
    /// As [`WalkedPath::check`].
    pub fn judge_way(&self, trust: &Trust) -> Result<(), UntrustedPart> {
        let last = usize::from(self.found.is_some());
        let way = self.parts.get(..self.parts.len().saturating_sub(last)).unwrap_or_default();
        let way = Self { real: self.real.clone(), found: None, parts: way.to_vec() };
        way.check(trust)
    }

    /// As [`WalkedPath::check`], for a file that is only opened by handle and created anew, such as a
    /// log: a group may write in the directories above it, such as `syslog` in Ubuntu's /var/log.
    ///
    /// # Errors
    /// As [`WalkedPath::check`].
    pub fn judge_log_directory(&self, trust: &Trust) -> Result<(), UntrustedPart> {
        self.judge_parts(trust, |fault| {
            matches!(fault, WriteFault::Group(_) | WriteFault::AclGroup(_))
        })
    }

    /// Checks all parts; `permitted` selects faults that are ignored in a directory on the way.
    fn judge_parts(
        &self,
        trust: &Trust,
        permitted: impl Fn(WriteFault) -> bool,
    ) -> Result<(), UntrustedPart> {
        let last = self.parts.last().filter(|_| self.found.is_some());
        for part in &self.parts {
            let is_last = last.is_some_and(|last| Arc::ptr_eq(last, part));
            let fault = match part.access.fault(trust, Some(part.gid)) {
                // In a sticky directory of root or the user, only the owner of an entry can replace it,
                // and that owner is checked next. New entries there are not ours.
                Some(fault) if part.access.is_sticky() && !is_last && !is_owner(fault) => continue,
                Some(fault) if !is_last && permitted(fault) => continue,
                Some(fault) => fault,
                None => continue,
            };
            let (path, kind) = (part.path.clone(), part.access.kind());
            return Err(UntrustedPart::new(path, kind, fault, trust.uid()));
        }
        Ok(())
    }
}

fn is_owner(fault: WriteFault) -> bool {
    matches!(fault, WriteFault::Owner(_))
}
