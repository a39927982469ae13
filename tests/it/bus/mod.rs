//! The message bus on real brokers. Each test that names one runs against both. Here is what its
//! modules share.

mod bridge;
mod chain;
mod claims;
mod clients;
mod example;
mod failover;
mod faults;
pub mod gitolite;
mod hook;
mod listen;
mod outage;
mod reload;
mod reports;
mod session;
mod with_cron;

use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use pmpy::domain::bus::broker::{BrokerEntry, BrokerSettings, RetryPolicy};
use pmpy::domain::bus::message::Topic;
use pmpy::domain::bus::stomp::StompFrame;
use pmpy::system::host::since_boot;
use pmpy::system::stomp::BrokerConnection;
use pmpy::system::stomp::session::{StompEvent, StompSession};

use crate::servers::brokers::{ODD, login_file};

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(180);

/// The brokers at `urls`, for who has `login`.
fn brokers(urls: &[String], dir: &Path, login: &str) -> BrokerSettings {
    let listed = urls.iter().map(|url| url.parse::<BrokerEntry>().unwrap());
    BrokerSettings {
        list: listed.flat_map(|listed| listed.brokers).collect(),
        retry: RetryPolicy::default(),
        login_file: Some(login_file(dir, login)),
        ca_file: None,
        host: "/".to_owned(),
        // A broker that has much to do beats late.
        heartbeat: Duration::from_secs(30),
    }
}

/// The same for a test about beats: often enough to be waited for.
fn beating(brokers: BrokerSettings) -> BrokerSettings {
    BrokerSettings { heartbeat: Duration::from_secs(2), ..brokers }
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

/// A session and what happens to it.
struct Listening {
    session: StompSession,
    events: Receiver<StompEvent>,
}

impl Listening {
    fn to(brokers: &BrokerSettings, topics: &[&str]) -> Self {
        let (tell, events) = mpsc::channel();
        let topics = topics.iter().map(|name| topic(name)).collect();
        let deliver = move |event| drop(tell.send(event));
        let session = StompSession::start(brokers.clone(), topics, deliver).unwrap();
        Self { session, events }
    }

    #[track_caller]
    fn next(&self) -> StompEvent {
        self.events.recv_timeout(PATIENCE).expect("something happens")
    }

    /// The address of the broker that is connected next.
    #[track_caller]
    fn up(&self) -> String {
        loop {
            if let StompEvent::Up(name) = self.next() {
                return name;
            }
        }
    }

    /// Why it is not connected, in one line, and when it is tried again.
    #[track_caller]
    fn down(&self) -> (String, Duration) {
        loop {
            if let StompEvent::Down { why, again_in } = self.next() {
                return (format!("{why:#}"), again_in);
            }
        }
    }

    /// The next message, nothing else having happened.
    #[track_caller]
    fn message(&self) -> StompFrame {
        match self.next() {
            StompEvent::Message(frame) => frame,
            other => panic!("a message was expected: {other:?}"),
        }
    }
}

/// Publishes `frame` as who may do everything.
#[track_caller]
fn publish(url: &str, dir: &Path, frame: &StompFrame) {
    let everything = brokers(&[url.to_owned()], dir, ODD);
    let deadline = since_boot() + PATIENCE;
    let mut connection =
        BrokerConnection::open(&everything.list[0], &everything, deadline).unwrap();
    assert_eq!(connection.publish(vec![frame.clone()], deadline).unwrap(), 0);
    connection.disconnect();
}

/// A message with a subject and a body.
fn message(topic: &str, subject: &str, body: impl Into<Vec<u8>>) -> StompFrame {
    let frame = StompFrame::new("SEND")
        .with("destination", format!("/topic/{topic}"))
        .with("subject", subject);
    StompFrame { body: body.into(), ..frame }
}
