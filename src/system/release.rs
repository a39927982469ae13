//! Releases at their targets: whole trees that readers meet through a symbolic link, old or new and
//! never a mix. A link is swapped by one rename and never written through; its text is relative and
//! ends with the full revision, so that `readlink` says what is shown.
//!
//! ```text
//! one branch, target /data/sites/spog         folder /data/sites, store ".spog.pmpy", no slot
//!   /data/sites/spog -> .spog.pmpy/REVISION
//! branches or tags inside target /srv/env     folder /srv/env, store ".pmpy", slot DIR
//!   /srv/env/DIR -> .pmpy/DIR/REVISION
//! branches beside target /srv/site            folder /srv, store ".site.pmpy", slot DIR
//!   /srv/site_DIR -> .site.pmpy/DIR/REVISION
//!
//! STORE/                                      0755, ours, of one repository
//!   .repository                               the path of that repository's git directory
//!   .pmpy-link-NUMBER                         a link on its way to its place
//!   [SLOT/]REVISION/                          a release, whole and on disk
//!   [SLOT/].pmpy-tmp-NUMBER/                  one that is being written or removed
//! ```
//!
//! What has a revision's name is whole: it gets the name after all of it is on disk, and loses it
//! before anything of it is removed. What is neither a link that says exactly this nor an empty
//! folder is somebody's, and stays.
//!
//! Publishing goes in steps, each for as many places as there are, with [`Store::settle`] between
//! them: [`Store::stage`], [`Staged::seal`], [`Store::show`] or [`Store::hide`],
//! [`Store::retire`], and at last [`Store::sweep`]. Ended anywhere, they can be done again, after a
//! [`Store::sweep`]. Several threads may do a step for different places at once; only
//! [`Store::sweep`] wants to be alone. The caller holds the repository's lock.
//!
//! Knows neither git's library nor what refs there are, and decides nothing: which revision, which
//! place and what is kept are told.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx, StatxAttributes};
use rustix::io::Errno;

use super::files::{self, Dir};
use crate::domain::change::{MAX_NAME, TEMPORARY};
use crate::domain::git::Commit;

mod link;
mod remove;
mod write;

pub use link::{Standing, in_the_way};
pub use write::Staged;

/// The file in a store that says whose it is.
const MARKER: &str = ".repository";

/// How the names of links begin that are on their way to their place.
const LINK: &str = ".pmpy-link-";

/// The most bytes of a [`MARKER`].
const MAX_MARKER: u64 = 8 << 10;

/// Where one ref appears.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    link: String,
    slot: Option<String>,
}

impl Place {
    /// The place at `link`, a name in the store's folder, with its releases in `slot`, a folder in
    /// the store.
    ///
    /// # Errors
    /// When one of them is not one name, or `slot` is one that the store uses itself: it begins with
    /// a dot or looks like a revision.
    pub fn new(link: &str, slot: Option<&str>) -> Result<Self> {
        for name in [Some(link), slot].into_iter().flatten() {
            let is_name = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
            ensure!(is_name, "\"{}\" is no name of a directory", name.escape_debug());
            ensure!(
                name.len() <= MAX_NAME,
                "\"{}\" has {} bytes; {MAX_NAME} are the most that a name may have",
                name.escape_debug(),
                name.len()
            );
        }
        if let Some(slot) = slot {
            ensure!(
                !slot.starts_with('.') && revision(slot.as_bytes()).is_none(),
                "\"{}\" is a name that the agent keeps for itself",
                slot.escape_debug()
            );
        }
        Ok(Self { link: link.to_owned(), slot: slot.map(str::to_owned) })
    }
}

/// One whole tree that can be shown at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    place: Place,
    revision: Commit,
}

/// Where the releases of one repository are, opened.
#[derive(Debug)]
pub struct Store {
    /// Where the links are.
    folder: Dir,
    dir: Arc<Dir>,
    name: String,
    /// Where the store is, for messages.
    path: PathBuf,
}

/// Makes sure that the folder of a store that is inside its target is one itself, and of nobody who
/// could put something else in the place of what is shown there. One that is missing is fine.
///
/// # Errors
/// Says what it is instead, and what to do.
pub fn check_folder(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let found = match folder.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("cannot look at {shown}"))?,
    };
    if found.is_symlink() {
        let to = fs::read_link(folder).unwrap_or_default();
        bail!(
            "{shown} is a symbolic link to \"{}\", not a folder: nothing is published through it\n\
             hint: name the folder itself as the target, or remove the link",
            to.to_string_lossy().escape_debug()
        );
    }
    ensure!(
        found.is_dir(),
        "{shown} is not a folder: no trees can appear in it\n\
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

/// Makes the folder of a store that is inside its target; the one above it has to be there.
///
/// # Errors
/// When it is not, may not be written, or what is there is refused by [`check_folder`].
pub fn make_folder(folder: &Path) -> Result<()> {
    check_folder(folder)?;
    let told = || format!("cannot make the folder {}", folder.display());
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
    let above = Dir::open(above).with_context(told)?;
    match above.make(name.as_bytes(), 0o755) {
        Err(Errno::EXIST) => Ok(()),
        made => made.map_err(io::Error::from).and_then(|_| above.sync()).with_context(told),
    }
}

impl Store {
    /// Opens the store `name` of the repository whose git directory is `repository`. `None`: nothing
    /// was published in `folder` yet.
    ///
    /// # Errors
    /// When the store is not ours, others may write in it, it is of another repository, or it cannot
    /// be read.
    pub fn open(folder: &Path, name: &str, repository: &Path) -> Result<Option<Self>> {
        let path = folder.join(name);
        let told = || format!("cannot open {}", path.display());
        let folder = match Dir::open(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            folder => folder.with_context(told)?,
        };
        let Some(store) = Self::find(folder, name, path)? else { return Ok(None) };
        Ok(store.is_of(repository)?.then_some(store))
    }

    /// Opens that store, and first makes what is missing of it. `folder` has to be there.
    ///
    /// # Errors
    /// As [`Store::open`], and when nothing may be written in `folder`.
    pub fn make(folder: &Path, name: &str, repository: &Path) -> Result<Self> {
        let path = folder.join(name);
        let told = || format!("cannot make {}", path.display());
        let shown = folder.display();
        let folder = Dir::open(folder).with_context(told)?;
        folder.check_kernel().with_context(told)?;
        match folder.make(name.as_bytes(), 0o755) {
            Err(Errno::EXIST) => {}
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                let us = rustix::process::geteuid().as_raw();
                return Err(error).with_context(|| {
                    format!(
                        "{}\nhint: releases are put beside their link: let user {us} write in \
                         {shown}, or choose another target",
                        told()
                    )
                });
            }
            made => drop(made.with_context(told)?),
        }
        let store = Self::find(folder, name, path.clone())?
            .with_context(|| format!("somebody removed {} at this moment", path.display()))?;
        if !store.is_of(repository)? {
            store.claim(repository).with_context(told)?;
            // Somebody else may have been faster, by another path to the same store.
            store.is_of(repository)?;
        }
        Ok(store)
    }

    fn find(folder: Dir, name: &str, path: PathBuf) -> Result<Option<Self>> {
        let shown = path.display();
        let dir = match folder.beneath(name.as_bytes()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => bail!(
                "{shown} is not a directory, or is a symbolic link to one: releases are not put there\n\
                 hint: move it away; the agent makes it anew"
            ),
            dir => dir.with_context(|| format!("cannot open {shown}"))?,
        };
        let store = Self { folder, dir: Arc::new(dir), name: name.to_owned(), path };
        store.check()?;
        Ok(Some(store))
    }

    /// Makes sure that nobody else puts something into the store.
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

    /// Whether the store says that it is of `repository`; `false` while it says nothing, because
    /// whoever made it died.
    fn is_of(&self, repository: &Path) -> Result<bool> {
        let shown = self.path.display();
        let told = || format!("cannot read {shown}/{MARKER}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&*self.dir, MARKER, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let entries = self.dir.entries().with_context(|| format!("cannot list {shown}"))?;
                // The marker itself may have come at this moment.
                let is_ours =
                    |name: &[u8]| name == MARKER.as_bytes() || number(name, TEMPORARY).is_some();
                ensure!(
                    entries.iter().all(|(name, _)| is_ours(name)),
                    "{shown} was not made by the agent: it has no file {MARKER}\n\
                     hint: move it away; the agent makes it anew"
                );
                return Ok(false);
            }
            file => File::from(file.with_context(told)?),
        };
        let mut text = Vec::new();
        file.take(MAX_MARKER).read_to_end(&mut text).with_context(told)?;
        ensure!(
            text == marker(repository),
            "{shown} holds the releases of another repository, {}\n\
             hint: give each repository a target of its own; if it is the same one, moved, write \
             its new path into {shown}/{MARKER}: {}",
            String::from_utf8_lossy(&text).trim_end().escape_debug(),
            repository.display()
        );
        Ok(true)
    }

    /// Writes into the store whose it is.
    fn claim(&self, repository: &Path) -> Result<()> {
        rustix::fs::fchmod(&*self.dir, Mode::from(0o755))?;
        let (temporary, mut file) =
            fresh(TEMPORARY, |name| files::create_new(&*self.dir, name.as_bytes(), 0o644))?;
        file.write_all(&marker(repository))?;
        file.sync_all()?;
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&*self.dir, &temporary, &*self.dir, MARKER, flags) {
            // Whose it is then, is read back.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&*self.dir, &temporary, AtFlags::empty())?;
            }
            // Some file systems of the network cannot do that.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(&*self.dir, &temporary, &*self.dir, MARKER)?;
            }
            renamed => renamed?,
        }
        self.dir.sync()?;
        Ok(self.folder.sync()?)
    }

    /// Whether there is a whole release of `revision` for `place`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn has(&self, place: &Place, revision: Commit) -> Result<bool> {
        let Some(slot) = self.slot(place)? else { return Ok(false) };
        let found = slot.look_at(revision.to_string().as_bytes());
        let found = found.with_context(|| format!("cannot look at {}", self.path.display()))?;
        Ok(found.is_some_and(|found| kind(&found) == FileType::Directory))
    }

    /// Waits until everything done so far is on disk. Once for as many places as there are.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn settle(&self) -> Result<()> {
        rustix::fs::syncfs(&*self.dir)
            .with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// Where the releases for `place` are; `None` while there was none.
    fn slot(&self, place: &Place) -> Result<Option<Dir>> {
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

    /// The revisions that there are releases of for `place`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn revisions(&self, place: &Place) -> Result<BTreeSet<Commit>> {
        Ok(self.releases(place)?.into_iter().map(|release| release.revision).collect())
    }

    /// The folders in the store that hold the releases for one place each, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn slots(&self) -> Result<Vec<String>> {
        let told = || format!("cannot list {}", self.path.display());
        let entries = self.dir.entries().with_context(told)?.into_iter();
        let names = entries.filter_map(|(name, _)| String::from_utf8(name).ok());
        Ok(names.filter(|it| !it.starts_with('.') && revision(it.as_bytes()).is_none()).collect())
    }

    fn slot_path(&self, place: &Place) -> PathBuf {
        self.path.join(place.slot.as_deref().unwrap_or_default())
    }
}

/// What a store's marker says.
fn marker(repository: &Path) -> Vec<u8> {
    [repository.as_os_str().as_bytes(), b"\n"].concat()
}

/// The revision whose release has the name `name`, if it is one.
fn revision(name: &[u8]) -> Option<Commit> {
    let revision: Commit = std::str::from_utf8(name).ok()?.parse().ok()?;
    // One name for each revision: no capital digits.
    (revision.to_string().as_bytes() == name).then_some(revision)
}

/// The number in a temporary name that begins with `prefix`; `None`: it is no such name.
fn number(name: &[u8], prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix.as_bytes()).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Makes something with `make` under a temporary name that begins with `prefix` and that nothing
/// has yet.
fn fresh<T, E: Into<io::Error>>(
    prefix: &str,
    make: impl Fn(&str) -> Result<T, E>,
) -> io::Result<(String, T)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let name = format!("{prefix}{:08x}", NEXT.fetch_add(1, Ordering::Relaxed));
        match make(&name).map_err(Into::into) {
            // Left by a dead process.
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
