//! Writing down how a run ended. Everything here may be done twice: a run that dies in the middle is
//! recorded again by the next.

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::apply;
use super::observe::Site;
use crate::domain::action::{Attempt, Finished, Outcome, Trigger};
use crate::domain::git::Commit;
use crate::domain::plan::{Finding, TreeWhen, Verdict};
use crate::system::files::Prepared;
use crate::system::git::ACTED;
use crate::system::lock::{Ending, Step};
use crate::system::syslog;

/// A run that ended and is to be recorded.
pub struct Run<'a> {
    /// The same for every record of this run.
    pub id: &'a str,
    /// Why it happened.
    pub trigger: Trigger,
    /// What it acted upon.
    pub step: &'a Step,
    /// How it ended.
    pub ending: &'a Ending,
}

/// Records a run: `lastaction.txt` first where it succeeded (the commit point), then the acted ref,
/// the history and the state.
///
/// # Errors
/// When something cannot be written; what is written already stays, and doing it again is fine.
pub fn run(site: &Site, run: &Run, prepared: Option<Prepared>) -> Result<()> {
    let Run { step, ending, .. } = run;
    let succeeded = ending.outcome == Outcome::Succeeded;
    if succeeded {
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => site.records.prepare_last_action(step.target)?,
        };
        prepared.commit()?;
    }
    let finished = Finished {
        id: run.id.to_owned(),
        at: ending.at,
        revision: step.target,
        subject: site.git.subject(step.target),
        reference: None,
        previous: step.previous,
        trigger: run.trigger,
        outcome: ending.outcome.clone(),
        attempt: step.attempt,
        seconds: ending.seconds,
        log: step.log.clone(),
    };
    let known = site.records.history()?.iter().rev().take(8).any(|entry| entry.id == finished.id);
    if !known {
        if succeeded {
            let message = format!("{}: {} in {:.1} s", run.trigger, ending.outcome, ending.seconds);
            site.git.set_logged_ref(ACTED, step.target, &message)?;
        }
        site.records.add_to_history(&finished)?;
        syslog::tell(
            if succeeded { syslog::Level::Info } else { syslog::Level::Warning },
            &format!(
                "{}: {} {} ({}, {:.1} s)",
                site.repo.name,
                step.target.short(),
                ending.outcome,
                run.trigger,
                ending.seconds
            ),
        );
    }
    let mut memory = site.records.memory()?;
    if succeeded {
        memory.attempt = None;
        memory.verdict = None;
        memory.accepted = None;
        memory.acted = Some(finished);
        let tree = apply::tree_settings(&site.git, step.target).unwrap_or_default();
        memory.tree_when = Some(TreeWhen { revision: step.target, when: tree.when });
    } else {
        let attempt = Attempt::after(
            ending.outcome.clone(),
            step.target,
            step.attempt,
            memory.attempt.as_ref(),
            &site.here.node.host,
            ending.at,
        );
        memory.attempt = Some(Attempt { script: step.culprit.clone(), ..attempt });
    }
    site.records.put_memory(&memory)
}

/// Remembers what was found about going to `revision`, unless it is known already.
///
/// # Errors
/// When it cannot be written.
pub fn verdict(site: &Site, revision: Commit, finding: Finding, now: DateTime<Utc>) -> Result<()> {
    let mut memory = site.records.memory()?;
    let head = site.stands_at().unwrap_or_default();
    if let Some(known) = &memory.verdict
        && (known.revision, known.head, &known.finding) == (revision, head, &finding)
    {
        return Ok(());
    }
    tracing::info!(repository = %site.repo.name, revision = %revision.short(), ?finding, "not acted upon");
    memory.verdict = Some(Verdict { revision, head, finding, since: now });
    site.records.put_memory(&memory)
}

/// Forgets a verdict that no longer stands in the way.
///
/// # Errors
/// When it cannot be written.
pub fn no_verdict(site: &Site) -> Result<()> {
    let mut memory = site.records.memory()?;
    if memory.verdict.take().is_none() {
        return Ok(());
    }
    site.records.put_memory(&memory)
}
