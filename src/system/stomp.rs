//! The door to the message bus: one connection to one broker, from the greeting to the farewell. Any
//! ERROR ends it, and so do three heart-beats that did not come. What messages mean is none of its
//! business; [`session`] keeps a connection for those who stay.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};

use self::stream::{Stream, Woken};
use super::files;
use super::node::since_boot;
use crate::domain::broker::{Broker, Brokers, Login};
use crate::domain::bus::Topic;
use crate::domain::stomp::{Decoder, Frame, Item, Version};

pub mod session;
mod stream;

/// How long a broker may take to answer: it connects, then it takes us in.
pub const ANSWER: Duration = Duration::from_secs(5);
/// How long writing one frame may take.
const WRITE: Duration = Duration::from_secs(10);
/// How many heart-beats may be missing. ActiveMQ sends its first after two intervals.
const MISSED: u32 = 3;
/// The most bytes that a file with a login may have.
const CAP: u64 = 64 << 10;
/// How much is read at once, in bytes.
const PIECE: usize = 16 << 10;
/// How much of what a broker says is shown, in characters.
const SHOWN: usize = 200;

/// An open connection to a broker.
pub struct Connection {
    stream: Stream,
    name: String,
    decoder: Decoder,
    /// What came and is not decoded yet: from `at` on.
    input: Vec<u8>,
    at: usize,
    /// How often we promised to show that we are alive, and when we did last (time since boot).
    ours: Option<Duration>,
    said: Duration,
    /// How often the broker promised it, and when it did last.
    theirs: Option<Duration>,
    heard: Duration,
}

impl Connection {
    /// Connects to `broker` and says who we are, until `deadline` (time since boot), and within the
    /// time that brokers have.
    ///
    /// # Errors
    /// When there is no broker, TLS fails, or it does not take us.
    pub fn open(broker: &Broker, brokers: &Brokers, deadline: Duration) -> Result<Self> {
        Self::greet(broker, brokers, deadline)
            .with_context(|| format!("the broker {broker} is of no use"))
    }

    fn greet(broker: &Broker, brokers: &Brokers, deadline: Duration) -> Result<Self> {
        let login = login(broker, brokers)?;
        let soon = || deadline.min(since_boot() + ANSWER);
        let stream = Stream::open(broker, brokers, soon())?;
        let now = since_boot();
        let mut connection = Self {
            stream,
            name: broker.to_string(),
            decoder: Decoder::default(),
            input: Vec::new(),
            at: 0,
            ours: None,
            said: now,
            theirs: None,
            heard: now,
        };
        let beat = brokers.heartbeat.as_millis();
        let mut connect = Frame::new("CONNECT")
            .with("accept-version", "1.0,1.1,1.2")
            .with("host", brokers.host.as_str())
            .with("heart-beat", format!("{beat},{beat}"));
        if let Some(Login { user, password }) = login {
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
            bail!("it answers {} where it should say CONNECTED", shown(&answer.command));
        }
        connection.decoder.version = Version::named(answer.header("version"));
        let (theirs, ours) = answer.header("heart-beat").map(beats).unwrap_or_default();
        // Each side names the shortest that it can bear; 0 is none at all.
        let agreed = |said: Duration| (!said.is_zero()).then(|| said.max(brokers.heartbeat));
        (connection.ours, connection.theirs) = (agreed(ours), agreed(theirs));
        Ok(connection)
    }

    /// Its address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Subscribes to all of `topics` and waits until the broker has taken each, until `deadline` (time
    /// since boot). What comes on the first meanwhile is given to `deliver`.
    ///
    /// # Errors
    /// When one is refused or time is up.
    pub fn subscribe(
        &mut self,
        topics: &[Topic],
        deadline: Duration,
        deliver: &mut dyn FnMut(Frame),
    ) -> Result<()> {
        let frames = topics.iter().enumerate().map(|(number, topic)| {
            Frame::new("SUBSCRIBE")
                .with("id", number.to_string())
                .with("destination", topic.destination())
                .with("ack", "auto")
        });
        let missing = self.deliver_all(frames.collect(), deadline, deliver)?;
        match missing {
            0 => Ok(()),
            _ => Err(anyhow!("it does not confirm that we listen")),
        }
    }

    /// Sends all of `frames`, then waits until the broker has confirmed each, until `deadline` (time
    /// since boot); how many it has not.
    ///
    /// # Errors
    /// When one is refused or the connection breaks off.
    pub fn publish(&mut self, frames: Vec<Frame>, deadline: Duration) -> Result<usize> {
        self.deliver_all(frames, deadline, &mut drop)
            .with_context(|| format!("the broker {} does not take it", self.name))
    }

    fn deliver_all(
        &mut self,
        frames: Vec<Frame>,
        deadline: Duration,
        deliver: &mut dyn FnMut(Frame),
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
            // Of those who never stop talking nothing is ever missing.
            if deadline <= since_boot() {
                break;
            }
        }
        Ok(missing)
    }

    /// Sends one frame until `deadline` (time since boot).
    ///
    /// # Errors
    /// When it cannot be said or the connection breaks off.
    pub fn send(&mut self, frame: &Frame, deadline: Duration) -> Result<()> {
        let bytes = frame.encode(self.decoder.version)?;
        self.stream.write(&bytes, deadline).map_err(|error| broken(&error))?;
        self.said = since_boot();
        Ok(())
    }

    /// The next frame; `None` when it is `until` (time since boot) or `wake` can be read, however much
    /// more keeps coming. Beats meanwhile.
    ///
    /// # Errors
    /// When the connection is over: it broke off, the broker says ERROR or what is no STOMP, or its
    /// beats did not come.
    pub fn receive(
        &mut self,
        until: Duration,
        wake: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Frame>> {
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
            let last = self.theirs.map(|beat| self.heard + beat * MISSED);
            if last.is_some_and(|last| last <= now) {
                bail!("it hangs: {MISSED} heart-beats did not come");
            }
            if until <= now {
                return Ok(None);
            }
            let next = [last, self.next_beat()].into_iter().flatten().fold(until, Duration::min);
            // Whoever talks without end does not keep us from what else there is.
            let next = if has_more { now } else { next };
            if self.stream.wait(wake, next).map_err(|error| broken(&error))? == Woken::Outside {
                return Ok(None);
            }
        }
    }

    /// Reads one piece of what has come, without waiting; whether there was any.
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

    /// Takes leave.
    pub fn leave(mut self) {
        // It goes either way.
        let _ = self.send(&Frame::new("DISCONNECT"), since_boot() + Duration::from_millis(100));
    }

    /// The next frame of what was read; an ERROR is the end.
    fn decoded(&mut self) -> Result<Option<Frame>> {
        loop {
            let mut rest = self.input.get(self.at..).unwrap_or_default();
            let item = self.decoder.take(&mut rest);
            self.at = self.input.len() - rest.len();
            match item? {
                Some(Item::Beat) => {}
                Some(Item::Frame(frame)) if frame.command == "ERROR" => {
                    return Err(refusal(&frame));
                }
                Some(Item::Frame(frame)) => return Ok(Some(frame)),
                None => return Ok(None),
            }
        }
    }

    /// When we are to show that we are alive: well before the broker would miss it.
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

/// Who we are to `broker`; `None`: nobody in particular.
fn login(broker: &Broker, brokers: &Brokers) -> Result<Option<Login>> {
    match (&broker.login, &brokers.login_file) {
        (Some(login), _) => Ok(Some(login.clone())),
        (None, Some(file)) => {
            let told = || format!("login_file {} cannot be used", file.display());
            let text = files::read_private(file, CAP).with_context(told)?;
            text.parse().map(Some).with_context(told)
        }
        (None, None) => Ok(None),
    }
}

/// The two times of a header `heart-beat`: how often the broker can, and how often it wants us to.
fn beats(header: &str) -> (Duration, Duration) {
    let time = |text: &str| Duration::from_millis(text.trim().parse::<u32>().unwrap_or(0).into());
    header.split_once(',').map(|(theirs, ours)| (time(theirs), time(ours))).unwrap_or_default()
}

/// The broker's own words.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it says: {}", self.0)
    }
}

impl std::error::Error for Refusal {}

fn refusal(frame: &Frame) -> Error {
    let message = frame.header("message").unwrap_or_default();
    let body = String::from_utf8_lossy(&frame.body);
    // What follows the first line is for the programmers of the broker.
    let first = body.lines().next().unwrap_or_default();
    let words = match (message.trim(), first.trim()) {
        ("", "") => "ERROR".to_owned(),
        (message, "") => message.to_owned(),
        ("", first) => first.to_owned(),
        (message, first) if first.contains(message) => first.to_owned(),
        (message, first) => format!("{message}: {first}"),
    };
    Error::new(Refusal(shown(words.trim_end_matches('.'))))
}

/// Why a broker does not take us.
fn not_taken(error: Error) -> Error {
    let hint = match error.downcast_ref::<Refusal>() {
        Some(Refusal(words)) if words.contains("irtual host") => {
            "set host to the virtual host that this user may use"
        }
        Some(_) => "are user and password right? See login_file",
        None => {
            "is this the port for STOMP, and stomp:// or stomps:// right? \
             Some brokers hang up on a wrong password as well: see login_file"
        }
    };
    error.context(format!("it does not take us\nhint: {hint}"))
}

fn broken(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::TimedOut => anyhow!("it takes nothing more: time is up"),
        _ => anyhow!("the connection broke off: {error}"),
    }
}

fn shown(words: &str) -> String {
    words.chars().take(SHOWN).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heart_beats_that_are_none_are_no_heart_beats() {
        let seconds = |theirs, ours| (Duration::from_secs(theirs), Duration::from_secs(ours));
        assert_eq!(beats("29000, 30000"), seconds(29, 30));
        for header in ["", "x,y", "1000", "-1,99999999999"] {
            assert_eq!(beats(header), seconds(0, 0), "{header}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_one_line_and_without_the_brokers_inside() {
        let refused = |message: &str, body: &str| {
            let frame = Frame::new("ERROR").with("message", message);
            refusal(&Frame { body: body.as_bytes().to_vec(), ..frame }).to_string()
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
