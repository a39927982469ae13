//! A conversation with git's server over a connection that stays open both ways, as ssh and git://
//! give one. The question is written before the server has introduced itself: one round trip less.
//! A server of protocol version 0 gets what it understands on a second connection.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};

use super::receive::Delivery;
use super::{Goal, Order, Progress, Update};
use crate::domain::git::Commit;
use crate::domain::remote::{Answer, Dialect, Format, Trouble, Wanted, Way};
use crate::domain::wire::{
    self, Advertisement, Advertising, Answers, Listed, NotAnAnswer, Packet, Version,
};
use crate::system::git::Git;
use crate::system::node::since_boot;

/// How long connecting may take.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How long the other side may stay silent.
const STALL: Duration = Duration::from_secs(30);

/// The most that a server of version 0 may list, in bytes: about a million refs. They are not kept.
const MOST_LISTED: usize = 64 << 20;
/// The most that may come in answer to a question for refs, in bytes: half a million.
const MOST_ANSWERED: usize = 32 << 20;
/// How much is read at once.
const PIECE: usize = 64 << 10;
/// Ends a session of version 2 once its question is answered, and one of version 0 before it.
const GOODBYE: &[u8] = b"0000";

/// A line to `git-upload-pack` of one repository, on which bytes go both ways.
pub(super) trait Line {
    /// Reads what has come, waiting at most for `patience`; 0 at the end.
    fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Writes some of `bytes`, waiting at most for `patience`.
    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize>;

    /// Whether there is a connection to the server: what happens on one is a matter of one
    /// repository.
    fn stands(&self) -> bool;

    /// Takes leave after all was said.
    fn leave(self);

    /// Why the conversation is `over`, where more is known than that it is.
    fn reason(self, over: Error) -> Error;
}

/// A conversation over a line: measures it, and ends it when it takes too long.
pub(super) struct Conversation<L> {
    line: L,
    host: String,
    limit: Duration,
    deadline: Duration,
    carried: u64,
    /// Why nothing more can come, once that is so.
    over: Option<Error>,
}

impl<L: Line> Conversation<L> {
    /// With `host`, over `line`, until `deadline` (time since boot), which `limit` was set by.
    pub fn new(line: L, host: String, limit: Duration, deadline: Duration) -> Self {
        Self { line, host, limit, deadline, carried: 0, over: None }
    }

    /// How long may be waited for the next bytes.
    fn patience(&self) -> Duration {
        self.deadline.saturating_sub(since_boot()).min(STALL)
    }

    /// Keeps what it means that nothing more can be read or written.
    fn is_over(&mut self, error: io::Error) -> io::Error {
        let host = &self.host;
        let too_late = |text: String| match self.line.stands() {
            true => Error::msg(text),
            false => Error::new(Trouble::Server).context(text),
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

    /// Writes all of `question`. Whoever hangs up while it is written has said why before.
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

    /// Ends it. Where `outcome` is a failure of the line, the reason for that is told instead.
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

impl<L: Line> Read for Conversation<L> {
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

impl<L: Line> Write for Conversation<L> {
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

/// What a server said to a question for refs.
enum Heard {
    /// These are the refs; with how they were asked for.
    Refs(Dialect, Vec<Listed>),
    /// It names objects by another hash: ask again.
    Other(Format),
}

/// Asks where the wanted branch is. `known` is how the server answered last.
///
/// # Errors
/// When the server cannot be reached, refuses, or says something that is no answer.
pub(super) fn poll<L: Line>(
    wanted: &Wanted,
    known: Option<&Way>,
    connect: &dyn Fn() -> Result<Conversation<L>>,
) -> Result<Answer> {
    let began = since_boot();
    let prefixes = wire::prefixes(wanted);
    let (mut dialect, mut format) = habits(known);
    let mut bytes = 0;
    for _ in 0..2 {
        let mut connection = connect()?;
        let outcome = ask(&mut connection, &prefixes, dialect, format);
        bytes += connection.carried;
        match connection.part(outcome)? {
            Heard::Refs(dialect, refs) => {
                let (branch, tip) = wire::answer(wanted, &refs);
                let refs = wire::every(wanted, &refs);
                let milliseconds = (since_boot() - began).as_millis() as u64;
                let way = Way { dialect, format, bytes, milliseconds, ..Way::default() };
                return Ok(Answer { branch, tip, refs, way });
            }
            Heard::Other(other) => (dialect, format) = (Dialect::Direct, other),
        }
    }
    Err(anyhow!("it names its objects by another hash each time"))
}

/// How an attempt at a fetch ended.
enum Got {
    /// It is here.
    All,
    /// It has to be asked in this way.
    Otherwise(Dialect, Format),
    /// The branch moved since the poll; with the server's words.
    Moved(Error),
}

/// Brings what `order` names into `git`.
///
/// # Errors
/// When the server cannot be reached, refuses, or does not send all of it in time; see
/// [`Delivery::receive`].
pub(super) fn fetch<L: Line>(
    git: &Git,
    order: &Order,
    connect: &dyn Fn() -> Result<Conversation<L>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let delivery = Delivery::new(git, order)?;
    let mut known = order.way.cloned();
    let mut polled = match order.goal {
        Goal::Branch { branch, tip } => tip.map(|tip| vec![Update::of(branch, tip)]),
        Goal::Refs(updates) => Some(updates.to_vec()),
    };
    let mut last = anyhow!("it says something else each time");
    // Once in another dialect, and once after the branch moved.
    for _ in 0..3 {
        let updates = match (polled.take(), order.goal) {
            (Some(updates), _) => updates,
            (None, Goal::Refs(_)) => break,
            (None, Goal::Branch { branch, .. }) => {
                let answer = poll(&Wanted::Branch(branch.clone()), known.as_ref(), connect)?;
                known = Some(answer.way);
                let tip = answer.tip.with_context(|| format!("it has no branch {branch}"))?;
                vec![Update::of(branch, tip)]
            }
        };
        let wants = delivery.missing(&updates)?;
        if wants.is_empty() {
            return Ok(());
        }
        let habits = habits(known.as_ref());
        let mut connection = connect()?;
        let asked = Asked { updates: &updates, wants: &wants };
        let outcome = get(&mut connection, &delivery, order.goal, asked, habits, progress);
        match connection.part(outcome)? {
            Got::All => return Ok(()),
            Got::Otherwise(dialect, format) => {
                known = Some(Way { dialect, format, ..Way::default() });
                polled = Some(updates);
            }
            Got::Moved(words) => last = words,
        }
    }
    Err(last)
}

/// What is asked for in a fetch.
#[derive(Clone, Copy)]
struct Asked<'a> {
    updates: &'a [Update],
    /// The objects that are missing for them.
    wants: &'a [Commit],
}

fn get(
    connection: &mut Conversation<impl Line>,
    delivery: &Delivery,
    goal: Goal,
    asked: Asked,
    (dialect, format): (Dialect, Format),
    progress: &mut dyn FnMut(Progress),
) -> Result<Got> {
    if dialect == Dialect::Direct {
        let question = delivery.request(format, asked.wants)?.v2();
        connection.say(&[&question, GOODBYE].concat())?;
    }
    let updates = asked.updates;
    let listed = match goal {
        Goal::Branch { branch, .. } => vec![branch.local()],
        Goal::Refs(_) => Vec::new(),
    };
    let (said, rest) = introduction(connection, listed)?;
    let (updates, answers) = match (said.version, dialect) {
        (Version::V2, Dialect::Direct) if said.format == format => {
            (updates.to_vec(), Answers::v2())
        }
        (Version::V2, _) => return Ok(Got::Otherwise(Dialect::Direct, said.format)),
        (Version::V0, Dialect::Direct) => return Ok(Got::Otherwise(Dialect::Old, said.format)),
        (Version::V0, _) => {
            // It gives what it lists now, whatever it listed before.
            let (updates, wants) = match goal {
                Goal::Branch { branch, .. } => {
                    let (_, tip) = wire::answer(&Wanted::Branch(branch.clone()), &said.refs);
                    let tip = tip.with_context(|| format!("it has no branch {branch} any more"))?;
                    (vec![Update::of(branch, tip)], vec![tip])
                }
                Goal::Refs(updates) => (updates.to_vec(), asked.wants.to_vec()),
            };
            ensure!(
                said.capabilities.has("side-band-64k"),
                "it speaks a version of git's protocol that is too old"
            );
            connection.say(&delivery.request(said.format, &wants)?.v0(&said.capabilities))?;
            (updates, Answers::v0(delivery.depth()))
        }
    };
    let mut reader = rest.as_slice().chain(connection);
    match delivery.receive(&updates, &said.shallow, answers, &mut reader, progress) {
        Ok(()) => Ok(Got::All),
        Err(error) => match error.downcast_ref::<NotAnAnswer>() {
            Some(told) if told.is_moved() => Ok(Got::Moved(error)),
            _ => Err(error),
        },
    }
}

/// In which dialect and hash to begin.
fn habits(known: Option<&Way>) -> (Dialect, Format) {
    match known {
        Some(Way { dialect: Dialect::Old, format, .. }) => (Dialect::Old, *format),
        Some(Way { format, .. }) => (Dialect::Direct, *format),
        None => (Dialect::Direct, Format::default()),
    }
}

fn ask(
    connection: &mut Conversation<impl Line>,
    prefixes: &[String],
    dialect: Dialect,
    format: Format,
) -> Result<Heard> {
    if dialect == Dialect::Direct {
        let question = wire::ls_refs(format, prefixes);
        connection.say(&[&question, GOODBYE].concat())?;
    }
    let (said, rest) = introduction(connection, prefixes.to_vec())?;
    match said.version {
        Version::V0 => {
            if dialect != Dialect::Direct {
                connection.say(GOODBYE)?;
            }
            Ok(Heard::Refs(Dialect::Old, said.refs))
        }
        Version::V2 if dialect == Dialect::Direct && said.format == format => {
            Ok(Heard::Refs(Dialect::Direct, listing(connection, format, rest)?))
        }
        Version::V2 => Ok(Heard::Other(said.format)),
    }
}

/// What the server says first, and the bytes that came behind it.
fn introduction(
    connection: &mut impl Read,
    prefixes: Vec<String>,
) -> Result<(Advertisement, Vec<u8>)> {
    let mut reader = Advertising::new(prefixes);
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

/// The answer to `ls-refs`, of which the bytes of `answer` have come already.
fn listing(connection: &mut impl Read, format: Format, mut answer: Vec<u8>) -> Result<Vec<Listed>> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let rest = answer.get(at..).unwrap_or_default();
        if let Some((packet, length)) = wire::next_packet(rest).map_err(NotAnAnswer::from)? {
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
