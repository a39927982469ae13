//! Records how a run ended. Every step here may be repeated: a run that dies in the middle is recorded
//! again by the next.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::action::{
    Attempt, FinishedRun, Outcome, ProgressEvent, RunEnded, TriedRevisions, Trigger,
};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::history::{ActKind, PersonAct};
use crate::domain::repository::observed::{RecordedFinding, TreeRerunPolicy};
use crate::engine::context::Context;
use crate::engine::repository::{Repository, tree};
use crate::engine::run::scripts;
use crate::system::git::ACTED;
use crate::system::lock::{JournalStep, ScriptEnding};
use crate::system::repo_state::RepoRecords;
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
    let finished = FinishedRun {
        id: run.id.to_owned(),
        at: ending.at,
        revision: step.target,
        subject: repository.git.subject(step.target),
        reference: None,
        previous: step.previous,
        trigger: run.trigger,
        outcome: ending.outcome.clone(),
        attempt: step.attempt,
        seconds: ending.seconds,
        log: step.log.clone(),
        tree: repository.git.tree_of(&step.target).ok(),
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
        ended(repository, std::slice::from_ref(&finished))?;
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
    let mut memory = repository.records.memory()?;
    if succeeded {
        memory.attempt = None;
        memory.tried = TriedRevisions::default();
        memory.verdict = None;
        (memory.accepted, memory.unheld) = (None, None);
        memory.acted = Some(finished);
        let tree = tree::tree_settings(&repository.git, step.target).ok();
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
        memory.attempt = Some(Attempt { script: ending.failed_script.clone(), ..attempt });
    }
    repository.records.put_memory(&memory)
}

/// Adds ended runs to the history, and reports each that is new there to the waiting process.
///
/// # Errors
/// When they cannot be written.
pub fn ended(repository: &Repository, runs: &[FinishedRun]) -> Result<()> {
    for run in repository.records.add_to_history(runs)? {
        if !scripts::emit_within(
            ProgressEvent::Ended(RunEnded::of(&repository.repo.name, run)),
            PATIENCE,
        ) {
            break;
        }
    }
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
