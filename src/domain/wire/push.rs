//! A push of refs, sent without waiting for what the server lists: the commands and the pack in one message, and
//! the server's report. The old id makes it a compare-and-swap: a ref that has moved is never overwritten. The format
//! is that of gitprotocol-pack(5).

use std::collections::BTreeMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use ring::digest::{self, digest};

use super::{AGENT, Capabilities, Packet, ProtocolError, name_of, next_packet, printable, put};
use crate::domain::git::{Commit, ObjectFormat, ObjectId};
use crate::domain::text::hexadecimal;

/// The beginning of the reason when the server could not take the pack.
pub const NOT_UNPACKED: &str = "its unpacking failed";
/// Words in a server's reason that no repetition changes.
const POLICIES: [&str; 6] =
    ["non-fast-forward", "hook declined", "prohibited", "denied", "protected", "not allowed"];
/// The most characters of a server's reason.
const MOST_OF_A_REASON: usize = 200;

/// A new commit with one file, as git's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCommit {
    /// The id of the commit.
    pub id: Commit,
    /// The contents of the objects, in the order commit, tree, blob.
    objects: [(PackedKind, Vec<u8>); 3],
    format: ObjectFormat,
}

/// The type of an object, as its number in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackedKind {
    Commit = 1,
    Tree = 2,
    Blob = 3,
}

/// The content of a commit with one file.
#[derive(Clone, Copy, Debug)]
pub struct FileCommitText<'a> {
    /// The name of the file.
    pub file: &'a str,
    /// The content of the file.
    pub content: &'a [u8],
    /// The parent; `None`: a commit without history.
    pub parent: Option<Commit>,
    /// The author, such as `agent <agent@web01>`.
    pub author: &'a str,
    /// The time of the commit, in seconds since 1970.
    pub seconds: i64,
    /// The message.
    pub message: &'a str,
}

impl FileCommit {
    /// The objects of `text` in a repository that names objects by `format`; `None`: a digest is no id, which does not
    /// happen.
    pub fn new(format: ObjectFormat, text: &FileCommitText) -> Option<Self> {
        let blob = text.content.to_vec();
        let mut tree = format!("100644 {}\0", text.file).into_bytes();
        tree.extend_from_slice(object_id(format, "blob", &blob).as_ref());
        let tree_id = hexadecimal(object_id(format, "tree", &tree).as_ref());
        let parent = text.parent.map_or_else(String::new, |parent| format!("parent {parent}\n"));
        let FileCommitText { author, seconds, message, .. } = text;
        let commit = format!(
            "tree {tree_id}\n{parent}author {author} {seconds} +0000\n\
             committer {author} {seconds} +0000\n\n{message}\n"
        )
        .into_bytes();
        let id = object_id(format, "commit", &commit);
        let objects =
            [(PackedKind::Commit, commit), (PackedKind::Tree, tree), (PackedKind::Blob, blob)];
        let id = Commit(ObjectId::from_bytes(id.as_ref())?);
        Some(Self { id, objects, format })
    }

    /// The object format.
    pub fn format(&self) -> ObjectFormat {
        self.format
    }

    /// The objects for a store that takes them one by one: the type's word and the content, with what each refers to
    /// before it.
    pub fn objects(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.objects.iter().rev().map(|(kind, content)| (kind.word(), content.as_slice()))
    }

    /// The objects as a pack.
    ///
    /// # Errors
    /// When they cannot be compressed, which does not happen in memory.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend_from_slice(&(self.objects.len() as u32).to_be_bytes());
        for (kind, content) in &self.objects {
            put_entry_head(&mut pack, *kind, content.len());
            let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
            packed.write_all(content)?;
            pack.extend_from_slice(&packed.finish()?);
        }
        let checksum = digest(algorithm(self.format), &pack);
        pack.extend_from_slice(checksum.as_ref());
        Ok(pack)
    }
}

impl PackedKind {
    fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
        }
    }
}

/// Appends type and size of an object: four bits of the size in the first byte, seven in each one after it.
fn put_entry_head(pack: &mut Vec<u8>, kind: PackedKind, size: usize) {
    let mut byte = ((kind as u8) << 4) | (size & 0x0f) as u8;
    let mut rest = size >> 4;
    while rest > 0 {
        pack.push(byte | 0x80);
        byte = (rest & 0x7f) as u8;
        rest >>= 7;
    }
    pack.push(byte);
}

fn algorithm(format: ObjectFormat) -> &'static digest::Algorithm {
    match format {
        ObjectFormat::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        ObjectFormat::Sha256 => &digest::SHA256,
    }
}

fn object_id(format: ObjectFormat, word: &str, content: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(algorithm(format));
    context.update(format!("{word} {}\0", content.len()).as_bytes());
    context.update(content);
    context.finish()
}

/// One change of a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefChange<'a> {
    /// The full name of the ref.
    pub name: &'a str,
    /// Where it has to be; `None`: it must not exist.
    pub old: Option<Commit>,
    /// Where it is to be; `None`: it is removed.
    pub new: Option<Commit>,
}

/// The message for git-receive-pack with `changes`, each of which succeeds or fails by itself, and the `pack` that they
/// need; removals need none. `offered` are the capabilities of a server that was asked for them; `None`: it was not
/// asked.
pub fn push_request(
    format: ObjectFormat,
    changes: &[RefChange],
    pack: &[u8],
    offered: Option<&Capabilities>,
) -> Vec<u8> {
    let zero = "0".repeat(2 * format.id_length());
    let id = |id: Option<Commit>| id.map_or_else(|| zero.clone(), |id| id.to_string());
    let has = |name: &str| offered.is_none_or(|offered| offered.has(name));
    let mut asked = " report-status".to_owned();
    if format != ObjectFormat::Sha1 && has("object-format") {
        asked += &format!(" object-format={}", name_of(format));
    }
    if has("agent") {
        asked += &format!(" {AGENT}");
    }
    let mut out = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        let command = format!("{} {} {}", id(change.old), id(change.new), change.name);
        let asked = if number == 0 { format!("\0{asked}") } else { String::new() };
        put(&mut out, &(command + &asked));
    }
    out.extend_from_slice(b"0000");
    // Where nothing but removals is asked for, the server waits for no pack.
    if changes.iter().any(|change| change.new.is_some()) {
        out.extend_from_slice(pack);
    }
    out
}

/// What a server did with a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The ref is where it is to be.
    Done,
    /// The ref was not changed, for this reason of the server's, which is escaped for display.
    Rejected(String),
}

/// Whether a rule of the server's is the reason `why` for which it changed nothing: the next push ends as this one.
pub fn is_policy(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    why.starts_with(NOT_UNPACKED) || POLICIES.iter().any(|word| why.contains(word))
}

/// The number of bytes of the report at the beginning of `bytes`; `None`: more are needed.
///
/// # Errors
/// When they are no packets.
pub fn report_length(bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
    let mut length = 0;
    while let Some((packet, more)) = next_packet(bytes.get(length..).unwrap_or_default())? {
        length += more;
        if packet == Packet::Flush {
            return Ok(Some(length));
        }
    }
    Ok(None)
}

/// The outcome for each of the refs `names`, in their order, by the server's report.
///
/// # Errors
/// When `report` is none, or does not name each of them.
pub fn read_report(report: &[u8], names: &[&str]) -> Result<Vec<PushOutcome>, ProtocolError> {
    let mut rest = report;
    let mut unpacked = None;
    let mut outcomes: BTreeMap<&[u8], PushOutcome> = BTreeMap::new();
    if report.is_empty() {
        return Err(ProtocolError::Empty);
    }
    loop {
        let Some((packet, length)) = next_packet(rest)? else {
            return Err(ProtocolError::NotThis("stops in the middle of its report".to_owned()));
        };
        rest = rest.get(length..).unwrap_or_default();
        let Packet::Data(line) = packet else { break };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let words = |words: &[u8]| printable(words, MOST_OF_A_REASON);
        if let Some(message) = line.strip_prefix(b"ERR ") {
            return Err(ProtocolError::from_server(message));
        } else if let Some(unpack) = line.strip_prefix(b"unpack ") {
            unpacked = (unpack != b"ok").then(|| format!("{NOT_UNPACKED}: {}", words(unpack)));
        } else if let Some(name) = line.strip_prefix(b"ok ") {
            outcomes.insert(name, PushOutcome::Done);
        } else if let Some(refused) = line.strip_prefix(b"ng ") {
            // No ref has a space in its name.
            let end = refused.iter().position(|&byte| byte == b' ').unwrap_or(refused.len());
            let (name, reason) = refused.split_at(end);
            outcomes.insert(name, PushOutcome::Rejected(words(reason)));
        }
    }
    let outcome = |name: &&str| match (&unpacked, outcomes.get(name.as_bytes())) {
        (Some(why), _) => Ok(PushOutcome::Rejected(why.clone())),
        (None, Some(outcome)) => Ok(outcome.clone()),
        (None, None) => Err(ProtocolError::NotThis("does not report on the push".to_owned())),
    };
    names.iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(format: ObjectFormat) -> FileCommit {
        let text = FileCommitText {
            file: "status.json",
            content: b"{}\n",
            parent: None,
            author: "agent <agent@web01>",
            seconds: 1_764_500_000,
            message: "no repository",
        };
        FileCommit::new(format, &text).unwrap()
    }

    fn pkt(text: &str) -> Vec<u8> {
        format!("{:04x}{text}", text.len() + 4).into_bytes()
    }

    fn report(lines: &[&str]) -> Vec<u8> {
        [lines.iter().flat_map(|line| pkt(line)).collect(), b"0000".to_vec()].concat()
    }

    const REF: &str = "refs/heads/web01/state";

    #[test]
    fn the_ids_of_objects_are_git_s() {
        // git hash-object, of the blob of "{}\n".
        let blob = object_id(ObjectFormat::Sha1, "blob", b"{}\n");
        assert_eq!(hexadecimal(blob.as_ref()), "0967ef424bce6791893e9a57bb952f80fd536e93");
        assert_eq!(commit(ObjectFormat::Sha1).id.0.as_bytes().len(), 20);
        assert_eq!(commit(ObjectFormat::Sha256).id.0.as_bytes().len(), 32);
    }

    #[test]
    fn a_request_is_one_message_with_a_compare_and_swap() {
        let commit = commit(ObjectFormat::Sha1);
        let change = RefChange { name: REF, old: None, new: Some(commit.id) };
        let request = push_request(ObjectFormat::Sha1, &[change], b"PACK", None);
        let text = String::from_utf8(request).unwrap();
        let zeros = "0".repeat(40);
        let expected = format!("{zeros} {} {REF}\0 report-status agent=pmpy/", commit.id);
        assert_eq!(text.get(4..4 + expected.len()), Some(expected.as_str()));
        assert!(text.ends_with("0000PACK"));
    }

    #[test]
    fn a_lock_is_no_rule_and_a_rule_is_no_lock() {
        // What git 2.39 and 2.47 say while another push holds a lock, with refs as files and as a reftable.
        for why in
            ["failed to update ref", "cannot lock references", "fetch first", "unknown error"]
        {
            assert!(!is_policy(why), "{why}");
        }
        for why in
            ["pre-receive hook declined", "deletion prohibited", "non-fast-forward", "Protected"]
        {
            assert!(is_policy(why), "{why}");
        }
    }

    #[test]
    fn removals_are_one_message_without_a_pack_and_each_has_its_own_outcome() {
        let id = commit(ObjectFormat::Sha1).id;
        let other = "refs/heads/web02/state";
        let changes = [REF, other].map(|name| RefChange { name, old: Some(id), new: None });
        let request = push_request(ObjectFormat::Sha1, &changes, b"", None);
        let text = String::from_utf8(request).unwrap();
        let zeros = "0".repeat(40);
        let [first, second] = [REF, other].map(|name| format!("{id} {zeros} {name}"));
        assert!(text.contains(&format!("{first}\0 report-status")), "{text:?}");
        assert!(text.ends_with(&format!("{:04x}{second}\n0000", second.len() + 5)), "{text:?}");
        let ng = format!("ng {other} deletion prohibited\n");
        let said = report(&["unpack ok\n", &ng, &format!("ok {REF}\n")]);
        let rejected = PushOutcome::Rejected("deletion prohibited".to_owned());
        assert_eq!(read_report(&said, &[REF, other]), Ok(vec![PushOutcome::Done, rejected]));
        assert!(read_report(&said, &[REF, "refs/heads/web03/state"]).is_err());
    }

    #[test]
    fn a_report_says_what_became_of_the_ref() {
        let one = |bytes: &[u8]| read_report(bytes, &[REF]).map(|mut all| all.remove(0));
        let read = |lines: &[&str]| one(&report(lines));
        let ok = format!("ok {REF}\n");
        assert_eq!(read(&["unpack ok\n", &ok]), Ok(PushOutcome::Done));
        let ng = format!("ng {REF} failed to update ref\n");
        let rejected = PushOutcome::Rejected("failed to update ref".to_owned());
        assert_eq!(read(&["unpack ok\n", &ng]), Ok(rejected));
        let full = read(&["unpack unpacker error\n", &ok]);
        assert!(matches!(full, Ok(PushOutcome::Rejected(why)) if why.contains("unpacker error")));
        assert!(read(&["unpack ok\n"]).is_err(), "it does not name the ref");
        assert!(read(&["unpack ok\n", "ok refs/heads/web011/state\n"]).is_err());
        assert!(one(b"").is_err());
        assert!(one(b"<html>").is_err());
        assert!(one(&pkt("unpack ok\n")).is_err(), "it breaks off");
        let hostile = format!("ng {REF} \u{1b}[2J{}\n", "x".repeat(5000));
        match read(&[&hostile]) {
            Ok(PushOutcome::Rejected(why)) => assert!(!why.contains('\u{1b}') && why.len() < 300),
            other => panic!("{other:?}"),
        }
    }
}
