//! Tells the bus that actions begin, as their workers say, and what they came to, from what the machine
//! itself recorded of them. Never waits for
//! anybody: a report that cannot be sent is dropped, and it is told how many were.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::audience::Tally;
use crate::domain::action::{Begun, Finished};
use crate::domain::bus::{Report, Step, Topic};
use crate::domain::stomp::Frame;
use crate::engine::tick::Tick;
use crate::engine::{Here, steer};
use crate::system::node::since_boot;
use crate::system::stomp::session::Session;

/// How many actions are known to have been told. Ticks side by side see the same ones.
const KNOWN: usize = 4096;

/// Who reports, and what was reported.
#[derive(Debug)]
pub struct Reporter {
    pub host: String,
    told: VecDeque<String>,
    dropped: Tally,
}

impl Reporter {
    /// On this host.
    pub fn new(host: String) -> Self {
        Self { host, told: VecDeque::new(), dropped: Tally::default() }
    }

    /// Tells `topic` that an action begins.
    pub fn tell_begun(&mut self, session: &Session, topic: &Topic, begun: &Begun) {
        let report = Report {
            host: &self.host,
            repo: &begun.repo,
            reference: begun.reference.as_deref(),
            revision: begun.revision,
            previous: begun.previous,
            step: &Step::Started,
            seconds: 0.0,
            at: begun.at,
        };
        self.send(session, report.frame(topic));
    }

    /// Tells `topic` what became of `actions`, each with its repository, those that were told left out.
    pub fn tell(&mut self, session: &Session, topic: &Topic, actions: &[(String, Finished)]) {
        for (repo, action) in actions {
            if self.told.contains(&action.id) {
                continue;
            }
            self.told.push_back(action.id.clone());
            if self.told.len() > KNOWN {
                self.told.pop_front();
            }
            let report = Report {
                host: &self.host,
                repo,
                reference: action.reference.as_deref(),
                revision: action.revision,
                previous: action.previous,
                step: &Step::Ended(action.outcome.clone()),
                seconds: action.seconds,
                at: action.at,
            };
            self.send(session, report.frame(topic));
        }
    }

    fn send(&mut self, session: &Session, frame: Frame) {
        let before = session.dropped();
        session.send(frame);
        if session.dropped() > before
            && let Some(count) = self.dropped.count(since_boot())
        {
            tracing::warn!("reports that could not be sent: {count}");
        }
    }
}

/// What was done since `began` with the repositories on which `tick` had work to do.
pub fn actions(here: &Here, tick: &Tick, began: DateTime<Utc>) -> Vec<(String, Finished)> {
    let worked = tick.decisions.iter().filter(|(_, plan)| plan.is_work());
    let names: Vec<String> = worked.map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let histories = match steer::histories(here, &names) {
        Ok(histories) => histories,
        Err(error) => {
            tracing::warn!("not reported: {}", format!("{error:#}").escape_debug());
            return Vec::new();
        }
    };
    let recent = |(name, runs): steer::History| {
        let runs = runs.unwrap_or_default();
        runs.into_iter().filter(move |run| run.at >= began).map(move |run| (name.clone(), run))
    };
    histories.into_iter().flat_map(recent).collect()
}
