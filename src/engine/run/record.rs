//! Records how a run ended. Every step here may be repeated: a run that dies in the middle is recorded
//! again by the next.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::publish::rules::bad_mark;
use crate::domain::repository::action::{
    ActionCounts, Attempt, FinishedRun, Outcome, ProgressEvent, RunEnded, TriedRevisions, Trigger,
};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gate::{BegunAction, SignedRevision};
use crate::domain::repository::health::{BadCause, BadRevision};
use crate::domain::repository::history::{ActKind, PersonAct};
use crate::domain::repository::observed::{RecordedFinding, TreeRerunPolicy};
use crate::domain::signature::allowed_signers::Signer;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::repository::{Repository, tree};
use crate::engine::run::scripts;
use crate::system::git::ACTED;
use crate::system::lock::{JournalStep, ScriptEnding};
use crate::system::repo_state::{ActionState, RepoRecords};
use crate::system::{host, syslog};

/// The time that the waiting process has to take note of an ended run; many may end at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// An act of a person that is to be recorded.
#[derive(Clone, Debug)]
pub struct OrderedAct {
    /// What.
    pub act: ActKind,
    /// Why, in the person's words, or what exactly; `None`: nothing more was said.
    pub reason: Option<String>,
    /// The revision that it names.
    pub revision: Option<Commit>,
    /// When a hold ends by itself.
    pub until: Option<DateTime<Utc>>,
}

impl OrderedAct {
    /// An act without more.
    pub fn new(act: ActKind) -> Self {
        Self { act, reason: None, revision: None, until: None }
    }
}

/// A finished run that is to be recorded.
pub struct RunRecord<'a> {
    /// The id, the same in every record of this run.
    pub id: &'a str,
    /// The trigger.
    pub trigger: Trigger,
    /// The step: revision, branch, attempt.
    pub step: &'a JournalStep,
    /// The outcome and duration.
    pub ending: &'a ScriptEnding,
}

/// Records a run: `lastaction.txt` first where it succeeded (the commit point), by `commit`, then `refs/pmpy/acted`,
/// the history and the state.
///
/// # Errors
/// When a file cannot be written. What is written already stays; a repetition does no harm.
pub fn run(
    repository: &Repository,
    run: &RunRecord,
    commit: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let RunRecord { step, ending, .. } = run;
    let succeeded = ending.outcome == Outcome::Succeeded;
    if succeeded {
        commit()?;
    }
    let mut memory = repository.records.memory()?;
    let finished = FinishedRun {
        id: run.id.to_owned(),
        at: ending.at,
        revision: step.target,
        subject: repository.git.subject(step.target),
        reference: None,
        tag: step.tag.clone(),
        previous: step.previous,
        trigger: run.trigger,
        outcome: ending.outcome.clone(),
        attempt: step.attempt,
        seconds: ending.seconds,
        log: step.log.clone(),
        tree: repository.git.tree_of(&step.target).ok(),
        signer: signer(repository, &memory.signed, step.target),
        count: 1,
        first: None,
    };
    let known =
        repository.records.history()?.iter().rev().take(8).any(|entry| entry.id == finished.id);
    if !known {
        if succeeded {
            let message = format!("{}: {} in {:.1} s", run.trigger, ending.outcome, ending.seconds);
            repository.git.set_logged_ref(ACTED, step.target, &message)?;
        }
        ended(repository, &mut memory, std::slice::from_ref(&finished))?;
        syslog::send(
            if succeeded { syslog::SyslogLevel::Info } else { syslog::SyslogLevel::Warning },
            &format!(
                "{}: {} {} ({}, {:.1} s)",
                repository.repo.name,
                step.target.short(),
                ending.outcome,
                run.trigger,
                ending.seconds
            ),
        );
    }
    // Also a run that died between its history and this memory.
    count(repository, &mut memory, std::slice::from_ref(&finished))?;
    if succeeded {
        // Before the record of a rewrite that a person accepted goes: a run that dies here accepts it again.
        repository.accept_applied(step.target)?;
        leave_or_mend(repository, &mut memory, step, ending.at)?;
        memory.attempt = None;
        if let Some(drift) = &mut memory.drift {
            drift.pending = None;
        }
        memory.tried = TriedRevisions::default();
        // What was found about a newer revision still holds after a run at the applied one.
        let is_again = step.previous == Some(step.target);
        if !is_again || memory.written.is_none() {
            memory.written = Some(ending.at);
        }
        memory.verdict.take_if(|known| !is_again || known.revision == step.target);
        (memory.accepted, memory.unheld) = (None, None);
        let last = memory.acted.replace(finished);
        // A newer revision may wait while the applied one is run again.
        if last.is_none_or(|last| last.revision != step.target) {
            (memory.sight, memory.begun, memory.allowed) = (None, None, None);
        }
        let tree = tree::tree_settings(&repository.git, step.target).ok();
        memory.heeded = tree.as_ref().and_then(|tree| tree.urgent.clone());
        memory.ignored_keys = tree.as_ref().map(|tree| tree.unknown.clone()).unwrap_or_default();
        memory.tree_when =
            tree.map(|tree| TreeRerunPolicy { revision: step.target, when: tree.when });
        memory.gaps = tree::gaps(&repository.git, memory.gaps.as_ref(), step.target);
    } else {
        memory.tried.add(step.target);
        let attempt = Attempt::after(
            ending.outcome.clone(),
            step.target,
            step.attempt,
            memory.attempt.as_ref(),
            &repository.context.node.host,
            ending.at,
        );
        let attempt = Attempt { script: ending.failed_script.clone(), ..attempt };
        // A run that died behind its record is recorded again, and counts once.
        let is_counted = known
            && memory.attempt.as_ref().is_some_and(|last| {
                let one = (last.revision, last.number, &last.outcome);
                one == (attempt.revision, attempt.number, &attempt.outcome)
            });
        let attempt = if is_counted { attempt } else { attempt.counted(ending.seconds, ending.at) };
        if let (Some(_), Some(cause)) =
            (step.way_back, attempt.tally.cause(&attempt.outcome, ending.at))
        {
            mark_bad(repository, &mut memory, step.target, cause)?;
        }
        memory.attempt = Some(attempt);
    }
    repository.records.put_memory(&memory)
}

/// Marks `revision` as bad here, and forgets that a person accepted it.
fn mark_bad(
    repository: &Repository,
    memory: &mut ActionState,
    revision: Commit,
    cause: BadCause,
) -> Result<()> {
    let bad = BadRevision { revision, cause: Some(cause), back_since: None };
    tracing::warn!(repository = %repository.repo.name, "{}", bad.sentence());
    repository.git.set_ref(&BadRevision::mark(revision), revision, "bad here")?;
    memory.accepted = memory.accepted.filter(|accepted| *accepted != revision);
    memory.bad = Some(bad);
    Ok(())
}

/// Marks `bad` at the ref `name`, where each of several is judged by itself, and forgets that a person accepted it.
/// What cannot be written is only logged: the record of the refs says it as well.
pub fn mark_bad_at(repository: &Repository, name: &str, bad: BadRevision) {
    let BadRevision { revision, .. } = bad;
    let marked = || {
        if let Some(mark) = bad_mark(name, revision) {
            repository.git.set_ref(&mark, revision, "bad here")?;
        }
        let mut memory = repository.records.memory()?;
        if memory.accepted.take_if(|accepted| *accepted == revision).is_some() {
            repository.records.put_memory(&memory)?;
        }
        Ok(())
    };
    let (repo, reference) = (&repository.repo.name, name.escape_controls());
    tracing::warn!(repository = %repo, reference = %reference, "{}", bad.sentence());
    marked().unwrap_or_else(|error: anyhow::Error| {
        tracing::warn!(repository = %repo, reference = %reference, error = %one_line(&error), "not marked");
    });
}

/// Removes the mark of `revision` at the ref `name`, where it succeeded.
pub fn unmark_bad_at(repository: &Repository, name: &str, revision: Commit) {
    let Some(mark) = bad_mark(name, revision) else { return };
    if let Err(error) = repository.git.remove_ref(&mark) {
        tracing::warn!(repository = %repository.repo.name, reference = %name.escape_controls(),
            error = %one_line(&error), "the mark stays");
    }
}

/// Records what the success of `step` at `at` means for a bad revision: the machine is back, a newer one succeeded,
/// or the bad one itself did, which a person accepted.
fn leave_or_mend(
    repository: &Repository,
    memory: &mut ActionState,
    step: &JournalStep,
    at: DateTime<Utc>,
) -> Result<()> {
    let Some(bad) = &mut memory.bad else {
        return match step.previous == Some(step.target) {
            true => Ok(()),
            false => repository.git.remove_ref(&BadRevision::mark(step.target)),
        };
    };
    if step.leaves == Some(bad.revision) || step.previous == Some(step.target) {
        bad.back_since.get_or_insert(at);
        return Ok(());
    }
    repository.git.remove_ref(&BadRevision::mark(step.target))?;
    memory.bad = None;
    Ok(())
}

/// Who signed `applied`, or the revision of upstream that was merged into it.
fn signer(repository: &Repository, judged: &[SignedRevision], applied: Commit) -> Option<Signer> {
    let merged = || repository.polled().tip.filter(|_| !judged.is_empty());
    let of = |revision: Commit| judged.iter().rfind(|it| it.revision == revision);
    of(applied).or_else(|| of(merged()?))?.signer.clone()
}

/// Adds ended runs to the history, counts them in `memory`, which the caller writes, and reports each that is new there
/// to the waiting process.
///
/// # Errors
/// When they cannot be written.
pub fn ended(
    repository: &Repository,
    memory: &mut ActionState,
    runs: &[FinishedRun],
) -> Result<()> {
    let new = repository.records.add_to_history(runs)?;
    count(repository, memory, runs)?;
    for run in new {
        if !scripts::emit_within(
            ProgressEvent::Ended(RunEnded::of(&repository.repo.name, run)),
            PATIENCE,
        ) {
            break;
        }
    }
    Ok(())
}

/// Counts `runs`, which are in the history, in `memory`; for the first time all that the history has.
fn count(repository: &Repository, memory: &mut ActionState, runs: &[FinishedRun]) -> Result<()> {
    let (counts, runs) = match &mut memory.actions {
        Some(counts) => (counts, runs),
        none => (none.insert(ActionCounts::default()), &*repository.records.history()?),
    };
    runs.iter().for_each(|run| counts.add(&run.id, &run.outcome, run.count));
    Ok(())
}

/// Records what the person of this command did.
///
/// # Errors
/// When it cannot be written.
pub fn act(context: &Context, name: &str, records: &RepoRecords, order: &OrderedAct) -> Result<()> {
    let OrderedAct { act, reason, revision, until } = order.clone();
    let (who, at) = (context.person(), host::now());
    let mut words = vec![format!("{name}: {} by {}", act.as_str(), who.name)];
    words.extend(revision.map(|revision| format!("at {}", revision.short())));
    words.extend(who.from.as_deref().map(|from| format!("from {from}")));
    let words = words.join(" ");
    let why = reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    syslog::send(syslog::SyslogLevel::Info, &format!("{words}{why}"));
    records.add_act(PersonAct { at, act, who, reason, revision, until })
}

/// Records the finding about going to `revision`, unless it is recorded already.
///
/// # Errors
/// When it cannot be written.
pub fn verdict(
    repository: &Repository,
    revision: Commit,
    finding: Finding,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut memory = repository.records.memory()?;
    let head = repository.is_at().unwrap_or_default();
    if let Some(known) = &memory.verdict
        && (known.revision, known.head, &known.finding) == (revision, head, &finding)
    {
        return Ok(());
    }
    tracing::info!(repository = %repository.repo.name, revision = %revision.short(), ?finding, "not applied");
    memory.verdict = Some(RecordedFinding { revision, head, finding, since: now });
    repository.records.put_memory(&memory)
}

/// How many judged revisions are remembered: the newest, and one that is run again while that one waits.
const SIGNED: usize = 4;

/// Records that a revision may be applied by its signatures. What was judged by another file of the signers goes.
///
/// # Errors
/// When it cannot be written.
pub fn signed(repository: &Repository, signed: SignedRevision) -> Result<()> {
    let mut memory = repository.records.memory()?;
    memory.signed.retain(|it| {
        let same = (it.revision, it.need, &it.tag) == (signed.revision, signed.need, &signed.tag);
        it.signers == signed.signers && !same
    });
    let surplus = (memory.signed.len() + 1).saturating_sub(SIGNED);
    memory.signed.drain(..surplus);
    memory.signed.push(signed);
    repository.records.put_memory(&memory)
}

/// Records that the gates let `revision` begin, unless they did before.
///
/// # Errors
/// When it cannot be written.
pub fn begun(repository: &Repository, revision: Commit, now: DateTime<Utc>) -> Result<()> {
    let mut memory = repository.records.memory()?;
    if memory.begun.as_ref().is_some_and(|begun| begun.revision == revision) {
        return Ok(());
    }
    memory.begun = Some(BegunAction { revision, at: now });
    repository.records.put_memory(&memory)
}

/// Removes the recorded finding, which no longer applies.
///
/// # Errors
/// When it cannot be written.
pub fn no_verdict(repository: &Repository) -> Result<()> {
    let mut memory = repository.records.memory()?;
    if memory.verdict.take().is_none() {
        return Ok(());
    }
    repository.records.put_memory(&memory)
}
