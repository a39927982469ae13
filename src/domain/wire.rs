//! The wire as bytes: pkt-lines, and the requests of git's protocol versions 2 and 0. What servers
//! list is read in `refs`, what they send of a fetch in `answers`. Knows no transport: the same
//! bytes go over https, ssh and git://.

use std::fmt;

use super::git::Commit;
use super::remote::Format;

mod answers;
mod refs;

pub use answers::{Answers, Part};
pub use refs::{
    Advertisement, Advertising, Capabilities, Listed, Version, answer, every, ls_refs, prefixes,
    read_advertisement, read_ls_refs, ref_name,
};

/// The longest pkt-line, in bytes, its own length included.
pub const CAP: usize = 65_520;

/// What we are called, which servers write into their logs.
const AGENT: &str = concat!("agent=pmpy/", env!("CARGO_PKG_VERSION"));

/// One pkt-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A line, or a piece of a pack.
    Data(&'a [u8]),
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: between the sections of a message.
    Delimiter,
    /// `0002`: the end of an answer over a stateless connection.
    ResponseEnd,
}

/// Bytes that are no pkt-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// These stand where four hexadecimal digits tell the length.
    NoLength([u8; 4]),
    /// It tells a length that no pkt-line has.
    Length(usize),
}

impl fmt::Display for BadPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLength(bytes) => {
                write!(f, "\"{}\" stands where a packet begins", bytes.escape_ascii())
            }
            Self::Length(length) => write!(f, "a packet of {length} bytes cannot be"),
        }
    }
}

impl std::error::Error for BadPacket {}

/// Splits the next packet off `bytes`, with how many of them it takes; `None`: more are needed.
///
/// # Errors
/// When no packet begins like that.
pub fn next_packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, BadPacket> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let mut length = 0;
    for &byte in head {
        let digit = char::from(byte).to_digit(16).ok_or(BadPacket::NoLength(*head))?;
        length = length * 16 + digit as usize;
    }
    Ok(match length {
        0 => Some((Packet::Flush, 4)),
        1 => Some((Packet::Delimiter, 4)),
        2 => Some((Packet::ResponseEnd, 4)),
        3 => return Err(BadPacket::Length(length)),
        4..=CAP => bytes.get(4..length).map(|data| (Packet::Data(data), length)),
        _ => return Err(BadPacket::Length(length)),
    })
}

/// The most commits that a server may say to be without their parents there. Whoever walks the history
/// afterwards looks at each of them.
pub const MOST_EDGES: usize = 100_000;

/// Why what came is no answer of a git server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAnAnswer {
    /// Nothing came at all.
    Empty,
    /// Something else came: what, as the end of a sentence that begins with "it".
    NotThis(String),
    /// The server refuses, in its own words, escaped and cut.
    Told(String),
}

impl NotAnAnswer {
    /// It has more than [`MOST_EDGES`].
    pub fn too_many_edges() -> Self {
        Self::NotThis(format!("names more than {MOST_EDGES} commits without their parents"))
    }

    /// The server's own words, made fit to be shown.
    fn told(words: &[u8]) -> Self {
        Self::Told(shown(words, 300))
    }

    /// Whether a wanted revision is no longer to be had there: the branch moved since it was asked
    /// for.
    pub fn is_moved(&self) -> bool {
        matches!(self, Self::Told(words) if words.contains("not our ref"))
    }
}

impl fmt::Display for NotAnAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it answers nothing"),
            Self::NotThis(what) => write!(f, "it {what}"),
            Self::Told(words) => write!(f, "it says: {words}"),
        }
    }
}

impl std::error::Error for NotAnAnswer {}

impl From<BadPacket> for NotAnAnswer {
    fn from(bad: BadPacket) -> Self {
        Self::NotThis(format!("does not speak git's protocol: {bad}"))
    }
}

/// Foreign bytes as at most `most` characters of one line that cannot move a cursor.
fn shown(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..4 * most).unwrap_or(bytes));
    text.trim().chars().take(most).collect::<String>().escape_debug().to_string()
}

/// What to fetch, as it is asked for in one message: everything that is here is named at once, and
/// the server answers with the pack.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// By which hash both sides name objects.
    pub format: Format,
    /// The revisions to get.
    pub wants: &'a [Commit],
    /// Revisions that are here, with all that they contain.
    pub haves: &'a [Commit],
    /// Revisions that are here without their parents.
    pub shallow: &'a [Commit],
    /// How many commits of history to get; 0: all.
    pub depth: u32,
}

impl Request<'_> {
    /// For a server of protocol version 2.
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

    /// For a server of protocol version 0 that can do what `capabilities` say.
    pub fn v0(&self, capabilities: &Capabilities) -> Vec<u8> {
        let mut asked: String = ["side-band-64k", "ofs-delta", "thin-pack", "no-progress"]
            .iter()
            .filter(|name| capabilities.has(name))
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
        if self.depth > 0 {
            put(&mut out, &format!("deepen {}", self.depth));
        }
        out.extend_from_slice(b"0000");
        put_each(&mut out, "have", self.haves);
        put(&mut out, "done");
        out
    }
}

/// What every command of version 2 says about the session, and the delimiter behind it. Servers take
/// SHA-1 for granted, and those older than git 2.28 refuse to be told of it.
fn put_session(out: &mut Vec<u8>, format: Format) {
    put(out, AGENT);
    if format != Format::Sha1 {
        put(out, &format!("object-format={}", name_of(format)));
    }
    out.extend_from_slice(b"0001");
}

fn put_each(out: &mut Vec<u8>, word: &str, commits: &[Commit]) {
    for commit in commits {
        put(out, &format!("{word} {commit}"));
    }
}

/// Appends `text` as one line. Ours are short: the longest holds a branch name.
fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:04x}{text}\n", text.len() + 5).as_bytes());
}

/// The name of a hash on the wire.
fn name_of(format: Format) -> &'static str {
    match format {
        Format::Sha1 => "sha1",
        Format::Sha256 => "sha256",
    }
}

#[cfg(test)]
mod tests;
