//! Raw tree objects: the strict parser, the rules for modes and names, and the walk over two trees
//! side by side. What a new tree may hold is decided here and nowhere else.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec;

use super::{
    ChangeError, Entry, MAX_DEPTH, MAX_ENTRIES, MAX_NAME, MAX_PATH, MAX_PATHS, Mode, ObjectError,
    Objects, PathOp, Refusal, RepoPath, TEMPORARY, census,
};
use crate::domain::git::Id;

/// A change that visits more entries than these is counted through before more of it is kept.
const MANY: usize = 50_000;

/// What an entry of a tree leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder(Id),
    Leaf(Entry),
}

/// One entry as it stands in the tree object.
pub(super) struct Raw<'t> {
    mode: &'t [u8],
    name: &'t [u8],
    id: Id,
}

/// The walk over two trees. It keeps its own stack, so that no tree can exhaust the thread's.
pub(super) struct Walk<'o, O> {
    objects: &'o O,
    old: Option<Id>,
    new: Id,
    pending: Vec<Pending>,
    ops: Vec<PathOp>,
    entries: usize,
    path_bytes: usize,
}

/// A folder that differs.
struct Pending {
    path: RepoPath,
    depth: usize,
    old: Option<Id>,
    new: Option<Id>,
}

impl<'o, O: Objects> Walk<'o, O> {
    pub(super) fn new(old: Option<Id>, new: Id, objects: &'o O) -> Self {
        let top = Pending { path: RepoPath::top(), depth: 0, old, new: Some(new) };
        let pending = vec![top];
        Self { objects, old, new, pending, ops: Vec::new(), entries: 0, path_bytes: 0 }
    }

    /// The operations from one tree to the other, in no particular order.
    pub(super) fn ops(mut self) -> Result<Vec<PathOp>, ChangeError> {
        while let Some(folder) = self.pending.pop() {
            self.compare(&folder)?;
        }
        Ok(self.ops)
    }

    fn compare(&mut self, folder: &Pending) -> Result<(), ChangeError> {
        let mut old = self.old_entries(folder)?.into_iter().peekable();
        let mut new = self.new_entries(folder)?.into_iter().peekable();
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
            self.differ(folder, &name, before_node, after_node)?;
        }
    }

    /// Takes note of an entry that is not the same on both sides.
    fn differ(
        &mut self,
        folder: &Pending,
        name: &[u8],
        old: Option<Node>,
        new: Option<Node>,
    ) -> Result<(), ChangeError> {
        let path = folder.path.join(name);
        self.path_bytes += path.as_bytes().len();
        if self.path_bytes > MAX_PATHS {
            let reason = format!("brings the paths over {} MiB in all", MAX_PATHS >> 20);
            return Err(Refusal { path, reason }.into());
        }
        let depth = folder.depth + 1;
        if let Some(Node::Folder(_)) = new
            && depth > MAX_DEPTH
        {
            let reason = format!("lies more than {MAX_DEPTH} folders deep");
            return Err(Refusal { path: shortened(&path), reason }.into());
        }
        if new.is_some() && path.as_bytes().len() > MAX_PATH {
            let reason = format!("is a path of more than {MAX_PATH} bytes");
            return Err(Refusal { path: shortened(&path), reason }.into());
        }
        let folders = (folder_of(old), folder_of(new));
        let leaves = (leaf_of(old), leaf_of(new));
        if leaves != (None, None) {
            let (old, new) = leaves;
            self.ops.push(PathOp { path: path.clone(), old, new, size: 0 });
        }
        if folders != (None, None) {
            let (old, new) = folders;
            self.pending.push(Pending { path, depth, old, new });
        }
        Ok(())
    }

    /// The entries of the new tree, by name, once they are found to obey the rules.
    fn new_entries(&mut self, folder: &Pending) -> Result<Vec<(Vec<u8>, Node)>, ChangeError> {
        let Some(id) = folder.new else { return Ok(Vec::new()) };
        let refuse = |path: &RepoPath, reason: &str| {
            ChangeError::from(Refusal { path: path.clone(), reason: reason.to_owned() })
        };
        let bytes = match self.objects.tree(&id) {
            Err(ObjectError::WrongKind { .. }) => {
                return Err(refuse(&folder.path, "should be a folder, but its object is no tree"));
            }
            Err(error @ ObjectError::TooLarge { .. }) => {
                return Err(refuse(&folder.path, &format!("has too many entries: {error}")));
            }
            bytes => bytes?,
        };
        let Some(raw) = parse(&bytes, id.as_bytes().len()) else {
            return Err(refuse(&folder.path, "has a tree object that is cut short or garbled"));
        };
        self.count(folder, raw.len())?;
        let mut entries: Vec<(Vec<u8>, Node)> = Vec::with_capacity(raw.len());
        let mut previous: Option<&Raw> = None;
        for entry in &raw {
            let path = folder.path.join(entry.name);
            if let Some(fault) = name_fault(entry.name, folder.depth) {
                return Err(refuse(&shortened(&path), fault));
            }
            let node = match strict_node(entry) {
                Ok(node) => node,
                Err(fault) => return Err(refuse(&path, &fault)),
            };
            if previous.is_some_and(|previous| sort_key(previous).ge(sort_key(entry))) {
                return Err(refuse(&path, "stands in the wrong order or twice in its folder"));
            }
            previous = Some(entry);
            entries.push((entry.name.to_vec(), node));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let twice = entries.iter().zip(entries.iter().skip(1)).find(|(a, b)| a.0 == b.0);
        if let Some(((name, _), _)) = twice {
            return Err(refuse(&folder.path.join(name), "is both a file and a folder"));
        }
        Ok(entries)
    }

    /// The entries of the old tree, by name, as far as they can have been written: what the rules
    /// refuse is left out.
    fn old_entries(&mut self, folder: &Pending) -> Result<Vec<(Vec<u8>, Node)>, ChangeError> {
        let Some(id) = folder.old else { return Ok(Vec::new()) };
        let bytes = self.objects.tree(&id)?;
        let raw = parse(&bytes, id.as_bytes().len()).ok_or_else(|| {
            let cause = "the tree object is cut short or garbled".to_owned();
            ObjectError::Unreadable { id, cause }
        })?;
        self.count(folder, raw.len())?;
        let mut entries: Vec<(Vec<u8>, Node)> = raw
            .iter()
            .filter(|entry| name_fault(entry.name, folder.depth).is_none())
            .filter_map(|entry| Some((entry.name.to_vec(), lenient_node(entry)?)))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|a, b| a.0 == b.0);
        Ok(entries)
    }

    fn count(&mut self, folder: &Pending, entries: usize) -> Result<(), Refusal> {
        let before = self.entries;
        self.entries = before.saturating_add(entries);
        let turns_large = before <= MANY && self.entries > MANY;
        let whole = if turns_large { census::entries(self.old, self.new, self.objects) } else { 0 };
        if self.entries.max(whole) <= MAX_ENTRIES {
            return Ok(());
        }
        let reason = format!("brings the change over {MAX_ENTRIES} entries");
        Err(Refusal { path: folder.path.clone(), reason })
    }
}

type Entries = Peekable<vec::IntoIter<(Vec<u8>, Node)>>;

fn name_of(entries: &mut Entries) -> Option<&[u8]> {
    entries.peek().map(|(name, _)| name.as_slice())
}

/// Orders names as plain bytes, so that a file and a folder of one name meet.
fn by_name(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, _) => Ordering::Greater,
    }
}

fn folder_of(node: Option<Node>) -> Option<Id> {
    match node {
        Some(Node::Folder(id)) => Some(id),
        _ => None,
    }
}

fn leaf_of(node: Option<Node>) -> Option<Entry> {
    match node {
        Some(Node::Leaf(entry)) => Some(entry),
        _ => None,
    }
}

/// A path that broke a rule by its length, short enough to be shown.
fn shortened(path: &RepoPath) -> RepoPath {
    let bytes = path.as_bytes();
    match bytes.get(..200) {
        Some(start) => RepoPath::new([start, "…".as_bytes()].concat()),
        None => path.clone(),
    }
}

/// Splits a tree object: `MODE SP NAME NUL ID`, again and again. `None` when it is none.
pub(super) fn parse(mut rest: &[u8], id_len: usize) -> Option<Vec<Raw<'_>>> {
    let mut entries = Vec::with_capacity(rest.len() / (id_len + 16));
    while !rest.is_empty() {
        let (mode, after) = cut(rest, b' ')?;
        let (name, after) = cut(after, 0)?;
        let (id, after) = after.split_at_checked(id_len)?;
        entries.push(Raw { mode, name, id: Id::from_bytes(id)? });
        rest = after;
    }
    Some(entries)
}

/// What stands before and after the first `separator`.
fn cut(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// How git orders entries: a folder as if its name ended in `/`.
fn sort_key<'t>(entry: &Raw<'t>) -> impl Iterator<Item = &'t u8> + use<'t> {
    let slash: &[u8] = if entry.mode == b"40000" { b"/" } else { b"" };
    entry.name.iter().chain(slash)
}

/// The node of a new tree's entry, or what is wrong with its mode.
fn strict_node(entry: &Raw) -> Result<Node, String> {
    let leaf = |mode| Ok(Node::Leaf(Entry { mode, id: entry.id }));
    match entry.mode {
        b"40000" => Ok(Node::Folder(entry.id)),
        b"100644" => leaf(Mode::File),
        b"100755" => leaf(Mode::Executable),
        b"120000" => leaf(Mode::Link),
        b"160000" => leaf(Mode::Submodule),
        b"100664" => Err("has mode 100664, which only git before 2005-05 wrote; \
             commit the file once more and it becomes 100644"
            .to_owned()),
        mode => Err(format!(
            "has mode {}; only 100644, 100755, 120000, 40000 and 160000 are allowed",
            mode.escape_ascii()
        )),
    }
}

/// The node of an old tree's entry: other tools were not strict about permission bits when they
/// wrote it to disk. `None` when it can be nothing on disk.
fn lenient_node(entry: &Raw) -> Option<Node> {
    let mode = u32::from_str_radix(std::str::from_utf8(entry.mode).ok()?, 8).ok()?;
    let mode = match mode & 0o170_000 {
        0o040_000 => return Some(Node::Folder(entry.id)),
        0o100_000 if mode & 0o100 != 0 => Mode::Executable,
        0o100_000 => Mode::File,
        0o120_000 => Mode::Link,
        0o160_000 => Mode::Submodule,
        _ => return None,
    };
    Some(Node::Leaf(Entry { mode, id: entry.id }))
}

/// Name and id of an entry that is a folder in either sense.
pub(super) fn lenient_folder<'t>(entry: &Raw<'t>) -> Option<(&'t [u8], Id)> {
    folder_of(lenient_node(entry)).map(|id| (entry.name, id))
}

/// What is wrong with a name in a folder `depth` folders below the top.
fn name_fault(name: &[u8], depth: usize) -> Option<&'static str> {
    if name.is_empty() || name == b"." || name == b".." {
        return Some("is no name for a file");
    }
    if name.len() > MAX_NAME {
        return Some("has a name of more than 255 bytes");
    }
    if name.contains(&b'/') || name.contains(&b'\\') {
        return Some("has a slash or a backslash inside a name");
    }
    let control =
        |chunk: std::str::Utf8Chunk| chunk.valid().chars().any(|character| character.is_control());
    if name.utf8_chunks().any(control) {
        return Some("has a control character in its name");
    }
    if name.starts_with(TEMPORARY.as_bytes()) {
        return Some("has a name that is kept for the agent's temporary files");
    }
    let plain = undisguised(name);
    if plain == b".git" || plain == b"git~1" {
        return Some("is a disguise of .git");
    }
    if depth == 0 && plain == b".temp" {
        return Some("is where the agent keeps its records, and may not be committed");
    }
    None
}

/// The name as the least careful file system reads it: in lower case, without the characters that
/// HFS+ ignores, without an NTFS stream (`:…`) and without the dots and spaces that NTFS drops.
fn undisguised(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        let visible: String = chunk.valid().chars().filter(|&c| !hfs_ignores(c)).collect();
        plain.extend_from_slice(visible.as_bytes());
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

/// The code points that HFS+ leaves out when it compares names (Apple TN1150; the same list as in
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
