//! Checks before the first write whether each path that a change touches is old, new, absent, or has
//! local changes. Writes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Error, Result, anyhow, bail};
use ring::digest;
use rustix::fs::{Access, AtFlags, FileType, StatVfsMountFlags, Statx, StatxAttributes};

use super::{
    ApplyRefusal, Dir, DirState, PathStep, ReadyChange, RecentDir, Worktree, is_temporary, kind,
    look_at, removes, stat,
};
use crate::domain::git::ObjectId;
use crate::domain::repository::change::converted::{LfsPointer, committed_forms};
use crate::domain::repository::change::{
    EntryMode, ObjectSource, PathOp, RepoPath, StagedEntry, TreeChange, TreeEntry, low,
};
use crate::system::files::DiskFault;
use crate::system::watchdog;

/// Most foreign files in a directory that are named before the search ends.
const STRANGERS: usize = 20;

/// Operation at a path, or the paths with local changes.
enum PathVerdict {
    Do(PathStep),
    Dirty(Vec<RepoPath>),
}

impl Worktree {
    /// Checks every path that `change` touches, and decides whether it may be applied.
    ///
    /// Permission bits do not count as local changes, nor does a deleted file: the apply corrects both.
    /// An untracked or ignored file in the way is accepted when it equals the new tree's. A file that git
    /// holds for unchanged is, whatever bytes git's conversions or a filter gave it. `staged` returns the
    /// index entry of a path.
    ///
    /// # Errors
    /// [`ApplyRefusal::Dirty`] names every path with local or staged changes in the way;
    /// [`ApplyRefusal::Failed`] describes a failed read, or a cause that would make the apply fail
    /// half-way: a read-only file system or directory, an immutable file, too little space.
    pub fn classify<'c>(
        &self,
        change: &'c TreeChange,
        objects: &impl ObjectSource,
        staged: &impl Fn(&RepoPath) -> Option<StagedEntry>,
    ) -> Result<ReadyChange<'c>, ApplyRefusal> {
        let mut look = LocalChanges {
            worktree: self,
            change,
            objects,
            recent: RecentDir::new(self),
            writable: None,
            buffer: Vec::new(),
        };
        let mut steps = Vec::with_capacity(change.ops.len());
        let mut dirty = BTreeSet::new();
        for op in &change.ops {
            let staged = staged(&op.path);
            if !agrees(op, staged.map(|staged| staged.entry)) {
                dirty.insert(op.path.clone());
                continue;
            }
            match look.verdict(op, staged.as_ref())? {
                PathVerdict::Do(step) => steps.push(step),
                PathVerdict::Dirty(paths) => dirty.extend(paths),
            }
        }
        if !dirty.is_empty() {
            return Err(ApplyRefusal::Dirty(dirty.into_iter().collect()));
        }
        let ready = ReadyChange { change, steps };
        self.check_writable(&ready)?;
        Ok(ready)
    }

    /// Finds causes that would stop the apply half-way, as far as they are known beforehand.
    pub(super) fn check_writable(&self, ready: &ReadyChange) -> Result<()> {
        if ready.steps.iter().all(|step| matches!(step, PathStep::Keep | PathStep::Absent)) {
            return Ok(());
        }
        let disk = rustix::fs::fstatvfs(&self.root)
            .with_context(|| format!("cannot look at the disk of {}", self.path.display()))?;
        if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let message = format!("{} cannot be written to", self.path.display());
            return Err(Error::new(DiskFault::ReadOnly).context(message));
        }
        let writes = || ready.change.ops.iter().zip(&ready.steps).filter(|(_, step)| step.writes());
        let check = |what, needed: u64, free: u64| {
            let path = self.path.display();
            let message =
                || format!("the new files need {needed} {what} and the disk of {path} has {free}");
            if needed > free { Err(Error::new(DiskFault::Full).context(message())) } else { Ok(()) }
        };
        let bytes = writes().map(|(op, _)| op.size).sum();
        check("bytes", bytes, disk.f_bavail.saturating_mul(disk.f_frsize))?;
        // Some file systems create inodes on demand, and report none at all.
        if disk.f_files == 0 {
            return Ok(());
        }
        check("inodes", writes().count() as u64, disk.f_favail)
    }
}

/// Whether the index has no content of its own at the path of the operation.
fn agrees(op: &PathOp, staged: Option<TreeEntry>) -> bool {
    match staged {
        Some(_) => staged == op.old || staged == op.new,
        None => op.old.is_none() || op.new.is_none(),
    }
}

struct LocalChanges<'l, O> {
    worktree: &'l Worktree,
    change: &'l TreeChange,
    objects: &'l O,
    recent: RecentDir<'l>,
    /// The last directory that was found to be writable.
    writable: Option<RepoPath>,
    buffer: Vec<u8>,
}

impl<O: ObjectSource> LocalChanges<'_, O> {
    fn verdict(&mut self, op: &PathOp, staged: Option<&StagedEntry>) -> Result<PathVerdict> {
        let (parent, name) = op.path.split();
        let worktree = self.worktree;
        let message = || worktree.cannot("look at", &op.path);
        let left_out = staged.is_some_and(|staged| staged.left_out);
        let dir = match self.recent.directory(parent)? {
            DirState::Open(dir) => dir,
            DirState::Missing if left_out => bail!(is_left_out(worktree, &op.path)),
            DirState::Missing => return Ok(PathVerdict::Do(when_absent(op, PathStep::Create))),
            DirState::Blocked(obstacle) => return Ok(behind(op, obstacle, self.change)),
        };
        let Some(found) = look_at(dir, name).with_context(message)? else {
            if left_out {
                bail!(is_left_out(worktree, &op.path));
            }
            return Ok(PathVerdict::Do(when_absent(op, PathStep::Create)));
        };
        if kind(&found) == FileType::Directory {
            return over_dir(worktree, op, self.change);
        }
        let content = content(dir, name, &found, op, self.objects, &mut self.buffer);
        let mut holds = content.with_context(message)?;
        if let (FileMatch::Else, FileType::RegularFile, Some(staged)) =
            (&holds, kind(&found), staged)
            && is_unchanged(dir, name, &found, staged, self.objects).with_context(message)?
        {
            holds = FileMatch::Old;
        }
        let step = match (op.new, holds) {
            (_, FileMatch::Else) => return Ok(PathVerdict::Dirty(vec![op.path.clone()])),
            (Some(_), FileMatch::New) => PathStep::Keep,
            (Some(new), _) if new.mode == EntryMode::Submodule => {
                PathStep::MakeDir(Some(stat(&found)))
            }
            (Some(_), _) => PathStep::Replace(stat(&found)),
            (None, _) => PathStep::Remove(stat(&found)),
        };
        if step != PathStep::Keep {
            let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
            if found.stx_attributes.intersects(fixed) {
                return Err(anyhow!(
                    "the file is immutable\nhint: chattr -ia on it, if that is right"
                ))
                .with_context(|| worktree.cannot("replace", &op.path));
            }
            let (directory, _) = op.path.split();
            if self.writable.as_ref() != Some(&directory) {
                let wanted = Access::WRITE_OK | Access::EXEC_OK;
                rustix::fs::accessat(dir, c".", wanted, AtFlags::empty())
                    .with_context(|| worktree.cannot("change the directory of", &op.path))?;
                self.writable = Some(directory);
            }
        }
        Ok(PathVerdict::Do(step))
    }
}

/// The message for a file that somebody keeps out of the worktree: it is not brought back silently.
fn is_left_out(worktree: &Worktree, path: &RepoPath) -> String {
    let clone = worktree.path.display();
    format!(
        "\"{path}\" is left out of the worktree on purpose (skip-worktree), and the new revision \
         changes it; the agent keeps whole worktrees\n\
         hint: take it in again: git -C {clone} update-index --no-skip-worktree FILE, or, after a \
         sparse checkout: git -C {clone} sparse-checkout disable"
    )
}

/// Step for a path where nothing exists.
fn when_absent(op: &PathOp, create: PathStep) -> PathStep {
    match op.new {
        None => PathStep::Absent,
        Some(new) if new.mode == EntryMode::Submodule => PathStep::MakeDir(None),
        Some(_) => create,
    }
}

/// Step for a path that cannot exist, because `obstacle` is where its directory belongs. A removal is
/// already done. A new file requires that this change removes the obstacle; whether that is the old
/// tree's own file is checked at its own operation.
fn behind(op: &PathOp, obstacle: &RepoPath, change: &TreeChange) -> PathVerdict {
    let goes = change.at(obstacle).is_some_and(removes);
    if op.new.is_none() || goes {
        PathVerdict::Do(when_absent(op, PathStep::CreateLate))
    } else {
        PathVerdict::Dirty(vec![obstacle.clone()])
    }
}

/// Step for a path where a directory exists.
fn over_dir(worktree: &Worktree, op: &PathOp, change: &TreeChange) -> Result<PathVerdict> {
    let was_submodule = op.old.is_some_and(|old| old.mode == EntryMode::Submodule);
    Ok(match op.new {
        Some(new) if new.mode == EntryMode::Submodule => PathVerdict::Do(PathStep::Keep),
        Some(_) => {
            let strangers = strangers(worktree, &op.path, change)?;
            if strangers.is_empty() {
                PathVerdict::Do(PathStep::ReplaceDir)
            } else {
                PathVerdict::Dirty(strangers)
            }
        }
        None if was_submodule => PathVerdict::Do(PathStep::RemoveDir),
        // The file is gone and a directory exists: it is the new tree's, or somebody's, and stays.
        None => PathVerdict::Do(PathStep::Absent),
    })
}

/// Files below `top` that the change does not remove: at most [`STRANGERS`] of them.
fn strangers(worktree: &Worktree, top: &RepoPath, change: &TreeChange) -> Result<Vec<RepoPath>> {
    let mut found = Vec::new();
    worktree.walk(top, &mut |path, kind| {
        let (_, name) = path.split();
        let ours = change.at(path).is_some_and(removes) || is_temporary(name);
        if kind != FileType::Directory && !ours {
            found.push(path.clone());
        }
        found.len() < STRANGERS
    })?;
    Ok(found)
}

/// Match of a file or link on disk with an operation.
enum FileMatch {
    Old,
    New,
    Else,
}

fn content(
    dir: &Dir,
    name: &[u8],
    found: &Statx,
    op: &PathOp,
    objects: &impl ObjectSource,
    buffer: &mut Vec<u8>,
) -> Result<FileMatch> {
    let is_link = match kind(found) {
        FileType::RegularFile => false,
        FileType::Symlink => true,
        _ => return Ok(FileMatch::Else),
    };
    let could_be = |entry: &TreeEntry| match entry.mode {
        EntryMode::File | EntryMode::Executable => !is_link,
        EntryMode::Link => is_link,
        EntryMode::Submodule => false,
    };
    let (old, new) = (op.old.filter(could_be), op.new.filter(could_be));
    if old.is_none() && new.is_none() {
        return Ok(FileMatch::Else);
    }
    let id = if is_link {
        let target = rustix::fs::readlinkat(dir, name, std::mem::take(buffer))?;
        let id = objects.hash_blob(target.as_bytes().len() as u64, &mut target.as_bytes())?;
        *buffer = target.into_bytes();
        id
    } else {
        // Most local changes differ in size, and reading a file of any size could take long. If the old
        // object is lost, only the content can decide.
        let old_fits = old.is_some_and(|old| {
            objects.blob_size(&old.id).map_or(true, |size| size == found.stx_size)
        });
        let new_fits = new.is_some() && op.size == found.stx_size;
        if !old_fits && !new_fits {
            return Ok(FileMatch::Else);
        }
        hash_file(dir, name, found.stx_size, objects)?
    };
    let is = |entry: Option<TreeEntry>| entry.is_some_and(|entry| entry.id == id);
    let exact = |entry: Option<TreeEntry>| match entry.map(|entry| entry.mode) {
        Some(EntryMode::File) => found.stx_mode & 0o7777 == 0o644,
        Some(EntryMode::Executable) => found.stx_mode & 0o7777 == 0o755,
        _ => true,
    };
    Ok(match (is(old), is(new)) {
        (_, true) if exact(new) => FileMatch::New,
        // The right content with the wrong permissions is also written anew: a change in place would
        // affect every hard link.
        (true, _) | (_, true) => FileMatch::Old,
        (false, false) => FileMatch::Else,
    })
}

/// Whether the plain file `found`, whose bytes are not those of its blob, is the blob's content in the
/// form that git gave it at a checkout. Git's own rule comes first: the stat data of the index. It leaves
/// open what was touched since, or written in the same moment as the index; there the content decides.
pub(super) fn is_unchanged(
    dir: &Dir,
    name: &[u8],
    found: &Statx,
    staged: &StagedEntry,
    objects: &impl ObjectSource,
) -> Result<bool> {
    let (TreeEntry { mode, id }, Some(recorded)) = (staged.entry, staged.recorded) else {
        return Ok(false);
    };
    if !matches!(mode, EntryMode::File | EntryMode::Executable) {
        return Ok(false);
    }
    if recorded.is_unchanged(&stat(found)) {
        return Ok(true);
    }
    // An object that is lost or too large proves nothing.
    let Ok(size) = objects.blob_size(&id) else { return Ok(false) };
    if size <= LfsPointer::MAX_SIZE
        && let Some(pointer) =
            objects.blob(&id).ok().and_then(|blob| LfsPointer::parse(blob.as_ref()))
    {
        return Ok(pointer.size == found.stx_size
            && hash_lfs(&mut dir.open_file(name)?)? == pointer.sha256);
    }
    // Git recorded another size than the blob's, so it converts this file. Where it does not, other
    // line endings are somebody's work.
    let converts = !matches!(recorded.stat.size, 0) && recorded.stat.size != u64::from(low(size));
    if !converts || found.stx_size > objects.max_file() {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    dir.open_file(name)?.take(found.stx_size).read_to_end(&mut bytes)?;
    for form in committed_forms(&bytes) {
        if form.len() as u64 == size && objects.hash_blob(size, &mut form.as_slice())? == id {
            return Ok(true);
        }
    }
    Ok(false)
}

fn hash_file(dir: &Dir, name: &[u8], size: u64, objects: &impl ObjectSource) -> Result<ObjectId> {
    Ok(objects.hash_blob(size, &mut dir.open_file(name)?)?)
}

/// The SHA-256 of a file, as git-lfs names it.
fn hash_lfs(file: &mut File) -> Result<[u8; 32]> {
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut piece = vec![0; 128 << 10];
    loop {
        watchdog::progress();
        match file.read(&mut piece)? {
            0 => return Ok(digest.finish().as_ref().try_into()?),
            count => digest.update(piece.get(..count).unwrap_or_default()),
        }
    }
}
