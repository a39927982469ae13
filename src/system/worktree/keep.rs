//! Keeps what a repair is about to replace: copies files and links into a directory of the agent's, and moves there
//! what a file cannot take the place of, such as a directory. Nothing is replaced that was not kept as it was.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, RenameFlags, Statx};
use rustix::io::Errno;

use super::{DirState, PathStep, ReadyChange, Worktree, kind, look_at, stat};
use crate::domain::repository::change::{
    EntryMode, ObjectSource, PathOp, RepoPath, TreeChange, WrittenPath,
};
use crate::system::files::{self, Dir};
use crate::system::watchdog;

/// The size of the portions in which files are copied, in bytes.
const PORTION: usize = 128 << 10;

/// A change whose old files are kept, so that it may be written over them.
#[derive(Debug)]
pub struct KeptChange {
    change: TreeChange,
    steps: Vec<PathStep>,
    /// What is moved away before the write.
    moves: BTreeSet<RepoPath>,
}

impl KeptChange {
    /// The change whose old files are kept.
    pub fn change(&self) -> &TreeChange {
        &self.change
    }

    fn ready(&self) -> ReadyChange<'_> {
        ReadyChange { change: &self.change, steps: self.steps.clone() }
    }
}

impl Worktree {
    /// Copies what is at the paths of `change` into `into`, an empty directory of ours, and syncs it to disk. `change`
    /// only creates or replaces files.
    ///
    /// # Errors
    /// When something cannot be read or copied, or is changed meanwhile. Nothing in the worktree has changed.
    pub fn keep(&self, change: TreeChange, into: &Dir) -> Result<KeptChange> {
        let mut keeper = Keeper::new(self, into);
        let steps = change.ops.iter().map(|op| keeper.keep(op)).collect::<Result<_>>()?;
        keeper.sync()?;
        let kept = KeptChange { moves: keeper.moves, change, steps };
        self.check_writable(&kept.ready())?;
        Ok(kept)
    }

    /// Writes what was kept anew: first moves into `into` what files cannot replace, then applies the change.
    ///
    /// # Errors
    /// When somebody changed a path since it was kept, or the disk is full or fails. What is written stays; running
    /// both again continues.
    pub fn replace_kept(
        &self,
        kept: &KeptChange,
        into: &Dir,
        objects: &impl ObjectSource,
    ) -> Result<Vec<WrittenPath>> {
        let mut keeper = Keeper::new(self, into);
        for path in &kept.moves {
            keeper.take(path)?;
        }
        keeper.sync()?;
        self.apply(&kept.ready(), objects)
    }
}

struct Keeper<'k> {
    worktree: &'k Worktree,
    into: &'k Dir,
    /// Directories with new entries.
    made: BTreeSet<RepoPath>,
    moves: BTreeSet<RepoPath>,
}

impl<'k> Keeper<'k> {
    fn new(worktree: &'k Worktree, into: &'k Dir) -> Self {
        Self { worktree, into, made: BTreeSet::new(), moves: BTreeSet::new() }
    }

    /// Keeps what is at the path of `op`, and returns the step that writes it anew.
    fn keep(&mut self, op: &PathOp) -> Result<PathStep> {
        watchdog::progress();
        let is_dir = op.new.is_some_and(|new| new.mode == EntryMode::Submodule);
        let create = if is_dir { PathStep::MakeDir(None) } else { PathStep::Create };
        let (parent, name) = op.path.split();
        let dir = match self.worktree.directory(&parent)? {
            DirState::Open(dir) => dir,
            DirState::Missing => return Ok(create),
            DirState::Blocked(obstacle) => {
                self.moves.insert(obstacle);
                return Ok(create);
            }
        };
        let message = || self.worktree.cannot("keep", &op.path);
        let Some(found) = look_at(&dir, name).with_context(message)? else { return Ok(create) };
        match kind(&found) {
            FileType::Directory if is_dir => return Ok(PathStep::Keep),
            FileType::RegularFile if !is_dir => {
                self.copy_file(&dir, &op.path, &found).with_context(message)?;
            }
            FileType::Symlink if !is_dir => {
                let text = rustix::fs::readlinkat(&dir, name, Vec::new()).with_context(message)?;
                let to = self.directory(&parent).with_context(message)?;
                rustix::fs::symlinkat(text, &to, name).with_context(message)?;
            }
            _ => {
                self.moves.insert(op.path.clone());
                return Ok(create);
            }
        }
        let again = look_at(&dir, name).with_context(message)?;
        ensure!(
            again.is_some_and(|again| stat(&again) == stat(&found)),
            "\"{}\" in {} is being changed now: nothing was written\n\
             hint: see what writes it; the next tick tries again",
            op.path,
            self.worktree.path.display()
        );
        Ok(PathStep::Replace(stat(&found)))
    }

    fn copy_file(&mut self, dir: &Dir, path: &RepoPath, found: &Statx) -> Result<()> {
        let (parent, name) = path.split();
        let mut from = dir.open_file(name)?;
        let to = self.directory(&parent)?;
        // No set-user-id file is kept, and nothing of it is for others: the directory above is ours alone.
        let mut copy = files::create_new(&to, name, u32::from(found.stx_mode & 0o777) | 0o600)?;
        copy_all(&mut from, &mut copy)?;
        Ok(copy.sync_all()?)
    }

    /// Moves what is at `path` into the directory of what is kept.
    fn take(&mut self, path: &RepoPath) -> Result<()> {
        let message = || self.worktree.cannot("move away", path);
        let (parent, name) = path.split();
        let from = self.worktree.root.beneath(parent.as_bytes()).with_context(message)?;
        if look_at(&from, name).with_context(message)?.is_none() {
            return Ok(());
        }
        let to = self.directory(&parent).with_context(message)?;
        match rustix::fs::renameat_with(&from, name, &to, name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL) => rustix::fs::renameat(&from, name, &to, name),
            moved => moved,
        }
        .with_context(message)?;
        from.sync().with_context(message)
    }

    /// The directory `path` below the one of what is kept, made where it is missing.
    fn directory(&mut self, path: &RepoPath) -> Result<Dir> {
        for directory in path.dirs().chain((*path != RepoPath::top()).then(|| path.clone())) {
            let (above, name) = directory.split();
            if !self.made.contains(&directory) {
                let parent = self.into.beneath(above.as_bytes())?;
                match parent.make(name, 0o700) {
                    Ok(_) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                self.made.insert(directory.clone());
            }
        }
        Ok(self.into.beneath(path.as_bytes())?)
    }

    fn sync(&self) -> Result<()> {
        for directory in self.made.iter().chain([&RepoPath::top()]) {
            let synced = self.into.beneath(directory.as_bytes()).map_err(std::io::Error::from);
            synced.and_then(|dir| dir.sync()).context("cannot sync what is kept")?;
        }
        Ok(())
    }
}

fn copy_all(from: &mut File, to: &mut File) -> Result<()> {
    let mut portion = vec![0; PORTION];
    loop {
        match from.read(&mut portion)? {
            0 => return Ok(()),
            count => watchdog::write_all(to, portion.get(..count).unwrap_or_default())?,
        }
    }
}
