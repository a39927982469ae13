//! What follows once releases are shown: `after` of each ref, then the health of all side by side. Each ref is judged
//! by itself.

use anyhow::{Error, Result};

use super::PublishRun;
use crate::domain::publish::state::PendingRef;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::health::OnFailure;
use crate::engine::error::one_line;
use crate::engine::repository::tree;
use crate::engine::run::health::{EndOfWait, HealthChecks};

/// How many refs are checked side by side: each has a log, a process and a place in the journal meanwhile.
const SIDE_BY_SIDE: usize = 32;

impl PublishRun<'_, '_> {
    /// Runs `after` for each shown ref, checks the health of all until `end` of the wait, and records the results.
    pub(super) fn judge(&mut self, shown: &[PendingRef], end: &dyn EndOfWait) -> Result<()> {
        self.find_ways_back(shown)?;
        for some in shown.chunks(SIDE_BY_SIDE) {
            let open = self.run_after_hooks(some)?;
            self.check_health(&open, end)?;
        }
        Ok(())
    }

    /// Notes which refs have something to go back to: another revision succeeded there, and never one with the tree
    /// that is shown now.
    fn find_ways_back(&mut self, shown: &[PendingRef]) -> Result<()> {
        let repository = self.repository;
        if repository.repo.settings.health.on_failure != OnFailure::Rollback {
            return Ok(());
        }
        let runs = repository.records.history()?;
        for due in shown.iter().filter(|due| due.leaves.is_none()) {
            let good = self.book.get(&due.name).and_then(|entry| entry.good);
            let Some(good) = good.filter(|good| *good != due.revision) else { continue };
            let settings = tree::tree_settings(&repository.git, due.revision);
            let stays = settings.is_ok_and(|settings| settings.stays_on_failure);
            if !stays && !repository.succeeded_at(&due.name, &runs, (good, due.revision)) {
                self.ways_back.insert(due.name.clone(), good);
            }
        }
        Ok(())
    }

    /// Runs `after` for each of `shown`; returns those whose health is still to be checked.
    fn run_after_hooks(&mut self, shown: &[PendingRef]) -> Result<Vec<PendingRef>> {
        let (has_after, has_health) = (self.has_after(), self.has_health()?);
        let mut open = Vec::new();
        for due in shown {
            if let Some(entry) = self.book.get_mut(&due.name)
                && entry.good == Some(due.revision)
            {
                // What is deployed again is good only once all succeeded: a crash before that must not hide it.
                entry.tried.add(due.revision);
                self.save()?;
            }
            let outcome = match has_after {
                true => apply_error(self.with_hooks(due, |hooks, run| hooks.after(run))),
                false => Outcome::Succeeded,
            };
            match outcome {
                Outcome::Succeeded if has_health => open.push(due.clone()),
                outcome => self.ended(due, outcome)?,
            }
        }
        Ok(open)
    }

    fn check_health(&mut self, shown: &[PendingRef], end: &dyn EndOfWait) -> Result<()> {
        let mut checks = Vec::new();
        for (number, due) in shown.iter().enumerate() {
            match self.with_hooks(due, |hooks, _| hooks.health_check(number)) {
                Ok(check) => checks.push(check),
                Err(error) => self.ended(due, failed_hook(&error))?,
            }
        }
        let repository = self.repository;
        let mut checks = HealthChecks::begin(repository, &repository.repo.settings, checks);
        while let Some((check, outcome)) = checks.next(self.run, end)? {
            let name = check.step.reference.unwrap_or_default();
            let Some(due) = shown.iter().find(|due| due.name == name) else { continue };
            self.logs.insert(name, check.log);
            self.ended(due, apply_error(outcome))?;
        }
        Ok(())
    }

    /// Records how the programs of `due` ended.
    fn ended(&mut self, due: &PendingRef, outcome: Outcome) -> Result<()> {
        let log = self.end_log(due, &outcome);
        match outcome {
            Outcome::Succeeded => self.succeeded(due, log),
            outcome => self.failed(due, outcome, log),
        }
        if self.has_programs()? { self.save() } else { Ok(()) }
    }
}

/// A hook that cannot be run fails its own ref only.
fn apply_error(outcome: Result<Outcome>) -> Outcome {
    outcome.unwrap_or_else(|error| failed_hook(&error))
}

pub(super) fn failed_hook(error: &Error) -> Outcome {
    Outcome::Hindered { reason: one_line(error) }
}
