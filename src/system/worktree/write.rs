//! The writes: stage all new content under temporary names, bring it to disk, remove what goes,
//! rename what comes, remove the folders that became empty, bring the names to disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode as Permissions, RenameFlags};
use rustix::io::Errno;

use super::{Dir, Folder, Ready, Step, Worktree, is_temporary, kind, look_at, removes, stat};
use crate::domain::change::{Entry, Mode, Objects, PathOp, RepoPath, Stat, TEMPORARY, Written};
use crate::system::files;

/// Up to this many operations each file and folder is synced by itself; above, the whole file system
/// is, which then costs less, although it waits for what others have written.
const SYNCED_ONE_BY_ONE: usize = 256;
/// The same where everything is new, as on a machine that is being made live: hardly anybody else
/// writes there, and somebody waits for the first script.
const NEW_SYNCED_ONE_BY_ONE: usize = 64;

impl Worktree {
    /// Makes the worktree what `ready`'s change says, and tells how each new path looks on disk.
    /// When it returns, all of it is on disk.
    ///
    /// # Errors
    /// When an object cannot be had, the disk is full or fails, or somebody changed a path since
    /// [`Worktree::classify`] looked. Up to the moment when all new content is on disk nothing has
    /// changed; after it, running both again goes on.
    pub fn apply(&self, ready: &Ready, objects: &impl Objects) -> Result<Vec<Written>> {
        self.apply_with(ready, objects, &mut || Ok(())).inspect_err(|_| {
            // What failed is worth more than that the clean-up did too; recovery sweeps again.
            let _ = self.sweep(ready.change);
        })
    }

    /// The same, with `permit` asked before each change to the disk; its error ends it there, with
    /// no clean-up, as a sudden death would.
    ///
    /// # Errors
    /// As [`Worktree::apply`], and whatever `permit` returns.
    pub fn apply_with(
        &self,
        ready: &Ready,
        objects: &impl Objects,
        permit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Written>> {
        let steps = || ready.change.ops.iter().zip(ready.steps.iter().copied());
        let most = match ready.change.ops.iter().all(|op| op.old.is_none()) {
            true => NEW_SYNCED_ONE_BY_ONE,
            false => SYNCED_ONE_BY_ONE,
        };
        let mut writer = Writer {
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
            if step.writes() && step != Step::CreateLate {
                staged.push((op, step, writer.stage(op, objects)?));
            }
        }
        writer.settle()?;
        for (op, step) in steps().rev() {
            match step {
                Step::Remove(seen) | Step::MakeFolder(Some(seen)) => writer.remove(op, seen)?,
                Step::RemoveFolder => writer.remove_folder(&op.path)?,
                _ => {}
            }
        }
        for (op, step) in steps() {
            match step {
                Step::CreateLate => staged.push((op, step, writer.stage(op, objects)?)),
                Step::MakeFolder(_) => writer.make_folders(&op.path)?,
                _ => {}
            }
        }
        if steps().any(|(_, step)| step == Step::CreateLate) {
            writer.settle()?;
        }
        for (op, step, temporary) in staged {
            writer.place(op, step, &temporary)?;
        }
        writer.prune(ready)?;
        writer.confirm()?;
        writer.written(ready)
    }
}

struct Writer<'w> {
    worktree: &'w Worktree,
    permit: &'w mut dyn FnMut() -> Result<()>,
    /// The folder used last: neighbours in a change mostly share theirs.
    recent: Option<(RepoPath, Dir)>,
    /// One folder on each device that was written to.
    devices: BTreeMap<u64, Dir>,
    /// Folders in which names changed.
    touched: BTreeSet<RepoPath>,
    one_by_one: bool,
    staged: u32,
}

impl Writer<'_> {
    /// Opens `folder`.
    fn folder(&mut self, folder: RepoPath) -> Result<&Dir> {
        let dir = match self.recent.take() {
            Some((recent, dir)) if recent == folder => dir,
            _ => {
                let opened = self.worktree.root.beneath(folder.as_bytes());
                opened.with_context(|| self.worktree.cannot("open the folder", &folder))?
            }
        };
        Ok(&self.recent.insert((folder, dir)).1)
    }

    /// Makes `folder` and those above it where they are missing.
    fn make_folders(&mut self, folder: &RepoPath) -> Result<()> {
        if self.recent.as_ref().is_some_and(|(recent, _)| recent == folder) {
            return Ok(());
        }
        if let Folder::Missing = self.worktree.folder(folder)? {
            for path in folder.folders() {
                self.make_folder(&path)?;
            }
            self.make_folder(folder)?;
        }
        self.take_note_of_device(folder)
    }

    /// Remembers which file system `folder` is on, where whole ones are synced.
    fn take_note_of_device(&mut self, folder: &RepoPath) -> Result<()> {
        if self.one_by_one {
            return Ok(());
        }
        let told = self.worktree.cannot("look at the folder", folder);
        let dir = self.folder(folder.clone())?;
        let found = look_at(dir, b".").with_context(|| told.clone())?.context(told.clone())?;
        let device = stat(&found).dev;
        if !self.devices.contains_key(&device) {
            let dir = self.worktree.root.beneath(folder.as_bytes()).context(told)?;
            self.devices.insert(device, dir);
        }
        Ok(())
    }

    /// Makes one folder, readable by everybody whatever the umask; one that exists is kept as it is.
    fn make_folder(&mut self, path: &RepoPath) -> Result<()> {
        let worktree = self.worktree;
        let told = || worktree.cannot("make the folder", path);
        let (parent, name) = path.split();
        let dir = worktree.root.beneath(parent.as_bytes()).with_context(told)?;
        if look_at(&dir, name).with_context(told)?.is_some_and(|found| is_folder(&found)) {
            return Ok(());
        }
        (self.permit)()?;
        rustix::fs::mkdirat(&dir, name, Permissions::from(0o755)).with_context(told)?;
        self.touched.insert(parent);
        let made = dir.beneath(name).with_context(told)?;
        let found = look_at(&made, b".").with_context(told)?;
        let mode = found.map_or(0, |found| u32::from(found.stx_mode) & 0o7777);
        if mode & 0o755 != 0o755 {
            rustix::fs::fchmod(&made, Permissions::from(mode | 0o755)).with_context(told)?;
        }
        Ok(())
    }

    /// Writes the new content of `op` under a temporary name beside its own, and returns that name.
    fn stage(&mut self, op: &PathOp, objects: &impl Objects) -> Result<String> {
        let Some(Entry { mode, id }) = op.new else {
            bail!("\"{}\" was to be written, but the new tree does not have it", op.path);
        };
        let told = self.worktree.cannot("write", &op.path);
        let temporary = format!("{TEMPORARY}{:08x}", self.staged);
        self.staged += 1;
        let one_by_one = self.one_by_one;
        let (parent, _) = op.path.split();
        self.make_folders(&parent)?;
        let blob = objects.blob(&id).with_context(|| told.clone())?;
        (self.permit)()?;
        let dir = self.folder(parent)?;
        let create = || match mode {
            Mode::Link => {
                let target = blob.as_ref();
                rustix::fs::symlinkat(target, dir, temporary.as_str()).map_err(io::Error::from)
            }
            mode => {
                let bits = if mode == Mode::Executable { 0o755 } else { 0o644 };
                let mut file = files::create_new(dir, temporary.as_bytes(), bits)?;
                file.write_all(blob.as_ref())?;
                if one_by_one { file.sync_all() } else { Ok(()) }
            }
        };
        let unlink = || rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
        let created = match create() {
            // Left by an apply that was cut off.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                unlink().map_err(io::Error::from).and_then(|()| create())
            }
            created => created,
        };
        created.with_context(|| told)?;
        Ok(temporary)
    }

    /// Gives staged content its name.
    fn place(&mut self, op: &PathOp, step: Step, temporary: &str) -> Result<()> {
        let worktree = self.worktree;
        let told = || worktree.cannot("write", &op.path);
        if step == Step::ReplaceFolder {
            self.clear(&op.path)?;
        }
        (self.permit)()?;
        let (parent, name) = op.path.split();
        let dir = self.folder(parent)?;
        let rename = |flags| rustix::fs::renameat_with(dir, temporary, dir, name, flags);
        if let Step::Replace(seen) = step {
            still(dir, name, seen).with_context(told)?;
            return rename(RenameFlags::empty()).with_context(told);
        }
        match rename(RenameFlags::NOREPLACE) {
            // Not every file system can do that.
            Err(Errno::INVAL) if look_at(dir, name).with_context(told)?.is_none() => {
                rename(RenameFlags::empty())
            }
            outcome => outcome,
        }
        .with_context(told)
    }

    /// Removes the folders at and below `path`, which hold nothing any more. The kernel refuses to
    /// remove one that does.
    fn clear(&mut self, path: &RepoPath) -> Result<()> {
        let mut folders = vec![path.clone()];
        let mut leftovers = Vec::new();
        self.worktree.walk(path, &mut |path, kind| {
            if kind == FileType::Directory {
                folders.push(path.clone());
            } else if is_temporary(path.split().1) {
                leftovers.push(path.clone());
            }
            true
        })?;
        for leftover in leftovers {
            self.unlink(&leftover, AtFlags::empty())?;
        }
        while let Some(folder) = folders.pop() {
            self.unlink(&folder, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    /// Removes the file of `op`, if it is still the one that was looked at.
    fn remove(&mut self, op: &PathOp, seen: Stat) -> Result<()> {
        let (parent, name) = op.path.split();
        let worktree = self.worktree;
        let told = || worktree.cannot("remove", &op.path);
        still(self.folder(parent)?, name, seen).with_context(told)?;
        self.unlink(&op.path, AtFlags::empty())
    }

    /// Removes a submodule's folder; one with something in it is somebody's work and stays.
    fn remove_folder(&mut self, path: &RepoPath) -> Result<()> {
        match self.unlink(path, AtFlags::REMOVEDIR) {
            Err(error) if is_in_use(&error) => Ok(()),
            outcome => outcome,
        }
    }

    fn unlink(&mut self, path: &RepoPath, flags: AtFlags) -> Result<()> {
        (self.permit)()?;
        let worktree = self.worktree;
        let (parent, name) = path.split();
        let removed = rustix::fs::unlinkat(self.folder(parent.clone())?, name, flags);
        removed.with_context(|| worktree.cannot("remove", path))?;
        self.touched.insert(parent);
        if flags.contains(AtFlags::REMOVEDIR) {
            self.recent = None;
        }
        Ok(())
    }

    /// Removes the folders that lost their last entry, also those that an apply which was cut off
    /// had emptied.
    fn prune(&mut self, ready: &Ready) -> Result<()> {
        let removed = ready.change.ops.iter().filter(|op| removes(op));
        let folders: BTreeSet<RepoPath> = removed.flat_map(|op| op.path.folders()).collect();
        for folder in folders.into_iter().rev() {
            let (parent, name) = folder.split();
            let Folder::Open(dir) = self.worktree.folder(&parent)? else { continue };
            (self.permit)()?;
            // One that is in use or may not be removed is left: an empty folder harms nobody.
            if rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).is_ok() {
                self.touched.insert(parent);
            }
        }
        self.recent = None;
        Ok(())
    }

    /// Waits until staged content is on disk.
    fn settle(&mut self) -> Result<()> {
        for dir in self.devices.values() {
            rustix::fs::syncfs(dir)
                .with_context(|| format!("cannot sync {}", self.worktree.path.display()))?;
        }
        Ok(())
    }

    /// Waits until the names are on disk.
    fn confirm(&mut self) -> Result<()> {
        if !self.one_by_one {
            return self.settle();
        }
        for folder in &self.touched {
            if let Folder::Open(dir) = self.worktree.folder(folder)? {
                dir.sync().with_context(|| self.worktree.cannot("sync", folder))?;
            }
        }
        Ok(())
    }

    /// How every new path looks on disk now.
    fn written(&mut self, ready: &Ready) -> Result<Vec<Written>> {
        let mut written = Vec::with_capacity(ready.change.ops.len());
        for op in &ready.change.ops {
            let Some(entry) = op.new else { continue };
            let (parent, name) = op.path.split();
            let worktree = self.worktree;
            let told = || worktree.cannot("look at", &op.path);
            let found = look_at(self.folder(parent)?, name).with_context(told)?;
            let found = found.context("somebody removed it while it was being updated");
            let found = found.with_context(told)?;
            written.push(Written { path: op.path.clone(), entry, stat: stat(&found) });
        }
        Ok(written)
    }
}

fn is_folder(found: &rustix::fs::Statx) -> bool {
    kind(found) == FileType::Directory
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let in_use = [Errno::NOTEMPTY, Errno::EXIST, Errno::BUSY];
    error.downcast_ref::<Errno>().is_some_and(|error| in_use.contains(error))
}

/// Checks that `name` is still what was looked at. Not by the change time: removing another hard
/// link to the same file sets that.
fn still(dir: &Dir, name: &[u8], seen: Stat) -> Result<()> {
    let same = |now: Stat| {
        (now.dev, now.ino, now.size, now.mtime) == (seen.dev, seen.ino, seen.size, seen.mtime)
    };
    if look_at(dir, name)?.is_some_and(|found| same(stat(&found))) {
        return Ok(());
    }
    bail!("somebody changed it while it was being updated")
}
