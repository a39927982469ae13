//! How one tree becomes another: the path operations, worked out from raw tree objects under the
//! rules of `tree` before anything is written. Knows neither repository nor disk: objects come
//! through [`Objects`]. It parses trees itself because a library that checks out hides what a
//! hostile tree holds: libgit2 makes mode 104755 a set-uid file while git shows it as 100755.
//!
//! Only what differs is visited: a subtree that both sides share costs nothing, and what stands in
//! it does not matter, because it is never written.

use std::fmt;

use super::git::Id;

mod census;
mod tree;

/// Folders within folders: deeper trees are refused.
pub const MAX_DEPTH: usize = 64;
/// Tree entries that one change may visit, on both sides together.
pub const MAX_ENTRIES: usize = 1_000_000;
/// Bytes of a path: what the kernel takes, without the final NUL.
pub const MAX_PATH: usize = 4_095;
/// Bytes of all paths of one change together, so that a tree bomb cannot take the memory.
pub const MAX_PATHS: usize = 64 << 20;
/// Bytes of one tree object: one folder with every entry that a change may visit.
pub const MAX_TREE: u64 = 64 << 20;
/// Bytes of one name: what Linux file systems take.
pub const MAX_NAME: usize = 255;
/// Bytes of a symbolic link's target: what the kernel takes, without the final NUL.
pub const MAX_LINK: u64 = 4_095;
/// Bytes of one file; it has to fit into memory.
pub const MAX_BLOB: u64 = 2 << 30;
/// Bytes of all files that one change writes.
pub const MAX_BYTES: u64 = 64 << 30;

/// How names of files begin that a worktree writer made and has not renamed yet. Refused in trees,
/// so that what is swept is never anybody's file.
pub const TEMPORARY: &str = ".pmpy-tmp-";

/// A path inside a tree: names joined by `/`, any bytes but NUL, never absolute.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(Vec<u8>);

impl RepoPath {
    /// The path made of `bytes`, as git writes it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The top of the tree.
    pub fn top() -> Self {
        Self(Vec::new())
    }

    /// The path as git writes it; empty for the top.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The entry `name` of this folder.
    pub fn join(&self, name: &[u8]) -> Self {
        if self.0.is_empty() { Self(name.to_vec()) } else { Self([&self.0, name].join(&b'/')) }
    }

    /// The folder that it stands in (the top for a single name), and its name there.
    pub fn split(&self) -> (Self, &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => {
                let (folder, name) = self.0.split_at(slash);
                (Self(folder.to_vec()), name.get(1..).unwrap_or_default())
            }
            None => (Self::top(), &self.0),
        }
    }

    /// The folders that it stands in, outermost first, without the top.
    pub fn folders(&self) -> impl Iterator<Item = Self> {
        let slashes = self.0.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        slashes.filter_map(|(at, _)| self.0.get(..at)).map(Self::new)
    }
}

impl fmt::Display for RepoPath {
    /// Escaped, so that it may stand in a terminal and in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            write!(f, "{}", chunk.valid().escape_debug())?;
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

/// What an entry of a tree is, as far as it is ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 100644: a file, written with mode 0644.
    File,
    /// 100755: an executable file, written with mode 0755.
    Executable,
    /// 120000: a symbolic link.
    Link,
    /// 160000: a submodule. An empty folder stands for it; it is never fetched.
    Submodule,
}

/// What stands at a path in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub mode: Mode,
    /// Its content: a blob, for a submodule a commit of another repository.
    pub id: Id,
}

/// One path that differs. At least one side is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathOp {
    /// Where.
    pub path: RepoPath,
    /// What stood there; `None`: nothing, or a folder.
    pub old: Option<Entry>,
    /// What is to stand there; `None`: nothing, or a folder.
    pub new: Option<Entry>,
    /// Bytes of the new content; 0 when there is none.
    pub size: u64,
}

/// What turns one tree into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Sorted by path, each path once. A file that becomes a folder is an operation on its own path
    /// and one on each path inside.
    pub ops: Vec<PathOp>,
}

/// Why an object cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectError {
    /// It is not in the repository.
    Missing(Id),
    /// It is there and is something else than the tree says.
    WrongKind {
        /// Which object.
        id: Id,
        /// What was expected: `tree` or `blob`.
        expected: &'static str,
    },
    /// It is a tree of more than [`MAX_TREE`] bytes.
    TooLarge {
        /// Which object.
        id: Id,
        /// How many it has.
        size: u64,
    },
    /// It is there and cannot be read.
    Unreadable {
        /// Which object.
        id: Id,
        /// Why.
        cause: String,
    },
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(id) => write!(f, "object {id} is missing in the repository"),
            Self::WrongKind { id, expected } => write!(f, "object {id} is no {expected}"),
            Self::TooLarge { id, size } => {
                write!(f, "tree {id} has {size} bytes; {} MiB are the most", MAX_TREE >> 20)
            }
            Self::Unreadable { id, cause } => {
                write!(f, "object {id} cannot be read: {}", cause.escape_debug())
            }
        }
    }
}

impl std::error::Error for ObjectError {}

/// Where objects come from.
pub trait Objects {
    /// The raw content of tree `id`.
    ///
    /// # Errors
    /// When it is missing, damaged or no tree.
    fn tree(&self, id: &Id) -> Result<Vec<u8>, ObjectError>;

    /// How many bytes blob `id` has, without reading it.
    ///
    /// # Errors
    /// When it is missing, damaged or no blob.
    fn blob_size(&self, id: &Id) -> Result<u64, ObjectError>;

    /// The content of blob `id`.
    ///
    /// # Errors
    /// When it is missing, damaged or no blob.
    fn blob(&self, id: &Id) -> Result<impl AsRef<[u8]>, ObjectError>;

    /// The id that `content` has as a blob of this repository; `None` when the library fails, which
    /// it does only without memory.
    fn hash_blob(&self, content: &[u8]) -> Option<Id>;
}

/// A tree that breaks the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which entry.
    pub path: RepoPath,
    /// Which rule.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, reason } = self;
        if path.as_bytes().is_empty() {
            write!(f, "the top folder {reason}")
        } else {
            write!(f, "\"{path}\" {reason}")
        }
    }
}

/// Why there is no change to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The new tree breaks the rules; only another revision helps.
    Refused(Refusal),
    /// An object of either tree cannot be had; the repository needs repair.
    Unreadable(ObjectError),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChangeError {}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ObjectError> for ChangeError {
    fn from(error: ObjectError) -> Self {
        Self::Unreadable(error)
    }
}

impl Change {
    /// What turns tree `from` (`None`: nothing) into tree `to`.
    ///
    /// Every tree of `to` that differs is held to the rules, and so is its top folder when nothing
    /// differs. Of `from`, what the rules would refuse was never written by us and is left alone.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] names the first entry of `to` that breaks the rules;
    /// [`ChangeError::Unreadable`] the object that cannot be had.
    pub fn between(from: Option<Id>, to: Id, objects: &impl Objects) -> Result<Self, ChangeError> {
        let mut ops = tree::Walk::new(from, to, objects).ops()?;
        ops.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut total: u64 = 0;
        for op in &mut ops {
            op.size = content_size(op, objects)?;
            total = total.saturating_add(op.size);
            if total > MAX_BYTES {
                let reason =
                    format!("brings the files to write over {} GiB in all", MAX_BYTES >> 30);
                return Err(Refusal { path: op.path.clone(), reason }.into());
            }
        }
        Ok(Self { ops })
    }

    /// What happens at `path`.
    pub fn at(&self, path: &RepoPath) -> Option<&PathOp> {
        self.ops.binary_search_by(|op| op.path.cmp(path)).ok().and_then(|at| self.ops.get(at))
    }

    /// Submodules that the new tree adds or moves, for which only an empty folder is made.
    pub fn submodules(&self) -> impl Iterator<Item = &RepoPath> {
        let is_submodule = |op: &&PathOp| op.new.is_some_and(|new| new.mode == Mode::Submodule);
        self.ops.iter().filter(is_submodule).map(|op| &op.path)
    }
}

/// How many bytes `op` writes, once its new content is found to be within bounds.
fn content_size(op: &PathOp, objects: &impl Objects) -> Result<u64, ChangeError> {
    let refuse = |reason: String| Err(Refusal { path: op.path.clone(), reason }.into());
    let Some(Entry { mode, id }) = op.new.filter(|new| new.mode != Mode::Submodule) else {
        return Ok(0);
    };
    let size = match objects.blob_size(&id) {
        Err(ObjectError::WrongKind { .. }) => {
            return refuse(format!("should be a file, but object {id} is something else"));
        }
        size => size?,
    };
    if mode == Mode::Link {
        if size == 0 || size > MAX_LINK {
            return refuse(format!(
                "is a symbolic link whose target has {size} bytes; 1 to {MAX_LINK} are possible"
            ));
        }
        if objects.blob(&id)?.as_ref().contains(&0) {
            return refuse("is a symbolic link with a NUL in its target".to_owned());
        }
    }
    if size > MAX_BLOB {
        return refuse(format!("has {size} bytes; {} GiB are the most", MAX_BLOB >> 30));
    }
    Ok(size)
}

/// What the file system said of a written path, for the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Last change of content: seconds and nanoseconds of Unix time.
    pub mtime: (i64, u32),
    /// Last change of content or attributes, likewise.
    pub ctime: (i64, u32),
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// A path that now is as the new tree has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub path: RepoPath,
    /// What.
    pub entry: Entry,
    /// How it looks on disk.
    pub stat: Stat,
}
