//! The links: showing a release and hiding it again. Each step leaves the old link, the new one or
//! none, and never anything of somebody else's out of its place.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{LINK, Place, Store, fresh, is_mount_point, kind, revision};
use crate::domain::git::Commit;
use crate::system::files::Dir;

/// What stands where a link is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// Our link, which shows this revision, as long as [`Store::has`] it.
    Ours(Commit),
    /// An empty folder, which gives way to a link.
    EmptyFolder,
    /// Something else, which stays: what it is and what to do about it, in words.
    Foreign(String),
}

/// What is in the way of `place` in `folder`, in words, while the agent has no store there.
///
/// # Errors
/// When it cannot be looked at.
pub fn in_the_way(folder: &Path, place: &Place) -> Result<Option<String>> {
    let dir = match Dir::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir.with_context(|| format!("cannot open {}", folder.display()))?,
    };
    Ok(match stands(&dir, &folder.join(&place.link), place, &|_| None)? {
        Standing::Foreign(words) => Some(words),
        Standing::Absent | Standing::EmptyFolder | Standing::Ours(_) => None,
    })
}

/// What stands at `link`, which is that of `place` in `folder`; `is_ours` tells which revision a link
/// of ours with this text shows.
fn stands(
    folder: &Dir,
    link: &Path,
    place: &Place,
    is_ours: &dyn Fn(&[u8]) -> Option<Commit>,
) -> Result<Standing> {
    let shown = link.display();
    let told = || format!("cannot look at {shown}");
    let Some(found) = folder.look_at(place.link.as_bytes()).with_context(told)? else {
        return Ok(Standing::Absent);
    };
    let foreign = match kind(&found) {
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(folder, &place.link, Vec::new());
            let text = text.with_context(told)?;
            if let Some(revision) = is_ours(text.as_bytes()) {
                return Ok(Standing::Ours(revision));
            }
            format!("a symbolic link to \"{}\"", text.to_string_lossy().escape_debug())
        }
        FileType::Directory if is_mount_point(&found) => {
            let words = format!("{shown} is a mount point: no link can take its place");
            return Ok(Standing::Foreign(format!("{words}; umount it, or choose another target")));
        }
        FileType::Directory => {
            let dir = folder.beneath(place.link.as_bytes()).with_context(told)?;
            if dir.entries().with_context(told)?.is_empty() {
                return Ok(Standing::EmptyFolder);
            }
            "a folder that is not empty".to_owned()
        }
        FileType::RegularFile => "a file".to_owned(),
        _ => "neither a folder nor a link".to_owned(),
    };
    let words = format!("{shown} is {foreign} and was not made by the agent; move it away");
    Ok(Standing::Foreign(words))
}

impl Store {
    /// What stands at `place`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn standing(&self, place: &Place) -> Result<Standing> {
        let is_ours = |text: &[u8]| self.shown(place, text);
        stands(&self.folder, &self.link(place), place, &is_ours)
    }

    /// Lets readers of `place` meet `revision`, all at once, from one moment to the next.
    ///
    /// # Errors
    /// When there is no release of it, something is there that is not ours, or the folder may not be
    /// written. What readers met before stays.
    pub fn show(&self, place: &Place, revision: Commit) -> Result<()> {
        let link = self.link(place);
        let shown = link.display();
        let told = || format!("cannot make {shown} show revision {revision}");
        ensure!(
            self.has(place, revision)?,
            "{shown} cannot show revision {revision}: {} has no release of it",
            self.slot_path(place).display()
        );
        let text = self.text(place, revision);
        match self.standing(place)? {
            Standing::Foreign(words) => bail!(words),
            Standing::Ours(now) if now == revision => Ok(()),
            // Fails where somebody was faster.
            Standing::Absent => {
                rustix::fs::symlinkat(&text, &self.folder, &place.link).with_context(told)
            }
            Standing::Ours(_) => {
                let temporary = self.prepare(&text).with_context(told)?;
                // A folder that somebody put there meanwhile stays: a link cannot replace it.
                rustix::fs::renameat(&*self.dir, &temporary, &self.folder, &place.link)
                    .inspect_err(|_| self.drop_link(&temporary))
                    .with_context(told)
            }
            Standing::EmptyFolder => self.displace(place, &text).with_context(told),
        }
    }

    /// Takes the link of `place` away, if it is ours, and retires all its releases.
    ///
    /// # Errors
    /// When the folder or the store may not be written.
    pub fn hide(&self, place: &Place) -> Result<()> {
        if let Standing::Ours(_) = self.standing(place)? {
            match rustix::fs::unlinkat(&self.folder, &place.link, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                removed => {
                    let told = || format!("cannot remove {}", self.link(place).display());
                    removed.with_context(told)?;
                }
            }
        }
        self.releases(place)?.iter().try_for_each(|release| self.retire(release))
    }

    /// A link that says `text`, under a temporary name in the store: what a death leaves of it is in
    /// nobody's way.
    fn prepare(&self, text: &str) -> io::Result<String> {
        let (name, ()) = fresh(LINK, |name| rustix::fs::symlinkat(text, &*self.dir, name))?;
        Ok(name)
    }

    /// Puts a link that says `text` where an empty folder is. The two change places, so that there
    /// is no moment without either, and the folder goes only if it is still empty.
    fn displace(&self, place: &Place, text: &str) -> Result<()> {
        let temporary = self.prepare(text)?;
        let exchange = || {
            let flags = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(&*self.dir, &temporary, &self.folder, &place.link, flags)
        };
        match exchange() {
            Ok(()) => {}
            Err(error) => {
                self.drop_link(&temporary);
                let hint = match error {
                    Errno::INVAL | Errno::NOSYS => {
                        "\nhint: this file system cannot exchange two names; rmdir the empty folder"
                    }
                    _ => "",
                };
                return Err(error).context(format!("the empty folder there stays{hint}"));
            }
        }
        let Err(error) = rustix::fs::unlinkat(&*self.dir, &temporary, AtFlags::REMOVEDIR) else {
            return Ok(());
        };
        exchange().with_context(|| {
            format!("the folder that was there is {} now", self.path.join(&temporary).display())
        })?;
        self.drop_link(&temporary);
        match error {
            Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR => {
                bail!("somebody put something there at this moment; move it away")
            }
            error => Err(error).context("the empty folder there cannot be removed"),
        }
    }

    fn drop_link(&self, name: &str) {
        // It shows nothing to anybody, and the next sweep takes it as well.
        let _ = rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty());
    }

    /// Where the link of `place` is, for messages.
    pub(super) fn link(&self, place: &Place) -> PathBuf {
        self.path.with_file_name(&place.link)
    }

    /// What the link of `place` says when it shows `revision`.
    fn text(&self, place: &Place, revision: Commit) -> String {
        match &place.slot {
            Some(slot) => format!("{}/{slot}/{revision}", self.name),
            None => format!("{}/{revision}", self.name),
        }
    }

    /// The revision that a link of `place` with this text shows; `None`: it is not ours.
    fn shown(&self, place: &Place, text: &[u8]) -> Option<Commit> {
        let name = text.rsplit(|&byte| byte == b'/').next()?;
        revision(name).filter(|revision| self.text(place, *revision).as_bytes() == text)
    }
}
