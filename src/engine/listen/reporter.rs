//! Tells the bus that actions begin, as their workers say, and what they came to, from what the machine
//! itself recorded of them, whoever ran them: a tick of ours, one of cron's beside us, a person, or a worker
//! that outlived the agent before us. Never waits for anybody: a report that cannot be sent is dropped, and
//! it is told how many were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::Listener;
use super::audience::Tally;
use crate::domain::action::{Begun, Finished, Word};
use crate::domain::bus::{Report, Step, Topic};
use crate::domain::metrics::Answered;
use crate::domain::status::Row;
use crate::domain::stomp::Frame;
use crate::engine::tick::Tick;
use crate::engine::{Here, steer};
use crate::system::node::since_boot;
use crate::system::stomp::session::Session;

/// Who reports, and what was reported.
#[derive(Debug)]
pub struct Reporter {
    pub host: String,
    /// What ended before is not for us to tell.
    since: DateTime<Utc>,
    /// The last that was told, by repository.
    told: BTreeMap<String, Told>,
    seen: Seen,
    dropped: Tally,
}

#[derive(Debug)]
struct Told {
    id: String,
    at: DateTime<Utc>,
}

/// How each repository stood when its history was last read: as long as it stands so, there is nothing
/// new in it. Ticks side by side share this.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<BTreeMap<String, Row>>>);

/// What ended in one repository, oldest first.
pub type Ended = (String, Vec<Finished>);

impl Reporter {
    /// On this host, of what ends from `now` on.
    pub fn new(host: String, now: DateTime<Utc>) -> Self {
        let (told, seen, dropped) = (BTreeMap::new(), Seen::default(), Tally::default());
        Self { host, since: now, told, seen, dropped }
    }

    /// What the next ticks find out is kept in.
    pub fn seen(&self) -> Seen {
        self.seen.clone()
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

    /// Tells `topic` what became of the actions in `all`, those that were told left out.
    pub fn tell(&mut self, session: &Session, topic: &Topic, all: &[Ended]) {
        for (repo, runs) in all {
            for action in self.news(repo, runs) {
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
    }

    /// Those of `runs` that come after the last that was told of `repo`; they are told now.
    fn news<'a>(&mut self, repo: &str, runs: &'a [Finished]) -> &'a [Finished] {
        let told = self.told.get(repo);
        let last = told.and_then(|told| runs.iter().rposition(|run| run.id == told.id));
        let first = match (last, told) {
            (Some(last), _) => last + 1,
            // Read before that one was recorded, or the history was cut since.
            (None, Some(told)) => runs.partition_point(|run| run.at <= told.at),
            (None, None) => runs.partition_point(|run| run.at < self.since),
        };
        let news = runs.get(first..).unwrap_or_default();
        if let Some(run) = news.last() {
            self.told.insert(repo.to_owned(), Told { id: run.id.clone(), at: run.at });
        }
        news
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

impl Listener {
    /// Whoever works says what goes on.
    pub(super) fn hear_of_work(&mut self, word: Word) {
        match word {
            Word::Begun(begun) => {
                tracing::debug!(repository = %begun.repo, "an action begins");
                self.report(|reporter, session, topic| reporter.tell_begun(session, topic, &begun));
            }
            Word::Polled { repo, bytes } => {
                tracing::debug!(repository = %repo, bytes, "polled");
                let answered = if bytes.is_some() { Answered::Yes } else { Answered::No };
                *self.figures.bytes.entry(repo.clone()).or_default() += bytes.unwrap_or_default();
                *self.figures.polls.entry((repo, answered)).or_default() += 1;
            }
            Word::Fetched { repo, bytes } => {
                tracing::debug!(repository = %repo, bytes, "fetched");
                *self.figures.bytes.entry(repo).or_default() += bytes;
            }
        }
    }

    /// Where reports go; `None`: nowhere.
    pub(super) fn report_topic(&self) -> Option<Topic> {
        self.settings.bus.as_ref()?.report_topic.clone()
    }

    pub(super) fn report(&mut self, tell: impl FnOnce(&mut Reporter, &Session, &Topic)) {
        if let (Some(topic), Some(session)) = (self.report_topic(), &self.session) {
            tell(&mut self.reporter, session, &topic);
        }
    }
}

impl Seen {
    /// What is recorded of the repositories on which `tick` had work to do, and of those that stand
    /// otherwise than they did: somebody else may have acted there.
    pub fn ended(&self, here: &Here, tick: &Tick) -> Vec<Ended> {
        let rows: Vec<Row> = tick.status.repositories.iter().map(standing).collect();
        let worked = |name: &str| {
            tick.decisions.iter().any(|(worked, plan)| worked == name && plan.is_work())
        };
        let seen = self.rows();
        let rows: Vec<Row> = rows
            .into_iter()
            .filter(|row| worked(&row.name) || seen.get(&row.name) != Some(row))
            .collect();
        drop(seen);
        if rows.is_empty() {
            return Vec::new();
        }
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let histories = match steer::histories(here, &names) {
            Ok(histories) => histories,
            Err(error) => {
                tracing::warn!("not reported: {}", format!("{error:#}").escape_debug());
                return Vec::new();
            }
        };
        self.rows().extend(rows.into_iter().map(|row| (row.name.clone(), row)));
        // One that cannot be read is told by its row.
        histories.into_iter().filter_map(|(name, runs)| Some((name, runs.ok()?))).collect()
    }

    /// No thread can leave it half written: each change is one statement.
    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row without what changes though nothing was done.
fn standing(row: &Row) -> Row {
    Row { asked: None, upstream: None, ..row.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::action::{Outcome, Trigger};

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap()
    }

    /// Runs that ended in these minutes.
    fn runs(minutes: &[u32]) -> Vec<Finished> {
        let run = |&minute: &u32| Finished {
            id: minute.to_string(),
            at: at(minute),
            revision: "ab".repeat(20).parse().unwrap(),
            subject: String::new(),
            reference: None,
            previous: None,
            trigger: Trigger::Cron,
            outcome: Outcome::Succeeded,
            attempt: 1,
            seconds: 0.0,
            log: None,
        };
        minutes.iter().map(run).collect()
    }

    #[test]
    fn each_run_is_told_once_in_whatever_order_histories_come() {
        let mut reporter = Reporter::new("web1".to_owned(), at(10));
        let mut told = |repo: &str, minutes: &[u32]| {
            let runs = runs(minutes);
            let news = reporter.news(repo, &runs).iter().map(|run| run.id.clone());
            news.collect::<Vec<_>>().join(" ")
        };
        // What was there before is not told, and each repository is by itself.
        assert_eq!(told("spog", &[8, 9]), "");
        assert_eq!(told("spog", &[8, 9, 10, 11]), "10 11");
        assert_eq!(told("ops", &[9, 11]), "11");
        assert_eq!(told("spog", &[8, 9, 10, 11]), "");
        // One that was read earlier comes later.
        assert_eq!(told("spog", &[8, 9, 10, 11, 12, 13]), "12 13");
        assert_eq!(told("spog", &[8, 9, 10, 11, 12]), "");
        // The file was cut, and even the last that was told is gone.
        assert_eq!(told("spog", &[13, 14]), "14");
        assert_eq!(told("spog", &[16, 17]), "16 17");
    }
}
