//! The health checks of actions: run again and again, side by side, until each passes once or its time is over. Decides
//! nothing about what follows.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::config::RepoSettings;
use crate::domain::repository::action::Outcome;
use crate::domain::script_paths::ScriptKind;
use crate::engine::error::{is_untrusted, one_line};
use crate::engine::repository::{Repository, limits, script_files};
use crate::engine::run::guard::RunGuard;
use crate::engine::run::scripts::{self, CommandList};
use crate::system::host::since_boot;
use crate::system::lock::{JournalStep, RunningCheck, RunningScript};
use crate::system::logs::ActionLog;
use crate::system::process::{ScriptCommand, WaitOutcome};
use crate::system::watchdog::{self, NestedStep};

/// The time from the start of one check to the start of the next.
const INTERVAL: Duration = Duration::from_secs(10);
/// The number of checks for which there is time in any case.
const FEWEST_CHECKS: u32 = 6;
/// The time between two looks at what ends the wait.
const BEAT: Duration = Duration::from_millis(200);

/// Says what ends the wait for the health of a deployment without a result.
pub trait EndOfWait {
    /// Whether the check of `step` continues. Called a few times a second.
    fn lasts(&self, step: &JournalStep) -> bool;
}

/// The programs of a health check.
pub enum HealthPrograms {
    /// `health`: a program of the machine and its arguments.
    Machine(Vec<String>),
    /// Scripts of the tree.
    Tree(Vec<String>),
}

impl HealthPrograms {
    /// The programs for the checked-out tree; `None`: there is no check. `settings`: those of the revision.
    ///
    /// # Errors
    /// When a script is no plain file.
    pub fn of(repository: &Repository, settings: &RepoSettings) -> Result<Option<Self>> {
        if !settings.health.program.is_empty() {
            return Ok(Some(Self::Machine(settings.health.program.clone())));
        }
        if !repository.runs_scripts() {
            return Ok(None);
        }
        let scripts = script_files::existing(repository, ScriptKind::Health)?;
        Ok((!scripts.is_empty()).then_some(Self::Tree(scripts)))
    }
}

/// One health check.
pub struct HealthCheck {
    /// The deployment that is checked.
    pub step: JournalStep,
    /// The directory in which the programs start.
    pub dir: PathBuf,
    /// The variables of the programs.
    pub env: Vec<(OsString, OsString)>,
    /// The log of the action.
    pub log: ActionLog,
}

/// Runs one check until it passes, for `health_within` at most; then the revision is unhealthy. Returns the log, and
/// the result.
///
/// # Errors
/// When the journal cannot be written, or another user could exchange a program.
pub fn check(
    repository: &Repository,
    settings: &RepoSettings,
    run: &mut RunGuard,
    check: HealthCheck,
    end: &dyn EndOfWait,
) -> Result<(ActionLog, Outcome)> {
    let mut checks = HealthChecks::begin(repository, settings, vec![check]);
    let (check, outcome) = checks.next(run, end)?.context("the health was not checked")?;
    Ok((check.log, outcome?))
}

/// The number of a check, and how its program ended.
type ProgramEnd = (usize, Result<WaitOutcome>);

/// Health checks that run side by side.
pub struct HealthChecks<'a> {
    repository: &'a Repository<'a>,
    settings: &'a RepoSettings,
    checks: Vec<CheckProgress>,
    ends: (Sender<ProgramEnd>, Receiver<ProgramEnd>),
    _pause: NestedStep,
}

/// How far one check is.
struct CheckProgress {
    number: usize,
    check: HealthCheck,
    /// When it has to have passed; `None`: it did not begin yet.
    deadline: Option<Duration>,
    /// When its programs run next.
    next: Duration,
    /// The programs of this round that are still to be run.
    round: VecDeque<ScriptCommand>,
    running: Option<RunningProgram>,
    is_wanted: Arc<AtomicBool>,
}

/// A program that runs, and the thread that waits for it.
struct RunningProgram {
    script: RunningScript,
    waiting: JoinHandle<()>,
}

impl<'a> HealthChecks<'a> {
    /// Begins `checks`. `settings`: those of the revisions.
    pub fn begin(
        repository: &'a Repository<'a>,
        settings: &'a RepoSettings,
        checks: Vec<HealthCheck>,
    ) -> Self {
        let progress = |(number, check)| CheckProgress {
            number,
            check,
            deadline: None,
            next: Duration::ZERO,
            round: VecDeque::new(),
            running: None,
            is_wanted: Arc::new(AtomicBool::new(true)),
        };
        let checks = checks.into_iter().enumerate().map(progress).collect();
        Self { repository, settings, checks, ends: mpsc::channel(), _pause: watchdog::pause() }
    }

    /// The next check that is over, and its result; `None`: all are.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn next(
        &mut self,
        run: &mut RunGuard,
        end: &dyn EndOfWait,
    ) -> Result<Option<(HealthCheck, Result<Outcome>)>> {
        while !self.checks.is_empty() {
            for index in 0..self.checks.len() {
                if let Some(outcome) = self.look_at(index, run, end)? {
                    return Ok(Some((self.checks.remove(index).check, outcome)));
                }
            }
            let Ok((number, ended)) = self.ends.1.recv_timeout(BEAT) else { continue };
            if let Some(index) = self.checks.iter().position(|it| it.number == number)
                && let Some(outcome) = self.ended(index, ended)
            {
                return Ok(Some((self.checks.remove(index).check, outcome)));
            }
        }
        Ok(None)
    }

    /// Starts what is due of one check; returns its result where it is over.
    fn look_at(
        &mut self,
        index: usize,
        run: &mut RunGuard,
        end: &dyn EndOfWait,
    ) -> Result<Option<Result<Outcome>>> {
        let within = self.settings.health.within;
        let Some(it) = self.checks.get_mut(index) else { return Ok(None) };
        if it.is_wanted.load(Ordering::Relaxed) && !end.lasts(&it.check.step) {
            it.is_wanted.store(false, Ordering::Relaxed);
        }
        if it.running.is_some() {
            it.check.log.curb();
            return Ok(None);
        }
        if !it.is_wanted.load(Ordering::Relaxed) {
            // Where nothing is to be checked, there is no wait that could be ended.
            let programs = HealthPrograms::of(self.repository, self.settings);
            let has_none = matches!(programs, Ok(None));
            return Ok(Some(Ok(if has_none { Outcome::Succeeded } else { Outcome::Unchecked })));
        }
        let now = since_boot();
        let deadline = *it.deadline.get_or_insert(now + within);
        if it.round.is_empty() {
            if now < it.next {
                return Ok(None);
            }
            if now >= deadline {
                return Ok(Some(Ok(Outcome::Unhealthy)));
            }
            it.next = (now + INTERVAL.min(within / FEWEST_CHECKS)).min(deadline);
            match commands(self.repository, self.settings, &it.check) {
                Ok(Some(commands)) => it.round = commands,
                Ok(None) => return Ok(Some(Ok(Outcome::Succeeded))),
                Err(CheckError::Over(outcome)) => return Ok(Some(outcome)),
                Err(CheckError::NotYet(reason)) => {
                    it.check.log.add(&format!("health: {reason}\n"));
                    return Ok(None);
                }
            }
        }
        self.start(index, run, deadline)?;
        Ok(None)
    }

    /// Starts the next program of one check, once it is in the journal.
    fn start(&mut self, index: usize, run: &mut RunGuard, deadline: Duration) -> Result<()> {
        let ends = self.ends.0.clone();
        let Some(it) = self.checks.get_mut(index) else { return Ok(()) };
        let Some(command) = it.round.pop_front() else { return Ok(()) };
        let gated = command.spawn_gated(it.check.log.file())?;
        let script = RunningScript { process: gated.process(), deadline };
        let others = self.checks.iter().enumerate().map(|(other, it)| RunningCheck {
            step: it.check.step.clone(),
            script: match other == index {
                true => Some(script),
                false => it.running.as_ref().map(|running| running.script),
            },
        });
        run.record_checks(others)?;
        let Some(it) = self.checks.get_mut(index) else { return Ok(()) };
        let (number, is_wanted) = (it.number, Arc::clone(&it.is_wanted));
        let wait = move || {
            let ended = gated.release_while(deadline, || is_wanted.load(Ordering::Relaxed));
            // The checks may be over.
            let _ = ends.send((number, ended));
        };
        let waiting = thread::Builder::new().spawn(wait).with_context(limits::no_thread)?;
        it.running = Some(RunningProgram { script, waiting });
        Ok(())
    }

    /// Takes the end of a program; returns the result of its check where that is over.
    fn ended(&mut self, index: usize, ended: Result<WaitOutcome>) -> Option<Result<Outcome>> {
        let it = self.checks.get_mut(index)?;
        if let Some(running) = it.running.take() {
            // It has sent its last word.
            let _ = running.waiting.join();
        }
        let outcome = match ended {
            Ok(ended) => scripts::outcome_of(ended),
            Err(error) => return Some(Err(error)),
        };
        match outcome {
            Outcome::Succeeded if it.round.is_empty() => return Some(Ok(outcome)),
            Outcome::Succeeded => {}
            _ => {
                tracing::info!(repository = %self.repository.repo.name, reference = it.check.step.reference,
                    how = %outcome, "the health check did not pass");
                it.round.clear();
            }
        }
        None
    }
}

impl Drop for HealthChecks<'_> {
    /// Ends what still runs after an error.
    fn drop(&mut self) {
        for it in &self.checks {
            it.is_wanted.store(false, Ordering::Relaxed);
        }
        for running in self.checks.iter_mut().filter_map(|it| it.running.take()) {
            let _ = running.waiting.join();
        }
    }
}

/// Why the programs of a check cannot be started.
enum CheckError {
    /// They may be there later.
    NotYet(String),
    /// The check ends with this.
    Over(Result<Outcome>),
}

/// The programs of one round; `None`: there is none. The scripts may have made or removed those of the check.
fn commands(
    repository: &Repository,
    settings: &RepoSettings,
    check: &HealthCheck,
) -> Result<Option<VecDeque<ScriptCommand>>, CheckError> {
    let (context, HealthCheck { dir, env, .. }) = (repository.context, check);
    let programs = HealthPrograms::of(repository, settings)
        .map_err(|error| CheckError::Over(Ok(Outcome::Hindered { reason: one_line(&error) })))?;
    let Some(programs) = programs else { return Ok(None) };
    let list = match &programs {
        HealthPrograms::Machine(argv) => CommandList::one(context, argv, dir, env, None),
        HealthPrograms::Tree(scripts) => CommandList::scripts(context, dir, scripts, env),
    };
    match list {
        Ok(list) => Ok(Some(list.into_commands().map(|(_, command)| command).collect())),
        Err(error) if is_untrusted(&error) => Err(CheckError::Over(Err(error))),
        Err(error) => Err(CheckError::NotYet(one_line(&error))),
    }
}
