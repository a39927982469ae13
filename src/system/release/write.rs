//! Writes a complete tree into a new directory. It is empty before and no reader sees it before it is
//! published, so every file gets its final name at once; one `ReleaseStore::sync` brings many trees to
//! disk. Does not know which trees are published.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};
use rustix::fs::{Mode as Permissions, RenameFlags};
use rustix::io::Errno;

use super::remove::remove_tree;
use super::salvage::retired_name;
use super::{Dir, ReleaseStore, Slot, fresh, is_taken};
use crate::domain::git::Commit;
use crate::domain::repository::change::{
    EntryMode, ObjectSource, PathOp, RepoPath, TEMPORARY, TreeChange, TreeEntry,
};
use crate::system::files::{self, DiskFault};
use crate::system::watchdog;

/// A written tree that is not a release yet. Dropped without [`StagedRelease::publish`], it is removed.
#[derive(Debug)]
pub struct StagedRelease {
    store: Arc<Dir>,
    /// Name of the slot, empty where the store has none.
    pub(super) slot: String,
    name: String,
    pub(super) path: PathBuf,
    revision: Commit,
    /// Permissions of the published tree's directory.
    mode: u32,
    sealed: bool,
}

impl ReleaseStore {
    /// Writes `tree`, the complete content of `revision`, for `place`. Until it is published, only its
    /// owner can read it.
    ///
    /// # Errors
    /// When there is too little space, an object is missing, or the disk fails. Nothing is left behind.
    pub fn stage(
        &self,
        place: &Slot,
        revision: Commit,
        tree: &TreeChange,
        objects: &impl ObjectSource,
    ) -> Result<StagedRelease> {
        let link = self.link(place);
        let message = || format!("cannot write the release {revision} of {}", link.display());
        let slot = self.make_slot(place).with_context(message)?;
        enough_room(&slot, tree).with_context(message)?;
        let made = fresh(TEMPORARY, |name| slot.make_as_git(name.as_bytes()));
        let (name, top) = made.with_context(message)?;
        let found = top.look_at(b".").with_context(message)?;
        let mode = found.map_or(0o755, |found| u32::from(found.stx_mode) & 0o7777);
        let staged = StagedRelease {
            store: Arc::clone(&self.dir),
            slot: place.slot.clone().unwrap_or_default(),
            path: self.slot_path(place).join(&name),
            name,
            revision,
            mode,
            sealed: false,
        };
        files::have_mode(&top, 0o700).with_context(message)?;
        TreeWriter { top, open: Vec::new() }.write(tree, objects).with_context(message)?;
        Ok(staged)
    }

    fn make_slot(&self, place: &Slot) -> Result<Dir> {
        let message = || format!("cannot make {}", self.slot_path(place).display());
        let Some(slot) = self.slot(place)? else {
            let name = place.slot.as_deref().unwrap_or_default();
            return self.dir.make(name.as_bytes(), 0o755).with_context(message);
        };
        // Its creator may have died before it became accessible to readers.
        files::have_mode(&slot, 0o755).with_context(message)?;
        Ok(slot)
    }
}

/// Writes `tree` into the directory `name` in `parent`, where only its owner can read it; one that is there is
/// complete and stays. What else is in `parent` is removed.
///
/// # Errors
/// When there is too little space, an object is missing, or the disk fails.
pub fn export_tree(
    parent: &Path,
    name: &str,
    tree: &TreeChange,
    objects: &impl ObjectSource,
) -> Result<PathBuf> {
    let message = || format!("cannot write {}", parent.join(name).display());
    files::ensure_dir(parent, 0o700)?;
    let above = Dir::open(parent).with_context(message)?;
    for (other, _) in above.entries().with_context(message)? {
        if other != name.as_bytes() {
            remove_tree(&above, &other).with_context(message)?;
        }
    }
    if above.look_at(name.as_bytes()).with_context(message)?.is_none() {
        enough_room(&above, tree).with_context(message)?;
        let (fresh, top) =
            fresh(TEMPORARY, |name| above.make_as_git(name.as_bytes())).with_context(message)?;
        TreeWriter { top, open: Vec::new() }.write(tree, objects).with_context(message)?;
        rustix::fs::renameat(&above, fresh, &above, name).with_context(message)?;
    }
    Ok(parent.join(name))
}

impl StagedRelease {
    /// Path of the tree, for checks before it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the tree's directory.
    pub(super) fn top(&self) -> Result<Dir, Errno> {
        self.store.beneath(self.slot.as_bytes())?.beneath(self.name.as_bytes())
    }

    /// Publishes the tree as a release; call after [`ReleaseStore::sync`]. A directory that has the name
    /// of the release is exchanged atomically and retired: the next [`ReleaseStore::sweep`] removes it.
    ///
    /// # Errors
    /// When the store is not writable, or its file system cannot exchange two names. The tree is then
    /// removed, and the old release stays.
    pub fn publish(mut self) -> Result<()> {
        let message = format!("cannot make {} the release {}", self.path.display(), self.revision);
        let placed = self.take_name();
        self.sealed = placed.is_ok();
        placed.context(message)
    }

    fn take_name(&mut self) -> io::Result<()> {
        let slot = self.store.beneath(self.slot.as_bytes())?;
        rustix::fs::fchmod(&self.top()?, Permissions::from(self.mode))?;
        let name = self.revision.to_string();
        match rustix::fs::renameat(&slot, &self.name, &slot, &name).map_err(io::Error::from) {
            Err(error) if is_taken(&error) => {}
            renamed => return renamed,
        }
        // First under the name of a retired release: what an application wrote into the old one must not
        // be removed as a leftover, wherever this process dies.
        let staged = &self.name;
        self.name = retired_name(self.revision, |retired| {
            rustix::fs::renameat(&slot, staged, &slot, retired)
        })?;
        let flags = RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(&slot, &self.name, &slot, name, flags)?)
    }
}

impl Drop for StagedRelease {
    fn drop(&mut self) {
        if !self.sealed
            && let Ok(slot) = self.store.beneath(self.slot.as_bytes())
        {
            // A leftover is not a release, and the next sweep removes it.
            let _ = remove_tree(&slot, self.name.as_bytes());
        }
    }
}

/// Checks that `tree` fits on the disk of `directory`, as far as that is known beforehand.
fn enough_room(directory: &Dir, tree: &TreeChange) -> Result<()> {
    let left = rustix::fs::fstatvfs(directory).context("cannot ask how much room is left")?;
    let block = left.f_frsize.max(1);
    let directories: HashSet<RepoPath> = tree.ops.iter().flat_map(|op| op.path.dirs()).collect();
    let directories = directories.len() as u64 + 1;
    let files = tree.ops.len() as u64;
    let blocks = tree.ops.iter().fold(directories, |sum, op| sum + op.size.div_ceil(block));
    // File systems with unlimited inodes report zero.
    let inodes_count = left.f_files > 0;
    let fits = blocks <= left.f_bavail && (!inodes_count || files + directories <= left.f_favail);
    if fits {
        return Ok(());
    }
    let kib = |blocks: u64| blocks.saturating_mul(block).div_ceil(1 << 10);
    Err(Error::from(DiskFault::Full).context(format!(
        "it takes {} KiB and {} inodes; {} KiB and {} inodes are free",
        kib(blocks),
        files + directories,
        kib(left.f_bavail),
        left.f_favail
    )))
}

struct TreeWriter {
    top: Dir,
    /// Open directories above the current path, outermost first.
    open: Vec<(RepoPath, Dir)>,
}

impl TreeWriter {
    /// Writes all of `tree`. Its paths are sorted, so each directory is opened once.
    fn write(mut self, tree: &TreeChange, objects: &impl ObjectSource) -> Result<()> {
        for op in &tree.ops {
            let message = || format!("cannot write \"{}\"", op.path);
            self.put(op, objects).with_context(message)?;
        }
        Ok(())
    }

    fn put(&mut self, op: &PathOp, objects: &impl ObjectSource) -> Result<()> {
        ensure!(op.old.is_none(), "a release is a whole tree, and this is only what differs");
        let Some(TreeEntry { mode, id }) = op.new else { return Ok(()) };
        let dir = self.directory(&op.path)?;
        let (_, name) = op.path.split();
        let executable = match mode {
            EntryMode::Submodule => return Ok(dir.make_as_git(name).map(drop)?),
            EntryMode::Link => {
                return Ok(rustix::fs::symlinkat(objects.blob(&id)?.as_ref(), dir, name)?);
            }
            EntryMode::File => false,
            EntryMode::Executable => true,
        };
        let content = objects.blob(&id)?;
        let mut file = files::create_as_git(dir, name, executable)?;
        Ok(watchdog::write_all(&mut file, content.as_ref())?)
    }

    /// Opens the parent directory of `path`, and creates it when it is missing.
    fn directory(&mut self, path: &RepoPath) -> Result<&Dir> {
        let wanted: Vec<RepoPath> = path.dirs().collect();
        let open = self.open.iter().zip(&wanted);
        let shared = open.take_while(|((open, _), wanted)| open == *wanted).count();
        self.open.truncate(shared);
        for directory in wanted.into_iter().skip(shared) {
            let above = self.open.last().map_or(&self.top, |(_, dir)| dir);
            let dir = above.make_as_git(directory.split().1)?;
            self.open.push((directory, dir));
        }
        Ok(self.open.last().map_or(&self.top, |(_, dir)| dir))
    }
}
