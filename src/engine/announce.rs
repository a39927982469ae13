//! A push is announced on the message bus: read what came, tell the first broker that takes it. In
//! bounded time, because somebody waits for their `git push` to end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::config::Bus;
use crate::domain::bus::{Announcement, Update};
use crate::domain::stomp::Frame;
use crate::system::git::log;
use crate::system::node::since_boot;
use crate::system::stomp::Connection;

/// How many commits of a ref are told.
const COMMITS: usize = 20;
/// Of how many refs of one push commits are told at all.
const TOLD_REFS: usize = 20;
/// How long reading commits may take; what is not read by then is left out.
const READING: Duration = Duration::from_millis(300);

/// What was pushed into a repository on a server.
#[derive(Debug)]
pub struct Push {
    /// What the repository is called on the bus.
    pub repo: String,
    /// Where it is.
    pub git_dir: PathBuf,
    /// Who pushed.
    pub user: String,
    /// Every ref that the push moved.
    pub updates: Vec<Update>,
}

/// How it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A broker has confirmed every message.
    Confirmed,
    /// So many messages were sent and not confirmed in time.
    Unconfirmed(usize),
}

/// Tells `bus` of `push`, until `deadline` (time since boot).
///
/// # Errors
/// When no broker takes it: what the last one said.
pub fn announce(bus: &Bus, push: &Push, deadline: Duration) -> Result<Taken> {
    let frames = frames(bus, push);
    let brokers = &bus.brokers;
    let mut last = anyhow!("there is no broker");
    for (tried, broker) in brokers.list.iter().enumerate() {
        let now = since_boot();
        // One that hangs leaves the others their share.
        let share = deadline.saturating_sub(now) / (brokers.list.len() - tried) as u32;
        let taken = Connection::open(broker, brokers, now + share).and_then(|mut connection| {
            tracing::debug!(%broker, "announces");
            let missing = connection.publish(frames.clone(), deadline)?;
            connection.leave();
            Ok(missing)
        });
        match taken {
            Ok(0) => return Ok(Taken::Confirmed),
            Ok(missing) => return Ok(Taken::Unconfirmed(missing)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn frames(bus: &Bus, push: &Push) -> Vec<Frame> {
    let enough = since_boot() + READING;
    let frame = |(number, update)| {
        let log = match number < TOLD_REFS && since_boot() < enough {
            // The commits are for people to read; without them it is announced all the same.
            true => log::brought(&push.git_dir, update, COMMITS).unwrap_or_default(),
            false => Vec::new(),
        };
        let Push { repo, user, .. } = push;
        Announcement { repo, update, user, log: &log }.frame(&bus.announce_topic)
    };
    push.updates.iter().enumerate().map(frame).collect()
}
