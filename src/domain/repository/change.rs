//! The difference of two trees as path operations, computed from raw tree objects under the rules of
//! `tree` before anything is written. Knows neither repository nor disk: objects come through
//! [`ObjectSource`]. It parses trees itself because a checkout library hides what a hostile tree holds:
//! libgit2 makes mode 104755 a set-uid file while git shows it as 100755.
//!
//! Only differences are visited: a subtree that both sides share costs nothing, and its content does not
//! matter, because it is never written.

use std::{fmt, io};

use crate::domain::git::ObjectId;
use crate::domain::text::EscapeControls;

mod census;
pub mod converted;
mod raw;
mod staged;
mod tree;

pub use staged::{RecordedStat, StagedEntry, StatCheck, low};

/// The limit of nested directories; deeper trees are refused.
pub const MAX_DEPTH: usize = 64;
/// The limit of tree entries that one change visits, on both sides together.
pub const MAX_ENTRIES: usize = 1_000_000;
/// The limit of a path in bytes: that of the kernel, without the final NUL.
pub const MAX_PATH: usize = 4_095;
/// The limit of all paths of one change in bytes, so that a tree bomb cannot exhaust the memory.
pub const MAX_PATHS: usize = 64 << 20;
/// The limit of one tree object in bytes: one directory with every entry that a change may visit.
pub const MAX_TREE: u64 = 64 << 20;
/// The limit of one name in bytes: that of Linux file systems.
pub const MAX_NAME: usize = 255;
/// The limit of a symbolic link's target in bytes: that of the kernel, without the final NUL.
pub const MAX_LINK: u64 = 4_095;
/// The limit of a written file in bytes, unless another one is configured; a library holds it in memory.
pub const MAX_FILE: u64 = 1 << 30;
/// The limit of all files of one change in bytes.
pub const MAX_BYTES: u64 = 64 << 30;

/// The prefix of files that a worktree writer has not renamed yet. Refused in trees, so that the removal
/// of leftovers never hits a file of the repository.
pub const TEMPORARY: &str = ".pmpy-tmp-";

/// A path inside a tree: names joined by `/`, any bytes but NUL, never absolute.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(Vec<u8>);

impl RepoPath {
    /// The path from its bytes, as git writes it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The root of the tree.
    pub fn top() -> Self {
        Self(Vec::new())
    }

    /// The path as git writes it; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of the entry `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Self {
        if self.0.is_empty() { Self(name.to_vec()) } else { Self([&self.0, name].join(&b'/')) }
    }

    /// The parent directory (the root for a single name), and the name in it.
    pub fn split(&self) -> (Self, &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => {
                let (dir, name) = self.0.split_at(slash);
                (Self(dir.to_vec()), name.get(1..).unwrap_or_default())
            }
            None => (Self::top(), &self.0),
        }
    }

    /// The parent directories, outermost first, without the root.
    pub fn dirs(&self) -> impl Iterator<Item = Self> {
        let slashes = self.0.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        slashes.filter_map(|(at, _)| self.0.get(..at)).map(Self::new)
    }
}

impl fmt::Display for RepoPath {
    /// Escaped for terminals and logs, apart from quotes and backslashes, which do no harm there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            write!(f, "{}", chunk.valid().escape_controls())?;
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kind of a tree entry, as far as it is ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// 100644: a file, written with mode 0644.
    File,
    /// 100755: an executable file, written with mode 0755.
    Executable,
    /// 120000: a symbolic link.
    Link,
    /// 160000: a submodule. Written as an empty directory; it is never fetched.
    Submodule,
}

impl EntryMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::File, Self::Executable, Self::Link, Self::Submodule];

    /// The mode as a tree and git-diff(1) write it.
    pub fn octal(self) -> &'static str {
        match self {
            Self::File => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
            Self::Submodule => "160000",
        }
    }

    /// The mode as a number, as the index has it.
    pub fn bits(self) -> u32 {
        u32::from_str_radix(self.octal(), 8).unwrap_or_default()
    }

    /// The kind that a tree writes as `octal`; `None`: a directory, or a mode that is never written.
    pub fn of_octal(octal: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.octal().as_bytes() == octal)
    }

    /// The kind of an entry with the mode `bits`, of which only the type and the owner's execute bit count; `None`:
    /// a directory, or no type of git's.
    pub fn of_bits(bits: u32) -> Option<Self> {
        match bits & 0o170_000 {
            0o100_000 if bits & 0o100 != 0 => Some(Self::Executable),
            0o100_000 => Some(Self::File),
            0o120_000 => Some(Self::Link),
            0o160_000 => Some(Self::Submodule),
            _ => None,
        }
    }
}

/// A file, link or submodule in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// The kind of the entry.
    pub mode: EntryMode,
    /// The content: a blob, or for a submodule a commit of another repository.
    pub id: ObjectId,
}

/// One path that differs. At least one side is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathOp {
    /// The path in the tree.
    pub path: RepoPath,
    /// The old entry; `None`: nothing, or a directory.
    pub old: Option<TreeEntry>,
    /// The new entry; `None`: nothing, or a directory.
    pub new: Option<TreeEntry>,
    /// The size of the new content in bytes; 0 when there is none.
    pub size: u64,
}

/// The operations that turn one tree into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeChange {
    /// The operations, sorted by path, each path once. A file that becomes a directory is an operation
    /// on its own path and one on each path inside.
    pub ops: Vec<PathOp>,
}

/// The reason why an object cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectError {
    /// The object is not in the repository.
    Missing(ObjectId),
    /// The object has another type than the tree says.
    WrongKind {
        /// The object.
        id: ObjectId,
        /// The expected type, such as `tree`.
        expected: &'static str,
    },
    /// The object is larger than may be held in memory: a tree, commit or tag of more than [`MAX_TREE`] bytes, or a
    /// blob of more than [`ObjectSource::max_file`].
    TooLarge {
        /// The object.
        id: ObjectId,
        /// The size in bytes.
        size: u64,
        /// The limit in bytes.
        most: u64,
    },
    /// The object exists and cannot be read.
    Unreadable {
        /// The object.
        id: ObjectId,
        /// The cause, as a message.
        cause: String,
    },
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(id) => write!(f, "object {id} is missing in the repository"),
            Self::WrongKind { id, expected } => write!(f, "object {id} is no {expected}"),
            Self::TooLarge { id, size, most } if most % (1 << 20) == 0 => {
                write!(f, "object {id} has {size} bytes; {} MiB are the most", most >> 20)
            }
            Self::TooLarge { id, size, most } => {
                write!(f, "object {id} has {size} bytes; {most} are the most")
            }
            Self::Unreadable { id, cause } => {
                write!(f, "object {id} cannot be read: {}", cause.escape_controls())
            }
        }
    }
}

impl std::error::Error for ObjectError {}

/// The provider of raw objects, usually a repository.
pub trait ObjectSource {
    /// The raw content of tree `id`.
    ///
    /// # Errors
    /// The object is missing, damaged or no tree.
    fn tree(&self, id: &ObjectId) -> Result<Vec<u8>, ObjectError>;

    /// The size of blob `id` in bytes, without reading it.
    ///
    /// # Errors
    /// The object is missing, damaged or no blob.
    fn blob_size(&self, id: &ObjectId) -> Result<u64, ObjectError>;

    /// The content of blob `id`.
    ///
    /// # Errors
    /// The object is missing, damaged or no blob.
    fn blob(&self, id: &ObjectId) -> Result<impl AsRef<[u8]>, ObjectError>;

    /// The id of `size` bytes of `content` as a blob of this repository.
    ///
    /// # Errors
    /// `content` cannot be read or has another size.
    fn hash_blob(&self, size: u64, content: &mut dyn io::Read) -> io::Result<ObjectId>;

    /// The limit of a written file in bytes, see [`MAX_FILE`].
    fn max_file(&self) -> u64;
}

/// A tree entry that breaks the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRefusal {
    /// The path of the entry.
    pub path: RepoPath,
    /// The broken rule, as the end of a sentence that begins with the path.
    pub reason: String,
}

impl fmt::Display for TreeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, reason } = self;
        if path.as_bytes().is_empty() {
            write!(f, "the top directory {reason}")
        } else {
            write!(f, "\"{path}\" {reason}")
        }
    }
}

/// The reason why there is no change to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The new tree breaks the rules; only another revision helps.
    Refused(TreeRefusal),
    /// A file of the new tree is larger than [`ObjectSource::max_file`]: the file, and its size in
    /// bytes.
    TooLarge(TreeRefusal, u64),
    /// An object of either tree cannot be read; the repository needs repair.
    Unreadable(ObjectError),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) | Self::TooLarge(refusal, _) => refusal.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChangeError {}

impl From<TreeRefusal> for ChangeError {
    fn from(refusal: TreeRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ObjectError> for ChangeError {
    fn from(error: ObjectError) -> Self {
        Self::Unreadable(error)
    }
}

impl TreeChange {
    /// The operations that turn tree `from` (`None`: nothing) into tree `to`.
    ///
    /// The rules apply to every tree of `to` that differs, and always to its root. Entries of `from`
    /// that break the rules were never written by us and stay as they are.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] and [`ChangeError::TooLarge`] name the first entry of `to` that breaks
    /// the rules; [`ChangeError::Unreadable`] names the object that cannot be read.
    pub fn between(
        from: Option<ObjectId>,
        to: ObjectId,
        objects: &impl ObjectSource,
    ) -> Result<Self, ChangeError> {
        let mut ops = sorted_ops(from, to, objects)?;
        let mut total: u64 = 0;
        for op in &mut ops {
            op.size = content_size(op, objects)?;
            total = total.saturating_add(op.size);
            if total > MAX_BYTES {
                let reason =
                    format!("brings the files to write over {} GiB in all", MAX_BYTES >> 30);
                return Err(TreeRefusal { path: op.path.clone(), reason }.into());
            }
        }
        Ok(Self { ops })
    }

    /// All of tree `tree`, as a change from nothing without the sizes: for comparing it with what is on disk.
    ///
    /// # Errors
    /// The same as for [`TreeChange::between`], except for file sizes.
    pub fn listing(tree: ObjectId, objects: &impl ObjectSource) -> Result<Self, ChangeError> {
        Ok(Self { ops: sorted_ops(None, tree, objects)? })
    }

    /// The operations at the positions `places`, which are ascending, with their sizes.
    ///
    /// # Errors
    /// When the size of a content cannot be read, or is not permitted.
    pub fn selected(
        &self,
        places: impl Iterator<Item = usize>,
        objects: &impl ObjectSource,
    ) -> Result<Self, ChangeError> {
        let sized = |op: &PathOp| Ok(PathOp { size: content_size(op, objects)?, ..op.clone() });
        let ops = places
            .filter_map(|at| self.ops.get(at))
            .map(sized)
            .collect::<Result<_, ChangeError>>()?;
        Ok(Self { ops })
    }

    /// The paths that differ between tree `from` (`None`: nothing) and tree `to`.
    ///
    /// # Errors
    /// The same as for [`TreeChange::between`], except for file sizes.
    pub fn paths(
        from: Option<ObjectId>,
        to: ObjectId,
        objects: &impl ObjectSource,
    ) -> Result<Vec<RepoPath>, ChangeError> {
        let mut ops = tree::TreeWalk::new(from, to, objects).ops()?;
        ops.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(ops.into_iter().map(|op| op.path).collect())
    }

    /// The operation at `path`.
    pub fn at(&self, path: &RepoPath) -> Option<&PathOp> {
        self.ops.binary_search_by(|op| op.path.cmp(path)).ok().and_then(|at| self.ops.get(at))
    }

    /// Submodules that the new tree adds or moves; only an empty directory is made for each.
    pub fn submodules(&self) -> impl Iterator<Item = &RepoPath> {
        let is_submodule =
            |op: &&PathOp| op.new.is_some_and(|new| new.mode == EntryMode::Submodule);
        self.ops.iter().filter(is_submodule).map(|op| &op.path)
    }
}

/// The size of the new content in bytes, checked against the limits.
fn sorted_ops(
    from: Option<ObjectId>,
    to: ObjectId,
    objects: &impl ObjectSource,
) -> Result<Vec<PathOp>, ChangeError> {
    let mut ops = tree::TreeWalk::new(from, to, objects).ops()?;
    ops.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(ops)
}

fn content_size(op: &PathOp, objects: &impl ObjectSource) -> Result<u64, ChangeError> {
    let refuse = |reason: String| Err(TreeRefusal { path: op.path.clone(), reason }.into());
    let Some(TreeEntry { mode, id }) = op.new.filter(|new| new.mode != EntryMode::Submodule) else {
        return Ok(0);
    };
    let size = match objects.blob_size(&id) {
        Err(ObjectError::WrongKind { .. }) => {
            return refuse(format!("should be a file, but object {id} is something else"));
        }
        size => size?,
    };
    if mode == EntryMode::Link {
        if size == 0 || size > MAX_LINK {
            return refuse(format!(
                "is a symbolic link whose target has {size} bytes; 1 to {MAX_LINK} are possible"
            ));
        }
        if objects.blob(&id)?.as_ref().contains(&0) {
            return refuse("is a symbolic link with a NUL in its target".to_owned());
        }
    }
    if size > objects.max_file() {
        let reason = format!(
            "has {size} bytes; {} are the most\n\
             hint: if it is meant to be there, set max_file for this repository",
            objects.max_file()
        );
        let refusal = TreeRefusal { path: op.path.clone(), reason };
        return Err(ChangeError::TooLarge(refusal, size));
    }
    Ok(size)
}

/// The stat data of a written path, for the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// The last change of content: seconds and nanoseconds of Unix time.
    pub mtime: (i64, u32),
    /// The last change of content or attributes: seconds and nanoseconds of Unix time.
    pub ctime: (i64, u32),
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
}

/// A path that was written as the new tree has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPath {
    /// The path in the tree.
    pub path: RepoPath,
    /// The entry of the new tree.
    pub entry: TreeEntry,
    /// The stat data after writing.
    pub stat: FileStat,
}
