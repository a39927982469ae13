//! The parser for the answer to a fetch. Works while the bytes arrive and holds no more than one packet.

use super::{AZURE_MISSING, Capabilities, Packet, ProtocolError, next_packet, printable};
use crate::domain::git::Commit;

/// A part of the answer to a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchPart<'a> {
    /// A commit that comes without its parents.
    Shallow(Commit),
    /// A commit whose parents were missing here and come now.
    Unshallow(Commit),
    /// The next bytes of the pack.
    Pack(&'a [u8]),
}

/// The position in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchStage {
    /// Version 2: expects the name of a section.
    Section,
    /// Version 2: inside `shallow-info`.
    Shallow,
    /// Version 2: inside a section that we ignore.
    Skipped,
    /// Version 0: lines about shallow commits, up to a flush.
    OldShallow,
    /// Version 0: expects `ACK` or `NAK`, before the pack.
    Acknowledged,
    /// The pack, in packets of one band byte and content.
    Pack,
    /// Version 0 without a side-band: the bytes of the pack, up to the end of the stream.
    BarePack,
    /// After the last flush.
    Complete,
}

/// Parses the answer to a fetch as its bytes arrive.
#[derive(Debug)]
pub struct FetchParser {
    stage: FetchStage,
    /// Whether the pack comes in packets with a band byte.
    has_bands: bool,
    rest: Vec<u8>,
}

/// The first bytes of a pack. No packet begins so.
const PACK: &[u8] = b"PACK";

impl FetchParser {
    /// The parser for a server of protocol version 2.
    pub fn v2() -> Self {
        Self { stage: FetchStage::Section, has_bands: true, rest: Vec::new() }
    }

    /// The parser for a server of protocol version 0 with these `capabilities` that was asked for `depth`
    /// commits; 0: all.
    pub fn v0(capabilities: &Capabilities, depth: u32) -> Self {
        let stage = match capabilities.depth(depth) {
            0 => FetchStage::Acknowledged,
            _ => FetchStage::OldShallow,
        };
        Self { stage, has_bands: capabilities.side_band().is_some(), rest: Vec::new() }
    }

    /// Takes the next bytes, in pieces of any size, and passes each complete part to `sink`.
    ///
    /// # Errors
    /// The answer is malformed, the server refuses in the middle of it, or `sink` fails.
    pub fn feed<E: From<ProtocolError>>(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(FetchPart<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held = std::mem::take(&mut self.rest);
        held.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = held.get(at..).unwrap_or_default();
            if self.stage == FetchStage::Complete && !rest.is_empty() {
                return Err(more().into());
            }
            if self.stage == FetchStage::Acknowledged && !self.has_bands && rest.starts_with(PACK) {
                self.stage = FetchStage::BarePack;
            }
            if self.stage == FetchStage::BarePack {
                return sink(FetchPart::Pack(rest));
            }
            let Some((packet, length)) = next_packet(rest).map_err(ProtocolError::from)? else {
                break;
            };
            self.take(packet, sink)?;
            at += length;
        }
        held.drain(..at);
        self.rest = held;
        Ok(())
    }

    /// Returns `true` after the end of the answer.
    pub fn is_complete(&self) -> bool {
        self.stage == FetchStage::Complete
    }

    /// Returns `true` if the end of the stream is the end of the answer; the pack shows whether it is
    /// complete.
    pub fn ends_with_stream(&self) -> bool {
        self.stage == FetchStage::BarePack
    }

    fn take<E: From<ProtocolError>>(
        &mut self,
        packet: Packet<'_>,
        sink: &mut dyn FnMut(FetchPart<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match (self.stage, packet) {
            (FetchStage::Pack, Packet::Data(data)) => return take_band(data, sink),
            (_, Packet::Data(line)) => {
                let text = line.strip_suffix(b"\n").unwrap_or(line);
                if let Some(words) = text.strip_prefix(b"ERR ") {
                    return Err(ProtocolError::from_server(words).into());
                }
                return self.take_line(line, text, sink);
            }
            (FetchStage::Shallow | FetchStage::Skipped, Packet::Delimiter) => {
                self.stage = FetchStage::Section
            }
            (FetchStage::OldShallow, Packet::Flush) => self.stage = FetchStage::Acknowledged,
            (FetchStage::Pack, Packet::Flush) => self.stage = FetchStage::Complete,
            (_, Packet::Flush | Packet::Delimiter | Packet::ResponseEnd) => {
                let what = "ends its answer without the pack".to_owned();
                return Err(ProtocolError::NotThis(what).into());
            }
        }
        Ok(())
    }

    /// Takes a line before the pack, with and without its line end.
    fn take_line<E: From<ProtocolError>>(
        &mut self,
        line: &[u8],
        text: &[u8],
        sink: &mut dyn FnMut(FetchPart<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let strange =
            || ProtocolError::NotThis(format!("answers a fetch with \"{}\"", printable(text, 60)));
        match self.stage {
            FetchStage::Section => {
                self.stage = match text {
                    b"packfile" => FetchStage::Pack,
                    b"shallow-info" => FetchStage::Shallow,
                    b"acknowledgments" | b"wanted-refs" => FetchStage::Skipped,
                    _ => return Err(strange().into()),
                };
            }
            FetchStage::Shallow | FetchStage::OldShallow => {
                sink(shallow_line(text).ok_or_else(strange)?)?;
            }
            FetchStage::Acknowledged if text == b"NAK" || text.starts_with(b"ACK ") => {}
            FetchStage::Acknowledged if self.has_bands && matches!(line.first(), Some(1..=3)) => {
                self.stage = FetchStage::Pack;
                take_band(line, sink)?;
            }
            FetchStage::Acknowledged => return Err(strange().into()),
            FetchStage::Skipped
            | FetchStage::Pack
            | FetchStage::BarePack
            | FetchStage::Complete => {}
        }
        Ok(())
    }
}

fn more() -> ProtocolError {
    ProtocolError::NotThis("sends data after the end of its answer".to_owned())
}

fn shallow_line(text: &[u8]) -> Option<FetchPart<'static>> {
    let (word, id) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let id = id.parse().ok()?;
    match word {
        "shallow" => Some(FetchPart::Shallow(id)),
        "unshallow" => Some(FetchPart::Unshallow(id)),
        _ => None,
    }
}

/// Takes a packet after `packfile`: band 1 is the pack, 2 is progress for people, 3 is an error.
fn take_band<E: From<ProtocolError>>(
    data: &[u8],
    sink: &mut dyn FnMut(FetchPart<'_>) -> Result<(), E>,
) -> Result<(), E> {
    match data.split_first() {
        Some((1, pack)) => sink(FetchPart::Pack(pack)),
        // Azure DevOps says so among its progress, and then sends something that is no pack.
        Some((2, words)) if words.starts_with(AZURE_MISSING.as_bytes()) => {
            Err(ProtocolError::from_server(words).into())
        }
        Some((2, _)) | None => Ok(()),
        Some((3, words)) => Err(ProtocolError::from_server(words).into()),
        Some(_) => {
            let what = format!("sends \"{}\" in the middle of a pack", printable(data, 60));
            Err(ProtocolError::NotThis(what).into())
        }
    }
}
