//! STOMP frames as bytes, versions 1.0 to 1.2: a frame is written in one piece and read from pieces of
//! any size. Knows no connection and no broker. What a broker relays was written by whoever may
//! publish: nothing in it makes the reader panic or grow, and little in it ends the session.
//!
//! Source: <https://stomp.github.io/stomp-specification-1.2.html>; where brokers differ from it, the
//! comment says how.

use std::fmt;
use std::mem;

/// How much of a body is kept, in bytes; the rest of a longer one is read past.
pub const KEPT_BODY: usize = 64 << 10;
/// How many headers are kept; the rest is read past, but never the first of one that we look at.
pub const KEPT_HEADERS: usize = 32;
/// The longest line of a head that is kept, in bytes; a longer header is read past.
pub const KEPT_LINE: usize = 8 << 10;
/// The longest head, in bytes: brokers relay what whoever publishes puts into one.
pub const LONGEST_HEAD: usize = 128 << 20;
/// The longest body, in bytes: more than any broker takes as it comes.
pub const LONGEST_BODY: usize = 128 << 20;
/// The longest command, in bytes; the longest that there is has 11.
const LONGEST_COMMAND: usize = 32;

const CONTENT_LENGTH: &str = "content-length";
/// The headers that we look at: there is a place for each, however many come before it.
const OURS: [&str; 6] =
    ["subscription", "subject", "message", "version", "heart-beat", "receipt-id"];

/// A version of the protocol. They differ in what is escaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Nothing is escaped. Also what is spoken before the two sides agree.
    #[default]
    V10,
    /// Line feed, colon and backslash are.
    V11,
    /// Carriage return is, too.
    V12,
}

impl Version {
    /// What a broker calls it; the oldest where it does not say.
    pub fn named(name: Option<&str>) -> Self {
        match name {
            Some("1.2") => Self::V12,
            Some("1.1") => Self::V11,
            _ => Self::V10,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Such as `SEND`.
    pub command: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body; of a frame that was read, at most [`KEPT_BODY`] bytes of it.
    pub body: Vec<u8>,
}

/// What comes over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An empty line between frames: the other side is alive.
    Beat,
    /// A frame.
    Frame(Frame),
}

/// Why a frame cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsendable {
    /// The header.
    name: String,
    /// What is wrong with it, as the end of a sentence.
    why: &'static str,
}

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header \"{}\" cannot be sent: {}", self.name.escape_debug(), self.why)
    }
}

impl std::error::Error for Unsendable {}

/// Why what came is no STOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStomp {
    /// No frame begins like that.
    Command(Vec<u8>),
    /// A line of the head is none.
    Header(&'static str),
    /// The length of the body is no number.
    Length,
    /// The body does not end where its length says.
    Unended,
    /// Something is longer than anything that a broker sends: what, and how many bytes it may have.
    TooLong(&'static str, usize),
}

impl fmt::Display for NotStomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(bytes) => {
                let shown = bytes.escape_ascii();
                write!(f, "what came is no STOMP: it begins with \"{shown}\"")
            }
            Self::Header(why) => write!(f, "what came is no STOMP: {why}"),
            Self::Length => f.write_str("what came is no STOMP: its length is no number"),
            Self::Unended => {
                f.write_str("what came is no STOMP: the body does not end where its length says")
            }
            Self::TooLong(what, most) => write!(f, "a {what} of more than {most} bytes came"),
        }
    }
}

impl std::error::Error for NotStomp {}

impl Frame {
    /// A frame without headers and body.
    pub fn new(command: &str) -> Self {
        Self { command: command.to_owned(), ..Self::default() }
    }

    /// This with one header more.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The header `name`; of repeated ones the first counts.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As bytes. The length of the body is written only where it is needed, because it makes a message
    /// of bytes out of one of text for those who listen through JMS.
    ///
    /// # Errors
    /// When a header holds what this version cannot say.
    pub fn encode(&self, version: Version) -> Result<Vec<u8>, Unsendable> {
        let mut bytes = Vec::with_capacity(self.body.len() + 256);
        bytes.extend_from_slice(self.command.as_bytes());
        bytes.push(b'\n');
        let escapes = Escapes::of(self.command.as_bytes(), version);
        for (name, value) in &self.headers {
            let refused = |why| Unsendable { name: name.clone(), why };
            if name.is_empty() {
                return Err(refused("it has no name"));
            }
            escapes.write(name, Part::Name, &mut bytes).map_err(refused)?;
            bytes.push(b':');
            escapes.write(value, Part::Value, &mut bytes).map_err(refused)?;
            bytes.push(b'\n');
        }
        if self.body.contains(&0) {
            bytes.extend_from_slice(format!("{CONTENT_LENGTH}:{}\n", self.body.len()).as_bytes());
        }
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.body);
        bytes.push(0);
        Ok(bytes)
    }
}

/// A part of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Value,
}

/// What is escaped in a head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// Nothing.
    None,
    /// Backslashes alone. Before the two sides agree on a version nothing is, says the standard; but
    /// RabbitMQ unescapes what it is sent, and ActiveMQ takes both.
    Backslash,
    /// Line feed, colon, backslash.
    Some,
    /// Carriage return as well.
    All,
}

impl Escapes {
    fn of(command: &[u8], version: Version) -> Self {
        match (command, version) {
            (b"CONNECT" | b"STOMP", _) => Self::Backslash,
            (b"CONNECTED", _) | (_, Version::V10) => Self::None,
            (_, Version::V11) => Self::Some,
            (_, Version::V12) => Self::All,
        }
    }

    fn write(self, text: &str, part: Part, into: &mut Vec<u8>) -> Result<(), &'static str> {
        let plain = matches!(self, Self::None | Self::Backslash);
        for byte in text.bytes() {
            match byte {
                0 => return Err("there is a NUL in it"),
                // They would end the line, and what follows would be another header.
                b'\n' | b'\r' if plain => return Err("there is the end of a line in it"),
                b':' if plain && part == Part::Name => return Err("there is a colon in its name"),
                b'\r' if self == Self::Some => return Err("there is a carriage return in it"),
                b'\\' if self != Self::None => into.extend_from_slice(b"\\\\"),
                b'\n' => into.extend_from_slice(b"\\n"),
                b'\r' => into.extend_from_slice(b"\\r"),
                b':' if !plain => into.extend_from_slice(b"\\c"),
                byte => into.push(byte),
            }
        }
        Ok(())
    }

    /// Strictly by the standard, but for `\r`, which brokers write in version 1.1 as well.
    fn read(self, bytes: &[u8]) -> Result<String, NotStomp> {
        let mut plain = Vec::with_capacity(bytes.len());
        let mut rest = bytes.iter();
        while let Some(&byte) = rest.next() {
            if byte != b'\\' || matches!(self, Self::None | Self::Backslash) {
                // Nobody may write a NUL there; brokers relay it all the same, and the line goes on.
                match byte {
                    0 => plain.extend_from_slice("\u{fffd}".as_bytes()),
                    byte => plain.push(byte),
                }
                continue;
            }
            plain.push(match rest.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'c') => b':',
                Some(b'\\') => b'\\',
                _ => return Err(NotStomp::Header("a header has an escape that there is not")),
            });
        }
        // RabbitMQ relays what is no UTF-8, and that is no reason to leave.
        Ok(String::from_utf8_lossy(&plain).into_owned())
    }
}

/// Reads frames from the pieces in which they come.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What the two sides agreed on.
    pub version: Version,
    stage: Stage,
    /// The line of the head that has begun.
    line: Line,
    /// How many bytes of this frame's head came.
    head: usize,
}

#[derive(Debug, Default)]
enum Stage {
    /// Between two frames.
    #[default]
    Between,
    /// The headers of this frame come, with the length of its body as far as it is known.
    Head(Frame, Option<usize>),
    /// Its body comes, of which so many bytes are still missing.
    Measured(Frame, usize),
    /// Its body comes, which ends with a NUL; so many bytes came.
    Open(Frame, usize),
}

/// A line that comes in pieces.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl Line {
    fn push(&mut self, piece: &[u8]) {
        let room = KEPT_LINE.saturating_sub(self.bytes.len());
        self.is_too_long |= piece.len() > room;
        self.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

impl Decoder {
    /// Takes bytes off the front of `input` until an item is complete; `None`: all of them were taken,
    /// and more are needed.
    ///
    /// # Errors
    /// When what came is no STOMP; what comes after it makes no sense either.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Item>, NotStomp> {
        while !input.is_empty() {
            let item = match mem::take(&mut self.stage) {
                Stage::Between => self.begin(input)?,
                Stage::Head(frame, length) => self.header(frame, length, input)?,
                Stage::Measured(frame, missing) => self.measured(frame, missing, input)?,
                Stage::Open(frame, came) => self.open(frame, came, input)?,
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// The next line of the head, once it is whole.
    fn line(&mut self, input: &mut &[u8]) -> Result<Option<Line>, NotStomp> {
        let end = input.iter().position(|&byte| byte == b'\n');
        let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
        self.head += piece.len();
        if self.head > LONGEST_HEAD {
            return Err(NotStomp::TooLong("head", LONGEST_HEAD));
        }
        self.line.push(piece);
        *input = rest.get(1..).unwrap_or_default();
        if end.is_none() {
            return Ok(None);
        }
        let mut line = mem::take(&mut self.line);
        if line.bytes.last() == Some(&b'\r') && !line.is_too_long {
            line.bytes.pop();
        }
        Ok(Some(line))
    }

    fn begin(&mut self, input: &mut &[u8]) -> Result<Option<Item>, NotStomp> {
        let line = self.line(input)?;
        let command = line.as_ref().unwrap_or(&self.line);
        // Without its end, a carriage return may be a part of that.
        let letters = match line {
            Some(_) => command.bytes.as_slice(),
            None => command.bytes.strip_suffix(b"\r").unwrap_or(&command.bytes),
        };
        if letters.len() > LONGEST_COMMAND || !letters.iter().all(u8::is_ascii_uppercase) {
            return Err(NotStomp::Command(letters.iter().take(LONGEST_COMMAND).copied().collect()));
        }
        let Some(line) = line else { return Ok(None) };
        if line.bytes.is_empty() {
            self.head = 0;
            return Ok(Some(Item::Beat));
        }
        let command = String::from_utf8_lossy(&line.bytes).into_owned();
        self.stage = Stage::Head(Frame { command, ..Frame::default() }, None);
        Ok(None)
    }

    fn header(
        &mut self,
        mut frame: Frame,
        mut length: Option<usize>,
        input: &mut &[u8],
    ) -> Result<Option<Item>, NotStomp> {
        let Some(line) = self.line(input)? else {
            self.stage = Stage::Head(frame, length);
            return Ok(None);
        };
        if line.bytes.is_empty() {
            self.head = 0;
            self.stage = match length {
                Some(length) => Stage::Measured(frame, length),
                None => Stage::Open(frame, 0),
            };
            return Ok(None);
        }
        if !line.is_too_long {
            let colon = line.bytes.iter().position(|&byte| byte == b':');
            let (name, value) =
                line.bytes.split_at(colon.ok_or(NotStomp::Header("a header has no colon"))?);
            let escapes = Escapes::of(frame.command.as_bytes(), self.version);
            let name = escapes.read(name)?;
            let value = escapes.read(value.get(1..).unwrap_or_default())?;
            if name == CONTENT_LENGTH && length.is_none() {
                let said: usize = value.trim().parse().map_err(|_| NotStomp::Length)?;
                if said > LONGEST_BODY {
                    return Err(NotStomp::TooLong("body", LONGEST_BODY));
                }
                length = Some(said);
            }
            let is_ours = OURS.contains(&name.as_str()) && frame.header(&name).is_none();
            let places = KEPT_HEADERS - if is_ours { 0 } else { OURS.len() };
            if frame.headers.len() < places {
                frame.headers.push((name, value));
            }
        }
        self.stage = Stage::Head(frame, length);
        Ok(None)
    }

    fn measured(
        &mut self,
        mut frame: Frame,
        missing: usize,
        input: &mut &[u8],
    ) -> Result<Option<Item>, NotStomp> {
        let (piece, rest) = input.split_at(missing.min(input.len()));
        keep(&mut frame.body, piece);
        *input = rest;
        let missing = missing - piece.len();
        let Some((&end, rest)) = rest.split_first() else {
            self.stage = Stage::Measured(frame, missing);
            return Ok(None);
        };
        if end != 0 {
            return Err(NotStomp::Unended);
        }
        *input = rest;
        Ok(Some(Item::Frame(frame)))
    }

    fn open(
        &mut self,
        mut frame: Frame,
        came: usize,
        input: &mut &[u8],
    ) -> Result<Option<Item>, NotStomp> {
        let end = input.iter().position(|&byte| byte == 0);
        let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
        keep(&mut frame.body, piece);
        *input = rest.get(1..).unwrap_or_default();
        if end.is_some() {
            return Ok(Some(Item::Frame(frame)));
        }
        let came = came + piece.len();
        if came > LONGEST_BODY {
            return Err(NotStomp::TooLong("body", LONGEST_BODY));
        }
        self.stage = Stage::Open(frame, came);
        Ok(None)
    }
}

fn keep(body: &mut Vec<u8>, piece: &[u8]) {
    let room = KEPT_BODY.saturating_sub(body.len());
    body.extend_from_slice(&piece[..piece.len().min(room)]);
}

#[cfg(test)]
mod tests;
