//! The paths of a release besides those of its revision: the links to directories that all releases of a
//! place share, and the count of files that a revision does not have. Pure.

use serde::{Deserialize, Serialize};

use crate::domain::repository::change::RepoPath;

/// The directory in a store that holds the shared directories.
pub const SHARED: &str = ".shared";

/// The directory in a store that holds what its releases had and their revisions do not.
pub const LEFT: &str = ".left";

/// The time for which files in [`LEFT`] are kept, in days.
pub const LEFT_DAYS: i64 = 30;

/// The limit of all files in [`LEFT`] of one store, in bytes.
pub const MAX_LEFT: u64 = 1 << 30;

/// The text of the link at `path` in a release to the shared directory of the same path. `slot`: the
/// directory of the releases in the store; `None`: they are in the store itself.
pub fn shared_link(slot: Option<&str>, path: &RepoPath) -> Vec<u8> {
    let ups = path.dirs().count() + 1 + usize::from(slot.is_some());
    let mut text = b"../".repeat(ups);
    for name in [Some(SHARED), slot].into_iter().flatten() {
        text.extend_from_slice(name.as_bytes());
        text.push(b'/');
    }
    text.extend_from_slice(path.as_bytes());
    text
}

/// Returns `true` if the paths are the same, or one of them lies in the other.
pub fn overlap(one: &RepoPath, other: &RepoPath) -> bool {
    let is_at_or_in = |inner: &RepoPath, outer: &RepoPath| {
        let rest = inner.as_bytes().strip_prefix(outer.as_bytes());
        rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    };
    is_at_or_in(one, other) || is_at_or_in(other, one)
}

/// The first of the directories `shared` that a tree with `paths` has itself.
pub fn shared_conflict<'s, 'p>(
    mut paths: impl Iterator<Item = &'p RepoPath>,
    shared: &'s [RepoPath],
) -> Option<&'s RepoPath> {
    paths.find_map(|path| shared.iter().find(|shared| overlap(path, shared)))
}

/// Files that published releases had and their revisions do not, where they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftFiles {
    /// The directory that holds them.
    pub path: String,
    /// How many files there are; at least 1.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// There are more, which were not counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_more: bool,
}

impl LeftFiles {
    /// A sentence without its full stop for `status -v` and `check`.
    pub fn sentence(&self) -> String {
        let Self { path, files, bytes, is_more } = self;
        let least = if *is_more { "at least " } else { "" };
        let plural = |number: &u64| if *number == 1 { "" } else { "s" };
        format!(
            "{least}{files} file{} ({bytes} byte{}) that the published revisions did not have, in \
             {path}; each is kept for {LEFT_DAYS} days, and at most 1 GiB in all",
            plural(files),
            plural(bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text)
    }

    #[test]
    fn a_link_leads_out_of_its_release_and_into_the_shared_directories_of_its_slot() {
        for (slot, at, text) in [
            (None, "uploads", "../.shared/uploads"),
            (None, "var/cache", "../../.shared/var/cache"),
            (Some("main"), "uploads", "../../.shared/main/uploads"),
            (Some("main"), "a/b/c", "../../../../.shared/main/a/b/c"),
        ] {
            assert_eq!(shared_link(slot, &path(at)), text.as_bytes(), "{slot:?} {at}");
        }
    }

    #[test]
    fn a_tree_has_a_shared_directory_where_one_path_lies_in_the_other() {
        let shared = [path("uploads"), path("var/cache")];
        let conflict = |tree: &[&str]| {
            let tree: Vec<RepoPath> = tree.iter().map(|it| path(it)).collect();
            shared_conflict(tree.iter(), &shared).map(ToString::to_string)
        };
        assert_eq!(conflict(&["uploads2", "upload", "var/cached", "web/uploads"]), None);
        assert_eq!(conflict(&["page", "uploads/a"]).as_deref(), Some("uploads"));
        assert_eq!(conflict(&["uploads"]).as_deref(), Some("uploads"));
        assert_eq!(conflict(&["var"]).as_deref(), Some("var/cache"));
    }
}
