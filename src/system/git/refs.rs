//! Single refs: reads and moves one. [`packed`](crate::system::git::packed_refs) writes many at once.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD};

use super::error::{explained, patiently};
use super::ownership::{self, RefFile};
use super::{Git, Head, commit_of, missing};
use crate::domain::git::{Commit, RefName};

impl Git {
    /// Fails when libgit2 may not open the file of a ref.
    pub(super) fn plain_ref(&self, name: &str) -> Result<()> {
        if ownership::check_ref(self.git_dir(), name, &self.trust)? == RefFile::Directory {
            self.directory_met.set(true);
        }
        Ok(())
    }

    /// The object at a full ref name (for an annotated tag the tag object); `None` when there is no such
    /// ref.
    ///
    /// # Errors
    /// When the ref cannot be read, or points at nothing.
    pub fn ref_id(&self, name: &str) -> Result<Option<Commit>> {
        self.plain_ref(name)?;
        match self.repo.refname_to_id(name) {
            Ok(oid) => commit_of(oid).map(Some),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("the ref {name} cannot be read")),
        }
    }

    /// The full names of all refs under `prefix`, such as `refs/pmpy/saved/`, without names that are not
    /// UTF-8.
    ///
    /// # Errors
    /// When refs cannot be listed.
    pub fn refs_below(&self, prefix: &str) -> Result<Vec<String>> {
        self.no_oversized_ref()?;
        let refs = self
            .repo
            .references_glob(&format!("{prefix}*"))
            .with_context(|| format!("the refs below {prefix} cannot be listed"))?;
        Ok(refs.flatten().filter_map(|found| found.name().ok().map(str::to_owned)).collect())
    }

    /// Points a full ref name at `to`, whatever it pointed at before, with a log entry. A power cut may
    /// bring its old target back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_ref(&self, name: &str, to: Commit, message: &str) -> Result<()> {
        if self.move_loose_ref(name, (None, to), message, false)? {
            return Ok(());
        }
        self.repo
            .reference(name, self.oid(&to.0)?, true, message)
            .map(drop)
            .map_err(|error| explained(&error))
            .with_context(|| format!("the ref {name} cannot be written"))
    }

    /// As [`Git::set_ref`], for a ref of the agent's own, which git keeps no log of by itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_logged_ref(&self, name: &str, to: Commit, message: &str) -> Result<()> {
        self.repo
            .reference_ensure_log(name)
            .with_context(|| format!("the log of the ref {name} cannot be written"))?;
        self.set_ref(name, to, message)
    }

    /// Removes a ref, if it exists.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_ref(&self, name: &str) -> Result<()> {
        self.plain_ref(name)?;
        match self.repo.find_reference(name) {
            Ok(mut found) => {
                found.delete().with_context(|| format!("the ref {name} cannot be removed"))?;
                self.remove_empty_log_directories(name);
                Ok(())
            }
            Err(error) if missing(&error) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("the ref {name} cannot be read")),
        }
    }

    /// Removes the directories of the log of a removed ref that are empty now: a ref may take such a name.
    fn remove_empty_log_directories(&self, name: &str) {
        let mut directory = Path::new(name).parent();
        while let Some(below) = directory.filter(|it| it.components().count() > 2) {
            let path = self.git_dir().join("logs").join(below);
            if rustix::fs::unlinkat(CWD, &path, AtFlags::REMOVEDIR).is_err() {
                return;
            }
            directory = below.parent();
        }
    }

    /// Moves `branch` from `from` to `to` and HEAD onto it, unless another process moved it meanwhile. A
    /// branch that is made follows the branch of its name at `remote`.
    ///
    /// # Errors
    /// When another process moved it, or it cannot be written.
    pub fn move_branch(
        &self,
        branch: &RefName,
        from: Option<Commit>,
        to: Commit,
        (message, remote): (&str, &str),
    ) -> Result<()> {
        let name = branch.local();
        let moved_by_hand = || {
            format!("{name} was moved by another process meanwhile\nhint: the next tick retries")
        };
        let is_checked_out = self.has_checked_out(branch)?;
        match self.ref_id(&name)? {
            Some(now) if now == to => {}
            Some(now) => {
                if Some(now) != from && !self.contains(to, now)? {
                    bail!(moved_by_hand());
                }
                if !self.move_loose_ref(&name, (Some(now), to), message, is_checked_out)? {
                    let (from, to) = (self.oid(&now.0)?, self.oid(&to.0)?);
                    patiently(|| {
                        let moved = self.repo.reference_matching(&name, to, true, from, message);
                        moved.map_err(|error| explained(&error))
                    })
                    .with_context(|| format!("the ref {name} cannot be moved"))?;
                }
            }
            None => {
                if self.rename_out_of_the_way(branch, message)? {
                    self.follow(branch, remote)?;
                    return self.move_branch(branch, from, to, (message, remote));
                }
                self.repo
                    .reference(&name, self.oid(&to.0)?, false, message)
                    .map_err(|error| explained(&error))
                    .with_context(|| format!("the ref {name} cannot be made"))?;
                self.follow(branch, remote)?;
            }
        }
        if is_checked_out {
            return Ok(());
        }
        self.repo
            .set_head(&name)
            .map_err(|error| explained(&error))
            .with_context(|| format!("HEAD cannot be put on {name}"))
    }

    fn has_checked_out(&self, branch: &RefName) -> Result<bool> {
        Ok(matches!(self.head()?, Head::Branch(current, _) if current == *branch))
    }

    /// Renames the checked-out branch to `branch` where the two cannot both exist, as `main` and `main/v2`.
    /// `false`: nothing was in the way.
    fn rename_out_of_the_way(&self, branch: &RefName, message: &str) -> Result<bool> {
        let Head::Branch(old, Some(_)) = self.head()? else { return Ok(false) };
        if !old.is_in_the_way_of(branch) {
            return Ok(false);
        }
        self.repo
            .find_reference(&old.local())
            .and_then(|mut found| found.rename(&branch.local(), false, message))
            .map_err(|error| explained(&error))
            .with_context(|| format!("{old} cannot be renamed to {branch}"))?;
        Ok(true)
    }
}
