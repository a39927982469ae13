//! A persistent STOMP session: a thread that stays connected to one of the brokers, sends heart-beats
//! and frames, and delivers messages. When a broker is lost it tries the next one, and when none works,
//! all of them again later. Does not know the meaning of messages.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;

use super::{ANSWER, BrokerConnection, WRITE};
use crate::domain::bus::broker::{self, Broker, BrokerSettings, NextBroker};
use crate::domain::bus::message::Topic;
use crate::domain::bus::stomp::{EncodeError, StompFrame};
use crate::domain::hash;
use crate::system::host::since_boot;

/// Frames in the send queue at most.
const WAITING: usize = 256;
/// Frames sent before the next read.
const AT_ONCE: usize = 32;
/// Longest wait; practically unlimited, because the wake descriptor ends it.
const LONG: Duration = Duration::from_secs(3600);

/// Event of a session.
#[derive(Debug)]
pub enum StompEvent {
    /// Connected to this broker and subscribed to every topic. Earlier messages may be lost.
    Up(String),
    /// A message arrived.
    Message(StompFrame),
    /// Not connected, or no longer.
    Down {
        /// Cause, with the broker's address.
        why: Error,
        /// Time until the next attempt.
        again_in: Duration,
    },
}

/// A session that lasts until it is dropped.
#[derive(Debug)]
pub struct StompSession {
    brokers: BrokerSettings,
    topics: Vec<Topic>,
    outbox: SyncSender<StompFrame>,
    shared: Arc<SessionShared>,
}

#[derive(Debug)]
struct SessionShared {
    /// Readable when there is a frame to send or the session ends.
    wake: OwnedFd,
    is_ending: AtomicBool,
    counts: Arc<SendCounts>,
}

/// Counters of sent and dropped frames.
#[derive(Debug, Default)]
struct SendCounts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl StompSession {
    /// Starts a session. `deliver` runs on the session's thread and blocks it, so it must be quick.
    ///
    /// # Errors
    /// When the system provides no thread or descriptor.
    pub fn start(
        brokers: BrokerSettings,
        topics: Vec<Topic>,
        deliver: impl FnMut(StompEvent) + Send + 'static,
    ) -> Result<Self> {
        Self::counting(Arc::default(), brokers, topics, deliver)
    }

    /// Ends the session and starts a new one that continues its counters.
    ///
    /// # Errors
    /// As [`StompSession::start`].
    pub fn replace(
        self,
        brokers: BrokerSettings,
        topics: Vec<Topic>,
        deliver: impl FnMut(StompEvent) + Send + 'static,
    ) -> Result<Self> {
        Self::counting(Arc::clone(&self.shared.counts), brokers, topics, deliver)
    }

    fn counting(
        counts: Arc<SendCounts>,
        brokers: BrokerSettings,
        topics: Vec<Topic>,
        mut deliver: impl FnMut(StompEvent) + Send + 'static,
    ) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make a descriptor to wake the session by")?;
        let shared = Arc::new(SessionShared { wake, is_ending: AtomicBool::new(false), counts });
        let (outbox, inbox) = mpsc::sync_channel(WAITING);
        let (ours, delegated) = (Arc::clone(&shared), Arc::clone(&shared));
        let keeper = SessionThread {
            brokers: brokers.clone(),
            topics: topics.clone(),
            // Events of a dropped session are not delivered any more.
            deliver: Box::new(move |event| {
                if !delegated.is_ending() {
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

    /// The brokers of the session.
    pub fn brokers(&self) -> &BrokerSettings {
        &self.brokers
    }

    /// The topics of the session.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Queues `frame` for sending. Never blocks: when the queue is full, the frame is dropped and
    /// counted.
    pub fn send(&self, frame: StompFrame) {
        match self.outbox.try_send(frame) {
            Ok(()) => self.shared.wake(),
            Err(_) => self.shared.count_dropped(),
        }
    }

    /// Number of frames sent, including by replaced sessions.
    pub fn sent(&self) -> u64 {
        self.shared.counts.sent.load(Ordering::Relaxed)
    }

    /// Number of frames given to [`StompSession::send`] and dropped, including by replaced sessions.
    pub fn dropped(&self) -> u64 {
        self.shared.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for StompSession {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        self.shared.wake();
    }
}

impl SessionShared {
    fn wake(&self) {
        // It fails only at the counter's maximum, where a wake is already pending.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    fn count_dropped(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Clears all pending wakes.
    fn awake(&self) {
        // Without a pending wake there is nothing to read.
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
            // If the poll fails, the loop checks the clock again.
            let _ = poll(&mut waiting, Some(&timeout));
            self.awake();
        }
    }
}

/// State of the session's thread.
struct SessionThread {
    brokers: BrokerSettings,
    topics: Vec<Topic>,
    deliver: Box<dyn FnMut(StompEvent) + Send>,
    inbox: Receiver<StompFrame>,
    shared: Arc<SessionShared>,
    /// Start of the subscription (time since boot); `None` when there is none.
    up: Option<Duration>,
}

impl SessionThread {
    fn run(mut self) {
        self.keep();
        // No new frames arrive; the queued ones are not sent and count as dropped.
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
                    NextBroker::Another => Duration::ZERO,
                    NextBroker::Afresh(wait) | NextBroker::Again(wait) => wait,
                };
                (self.deliver)(StompEvent::Down { why, again_in });
                self.shared.rest(again_in);
                if self.shared.is_ending() {
                    return;
                }
                if matches!(next, NextBroker::Afresh(_)) {
                    round = 0;
                    break;
                }
            }
        }
    }

    /// The brokers in the order of this attempt.
    fn round(&self) -> Vec<Broker> {
        let mut list = self.brokers.list.clone();
        if self.brokers.retry.order == broker::BrokerOrder::Random {
            let first = (chance() * list.len() as f64) as usize;
            let first = first.min(list.len().saturating_sub(1));
            list.rotate_left(first);
        }
        list
    }

    /// Keeps one connection until it breaks; `Ok` when the session ends.
    fn stay_with(&mut self, broker: &Broker) -> Result<()> {
        let mut connection =
            BrokerConnection::open(broker, &self.brokers, since_boot() + 2 * ANSWER)?;
        let message = || format!("the session with the broker {broker} is over");
        let deliver = &mut self.deliver;
        connection
            .subscribe(&self.topics, since_boot() + ANSWER, &mut |frame| hand_on(deliver, frame))
            .with_context(message)?;
        self.up = Some(since_boot());
        (self.deliver)(StompEvent::Up(connection.name().to_owned()));
        loop {
            self.shared.awake();
            if self.shared.is_ending() {
                connection.disconnect();
                return Ok(());
            }
            let mut sent = 0;
            while sent < AT_ONCE
                && let Ok(frame) = self.inbox.try_recv()
            {
                self.pass_on(&mut connection, &frame).with_context(message)?;
                sent += 1;
            }
            let wake = Some(self.shared.wake.as_fd());
            // With more frames to send, read only data that has already arrived.
            let patience = if sent == AT_ONCE { Duration::ZERO } else { LONG };
            let came = connection.receive(since_boot() + patience, wake);
            if let Some(frame) = came.with_context(message)? {
                hand_on(&mut self.deliver, frame);
            }
        }
    }

    fn pass_on(&self, connection: &mut BrokerConnection, frame: &StompFrame) -> Result<()> {
        let sent = connection.send(frame, since_boot() + WRITE);
        match sent {
            Ok(()) => {
                self.shared.counts.sent.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.shared.count_dropped();
                // The next frame may be valid.
                if error.is::<EncodeError>() { Ok(()) } else { Err(error) }
            }
        }
    }
}

fn hand_on(deliver: &mut impl FnMut(StompEvent), frame: StompFrame) {
    if frame.command == "MESSAGE" {
        deliver(StompEvent::Message(frame));
    }
}

/// Random number from 0 to 1, different on each machine and each call. Not for secrets.
fn chance() -> f64 {
    let now = since_boot().as_nanos().to_ne_bytes();
    hash::fraction(&[&now, &std::process::id().to_ne_bytes()])
}
