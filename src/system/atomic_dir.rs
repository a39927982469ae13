//! Creates a directory atomically: fills it under a hidden name next to its path, then renames it. Does
//! not know what the directory contains.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::files;
use super::pid::Process;

/// Fills a new directory and renames it to `path`, where there may be an empty one. If another process
/// was faster, its directory stays.
///
/// # Errors
/// When it cannot be created or filled; nothing is left at `path` then.
pub fn make(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().context("the root of the file system is no place for a clone")?;
    let name = path.file_name().context("the path has no name")?.to_string_lossy().into_owned();
    files::ensure_dir(parent, 0o755)?;
    remove_stale(parent, &name);
    let staged = staged(parent, &name, std::process::id());
    let made = fill(&staged).and_then(|()| match std::fs::rename(&staged, path) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
        Ok(()) => Ok(files::Dir::open(parent).and_then(|dir| dir.sync())?),
    });
    // The rename has already moved it when all went well.
    let _ = std::fs::remove_dir_all(&staged);
    made
}

fn staged(parent: &Path, name: &str, pid: u32) -> PathBuf {
    parent.join(format!(".{name}.{pid}.pmpy-clone"))
}

/// Removes unfinished directories of dead processes.
fn remove_stale(parent: &Path, name: &str) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let pid = found
            .strip_prefix(&format!(".{name}."))
            .and_then(|rest| rest.strip_suffix(".pmpy-clone"))
            .and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| Process::find(pid).is_none()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
