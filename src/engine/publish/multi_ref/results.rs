//! How the publication of one ref ended, in the record of the refs and in the history.

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::PublishRun;
use crate::domain::publish::state::{PendingRef, RefRecord};
use crate::domain::repository::action::{Attempt, FinishedRun, Outcome, TriedRevisions};
use crate::domain::repository::health::BadRevision;
use crate::domain::text::EscapeControls;
use crate::engine::error::one_line;
use crate::engine::repository::Repository;
use crate::engine::repository::targets::short_name;
use crate::engine::run::record;
use crate::engine::run::scripts::seconds_since;
use crate::system::lock::JournalStep;
use crate::system::{host, syslog};

/// Records that the programs of refs were interrupted: the steps of a dead run, and for how many seconds it worked.
///
/// # Errors
/// When the record cannot be written.
pub fn cut_off<'a>(
    repository: &Repository,
    steps: impl Iterator<Item = (&'a JournalStep, f64)>,
) -> Result<()> {
    let mut book = repository.records.book()?;
    let (host, now) = (&repository.context.node.host, host::now());
    for (step, seconds) in steps {
        let Some(name) = &step.reference else { continue };
        let Some(entry) = book.get_mut(name).filter(|entry| !is_recorded(entry, step)) else {
            continue;
        };
        entry.tried.add(step.target);
        let (last, outcome) = (entry.attempt.as_ref(), Outcome::Interrupted);
        let attempt = Attempt::after(outcome, step.target, step.attempt, last, host, now);
        let attempt = attempt.counted(seconds, now);
        if let (Some(_), Some(cause)) = (step.way_back, attempt.tally.cause(&attempt.outcome, now))
        {
            let bad = BadRevision { revision: step.target, cause: Some(cause), back_since: None };
            record::mark_bad_at(repository, name, bad);
            entry.bad = Some(bad);
        }
        entry.attempt = Some(attempt);
    }
    repository.records.put_book(&book)
}

/// Whether the run of `step` ended and was recorded before it died.
fn is_recorded(entry: &RefRecord, step: &JournalStep) -> bool {
    let is_good = entry.good == Some(step.target) && entry.tried.is_empty();
    let leaves = entry.bad.filter(|bad| bad.back_since.is_none());
    let is_bad = leaves.is_some_and(|bad| bad.revision == step.target);
    is_good || is_bad
}

impl PublishRun<'_, '_> {
    /// Closes the log of `due`; returns its name, or `None` where there is none.
    pub(super) fn end_log(&mut self, due: &PendingRef, outcome: &Outcome) -> Option<String> {
        let log = self.logs.remove(&due.name)?;
        let name = log.name().to_owned();
        let now = host::now();
        log.finish(now, outcome, seconds_since(self.began, now));
        Some(name)
    }

    /// Adds what ended to the history, and counts it.
    pub(super) fn count(&self) -> Result<()> {
        if self.finished.is_empty() {
            return Ok(());
        }
        let records = &self.repository.records;
        let mut memory = records.memory()?;
        record::ended(self.repository, &mut memory, &self.finished)?;
        records.put_memory(&memory)
    }

    pub(super) fn succeeded(&mut self, due: &PendingRef, log: Option<String>) {
        if let Err(error) = self.repository.accept_ref(&due.name, due.revision) {
            // What the target shows counts as well.
            tracing::warn!(repository = %self.repository.repo.name, reference = %due.name.escape_controls(),
                error = %one_line(&error), "not recorded as accepted");
        }
        let finished = self.finish(due, Outcome::Succeeded, log);
        if let Some(entry) = self.book.get_mut(&due.name) {
            leave_or_mend(self.repository, due, entry, finished.at);
            entry.good = Some(due.revision);
            entry.attempt = None;
            entry.tried = TriedRevisions::default();
            entry.repair = None;
        }
        self.finished.push(finished);
    }

    pub(super) fn failed(&mut self, due: &PendingRef, outcome: Outcome, log: Option<String>) {
        let finished = self.finish(due, outcome.clone(), log);
        let host = &self.repository.context.node.host;
        if let Some(entry) = self.book.get_mut(&due.name) {
            let before = entry.attempt.as_ref();
            let at = finished.at;
            entry.tried.add(due.revision);
            let attempt = Attempt::after(outcome, due.revision, due.attempt, before, host, at);
            let attempt = attempt.counted(finished.seconds, at);
            let cause = attempt.tally.cause(&attempt.outcome, at);
            if let (true, Some(_)) = (self.ways_back.contains_key(&due.name), cause) {
                let bad = BadRevision { revision: due.revision, cause, back_since: None };
                record::mark_bad_at(self.repository, &due.name, bad);
                entry.bad = Some(bad);
            }
            entry.attempt = Some(attempt);
        }
        self.finished.push(finished);
    }

    /// Records that `before` did not say yes: nothing at the target changed.
    pub(super) fn refused(
        &mut self,
        due: &PendingRef,
        outcome: Outcome,
        script: Option<String>,
        log: Option<String>,
    ) {
        let finished = self.finish(due, outcome.clone(), log);
        let host = &self.repository.context.node.host;
        if let Some(entry) = self.book.get_mut(&due.name) {
            let last = entry.attempt.as_ref();
            let attempt = Attempt::of_before(outcome, due.revision, last, host, finished.at);
            entry.attempt = Some(Attempt { script, ..attempt });
        }
        self.finished.push(finished);
    }

    fn finish(&self, due: &PendingRef, outcome: Outcome, log: Option<String>) -> FinishedRun {
        let at = host::now();
        let level = match outcome {
            Outcome::Succeeded => syslog::SyslogLevel::Info,
            _ => syslog::SyslogLevel::Warning,
        };
        let (repo, name) = (&self.repository.repo.name, short_name(&due.name).escape_controls());
        let revision = due.revision.short();
        syslog::send(level, &format!("{repo}: {name} {revision} {outcome}"));
        FinishedRun {
            id: format!("{}-{}", self.run.id(), due.name),
            at,
            revision: due.revision,
            subject: self.repository.git.subject(due.revision),
            reference: Some(due.name.clone()),
            tag: None,
            previous: self.book.get(&due.name).and_then(|entry| entry.good),
            trigger: self.trigger_of(due),
            outcome,
            attempt: due.attempt,
            seconds: seconds_since(self.began, at),
            log,
            tree: self.repository.git.tree_of(&due.revision).ok(),
            signer: self.signers.get(&due.name).cloned(),
            count: 1,
            first: None,
        }
    }
}

/// Records what the success of `due` at `at` means for a bad revision: its ref is back, a newer one succeeded, or the
/// bad one itself did, which a person accepted.
fn leave_or_mend(
    repository: &Repository,
    due: &PendingRef,
    entry: &mut RefRecord,
    at: DateTime<Utc>,
) {
    if let Some(revision) = due.leaves {
        let known = entry.bad.filter(|bad| bad.revision == revision);
        let mut bad = known.unwrap_or(BadRevision { revision, cause: None, back_since: None });
        bad.back_since.get_or_insert(at);
        entry.bad = Some(bad);
    } else if entry.good != Some(due.revision) {
        record::unmark_bad_at(repository, &due.name, due.revision);
        entry.bad = None;
    }
}
