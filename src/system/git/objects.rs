//! Objects and the index: trees and blobs by id, what is staged at a path, and the index entries of
//! the paths that an update wrote. Never looks at a worktree.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use git2::{ErrorCode, IndexEntry, IndexTime, ObjectType, Oid};

use super::Git;
use crate::domain::change::{
    Change, Entry, MAX_TREE, Mode, ObjectError, Objects, RepoPath, Stat, Written,
};
use crate::domain::git::{Commit, Id};

impl Objects for Git {
    fn tree(&self, id: &Id) -> Result<Vec<u8>, ObjectError> {
        let unreadable = |error| told(id, error);
        let odb = self.repo.odb().map_err(unreadable)?;
        let (size, _) = odb.read_header(oid(id)?).map_err(unreadable)?;
        if size as u64 > MAX_TREE {
            return Err(ObjectError::TooLarge { id: *id, size: size as u64 });
        }
        let object = odb.read(oid(id)?).map_err(unreadable)?;
        match object.kind() {
            ObjectType::Tree => Ok(object.data().to_vec()),
            _ => Err(ObjectError::WrongKind { id: *id, expected: "tree" }),
        }
    }

    fn blob_size(&self, id: &Id) -> Result<u64, ObjectError> {
        let unreadable = |error| told(id, error);
        let odb = self.repo.odb().map_err(unreadable)?;
        match odb.read_header(oid(id)?).map_err(unreadable)? {
            (size, ObjectType::Blob) => Ok(size as u64),
            _ => Err(ObjectError::WrongKind { id: *id, expected: "blob" }),
        }
    }

    fn blob(&self, id: &Id) -> Result<impl AsRef<[u8]>, ObjectError> {
        match self.repo.find_blob(oid(id)?) {
            Ok(blob) => Ok(Blob(blob)),
            // The library says "not found" also of an object of another kind.
            Err(error) => Err(self.blob_size(id).err().unwrap_or_else(|| told(id, error))),
        }
    }

    fn hash_blob(&self, content: &[u8]) -> Option<Id> {
        let format = self.repo.object_format();
        let hash = Oid::hash_object_ext(ObjectType::Blob, content, format).ok()?;
        Id::from_bytes(hash.as_bytes())
    }
}

/// A blob's content, borrowed from the library.
struct Blob<'g>(git2::Blob<'g>);

impl AsRef<[u8]> for Blob<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.content()
    }
}

impl Git {
    /// The tree of `commit`.
    ///
    /// # Errors
    /// When the commit is missing or damaged, or is none.
    pub fn tree_of(&self, commit: &Commit) -> Result<Id> {
        self.no_torn_object()?;
        let tree = self
            .repo
            .find_commit(oid(&commit.0)?)
            .map(|commit| commit.tree_id())
            .map_err(|error| told(&commit.0, error))
            .with_context(|| format!("cannot read revision {commit}"))?;
        Id::from_bytes(tree.as_bytes()).with_context(|| format!("revision {commit} has no tree"))
    }

    /// Reads the index; a repository without one has an empty one.
    ///
    /// # Errors
    /// When it is damaged (see [`Git::rebuild_index`]) or of a kind that is not supported, such as a
    /// split or a sparse one.
    pub fn index(&self) -> Result<Index> {
        let read = || {
            let mut index = self.repo.index()?;
            index.read(false)?;
            Ok(index)
        };
        read().map(Index).map_err(|error: git2::Error| {
            let path = self.repo.path().join("index");
            anyhow!("cannot read the index {}: {}", path.display(), error.message().escape_debug())
        })
    }

    /// Puts an index in place of one that cannot be read: the entries of `tree`, without stat data,
    /// so that git compares each file once.
    ///
    /// # Errors
    /// When the tree cannot be read or the index not be written.
    pub fn rebuild_index(&self, tree: &Id) -> Result<Index> {
        let path = self.repo.path().join("index");
        let staged = path.with_extension("pmpy");
        let failed = || format!("cannot rebuild the index {}", path.display());
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(failed);
            }
            _ => {}
        }
        let index = git2::Index::open_ext(&staged, self.repo.object_format());
        let mut index = Index(index.with_context(failed)?);
        let tree = self.repo.find_tree(oid(tree)?).with_context(failed)?;
        index.0.read_tree(&tree).with_context(failed)?;
        index.write()?;
        fs::rename(&staged, &path).with_context(failed)?;
        self.index()
    }
}

/// What is staged.
pub struct Index(git2::Index);

impl Index {
    /// What the index has at `path`; nothing where a merge left a conflict.
    pub fn staged(&self, path: &RepoPath) -> Option<Entry> {
        let entry = self.0.get_path(path_of(path), 0)?;
        let mode = match entry.mode {
            0o120_000 => Mode::Link,
            0o160_000 => Mode::Submodule,
            mode if mode & 0o100 != 0 => Mode::Executable,
            _ => Mode::File,
        };
        Some(Entry { mode, id: Id::from_bytes(entry.id.as_bytes())? })
    }

    /// Takes over the paths of `change`, and no other, and brings the index to disk. `written` are
    /// its new paths as they look there.
    ///
    /// # Errors
    /// When somebody else has the index locked, or the disk is full or fails.
    pub fn update(&mut self, change: &Change, written: &[Written]) -> Result<()> {
        // Somebody may have staged something since it was read.
        self.0.read(false).context("cannot read the index again")?;
        for op in change.ops.iter().filter(|op| op.new.is_none()) {
            if self.staged(&op.path).is_none() {
                continue;
            }
            let removed = self.0.remove(path_of(&op.path), 0);
            removed.with_context(|| format!("cannot take \"{}\" from the index", op.path))?;
        }
        for Written { path, entry, stat } in written {
            let added = index_entry(path, entry, stat).and_then(|entry| self.0.add(&entry));
            added.with_context(|| format!("cannot put \"{path}\" into the index"))?;
        }
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.0.write().map_err(|error| match error.code() {
            ErrorCode::Locked => anyhow!(
                "cannot write the index: {}\n\
                 hint: a git command may be running; if none is, remove .git/index.lock",
                error.message().escape_debug()
            ),
            _ => anyhow!("cannot write the index: {}", error.message().escape_debug()),
        })?;
        if let Some(path) = self.0.path() {
            let synced = File::open(path).and_then(|index| index.sync_all());
            synced.with_context(|| format!("cannot sync the index {}", path.display()))?;
        }
        Ok(())
    }
}

fn path_of(path: &RepoPath) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn index_entry(path: &RepoPath, entry: &Entry, stat: &Stat) -> Result<IndexEntry, git2::Error> {
    // The index keeps the low 32 bits of each; git compares no more than these.
    let low = |value: u64| (value & u64::from(u32::MAX)) as u32;
    let time = |(seconds, nanoseconds): (i64, u32)| {
        IndexTime::new(low(seconds.cast_unsigned()).cast_signed(), nanoseconds)
    };
    Ok(IndexEntry {
        ctime: time(stat.ctime),
        mtime: time(stat.mtime),
        dev: low(stat.dev),
        ino: low(stat.ino),
        mode: match entry.mode {
            Mode::File => 0o100_644,
            Mode::Executable => 0o100_755,
            Mode::Link => 0o120_000,
            Mode::Submodule => 0o160_000,
        },
        uid: stat.uid,
        gid: stat.gid,
        file_size: low(stat.size),
        id: Oid::from_bytes(entry.id.as_bytes())?,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    })
}

fn oid(id: &Id) -> Result<Oid, ObjectError> {
    Oid::from_bytes(id.as_bytes()).map_err(|error| told(id, error))
}

/// The library's error about object `id`.
fn told(id: &Id, error: git2::Error) -> ObjectError {
    match error.code() {
        ErrorCode::NotFound => ObjectError::Missing(*id),
        _ => ObjectError::Unreadable { id: *id, cause: error.message().to_owned() },
    }
}
