//! Announces a push on the message bus: reads the commits and sends them to the first broker that accepts.
//! Its time is limited, because a person waits for `git push` to end. Does not know who listens.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::config::BusSettings;
use crate::domain::bus::message::{PushMessage, RefUpdate};
use crate::domain::bus::stomp::StompFrame;
use crate::system::git::log;
use crate::system::host::since_boot;
use crate::system::stomp::BrokerConnection;

/// The maximum of commits that are announced for a ref.
const COMMITS: usize = 20;
/// The maximum of refs of a push whose commits are announced.
const TOLD_REFS: usize = 20;
/// The time limit for reading commits; later ones are left out.
const READING: Duration = Duration::from_millis(300);

/// A push into a repository on a server.
#[derive(Debug)]
pub struct PushedRefs {
    /// The repository's name on the bus.
    pub repo: String,
    /// The path of its git directory.
    pub git_dir: PathBuf,
    /// The user who pushed.
    pub user: String,
    /// Every ref that the push moved.
    pub updates: Vec<RefUpdate>,
}

/// The result of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceOutcome {
    /// A broker has confirmed every message.
    Confirmed,
    /// This many messages were sent and not confirmed in time.
    Unconfirmed(usize),
}

/// Announces `push` on `bus`, until `deadline` (time since boot).
///
/// # Errors
/// When no broker accepts it: the last broker's error.
pub fn announce(
    bus: &BusSettings,
    push: &PushedRefs,
    deadline: Duration,
) -> Result<AnnounceOutcome> {
    let frames = frames(bus, push);
    let brokers = &bus.brokers;
    let mut last = anyhow!("there is no broker");
    for (tried, broker) in brokers.list.iter().enumerate() {
        let now = since_boot();
        // A broker that hangs leaves the others their share of the time.
        let share = deadline.saturating_sub(now) / (brokers.list.len() - tried) as u32;
        let taken =
            BrokerConnection::open(broker, brokers, now + share).and_then(|mut connection| {
                tracing::debug!(%broker, "announces");
                let missing = connection.publish(frames.clone(), deadline)?;
                connection.disconnect();
                Ok(missing)
            });
        match taken {
            Ok(0) => return Ok(AnnounceOutcome::Confirmed),
            Ok(missing) => return Ok(AnnounceOutcome::Unconfirmed(missing)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn frames(bus: &BusSettings, push: &PushedRefs) -> Vec<StompFrame> {
    let enough = since_boot() + READING;
    let frame = |(number, update)| {
        let log = match number < TOLD_REFS && since_boot() < enough {
            // The commits are for people to read; the announcement is useful without them.
            true => log::brought(&push.git_dir, update, COMMITS).unwrap_or_default(),
            false => Vec::new(),
        };
        let PushedRefs { repo, user, .. } = push;
        PushMessage { repo, update, user, log: &log }.frame(&bus.announce_topic)
    };
    push.updates.iter().enumerate().map(frame).collect()
}
