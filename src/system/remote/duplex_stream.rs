//! The git protocol over a connection that stays open in both directions, as ssh and git:// have one. It
//! writes the request before the server's advertisement arrives, which saves a round trip. For a server
//! of protocol version 0 it opens a second connection. It does not know how the bytes travel.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};

use super::receive::FetchDelivery;
use super::{FetchGoal, FetchOrder, FetchProgress, FetchedRef, PushOrder};
use crate::domain::git::{Commit, ObjectFormat};
use crate::domain::remote::{
    FormatMismatch, PollAnswer, PollScope, RemoteFailure, RemoteHints, WireDialect,
};
use crate::domain::wire::push::{PushOutcome, report_length};
use crate::domain::wire::{
    self, AdvertisedRef, Advertisement, AdvertisementParser, FetchParser, Packet, ProtocolError,
    ProtocolVersion, RefQuery, RefsAnswer,
};
use crate::system::git::Git;
use crate::system::host::since_boot;

/// How long a connection may take to open.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How long the other side may stay silent.
const STALL: Duration = Duration::from_secs(30);

/// The most bytes that a server of version 0 may list: about a million refs. They are not kept.
const MOST_LISTED: usize = 64 << 20;
/// The most bytes of an answer to `ls-refs`: half a million refs.
const MOST_ANSWERED: usize = 32 << 20;
/// The most bytes of a report on a push.
const MOST_REPORTED: usize = 64 << 10;
const PIECE: usize = 64 << 10;
/// Ends a session: of version 2 after the answer, of version 0 before a request.
const GOODBYE: &[u8] = b"0000";

/// A connection to `git-upload-pack` of one repository, on which bytes go both ways.
pub(super) trait DuplexStream {
    /// Reads the bytes that have arrived, waiting at most `patience`; 0 at the end.
    fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Writes some of `bytes`, waiting at most `patience`; returns how many.
    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize>;

    /// Whether the connection to the server is open: a failure then concerns one repository only.
    fn is_open(&self) -> bool;

    /// Closes the connection after a complete conversation.
    fn leave(self);

    /// The cause of the failure `over`, where the transport knows more than that the connection ended.
    fn reason(self, over: Error) -> Error;
}

/// A conversation over a connection: counts its bytes, and ends it when it takes too long.
pub(super) struct GitConversation<L> {
    line: L,
    host: String,
    limit: Duration,
    deadline: Duration,
    carried: u64,
    /// Why nothing more can be read or written, once that is so.
    over: Option<Error>,
}

impl<L: DuplexStream> GitConversation<L> {
    /// A conversation with `host` until `deadline` (time since boot), which follows from `limit`.
    pub fn new(line: L, host: String, limit: Duration, deadline: Duration) -> Self {
        Self { line, host, limit, deadline, carried: 0, over: None }
    }

    /// How long to wait for the next bytes.
    fn patience(&self) -> Duration {
        self.deadline.saturating_sub(since_boot()).min(STALL)
    }

    /// Records the cause when nothing more can be read or written.
    fn is_over(&mut self, error: io::Error) -> io::Error {
        let host = &self.host;
        let too_late = |text: String| match self.line.is_open() {
            true => Error::msg(text),
            false => Error::new(RemoteFailure::Server).context(text),
        };
        self.over = Some(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if since_boot() < self.deadline => {
                let time = humantime::format_duration(STALL);
                too_late(format!("{host} does not answer: it says nothing for {time}"))
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let time = humantime::format_duration(self.limit);
                too_late(format!("{host} takes longer than {time}"))
            }
            _ => anyhow!("the connection to {host} broke off: {error}"),
        });
        error
    }

    /// Writes all of `question`. A server that closes the connection meanwhile has sent its reason
    /// before.
    fn say(&mut self, question: &[u8]) -> io::Result<()> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.write_all(question) {
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                self.over = None;
                Ok(())
            }
            written => written,
        }
    }

    /// Ends the conversation. When the connection failed, its reason replaces the error of `outcome`.
    fn part<T>(self, outcome: Result<T>) -> Result<T> {
        match (outcome, self.over) {
            (Ok(value), _) => {
                self.line.leave();
                Ok(value)
            }
            (Err(error), None) => Err(error),
            (Err(_), Some(over)) => Err(self.line.reason(over)),
        }
    }
}

impl<L: DuplexStream> Read for GitConversation<L> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let patience = self.patience();
        let read = self.line.read(into, patience).map_err(|error| self.is_over(error))?;
        if read == 0 {
            self.over = Some(anyhow!("{} ends the conversation without an answer", self.host));
        }
        self.carried += read as u64;
        Ok(read)
    }
}

impl<L: DuplexStream> Write for GitConversation<L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let patience = self.patience();
        let written = self.line.write(bytes, patience).map_err(|error| self.is_over(error))?;
        self.carried += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A server's answer to a request for refs.
enum RefsReply {
    /// The refs, with the dialect that was used and the object format.
    Refs(WireDialect, ObjectFormat, Vec<AdvertisedRef>),
    /// The server's object format is another one: ask again with it.
    Other(ObjectFormat),
}

/// Polls for the wanted branch. `known` is how the server answered last.
///
/// # Errors
/// When the server cannot be reached, refuses, or sends no valid answer.
pub(super) fn poll<L: DuplexStream>(
    wanted: &PollScope,
    known: Option<&RemoteHints>,
    connect: &dyn Fn() -> Result<GitConversation<L>>,
) -> Result<PollAnswer> {
    let began = since_boot();
    let query = RefQuery::of(wanted);
    let (mut dialect, mut format) = habits(known);
    let mut bytes = 0;
    for _ in 0..2 {
        let mut connection = connect()?;
        let outcome = ask(&mut connection, &query, dialect, format);
        bytes += connection.carried;
        match connection.part(outcome)? {
            RefsReply::Refs(dialect, format, refs) => {
                let RefsAnswer { branch, tip, tag, head } = wire::answer(wanted, &refs);
                let refs = wire::selected_refs(wanted, &refs);
                let milliseconds = (since_boot() - began).as_millis() as u64;
                let way =
                    RemoteHints { dialect, format, bytes, milliseconds, ..RemoteHints::default() };
                let others = Vec::new();
                return Ok(PollAnswer { branch, tip, tag, refs, head, others, is_tag: false, way });
            }
            RefsReply::Other(other) => (dialect, format) = (WireDialect::Direct, other),
        }
    }
    Err(anyhow!("it names its objects by another hash each time"))
}

/// The result of one attempt at a fetch.
enum FetchReply {
    /// Everything is in the clone.
    All,
    /// The server needs another dialect or object format.
    Otherwise(WireDialect, ObjectFormat),
    /// The branch moved since the poll; with the server's message.
    Moved(Error),
}

/// Fetches the refs of `order` into `git`.
///
/// # Errors
/// When the server cannot be reached, refuses, or does not send all of it in time; see
/// `FetchDelivery::receive`.
pub(super) fn fetch<L: DuplexStream>(
    git: &Git,
    order: &FetchOrder,
    connect: &dyn Fn() -> Result<GitConversation<L>>,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let delivery = FetchDelivery::new(git, order)?;
    let mut known = order.way.cloned();
    let mut polled = order.goal.polled();
    let mut last = anyhow!("it says something else each time");
    // One attempt more for another dialect, and one more after the branch moved.
    for _ in 0..3 {
        let updates = match (polled.take(), order.goal) {
            (Some(updates), _) => updates,
            (None, FetchGoal::Refs(_)) => break,
            (None, FetchGoal::Branch { branch, to, .. }) => {
                let answer = poll(&PollScope::Branch(branch.clone()), known.as_ref(), connect)?;
                known = Some(answer.way);
                let tip = answer.tip.with_context(|| format!("it has no branch {branch}"))?;
                vec![FetchedRef::of(branch, to, tip)]
            }
        };
        let wants = delivery.missing(&updates)?;
        if wants.is_empty() {
            return Ok(());
        }
        let habits = habits(known.as_ref());
        let mut connection = connect()?;
        let asked = FetchQuestion { updates: &updates, wants: &wants };
        let outcome = get(&mut connection, &delivery, order.goal, asked, habits, progress);
        match connection.part(outcome)? {
            FetchReply::All => return Ok(()),
            FetchReply::Otherwise(dialect, format) => {
                known = Some(RemoteHints { dialect, format, ..RemoteHints::default() });
                polled = Some(updates);
            }
            FetchReply::Moved(words) => last = words,
        }
    }
    Err(last)
}

/// Pushes `order`, before the server has listed its refs; these are not kept.
///
/// # Errors
/// When the server cannot be reached, refuses, or gives no valid report.
pub(super) fn push<L: DuplexStream>(
    order: &PushOrder,
    connect: &dyn Fn() -> Result<GitConversation<L>>,
) -> Result<Vec<PushOutcome>> {
    let request = order.request(None)?;
    let mut connection = connect()?;
    let outcome = send_push(&mut connection, order, &request);
    connection.part(outcome)
}

fn send_push(
    connection: &mut GitConversation<impl DuplexStream>,
    order: &PushOrder,
    request: &[u8],
) -> Result<Vec<PushOutcome>> {
    connection.say(request)?;
    let (said, mut report) = introduction(connection, RefQuery::default())?;
    let own = order.format();
    FormatMismatch::check(said.format_or(own), own).context("it does not take the push")?;
    let mut piece = vec![0; PIECE];
    loop {
        if let Some(length) = report_length(&report)? {
            let report = report.get(..length).unwrap_or_default();
            return Ok(order.outcomes(report)?);
        }
        ensure!(report.len() <= MOST_REPORTED, "it reports with more than {MOST_REPORTED} bytes");
        match connection.read(&mut piece)? {
            0 => return Ok(order.outcomes(&report)?),
            length => report.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
}

/// The refs to fetch, and the objects to ask for.
#[derive(Clone, Copy)]
struct FetchQuestion<'a> {
    updates: &'a [FetchedRef],
    /// The objects of `updates` that the clone lacks.
    wants: &'a [Commit],
}

fn get(
    connection: &mut GitConversation<impl DuplexStream>,
    delivery: &FetchDelivery,
    goal: FetchGoal,
    asked: FetchQuestion,
    (dialect, format): (WireDialect, ObjectFormat),
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<FetchReply> {
    if dialect == WireDialect::Direct {
        let question = delivery.request(format, asked.wants)?.v2();
        connection.say(&[&question, GOODBYE].concat())?;
    }
    let updates = asked.updates;
    let listed = match goal {
        FetchGoal::Branch { branch, .. } => RefQuery::of(&PollScope::Branch(branch.clone())),
        FetchGoal::Refs(_) => RefQuery::default(),
    };
    let (said, rest) = introduction(connection, listed)?;
    let (updates, answers) = match (said.version, dialect) {
        (ProtocolVersion::V2, WireDialect::Direct) if said.format == format => {
            (updates.to_vec(), FetchParser::v2())
        }
        (ProtocolVersion::V2, _) => {
            return Ok(FetchReply::Otherwise(WireDialect::Direct, said.format));
        }
        (ProtocolVersion::V0, WireDialect::Direct) => {
            return Ok(FetchReply::Otherwise(WireDialect::Old, said.format));
        }
        (ProtocolVersion::V0, _) => {
            // The server sends what it lists now, whatever it listed before.
            let (updates, wants) = match goal {
                FetchGoal::Branch { branch, to, .. } => {
                    let answer = wire::answer(&PollScope::Branch(branch.clone()), &said.refs);
                    let tip = answer
                        .tip
                        .with_context(|| format!("it has no branch {branch} any more"))?;
                    (vec![FetchedRef::of(branch, to, tip)], vec![tip])
                }
                FetchGoal::Refs(updates) => (updates.to_vec(), asked.wants.to_vec()),
            };
            connection.say(&delivery.request(said.format, &wants)?.v0(&said.capabilities))?;
            (updates, FetchParser::v0(&said.capabilities, delivery.depth()))
        }
    };
    let mut reader = rest.as_slice().chain(connection);
    match delivery.receive(&updates, &said.shallow, answers, &mut reader, progress) {
        Ok(()) => Ok(FetchReply::All),
        Err(error) => match error.downcast_ref::<ProtocolError>() {
            Some(failure) if failure.is_moved() => Ok(FetchReply::Moved(error)),
            _ => Err(error),
        },
    }
}

/// The dialect and the object format to begin with.
fn habits(known: Option<&RemoteHints>) -> (WireDialect, ObjectFormat) {
    match known {
        Some(RemoteHints { dialect: WireDialect::Old, format, .. }) => (WireDialect::Old, *format),
        Some(RemoteHints { format, .. }) => (WireDialect::Direct, *format),
        None => (WireDialect::Direct, ObjectFormat::default()),
    }
}

fn ask(
    connection: &mut GitConversation<impl DuplexStream>,
    query: &RefQuery,
    dialect: WireDialect,
    format: ObjectFormat,
) -> Result<RefsReply> {
    if dialect == WireDialect::Direct {
        let question = wire::ls_refs(format, query);
        connection.say(&[&question, GOODBYE].concat())?;
    }
    let (said, rest) = introduction(connection, query.clone())?;
    match said.version {
        ProtocolVersion::V0 => {
            if dialect != WireDialect::Direct {
                connection.say(GOODBYE)?;
            }
            Ok(RefsReply::Refs(WireDialect::Old, said.format_or(format), said.refs))
        }
        ProtocolVersion::V2 if dialect == WireDialect::Direct && said.format == format => {
            Ok(RefsReply::Refs(WireDialect::Direct, format, listing(connection, format, rest)?))
        }
        ProtocolVersion::V2 => Ok(RefsReply::Other(said.format)),
    }
}

/// The server's advertisement, and the bytes that arrived after it.
fn introduction(connection: &mut impl Read, query: RefQuery) -> Result<(Advertisement, Vec<u8>)> {
    let mut reader = AdvertisementParser::new(query);
    let mut piece = vec![0; PIECE];
    let mut listed = 0;
    loop {
        let length = connection.read(&mut piece)?;
        let bytes = piece.get(..length).unwrap_or_default();
        let taken = reader.feed(bytes)?;
        if reader.is_complete() || length == 0 {
            let rest = bytes.get(taken..).unwrap_or_default().to_vec();
            return Ok((reader.finish()?, rest));
        }
        listed += length;
        ensure!(listed <= MOST_LISTED, "it lists more than {MOST_LISTED} bytes of refs");
    }
}

/// The answer to `ls-refs`; `answer` holds the bytes that have arrived already.
fn listing(
    connection: &mut impl Read,
    format: ObjectFormat,
    mut answer: Vec<u8>,
) -> Result<Vec<AdvertisedRef>> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let rest = answer.get(at..).unwrap_or_default();
        if let Some((packet, length)) = wire::next_packet(rest).map_err(ProtocolError::from)? {
            at += length;
            if packet == Packet::Flush {
                return Ok(wire::read_ls_refs(format, answer.get(..at).unwrap_or_default())?);
            }
            continue;
        }
        ensure!(answer.len() <= MOST_ANSWERED, "it answers with more than {MOST_ANSWERED} bytes");
        match connection.read(&mut piece)? {
            0 => return Ok(wire::read_ls_refs(format, &answer)?),
            length => answer.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
