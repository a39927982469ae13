//! The rules for trees: strict modes and names, and the parallel walk over two trees. The only place
//! that decides what a new tree may hold.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec;

use super::{
    ChangeError, EntryMode, MAX_DEPTH, MAX_ENTRIES, MAX_NAME, MAX_PATH, MAX_PATHS, ObjectError,
    ObjectSource, PathOp, RepoPath, TEMPORARY, TreeEntry, TreeRefusal, census,
};
use crate::domain::git::ObjectId;
use crate::domain::repository::change::raw::{RawEntry, TreeNode, dir_of, lenient_node, parse};

/// The number of visited entries from which the whole change is counted before more of it is kept.
const MANY: usize = 50_000;

/// The walk over two trees. It has its own stack, so that no tree can overflow the thread's.
pub(super) struct TreeWalk<'o, O> {
    objects: &'o O,
    old: Option<ObjectId>,
    new: ObjectId,
    pending: Vec<PendingDir>,
    ops: Vec<PathOp>,
    entries: usize,
    path_bytes: usize,
}

/// A directory that differs.
struct PendingDir {
    path: RepoPath,
    depth: usize,
    old: Option<ObjectId>,
    new: Option<ObjectId>,
}

impl<'o, O: ObjectSource> TreeWalk<'o, O> {
    pub(super) fn new(old: Option<ObjectId>, new: ObjectId, objects: &'o O) -> Self {
        let top = PendingDir { path: RepoPath::top(), depth: 0, old, new: Some(new) };
        let pending = vec![top];
        Self { objects, old, new, pending, ops: Vec::new(), entries: 0, path_bytes: 0 }
    }

    /// The operations from one tree to the other, in no particular order.
    pub(super) fn ops(mut self) -> Result<Vec<PathOp>, ChangeError> {
        while let Some(dir) = self.pending.pop() {
            self.compare(&dir)?;
        }
        Ok(self.ops)
    }

    fn compare(&mut self, dir: &PendingDir) -> Result<(), ChangeError> {
        let (old, new) = (self.old_bytes(dir)?, self.new_bytes(dir)?);
        let mut old = self.old_entries(dir, &old)?.into_iter().peekable();
        let mut new = self.new_entries(dir, &new)?.into_iter().peekable();
        loop {
            let (old_name, new_name) = (name_of(&mut old), name_of(&mut new));
            if old_name.is_none() && new_name.is_none() {
                return Ok(());
            }
            let order = by_name(old_name, new_name);
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let before_node = before.as_ref().map(|(_, node)| *node);
            let after_node = after.as_ref().map(|(_, node)| *node);
            if before_node == after_node {
                continue;
            }
            let name = before.or(after).map(|(name, _)| name).unwrap_or_default();
            self.differ(dir, name, before_node, after_node)?;
        }
    }

    /// Records an entry that differs between the two sides.
    fn differ(
        &mut self,
        dir: &PendingDir,
        name: &[u8],
        old: Option<TreeNode>,
        new: Option<TreeNode>,
    ) -> Result<(), ChangeError> {
        let path = dir.path.join(name);
        self.path_bytes += path.as_bytes().len();
        if self.path_bytes > MAX_PATHS {
            let reason = format!("brings the paths over {} MiB in all", MAX_PATHS >> 20);
            return Err(TreeRefusal { path, reason }.into());
        }
        let depth = dir.depth + 1;
        if let Some(TreeNode::Dir(_)) = new
            && depth > MAX_DEPTH
        {
            let reason = format!("lies more than {MAX_DEPTH} directories deep");
            return Err(TreeRefusal { path: shortened(&path), reason }.into());
        }
        if new.is_some() && path.as_bytes().len() > MAX_PATH {
            let reason = format!("is a path of more than {MAX_PATH} bytes");
            return Err(TreeRefusal { path: shortened(&path), reason }.into());
        }
        let dirs = (dir_of(old), dir_of(new));
        let leaves = (leaf_of(old), leaf_of(new));
        if dirs != (None, None) {
            let (path, (old, new)) = (path.clone(), dirs);
            self.pending.push(PendingDir { path, depth, old, new });
        }
        if leaves != (None, None) {
            let (old, new) = leaves;
            self.ops.push(PathOp { path, old, new, size: 0 });
        }
        Ok(())
    }

    /// The old tree; empty where there is none.
    fn old_bytes(&self, dir: &PendingDir) -> Result<Vec<u8>, ObjectError> {
        dir.old.map_or_else(|| Ok(Vec::new()), |id| self.objects.tree(&id))
    }

    /// The new tree; empty where there is none.
    fn new_bytes(&self, dir: &PendingDir) -> Result<Vec<u8>, ChangeError> {
        let Some(id) = dir.new else { return Ok(Vec::new()) };
        match self.objects.tree(&id) {
            Err(ObjectError::WrongKind { .. }) => {
                Err(refused(&dir.path, "should be a directory, but its object is no tree"))
            }
            Err(error @ ObjectError::TooLarge { .. }) => {
                Err(refused(&dir.path, &format!("has too many entries: {error}")))
            }
            bytes => Ok(bytes?),
        }
    }

    /// The entries of the new tree `bytes`, by name, checked against the rules.
    fn new_entries<'t>(
        &mut self,
        dir: &PendingDir,
        bytes: &'t [u8],
    ) -> Result<Vec<NamedNode<'t>>, ChangeError> {
        let Some(raw) = parse(bytes, self.new.as_bytes().len()) else {
            return Err(refused(&dir.path, "has a tree object that is cut short or garbled"));
        };
        self.count(dir, raw.len())?;
        let mut entries: Vec<NamedNode> = Vec::with_capacity(raw.len());
        let mut previous: Option<&RawEntry> = None;
        for entry in &raw {
            let path = || dir.path.join(entry.name);
            if let Some(fault) = name_fault(entry.name, dir.depth) {
                return Err(refused(&shortened(&path()), fault));
            }
            let node = strict_node(entry).map_err(|fault| refused(&path(), &fault))?;
            if previous.is_some_and(|previous| sort_key(previous).ge(sort_key(entry))) {
                return Err(refused(&path(), "is in the wrong order or twice in its directory"));
            }
            previous = Some(entry);
            entries.push((entry.name, node));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let twice = entries.iter().zip(entries.iter().skip(1)).find(|(a, b)| a.0 == b.0);
        if let Some(((name, _), _)) = twice {
            return Err(refused(&dir.path.join(name), "is both a file and a directory"));
        }
        Ok(entries)
    }

    /// The entries of the old tree `bytes`, by name, without those that break the rules: they were never
    /// written.
    fn old_entries<'t>(
        &mut self,
        dir: &PendingDir,
        bytes: &'t [u8],
    ) -> Result<Vec<NamedNode<'t>>, ChangeError> {
        let Some(id) = dir.old else { return Ok(Vec::new()) };
        let raw = parse(bytes, id.as_bytes().len()).ok_or_else(|| {
            let cause = "the tree object is cut short or garbled".to_owned();
            ObjectError::Unreadable { id, cause }
        })?;
        self.count(dir, raw.len())?;
        let mut entries: Vec<NamedNode> = raw
            .iter()
            .filter(|entry| name_fault(entry.name, dir.depth).is_none())
            .filter_map(|entry| Some((entry.name, lenient_node(entry)?)))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(b.0));
        entries.dedup_by(|a, b| a.0 == b.0);
        Ok(entries)
    }

    fn count(&mut self, dir: &PendingDir, entries: usize) -> Result<(), TreeRefusal> {
        let before = self.entries;
        self.entries = before.saturating_add(entries);
        let turns_large = before <= MANY && self.entries > MANY;
        let whole = if turns_large { census::entries(self.old, self.new, self.objects) } else { 0 };
        if self.entries.max(whole) <= MAX_ENTRIES {
            return Ok(());
        }
        let reason = format!("brings the change over {MAX_ENTRIES} entries");
        Err(TreeRefusal { path: dir.path.clone(), reason })
    }
}

/// The name of an entry and what it is.
type NamedNode<'t> = (&'t [u8], TreeNode);

fn refused(path: &RepoPath, reason: &str) -> ChangeError {
    TreeRefusal { path: path.clone(), reason: reason.to_owned() }.into()
}

fn name_of<'t>(entries: &mut Peekable<vec::IntoIter<NamedNode<'t>>>) -> Option<&'t [u8]> {
    entries.peek().map(|(name, _)| *name)
}

/// Orders names as plain bytes, so that a file and a directory of the same name meet.
fn by_name(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, _) => Ordering::Greater,
    }
}

fn leaf_of(node: Option<TreeNode>) -> Option<TreeEntry> {
    match node {
        Some(TreeNode::Leaf(entry)) => Some(entry),
        _ => None,
    }
}

/// The path, cut to a length that can be shown in a message.
fn shortened(path: &RepoPath) -> RepoPath {
    let bytes = path.as_bytes();
    match bytes.get(..200) {
        Some(start) => RepoPath::new([start, "…".as_bytes()].concat()),
        None => path.clone(),
    }
}

/// The sort key of git for entries: a directory as if its name ended in `/`.
fn sort_key<'t>(entry: &RawEntry<'t>) -> impl Iterator<Item = &'t u8> + use<'t> {
    let slash: &[u8] = if entry.mode == b"40000" { b"/" } else { b"" };
    entry.name.iter().chain(slash)
}

/// The node of a new tree's entry, or the fault of its mode.
fn strict_node(entry: &RawEntry) -> Result<TreeNode, String> {
    if let Some(mode) = EntryMode::of_octal(entry.mode) {
        return Ok(TreeNode::Leaf(TreeEntry { mode, id: entry.id }));
    }
    match entry.mode {
        b"40000" => Ok(TreeNode::Dir(entry.id)),
        b"100664" => Err("has mode 100664, which only git before 2005-05 wrote; \
             commit the file once more and it becomes 100644"
            .to_owned()),
        mode => Err(format!(
            "has mode {}; only 100644, 100755, 120000, 40000 and 160000 are allowed",
            mode.escape_ascii()
        )),
    }
}

/// The fault of a name in a directory `depth` levels below the root; `None`: the name is allowed.
fn name_fault(name: &[u8], depth: usize) -> Option<&'static str> {
    if name.is_empty() || name == b"." || name == b".." {
        return Some("is no name for a file");
    }
    if name.len() > MAX_NAME {
        return Some("has a name of more than 255 bytes");
    }
    if name.contains(&b'/') {
        return Some("has a slash inside a name");
    }
    let control =
        |chunk: std::str::Utf8Chunk| chunk.valid().chars().any(|character| character.is_control());
    if name.utf8_chunks().any(control) {
        return Some("has a control character in its name");
    }
    if name.starts_with(TEMPORARY.as_bytes()) {
        return Some("has a name that is reserved for the agent's temporary files");
    }
    // A backslash is a character like any other, as in `srv-my\x2ddata.mount`. Git looks for `.git`
    // between backslashes, because Windows separates names by them; so does this.
    let is_git = |part: &[u8]| matches!(undisguised(part).as_slice(), b".git" | b"git~1");
    if name.split(|&byte| byte == b'\\').any(is_git) {
        return Some("is another spelling of .git");
    }
    if depth == 0 && undisguised(name) == b".temp" {
        return Some("is where the agent keeps its records, and may not be committed");
    }
    None
}

/// The name as the most lenient file system reads it: in lower case, without the characters that HFS+
/// ignores, without an NTFS stream (`:…`) and without the dots and spaces that NTFS drops.
fn undisguised(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for part in chunk.valid().split(hfs_ignores) {
            plain.extend_from_slice(part.as_bytes());
        }
        plain.extend_from_slice(chunk.invalid());
    }
    plain.make_ascii_lowercase();
    if let Some(stream) = plain.iter().position(|&byte| byte == b':') {
        plain.truncate(stream);
    }
    while matches!(plain.last(), Some(b'.' | b' ')) {
        plain.pop();
    }
    plain
}

/// Matches the code points that HFS+ ignores when it compares names (Apple TN1150; the same list as in
/// git's utf8.c).
fn hfs_ignores(character: char) -> bool {
    matches!(
        character,
        '\u{200c}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
    )
}
