//! Tree objects as bytes: their parser.

use crate::domain::git::ObjectId;
use crate::domain::repository::change::{EntryMode, TreeEntry};

/// One entry in the form of the tree object.
pub(super) struct RawEntry<'t> {
    pub(super) mode: &'t [u8],
    pub(super) name: &'t [u8],
    pub(super) id: ObjectId,
}

/// Splits a tree object: a sequence of `MODE SP NAME NUL ID`. `None` for malformed bytes.
pub(super) fn parse(mut rest: &[u8], id_len: usize) -> Option<Vec<RawEntry<'_>>> {
    let mut entries = Vec::with_capacity(rest.len() / (id_len + 16));
    while !rest.is_empty() {
        let (mode, after) = cut(rest, b' ')?;
        let (name, after) = cut(after, 0)?;
        let (id, after) = after.split_at_checked(id_len)?;
        entries.push(RawEntry { mode, name, id: ObjectId::from_bytes(id)? });
        rest = after;
    }
    Some(entries)
}

/// The name and id of an entry that is a directory, also with unusual mode bits.
pub(super) fn lenient_dir<'t>(entry: &RawEntry<'t>) -> Option<(&'t [u8], ObjectId)> {
    dir_of(lenient_node(entry)).map(|id| (entry.name, id))
}

/// The target of a tree entry: a directory, or anything else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TreeNode {
    Dir(ObjectId),
    Leaf(TreeEntry),
}

pub(super) fn dir_of(node: Option<TreeNode>) -> Option<ObjectId> {
    match node {
        Some(TreeNode::Dir(id)) => Some(id),
        _ => None,
    }
}

/// The bytes before and after the first `separator`.
pub(super) fn cut(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// The node of an old tree's entry: other tools ignored odd permission bits when they wrote it to disk.
/// `None` for a mode that no file on disk can have.
pub(super) fn lenient_node(entry: &RawEntry) -> Option<TreeNode> {
    let mode = u32::from_str_radix(std::str::from_utf8(entry.mode).ok()?, 8).ok()?;
    if mode & 0o170_000 == 0o040_000 {
        return Some(TreeNode::Dir(entry.id));
    }
    let mode = EntryMode::of_bits(mode)?;
    Some(TreeNode::Leaf(TreeEntry { mode, id: entry.id }))
}
