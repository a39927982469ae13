//! STOMP connection to one message broker, from CONNECT to DISCONNECT. An ERROR frame ends it, and so
//! do three missed heart-beats. Does not know the meaning of messages; [`session`] keeps a connection
//! open.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};

use self::stream::{BrokerStream, WakeReason};
use super::files;
use crate::domain::bus::broker::{Broker, BrokerLogin, BrokerSettings};
use crate::domain::bus::message::Topic;
use crate::domain::bus::stomp::{StompDecoder, StompFrame, StompItem, StompVersion};
use crate::domain::text::EscapeControls;
use crate::system::host::since_boot;

pub mod session;
mod stream;

/// Time limit for a broker to accept a connection, and again to accept a login or subscription.
pub const ANSWER: Duration = Duration::from_secs(5);
/// Time limit to write one frame.
const WRITE: Duration = Duration::from_secs(10);
/// Heart-beats that may be missing. ActiveMQ sends its first one after two intervals.
const MISSED: u32 = 3;
/// Largest login file, in bytes.
const CAP: u64 = 64 << 10;
/// Bytes read at once.
const PIECE: usize = 16 << 10;
/// Characters of a broker's error message that are shown.
const SHOWN: usize = 200;

/// An open connection to a broker.
pub struct BrokerConnection {
    stream: BrokerStream,
    name: String,
    decoder: StompDecoder,
    /// Received bytes; those from `at` on are not decoded yet.
    input: Vec<u8>,
    at: usize,
    /// Our promised heart-beat interval, and the time of our last write (since boot).
    ours: Option<Duration>,
    said: Duration,
    /// The broker's promised heart-beat interval, and the time of our last read.
    delegated: Option<Duration>,
    heard: Duration,
}

impl BrokerConnection {
    /// Connects to `broker` and logs in, until `deadline` (time since boot) and within the time limits
    /// for brokers.
    ///
    /// # Errors
    /// When there is no broker, TLS fails, or it refuses the login.
    pub fn open(broker: &Broker, brokers: &BrokerSettings, deadline: Duration) -> Result<Self> {
        Self::greet(broker, brokers, deadline)
            .with_context(|| format!("the broker {broker} cannot be used"))
    }

    fn greet(broker: &Broker, brokers: &BrokerSettings, deadline: Duration) -> Result<Self> {
        let login = login(broker, brokers)?;
        let soon = || deadline.min(since_boot() + ANSWER);
        let stream = BrokerStream::open(broker, brokers, soon())?;
        let now = since_boot();
        let mut connection = Self {
            stream,
            name: broker.to_string(),
            decoder: StompDecoder::default(),
            input: Vec::new(),
            at: 0,
            ours: None,
            said: now,
            delegated: None,
            heard: now,
        };
        let beat = brokers.heartbeat.as_millis();
        let mut connect = StompFrame::new("CONNECT")
            .with("accept-version", "1.0,1.1,1.2")
            .with("host", brokers.host.as_str())
            .with("heart-beat", format!("{beat},{beat}"));
        if let Some(BrokerLogin { user, password }) = login {
            connect = connect.with("login", user).with("passcode", password);
        }
        connection.send(&connect, soon())?;
        let answer = connection.receive(soon(), None).map_err(not_taken)?;
        let Some(answer) = answer else {
            bail!(
                "it takes the connection and does not answer\nhint: does it hang, or is it a proxy?"
            );
        };
        if answer.command != "CONNECTED" {
            bail!("it answers {} where it should say CONNECTED", printable(&answer.command));
        }
        connection.decoder.version = StompVersion::named(answer.header("version"));
        let (delegated, ours) = answer.header("heart-beat").map(beats).unwrap_or_default();
        // Each side names the shortest interval that it supports; 0 means no heart-beats.
        let agreed = |said: Duration| (!said.is_zero()).then(|| said.max(brokers.heartbeat));
        (connection.ours, connection.delegated) = (agreed(ours), agreed(delegated));
        Ok(connection)
    }

    /// Address of the broker.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Subscribes to all `topics` and waits for the broker's receipts, until `deadline` (time since
    /// boot). Messages that arrive meanwhile go to `deliver`.
    ///
    /// # Errors
    /// When one is refused or the deadline passes.
    pub fn subscribe(
        &mut self,
        topics: &[Topic],
        deadline: Duration,
        deliver: &mut dyn FnMut(StompFrame),
    ) -> Result<()> {
        let frames = topics.iter().enumerate().map(|(number, topic)| {
            StompFrame::new("SUBSCRIBE")
                .with("id", number.to_string())
                .with("destination", topic.destination())
                .with("ack", "auto")
        });
        let missing = self.deliver_all(frames.collect(), deadline, deliver)?;
        match missing {
            0 => Ok(()),
            _ => Err(anyhow!("it does not confirm the subscription")),
        }
    }

    /// Sends all `frames` and waits for the broker's receipts, until `deadline` (time since boot);
    /// returns the number of missing receipts.
    ///
    /// # Errors
    /// When one is refused or the connection breaks.
    pub fn publish(&mut self, frames: Vec<StompFrame>, deadline: Duration) -> Result<usize> {
        self.deliver_all(frames, deadline, &mut drop)
            .with_context(|| format!("the broker {} does not accept it", self.name))
    }

    fn deliver_all(
        &mut self,
        frames: Vec<StompFrame>,
        deadline: Duration,
        deliver: &mut dyn FnMut(StompFrame),
    ) -> Result<usize> {
        let mut missing = frames.len();
        for (number, frame) in frames.into_iter().enumerate() {
            self.send(&frame.with("receipt", format!("r{number}")), deadline)?;
        }
        while missing > 0 {
            match self.receive(deadline, None)? {
                Some(frame) if frame.command == "RECEIPT" => missing -= 1,
                Some(frame) => deliver(frame),
                None => break,
            }
            // A broker that sends without pause never makes `receive` time out.
            if deadline <= since_boot() {
                break;
            }
        }
        Ok(missing)
    }

    /// Sends one frame until `deadline` (time since boot).
    ///
    /// # Errors
    /// When it cannot be encoded or the connection breaks.
    pub fn send(&mut self, frame: &StompFrame, deadline: Duration) -> Result<()> {
        let bytes = frame.encode(self.decoder.version)?;
        self.stream.write(&bytes, deadline).map_err(|error| broken(&error))?;
        self.said = since_boot();
        Ok(())
    }

    /// Receives the next frame; `None` at `until` (time since boot) or when `wake` is readable, even if
    /// more data keeps arriving. Sends heart-beats meanwhile.
    ///
    /// # Errors
    /// When the connection is over: it broke, the broker sent ERROR or invalid STOMP, or its
    /// heart-beats are missing.
    pub fn receive(
        &mut self,
        until: Duration,
        wake: Option<BorrowedFd<'_>>,
    ) -> Result<Option<StompFrame>> {
        if let Some(frame) = self.decoded()? {
            return Ok(Some(frame));
        }
        loop {
            self.beat()?;
            let has_more = self.read()?;
            if let Some(frame) = self.decoded()? {
                return Ok(Some(frame));
            }
            let now = since_boot();
            let last = self.delegated.map(|beat| self.heard + beat * MISSED);
            if last.is_some_and(|last| last <= now) {
                bail!("it hangs: {MISSED} heart-beats did not come");
            }
            if until <= now {
                return Ok(None);
            }
            let next = [last, self.next_beat()].into_iter().flatten().fold(until, Duration::min);
            // A broker that sends without pause must not block other work.
            let next = if has_more { now } else { next };
            if self.stream.wait(wake, next).map_err(|error| broken(&error))? == WakeReason::Outside
            {
                return Ok(None);
            }
        }
    }

    /// Reads one piece of the received bytes without waiting; `false` when there was none.
    fn read(&mut self) -> Result<bool> {
        self.input.resize(PIECE, 0);
        self.at = 0;
        let read = self.stream.read(&mut self.input);
        self.input.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => bail!("it ends the connection"),
            Ok(_) => {
                self.heard = since_boot();
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(false),
                _ => Err(broken(&error)),
            },
        }
    }

    /// Sends DISCONNECT and closes the connection.
    pub fn disconnect(mut self) {
        // The connection closes even if this fails.
        let _ =
            self.send(&StompFrame::new("DISCONNECT"), since_boot() + Duration::from_millis(100));
    }

    /// Decodes the next frame of the read bytes; an ERROR frame becomes an error.
    fn decoded(&mut self) -> Result<Option<StompFrame>> {
        loop {
            let mut rest = self.input.get(self.at..).unwrap_or_default();
            let item = self.decoder.take(&mut rest);
            self.at = self.input.len() - rest.len();
            match item? {
                Some(StompItem::Beat) => {}
                Some(StompItem::Frame(frame)) if frame.command == "ERROR" => {
                    return Err(refusal(&frame));
                }
                Some(StompItem::Frame(frame)) => return Ok(Some(frame)),
                None => return Ok(None),
            }
        }
    }

    /// Time of our next heart-beat, well before the broker would miss it; `None` without heart-beats.
    fn next_beat(&self) -> Option<Duration> {
        self.ours.map(|beat| self.said + beat * 2 / 3)
    }

    fn beat(&mut self) -> Result<()> {
        let now = since_boot();
        if self.next_beat().is_some_and(|next| next <= now) {
            self.stream.write(b"\n", now + WRITE).map_err(|error| broken(&error))?;
            self.said = now;
        }
        Ok(())
    }
}

/// Login for `broker`; `None` for an anonymous one.
fn login(broker: &Broker, brokers: &BrokerSettings) -> Result<Option<BrokerLogin>> {
    match (&broker.login, &brokers.login_file) {
        (Some(login), _) => Ok(Some(login.clone())),
        (None, Some(file)) => {
            let message = || format!("login_file {} cannot be used", file.display());
            let text = files::read_private(file, CAP).with_context(message)?;
            text.parse().map(Some).with_context(message)
        }
        (None, None) => Ok(None),
    }
}

/// The two intervals of a `heart-beat` header: the one the broker offers, and the one it expects of us.
fn beats(header: &str) -> (Duration, Duration) {
    let time = |text: &str| Duration::from_millis(text.trim().parse::<u32>().unwrap_or(0).into());
    header
        .split_once(',')
        .map(|(delegated, ours)| (time(delegated), time(ours)))
        .unwrap_or_default()
}

/// Error message of the broker itself.
#[derive(Debug)]
struct BrokerRefusal(String);

impl std::fmt::Display for BrokerRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it says: {}", self.0)
    }
}

impl std::error::Error for BrokerRefusal {}

fn refusal(frame: &StompFrame) -> Error {
    let message = frame.header("message").unwrap_or_default();
    let body = String::from_utf8_lossy(&frame.body);
    // The lines after the first are for developers of the broker.
    let first = body.lines().next().unwrap_or_default();
    let words = match (message.trim(), first.trim()) {
        ("", "") => "ERROR".to_owned(),
        (message, "") => message.to_owned(),
        ("", first) => first.to_owned(),
        (message, first) if first.contains(message) => first.to_owned(),
        (message, first) => format!("{message}: {first}"),
    };
    Error::new(BrokerRefusal(printable(words.trim_end_matches('.'))))
}

/// Adds a hint to an error of the login.
fn not_taken(error: Error) -> Error {
    let hint = match error.downcast_ref::<BrokerRefusal>() {
        Some(BrokerRefusal(words)) if words.contains("irtual host") => {
            "set host to the virtual host that this user may use"
        }
        Some(_) => "are user and password right? See login_file",
        None => {
            "is this the port for STOMP, and stomp:// or stomps:// right? \
             Some brokers hang up on a wrong password as well: see login_file"
        }
    };
    error.context(format!("it refuses the connection\nhint: {hint}"))
}

fn broken(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::TimedOut => anyhow!("it accepts no more data in time"),
        _ => anyhow!("the connection broke off: {error}"),
    }
}

fn printable(words: &str) -> String {
    words.chars().take(SHOWN).collect::<String>().escape_controls()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heart_beats_that_are_none_are_no_heart_beats() {
        let seconds = |delegated, ours| (Duration::from_secs(delegated), Duration::from_secs(ours));
        assert_eq!(beats("29000, 30000"), seconds(29, 30));
        for header in ["", "x,y", "1000", "-1,99999999999"] {
            assert_eq!(beats(header), seconds(0, 0), "{header}");
        }
    }

    #[test]
    fn a_refusal_is_reported_in_one_line_and_without_the_brokers_inside() {
        let refused = |message: &str, body: &str| {
            let frame = StompFrame::new("ERROR").with("message", message);
            refusal(&StompFrame { body: body.as_bytes().to_vec(), ..frame }).to_string()
        };
        let body = "java.lang.SecurityException: User x is not authorized.\n\tat org.apache";
        assert_eq!(
            refused("User x is not authorized.", body),
            "it says: java.lang.SecurityException: User x is not authorized"
        );
        assert_eq!(refused("Bad CONNECT", "\u{1b}[2J"), "it says: Bad CONNECT: \\u{1b}[2J");
        assert_eq!(refused("", ""), "it says: ERROR");
        assert!(refused("x", &"y".repeat(9999)).len() < 300);
    }
}
