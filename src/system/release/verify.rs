//! Compares a release with its revision: every file by its id, every mode and link, and nothing else in
//! it. A name proves nothing: a restored backup or another program may have made a directory of that name.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rustix::fs::FileType;

use super::{Dir, ReleaseStore, Slot, is_mount_point, kind};
use crate::domain::git::Commit;
use crate::domain::publish::release_paths::shared_link;
use crate::domain::repository::change::{EntryMode, ObjectSource, PathOp, RepoPath, TreeChange};
use crate::system::watchdog;

/// Set-user-id and set-group-id, which no file of a release has.
const SET_ID: u16 = 0o6000;

impl ReleaseStore {
    /// Whether the release of `revision` for `place` is exactly `tree`, the complete content of the
    /// revision, with the links to the directories `shared`. One that cannot be read is not.
    pub fn is_whole(
        &self,
        place: &Slot,
        revision: Commit,
        tree: &TreeChange,
        shared: &[RepoPath],
        objects: &impl ObjectSource,
    ) -> bool {
        let expected = ExpectedRelease { slot: place.slot.as_deref(), tree, shared, objects };
        let compared = || -> Result<bool> {
            let slot = self.slot(place)?.context("there is no release")?;
            expected.is_in(&slot.beneath(revision.to_string().as_bytes())?)
        };
        compared().unwrap_or_else(|error| {
            tracing::debug!(%revision, "cannot be compared: {error:#}");
            false
        })
    }
}

struct ExpectedRelease<'e, O> {
    slot: Option<&'e str>,
    tree: &'e TreeChange,
    shared: &'e [RepoPath],
    objects: &'e O,
}

impl<O: ObjectSource> ExpectedRelease<'_, O> {
    fn is_in(&self, top: &Dir) -> Result<bool> {
        let paths = self.tree.ops.iter().map(|op| &op.path).chain(self.shared);
        let dirs = dirs_of(paths);
        let mut missing = self.tree.ops.len() + self.shared.len();
        for at in &dirs {
            let dir = top.beneath(at.as_bytes())?;
            let found = dir.look_at(b".")?.context("it went away at this moment")?;
            ensure!(!is_mount_point(&found), "something is mounted in it");
            for (name, kind) in dir.entries()? {
                let path = at.join(&name);
                if kind == FileType::Directory && dirs.contains(&path) {
                    continue;
                }
                if !self.has_entry(&dir, &name, &path)? {
                    return Ok(false);
                }
                missing -= 1;
            }
        }
        Ok(missing == 0)
    }

    /// Whether the entry `name` of `dir` is what the release has at `path`.
    fn has_entry(&self, dir: &Dir, name: &[u8], path: &RepoPath) -> Result<bool> {
        match self.tree.at(path) {
            Some(op) => self.is_entry(dir, name, op),
            None => Ok(self.shared.contains(path) && is_shared_link(dir, name, self.slot, path)),
        }
    }

    fn is_entry(&self, dir: &Dir, name: &[u8], op: &PathOp) -> Result<bool> {
        watchdog::progress();
        let (Some(entry), Some(found)) = (op.new, dir.look_at(name)?) else { return Ok(false) };
        let is_executable = match entry.mode {
            EntryMode::Submodule => return Ok(dir.beneath(name)?.entries()?.is_empty()),
            EntryMode::Link => {
                let text = rustix::fs::readlinkat(dir, name, Vec::new())?;
                let mut text = text.as_bytes();
                return Ok(self.objects.hash_blob(text.len() as u64, &mut text)? == entry.id);
            }
            EntryMode::File => false,
            EntryMode::Executable => true,
        };
        let mode = found.stx_mode;
        Ok(kind(&found) == FileType::RegularFile
            && found.stx_size == op.size
            && (mode & 0o100 != 0) == is_executable
            && mode & SET_ID == 0
            && self.objects.hash_blob(op.size, &mut dir.open_file(name)?)? == entry.id)
    }
}

/// The directories of `paths`, and the top directory, outermost first.
pub(super) fn dirs_of<'p>(paths: impl Iterator<Item = &'p RepoPath>) -> BTreeSet<RepoPath> {
    paths.flat_map(RepoPath::dirs).chain([RepoPath::top()]).collect()
}

/// Whether the entry `name` of `dir` is our link to the shared directory of `path`.
pub(super) fn is_shared_link(dir: &Dir, name: &[u8], slot: Option<&str>, path: &RepoPath) -> bool {
    rustix::fs::readlinkat(dir, name, Vec::new())
        .is_ok_and(|text| text.as_bytes() == shared_link(slot, path))
}
