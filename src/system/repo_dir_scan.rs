//! Lists the entries of the repositories directory. Decides nothing about them.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FileType;

use super::files;

/// A directory in the repositories directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootEntry {
    /// Name of the directory; non-UTF-8 bytes are written as `\xNN`, and a backslash as `\\`.
    pub name: String,
    /// Path of the directory.
    pub path: PathBuf,
    /// Kind of the directory.
    pub kind: RootEntryKind,
}

/// Kind of a directory in the repositories directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootEntryKind {
    /// A clone, identified by device and inode of its `.git`.
    Clone {
        /// Device and inode of `.git`.
        id: (u64, u64),
    },
    /// A linked worktree or a submodule: `.git` is a file.
    Linked,
    /// `.git` has this other type, such as "a named pipe".
    Strange(&'static str),
    /// A bare repository.
    Bare,
    /// Unreadable: permission denied.
    Closed,
    /// Not a repository.
    Plain,
}

/// Lists the directories in `root`, sorted by name, without hidden ones. A missing root is an empty
/// one.
///
/// # Errors
/// When it cannot be read.
pub fn entries(root: &Path) -> Result<Vec<RootEntry>> {
    let listing = match std::fs::read_dir(root) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the root {}", root.display()));
        }
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.with_context(|| format!("cannot read the root {}", root.display()))?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Follow links: administrators link repositories into the root.
        let is_dir = match entry.file_type() {
            Ok(kind) if !kind.is_symlink() => kind.is_dir(),
            _ => path.is_dir(),
        };
        if is_dir {
            found.push(RootEntry { name: printable(name.as_bytes()), kind: kind_of(&path), path });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Kind of the directory at `path`.
pub fn kind_of(path: &Path) -> RootEntryKind {
    match path.join(".git").metadata() {
        Ok(git) if git.is_dir() => RootEntryKind::Clone { id: (git.dev(), git.ino()) },
        Ok(git) if git.is_file() => RootEntryKind::Linked,
        Ok(git) => {
            RootEntryKind::Strange(files::kind_in_words(FileType::from_raw_mode(git.mode())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_link(&path.join(".git")) => {
            RootEntryKind::Strange("a symbolic link to nothing")
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => RootEntryKind::Closed,
        Err(_) if path.join("HEAD").is_file() && path.join("objects").is_dir() => {
            RootEntryKind::Bare
        }
        Err(_) => RootEntryKind::Plain,
    }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_symlink())
}

/// Converts a name to printable text, so that two names never look the same.
fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::system::repo_dir_scan::*;

    #[test]
    fn odd_names_are_distinguished() {
        assert_eq!(printable(b"a b"), "a b");
        assert_eq!(printable(b"a\nb"), "a\\nb");
        assert_eq!(printable(b"a\\nb"), "a\\\\nb");
        assert_eq!(printable(b"\xff"), "\\xff");
        assert_eq!(printable(b"\\xff"), "\\\\xff");
    }
}
