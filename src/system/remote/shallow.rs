//! The edges of a shallow clone: the list of commits that are here without their parents. Kept across
//! a fetch from this machine, because libgit2's local transport knows of none and removes the list,
//! which leaves a history with holes. Asks no remote.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::domain::git::Commit;
use crate::system::files;

/// The list, and in `pmpy` its copy while a fetch goes on.
const NAME: &str = "shallow";
/// The most that the list may hold, in bytes: [`MOST_EDGES`](crate::domain::wire::MOST_EDGES) of
/// either hash.
const CAP: u64 = 8 << 20;

/// The list of the clone with this git directory; lines that are none are left out.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(git_dir: &Path) -> Result<Vec<Commit>> {
    let list = files::read_small(&git_dir.join(NAME), CAP)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&list).lines().filter_map(|line| line.parse().ok()).collect())
}

/// Replaces the list.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(git_dir: &Path, edges: &BTreeSet<Commit>) -> Result<()> {
    if edges.is_empty() {
        return files::remove(git_dir, NAME);
    }
    let mut list = String::new();
    for edge in edges {
        let _ = writeln!(list, "{edge}");
    }
    files::put(git_dir, NAME, list.as_bytes(), 0o644)
}

/// Copies the list of the clone with this git directory; a clone that is not shallow has none, or an
/// empty one, where libgit2 died on its way to removing it.
///
/// # Errors
/// When it cannot be read or copied.
pub(super) fn keep(git_dir: &Path) -> Result<()> {
    put_back(git_dir)?;
    match files::read_small(&git_dir.join(NAME), CAP)? {
        Some(list) if !list.is_empty() => files::put(&git_dir.join("pmpy"), NAME, &list, 0o600),
        _ => Ok(()),
    }
}

/// Puts the list back from its copy, if there is one and the list is gone; the copy goes. Also for
/// what a fetch that died has left.
///
/// # Errors
/// When it cannot be read or written.
pub fn put_back(git_dir: &Path) -> Result<()> {
    let private = git_dir.join("pmpy");
    let Some(list) = files::read_small(&private.join(NAME), CAP)? else { return Ok(()) };
    if !git_dir.join(NAME).exists() {
        files::put(git_dir, NAME, &list, 0o644)?;
    }
    files::remove(&private, NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"d363db46171a554a7d4d88a6d9d62a842c9557cd\n";

    fn git_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files::ensure_dir(&dir.path().join("pmpy"), 0o700).unwrap();
        dir
    }

    fn list(dir: &Path) -> Option<Vec<u8>> {
        files::read_small(&dir.join(NAME), CAP).unwrap()
    }

    #[test]
    fn the_list_outlives_a_fetch_that_removes_it_and_one_that_dies() {
        let dir = git_dir();
        let dir = dir.path();
        files::put(dir, NAME, LIST, 0o644).unwrap();
        keep(dir).unwrap();
        files::remove(dir, NAME).unwrap();
        // The next fetch begins where this one died.
        keep(dir).unwrap();
        assert_eq!(list(dir).as_deref(), Some(LIST));
        files::remove(dir, NAME).unwrap();
        put_back(dir).unwrap();
        put_back(dir).unwrap();
        assert_eq!(list(dir).as_deref(), Some(LIST));
        assert_eq!(list(&dir.join("pmpy")), None);
    }

    #[test]
    fn a_list_that_the_fetch_has_renewed_stays() {
        let dir = git_dir();
        let dir = dir.path();
        files::put(dir, NAME, LIST, 0o644).unwrap();
        keep(dir).unwrap();
        files::put(dir, NAME, b"renewed\n", 0o644).unwrap();
        put_back(dir).unwrap();
        assert_eq!(list(dir).as_deref(), Some(&b"renewed\n"[..]));
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let dir = git_dir();
        let dir = dir.path();
        let edges = BTreeSet::from(["1", "2"].map(|digit| digit.repeat(40).parse().unwrap()));
        write(dir, &edges).unwrap();
        assert_eq!(read(dir).unwrap(), Vec::from_iter(edges));
        write(dir, &BTreeSet::new()).unwrap();
        assert_eq!(read(dir).unwrap(), []);
    }

    #[test]
    fn a_whole_clone_has_no_list_and_gets_none() {
        let dir = git_dir();
        let dir = dir.path();
        keep(dir).unwrap();
        put_back(dir).unwrap();
        assert_eq!(list(dir), None);
        files::put(dir, NAME, b"", 0o644).unwrap();
        keep(dir).unwrap();
        assert_eq!(list(&dir.join("pmpy")), None);
    }
}
