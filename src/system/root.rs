//! The folder of the repositories: what lies directly in it. Decides nothing about it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One folder under the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name; bytes that are no plain text are written as `\xNN`, and a backslash as `\\`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// What a folder under the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A clone; device and inode of its `.git` tell it from others.
    Clone {
        /// Device and inode.
        id: (u64, u64),
    },
    /// `.git` is a file: a linked worktree or a submodule.
    Linked,
    /// A repository without worktree.
    Bare,
    /// We may not look: permission denied.
    Closed,
    /// No repository.
    Plain,
}

/// What lies under `root`, by name; hidden folders are passed over. No root is an empty one.
///
/// # Errors
/// When it cannot be read.
pub fn entries(root: &Path) -> Result<Vec<Entry>> {
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
        // Links are followed: people link repositories into the root.
        let is_dir = match entry.file_type() {
            Ok(kind) if !kind.is_symlink() => kind.is_dir(),
            _ => path.is_dir(),
        };
        if is_dir {
            found.push(Entry { name: shown(name.as_bytes()), kind: kind_of(&path), path });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// What the folder at `path` is.
pub fn kind_of(path: &Path) -> Kind {
    match path.join(".git").metadata() {
        Ok(git) if git.is_dir() => Kind::Clone { id: (git.dev(), git.ino()) },
        Ok(_) => Kind::Linked,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Kind::Closed,
        Err(_) if path.join("HEAD").is_file() && path.join("objects").is_dir() => Kind::Bare,
        Err(_) => Kind::Plain,
    }
}

/// A name as text, so that two names never look the same.
fn shown(name: &[u8]) -> String {
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
    use super::*;

    #[test]
    fn odd_names_are_told_apart() {
        assert_eq!(shown(b"a b"), "a b");
        assert_eq!(shown(b"a\nb"), "a\\nb");
        assert_eq!(shown(b"a\\nb"), "a\\\\nb");
        assert_eq!(shown(b"\xff"), "\\xff");
        assert_eq!(shown(b"\\xff"), "\\\\xff");
    }
}
