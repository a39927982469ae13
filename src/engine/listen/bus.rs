//! The session with the message bus, one at a time. It outlives a reload that changes nothing about it;
//! where one takes the place of another, what the old one still says of itself does not count.

use anyhow::Result;

use super::{Listener, News};
use crate::domain::action::Trigger;
use crate::domain::bus::{Hint, Topic};
use crate::domain::metrics;
use crate::domain::stomp::Frame;
use crate::engine::observe::one_line;
use crate::system::node;
use crate::system::stomp::session::{Event, Session};

/// How many different reasons why there is no bus are told until there is one again.
const MOST_REASONS: usize = 16;

/// What a session says.
pub enum Said {
    /// The bus is there.
    Up(String),
    /// It is not, and why.
    Down(String),
    /// A message came to this topic; `None`: it names no repository.
    Message(Option<(Topic, String)>),
}

impl Listener {
    /// A session as the settings have it: the one that there is, if it does.
    pub fn connect(&mut self) -> Result<()> {
        let Some(bus) = &self.settings.bus else {
            self.session = None;
            self.figures.session = None;
            return Ok(());
        };
        if !bus.ignored.is_empty() {
            let ignored = bus.ignored.join(", ");
            tracing::warn!("these options of brokers mean nothing: {}", ignored.escape_debug());
        }
        let (brokers, topics) = (bus.brokers.clone(), self.audience.topics().to_vec());
        let is_there = |old: &Session| (old.brokers(), old.topics()) == (&brokers, &*topics);
        if self.session.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        self.session_number += 1;
        let (number, known, tell) = (self.session_number, topics.clone(), self.tell.clone());
        // It waits when there is too much news, and fails only when nobody listens any more.
        let deliver = move |event| drop(tell.send(News::Bus(number, said(event, &known))));
        self.session = Some(match self.session.take() {
            Some(old) => old.replace(brokers, topics, deliver)?,
            None => Session::start(brokers, topics, deliver)?,
        });
        self.reasons.clear();
        self.connected_to(None);
        Ok(())
    }

    /// The session with this number says something.
    pub fn hear_session(&mut self, number: u64, said: Said) {
        match said {
            Said::Message(about) => self.hear_message(about),
            _ if number != self.session_number => {}
            Said::Up(broker) => {
                tracing::info!("listens on {}", broker.escape_debug());
                self.reasons.clear();
                self.connected_to(Some(broker));
                // What was said before may have been lost, and no script that runs is waited for.
                self.wakes.let_go(&None);
                self.wish(None, Trigger::Bus);
            }
            Said::Down(why) => {
                self.connected_to(None);
                if self.reasons.len() < MOST_REASONS && self.reasons.insert(why.clone()) {
                    tracing::warn!("no message bus: {}", why.escape_debug());
                }
            }
        }
    }

    fn hear_message(&mut self, about: Option<(Topic, String)>) {
        let called = about.as_ref().map(|(topic, name)| self.audience.called(topic, name));
        let called = called.unwrap_or_default();
        if called.is_empty() {
            self.count_message(metrics::Heard::Unknown);
            self.count_unknown(about.as_ref().map_or("", |(_, name)| name));
        } else {
            self.count_message(metrics::Heard::Known);
        }
        for repo in called {
            self.wish(Some(repo), Trigger::Bus);
        }
    }

    /// The bus is connected to this broker now, or to none.
    fn connected_to(&mut self, broker: Option<String>) {
        let was = self.figures.session.as_ref();
        if was.is_none_or(|was| was.broker != broker) {
            let since = node::now();
            self.figures.session = Some(metrics::Session { broker, since, sent: 0, dropped: 0 });
        }
    }

    fn count_message(&mut self, heard: metrics::Heard) {
        *self.figures.messages.entry(heard).or_default() += 1;
    }
}

/// What an event means to a session that listens to `topics`.
fn said(event: Event, topics: &[Topic]) -> Said {
    match event {
        Event::Up(broker) => Said::Up(broker),
        Event::Down { why, .. } => Said::Down(one_line(&why)),
        Event::Message(frame) => Said::Message(about(&frame, topics)),
    }
}

fn about(frame: &Frame, topics: &[Topic]) -> Option<(Topic, String)> {
    let hint = Hint::read(frame)?;
    let number: usize = frame.header("subscription")?.parse().ok()?;
    Some((topics.get(number)?.clone(), hint.repo))
}
