//! Objects and the index: trees and blobs by id, the staged entry of a path, and the index entries of
//! the paths that an update wrote. Never looks at a worktree.

use std::cell::Cell;
use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use git2::{ErrorCode, IndexEntry, IndexTime, ObjectType, Oid};
use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::Git;
use super::error::{GitLocked, explained, patiently, unreadable_index};
use crate::domain::git::{Commit, ObjectFormat, ObjectId};
use crate::domain::repository::change::{
    EntryMode, FileStat, MAX_TREE, ObjectError, ObjectSource, RecordedStat, RepoPath, StagedEntry,
    StatCheck, TreeChange, TreeEntry, WrittenPath, low,
};
use crate::domain::signature::way::HistorySource;
use crate::system::git::size_limits;
use crate::system::{files, watchdog};

const PIECE: usize = 128 << 10;

impl ObjectSource for Git {
    fn tree(&self, id: &ObjectId) -> Result<Vec<u8>, ObjectError> {
        self.bytes_of(id, ObjectType::Tree, "tree")
    }

    fn blob_size(&self, id: &ObjectId) -> Result<u64, ObjectError> {
        let unreadable = |error| object_error(id, error);
        let odb = self.repo.odb().map_err(unreadable)?;
        match odb.read_header(self.oid_of(id)?).map_err(unreadable)? {
            (size, ObjectType::Blob) => Ok(size as u64),
            _ => Err(ObjectError::WrongKind { id: *id, expected: "blob" }),
        }
    }

    fn blob(&self, id: &ObjectId) -> Result<impl AsRef<[u8]>, ObjectError> {
        watchdog::progress();
        // The size first: libgit2 would read an object of any size into memory.
        let size = self.blob_size(id)?;
        let most = self.max_file();
        if size > most {
            return Err(ObjectError::TooLarge { id: *id, size, most });
        }
        match self.repo.find_blob(self.oid_of(id)?) {
            Ok(blob) => Ok(Blob(blob)),
            // libgit2 also answers "not found" for an object of another kind.
            Err(error) => Err(self.blob_size(id).err().unwrap_or_else(|| object_error(id, error))),
        }
    }

    fn hash_blob(&self, size: u64, content: &mut dyn Read) -> io::Result<ObjectId> {
        let digest = self.digest(format!("blob {size}\0").as_bytes(), size, content)?;
        let id = ObjectId::from_bytes(digest.as_ref());
        id.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn max_file(&self) -> u64 {
        Git::max_file(self)
    }
}

impl HistorySource for Git {
    fn format(&self) -> ObjectFormat {
        Git::format(self)
    }

    fn commit_bytes(&self, id: Commit) -> Result<Vec<u8>, ObjectError> {
        self.bytes_of(&id.0, ObjectType::Commit, "commit")
    }
}

/// A blob's content, borrowed from libgit2.
struct Blob<'g>(git2::Blob<'g>);

impl AsRef<[u8]> for Blob<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.content()
    }
}

impl Git {
    /// The hash, as the object format has it, of `head` and of `size` bytes of `content`.
    pub(super) fn digest(
        &self,
        head: &[u8],
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<Digest> {
        let mut digest = Context::new(match self.repo.object_format() {
            git2::ObjectFormat::Sha256 => &SHA256,
            _ => &SHA1_FOR_LEGACY_USE_ONLY,
        });
        digest.update(head);
        let (mut piece, mut left) = (vec![0; PIECE], size);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let count = content.read(piece.get_mut(..most).unwrap_or_default())?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            digest.update(piece.get(..count).unwrap_or_default());
            left -= count as u64;
            watchdog::progress();
        }
        Ok(digest.finish())
    }

    /// The bytes of an annotated tag.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub fn tag_bytes(&self, id: Commit) -> Result<Vec<u8>, ObjectError> {
        self.bytes_of(&id.0, ObjectType::Tag, "tag")
    }

    /// The content of an object of this kind, which is no blob.
    fn bytes_of(
        &self,
        id: &ObjectId,
        kind: ObjectType,
        expected: &'static str,
    ) -> Result<Vec<u8>, ObjectError> {
        watchdog::progress();
        let unreadable = |error| object_error(id, error);
        let odb = self.repo.odb().map_err(unreadable)?;
        let oid = self.oid_of(id)?;
        // The size first: libgit2 would read an object of any size into memory.
        let (size, _) = odb.read_header(oid).map_err(unreadable)?;
        if size as u64 > MAX_TREE {
            return Err(ObjectError::TooLarge { id: *id, size: size as u64, most: MAX_TREE });
        }
        let object = odb.read(oid).map_err(unreadable)?;
        match object.kind() == kind {
            true => Ok(object.data().to_vec()),
            false => Err(ObjectError::WrongKind { id: *id, expected }),
        }
    }

    /// The id for libgit2. An id of the other format counts as a missing object.
    fn oid_of(&self, id: &ObjectId) -> Result<Oid, ObjectError> {
        self.oid(id).map_err(|_| ObjectError::Missing(*id))
    }

    /// The tree of `commit`, by its id.
    ///
    /// # Errors
    /// When the commit is missing or damaged, or the id is not that of a commit.
    pub fn tree_of(&self, commit: &Commit) -> Result<ObjectId> {
        self.no_torn_object()?;
        let message = || format!("cannot read revision {commit}");
        let oid = self.oid_of(&commit.0)?;
        // The header first: libgit2's error says which object is missing.
        let header = self.repo.odb().and_then(|odb| odb.read_header(oid));
        header.map_err(|error| object_error(&commit.0, error)).with_context(message)?;
        let tree = self.raw_commit(oid).with_context(message)?.tree;
        ObjectId::from_bytes(tree.as_bytes())
            .with_context(|| format!("revision {commit} has no tree"))
    }

    /// Reads the index; it is empty where a repository has none.
    ///
    /// # Errors
    /// When it is damaged (see [`Git::rebuild_index`]) or of an unsupported kind, such as a split or a
    /// sparse one.
    pub fn index(&self) -> Result<Index> {
        size_limits::check(self.git_dir(), "index")?;
        let path = self.repo.path().join("index");
        // Before the read: an index that is replaced meanwhile counts as older than it is.
        let written =
            path.metadata().map_or((0, 0), |meta| time_of(meta.mtime(), meta.mtime_nsec()));
        // Not the repository's own handle: with `core.ignorecase` libgit2 would take `README` for
        // `readme`, and on Linux these are two files.
        let index = git2::Index::open_ext(&path, self.repo.object_format());
        let index = index.map_err(|error: git2::Error| {
            unreadable_index(&error).context(format!("cannot read the index {}", path.display()))
        })?;
        Ok(Index { index, next: Cell::default(), written, check: self.stat_check() })
    }

    /// The stat data that git compares in this clone.
    fn stat_check(&self) -> StatCheck {
        let Ok(config) = self.repo.config() else { return StatCheck::All };
        let minimal = config.get_string("core.checkstat").is_ok_and(|it| it == "minimal");
        match config.get_bool("core.trustctime") {
            _ if minimal => StatCheck::Minimal,
            Ok(false) => StatCheck::WithoutChangeTime,
            _ => StatCheck::All,
        }
    }

    /// Replaces an unreadable index by the entries of `tree`, without stat data, so that git compares
    /// each file once.
    ///
    /// # Errors
    /// When the tree cannot be read or the index cannot be written.
    pub fn rebuild_index(&self, tree: &ObjectId) -> Result<Index> {
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
        let mut index = Index::draft(index.with_context(failed)?);
        let tree = self.repo.find_tree(self.oid_of(tree)?).with_context(failed)?;
        index.index.read_tree(&tree).with_context(failed)?;
        index.write()?;
        fs::rename(&staged, &path).with_context(failed)?;
        self.index()
    }

    /// Updates the index for the paths of `change` only, and syncs it to disk. `written` are the new
    /// paths with their stat data.
    ///
    /// Git's own lock is held from before the read until the rename, so that nothing that a user stages
    /// meanwhile is lost. libgit2 takes that lock only to write, so it writes a draft next to the index.
    ///
    /// # Errors
    /// When another process has the index locked, or the disk is full or fails.
    pub fn update_index(&self, change: &TreeChange, written: &[WrittenPath]) -> Result<()> {
        let path = self.repo.path().join("index");
        size_limits::check(self.git_dir(), "index")?;
        let lock = patiently(|| IndexLock::take(&path))?;
        let draft = path.with_extension("pmpy.lock");
        let message = || format!("cannot write the index {}", path.display());
        copy_dated(&path, &draft).with_context(message)?;
        let format = self.repo.object_format();
        let mut index = git2::Index::open_ext(&draft, format).with_context(message)?;
        // The draft is the repository's index for the moment: libgit2 looks into the worktree for files
        // that changed at the same time as the index.
        self.repo.set_index(&mut index).with_context(message)?;
        let updated = Index::draft(index).take_over(self, change, written);
        let mut real = git2::Index::open_ext(&path, format).with_context(message)?;
        self.repo.set_index(&mut real).with_context(message)?;
        updated?;
        lock.put_in_place(&draft, &path).with_context(message)?;
        real.read(false).with_context(message)
    }
}

/// Copies a file with its modification time, by which git finds what may have changed since. Does
/// nothing when there is no file.
fn copy_dated(from: &Path, to: &Path) -> io::Result<()> {
    let Some(mut source) = files::open_plain(from).map_err(io::Error::other)? else {
        return Ok(());
    };
    // A draft of a dead process may be a link by now, which must not be written through.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut copy = File::create_new(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_modified(source.metadata()?.modified()?)
}

/// `.git/index.lock`, as git takes it. Dropping the value removes it.
struct IndexLock {
    path: PathBuf,
    /// Whether the lock file is still in place.
    held: bool,
}

impl IndexLock {
    fn take(index: &Path) -> Result<Self> {
        let path = index.with_extension("lock");
        let message = || format!("cannot make the lock {}", path.display());
        match File::create_new(&path) {
            Ok(_) => Ok(Self { path, held: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(anyhow::Error::new(GitLocked).context(format!(
                    "cannot write the index: {} is there\n\
                     hint: a git command may be running; if none is, remove it",
                    path.display()
                )))
            }
            Err(error) => Err(error).with_context(message),
        }
    }

    /// Renames the draft to the lock and the lock to the index. No step leaves a lock next to a finished
    /// index.
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
            // The recovery after a crash removes a lock that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The most entries that are passed over to find the next one.
const MOST_PASSED: usize = 16;

/// The index of a repository, or a draft of one.
pub struct Index {
    index: git2::Index,
    /// Where the entry after the last one that was asked for is.
    next: Cell<usize>,
    /// When the file was written.
    written: (i64, u32),
    check: StatCheck,
}

/// The extended flag of an entry whose file is left out of the worktree (gitformat-index(5)).
const SKIP_WORKTREE: u16 = 1 << 14;
/// The bits of the side of a conflict that an entry is of.
const STAGE: u16 = 3 << 12;
/// The flag of an entry whose file is to count as unchanged.
const ASSUME_UNCHANGED: u16 = 1 << 15;

impl Index {
    /// An index that is about to be written.
    fn draft(index: git2::Index) -> Self {
        Self { index, next: Cell::default(), written: (0, 0), check: StatCheck::All }
    }

    /// The entry at `path`; `None` where there is none or a merge left a conflict.
    pub fn staged(&self, path: &RepoPath) -> Option<StagedEntry> {
        let entry = self.entry(path)?;
        let mode = EntryMode::of_bits(entry.mode).unwrap_or(EntryMode::File);
        let time = |time: IndexTime| time_of(time.seconds().into(), time.nanoseconds().into());
        let stat = FileStat {
            mtime: time(entry.mtime),
            ctime: time(entry.ctime),
            dev: entry.dev.into(),
            ino: entry.ino.into(),
            uid: entry.uid,
            gid: entry.gid,
            size: entry.file_size.into(),
        };
        Some(StagedEntry {
            entry: TreeEntry { mode, id: ObjectId::from_bytes(entry.id.as_bytes())? },
            recorded: Some(RecordedStat { stat, index_written: self.written, check: self.check }),
            left_out: entry.flags_extended & SKIP_WORKTREE != 0,
            assumed: entry.flags & ASSUME_UNCHANGED != 0,
        })
    }

    /// The entry at `path`. Who asks for all files asks in the order of the index, where the next one needs no search.
    fn entry(&self, path: &RepoPath) -> Option<IndexEntry> {
        for at in (self.next.get()..).take(MOST_PASSED) {
            let Some(entry) = self.index.get(at) else { break };
            match entry.path.as_slice().cmp(path.as_bytes()) {
                Ordering::Less => {}
                Ordering::Equal if entry.flags & STAGE == 0 => {
                    self.next.set(at + 1);
                    return Some(entry);
                }
                Ordering::Equal | Ordering::Greater => break,
            }
        }
        self.index.get_path(path_of(path), 0)
    }

    fn take_over(&mut self, git: &Git, change: &TreeChange, written: &[WrittenPath]) -> Result<()> {
        for op in change.ops.iter().filter(|op| op.new.is_none()) {
            if self.staged(&op.path).is_none() {
                continue;
            }
            let removed = self.index.remove(path_of(&op.path), 0);
            removed.with_context(|| format!("cannot take \"{}\" from the index", op.path))?;
        }
        for WrittenPath { path, entry, stat } in written {
            let entry = index_entry(path, entry, git.oid(&entry.id)?, stat);
            let added = self.index.add(&entry);
            added.with_context(|| format!("cannot put \"{path}\" into the index"))?;
        }
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.index.write().map_err(|error| explained(&error).context("cannot write the index"))?;
        if let Some(path) = self.index.path() {
            let synced = File::open(path).and_then(|index| index.sync_all());
            synced.with_context(|| format!("cannot sync the index {}", path.display()))?;
        }
        Ok(())
    }
}

fn time_of(seconds: i64, nanoseconds: i64) -> (i64, u32) {
    (seconds, u32::try_from(nanoseconds).unwrap_or_default())
}

fn path_of(path: &RepoPath) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn index_entry(path: &RepoPath, entry: &TreeEntry, id: Oid, stat: &FileStat) -> IndexEntry {
    let time = |(seconds, nanoseconds): (i64, u32)| {
        IndexTime::new(low(seconds.cast_unsigned()).cast_signed(), nanoseconds)
    };
    IndexEntry {
        ctime: time(stat.ctime),
        mtime: time(stat.mtime),
        dev: low(stat.dev),
        ino: low(stat.ino),
        mode: entry.mode.bits(),
        uid: stat.uid,
        gid: stat.gid,
        file_size: low(stat.size),
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    }
}

/// Converts libgit2's error about object `id`.
fn object_error(id: &ObjectId, error: git2::Error) -> ObjectError {
    match error.code() {
        ErrorCode::NotFound => ObjectError::Missing(*id),
        _ => ObjectError::Unreadable { id: *id, cause: error.message().to_owned() },
    }
}
