//! Objects and the index: trees and blobs by id, what is staged at a path, and the index entries of
//! the paths that an update wrote. Never looks at a worktree.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use git2::{ErrorCode, IndexEntry, IndexTime, ObjectType, Oid};

use super::Git;
use super::error::{Locked, explained, patiently, unreadable_index};
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
            unreadable_index(&error).context(format!("cannot read the index {}", path.display()))
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

    /// Takes over the paths of `change` into the index, and no other, and brings it to disk.
    /// `written` are its new paths as they look there.
    ///
    /// All of it happens under git's own lock, so that nothing that a person stages meanwhile is
    /// lost. libgit2 takes that lock for the writing alone; it is given a draft beside the index.
    ///
    /// # Errors
    /// When somebody else has the index locked, or the disk is full or fails.
    pub fn update_index(&self, change: &Change, written: &[Written]) -> Result<()> {
        let path = self.repo.path().join("index");
        let lock = patiently(|| IndexLock::take(&path))?;
        let draft = path.with_extension("pmpy.lock");
        let told = || format!("cannot write the index {}", path.display());
        copy_dated(&path, &draft).with_context(told)?;
        let format = self.repo.object_format();
        let mut index = git2::Index::open_ext(&draft, format).with_context(told)?;
        // It is the repository's for as long as it takes: libgit2 looks into the worktree for files
        // that changed in the very moment in which the index was written.
        self.repo.set_index(&mut index).with_context(told)?;
        let updated = Index(index).take_over(change, written);
        let mut real = git2::Index::open_ext(&path, format).with_context(told)?;
        self.repo.set_index(&mut real).with_context(told)?;
        updated?;
        lock.put_in_place(&draft, &path).with_context(told)?;
        real.read(false).with_context(told)
    }
}

/// Copies a file with its time, by which git tells what may have changed since. No file gives none.
fn copy_dated(from: &Path, to: &Path) -> io::Result<()> {
    let modified = match fs::metadata(from) {
        Ok(meta) => meta.modified()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    fs::copy(from, to)?;
    File::options().write(true).open(to)?.set_modified(modified)
}

/// `.git/index.lock`, as git takes it; gone with the value.
struct IndexLock {
    path: PathBuf,
    /// Whether it still is in its place.
    held: bool,
}

impl IndexLock {
    fn take(index: &Path) -> Result<Self> {
        let path = index.with_extension("lock");
        let told = || format!("cannot make the lock {}", path.display());
        match File::create_new(&path) {
            Ok(_) => Ok(Self { path, held: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(anyhow::Error::new(Locked).context(format!(
                    "cannot write the index: {} is there\n\
                     hint: a git command may be running; if none is, remove it",
                    path.display()
                )))
            }
            Err(error) => Err(error).with_context(told),
        }
    }

    /// The lock itself becomes the index, with what `draft` holds: no step of this can leave a lock
    /// beside an index that is done.
    fn put_in_place(mut self, draft: &Path, index: &Path) -> io::Result<()> {
        fs::rename(draft, &self.path)?;
        fs::rename(&self.path, index)?;
        self.held = false;
        Ok(())
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        if self.held {
            // Recovery takes away what stays.
            let _ = fs::remove_file(&self.path);
        }
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

    fn take_over(&mut self, change: &Change, written: &[Written]) -> Result<()> {
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
        self.0.write().map_err(|error| explained(&error).context("cannot write the index"))?;
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
