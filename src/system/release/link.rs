//! Links to releases: showing a release and hiding it again. Each step leaves the old link, the new one
//! or none, and never moves anything that belongs to somebody else. Does not know how a release is
//! written.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{LINK, ReleaseStore, Slot, fresh, is_mount_point, kind, revision};
use crate::domain::git::Commit;
use crate::domain::text::EscapeControls;
use crate::system::files::Dir;

/// State of the path where a link belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing is there.
    Absent,
    /// Our link to this revision, whose release exists as long as [`ReleaseStore::has`] it.
    Ours(Commit),
    /// An empty directory, which a link may replace.
    EmptyDir,
    /// Something else, which stays; the text describes it and its remedy.
    Foreign(String),
}

impl LinkState {
    /// Whether it is our link to `revision`.
    pub fn shows(&self, revision: Commit) -> bool {
        *self == Self::Ours(revision)
    }
}

/// State of the link of `place` in `directory` while the store `name` is missing there. Our own link is
/// recognized by its text.
///
/// # Errors
/// When its attributes cannot be read.
pub fn link_without_store(directory: &Path, name: &str, place: &Slot) -> Result<LinkState> {
    let dir = match Dir::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LinkState::Absent),
        dir => dir.with_context(|| format!("cannot open {}", directory.display()))?,
    };
    let is_ours = |text: &[u8]| linked_revision(name, place, text);
    link_state(&dir, &directory.join(&place.link), place, &is_ours)
}

/// Text of the link of `place` to `revision` in the store `name`.
fn link_text(name: &str, place: &Slot, revision: Commit) -> String {
    match &place.slot {
        Some(slot) => format!("{name}/{slot}/{revision}"),
        None => format!("{name}/{revision}"),
    }
}

/// Revision of a link of `place` with this text; `None` when the link is not ours.
fn linked_revision(name: &str, place: &Slot, text: &[u8]) -> Option<Commit> {
    let last = text.rsplit(|&byte| byte == b'/').next()?;
    revision(last).filter(|revision| link_text(name, place, *revision).as_bytes() == text)
}

/// State of `link`, the path of `place` in `directory`; `is_ours` maps the text of our own link to its
/// revision.
fn link_state(
    directory: &Dir,
    link: &Path,
    place: &Slot,
    is_ours: &dyn Fn(&[u8]) -> Option<Commit>,
) -> Result<LinkState> {
    let shown = link.display();
    let message = || format!("cannot look at {shown}");
    let Some(found) = directory.look_at(place.link.as_bytes()).with_context(message)? else {
        return Ok(LinkState::Absent);
    };
    let foreign = match kind(&found) {
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(directory, &place.link, Vec::new());
            let text = text.with_context(message)?;
            if let Some(revision) = is_ours(text.as_bytes()) {
                return Ok(LinkState::Ours(revision));
            }
            format!("a symbolic link to \"{}\"", text.to_string_lossy().escape_controls())
        }
        FileType::Directory if is_mount_point(&found) => {
            let words = format!("{shown} is a mount point: no link can take its place");
            return Ok(LinkState::Foreign(format!("{words}; umount it, or choose another target")));
        }
        FileType::Directory => {
            let dir = directory.beneath(place.link.as_bytes()).with_context(message)?;
            if dir.entries().with_context(message)?.is_empty() {
                return Ok(LinkState::EmptyDir);
            }
            "a directory that is not empty".to_owned()
        }
        FileType::RegularFile => "a file".to_owned(),
        _ => "neither a directory nor a link".to_owned(),
    };
    let words = format!("{shown} is {foreign} and was not made by the agent; move it away");
    Ok(LinkState::Foreign(words))
}

impl ReleaseStore {
    /// State of the link of `place`.
    ///
    /// # Errors
    /// When its attributes cannot be read.
    pub fn standing(&self, place: &Slot) -> Result<LinkState> {
        let is_ours = |text: &[u8]| linked_revision(&self.name, place, text);
        link_state(&self.links_dir, &self.link(place), place, &is_ours)
    }

    /// Makes the link of `place` show `revision`, atomically.
    ///
    /// # Errors
    /// When there is no release of it, somebody else's file is at the place, or the directory is not
    /// writable. Readers then still get the previous release.
    pub fn show(&self, place: &Slot, revision: Commit) -> Result<()> {
        let link = self.link(place);
        let shown = link.display();
        let message = || format!("cannot make {shown} show revision {revision}");
        ensure!(
            self.has(place, revision)?,
            "{shown} cannot show revision {revision}: {} has no release of it",
            self.slot_path(place).display()
        );
        let text = self.text(place, revision);
        match self.standing(place)? {
            LinkState::Foreign(words) => bail!(words),
            LinkState::Ours(now) if now == revision => Ok(()),
            // Fails if another process created something there in the meantime.
            LinkState::Absent => {
                rustix::fs::symlinkat(&text, &self.links_dir, &place.link).with_context(message)
            }
            LinkState::Ours(_) => {
                let temporary = self.prepare(&text).with_context(message)?;
                // A directory created there in the meantime stays: a link cannot replace it.
                rustix::fs::renameat(&*self.dir, &temporary, &self.links_dir, &place.link)
                    .inspect_err(|_| self.drop_link(&temporary))
                    .with_context(message)
            }
            LinkState::EmptyDir => self.displace(place, &text).with_context(message),
        }
    }

    /// Removes the link of `place` if it is ours. Its releases stay.
    ///
    /// # Errors
    /// When the directory or the store is not writable.
    pub fn unlink(&self, place: &Slot) -> Result<()> {
        if let LinkState::Ours(_) = self.standing(place)? {
            match rustix::fs::unlinkat(&self.links_dir, &place.link, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                removed => {
                    let message = || format!("cannot remove {}", self.link(place).display());
                    removed.with_context(message)?;
                }
            }
        }
        Ok(())
    }

    /// Creates a link with `text` under a temporary name in the store, where a leftover of a crash does
    /// no harm.
    fn prepare(&self, text: &str) -> io::Result<String> {
        let (name, ()) = fresh(LINK, |name| rustix::fs::symlinkat(text, &*self.dir, name))?;
        Ok(name)
    }

    /// Replaces an empty directory by a link with `text`. The two are exchanged, so that one of them is
    /// always there, and the directory is removed only if it is still empty.
    fn displace(&self, place: &Slot, text: &str) -> Result<()> {
        let temporary = self.prepare(text)?;
        let exchange = || {
            let flags = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(&*self.dir, &temporary, &self.links_dir, &place.link, flags)
        };
        match exchange() {
            Ok(()) => {}
            Err(error) => {
                self.drop_link(&temporary);
                let hint = match error {
                    Errno::INVAL | Errno::NOSYS => {
                        "\nhint: this file system cannot exchange two names; rmdir the empty directory"
                    }
                    _ => "",
                };
                return Err(error).context(format!("the empty directory there stays{hint}"));
            }
        }
        let Err(error) = rustix::fs::unlinkat(&*self.dir, &temporary, AtFlags::REMOVEDIR) else {
            return Ok(());
        };
        exchange().with_context(|| {
            format!("the directory that was there is {} now", self.path.join(&temporary).display())
        })?;
        self.drop_link(&temporary);
        match error {
            Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR => {
                bail!("another process put something there at this moment; move it away")
            }
            error => Err(error).context("the empty directory there cannot be removed"),
        }
    }

    fn drop_link(&self, name: &str) {
        // No reader uses it, and the next sweep also removes it.
        let _ = rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty());
    }

    /// Path of the link of `place`, for messages.
    pub(super) fn link(&self, place: &Slot) -> PathBuf {
        self.path.with_file_name(&place.link)
    }

    /// Text of the link of `place` to `revision`.
    fn text(&self, place: &Slot, revision: Commit) -> String {
        link_text(&self.name, place, revision)
    }
}
