//! The largest size of each file of a `.git` that libgit2 or the agent reads whole. libgit2 reads a file
//! of any size into memory, and a sparse file of a terabyte takes no room on the disk; so the size is
//! checked first. This module reads no content.

use std::cell::OnceCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result};
use git2::{Odb, Oid};

use super::Git;
use crate::domain::git::ObjectId;
use crate::domain::repository::change::MAX_FILE;
use crate::domain::text::EscapeControls;
use crate::system::host;

/// The most bytes of a small file, such as `HEAD`.
pub const SMALL: u64 = 1 << 20;
/// The most bytes of a list of commits: more than a hundred thousand.
const LIST: u64 = 8 << 20;
/// The most bytes of `packed-refs`: half a million refs.
pub const PACKED_REFS: u64 = 64 << 20;
/// The most bytes of the index: a million entries.
const INDEX: u64 = 256 << 20;

/// The most bytes of the log of a ref: two million entries.
pub const LOG: u64 = 256 << 20;
/// The most bytes of a pack or an object: four times what one fetch may bring.
const PACK: u64 = 32 << 30;
/// The most bytes of a file that git derives from packs, such as their indexes: a hundred million
/// objects.
const DERIVED: u64 = 4 << 30;

/// The most bytes that the file `name` of `.git` may have; `None` when neither libgit2 nor the agent
/// opens it.
pub fn size_cap(name: &str) -> Option<u64> {
    match name {
        "HEAD"
        | "config"
        | "config.worktree"
        | "commondir"
        | "gitdir"
        | "objects/info/alternates"
        | "info/exclude"
        | "info/attributes"
        | "FETCH_HEAD"
        | "ORIG_HEAD"
        | "MERGE_HEAD" => Some(SMALL),
        "shallow" | "info/grafts" => Some(LIST),
        "packed-refs" => Some(PACKED_REFS),
        "index" => Some(INDEX),
        name if name.starts_with("refs/") => Some(SMALL),
        name if name.starts_with("logs/") => Some(LOG),
        name if name.starts_with("objects/pack/") && name.ends_with(".pack") => Some(PACK),
        name if name.starts_with("objects/pack/") || name.starts_with("objects/info/") => {
            Some(DERIVED)
        }
        name if name.starts_with("objects/") => Some(PACK),
        _ => None,
    }
}

/// Whether a repair replaces the file `name` of `.git` when it is too large: its content is known from
/// elsewhere.
pub fn is_put_right(name: &Path) -> bool {
    let mut parts = name.iter().map(|part| part.to_string_lossy());
    match (parts.next().as_deref(), parts.next().as_deref()) {
        (Some("HEAD" | "index" | "packed-refs"), None) | (Some("refs"), _) => true,
        (Some("objects"), Some(store)) => store != "info",
        _ => false,
    }
}

/// A file of `.git` that is larger than its limit. Nothing of it was read.
#[derive(Debug)]
pub struct OversizedFile {
    path: PathBuf,
    bytes: u64,
    cap: u64,
}

impl fmt::Display for OversizedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let (path, bytes, cap) = (path.escape_controls(), self.bytes, self.cap);
        write!(
            f,
            "{path} has {bytes} bytes; {cap} are the most that it may have\n\
             hint: look at what is in it, and move it away; if the clone is useless without it, \
             clone again"
        )
    }
}

impl std::error::Error for OversizedFile {}

/// Fails when the file `name` of `git_dir` is larger than its limit. It may be missing.
///
/// # Errors
/// When it is too large; names the file.
pub fn check(git_dir: &Path, name: &str) -> Result<(), OversizedFile> {
    let path = git_dir.join(name);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => check_size(&path, name, meta.len()),
        _ => Ok(()),
    }
}

/// Fails when the file at `path`, which is `name` in its `.git`, has too many `bytes`.
///
/// # Errors
/// When it is too large; names the file.
pub fn check_size(path: &Path, name: &str, bytes: u64) -> Result<(), OversizedFile> {
    match size_cap(name) {
        Some(cap) if bytes > cap => Err(OversizedFile { path: path.to_owned(), bytes, cap }),
        _ => Ok(()),
    }
}

/// The first pack, or file that belongs to one, that is larger than its limit. libgit2 skips a pack that it
/// cannot open, so that reading the objects of the others does not show it.
pub fn oversized_pack(git_dir: &Path) -> Option<OversizedFile> {
    let packs = fs::read_dir(git_dir.join("objects/pack")).ok()?;
    packs.flatten().find_map(|entry| {
        let name = format!("objects/pack/{}", entry.file_name().to_string_lossy());
        check(git_dir, &name).err()
    })
}

/// The files below `directory/below`, by their paths from `directory`, sorted; without locks and names that
/// are not UTF-8.
///
/// # Errors
/// When a directory cannot be listed; names it. Without its content the list proves nothing missing.
/// libgit2 skips such a directory in silence.
pub(in crate::system) fn names_below(directory: &Path, below: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![below.to_owned()];
    while let Some(relative) = pending.pop() {
        let dir = directory.join(&relative);
        let failed = || format!("cannot list {}", dir.display());
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                continue;
            }
            Err(error) => return Err(error).with_context(failed),
        };
        for entry in entries {
            let entry = entry.with_context(failed)?;
            let path = relative.join(entry.file_name());
            match (entry.file_type().with_context(failed)?.is_dir(), path.to_str()) {
                (true, _) => pending.push(path),
                (false, Some(name)) if !name.ends_with(".lock") => names.push(name.to_owned()),
                (false, _) => {}
            }
        }
    }
    names.sort();
    Ok(names)
}

impl Git {
    /// Sets the size in bytes of the largest blob that is held in memory.
    pub fn limit_files(&mut self, bytes: u64) {
        self.max_file = OnceCell::from(bytes);
    }

    /// Bytes of the largest blob that is held in memory: the value of [`Git::limit_files`], else 1 GiB,
    /// or a quarter of the machine's memory where that is less.
    pub fn max_file(&self) -> u64 {
        *self.max_file.get_or_init(|| MAX_FILE.min(host::memory() / 4))
    }

    /// Fails when the file of a ref is too large to be one, or refs cannot be listed. Every method that
    /// lists refs calls this first.
    ///
    /// # Errors
    /// When it fails; names the file or directory.
    pub(in crate::system) fn no_oversized_ref(&self) -> Result<()> {
        let names = names_below(self.git_dir(), Path::new("refs"))?;
        Ok(names.iter().try_for_each(|name| check(self.git_dir(), name))?)
    }

    /// Whether the object can be read and its content matches its id.
    pub fn reads(&self, id: ObjectId) -> bool {
        let Ok(oid) = self.oid(&id) else { return false };
        let reads = |odb: Odb<'_>| self.reads_from(&odb, oid);
        self.plain_store().is_ok() && !self.is_torn(&id) && self.repo.odb().is_ok_and(reads)
    }

    /// Whether the object can be read from `odb`. For one that is too large for the memory, only its
    /// header is read.
    pub(super) fn reads_from(&self, odb: &Odb<'_>, oid: Oid) -> bool {
        match odb.read_header(oid) {
            Ok((size, _)) => size as u64 > self.max_file() || odb.read(oid).is_ok(),
            Err(_) => false,
        }
    }
}
