//! Git's wire protocol as bytes: pkt-lines, and the requests of protocol versions 2 and 0. `refs` reads
//! ref lists, `answers` reads answers to a fetch. Knows no transport: the same bytes are used over
//! https, ssh and git://.

use std::fmt;

use super::git::{Commit, ObjectFormat};
use crate::domain::text::EscapeControls;

mod answers;
pub mod pack;
pub mod push;
mod refs;

pub use answers::{FetchParser, FetchPart};
pub use refs::{
    AdvertisedRef, Advertisement, AdvertisementParser, Capabilities, ProtocolVersion, RefQuery,
    RefsAnswer, answer, chosen_tag, ls_refs, read_advertisement, read_ls_refs, ref_name,
    selected_refs,
};

/// The longest pkt-line in bytes, including its length field.
pub const CAP: usize = 65_520;

/// Our agent string, which servers write into their logs.
const AGENT: &str = concat!("agent=pmpy/", env!("CARGO_PKG_VERSION"));

/// How a message of Azure DevOps about a missing object begins.
const AZURE_MISSING: &str = "TF401035";

/// One pkt-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A line, or a piece of a pack.
    Data(&'a [u8]),
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the delimiter between the sections of a message.
    Delimiter,
    /// `0002`: the end of an answer over a stateless connection.
    ResponseEnd,
}

/// The error for bytes that are no pkt-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// These four bytes are no hexadecimal length.
    NoLength([u8; 4]),
    /// The length is none that a pkt-line can have.
    Length(usize),
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLength(bytes) => {
                write!(f, "\"{}\" is not the length of a packet", bytes.escape_ascii())
            }
            Self::Length(length) => write!(f, "a packet cannot have {length} bytes"),
        }
    }
}

impl std::error::Error for PacketError {}

/// Splits the next packet off `bytes` and counts its bytes; `None`: more bytes are needed.
///
/// # Errors
/// The bytes do not begin with a packet.
pub fn next_packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, PacketError> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let mut length = 0;
    for &byte in head {
        let digit = char::from(byte).to_digit(16).ok_or(PacketError::NoLength(*head))?;
        length = length * 16 + digit as usize;
    }
    Ok(match length {
        0 => Some((Packet::Flush, 4)),
        1 => Some((Packet::Delimiter, 4)),
        2 => Some((Packet::ResponseEnd, 4)),
        3 => return Err(PacketError::Length(length)),
        4..=CAP => bytes.get(4..length).map(|data| (Packet::Data(data), length)),
        _ => return Err(PacketError::Length(length)),
    })
}

/// The limit of shallow commits (without their parents) that a server may name. Every later walk through
/// the history visits each of them.
pub const MOST_EDGES: usize = 100_000;

/// The error for bytes that are no valid answer of a git server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The answer is empty.
    Empty,
    /// The answer is something else: the end of a sentence that begins with "it".
    NotThis(String),
    /// The server refuses: its message, escaped and cut.
    ServerMessage(String),
}

impl ProtocolError {
    /// The error for more than [`MOST_EDGES`] shallow commits.
    pub fn too_many_edges() -> Self {
        Self::NotThis(format!("names more than {MOST_EDGES} commits without their parents"))
    }

    /// The error with the server's message, escaped for display.
    fn from_server(words: &[u8]) -> Self {
        Self::ServerMessage(printable(words, 300))
    }

    /// Returns `true` if the server no longer has a wanted revision: the branch moved after the poll.
    pub fn is_moved(&self) -> bool {
        let Self::ServerMessage(words) = self else { return false };
        // In the words of git, JGit and Azure DevOps.
        words.contains("not our ref")
            || (words.contains("want ") && words.contains(" not valid"))
            || words.contains(AZURE_MISSING)
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it sends an empty error"),
            Self::NotThis(what) => write!(f, "it {what}"),
            Self::ServerMessage(words) => write!(f, "it says: {words}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl From<PacketError> for ProtocolError {
    fn from(bad: PacketError) -> Self {
        Self::NotThis(format!("does not speak git's protocol: {bad}"))
    }
}

/// Foreign bytes as at most `most` characters of one line, without control characters.
fn printable(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..4 * most).unwrap_or(bytes));
    text.trim().chars().take(most).collect::<String>().escape_controls()
}

/// A fetch request, sent in one message: it names all local revisions at once, and the server answers
/// with the pack.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest<'a> {
    /// The object format of both sides.
    pub format: ObjectFormat,
    /// The revisions to fetch.
    pub wants: &'a [Commit],
    /// Local revisions that are complete.
    pub haves: &'a [Commit],
    /// Local revisions without their parents.
    pub shallow: &'a [Commit],
    /// The number of commits of history to fetch; 0: all.
    pub depth: u32,
}

impl FetchRequest<'_> {
    /// The request for a server of protocol version 2.
    pub fn v2(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, "command=fetch");
        put_session(&mut out, self.format);
        for option in ["thin-pack", "no-progress", "ofs-delta"] {
            put(&mut out, option);
        }
        put_each(&mut out, "shallow", self.shallow);
        if self.depth > 0 {
            put(&mut out, &format!("deepen {}", self.depth));
        }
        put_each(&mut out, "want", self.wants);
        put_each(&mut out, "have", self.haves);
        put(&mut out, "done");
        out.extend_from_slice(b"0000");
        out
    }

    /// The request for a server of protocol version 0 with these `capabilities`.
    pub fn v0(&self, capabilities: &Capabilities) -> Vec<u8> {
        // Some servers refuse a client that does not acknowledge more than one common commit.
        let acknowledged = capabilities.first_of(&["multi_ack_detailed", "multi_ack"]);
        let others = ["ofs-delta", "thin-pack", "no-progress"].into_iter();
        let others = others.filter(|name| capabilities.has(name));
        let mut asked: String = acknowledged
            .into_iter()
            .chain(capabilities.side_band())
            .chain(others)
            .map(|name| format!(" {name}"))
            .collect();
        if capabilities.has("object-format") {
            asked += &format!(" object-format={}", name_of(self.format));
        }
        if capabilities.has("agent") {
            asked += &format!(" {AGENT}");
        }
        let mut out = Vec::new();
        for (at, want) in self.wants.iter().enumerate() {
            put(&mut out, &format!("want {want}{}", if at == 0 { &asked } else { "" }));
        }
        put_each(&mut out, "shallow", self.shallow);
        if capabilities.depth(self.depth) > 0 {
            put(&mut out, &format!("deepen {}", self.depth));
        }
        out.extend_from_slice(b"0000");
        put_each(&mut out, "have", self.haves);
        put(&mut out, "done");
        out
    }
}

/// Appends the session part of every version 2 command, and the delimiter after it. SHA-1 is the default
/// of servers, and those older than git 2.28 reject the option that names it. Our agent string is left
/// out: a server that does not offer `agent` may reject it, and the offer is not known before the request.
fn put_session(out: &mut Vec<u8>, format: ObjectFormat) {
    if format != ObjectFormat::Sha1 {
        put(out, &format!("object-format={}", name_of(format)));
    }
    out.extend_from_slice(b"0001");
}

fn put_each(out: &mut Vec<u8>, word: &str, commits: &[Commit]) {
    for commit in commits {
        put(out, &format!("{word} {commit}"));
    }
}

/// Appends `text` as one pkt-line. Ours are short: the longest holds a branch name.
fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:04x}{text}\n", text.len() + 5).as_bytes());
}

/// The protocol's name of an object format.
fn name_of(format: ObjectFormat) -> &'static str {
    match format {
        ObjectFormat::Sha1 => "sha1",
        ObjectFormat::Sha256 => "sha256",
    }
}

#[cfg(test)]
mod tests;
