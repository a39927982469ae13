//! Whether a clone is ours alone to change. Whoever may write into it, and above all into its `.git`,
//! decides what the agent runs, so its parts belong to the agent's user or to root, and nobody else
//! may write there.
//! libgit2 looks at the owner of two folders only, and trusts whoever called sudo.
//!
//! Looks at attributes and opens nothing, so that a named pipe in the place of a file cannot make
//! the agent wait for ever.

use std::fmt;
use std::fs::{self, Metadata};
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What in a clone decides about its content and conduct, by its path in it, and whether a folder
/// or a file is expected there. The objects themselves are checked by their hash.
const PARTS: [(&str, Expected); 12] = [
    (".git", Expected::Folder),
    (".git/config", Expected::File),
    (".git/config.worktree", Expected::File),
    (".git/HEAD", Expected::File),
    (".git/index", Expected::File),
    (".git/packed-refs", Expected::File),
    (".git/refs", Expected::Folder),
    (".git/refs/heads", Expected::Folder),
    (".git/objects", Expected::Folder),
    (".git/objects/pack", Expected::Folder),
    (".git/hooks", Expected::Folder),
    (".git/pmpy", Expected::Folder),
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
                 should the clone be worth nothing without it, clone it again"
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
    let parts = PARTS.iter().map(|(name, expected)| (worktree.join(name), *expected));
    for (path, expected) in iter::once((worktree.clone(), Expected::Folder)).chain(parts) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        // Both a symbolic link and what it leads to.
        let target = if found.is_symlink() { fs::metadata(&path).ok() } else { None };
        let fault = fault(&found, uid)
            .or_else(|| target.as_ref().and_then(|target| fault(target, uid)))
            .or_else(|| wrong_kind(target.as_ref().unwrap_or(&found), expected));
        if let Some(fault) = fault {
            return Err(ForeignPart { path, fault });
        }
    }
    Ok(())
}

/// A symbolic link is one that leads nowhere, which is as good as nothing.
fn wrong_kind(found: &Metadata, expected: Expected) -> Option<Fault> {
    let right = match expected {
        Expected::File => found.is_file(),
        Expected::Folder => found.is_dir(),
    };
    (!right && !found.is_symlink()).then_some(Fault::Kind(expected))
}

fn fault(found: &Metadata, uid: u32) -> Option<Fault> {
    if found.uid() != uid && found.uid() != 0 {
        return Some(Fault::Owner { found: found.uid(), wanted: uid });
    }
    // The mode of a symbolic link says nothing.
    if found.is_symlink() {
        return None;
    }
    let by_group = found.mode() & GROUP_WRITES != 0 && uid == 0 && found.gid() != 0;
    let by_others = found.mode() & OTHERS_WRITE != 0;
    (by_group || by_others).then_some(Fault::Writable)
}
