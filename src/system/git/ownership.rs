//! Whether a clone is ours alone to change. Whoever may write into it, and above all into its `.git`,
//! decides what the agent runs, so its parts belong to the agent's user or to root, and nobody else
//! may write there.
//! libgit2 looks at the owner of two folders only, and trusts whoever called sudo.
//!
//! Looks at attributes and opens no file, so that a named pipe in the place of a file cannot make
//! the agent wait for ever.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

/// What in a clone's `.git` decides about its content and conduct, and whether a folder or a file is
/// expected there. The objects themselves are checked by their hash.
const PARTS: [(&str, Expected); 11] = [
    ("config", Expected::File),
    ("config.worktree", Expected::File),
    ("HEAD", Expected::File),
    ("index", Expected::File),
    ("packed-refs", Expected::File),
    ("refs", Expected::Folder),
    ("refs/heads", Expected::Folder),
    ("objects", Expected::Folder),
    ("objects/pack", Expected::Folder),
    ("hooks", Expected::Folder),
    ("pmpy", Expected::Folder),
];

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    File,
    Folder,
}

/// A part of a clone that somebody else may change, or that is not what it has to be.
#[derive(Debug, PartialEq, Eq)]
pub struct ForeignPart {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Owner { found: u32, wanted: u32 },
    Writable,
    Kind(Expected),
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "regular file",
            Self::Folder => "folder",
        })
    }
}

impl fmt::Display for ForeignPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = path.escape_debug();
        match &self.fault {
            Fault::Owner { found, wanted } => write!(
                f,
                "{path} belongs to user {found}, who could decide what is run here\n\
                 hint: look at what is in it, then: chown -R {wanted} {path}"
            ),
            Fault::Writable => write!(
                f,
                "{path} can be written by others, who could decide what is run here\n\
                 hint: look at what is in it, then: chmod -R go-w {path}"
            ),
            Fault::Kind(expected) => write!(
                f,
                "{path} is no {expected:?}\nhint: look at what it is, and move it away; \
                 if the clone is useless without it, clone again"
            ),
        }
    }
}

impl std::error::Error for ForeignPart {}

/// Fails on the first part of the clone at `worktree` that others than user `uid` and root may change, or that is
/// of another kind than it has to be. What is missing is fine. A group of its own is taken for the
/// user alone, as most systems set it up; not so where the user is root.
///
/// # Errors
/// Names the part, and says what to do.
pub fn check(worktree: &Path, uid: u32) -> Result<(), ForeignPart> {
    // A slash at its end would follow a link.
    let worktree: PathBuf = worktree.components().collect();
    let git = worktree.join(".git");
    let told = |fault, path: &Path| ForeignPart { path: path.to_owned(), fault };
    for path in [&worktree, &git] {
        let fault = judge(CWD, path, Expected::Folder, uid);
        fault.map_or(Ok(()), |fault| Err(told(fault, path)))?;
    }
    // From here on relative to this folder: the way to it need not be walked a dozen times.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(&git, flags, Mode::empty()) else { return Ok(()) };
    for (name, expected) in PARTS {
        let fault = judge(dir.as_fd(), Path::new(name), expected, uid);
        fault.map_or(Ok(()), |fault| Err(told(fault, &git.join(name))))?;
    }
    Ok(())
}

/// What is wrong with `path`, seen from `dir`, and with what it leads to if it is a symbolic link.
fn judge(dir: BorrowedFd<'_>, path: &Path, expected: Expected, uid: u32) -> Option<Fault> {
    let found = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let target = match kind(&found) {
        FileType::Symlink => rustix::fs::statat(dir, path, AtFlags::empty()).ok(),
        _ => None,
    };
    fault(&found, uid)
        .or_else(|| target.as_ref().and_then(|target| fault(target, uid)))
        .or_else(|| wrong_kind(target.as_ref().unwrap_or(&found), expected))
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// A symbolic link is one that leads nowhere, which is as good as nothing.
fn wrong_kind(found: &Stat, expected: Expected) -> Option<Fault> {
    let right = match expected {
        Expected::File => FileType::RegularFile,
        Expected::Folder => FileType::Directory,
    };
    (![right, FileType::Symlink].contains(&kind(found))).then_some(Fault::Kind(expected))
}

fn fault(found: &Stat, uid: u32) -> Option<Fault> {
    if found.st_uid != uid && found.st_uid != 0 {
        return Some(Fault::Owner { found: found.st_uid, wanted: uid });
    }
    // The mode of a symbolic link says nothing.
    if kind(found) == FileType::Symlink {
        return None;
    }
    let by_group = found.st_mode & GROUP_WRITES != 0 && uid == 0 && found.st_gid != 0;
    let by_others = found.st_mode & OTHERS_WRITE != 0;
    (by_group || by_others).then_some(Fault::Writable)
}
