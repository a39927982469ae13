//! Reads and writes the list of a shallow clone's edges: the commits that are there without their
//! parents. Asks no remote.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::domain::git::{Commit, ObjectFormat};
use crate::system::files;

const NAME: &str = "shallow";
/// The most bytes of the list: [`MOST_EDGES`](crate::domain::wire::MOST_EDGES) ids of either hash.
const CAP: u64 = 8 << 20;

/// The edges of the clone with this git directory and object format, without lines that are no ids.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(git_dir: &Path, format: ObjectFormat) -> Result<Vec<Commit>> {
    let list = files::read_small(&git_dir.join(NAME), CAP)?.unwrap_or_default();
    let list = String::from_utf8_lossy(&list);
    let edges = list.lines().filter_map(|line| line.parse::<Commit>().ok());
    Ok(edges.filter(|edge| edge.0.format() == format).collect())
}

/// Replaces the list; no edges remove its file.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let edges = BTreeSet::from(["1", "2"].map(|digit| digit.repeat(40).parse().unwrap()));
        write(dir, &edges).unwrap();
        assert_eq!(read(dir, ObjectFormat::Sha1).unwrap(), Vec::from_iter(edges));
        assert_eq!(read(dir, ObjectFormat::Sha256).unwrap(), []);
        write(dir, &BTreeSet::new()).unwrap();
        assert_eq!(read(dir, ObjectFormat::Sha1).unwrap(), []);
    }
}
