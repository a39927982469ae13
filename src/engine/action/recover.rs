//! Recovers from a run that died, by its journal. Runs under the lock; may itself die at any point and
//! be repeated.

use anyhow::{Error, Result};
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::finding::Finding;
use crate::engine::action::apply::{self, ReadyUpdate};
use crate::engine::context::Context;
use crate::engine::publish::multi_ref;
use crate::engine::repository::tree::{change_between, printable_paths};
use crate::engine::repository::{Repository, targets};
use crate::engine::run::guard::RunGuard;
use crate::engine::run::scripts::seconds_since;
use crate::engine::run::{log, record};
use crate::system::agent_state::AgentState;
use crate::system::lock::{self, ActionLock, Journal, JournalStep, RunPhase, ScriptEnding};
use crate::system::repo_state::{LastAction, RepoRecords};
use crate::system::worktree::{ApplyRefusal, Worktree};
use crate::system::{files, host, process, stale_files};

/// The result of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// There was nothing to recover.
    Nothing,
    /// Nothing of a dead run is left.
    Whole,
    /// Local changes prevent the completion of its update. They are not touched, and nothing else can be
    /// done until they are gone. The journal stays: without it the revision of the files that are
    /// already written would be unknown.
    Blocked,
}

/// Completes or cleans up the run of `lock`'s journal, if there is one.
///
/// # Errors
/// When something cannot be recovered now; the journal stays, and the next tick tries again.
pub fn recover(
    context: &Context,
    lock: &ActionLock,
    repository: &Repository,
) -> Result<RecoveryOutcome> {
    let RepoRecords { private, public, .. } = lock.records();
    // A run may die even before its journal is written.
    files::sweep(private)?;
    files::sweep(public)?;
    let Some(journal) = lock::journal(lock.records())? else { return Ok(RecoveryOutcome::Nothing) };
    tracing::info!(repository = %repository.repo.name, phase = %journal.phase, "recovering an interrupted run");
    if journal.boot_id == context.node.boot_id {
        for script in journal.phase.scripts() {
            process::wait_for_exit(script.process, script.deadline, || {})?;
        }
    }
    stale_files::after_death(repository.git.git_dir(), journal.since)?;
    Worktree::open(&repository.repo.path)?.sweep_all()?;
    targets::clear_up(repository);
    lock.records().remove_numbered_changes();
    let run = RunGuard::take_over(repository, lock, &journal);
    match &journal.phase {
        RunPhase::Fetch | RunPhase::Before { .. } => {}
        // The target shows a whole tree; the decision that follows shows the new one.
        RunPhase::Apply { .. } if repository.publishes() => {}
        RunPhase::Run { .. } | RunPhase::Done { .. } if repository.fetches_all() => {
            let now = host::now();
            let worked =
                |step| seconds_since(journal.since, last_sign(repository, step, &journal, now));
            multi_ref::cut_off(repository, journal.phase.steps().map(|step| (step, worked(step))))?
        }
        RunPhase::Apply { step } => match roll_forward(repository, step) {
            Ok(()) => {}
            Err(ApplyRefusal::Dirty(paths)) => {
                run.remove_current_action()?;
                let finding = Finding::Dirty { paths: printable_paths(&paths) };
                record::verdict(repository, step.target, finding, host::now())?;
                return Ok(RecoveryOutcome::Blocked);
            }
            Err(ApplyRefusal::Failed(error)) => return Err(error),
        },
        RunPhase::Run { step, .. } => record_run(
            repository,
            &journal,
            step,
            &ending_of_a_dead_run(repository, step, &journal),
        )?,
        RunPhase::Done { step, ending } => record_run(repository, &journal, step, ending)?,
    }
    run.finish(Ok(None), || Ok(()))?;
    Ok(RecoveryOutcome::Whole)
}

/// Completes a half-applied change, without scripts: the decision that follows runs them.
fn roll_forward(repository: &Repository, step: &JournalStep) -> Result<(), ApplyRefusal> {
    // After a person's commit, the half-applied change is reverted; the next revision is decided anew.
    let moved = moved_by_a_person(repository, step)?;
    let (from, to) = match moved {
        Some(commit) => (Some(step.target), commit),
        None => (step.head, step.target),
    };
    let change = change_between(&repository.git, from, to).map_err(Error::from)?;
    ReadyUpdate::check(repository, &change)?.write(repository)?;
    match moved {
        Some(_) => Ok(()),
        None => Ok(apply::move_branch(repository, step)?),
    }
}

/// The commit of the branch, when a person committed or reset since the run died; else `None`.
fn moved_by_a_person(repository: &Repository, step: &JournalStep) -> Result<Option<Commit>> {
    let branch = repository.git.ref_id(&step.branch.local())?;
    Ok(match branch {
        Some(commit) if branch != step.head && !repository.git.contains(step.target, commit)? => {
            branch
        }
        _ => None,
    })
}

/// The ending of a dead run: succeeded when its `lastaction.txt` moved, even if nothing else was
/// recorded; else interrupted.
fn ending_of_a_dead_run(
    repository: &Repository,
    step: &JournalStep,
    journal: &Journal,
) -> ScriptEnding {
    let now = host::now();
    let moved = step.previous != Some(step.target)
        && repository.records.last_action().0 == LastAction::Revision(step.target);
    ScriptEnding {
        outcome: if moved { Outcome::Succeeded } else { Outcome::Interrupted },
        failed_script: None,
        seconds: seconds_since(journal.since, last_sign(repository, step, journal, now)),
        at: now,
    }
}

/// The time at which a dead run was last known to work: now, where the machine still runs; after a reboot that of the
/// newest record of then, for the machine may have been off for long.
fn last_sign(
    repository: &Repository,
    step: &JournalStep,
    journal: &Journal,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    let context = repository.context;
    if journal.boot_id == context.node.boot_id {
        return now;
    }
    let logs = log::log_dir(context, &repository.repo.name);
    let log = step.log.as_ref().map(|name| logs.join(name));
    let written = log.and_then(|log| log.symlink_metadata().ok()?.modified().ok());
    let last_tick = AgentState::at(&context.settings.world.state).last_tick();
    let signs = [written.map(DateTime::from), last_tick].into_iter().flatten();
    signs.filter(|sign| *sign <= now).fold(journal.since, DateTime::max)
}

fn record_run(
    repository: &Repository,
    journal: &Journal,
    step: &JournalStep,
    ending: &ScriptEnding,
) -> Result<()> {
    let run = record::RunRecord { id: &journal.id, trigger: journal.trigger, step, ending };
    record::run(repository, &run, || repository.records.prepare_last_action(step.target)?.commit())
}
