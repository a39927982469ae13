//! STOMP frames as bytes, versions 1.0 to 1.2: encodes a frame in one piece, and decodes frames from
//! pieces of any size. Knows no connection and no broker. The content of a relayed frame comes from
//! anybody who may publish: it cannot make the decoder panic or grow, and hardly ever ends the session.
//!
//! Source: <https://stomp.github.io/stomp-specification-1.2.html>; a comment marks each difference of
//! real brokers.

use std::{fmt, mem};

use crate::domain::text::EscapeControls;

/// The part of a body that is kept, in bytes; the rest is skipped.
pub const KEPT_BODY: usize = 64 << 10;
/// The number of headers that are kept; the rest is skipped, except for the first of each that we use.
pub const KEPT_HEADERS: usize = 32;
/// The longest header line that is kept, in bytes; a longer one is skipped.
pub const KEPT_LINE: usize = 8 << 10;
/// The limit of a frame's headers in bytes: brokers relay what a publisher puts there.
pub const LONGEST_HEAD: usize = 128 << 20;
/// The limit of a body in bytes: more than any broker accepts by default.
pub const LONGEST_BODY: usize = 128 << 20;
/// The limit of a command in bytes; the longest real one has 11.
const LONGEST_COMMAND: usize = 32;

const CONTENT_LENGTH: &str = "content-length";
/// The headers that we use: each has a reserved place, however many come before it.
const OURS: [&str; 6] =
    ["subscription", "subject", "message", "version", "heart-beat", "receipt-id"];

/// A version of the protocol. The versions differ in escaping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StompVersion {
    /// No escapes. Also used before the two sides agree on a version.
    #[default]
    V10,
    /// Line feed, colon and backslash are escaped.
    V11,
    /// Carriage return is escaped too.
    V12,
}

impl StompVersion {
    /// The version that a broker names; the oldest where it names none.
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
pub struct StompFrame {
    /// The command, such as `SEND`.
    pub command: String,
    /// The header names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body; for a decoded frame, at most [`KEPT_BODY`] bytes of it.
    pub body: Vec<u8>,
}

/// One item of the incoming stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StompItem {
    /// A heartbeat: an empty line between frames.
    Beat,
    /// A frame.
    Frame(StompFrame),
}

/// The reason why a frame cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    name: String,
    /// The fault, as the end of a sentence.
    why: &'static str,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header \"{}\" cannot be sent: {}", self.name.escape_controls(), self.why)
    }
}

impl std::error::Error for EncodeError {}

/// The error for input that is no STOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The input is no command; holds its first bytes.
    Command(Vec<u8>),
    /// A header line is malformed.
    Header(&'static str),
    /// The length of the body is no number.
    Length,
    /// The body does not end where its length says.
    Unended,
    /// A part exceeds its limit: its name, and the limit in bytes.
    TooLong(&'static str, usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(bytes) => {
                let shown = bytes.escape_ascii();
                write!(f, "the answer is not STOMP: it begins with \"{shown}\"")
            }
            Self::Header(why) => write!(f, "the answer is not STOMP: {why}"),
            Self::Length => f.write_str("the answer is not STOMP: its length is not a number"),
            Self::Unended => {
                f.write_str("the answer is not STOMP: the body does not end where its length says")
            }
            Self::TooLong(what, most) => {
                write!(f, "a {what} of more than {most} bytes was received")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl StompFrame {
    /// A frame without headers and body.
    pub fn new(command: &str) -> Self {
        Self { command: command.to_owned(), ..Self::default() }
    }

    /// The frame with one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The value of the header `name`; the first of repeated ones counts.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The frame as bytes. The length of the body is written only where it is needed, because with it
    /// JMS clients receive a bytes message instead of a text message.
    ///
    /// # Errors
    /// A header holds a character that this version cannot encode.
    pub fn encode(&self, version: StompVersion) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::with_capacity(self.body.len() + 256);
        bytes.extend_from_slice(self.command.as_bytes());
        bytes.push(b'\n');
        let escapes = HeaderEscapes::of(self.command.as_bytes(), version);
        for (name, value) in &self.headers {
            let refused = |why| EncodeError { name: name.clone(), why };
            if name.is_empty() {
                return Err(refused("it has no name"));
            }
            escapes.write(name, HeaderPart::Name, &mut bytes).map_err(refused)?;
            bytes.push(b':');
            escapes.write(value, HeaderPart::Value, &mut bytes).map_err(refused)?;
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderPart {
    Name,
    Value,
}

/// The characters that are escaped in headers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderEscapes {
    /// No character.
    None,
    /// Only backslashes. The standard escapes nothing before the two sides agree on a version; but
    /// RabbitMQ unescapes these headers, and ActiveMQ accepts both.
    Backslash,
    /// Line feed, colon and backslash.
    Some,
    /// Line feed, colon, backslash and carriage return.
    All,
}

impl HeaderEscapes {
    fn of(command: &[u8], version: StompVersion) -> Self {
        match (command, version) {
            (b"CONNECT" | b"STOMP", _) => Self::Backslash,
            (b"CONNECTED", _) | (_, StompVersion::V10) => Self::None,
            (_, StompVersion::V11) => Self::Some,
            (_, StompVersion::V12) => Self::All,
        }
    }

    fn write(self, text: &str, part: HeaderPart, into: &mut Vec<u8>) -> Result<(), &'static str> {
        let plain = matches!(self, Self::None | Self::Backslash);
        for byte in text.bytes() {
            match byte {
                0 => return Err("there is a NUL in it"),
                // They would end the line, and the rest would become another header.
                b'\n' | b'\r' if plain => return Err("there is the end of a line in it"),
                b':' if plain && part == HeaderPart::Name => {
                    return Err("there is a colon in its name");
                }
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

    /// Decodes strictly by the standard, except for `\r`, which brokers also write in version 1.1.
    fn read(self, bytes: &[u8]) -> Result<String, DecodeError> {
        let mut plain = Vec::with_capacity(bytes.len());
        let mut rest = bytes.iter();
        while let Some(&byte) = rest.next() {
            if byte != b'\\' || matches!(self, Self::None | Self::Backslash) {
                // A NUL is not allowed here; brokers relay it all the same, so the header is kept.
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
                _ => return Err(DecodeError::Header("a header has an unknown escape")),
            });
        }
        // RabbitMQ relays invalid UTF-8, which is no reason to end the session.
        Ok(String::from_utf8_lossy(&plain).into_owned())
    }
}

/// Decodes frames from pieces of any size.
#[derive(Debug, Default)]
pub struct StompDecoder {
    /// The negotiated version.
    pub version: StompVersion,
    stage: DecoderStage,
    /// The incomplete header line.
    line: PartialLine,
    /// The number of header bytes of this frame so far.
    head: usize,
}

#[derive(Debug, Default)]
enum DecoderStage {
    /// Between two frames.
    #[default]
    Between,
    /// Inside the headers; with the length of the body, once it is known.
    Head(StompFrame, Option<usize>),
    /// Inside a body of known length; with the number of missing bytes.
    Measured(StompFrame, usize),
    /// Inside a body that ends with a NUL; with the number of bytes so far.
    Open(StompFrame, usize),
}

/// A line that arrives in pieces.
#[derive(Debug, Default)]
struct PartialLine {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl PartialLine {
    fn push(&mut self, piece: &[u8]) {
        let room = KEPT_LINE.saturating_sub(self.bytes.len());
        self.is_too_long |= piece.len() > room;
        self.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

impl StompDecoder {
    /// Consumes bytes from the front of `input` until an item is complete; `None`: all are consumed, and
    /// more are needed.
    ///
    /// # Errors
    /// The input is no STOMP; the rest of the stream is unusable too.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<StompItem>, DecodeError> {
        while !input.is_empty() {
            let item = match mem::take(&mut self.stage) {
                DecoderStage::Between => self.begin(input)?,
                DecoderStage::Head(frame, length) => self.header(frame, length, input)?,
                DecoderStage::Measured(frame, missing) => self.measured(frame, missing, input)?,
                DecoderStage::Open(frame, came) => self.open(frame, came, input)?,
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// The next header line, once it is complete.
    fn line(&mut self, input: &mut &[u8]) -> Result<Option<PartialLine>, DecodeError> {
        let end = input.iter().position(|&byte| byte == b'\n');
        let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
        self.head += piece.len();
        if self.head > LONGEST_HEAD {
            return Err(DecodeError::TooLong("head", LONGEST_HEAD));
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

    fn begin(&mut self, input: &mut &[u8]) -> Result<Option<StompItem>, DecodeError> {
        let line = self.line(input)?;
        let command = line.as_ref().unwrap_or(&self.line);
        // A carriage return at the end of a piece may belong to the line end.
        let letters = match line {
            Some(_) => command.bytes.as_slice(),
            None => command.bytes.strip_suffix(b"\r").unwrap_or(&command.bytes),
        };
        if letters.len() > LONGEST_COMMAND || !letters.iter().all(u8::is_ascii_uppercase) {
            return Err(DecodeError::Command(
                letters.iter().take(LONGEST_COMMAND).copied().collect(),
            ));
        }
        let Some(line) = line else { return Ok(None) };
        if line.bytes.is_empty() {
            self.head = 0;
            return Ok(Some(StompItem::Beat));
        }
        let command = String::from_utf8_lossy(&line.bytes).into_owned();
        self.stage = DecoderStage::Head(StompFrame { command, ..StompFrame::default() }, None);
        Ok(None)
    }

    fn header(
        &mut self,
        mut frame: StompFrame,
        mut length: Option<usize>,
        input: &mut &[u8],
    ) -> Result<Option<StompItem>, DecodeError> {
        let Some(line) = self.line(input)? else {
            self.stage = DecoderStage::Head(frame, length);
            return Ok(None);
        };
        if line.bytes.is_empty() {
            self.head = 0;
            self.stage = match length {
                Some(length) => DecoderStage::Measured(frame, length),
                None => DecoderStage::Open(frame, 0),
            };
            return Ok(None);
        }
        if !line.is_too_long {
            let colon = line.bytes.iter().position(|&byte| byte == b':');
            let (name, value) =
                line.bytes.split_at(colon.ok_or(DecodeError::Header("a header has no colon"))?);
            let escapes = HeaderEscapes::of(frame.command.as_bytes(), self.version);
            let name = escapes.read(name)?;
            let value = escapes.read(value.get(1..).unwrap_or_default())?;
            if name == CONTENT_LENGTH && length.is_none() {
                let said: usize = value.trim().parse().map_err(|_| DecodeError::Length)?;
                if said > LONGEST_BODY {
                    return Err(DecodeError::TooLong("body", LONGEST_BODY));
                }
                length = Some(said);
            }
            let is_ours = OURS.contains(&name.as_str()) && frame.header(&name).is_none();
            let places = KEPT_HEADERS - if is_ours { 0 } else { OURS.len() };
            if frame.headers.len() < places {
                frame.headers.push((name, value));
            }
        }
        self.stage = DecoderStage::Head(frame, length);
        Ok(None)
    }

    fn measured(
        &mut self,
        mut frame: StompFrame,
        missing: usize,
        input: &mut &[u8],
    ) -> Result<Option<StompItem>, DecodeError> {
        let (piece, rest) = input.split_at(missing.min(input.len()));
        keep(&mut frame.body, piece);
        *input = rest;
        let missing = missing - piece.len();
        let Some((&end, rest)) = rest.split_first() else {
            self.stage = DecoderStage::Measured(frame, missing);
            return Ok(None);
        };
        if end != 0 {
            return Err(DecodeError::Unended);
        }
        *input = rest;
        Ok(Some(StompItem::Frame(frame)))
    }

    fn open(
        &mut self,
        mut frame: StompFrame,
        came: usize,
        input: &mut &[u8],
    ) -> Result<Option<StompItem>, DecodeError> {
        let end = input.iter().position(|&byte| byte == 0);
        let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
        keep(&mut frame.body, piece);
        *input = rest.get(1..).unwrap_or_default();
        if end.is_some() {
            return Ok(Some(StompItem::Frame(frame)));
        }
        let came = came + piece.len();
        if came > LONGEST_BODY {
            return Err(DecodeError::TooLong("body", LONGEST_BODY));
        }
        self.stage = DecoderStage::Open(frame, came);
        Ok(None)
    }
}

fn keep(body: &mut Vec<u8>, piece: &[u8]) {
    let room = KEPT_BODY.saturating_sub(body.len());
    body.extend_from_slice(&piece[..piece.len().min(room)]);
}

#[cfg(test)]
mod tests;
