//! The look before the first write: is each path that a change touches old, new, absent, or
//! somebody's work? Writes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Error, Result, anyhow};
use rustix::fs::{
    Access, AtFlags, FileType, Mode as Permissions, OFlags, StatVfsMountFlags, Statx,
    StatxAttributes,
};

use super::{
    Dir, Folder, Ready, Recent, Step, Unready, Worktree, is_temporary, kind, look_at, removes, stat,
};
use crate::domain::change::{Change, Entry, MAX_BLOB, Mode, Objects, PathOp, RepoPath};
use crate::domain::git::Id;
use crate::system::files::Fault;

/// How many strangers in a folder are named before the look at it ends.
const STRANGERS: usize = 20;

/// What is to happen at a path, or the paths with somebody's work.
enum Verdict {
    Do(Step),
    Dirty(Vec<RepoPath>),
}

impl Worktree {
    /// Looks at every path that `change` touches, and finds out whether it may be applied.
    ///
    /// Permission bits do not count as local changes, nor does a file that was deleted: both are put
    /// right. An untracked or ignored file in the way is fine when it is what the new tree has.
    /// `staged` tells what the index has at a path.
    ///
    /// # Errors
    /// [`Unready::Dirty`] names every path with local or staged changes in the way;
    /// [`Unready::Failed`] says what could not be read, or what would make the apply fail half-way:
    /// a read-only file system or folder, an immutable file, too little space.
    pub fn classify<'c>(
        &self,
        change: &'c Change,
        objects: &impl Objects,
        staged: &impl Fn(&RepoPath) -> Option<Entry>,
    ) -> Result<Ready<'c>, Unready> {
        let mut look = Look {
            worktree: self,
            change,
            objects,
            recent: Recent::new(self),
            writable: None,
            buffer: Vec::new(),
        };
        let mut steps = Vec::with_capacity(change.ops.len());
        let mut dirty = BTreeSet::new();
        for op in &change.ops {
            if !agrees(op, staged(&op.path)) {
                dirty.insert(op.path.clone());
                continue;
            }
            match look.verdict(op)? {
                Verdict::Do(step) => steps.push(step),
                Verdict::Dirty(paths) => dirty.extend(paths),
            }
        }
        if !dirty.is_empty() {
            return Err(Unready::Dirty(dirty.into_iter().collect()));
        }
        let ready = Ready { change, steps };
        self.check_writable(&ready)?;
        Ok(ready)
    }

    /// Finds what would stop the apply half-way, as far as that can be known before.
    fn check_writable(&self, ready: &Ready) -> Result<()> {
        if ready.steps.iter().all(|step| matches!(step, Step::Keep | Step::Absent)) {
            return Ok(());
        }
        let disk = rustix::fs::fstatvfs(&self.root)
            .with_context(|| format!("cannot look at the disk of {}", self.path.display()))?;
        if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let told = format!("{} cannot be written to", self.path.display());
            return Err(Error::new(Fault::ReadOnly).context(told));
        }
        let writes = || ready.change.ops.iter().zip(&ready.steps).filter(|(_, step)| step.writes());
        let check = |what, needed: u64, free: u64| {
            let path = self.path.display();
            let told =
                || format!("the new files need {needed} {what} and the disk of {path} has {free}");
            if needed > free { Err(Error::new(Fault::Full).context(told())) } else { Ok(()) }
        };
        let bytes = writes().map(|(op, _)| op.size).sum();
        check("bytes", bytes, disk.f_bavail.saturating_mul(disk.f_frsize))?;
        // Some file systems make inodes as they are needed, and say that they have none at all.
        if disk.f_files == 0 {
            return Ok(());
        }
        check("inodes", writes().count() as u64, disk.f_favail)
    }
}

/// Whether the index holds nothing at the operation's path that only the index has.
fn agrees(op: &PathOp, staged: Option<Entry>) -> bool {
    match staged {
        Some(_) => staged == op.old || staged == op.new,
        None => op.old.is_none() || op.new.is_none(),
    }
}

struct Look<'l, O> {
    worktree: &'l Worktree,
    change: &'l Change,
    objects: &'l O,
    recent: Recent<'l>,
    /// The last folder that was found to be writable.
    writable: Option<RepoPath>,
    buffer: Vec<u8>,
}

impl<O: Objects> Look<'_, O> {
    fn verdict(&mut self, op: &PathOp) -> Result<Verdict> {
        let (parent, name) = op.path.split();
        let worktree = self.worktree;
        let told = || worktree.cannot("look at", &op.path);
        let dir = match self.recent.folder(parent)? {
            Folder::Open(dir) => dir,
            Folder::Missing => return Ok(Verdict::Do(when_absent(op, Step::Create))),
            Folder::Blocked(obstacle) => return Ok(behind(op, obstacle, self.change)),
        };
        let Some(found) = look_at(dir, name).with_context(told)? else {
            return Ok(Verdict::Do(when_absent(op, Step::Create)));
        };
        if kind(&found) == FileType::Directory {
            return over_folder(worktree, op, self.change);
        }
        let content = content(dir, name, &found, op, self.objects, &mut self.buffer);
        let holds = content.with_context(told)?;
        let step = match (op.new, holds) {
            (_, Holds::Else) => return Ok(Verdict::Dirty(vec![op.path.clone()])),
            (Some(_), Holds::New) => Step::Keep,
            (Some(new), _) if new.mode == Mode::Submodule => Step::MakeFolder(Some(stat(&found))),
            (Some(_), _) => Step::Replace(stat(&found)),
            (None, _) => Step::Remove(stat(&found)),
        };
        if step != Step::Keep {
            let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
            if found.stx_attributes.intersects(fixed) {
                return Err(anyhow!(
                    "the file is immutable\nhint: chattr -ia on it, if that is right"
                ))
                .with_context(|| worktree.cannot("replace", &op.path));
            }
            let (folder, _) = op.path.split();
            if self.writable.as_ref() != Some(&folder) {
                let wanted = Access::WRITE_OK | Access::EXEC_OK;
                rustix::fs::accessat(dir, c".", wanted, AtFlags::empty())
                    .with_context(|| worktree.cannot("change the folder of", &op.path))?;
                self.writable = Some(folder);
            }
        }
        Ok(Verdict::Do(step))
    }
}

/// What to do where nothing is.
fn when_absent(op: &PathOp, create: Step) -> Step {
    match op.new {
        None => Step::Absent,
        Some(new) if new.mode == Mode::Submodule => Step::MakeFolder(None),
        Some(_) => create,
    }
}

/// What to do at a path that cannot be there, because `obstacle` stands where its folder would be.
/// A removal is done already. A new file needs that this very change removes the obstacle; whether
/// it is the old tree's own is found at its own operation.
fn behind(op: &PathOp, obstacle: &RepoPath, change: &Change) -> Verdict {
    let goes = change.at(obstacle).is_some_and(removes);
    if op.new.is_none() || goes {
        Verdict::Do(when_absent(op, Step::CreateLate))
    } else {
        Verdict::Dirty(vec![obstacle.clone()])
    }
}

/// What to do where a folder is.
fn over_folder(worktree: &Worktree, op: &PathOp, change: &Change) -> Result<Verdict> {
    let was_submodule = op.old.is_some_and(|old| old.mode == Mode::Submodule);
    Ok(match op.new {
        Some(new) if new.mode == Mode::Submodule => Verdict::Do(Step::Keep),
        Some(_) => {
            let strangers = strangers(worktree, &op.path, change)?;
            if strangers.is_empty() {
                Verdict::Do(Step::ReplaceFolder)
            } else {
                Verdict::Dirty(strangers)
            }
        }
        None if was_submodule => Verdict::Do(Step::RemoveFolder),
        // The file has gone and a folder has come: the new tree's, or somebody's, who may keep it.
        None => Verdict::Do(Step::Absent),
    })
}

/// What is below `top` that the change does not remove: at most [`STRANGERS`] of them.
fn strangers(worktree: &Worktree, top: &RepoPath, change: &Change) -> Result<Vec<RepoPath>> {
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

/// What a file or link on disk is to an operation.
enum Holds {
    Old,
    New,
    Else,
}

fn content(
    dir: &Dir,
    name: &[u8],
    found: &Statx,
    op: &PathOp,
    objects: &impl Objects,
    buffer: &mut Vec<u8>,
) -> Result<Holds> {
    let is_link = match kind(found) {
        FileType::RegularFile => false,
        FileType::Symlink => true,
        _ => return Ok(Holds::Else),
    };
    let could_be = |entry: &Entry| match entry.mode {
        Mode::File | Mode::Executable => !is_link,
        Mode::Link => is_link,
        Mode::Submodule => false,
    };
    let (old, new) = (op.old.filter(could_be), op.new.filter(could_be));
    if found.stx_size > MAX_BLOB || (old.is_none() && new.is_none()) {
        return Ok(Holds::Else);
    }
    let id = if is_link {
        let target = rustix::fs::readlinkat(dir, name, std::mem::take(buffer))?;
        let id = objects.hash_blob(target.as_bytes());
        *buffer = target.into_bytes();
        id
    } else {
        // Most local changes show in the size; reading could take long for a file of any size. Where
        // the old object is lost, only its content can tell.
        let old_fits = old.is_some_and(|old| {
            objects.blob_size(&old.id).map_or(true, |size| size == found.stx_size)
        });
        let new_fits = new.is_some() && op.size == found.stx_size;
        if !old_fits && !new_fits {
            return Ok(Holds::Else);
        }
        hash_file(dir, name, found.stx_size, objects, buffer)?
    };
    let is = |entry: Option<Entry>| entry.is_some_and(|entry| Some(entry.id) == id);
    let exact = |entry: Option<Entry>| match entry.map(|entry| entry.mode) {
        Some(Mode::File) => found.stx_mode & 0o7777 == 0o644,
        Some(Mode::Executable) => found.stx_mode & 0o7777 == 0o755,
        _ => true,
    };
    Ok(match (is(old), is(new)) {
        (_, true) if exact(new) => Holds::New,
        // The right content with the wrong permissions is written anew, too: changing them in place
        // would change them for every hard link.
        (true, _) | (_, true) => Holds::Old,
        (false, false) => Holds::Else,
    })
}

fn hash_file(
    dir: &Dir,
    name: &[u8],
    size: u64,
    objects: &impl Objects,
    buffer: &mut Vec<u8>,
) -> Result<Option<Id>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, name, flags, Permissions::empty())?);
    buffer.resize(usize::try_from(size)?, 0);
    file.read_exact(buffer)?;
    Ok(objects.hash_blob(buffer))
}
