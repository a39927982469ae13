//! Removing what an apply that was cut off left behind: files with a temporary name, and nothing
//! else. Only while the caller holds the repository's lock.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{Folder, Worktree, is_temporary, kind, look_at};
use crate::domain::change::{Change, RepoPath};

impl Worktree {
    /// Removes leftovers from the folders that `change` touches.
    ///
    /// # Errors
    /// When a folder cannot be read or a leftover not be removed.
    pub fn sweep(&self, change: &Change) -> Result<()> {
        let folders: BTreeSet<RepoPath> = change.ops.iter().map(|op| op.path.split().0).collect();
        for folder in folders {
            self.sweep_folder(&folder)?;
        }
        Ok(())
    }

    /// Removes leftovers from the whole worktree. Enters neither `.git`, nor `.temp`, nor any other
    /// repository inside.
    ///
    /// # Errors
    /// When a folder cannot be read or a leftover not be removed.
    pub fn sweep_all(&self) -> Result<()> {
        let mut pending = vec![RepoPath::top()];
        while let Some(folder) = pending.pop() {
            let inside = self.entries(&folder)?;
            let is_top = folder == RepoPath::top();
            if !is_top && inside.iter().any(|(path, _)| path.split().1 == b".git") {
                continue;
            }
            self.sweep_folder(&folder)?;
            let folders = inside.into_iter().filter(|(_, kind)| *kind == FileType::Directory);
            pending.extend(
                folders
                    .map(|(path, _)| path)
                    .filter(|path| !is_top || !matches!(path.as_bytes(), b".git" | b".temp")),
            );
        }
        Ok(())
    }

    fn sweep_folder(&self, folder: &RepoPath) -> Result<()> {
        let Folder::Open(dir) = self.folder(folder)? else { return Ok(()) };
        for (path, _) in self.entries(folder)? {
            let (_, name) = path.split();
            if is_temporary(name) {
                match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                    // A folder of that name is not ours.
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(error) => {
                        return Err(error).with_context(|| self.cannot("remove", &path));
                    }
                }
            }
        }
        Ok(())
    }

    /// What is in `folder`, by path; nothing when there is no such folder.
    pub(super) fn entries(&self, folder: &RepoPath) -> Result<Vec<(RepoPath, FileType)>> {
        let Folder::Open(dir) = self.folder(folder)? else { return Ok(Vec::new()) };
        let told = || self.cannot("list", folder);
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).with_context(told)? {
            let entry = entry.with_context(told)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems tell no kind when they list.
                FileType::Unknown => match look_at(&dir, name).with_context(told)? {
                    Some(found) => kind(&found),
                    None => continue,
                },
                kind => kind,
            };
            found.push((folder.join(name), kind));
        }
        Ok(found)
    }

    /// Shows `visit` everything below `folder`, each folder before what is in it, until it returns
    /// false.
    pub(super) fn walk(
        &self,
        folder: &RepoPath,
        visit: &mut dyn FnMut(&RepoPath, FileType) -> bool,
    ) -> Result<()> {
        let mut pending = vec![folder.clone()];
        while let Some(folder) = pending.pop() {
            for (path, kind) in self.entries(&folder)? {
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
