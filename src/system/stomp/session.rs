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
use crate::domain::broker::{self, Broker, Brokers};
use crate::domain::bus::Topic;
use crate::domain::hash;
use crate::domain::stomp::{Frame, Unsendable};
use crate::system::node::since_boot;

/// How many frames wait to be sent.
const WAITING: usize = 256;
/// How many of them are sent before it is looked at what has come.
const AT_ONCE: usize = 32;
/// How long a session must last for its broker to count as one of use. A shorter one is followed by a
/// wait, so that a broker that refuses us is not asked all the time.
const USEFUL: Duration = Duration::from_secs(10);
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
    outbox: SyncSender<Frame>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Can be read when there is something to send or the session ends.
    wake: OwnedFd,
    is_ending: AtomicBool,
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
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make a descriptor to wake the session by")?;
        let shared = Arc::new(Shared {
            wake,
            is_ending: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let (outbox, inbox) = mpsc::sync_channel(WAITING);
        let deliver = Box::new(deliver);
        let keeper = Keeper { brokers, topics, deliver, inbox, shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name("bus".to_owned())
            .spawn(move || keeper.keep())
            .context("cannot start the session's thread")?;
        Ok(Self { outbox, shared })
    }

    /// Sends `frame` when there is a broker. Never waits: what does not fit into the queue is dropped
    /// and counted.
    pub fn send(&self, frame: Frame) {
        match self.outbox.try_send(frame) {
            Ok(()) => self.shared.wake(),
            Err(_) => self.shared.count_dropped(),
        }
    }

    /// How many frames were sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// How many frames were given to [`Session::send`] and dropped.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
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
        self.dropped.fetch_add(1, Ordering::Relaxed);
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
}

impl Keeper {
    fn keep(mut self) {
        let mut failed_rounds = 0;
        while !self.shared.is_ending() {
            failed_rounds += 1;
            for (number, broker) in self.round().into_iter().enumerate() {
                let began = since_boot();
                let Err(why) = self.stay_with(&broker) else { return };
                let was_useful = since_boot() - began > USEFUL;
                let is_last = number + 1 == self.brokers.list.len();
                if was_useful {
                    failed_rounds = 0;
                }
                let again_in = match was_useful || !is_last {
                    true => Duration::ZERO,
                    false => self.brokers.retry.wait(failed_rounds, chance()),
                };
                (self.deliver)(Event::Down { why, again_in });
                self.shared.rest(again_in);
                // From the front again, which is where the preferred ones are.
                if was_useful || self.shared.is_ending() {
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
                self.shared.sent.fetch_add(1, Ordering::Relaxed);
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
