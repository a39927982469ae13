//! What a tree names and the agent never fetches: submodules, and the files behind pointers of git-lfs.

use serde::{Deserialize, Serialize};

use super::change::converted::LfsPointer;
use super::change::{EntryMode, ObjectError, ObjectSource, PathOp, TreeChange, TreeEntry};
use crate::domain::git::Commit;

/// The size limit of the smallest pointer in bytes; a smaller file is not read.
const MIN_POINTER: u64 = 50;

/// The parts of one revision's tree that the agent does not fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentGaps {
    /// The revision.
    pub revision: Commit,
    /// The submodules; `None`: there is none.
    pub submodules: Option<PathTally>,
    /// The pointers of git-lfs; `None`: there is none.
    pub lfs_pointers: Option<PathTally>,
}

/// A number of paths, and the first of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathTally {
    /// How many there are; at least 1.
    pub count: u64,
    /// The first path, escaped.
    pub first: String,
}

/// A kind of [`ContentGaps`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum GapKind {
    Submodule,
    LfsPointer,
}

impl ContentGaps {
    /// The gaps of `revision`, whose whole tree is the change `tree` from nothing.
    ///
    /// # Errors
    /// When an object cannot be read.
    pub fn of(
        revision: Commit,
        tree: &TreeChange,
        objects: &impl ObjectSource,
    ) -> Result<Self, ObjectError> {
        let mut gaps = Self { revision, submodules: None, lfs_pointers: None };
        for op in &tree.ops {
            let tally = match gap_kind(op.new, op, objects)? {
                Some(GapKind::Submodule) => &mut gaps.submodules,
                Some(GapKind::LfsPointer) => &mut gaps.lfs_pointers,
                None => continue,
            };
            let first = || PathTally { count: 0, first: op.path.to_string() };
            tally.get_or_insert_with(first).count += 1;
        }
        Ok(gaps)
    }

    /// The gaps of `revision`, which differs from this one by `change`, where the change touches none;
    /// `None`: they have to be counted anew.
    ///
    /// # Errors
    /// When an object cannot be read.
    pub fn carried_over(
        &self,
        revision: Commit,
        change: &TreeChange,
        objects: &impl ObjectSource,
    ) -> Result<Option<Self>, ObjectError> {
        for op in &change.ops {
            for side in [op.old, op.new] {
                if gap_kind(side, op, objects)?.is_some() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(Self { revision, ..self.clone() }))
    }

    /// Whether the tree names nothing that is not fetched.
    pub fn is_empty(&self) -> bool {
        self.submodules.is_none() && self.lfs_pointers.is_none()
    }

    /// A sentence about each kind; empty where nothing is missing.
    pub fn sentences(&self) -> Vec<String> {
        let submodules = self.submodules.as_ref().map(|tally| {
            let what = if tally.count == 1 { "submodule is" } else { "submodules are" };
            let rest = if tally.count == 1 { ":" } else { "; the first is" };
            format!(
                "{} {what} left empty, as the agent fetches none{rest} {}",
                tally.count, tally.first
            )
        });
        let pointers = self.lfs_pointers.as_ref().map(|tally| {
            let what =
                if tally.count == 1 { "file is an LFS pointer" } else { "files are LFS pointers" };
            let rest = if tally.count == 1 { ":" } else { "; the first is" };
            format!(
                "{} {what}, whose content the agent does not fetch{rest} {}",
                tally.count, tally.first
            )
        });
        submodules.into_iter().chain(pointers).collect()
    }
}

fn gap_kind(
    side: Option<TreeEntry>,
    op: &PathOp,
    objects: &impl ObjectSource,
) -> Result<Option<GapKind>, ObjectError> {
    let Some(TreeEntry { mode, id }) = side else { return Ok(None) };
    match mode {
        EntryMode::Submodule => return Ok(Some(GapKind::Submodule)),
        EntryMode::Link => return Ok(None),
        EntryMode::File | EntryMode::Executable => {}
    }
    let size = if side == op.new { op.size } else { objects.blob_size(&id)? };
    if !(MIN_POINTER..=LfsPointer::MAX_SIZE).contains(&size) {
        return Ok(None);
    }
    Ok(LfsPointer::is_like(objects.blob(&id)?.as_ref()).then_some(GapKind::LfsPointer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_sentence_with_the_count_and_the_first_path() {
        let tally = |count, first: &str| Some(PathTally { count, first: first.to_owned() });
        let revision = "1234567890123456789012345678901234567890".parse().unwrap();
        let sentences = |submodules, lfs_pointers| {
            ContentGaps { revision, submodules, lfs_pointers }.sentences()
        };
        assert_eq!(sentences(None, None), Vec::<String>::new());
        assert_eq!(
            sentences(tally(1, "sub"), tally(2, "a.bin")),
            [
                "1 submodule is left empty, as the agent fetches none: sub",
                "2 files are LFS pointers, whose content the agent does not fetch; \
                 the first is a.bin",
            ]
        );
        assert_eq!(
            sentences(tally(3, "a"), tally(1, "b")),
            [
                "3 submodules are left empty, as the agent fetches none; the first is a",
                "1 file is an LFS pointer, whose content the agent does not fetch: b",
            ]
        );
    }
}
