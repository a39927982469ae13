//! Compares the files of a tree with what is on disk, as git-status(1) does: the stat data of the index first, the
//! content only where that does not prove that a file is unchanged. Looks at the paths of the tree and at nothing
//! else, follows no link, and writes nothing.

use std::io::Read;

use anyhow::{Context, Result};
use rustix::fs::{FileType, Statx};

use super::local_changes::is_unchanged;
use super::{DirState, RecentDir, Worktree, kind, look_at, stat};
use crate::domain::git::ObjectId;
use crate::domain::repository::change::{
    EntryMode, FileStat, ObjectSource, RepoPath, StagedEntry, TreeChange, TreeEntry,
};
use crate::domain::repository::drift::Difference;
use crate::system::files::Dir;
use crate::system::watchdog;

/// How often a file is compared again that is changed while it is compared.
const TRIES: usize = 3;

/// What is known about a file before its content is read.
pub trait KnownFiles {
    /// The entry of the index at `path`.
    fn staged(&self, path: &RepoPath) -> Option<StagedEntry>;
    /// Whether the stat data `found` of the file at `path`, which should be `entry`, proves that it is unchanged.
    fn is_unchanged(
        &self,
        staged: Option<&StagedEntry>,
        entry: &TreeEntry,
        found: &FileStat,
    ) -> bool;
    /// Whether the execute bit of files counts (`core.fileMode`).
    fn counts_modes(&self) -> bool;
}

impl Worktree {
    /// The places in `tree`, the whole content of a revision, at which something else is on disk, in its order.
    ///
    /// # Errors
    /// When a directory or a file cannot be read.
    pub fn differences(
        &self,
        tree: &TreeChange,
        objects: &impl ObjectSource,
        known: &impl KnownFiles,
    ) -> Result<Vec<(usize, Difference)>> {
        let mut recent = RecentDir::new(self);
        let mut all = Vec::new();
        for (at, op) in tree.ops.iter().enumerate() {
            watchdog::progress();
            let Some(entry) = op.new else { continue };
            let (parent, name) = op.path.split();
            let dir = match recent.directory(parent)? {
                DirState::Open(dir) => dir,
                // Something else has the place of its directory, which git calls deleted.
                DirState::Missing | DirState::Blocked(_) => {
                    if !known.staged(&op.path).is_some_and(|staged| staged.left_out) {
                        all.push((at, Difference::Deleted));
                    }
                    continue;
                }
            };
            let compared = ComparedFile { dir, name, path: &op.path, entry, objects, known };
            let how = compared.difference().with_context(|| self.cannot("compare", &op.path))?;
            all.extend(how.map(|how| (at, how)));
        }
        Ok(all)
    }
}

/// What is at a path of a worktree.
pub struct DiskFile {
    /// A link, else a file.
    pub is_link: bool,
    /// Its owner may execute it.
    pub is_executable: bool,
    /// The id that its content has as a blob.
    pub id: ObjectId,
    /// Its content; `None`: it is larger than was asked for.
    pub content: Option<Vec<u8>>,
}

impl Worktree {
    /// The file or link at `path`, with its content up to `cap` bytes; `None` where there is neither. Follows no link.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn found(
        &self,
        path: &RepoPath,
        cap: u64,
        objects: &impl ObjectSource,
    ) -> Result<Option<DiskFile>> {
        let message = || self.cannot("read", path);
        let (parent, name) = path.split();
        let DirState::Open(dir) = self.directory(&parent)? else { return Ok(None) };
        let Some(found) = look_at(&dir, name).with_context(message)? else { return Ok(None) };
        let (kind, is_executable) = (kind(&found), found.stx_mode & 0o100 != 0);
        let content = match kind {
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(&dir, name, Vec::new()).with_context(message)?;
                text.into_bytes()
            }
            FileType::RegularFile if found.stx_size > cap => {
                let mut file = dir.open_file(name).with_context(message)?;
                let id = objects.hash_blob(found.stx_size, &mut file).with_context(message)?;
                return Ok(Some(DiskFile { is_link: false, is_executable, id, content: None }));
            }
            FileType::RegularFile => {
                let mut content = Vec::new();
                let file = dir.open_file(name).with_context(message)?;
                file.take(cap).read_to_end(&mut content).with_context(message)?;
                content
            }
            _ => return Ok(None),
        };
        let id = objects.hash_blob(content.len() as u64, &mut content.as_slice());
        let id = id.with_context(message)?;
        let is_link = kind == FileType::Symlink;
        Ok(Some(DiskFile { is_link, is_executable, id, content: Some(content) }))
    }
}

struct ComparedFile<'f, O, K> {
    dir: &'f Dir,
    name: &'f [u8],
    path: &'f RepoPath,
    entry: TreeEntry,
    objects: &'f O,
    known: &'f K,
}

impl<O: ObjectSource, K: KnownFiles> ComparedFile<'_, O, K> {
    fn difference(&self) -> Result<Option<Difference>> {
        let staged = self.known.staged(self.path);
        for _ in 0..TRIES {
            let Some(found) = look_at(self.dir, self.name)? else {
                let left_out = staged.is_some_and(|staged| staged.left_out);
                return Ok((!left_out).then_some(Difference::Deleted));
            };
            if self.is_of_another_kind(&found) {
                return Ok(Some(Difference::Kind));
            }
            let is_other_mode = self.is_other_mode(&found);
            if self.known.is_unchanged(staged.as_ref(), &self.entry, &stat(&found)) {
                return Ok(is_other_mode.then_some(Difference::Mode));
            }
            let same = self.has_content(&found, staged.as_ref());
            // A file that is replaced while it is read says nothing; the new one is read.
            match look_at(self.dir, self.name)? {
                Some(again) if stat(&again) == stat(&found) => {
                    return Ok(match (same?, is_other_mode) {
                        (false, _) => Some(Difference::Content),
                        (true, true) => Some(Difference::Mode),
                        (true, false) => None,
                    });
                }
                _ => {}
            }
        }
        // It is written without end.
        Ok(Some(Difference::Content))
    }

    fn is_of_another_kind(&self, found: &Statx) -> bool {
        let expected = match self.entry.mode {
            EntryMode::File | EntryMode::Executable => FileType::RegularFile,
            EntryMode::Link => FileType::Symlink,
            EntryMode::Submodule => FileType::Directory,
        };
        kind(found) != expected
    }

    fn is_other_mode(&self, found: &Statx) -> bool {
        let is_executable = found.stx_mode & 0o100 != 0;
        self.known.counts_modes()
            && match self.entry.mode {
                EntryMode::File => is_executable,
                EntryMode::Executable => !is_executable,
                EntryMode::Link | EntryMode::Submodule => false,
            }
    }

    /// Whether the file, link or directory `found`, which is of the right kind, has the content of the entry.
    fn has_content(&self, found: &Statx, staged: Option<&StagedEntry>) -> Result<bool> {
        let Self { dir, name, entry, objects, .. } = self;
        match entry.mode {
            // What is inside belongs to another repository.
            EntryMode::Submodule => return Ok(true),
            EntryMode::Link => {
                let text = rustix::fs::readlinkat(dir, *name, Vec::new())?;
                let mut text = text.as_bytes();
                return Ok(objects.hash_blob(text.len() as u64, &mut text)? == entry.id);
            }
            EntryMode::File | EntryMode::Executable => {}
        }
        let size = found.stx_size;
        // An object that is lost has no size: the content decides.
        if objects.blob_size(&entry.id).map_or(true, |of_blob| of_blob == size)
            && objects.hash_blob(size, &mut dir.open_file(name)?)? == entry.id
        {
            return Ok(true);
        }
        match staged.filter(|staged| staged.entry == *entry) {
            Some(staged) => is_unchanged(dir, name, found, staged, *objects),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the files of the tests need not last")]

    use std::cell::Cell;
    use std::fs;
    use std::io;

    use super::*;
    use crate::domain::repository::change::{ObjectError, PathOp};

    /// Objects whose ids are their contents.
    struct Plain;

    fn id(content: &[u8]) -> ObjectId {
        let mut bytes = [0; 20];
        bytes.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
        ObjectId::from_bytes(&bytes).unwrap()
    }

    impl ObjectSource for Plain {
        fn tree(&self, id: &ObjectId) -> Result<Vec<u8>, ObjectError> {
            Err(ObjectError::Missing(*id))
        }

        fn blob_size(&self, id: &ObjectId) -> Result<u64, ObjectError> {
            Ok(id.as_bytes().iter().take_while(|byte| **byte != 0).count() as u64)
        }

        fn blob(&self, id: &ObjectId) -> Result<impl AsRef<[u8]>, ObjectError> {
            Err::<Vec<u8>, _>(ObjectError::Missing(*id))
        }

        fn hash_blob(&self, size: u64, content: &mut dyn io::Read) -> io::Result<ObjectId> {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            match bytes.len() as u64 == size {
                true => Ok(id(&bytes)),
                false => Err(io::Error::other("it has another size")),
            }
        }

        fn max_file(&self) -> u64 {
            1 << 20
        }
    }

    /// Runs `meanwhile` with the number of the try, between the look at a file and the read of its content.
    struct Meanwhile<F>(Cell<usize>, F);

    impl<F: Fn(usize)> KnownFiles for Meanwhile<F> {
        fn staged(&self, _: &RepoPath) -> Option<StagedEntry> {
            None
        }

        fn is_unchanged(&self, _: Option<&StagedEntry>, _: &TreeEntry, _: &FileStat) -> bool {
            self.0.set(self.0.get() + 1);
            (self.1)(self.0.get());
            false
        }

        fn counts_modes(&self) -> bool {
            true
        }
    }

    fn compared(meanwhile: impl Fn(&std::path::Path, usize)) -> (Option<Difference>, usize) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "right").unwrap();
        let new = Some(TreeEntry { mode: EntryMode::File, id: id(b"right") });
        let op = PathOp { path: RepoPath::new("file"), old: None, new, size: 0 };
        let tree = TreeChange { ops: vec![op] };
        let known = Meanwhile(Cell::new(0), |number| meanwhile(dir.path(), number));
        let worktree = Worktree::open(dir.path()).unwrap();
        let found = worktree.differences(&tree, &Plain, &known).unwrap();
        (found.first().map(|(_, how)| *how), known.0.get())
    }

    fn replace(dir: &std::path::Path, content: &str) {
        fs::write(dir.join("new"), content).unwrap();
        fs::rename(dir.join("new"), dir.join("file")).unwrap();
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_compared_is_compared_again() {
        let wrong = compared(|dir, number| {
            if number == 1 {
                replace(dir, "wrong")
            }
        });
        assert_eq!(wrong, (Some(Difference::Content), 2));
        let right = compared(|dir, number| {
            if number == 1 {
                replace(dir, "right")
            }
        });
        assert_eq!(right, (None, 2));
        let longer = compared(|dir, number| {
            if number == 1 {
                replace(dir, "right and more")
            }
        });
        assert_eq!(longer, (Some(Difference::Content), 2));
        let gone = compared(|dir, _| fs::remove_file(dir.join("file")).unwrap_or_default());
        assert_eq!(gone, (Some(Difference::Deleted), 1));
        let link = compared(|dir, number| {
            if number == 1 {
                fs::remove_file(dir.join("file")).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", dir.join("file")).unwrap();
            }
        });
        assert_eq!(link, (Some(Difference::Kind), 1), "never read through");
        let endless = compared(|dir, _| replace(dir, "right"));
        assert_eq!(endless, (Some(Difference::Content), TRIES));
    }
}
