//! Reports actions to the bus: their begin, by their workers' events, and their result, by the machine's
//! own records, whichever process ran them: a tick of ours, a cron tick, a person, or a worker that
//! survived the previous agent. Never waits: a report that cannot be sent is dropped and counted. Does not
//! know who receives reports.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::Listener;
use crate::domain::bus::message::{ActionMessage, ActionStep, Topic};
use crate::domain::bus::stomp::StompFrame;
use crate::domain::report::metrics::PollOutcome;
use crate::domain::repository::action::{FinishedRun, ProgressEvent, RunStarted};
use crate::domain::repository::history::{self, ReportedRun};
use crate::domain::repository::status::StatusRow;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::listen::subscriptions::RateLimitedLog;
use crate::engine::operator;
use crate::engine::operator::action_reports::{EndedRuns, ended_runs, standing};
use crate::engine::tick::TickReport;
use crate::system::host::since_boot;
use crate::system::stomp::session::StompSession;

/// The reporting host and the reports that were sent.
#[derive(Debug)]
pub struct ReportPublisher {
    pub host: String,
    /// Runs that ended earlier are not reported.
    since: DateTime<Utc>,
    /// The last reported run of each repository.
    reported_runs: BTreeMap<String, ReportedRun>,
    seen: SeenStates,
    dropped: RateLimitedLog,
}

/// Each repository's row when its history was last read: while the row is the same, the history has
/// nothing new. Parallel ticks share this.
#[derive(Clone, Debug, Default)]
pub struct SeenStates(Arc<Mutex<BTreeMap<String, StatusRow>>>);

impl ReportPublisher {
    /// A publisher for this host, for runs that end from `now` on.
    pub fn new(host: String, now: DateTime<Utc>) -> Self {
        let (reported_runs, seen, dropped) =
            (BTreeMap::new(), SeenStates::default(), RateLimitedLog::default());
        Self { host, since: now, reported_runs, seen, dropped }
    }

    /// The shared rows, for the next tick.
    pub fn seen(&self) -> SeenStates {
        self.seen.clone()
    }

    /// Reports to `topic` that an action begins.
    pub fn report_begun(&mut self, session: &StompSession, topic: &Topic, begun: &RunStarted) {
        let report = ActionMessage {
            host: &self.host,
            repo: &begun.repo,
            reference: begun.reference.as_deref(),
            revision: begun.revision,
            previous: begun.previous,
            step: &ActionStep::Started,
            seconds: 0.0,
            at: begun.at,
        };
        self.send(session, report.frame(topic));
    }

    /// Reports to `topic` the results of those runs in `all` that were not reported before.
    pub fn publish_runs(&mut self, session: &StompSession, topic: &Topic, all: &[EndedRuns]) {
        for (repo, runs) in all {
            for action in self.news(repo, runs) {
                let report = ActionMessage {
                    host: &self.host,
                    repo,
                    reference: action.reference.as_deref(),
                    revision: action.revision,
                    previous: action.previous,
                    step: &ActionStep::Ended(action.outcome.clone()),
                    seconds: action.seconds,
                    at: action.at,
                };
                self.send(session, report.frame(topic));
            }
        }
    }

    /// The runs after the last reported one of `repo`; marks them as reported.
    fn news<'a>(&mut self, repo: &str, runs: &'a [FinishedRun]) -> &'a [FinishedRun] {
        let news = history::unreported(runs, self.reported_runs.get(repo), self.since);
        if let Some(run) = news.last() {
            self.reported_runs.insert(repo.to_owned(), ReportedRun::of(run));
        }
        news
    }

    fn send(&mut self, session: &StompSession, frame: StompFrame) {
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
    /// Handles a worker's progress event.
    pub(super) fn hear_of_work(&mut self, word: ProgressEvent) {
        match word {
            ProgressEvent::Begun(begun) => {
                tracing::debug!(repository = %begun.repo, "an action begins");
                self.report(|reporter, session, topic| {
                    reporter.report_begun(session, topic, &begun)
                });
            }
            // The tick itself writes it to the log.
            ProgressEvent::Logs { .. } | ProgressEvent::Ended(_) => {}
            ProgressEvent::Polled { repo, bytes } => {
                tracing::debug!(repository = %repo, bytes, "polled");
                let answered = if bytes.is_some() { PollOutcome::Yes } else { PollOutcome::No };
                *self.figures.bytes.entry(repo.clone()).or_default() += bytes.unwrap_or_default();
                *self.figures.polls.entry((repo, answered)).or_default() += 1;
            }
            ProgressEvent::Fetched { repo, bytes } => {
                tracing::debug!(repository = %repo, bytes, "fetched");
                *self.figures.bytes.entry(repo).or_default() += bytes;
            }
        }
    }

    /// The topic for reports; `None`: none are sent.
    pub(super) fn report_topic(&self) -> Option<Topic> {
        self.settings.bus.as_ref()?.report_topic.clone()
    }

    pub(super) fn report(
        &mut self,
        send: impl FnOnce(&mut ReportPublisher, &StompSession, &Topic),
    ) {
        if let (Some(topic), Some(session)) = (self.report_topic(), &self.session) {
            send(&mut self.reporter, session, &topic);
        }
    }
}

impl SeenStates {
    /// The finished runs of the repositories that `tick` worked on, and of those whose row changed: another
    /// process may have acted there.
    pub fn ended(&self, context: &Context, tick: &TickReport) -> Vec<EndedRuns> {
        let rows: Vec<StatusRow> = tick.status.repositories.iter().map(standing).collect();
        let worked = |name: &str| {
            tick.decisions.iter().any(|(worked, plan)| worked == name && plan.is_work())
        };
        let seen = self.rows();
        let rows: Vec<StatusRow> = rows
            .into_iter()
            .filter(|row| worked(&row.name) || seen.get(&row.name) != Some(row))
            .collect();
        drop(seen);
        if rows.is_empty() {
            return Vec::new();
        }
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let histories = match operator::histories(context, &names) {
            Ok(histories) => histories,
            Err(error) => {
                tracing::warn!("not reported: {}", format!("{error:#}").escape_controls());
                return Vec::new();
            }
        };
        self.rows().extend(rows.into_iter().map(|row| (row.name.clone(), row)));
        ended_runs(histories)
    }

    /// Ignores poisoning: each change is one statement, so no thread can leave the rows half written.
    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, StatusRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::repository::action::{Outcome, Trigger};
    use crate::engine::listen::report_publisher::*;

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap()
    }

    /// Runs that ended in these minutes.
    fn runs(minutes: &[u32]) -> Vec<FinishedRun> {
        let run = |&minute: &u32| FinishedRun {
            id: minute.to_string(),
            at: at(minute),
            revision: "ab".repeat(20).parse().unwrap(),
            subject: String::new(),
            reference: None,
            tag: None,
            previous: None,
            trigger: Trigger::Cron,
            outcome: Outcome::Succeeded,
            attempt: 1,
            seconds: 0.0,
            log: None,
            tree: None,
            signer: None,
            count: 1,
            first: None,
        };
        minutes.iter().map(run).collect()
    }

    #[test]
    fn each_run_is_reported_once_in_whatever_order_histories_come() {
        let mut reporter = ReportPublisher::new("web1".to_owned(), at(10));
        let mut reported_runs = |repo: &str, minutes: &[u32]| {
            let runs = runs(minutes);
            let news = reporter.news(repo, &runs).iter().map(|run| run.id.clone());
            news.collect::<Vec<_>>().join(" ")
        };
        // Earlier runs are not reported, and each repository counts by itself.
        assert_eq!(reported_runs("spog", &[8, 9]), "");
        assert_eq!(reported_runs("spog", &[8, 9, 10, 11]), "10 11");
        assert_eq!(reported_runs("ops", &[9, 11]), "11");
        assert_eq!(reported_runs("spog", &[8, 9, 10, 11]), "");
        // An earlier read arrives later.
        assert_eq!(reported_runs("spog", &[8, 9, 10, 11, 12, 13]), "12 13");
        assert_eq!(reported_runs("spog", &[8, 9, 10, 11, 12]), "");
        // The file was cut, and even the last reported run is gone.
        assert_eq!(reported_runs("spog", &[13, 14]), "14");
        assert_eq!(reported_runs("spog", &[16, 17]), "16 17");
    }
}
