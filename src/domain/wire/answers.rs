//! The answer to a fetch, taken apart as its bytes come in. Keeps no more of it than one packet.

use super::{NotAnAnswer, Packet, next_packet, shown};
use crate::domain::git::Commit;

/// A part of the answer to a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// This commit comes without its parents.
    Shallow(Commit),
    /// The parents of this one, which were missing here, come.
    Unshallow(Commit),
    /// The next bytes of the pack.
    Pack(&'a [u8]),
}

/// Where in the answer we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Version 2: the name of a section comes.
    Section,
    /// Version 2: the lines of `shallow-info` come.
    Shallow,
    /// Version 2: the lines of a section that means nothing to us come.
    Skipped,
    /// Version 0: lines about shallow commits come, and a flush behind them.
    OldShallow,
    /// Version 0: `ACK` or `NAK` comes, before the pack.
    Acknowledged,
    /// The pack comes, in packets of one byte that tells the band, and content.
    Pack,
    /// The last flush has come.
    Complete,
}

/// Takes the answer to a fetch apart as its bytes come in.
#[derive(Debug)]
pub struct Answers {
    stage: Stage,
    rest: Vec<u8>,
}

impl Answers {
    /// Of a server of protocol version 2.
    pub fn v2() -> Self {
        Self { stage: Stage::Section, rest: Vec::new() }
    }

    /// Of a server of protocol version 0 that was asked for `depth` commits; 0: all.
    pub fn v0(depth: u32) -> Self {
        let stage = if depth > 0 { Stage::OldShallow } else { Stage::Acknowledged };
        Self { stage, rest: Vec::new() }
    }

    /// Takes the next bytes, in pieces of any size, and gives each part that is whole to `sink`.
    ///
    /// # Errors
    /// When it is no such answer, the server refuses in the middle, or `sink` fails.
    pub fn feed<E: From<NotAnAnswer>>(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held = std::mem::take(&mut self.rest);
        held.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = held.get(at..).unwrap_or_default();
            if self.stage == Stage::Complete && !rest.is_empty() {
                return Err(more().into());
            }
            let Some((packet, length)) = next_packet(rest).map_err(NotAnAnswer::from)? else {
                break;
            };
            self.take(packet, sink)?;
            at += length;
        }
        held.drain(..at);
        self.rest = held;
        Ok(())
    }

    /// Whether the end of the answer has come.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    fn take<E: From<NotAnAnswer>>(
        &mut self,
        packet: Packet<'_>,
        sink: &mut dyn FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match (self.stage, packet) {
            (Stage::Pack, Packet::Data(data)) => return take_band(data, sink),
            (_, Packet::Data(line)) => {
                let text = line.strip_suffix(b"\n").unwrap_or(line);
                if let Some(words) = text.strip_prefix(b"ERR ") {
                    return Err(NotAnAnswer::told(words).into());
                }
                return self.take_line(line, text, sink);
            }
            (Stage::Shallow | Stage::Skipped, Packet::Delimiter) => self.stage = Stage::Section,
            (Stage::OldShallow, Packet::Flush) => self.stage = Stage::Acknowledged,
            (Stage::Pack, Packet::Flush) => self.stage = Stage::Complete,
            (_, Packet::Flush | Packet::Delimiter | Packet::ResponseEnd) => {
                let what = "ends its answer without the pack".to_owned();
                return Err(NotAnAnswer::NotThis(what).into());
            }
        }
        Ok(())
    }

    /// A line before the pack, with and without its end.
    fn take_line<E: From<NotAnAnswer>>(
        &mut self,
        line: &[u8],
        text: &[u8],
        sink: &mut dyn FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let strange =
            || NotAnAnswer::NotThis(format!("answers a fetch with \"{}\"", shown(text, 60)));
        match self.stage {
            Stage::Section => {
                self.stage = match text {
                    b"packfile" => Stage::Pack,
                    b"shallow-info" => Stage::Shallow,
                    b"acknowledgments" | b"wanted-refs" => Stage::Skipped,
                    _ => return Err(strange().into()),
                };
            }
            Stage::Shallow | Stage::OldShallow => {
                sink(shallow_line(text).ok_or_else(strange)?)?;
            }
            Stage::Acknowledged if text == b"NAK" || text.starts_with(b"ACK ") => {}
            Stage::Acknowledged if matches!(line.first(), Some(1..=3)) => {
                self.stage = Stage::Pack;
                take_band(line, sink)?;
            }
            Stage::Acknowledged => return Err(strange().into()),
            Stage::Skipped | Stage::Pack | Stage::Complete => {}
        }
        Ok(())
    }
}

fn more() -> NotAnAnswer {
    NotAnAnswer::NotThis("says more behind the end of its answer".to_owned())
}

fn shallow_line(text: &[u8]) -> Option<Part<'static>> {
    let (word, id) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let id = id.parse().ok()?;
    match word {
        "shallow" => Some(Part::Shallow(id)),
        "unshallow" => Some(Part::Unshallow(id)),
        _ => None,
    }
}

/// A packet behind the word `packfile`: 1 is the pack, 2 is talk for people, 3 a failure.
fn take_band<E: From<NotAnAnswer>>(
    data: &[u8],
    sink: &mut dyn FnMut(Part<'_>) -> Result<(), E>,
) -> Result<(), E> {
    match data.split_first() {
        Some((1, pack)) => sink(Part::Pack(pack)),
        Some((2, _)) | None => Ok(()),
        Some((3, words)) => Err(NotAnAnswer::told(words).into()),
        Some(_) => {
            let what = format!("sends \"{}\" in the middle of a pack", shown(data, 60));
            Err(NotAnAnswer::NotThis(what).into())
        }
    }
}
