//! Writing a whole tree into a fresh folder. Nothing was there before and nobody meets it before it
//! is sealed, so every file gets its name at once; bringing it to disk is [`Store::settle`]'s, once
//! for many trees.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};
use rustix::fs::{Mode as Permissions, RenameFlags};
use rustix::io::Errno;

use super::remove::remove_tree;
use super::{Dir, Place, Store, fresh, is_taken};
use crate::domain::change::{Change, Entry, Mode, Objects, PathOp, RepoPath, TEMPORARY};
use crate::domain::git::Commit;
use crate::system::files::{self, Fault};

/// A tree that is written and is no release yet. Dropped without [`Staged::seal`], it goes away.
#[derive(Debug)]
pub struct Staged {
    store: Arc<Dir>,
    /// The slot, empty where the store has none.
    slot: String,
    name: String,
    path: PathBuf,
    revision: Commit,
    sealed: bool,
}

impl Store {
    /// Writes `tree`, all that `revision` has, for `place`. Until it is sealed, only its owner can
    /// look at it.
    ///
    /// # Errors
    /// When there is too little room for it, an object cannot be had, or the disk fails. Nothing is
    /// left behind.
    pub fn stage(
        &self,
        place: &Place,
        revision: Commit,
        tree: &Change,
        objects: &impl Objects,
    ) -> Result<Staged> {
        let link = self.link(place);
        let told = || format!("cannot write the release {revision} of {}", link.display());
        let slot = self.make_slot(place).with_context(told)?;
        enough_room(&slot, tree).with_context(told)?;
        let made = fresh(TEMPORARY, |name| slot.make(name.as_bytes(), 0o700));
        let (name, top) = made.with_context(told)?;
        let staged = Staged {
            store: Arc::clone(&self.dir),
            slot: place.slot.clone().unwrap_or_default(),
            path: self.slot_path(place).join(&name),
            name,
            revision,
            sealed: false,
        };
        Writer { top, open: Vec::new() }.write(tree, objects).with_context(told)?;
        Ok(staged)
    }

    fn make_slot(&self, place: &Place) -> Result<Dir> {
        let told = || format!("cannot make {}", self.slot_path(place).display());
        let Some(slot) = self.slot(place)? else {
            let name = place.slot.as_deref().unwrap_or_default();
            return self.dir.make(name.as_bytes(), 0o755).with_context(told);
        };
        // Whoever made it may have died before readers could enter it.
        rustix::fs::fchmod(&slot, Permissions::from(0o755)).with_context(told)?;
        Ok(slot)
    }
}

impl Staged {
    /// Where it is, for those who look it over before it is sealed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it a release in the place of the one of the same revision, if there is one, which goes
    /// with the next [`Store::sweep`]: from one moment to the next, after [`Store::settle`].
    ///
    /// # Errors
    /// When the store may not be written, or its file system cannot exchange two names. It is gone
    /// then, and the old one stays.
    pub fn renew(mut self) -> Result<()> {
        let told = format!("cannot write the release {} anew", self.revision);
        let exchange = || -> Result<(), Errno> {
            let slot = self.store.beneath(self.slot.as_bytes())?;
            let top = slot.beneath(self.name.as_bytes())?;
            rustix::fs::fchmod(&top, Permissions::from(0o755))?;
            let name = self.revision.to_string();
            rustix::fs::renameat_with(&slot, &self.name, &slot, name, RenameFlags::EXCHANGE)
        };
        match exchange() {
            Err(Errno::NOENT) => self.seal(),
            exchanged => {
                self.sealed = exchanged.is_ok();
                exchanged.context(told)
            }
        }
    }

    /// Makes it a release, after [`Store::settle`]. Where one of the same revision is already, left
    /// by a run that died, that one stays.
    ///
    /// # Errors
    /// When the store may not be written. It is gone then.
    pub fn seal(mut self) -> Result<()> {
        let told = format!("cannot make {} the release {}", self.path.display(), self.revision);
        let seal = || -> Result<(), Errno> {
            let slot = self.store.beneath(self.slot.as_bytes())?;
            let top = slot.beneath(self.name.as_bytes())?;
            rustix::fs::fchmod(&top, Permissions::from(0o755))?;
            rustix::fs::renameat(&slot, &self.name, &slot, self.revision.to_string())
        };
        match seal().map_err(io::Error::from) {
            Err(error) if is_taken(&error) => Ok(()),
            outcome => {
                self.sealed = outcome.is_ok();
                outcome.context(told)
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.sealed
            && let Ok(slot) = self.store.beneath(self.slot.as_bytes())
        {
            // What stays is no release, and the next sweep takes it.
            let _ = remove_tree(&slot, self.name.as_bytes());
        }
    }
}

/// Makes sure that `tree` fits onto the disk of `folder`, as far as that can be known before.
fn enough_room(folder: &Dir, tree: &Change) -> Result<()> {
    let left = rustix::fs::fstatvfs(folder).context("cannot ask how much room is left")?;
    let block = left.f_frsize.max(1);
    let folders: HashSet<RepoPath> = tree.ops.iter().flat_map(|op| op.path.folders()).collect();
    let folders = folders.len() as u64 + 1;
    let files = tree.ops.len() as u64;
    let blocks = tree.ops.iter().fold(folders, |sum, op| sum + op.size.div_ceil(block));
    // Some file systems have as many inodes as one wants, and say that they have none.
    let inodes_count = left.f_files > 0;
    let fits = blocks <= left.f_bavail && (!inodes_count || files + folders <= left.f_favail);
    if fits {
        return Ok(());
    }
    let kib = |blocks: u64| blocks.saturating_mul(block).div_ceil(1 << 10);
    Err(Error::from(Fault::Full).context(format!(
        "it takes {} KiB and {} inodes; {} KiB and {} inodes are free",
        kib(blocks),
        files + folders,
        kib(left.f_bavail),
        left.f_favail
    )))
}

struct Writer {
    top: Dir,
    /// The folders on the way to the path in hand, outermost first.
    open: Vec<(RepoPath, Dir)>,
}

impl Writer {
    /// Writes all of `tree`. Its paths are sorted, so that each folder is opened once.
    fn write(mut self, tree: &Change, objects: &impl Objects) -> Result<()> {
        for op in &tree.ops {
            let told = || format!("cannot write \"{}\"", op.path);
            self.put(op, objects).with_context(told)?;
        }
        Ok(())
    }

    fn put(&mut self, op: &PathOp, objects: &impl Objects) -> Result<()> {
        ensure!(op.old.is_none(), "a release is a whole tree, and this is only what differs");
        let Some(Entry { mode, id }) = op.new else { return Ok(()) };
        let dir = self.folder(&op.path)?;
        let (_, name) = op.path.split();
        let bits = match mode {
            Mode::Submodule => return Ok(dir.make(name, 0o755).map(drop)?),
            Mode::Link => {
                return Ok(rustix::fs::symlinkat(objects.blob(&id)?.as_ref(), dir, name)?);
            }
            Mode::File => 0o644,
            Mode::Executable => 0o755,
        };
        let content = objects.blob(&id)?;
        Ok(files::create_new(dir, name, bits)?.write_all(content.as_ref())?)
    }

    /// The folder that `path` stands in, made when it is missing.
    fn folder(&mut self, path: &RepoPath) -> Result<&Dir> {
        let wanted: Vec<RepoPath> = path.folders().collect();
        let open = self.open.iter().zip(&wanted);
        let shared = open.take_while(|((open, _), wanted)| open == *wanted).count();
        self.open.truncate(shared);
        for folder in wanted.into_iter().skip(shared) {
            let above = self.open.last().map_or(&self.top, |(_, dir)| dir);
            let dir = above.make(folder.split().1, 0o755)?;
            self.open.push((folder, dir));
        }
        Ok(self.open.last().map_or(&self.top, |(_, dir)| dir))
    }
}
