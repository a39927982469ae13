//! Clears a store up: which releases are not needed, retired ones, and leftovers of dead runs. Does not
//! know which releases are needed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::remove::remove_tree;
use super::salvage::{ReleasePaths, retired};
use super::{LINK, LinkState, Release, ReleaseStore, Slot, number, revision};
use crate::domain::git::Commit;
use crate::domain::repository::change::TEMPORARY;
use crate::domain::text::EscapeControls;

impl ReleaseStore {
    /// Releases for `place` except those in `keep` and the one that its link shows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn surplus(&self, place: &Slot, keep: &BTreeSet<Commit>) -> Result<Vec<Release>> {
        let shown = match self.standing(place)? {
            LinkState::Ours(shown) => Some(shown),
            _ => None,
        };
        let mut all = self.releases(place)?;
        all.retain(|it| !keep.contains(&it.revision) && shown != Some(it.revision));
        Ok(all)
    }

    /// All releases for `place`, by their names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn releases(&self, place: &Slot) -> Result<Vec<Release>> {
        let Some(slot) = self.slot(place)? else { return Ok(Vec::new()) };
        let message = || format!("cannot list {}", self.slot_path(place).display());
        let entries = slot.entries().with_context(message)?.into_iter();
        let directories = entries.filter(|(_, kind)| *kind == FileType::Directory);
        let revisions = directories.filter_map(|(name, _)| revision(&name));
        Ok(revisions.map(|revision| Release { place: place.clone(), revision }).collect())
    }

    /// Removes retired releases, leftovers of dead runs, and empty slots. What a retired release has and
    /// is none of its `paths` is moved to `.left`. No release may be staged meanwhile.
    ///
    /// # Errors
    /// The first removal that fails; all others are made nevertheless.
    pub fn sweep(&self, paths: &ReleasePaths<'_>) -> Result<()> {
        let message = || format!("cannot clean up {}", self.path.display());
        let mut outcome = Ok(());
        for (name, kind) in self.dir.entries().with_context(message)? {
            let swept = if number(&name, LINK).is_some() {
                self.sweep_link(&name)
            } else if number(&name, TEMPORARY).is_some() {
                remove_tree(&self.dir, &name)
            } else if retired(&name).is_some() {
                self.clear_retired(&self.dir, None, &name, paths)
            } else if kind == FileType::Directory
                && revision(&name).is_none()
                && !name.starts_with(b".")
            {
                self.sweep_slot(&name, paths)
            } else {
                Ok(())
            };
            let swept = swept.with_context(|| {
                let name = String::from_utf8_lossy(&name);
                format!("cannot clean up {}/{}", self.path.display(), name.escape_controls())
            });
            outcome = outcome.and(swept);
        }
        outcome
    }

    /// Removes a link that did not reach its place, or the empty directory that it replaced.
    fn sweep_link(&self, name: &[u8]) -> Result<()> {
        let removed = match rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&*self.dir, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                bail!(
                    "another process put something into it while a link took its place; move it away"
                )
            }
            removed => Ok(removed?),
        }
    }

    fn sweep_slot(&self, name: &[u8], paths: &ReleasePaths<'_>) -> Result<()> {
        let slot = self.dir.beneath(name)?;
        let slot_name = str::from_utf8(name).ok();
        let mut outcome = Ok(());
        let mut left = 0;
        for (name, _) in slot.entries()? {
            if number(&name, TEMPORARY).is_some() {
                outcome = outcome.and(remove_tree(&slot, &name));
            } else if retired(&name).is_some() {
                outcome = outcome.and(self.clear_retired(&slot, slot_name, &name, paths));
            } else {
                left += 1;
            }
        }
        outcome?;
        if left == 0 {
            rustix::fs::unlinkat(&*self.dir, name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }
}
