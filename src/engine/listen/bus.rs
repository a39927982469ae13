//! The session with the message bus, one at a time. It survives a reload that changes nothing about it;
//! after a replacement, the old session's reports about itself do not count. Does not know STOMP.

use anyhow::Result;

use super::{Listener, ListenerEvent, TickCause};
use crate::domain::bus::message::{PushHint, Topic};
use crate::domain::bus::stomp::StompFrame;
use crate::domain::report::metrics;
use crate::domain::text::EscapeControls;
use crate::engine::error::one_line;
use crate::system::host;
use crate::system::stomp::session::{StompEvent, StompSession};

/// The maximum of different reasons for a missing bus that are logged until the bus is back.
const MOST_REASONS: usize = 16;

/// An event of a session.
pub enum SessionEvent {
    /// It is connected to this broker.
    Up(String),
    /// It is not connected, for this reason.
    Down(String),
    /// A message came; `None`: it names no repository.
    Message(Option<HeardPush>),
}

/// A message about a push.
pub struct HeardPush {
    /// The topic of the message.
    topic: Topic,
    /// The name of the repository in messages.
    repo: String,
    /// The full name of the changed ref; `None`: the message names none.
    name: Option<String>,
}

impl Listener {
    /// Opens a session by the settings; keeps the present one if it fits.
    pub fn connect(&mut self) -> Result<()> {
        let Some(bus) = &self.settings.bus else {
            self.session = None;
            self.figures.session = None;
            return Ok(());
        };
        if !bus.ignored.is_empty() {
            let ignored = bus.ignored.join(", ");
            tracing::warn!(
                "these options of brokers have no effect: {}",
                ignored.escape_controls()
            );
        }
        let (brokers, topics) = (bus.brokers.clone(), self.audience.topics().to_vec());
        for warning in topics.iter().filter_map(Topic::queue_warning) {
            tracing::warn!("{}", warning.lines().next().unwrap_or_default());
        }
        let is_there = |old: &StompSession| (old.brokers(), old.topics()) == (&brokers, &*topics);
        if self.session.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        self.session_number += 1;
        let (number, known, sender) = (self.session_number, topics.clone(), self.sender.clone());
        // The send waits while the queue is full, and fails only when the receiver is gone.
        let deliver =
            move |event| drop(sender.send(ListenerEvent::Bus(number, said(event, &known))));
        self.session = Some(match self.session.take() {
            Some(old) => old.replace(brokers, topics, deliver)?,
            None => StompSession::start(brokers, topics, deliver)?,
        });
        self.reasons.clear();
        self.connected_to(None);
        Ok(())
    }

    /// Handles an event of the session with this number.
    pub fn hear_session(&mut self, number: u64, said: SessionEvent) {
        match said {
            SessionEvent::Message(about) => self.hear_message(about),
            _ if number != self.session_number => {}
            SessionEvent::Up(broker) => {
                tracing::info!("listening on {}", broker.escape_controls());
                self.reasons.clear();
                self.connected_to(Some(broker));
                // Earlier messages may be lost, and this tick does not wait for a running script.
                self.wakes.release(&None);
                self.command(None, TickCause::of_bus());
            }
            SessionEvent::Down(why) => {
                self.connected_to(None);
                if self.reasons.len() < MOST_REASONS && self.reasons.insert(why.clone()) {
                    tracing::warn!("no message bus: {}", why.escape_controls());
                }
            }
        }
    }

    fn hear_message(&mut self, heard: Option<HeardPush>) {
        let called =
            heard.as_ref().map(|HeardPush { topic, repo, .. }| self.audience.called(topic, repo));
        let called = called.unwrap_or_default();
        if called.is_empty() {
            self.count_message(metrics::HintOutcome::Unknown);
            return self.count_unknown(heard.as_ref().map_or("", |heard| &heard.repo));
        }
        let name = heard.and_then(|heard| heard.name);
        let concerned = |repo: &String| {
            let settings = self.settings.of_repo(repo);
            // On a topic of its own come messages of other senders, such as a build, about refs of their own.
            let is_push = settings.listen_topics.is_empty();
            !is_push || name.as_deref().is_none_or(|name| settings.may_follow(name))
        };
        let concerned: Vec<String> = called.into_iter().filter(concerned).collect();
        self.count_message(match concerned.is_empty() {
            true => metrics::HintOutcome::Other,
            false => metrics::HintOutcome::Known,
        });
        for repo in concerned {
            self.command(Some(repo), TickCause::of_bus());
        }
    }

    /// Records the connected broker; `None`: there is none.
    fn connected_to(&mut self, broker: Option<String>) {
        let was = self.figures.session.as_ref();
        if was.is_none_or(|was| was.broker != broker) {
            let since = host::now();
            self.figures.session = Some(metrics::BusSession { broker, since, sent: 0, dropped: 0 });
        }
    }

    fn count_message(&mut self, heard: metrics::HintOutcome) {
        *self.figures.messages.entry(heard).or_default() += 1;
    }
}

/// The session event for a STOMP event; `topics` are those subscribed to.
fn said(event: StompEvent, topics: &[Topic]) -> SessionEvent {
    match event {
        StompEvent::Up(broker) => SessionEvent::Up(broker),
        StompEvent::Down { why, .. } => SessionEvent::Down(one_line(&why)),
        StompEvent::Message(frame) => SessionEvent::Message(about(&frame, topics)),
    }
}

fn about(frame: &StompFrame, topics: &[Topic]) -> Option<HeardPush> {
    let PushHint { repo, name, .. } = PushHint::read(frame)?;
    let number: usize = frame.header("subscription")?.parse().ok()?;
    Some(HeardPush { topic: topics.get(number)?.clone(), repo, name })
}
