//! The writes of an apply: stage all new content under temporary names, sync it, remove old files,
//! rename the new ones, remove emptied directories, sync the names. Does not decide whether a change
//! may be applied.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{
    Dir, DirState, PathStep, ReadyChange, Worktree, is_temporary, kind, look_at, removes, stat,
};
use crate::domain::repository::change::{
    EntryMode, FileStat, ObjectSource, PathOp, RepoPath, TEMPORARY, TreeEntry, WrittenPath,
};
use crate::system::{files, watchdog};

/// Up to this many operations, each file and directory is synced separately; above, the whole file
/// system, which then costs less although it waits for the writes of others.
const SYNCED_ONE_BY_ONE: usize = 256;
/// The same limit where everything is new, as on a machine during installation: few others write there,
/// and somebody waits for the first script.
const NEW_SYNCED_ONE_BY_ONE: usize = 64;

impl Worktree {
    /// Applies the change of `ready` to the worktree, and returns the stat data of each new path. When
    /// it returns, all of it is on disk.
    ///
    /// # Errors
    /// When an object is missing, the disk is full or fails, or somebody changed a path since
    /// [`Worktree::classify`] checked it. Until all new content is on disk nothing has changed; after
    /// that, running both again continues.
    pub fn apply(
        &self,
        ready: &ReadyChange,
        objects: &impl ObjectSource,
    ) -> Result<Vec<WrittenPath>> {
        self.apply_with(ready, objects, &mut || Ok(())).inspect_err(|_| {
            // Keep the first error, not one of the clean-up; recovery sweeps again.
            let _ = self.sweep(ready.change);
        })
    }

    /// As [`Worktree::apply`], but calls `permit` before each change to the disk; its error ends the
    /// apply there, without clean-up, as a crash would.
    ///
    /// # Errors
    /// As [`Worktree::apply`], and the errors of `permit`.
    pub fn apply_with(
        &self,
        ready: &ReadyChange,
        objects: &impl ObjectSource,
        permit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<WrittenPath>> {
        let steps = || ready.change.ops.iter().zip(ready.steps.iter().copied());
        let most = match ready.change.ops.iter().all(|op| op.old.is_none()) {
            true => NEW_SYNCED_ONE_BY_ONE,
            false => SYNCED_ONE_BY_ONE,
        };
        let mut writer = WorktreeWriter {
            worktree: self,
            permit,
            recent: None,
            devices: BTreeMap::new(),
            touched: steps().map(|(op, _)| op.path.split().0).collect(),
            one_by_one: ready.change.ops.len() <= most,
            staged: 0,
        };
        writer.take_note_of_device(&RepoPath::top())?;
        let mut staged = Vec::new();
        for (op, step) in steps() {
            if step.writes() && step != PathStep::CreateLate {
                staged.push((op, step, writer.stage(op, objects)?));
            }
        }
        writer.sync()?;
        for (op, step) in steps().rev() {
            match step {
                PathStep::Remove(seen) | PathStep::MakeDir(Some(seen)) => {
                    writer.remove(op, seen)?
                }
                PathStep::RemoveDir => writer.remove_dir(&op.path)?,
                _ => {}
            }
        }
        for (op, step) in steps() {
            match step {
                PathStep::CreateLate => staged.push((op, step, writer.stage(op, objects)?)),
                PathStep::MakeDir(_) => writer.make_dirs(&op.path)?,
                _ => {}
            }
        }
        if steps().any(|(_, step)| step == PathStep::CreateLate) {
            writer.sync()?;
        }
        for (op, step, temporary) in staged {
            writer.place(op, step, &temporary)?;
        }
        writer.prune(ready)?;
        writer.confirm()?;
        writer.written(ready)
    }
}

struct WorktreeWriter<'w> {
    worktree: &'w Worktree,
    permit: &'w mut dyn FnMut() -> Result<()>,
    /// The directory used last: adjacent paths of a change mostly share theirs.
    recent: Option<(RepoPath, Dir)>,
    /// One directory on each device that was written to.
    devices: BTreeMap<u64, Dir>,
    /// Directories with changed entries.
    touched: BTreeSet<RepoPath>,
    one_by_one: bool,
    staged: u32,
}

impl WorktreeWriter<'_> {
    fn directory(&mut self, directory: RepoPath) -> Result<&Dir> {
        let dir = match self.recent.take() {
            Some((recent, dir)) if recent == directory => dir,
            _ => {
                let opened = self.worktree.root.beneath(directory.as_bytes());
                opened.with_context(|| self.worktree.cannot("open the directory", &directory))?
            }
        };
        Ok(&self.recent.insert((directory, dir)).1)
    }

    /// Creates `directory` and its parents where they are missing.
    fn make_dirs(&mut self, directory: &RepoPath) -> Result<()> {
        if self.recent.as_ref().is_some_and(|(recent, _)| recent == directory) {
            return Ok(());
        }
        if let DirState::Missing = self.worktree.directory(directory)? {
            for path in directory.dirs() {
                self.make_dir(&path)?;
            }
            self.make_dir(directory)?;
        }
        self.take_note_of_device(directory)
    }

    /// Records the file system of `directory` for a sync of whole file systems.
    fn take_note_of_device(&mut self, directory: &RepoPath) -> Result<()> {
        if self.one_by_one {
            return Ok(());
        }
        let message = self.worktree.cannot("look at the directory", directory);
        let dir = self.directory(directory.clone())?;
        let found =
            look_at(dir, b".").with_context(|| message.clone())?.context(message.clone())?;
        let device = stat(&found).dev;
        if !self.devices.contains_key(&device) {
            let dir = self.worktree.root.beneath(directory.as_bytes()).context(message)?;
            self.devices.insert(device, dir);
        }
        Ok(())
    }

    /// Creates one directory with the mode that git would give it; keeps an existing one unchanged.
    fn make_dir(&mut self, path: &RepoPath) -> Result<()> {
        let worktree = self.worktree;
        let message = || worktree.cannot("make the directory", path);
        let (parent, name) = path.split();
        let dir = worktree.root.beneath(parent.as_bytes()).with_context(message)?;
        if look_at(&dir, name).with_context(message)?.is_some_and(|found| is_dir(&found)) {
            return Ok(());
        }
        (self.permit)()?;
        dir.make_as_git(name).with_context(message)?;
        self.touched.insert(parent);
        Ok(())
    }

    /// Writes the new content of `op` under a temporary name next to its own, and returns that name.
    fn stage(&mut self, op: &PathOp, objects: &impl ObjectSource) -> Result<String> {
        let Some(TreeEntry { mode, id }) = op.new else {
            bail!("\"{}\" was to be written, but the new tree does not have it", op.path);
        };
        let message = self.worktree.cannot("write", &op.path);
        let temporary = format!("{TEMPORARY}{:08x}", self.staged);
        self.staged += 1;
        let one_by_one = self.one_by_one;
        let (parent, _) = op.path.split();
        self.make_dirs(&parent)?;
        let blob = objects.blob(&id).with_context(|| message.clone())?;
        (self.permit)()?;
        let dir = self.directory(parent)?;
        let create = || match mode {
            EntryMode::Link => {
                let target = blob.as_ref();
                rustix::fs::symlinkat(target, dir, temporary.as_str()).map_err(io::Error::from)
            }
            mode => {
                let executable = mode == EntryMode::Executable;
                let mut file = files::create_as_git(dir, temporary.as_bytes(), executable)?;
                watchdog::write_all(&mut file, blob.as_ref())?;
                if one_by_one { file.sync_all() } else { Ok(()) }
            }
        };
        let unlink = || rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
        let created = match create() {
            // An interrupted apply left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                unlink().map_err(io::Error::from).and_then(|()| create())
            }
            created => created,
        };
        created.with_context(|| message)?;
        Ok(temporary)
    }

    /// Renames staged content to its final name.
    fn place(&mut self, op: &PathOp, step: PathStep, temporary: &str) -> Result<()> {
        let worktree = self.worktree;
        let message = || worktree.cannot("write", &op.path);
        watchdog::progress();
        if step == PathStep::ReplaceDir {
            self.remove_old(&op.path)?;
        }
        (self.permit)()?;
        let (parent, name) = op.path.split();
        let dir = self.directory(parent)?;
        let rename = |flags| rustix::fs::renameat_with(dir, temporary, dir, name, flags);
        if let PathStep::Replace(seen) = step {
            still(dir, name, seen).with_context(message)?;
            return rename(RenameFlags::empty()).with_context(message);
        }
        match rename(RenameFlags::NOREPLACE) {
            // Not every file system supports this flag.
            Err(Errno::INVAL) if look_at(dir, name).with_context(message)?.is_none() => {
                rename(RenameFlags::empty())
            }
            outcome => outcome,
        }
        .with_context(message)
    }

    /// Removes the empty directories at and below `path`. The kernel refuses to remove one that is not
    /// empty.
    fn remove_old(&mut self, path: &RepoPath) -> Result<()> {
        let mut directories = vec![path.clone()];
        let mut leftovers = Vec::new();
        self.worktree.walk(path, &mut |path, kind| {
            if kind == FileType::Directory {
                directories.push(path.clone());
            } else if is_temporary(path.split().1) {
                leftovers.push(path.clone());
            }
            true
        })?;
        for leftover in leftovers {
            self.unlink(&leftover, AtFlags::empty())?;
        }
        while let Some(directory) = directories.pop() {
            self.unlink(&directory, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    /// Removes the file of `op`, if it is unchanged since the check.
    fn remove(&mut self, op: &PathOp, seen: FileStat) -> Result<()> {
        let (parent, name) = op.path.split();
        let worktree = self.worktree;
        let message = || worktree.cannot("remove", &op.path);
        still(self.directory(parent)?, name, seen).with_context(message)?;
        self.unlink(&op.path, AtFlags::empty())
    }

    /// Removes a submodule's directory; one that is not empty is somebody's work and stays.
    fn remove_dir(&mut self, path: &RepoPath) -> Result<()> {
        match self.unlink(path, AtFlags::REMOVEDIR) {
            Err(error) if is_in_use(&error) => Ok(()),
            outcome => outcome,
        }
    }

    fn unlink(&mut self, path: &RepoPath, flags: AtFlags) -> Result<()> {
        watchdog::progress();
        (self.permit)()?;
        let worktree = self.worktree;
        let (parent, name) = path.split();
        let removed = rustix::fs::unlinkat(self.directory(parent.clone())?, name, flags);
        removed.with_context(|| worktree.cannot("remove", path))?;
        self.touched.insert(parent);
        if flags.contains(AtFlags::REMOVEDIR) {
            self.recent = None;
        }
        Ok(())
    }

    /// Removes directories that lost their last entry, including those that an interrupted apply had
    /// emptied.
    fn prune(&mut self, ready: &ReadyChange) -> Result<()> {
        let removed = ready.change.ops.iter().filter(|op| removes(op));
        let directories: BTreeSet<RepoPath> = removed.flat_map(|op| op.path.dirs()).collect();
        for directory in directories.into_iter().rev() {
            let (parent, name) = directory.split();
            let DirState::Open(dir) = self.worktree.directory(&parent)? else { continue };
            (self.permit)()?;
            // One that is in use or may not be removed stays: an empty directory does no harm.
            if rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).is_ok() {
                self.touched.insert(parent);
            }
        }
        self.recent = None;
        Ok(())
    }

    /// Syncs staged content to disk.
    fn sync(&mut self) -> Result<()> {
        for dir in self.devices.values() {
            rustix::fs::syncfs(dir)
                .with_context(|| format!("cannot sync {}", self.worktree.path.display()))?;
        }
        Ok(())
    }

    /// Syncs changed directory entries to disk.
    fn confirm(&mut self) -> Result<()> {
        if !self.one_by_one {
            return self.sync();
        }
        for directory in &self.touched {
            if let DirState::Open(dir) = self.worktree.directory(directory)? {
                dir.sync().with_context(|| self.worktree.cannot("sync", directory))?;
            }
        }
        Ok(())
    }

    /// Current stat data of every new path.
    fn written(&mut self, ready: &ReadyChange) -> Result<Vec<WrittenPath>> {
        let mut written = Vec::with_capacity(ready.change.ops.len());
        for op in &ready.change.ops {
            let Some(entry) = op.new else { continue };
            let (parent, name) = op.path.split();
            let worktree = self.worktree;
            let message = || worktree.cannot("look at", &op.path);
            let found = look_at(self.directory(parent)?, name).with_context(message)?;
            let found = found.context("it was removed while it was being updated");
            let found = found.with_context(message)?;
            written.push(WrittenPath { path: op.path.clone(), entry, stat: stat(&found) });
        }
        Ok(written)
    }
}

fn is_dir(found: &rustix::fs::Statx) -> bool {
    kind(found) == FileType::Directory
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let in_use = [Errno::NOTEMPTY, Errno::EXIST, Errno::BUSY];
    error.downcast_ref::<Errno>().is_some_and(|error| in_use.contains(error))
}

/// Checks that `name` is unchanged since the check. Ignores the change time, because removing another
/// hard link to the same file updates it.
fn still(dir: &Dir, name: &[u8], seen: FileStat) -> Result<()> {
    let same = |now: FileStat| {
        (now.dev, now.ino, now.size, now.mtime) == (seen.dev, seen.ino, seen.size, seen.mtime)
    };
    if look_at(dir, name)?.is_some_and(|found| same(stat(&found))) {
        return Ok(());
    }
    bail!("it was changed while it was being updated")
}
