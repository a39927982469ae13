//! Releases at their targets: complete trees that readers reach through a symbolic link, old or new and
//! never a mix. One rename replaces a link, and it is never written through; its text is relative and
//! ends with the full commit id, so that `readlink` shows the revision.
//!
//! ```text
//! one branch, target /data/sites/spog         directory /data/sites, store ".spog.pmpy", no slot
//!   /data/sites/spog -> .spog.pmpy/REVISION
//! branches or tags inside target /srv/env     directory /srv/env, store ".pmpy", slot DIR
//!   /srv/env/DIR -> .pmpy/DIR/REVISION
//! branches next to target /srv/site           directory /srv, store ".site.pmpy", slot DIR
//!   /srv/site_DIR -> .site.pmpy/DIR/REVISION
//!
//! STORE/                                      0755, owned by the agent's user, for one repository
//!   .repository                               the path of that repository's git directory
//!   .pmpy-link-NUMBER                         a link before its rename to its place
//!   [SLOT/]REVISION/                          a complete release, synced to disk
//!   [SLOT/].pmpy-tmp-NUMBER/                  a release during writing
//!   [SLOT/].pmpy-tmp-old-REVISION-NUMBER/     a release that is to be removed
//!   .shared/[SLOT/]PATH/                      a directory that each release has a link to
//!   .left/REVISION/PATH                       a file that a removed release had and its revision not
//! ```
//!
//! A release has its revision's name only while it is complete: it gets the name after all of it is on
//! disk, and loses it before any of it is removed. The name alone proves nothing: whoever restores a
//! backup can make such a directory, so a release is used again only after [`ReleaseStore::is_whole`]. Anything at a place except our own link with this
//! exact text or an empty directory belongs to somebody else, and stays.
//!
//! Publishing takes these steps, each for all places at once, with [`ReleaseStore::sync`] between them:
//! [`ReleaseStore::stage`], [`StagedRelease::publish`], [`ReleaseStore::show`] or
//! [`ReleaseStore::unlink`], [`ReleaseStore::retire`], and at last [`ReleaseStore::sweep`]. After an
//! interruption anywhere, they can be repeated after a [`ReleaseStore::sweep`]. Several threads may do
//! a step for different places at once; only [`ReleaseStore::sweep`] must run alone. The caller holds
//! the repository's lock.
//!
//! Knows neither git's library nor the refs, and decides nothing: the caller names the revision, the
//! place and the releases to keep.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, RenameFlags, Statx, StatxAttributes};
use rustix::io::Errno;

use super::files::{self, Dir};
use crate::domain::git::Commit;
use crate::domain::repository::change::{MAX_NAME, TEMPORARY};
use crate::domain::text::EscapeControls;

mod left;
mod link;
mod remove;
mod salvage;
mod shared;
mod sweep;
mod verify;
mod write;

pub use link::{LinkState, link_without_store};
pub use remove::remove_directory;
pub use salvage::ReleasePaths;
pub use write::{StagedRelease, export_tree};

/// File in a store that names its repository.
const MARKER: &str = ".repository";

/// Prefix of the temporary names of links.
const LINK: &str = ".pmpy-link-";

/// Largest [`MARKER`], in bytes.
const MAX_MARKER: u64 = 8 << 10;

/// Place of one ref: its link and its directory of releases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    link: String,
    slot: Option<String>,
}

impl Slot {
    /// The place at `link`, a name in the store's parent directory, with its releases in `slot`, a
    /// directory in the store.
    ///
    /// # Errors
    /// When one of them is not a single file name, or `slot` is reserved for the store: it begins with
    /// a dot or looks like a commit id.
    pub fn new(link: &str, slot: Option<&str>) -> Result<Self> {
        for name in [Some(link), slot].into_iter().flatten() {
            let is_name = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
            ensure!(is_name, "\"{}\" is no name of a directory", name.escape_controls());
            ensure!(
                name.len() <= MAX_NAME,
                "\"{}\" has {} bytes; {MAX_NAME} are the most that a name may have",
                name.escape_controls(),
                name.len()
            );
        }
        if let Some(slot) = slot {
            ensure!(
                !slot.starts_with('.') && revision(slot.as_bytes()).is_none(),
                "\"{}\" is a name that the agent keeps for itself",
                slot.escape_controls()
            );
        }
        Ok(Self { link: link.to_owned(), slot: slot.map(str::to_owned) })
    }
}

/// A complete tree that can be shown at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its place.
    pub place: Slot,
    /// Its revision.
    pub revision: Commit,
}

/// The opened release directory of one repository.
#[derive(Debug)]
pub struct ReleaseStore {
    /// Directory of the links.
    links_dir: Dir,
    dir: Arc<Dir>,
    name: String,
    /// Path of the store, for messages.
    path: PathBuf,
}

/// Checks the directory of a store inside its target: it must be a real directory, owned by us or root,
/// so that no other user can replace what is shown there. A missing one is no error.
///
/// # Errors
/// With its actual type or owner, and a remedy.
pub fn check_dir(directory: &Path) -> Result<()> {
    let shown = directory.display();
    let found = match directory.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("cannot look at {shown}"))?,
    };
    if found.is_symlink() {
        let to = fs::read_link(directory).unwrap_or_default();
        bail!(
            "{shown} is a symbolic link to \"{}\", not a directory: nothing is published through it\n\
             hint: name the directory itself as the target, or remove the link",
            to.to_string_lossy().escape_controls()
        );
    }
    ensure!(
        found.is_dir(),
        "{shown} is not a directory: no trees can appear in it\n\
         hint: move it away, or choose another target"
    );
    let us = rustix::process::geteuid().as_raw();
    ensure!(
        [us, 0].contains(&found.uid()),
        "{shown} belongs to user {}, who could replace what is shown there; the agent works as user \
         {us} here\nhint: chown {us} {shown}, or choose another target",
        found.uid()
    );
    Ok(())
}

/// Creates the directory of a store inside its target; its parent must exist.
///
/// # Errors
/// When the parent is missing or not writable, or [`check_dir`] refuses what is there.
pub fn make_dir(directory: &Path) -> Result<()> {
    check_dir(directory)?;
    let message = || format!("cannot make the directory {}", directory.display());
    let (Some(above), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Ok(());
    };
    let above = Dir::open(above).with_context(message)?;
    match above.make(name.as_bytes(), 0o755) {
        Err(Errno::EXIST) => Ok(()),
        made => made.map_err(io::Error::from).and_then(|_| above.sync()).with_context(message),
    }
}

impl ReleaseStore {
    /// Opens the store `name` of the repository whose git directory is `repository`; `None` when
    /// nothing was published in `directory` yet.
    ///
    /// # Errors
    /// When another user owns the store or can write in it, it is another repository's, or it cannot be
    /// read.
    pub fn open(directory: &Path, name: &str, repository: &Path) -> Result<Option<Self>> {
        let path = directory.join(name);
        let message = || format!("cannot open {}", path.display());
        let directory = match Dir::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory.with_context(message)?,
        };
        let Some(store) = Self::find(directory, name, path)? else { return Ok(None) };
        Ok(store.is_of(repository)?.then_some(store))
    }

    /// Opens the store, and creates it where it is missing. `directory` must exist.
    ///
    /// # Errors
    /// As [`ReleaseStore::open`], and when `directory` is not writable.
    pub fn make(directory: &Path, name: &str, repository: &Path) -> Result<Self> {
        let path = directory.join(name);
        let message = || format!("cannot make {}", path.display());
        let shown = directory.display();
        let directory = Dir::open(directory).with_context(message)?;
        directory.check_kernel().with_context(message)?;
        match directory.make(name.as_bytes(), 0o755) {
            Err(Errno::EXIST) => {}
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                let us = rustix::process::geteuid().as_raw();
                return Err(error).with_context(|| {
                    format!(
                        "{}\nhint: releases are put next to their link: let user {us} write in \
                         {shown}, or choose another target",
                        message()
                    )
                });
            }
            made => drop(made.with_context(message)?),
        }
        let store = Self::find(directory, name, path.clone())?
            .with_context(|| format!("{} was removed at this moment", path.display()))?;
        if !store.is_of(repository)? {
            store.claim(repository).with_context(message)?;
            // Another process may have claimed the same store first, by another path.
            store.is_of(repository)?;
        }
        Ok(store)
    }

    fn find(directory: Dir, name: &str, path: PathBuf) -> Result<Option<Self>> {
        let shown = path.display();
        let dir = match directory.beneath(name.as_bytes()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => bail!(
                "{shown} is not a directory, or is a symbolic link to one: releases are not put there\n\
                 hint: move it away; the agent makes it anew"
            ),
            dir => dir.with_context(|| format!("cannot open {shown}"))?,
        };
        let store = Self { links_dir: directory, dir: Arc::new(dir), name: name.to_owned(), path };
        store.check()?;
        Ok(Some(store))
    }

    /// Checks that no other user can write in the store.
    fn check(&self) -> Result<()> {
        let shown = self.path.display();
        let found = self.dir.look_at(b".").with_context(|| format!("cannot look at {shown}"))?;
        let found = found.with_context(|| format!("{shown} went away at this moment"))?;
        let (us, owner) = (rustix::process::geteuid().as_raw(), found.stx_uid);
        ensure!(
            owner == us,
            "{shown} belongs to user {owner}; the agent works as user {us} here\n\
             hint: chown -R {us} {shown}, or move it away: the agent makes it anew"
        );
        let mode = found.stx_mode & 0o7777;
        ensure!(
            mode & 0o022 == 0,
            "others may write in {shown} (mode {mode:04o})\n\
             hint: see what they put there, then chmod go-w {shown}"
        );
        ensure!(
            !is_mount_point(&found),
            "{shown} is a mount point: releases and the links to them have to be on one file \
             system\nhint: umount {shown}"
        );
        Ok(())
    }

    /// Checks that the store's marker names `repository`; `false` when the marker is missing because
    /// its creator died.
    fn is_of(&self, repository: &Path) -> Result<bool> {
        let shown = self.path.display();
        let message = || format!("cannot read {shown}/{MARKER}");
        let file = match self.dir.open_file(MARKER.as_bytes()) {
            Err(Errno::NOENT) => {
                let entries = self.dir.entries().with_context(|| format!("cannot list {shown}"))?;
                // Another process may have written the marker in the meantime.
                let is_ours =
                    |name: &[u8]| name == MARKER.as_bytes() || number(name, TEMPORARY).is_some();
                ensure!(
                    entries.iter().all(|(name, _)| is_ours(name)),
                    "{shown} was not made by the agent: it has no file {MARKER}\n\
                     hint: move it away; the agent makes it anew"
                );
                return Ok(false);
            }
            file => file.with_context(message)?,
        };
        let mut text = Vec::new();
        file.take(MAX_MARKER).read_to_end(&mut text).with_context(message)?;
        ensure!(
            text == marker(repository),
            "{shown} holds the releases of another repository, {}\n\
             hint: give each repository a target of its own; if it is the same one, moved, write \
             its new path into {shown}/{MARKER}: {}",
            String::from_utf8_lossy(&text).trim_end().escape_controls(),
            repository.display()
        );
        Ok(true)
    }

    /// Writes the marker of `repository` into the store.
    fn claim(&self, repository: &Path) -> Result<()> {
        files::have_mode(&*self.dir, 0o755)?;
        let (temporary, mut file) =
            fresh(TEMPORARY, |name| files::create_new(&*self.dir, name.as_bytes(), 0o644))?;
        file.write_all(&marker(repository))?;
        file.sync_all()?;
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&*self.dir, &temporary, &*self.dir, MARKER, flags) {
            // The caller reads the marker again to see which repository owns it.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&*self.dir, &temporary, AtFlags::empty())?;
            }
            // Some network file systems do not support this flag.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(&*self.dir, &temporary, &*self.dir, MARKER)?;
            }
            renamed => renamed?,
        }
        self.dir.sync()?;
        Ok(self.links_dir.sync()?)
    }

    /// Whether there is a release of `revision` for `place`, by its name.
    ///
    /// # Errors
    /// When its attributes cannot be read.
    pub fn has(&self, place: &Slot, revision: Commit) -> Result<bool> {
        let found = self.look_at_release(place, revision)?;
        Ok(found.is_some_and(|found| kind(&found) == FileType::Directory))
    }

    /// Whether something that is no directory has the name of the release of `revision` for `place`.
    ///
    /// # Errors
    /// When its attributes cannot be read.
    pub fn is_obstructed(&self, place: &Slot, revision: Commit) -> Result<bool> {
        let found = self.look_at_release(place, revision)?;
        Ok(found.is_some_and(|found| kind(&found) != FileType::Directory))
    }

    /// Whether the release of `revision` that the link of `place` shows is missing, or was emptied. Its
    /// content is not compared: an idle tick has to cost next to nothing.
    ///
    /// # Errors
    /// When its attributes cannot be read.
    pub fn is_lost(&self, place: &Slot, revision: Commit) -> Result<bool> {
        let message = || format!("cannot look at {}", self.path.display());
        let found = self.look_at_release(place, revision)?;
        let Some(found) = found.filter(|found| kind(found) == FileType::Directory) else {
            return Ok(true);
        };
        let link = self.links_dir.look_at(place.link.as_bytes()).with_context(message)?;
        let changed = |it: &Statx| (it.stx_ctime.tv_sec, it.stx_ctime.tv_nsec);
        if link.is_some_and(|link| changed(&found) <= changed(&link)) {
            // Nothing was added to the directory or removed since it was linked.
            return Ok(false);
        }
        let Some(slot) = self.slot(place)? else { return Ok(true) };
        let dir = slot.beneath(revision.to_string().as_bytes()).with_context(message)?;
        Ok(dir.entries().with_context(message)?.is_empty())
    }

    fn look_at_release(&self, place: &Slot, revision: Commit) -> Result<Option<Statx>> {
        let Some(slot) = self.slot(place)? else { return Ok(None) };
        slot.look_at(revision.to_string().as_bytes())
            .with_context(|| format!("cannot look at {}", self.path.display()))
    }

    /// Syncs everything done so far to disk, once for any number of places.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&*self.dir)
            .with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// Directory of the releases for `place`; `None` when there was none yet.
    fn slot(&self, place: &Slot) -> Result<Option<Dir>> {
        let path = self.slot_path(place);
        let shown = path.display();
        match self.dir.beneath(place.slot.as_deref().unwrap_or_default().as_bytes()) {
            Ok(slot) => Ok(Some(slot)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => bail!(
                "{shown} is not a directory, or is a symbolic link to one: releases are not put there\n\
                 hint: remove it; the agent makes it anew"
            ),
            Err(error) => Err(error).with_context(|| format!("cannot open {shown}")),
        }
    }

    /// The directory of the release of `revision` for `place`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_release(&self, place: &Slot, revision: Commit) -> Result<Option<Dir>> {
        let Some(slot) = self.slot(place)? else { return Ok(None) };
        match slot.beneath(revision.to_string().as_bytes()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => {
                let path = self.release_path(place, revision);
                Err(error).with_context(|| format!("cannot open {}", path.display()))
            }
        }
    }

    /// Revisions with a release for `place`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn revisions(&self, place: &Slot) -> Result<BTreeSet<Commit>> {
        Ok(self.releases(place)?.into_iter().map(|release| release.revision).collect())
    }

    /// Names of the directories in the store that hold the releases of one place each.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn slots(&self) -> Result<Vec<String>> {
        let message = || format!("cannot list {}", self.path.display());
        let entries = self.dir.entries().with_context(message)?.into_iter();
        let entries = entries.filter(|(_, kind)| *kind == FileType::Directory);
        let names = entries.filter_map(|(name, _)| String::from_utf8(name).ok());
        Ok(names.filter(|it| !it.starts_with('.') && revision(it.as_bytes()).is_none()).collect())
    }

    /// Releases of every place, by their names. Their places have no link that could be used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn all_releases(&self) -> Result<Vec<Release>> {
        let slots = self.slots()?.into_iter().map(Some);
        let places = slots.chain([None]).map(|slot| Slot { link: String::new(), slot });
        let releases: Result<Vec<_>> = places.map(|place| self.releases(&place)).collect();
        Ok(releases?.concat())
    }

    /// Path of the release of `revision` for `place`.
    pub fn release_path(&self, place: &Slot, revision: Commit) -> PathBuf {
        self.slot_path(place).join(revision.to_string())
    }

    fn slot_path(&self, place: &Slot) -> PathBuf {
        self.path.join(place.slot.as_deref().unwrap_or_default())
    }
}

/// Content of a store's marker.
fn marker(repository: &Path) -> Vec<u8> {
    [repository.as_os_str().as_bytes(), b"\n"].concat()
}

/// Parses the name of a release; `None` for other names.
fn revision(name: &[u8]) -> Option<Commit> {
    let revision: Commit = std::str::from_utf8(name).ok()?.parse().ok()?;
    // One name for each revision, so no capital digits.
    (revision.to_string().as_bytes() == name).then_some(revision)
}

/// Number in a temporary name that begins with `prefix`; `None` for other names.
fn number(name: &[u8], prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix.as_bytes()).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Creates a file or directory with `make` under an unused temporary name that begins with `prefix`.
fn fresh<T, E: Into<io::Error>>(
    prefix: &str,
    make: impl Fn(&str) -> Result<T, E>,
) -> io::Result<(String, T)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let name = format!("{prefix}{:08x}", NEXT.fetch_add(1, Ordering::Relaxed));
        match make(&name).map_err(Into::into) {
            // A dead process left it.
            Err(error) if is_taken(&error) => {}
            made => return made.map(|made| (name, made)),
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(found.stx_mode))
}

fn is_mount_point(found: &Statx) -> bool {
    found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}
