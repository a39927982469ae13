//! A session that lasts: a thread of its own that stays connected to one of the brokers, beats, hands
//! on what comes and sends what it is given. When a broker is lost the next one is tried, and when
//! none is of use, all of them again later.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;

use super::{ANSWER, Connection, WRITE};
use crate::domain::broker::{self, Broker, Brokers, Next};
use crate::domain::bus::Topic;
use crate::domain::hash;
use crate::domain::stomp::{Frame, Unsendable};
use crate::system::node::since_boot;

/// How many frames wait to be sent.
const WAITING: usize = 256;
/// How many of them are sent before it is looked at what has come.
const AT_ONCE: usize = 32;
/// For ever, as far as a wait is concerned that is ended from outside.
const LONG: Duration = Duration::from_secs(3600);

/// What happens to a session.
#[derive(Debug)]
pub enum Event {
    /// It is connected to this broker, and every topic is listened to. What was said before that may be
    /// lost.
    Up(String),
    /// A message came.
    Message(Frame),
    /// It is not connected, or no longer.
    Down {
        /// Why, with the broker's address.
        why: Error,
        /// When the next broker is tried.
        again_in: Duration,
    },
}

/// A session that lasts until it is dropped.
#[derive(Debug)]
pub struct Session {
    brokers: Brokers,
    topics: Vec<Topic>,
    outbox: SyncSender<Frame>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Can be read when there is something to send or the session ends.
    wake: OwnedFd,
    is_ending: AtomicBool,
    counts: Arc<Counts>,
}

/// What became of the frames that were to be sent.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Session {
    /// Starts it. `deliver` is called on the session's thread, which does nothing else meanwhile: it
    /// must not take long.
    ///
    /// # Errors
    /// When the system gives no thread or descriptor.
    pub fn start(
        brokers: Brokers,
        topics: Vec<Topic>,
        deliver: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self> {
        Self::counting(Arc::default(), brokers, topics, deliver)
    }

    /// Ends it and starts another one in its place, which goes on with its counts.
    ///
    /// # Errors
    /// Those of [`Session::start`].
    pub fn replace(
        self,
        brokers: Brokers,
        topics: Vec<Topic>,
        deliver: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self> {
        Self::counting(Arc::clone(&self.shared.counts), brokers, topics, deliver)
    }

    fn counting(
        counts: Arc<Counts>,
        brokers: Brokers,
        topics: Vec<Topic>,
        mut deliver: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make a descriptor to wake the session by")?;
        let shared = Arc::new(Shared { wake, is_ending: AtomicBool::new(false), counts });
        let (outbox, inbox) = mpsc::sync_channel(WAITING);
        let (ours, theirs) = (Arc::clone(&shared), Arc::clone(&shared));
        let keeper = Keeper {
            brokers: brokers.clone(),
            topics: topics.clone(),
            // What happens to one that was let go of is nobody's business any more.
            deliver: Box::new(move |event| {
                if !theirs.is_ending() {
                    deliver(event);
                }
            }),
            inbox,
            shared: ours,
            up: None,
        };
        std::thread::Builder::new()
            .name("bus".to_owned())
            .spawn(move || keeper.run())
            .context("cannot start the session's thread")?;
        Ok(Self { brokers, topics, outbox, shared })
    }

    /// The brokers that it was started with.
    pub fn brokers(&self) -> &Brokers {
        &self.brokers
    }

    /// The topics that it was started with.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Sends `frame` when there is a broker. Never waits: what does not fit into the queue is dropped
    /// and counted.
    pub fn send(&self, frame: Frame) {
        match self.outbox.try_send(frame) {
            Ok(()) => self.shared.wake(),
            Err(_) => self.shared.count_dropped(),
        }
    }

    /// How many frames were sent, by this session and those before it.
    pub fn sent(&self) -> u64 {
        self.shared.counts.sent.load(Ordering::Relaxed)
    }

    /// How many frames were given to [`Session::send`] and dropped, likewise.
    pub fn dropped(&self) -> u64 {
        self.shared.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        // It fails only where so many wakes wait that one more is none.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    fn count_dropped(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes notice of all wakes so far.
    fn awake(&self) {
        // Without a wake there is nothing to read.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Waits for `time`, or until the session ends.
    fn rest(&self, time: Duration) {
        let end = since_boot() + time;
        while !self.is_ending() {
            let left = end.saturating_sub(since_boot());
            let Ok(timeout) = Timespec::try_from(left) else { return };
            if left.is_zero() {
                return;
            }
            let mut waiting = [PollFd::new(&self.wake, PollFlags::IN)];
            // When it cannot wait it looks at the clock again.
            let _ = poll(&mut waiting, Some(&timeout));
            self.awake();
        }
    }
}

/// What the thread knows.
struct Keeper {
    brokers: Brokers,
    topics: Vec<Topic>,
    deliver: Box<dyn FnMut(Event) + Send>,
    inbox: Receiver<Frame>,
    shared: Arc<Shared>,
    /// Since when we listen on the broker (time since boot).
    up: Option<Duration>,
}

impl Keeper {
    fn run(mut self) {
        self.keep();
        // Nobody sends any more; what is left was given to us and does not go out.
        self.inbox.iter().for_each(|_| self.shared.count_dropped());
    }

    fn keep(&mut self) {
        let mut round = 0;
        while !self.shared.is_ending() {
            round += 1;
            let mut untried = self.round().into_iter();
            while let Some(broker) = untried.next() {
                self.up = None;
                let Err(why) = self.stay_with(&broker) else { return };
                let lasted = self.up.map(|up| since_boot().saturating_sub(up));
                let next = self.brokers.retry.next(lasted, untried.len(), round, chance());
                let again_in = match next {
                    Next::Another => Duration::ZERO,
                    Next::Afresh(wait) | Next::Again(wait) => wait,
                };
                (self.deliver)(Event::Down { why, again_in });
                self.shared.rest(again_in);
                if self.shared.is_ending() {
                    return;
                }
                if matches!(next, Next::Afresh(_)) {
                    round = 0;
                    break;
                }
            }
        }
    }

    /// The brokers, in the order in which they are tried now.
    fn round(&self) -> Vec<Broker> {
        let mut list = self.brokers.list.clone();
        if self.brokers.retry.order == broker::Order::Random {
            let first = (chance() * list.len() as f64) as usize;
            let first = first.min(list.len().saturating_sub(1));
            list.rotate_left(first);
        }
        list
    }

    /// One connection, until it is over; `Ok` when the session ends.
    fn stay_with(&mut self, broker: &Broker) -> Result<()> {
        let mut connection = Connection::open(broker, &self.brokers, since_boot() + 2 * ANSWER)?;
        let told = || format!("the session with the broker {broker} is over");
        let deliver = &mut self.deliver;
        connection
            .subscribe(&self.topics, since_boot() + ANSWER, &mut |frame| hand_on(deliver, frame))
            .with_context(told)?;
        self.up = Some(since_boot());
        (self.deliver)(Event::Up(connection.name().to_owned()));
        loop {
            self.shared.awake();
            if self.shared.is_ending() {
                connection.leave();
                return Ok(());
            }
            let mut sent = 0;
            while sent < AT_ONCE
                && let Ok(frame) = self.inbox.try_recv()
            {
                self.pass_on(&mut connection, &frame).with_context(told)?;
                sent += 1;
            }
            let wake = Some(self.shared.wake.as_fd());
            // With more to send, only what has come already is looked at.
            let patience = if sent == AT_ONCE { Duration::ZERO } else { LONG };
            let came = connection.receive(since_boot() + patience, wake);
            if let Some(frame) = came.with_context(told)? {
                hand_on(&mut self.deliver, frame);
            }
        }
    }

    fn pass_on(&self, connection: &mut Connection, frame: &Frame) -> Result<()> {
        let sent = connection.send(frame, since_boot() + WRITE);
        match sent {
            Ok(()) => {
                self.shared.counts.sent.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.shared.count_dropped();
                // The next one may be better.
                if error.is::<Unsendable>() { Ok(()) } else { Err(error) }
            }
        }
    }
}

fn hand_on(deliver: &mut impl FnMut(Event), frame: Frame) {
    if frame.command == "MESSAGE" {
        deliver(Event::Message(frame));
    }
}

/// A number from 0 to 1, another one on each machine and each time. Nothing secret hangs on it.
fn chance() -> f64 {
    let now = since_boot().as_nanos().to_ne_bytes();
    hash::fraction(&[&now, &std::process::id().to_ne_bytes()])
}
