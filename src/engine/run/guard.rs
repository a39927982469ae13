//! The guard of a run: the order in which an action's own files change, the same in every mode. The
//! process may die between any two lines; the journal then says how far the run came. Does not write
//! worktrees or targets.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::repository::action::{Outcome, Trigger};
use crate::engine::repository::Repository;
use crate::engine::run::scripts::{self, CommandList, seconds_since};
use crate::engine::run::{log, record};
use crate::system::files::PreparedFile;
use crate::system::host;
use crate::system::lock::{
    ActionLock, Journal, JournalStep, RunPhase, RunningCheck, RunningScript, ScriptEnding,
};
use crate::system::logs::{self, ActionLog};

/// A run whose revision is in the journal and in `currentaction.txt`. [`RunGuard::finish`] consumes it.
/// Dropped without that, it leaves both files as a crash does, and the next worker recovers.
pub struct RunGuard<'a> {
    repository: &'a Repository<'a>,
    lock: &'a ActionLock,
    journal: Journal,
}

/// The result of scripts that ran, with what is needed to record it.
pub struct RunResult {
    /// The deployment.
    pub step: JournalStep,
    /// The reason, as scripts and history have it.
    pub trigger: Trigger,
    /// Start of the scripts.
    pub started: DateTime<Utc>,
    /// Outcome of the scripts.
    pub outcome: Outcome,
    /// Name of the script that failed, where it is known.
    pub failed_script: Option<String>,
    /// The open log; `None` when there is none.
    pub log: Option<ActionLog>,
    /// `lastaction.txt`, written before the scripts ran.
    pub last_action: PreparedFile,
}

impl<'a> RunGuard<'a> {
    /// Names the revision of `step` in the journal, then in `currentaction.txt`. `None`: a person's file
    /// was there before, and the run is over.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub fn begin(
        repository: &'a Repository<'a>,
        lock: &'a ActionLock,
        mut journal: Journal,
        step: &JournalStep,
    ) -> Result<Option<Self>> {
        let Some(hold) = lock.write_current_action(&mut journal, step.clone())? else {
            return Ok(Some(Self { repository, lock, journal }));
        };
        tracing::info!(repository = %repository.repo.name, by = %hold.by, "held");
        lock.remove_journal()?;
        Ok(None)
    }

    /// Takes over the run of a worker that died, by its journal.
    pub fn take_over(repository: &'a Repository<'a>, lock: &'a ActionLock, dead: &Journal) -> Self {
        Self { repository, lock, journal: dead.clone() }
    }

    /// The id that every record of this run shares.
    pub fn id(&self) -> &str {
        &self.journal.id
    }

    /// Runs `scripts` in order until one does not succeed, or until `deadline` (time since boot). Each is
    /// in the journal before its first instruction, so that a recovery finds it. Returns the outcome and
    /// the name of the script that failed.
    ///
    /// # Errors
    /// When one cannot be started, or the journal cannot be written.
    pub fn run_scripts(
        &mut self,
        step: &JournalStep,
        scripts: CommandList,
        log: &ActionLog,
        deadline: Duration,
    ) -> Result<(Outcome, Option<String>)> {
        for (name, script) in scripts.into_commands() {
            tracing::info!(script = %name, "running");
            let gated = script.spawn_gated(log.file())?;
            let process = gated.process();
            self.record_running(step, Some(RunningScript { process, deadline }))?;
            let outcome = scripts::outcome_of(gated.release(deadline, || log.curb())?);
            if outcome != Outcome::Succeeded {
                tracing::info!(script = %name, how = %outcome, "the script ended");
                return Ok((outcome, Some(name)));
            }
        }
        Ok((Outcome::Succeeded, None))
    }

    /// Writes to the journal that `script` runs; `None`: root's tick runs it.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn record_running(
        &mut self,
        step: &JournalStep,
        script: Option<RunningScript>,
    ) -> Result<()> {
        let (step, others) = (step.clone(), Vec::new());
        self.journal.phase = RunPhase::Run { step, script, checks_health: false, others };
        self.lock.write(&self.journal)
    }

    /// Writes to the journal which health checks are not over, and their running programs.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn record_checks(&mut self, checks: impl Iterator<Item = RunningCheck>) -> Result<()> {
        let mut others: Vec<_> = checks.collect();
        if others.is_empty() {
            return Ok(());
        }
        let RunningCheck { step, script } = others.remove(0);
        self.journal.phase = RunPhase::Run { step, script, checks_health: true, others };
        self.lock.write(&self.journal)
    }

    /// Ends the run. The order on disk: the result in the journal, the log, `lastaction.txt` and the
    /// other records, `currentaction.txt`, what `last` does, the journal. `Ok(None)` is a run without a
    /// record of its own. After an error the journal stays, and the next worker recovers.
    ///
    /// # Errors
    /// That of `ended`, or when a file cannot be written.
    pub fn finish(
        mut self,
        ended: Result<Option<RunResult>>,
        last: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let recorded = ended.and_then(|result| match result {
            Some(result) => self.record(result),
            None => Ok(()),
        });
        self.remove_current_action()?;
        recorded?;
        last()?;
        self.lock.remove_journal()
    }

    /// Removes `currentaction.txt`. Also done after any error: without the journal, which a script may
    /// even have removed, the file would be taken for a person's hold.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_current_action(&self) -> Result<()> {
        self.lock.remove_current_action(&self.journal)
    }

    fn record(&mut self, result: RunResult) -> Result<()> {
        let RunResult { step, trigger, started, outcome, failed_script, log, last_action } = result;
        let at = host::now();
        let ending =
            ScriptEnding { outcome, failed_script, seconds: seconds_since(started, at), at };
        self.journal.phase = RunPhase::Done { step: step.clone(), ending: ending.clone() };
        // On a full disk this fails; the rename that records a success still works then.
        let written = self.lock.write(&self.journal);
        if let Some(log) = log {
            log.finish(at, &ending.outcome, ending.seconds);
            logs::prune(&log::log_dir(self.repository.context, &self.repository.repo.name), at)?;
        }
        let run = record::RunRecord { id: self.id(), trigger, step: &step, ending: &ending };
        // Removed first: one sync of their directory then brings both to disk.
        let commit = || {
            self.lock.remove_current_action_lazily(&self.journal)?;
            last_action.commit()
        };
        record::run(self.repository, &run, commit).and(written)
    }
}
