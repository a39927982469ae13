//! Removes leftovers of an interrupted apply: files with a temporary name, and nothing else. Only while
//! the caller holds the repository's lock. Does not know what was applied.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{DirState, Worktree, is_temporary, kind, look_at};
use crate::domain::repository::change::{RepoPath, TreeChange};

impl Worktree {
    /// Removes leftovers from the directories that `change` touches.
    ///
    /// # Errors
    /// When a directory cannot be read or a leftover cannot be removed.
    pub fn sweep(&self, change: &TreeChange) -> Result<()> {
        let directories: BTreeSet<RepoPath> =
            change.ops.iter().map(|op| op.path.split().0).collect();
        for directory in directories {
            self.sweep_dir(&directory)?;
        }
        Ok(())
    }

    /// Removes leftovers from the whole worktree. Enters neither `.git`, nor `.temp`, nor any other
    /// repository inside.
    ///
    /// # Errors
    /// When a directory cannot be read or a leftover cannot be removed.
    pub fn sweep_all(&self) -> Result<()> {
        let mut pending = vec![RepoPath::top()];
        while let Some(directory) = pending.pop() {
            let inside = self.entries(&directory)?;
            let is_top = directory == RepoPath::top();
            if !is_top && inside.iter().any(|(path, _)| path.split().1 == b".git") {
                continue;
            }
            self.sweep_dir(&directory)?;
            let directories = inside.into_iter().filter(|(_, kind)| *kind == FileType::Directory);
            pending.extend(
                directories
                    .map(|(path, _)| path)
                    .filter(|path| !is_top || !matches!(path.as_bytes(), b".git" | b".temp")),
            );
        }
        Ok(())
    }

    fn sweep_dir(&self, directory: &RepoPath) -> Result<()> {
        let DirState::Open(dir) = self.directory(directory)? else { return Ok(()) };
        for (path, _) in self.entries(directory)? {
            let (_, name) = path.split();
            if is_temporary(name) {
                match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                    // A directory of that name is not ours.
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(error) => {
                        return Err(error).with_context(|| self.cannot("remove", &path));
                    }
                }
            }
        }
        Ok(())
    }

    /// Paths and types of the entries in `directory`; empty when it is missing.
    pub(super) fn entries(&self, directory: &RepoPath) -> Result<Vec<(RepoPath, FileType)>> {
        let DirState::Open(dir) = self.directory(directory)? else { return Ok(Vec::new()) };
        let message = || self.cannot("list", directory);
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).with_context(message)? {
            let entry = entry.with_context(message)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not report the type in a listing.
                FileType::Unknown => match look_at(&dir, name).with_context(message)? {
                    Some(found) => kind(&found),
                    None => continue,
                },
                kind => kind,
            };
            found.push((directory.join(name), kind));
        }
        Ok(found)
    }

    /// Calls `visit` for everything below `directory`, each directory before its content, until it returns
    /// false.
    pub(super) fn walk(
        &self,
        directory: &RepoPath,
        visit: &mut dyn FnMut(&RepoPath, FileType) -> bool,
    ) -> Result<()> {
        let mut pending = vec![directory.clone()];
        while let Some(directory) = pending.pop() {
            for (path, kind) in self.entries(&directory)? {
                if !visit(&path, kind) {
                    return Ok(());
                }
                if kind == FileType::Directory {
                    pending.push(path);
                }
            }
        }
        Ok(())
    }
}
