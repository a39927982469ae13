//! What to do with a journal that a dead run left. Under the lock; may itself die anywhere and be
//! done again.

use anyhow::{Result, bail};

use super::Here;
use super::apply::{self, Applied};
use super::observe::Site;
use super::record;
use super::scripts::seconds_since;
use crate::domain::action::Outcome;
use crate::system::lock::{self, ActionLock, Ending, Journal, Phase, Step};
use crate::system::record::{LastAction, Records};
use crate::system::remote::shallow;
use crate::system::worktree::Worktree;
use crate::system::{files, node, process, sweep};

/// Puts right what the run of `lock`'s journal left, if there is one.
///
/// # Errors
/// When something cannot be put right now; the journal stays, and the next tick tries again.
pub fn recover(here: &Here, lock: &ActionLock, site: &Site) -> Result<()> {
    let Records { private, public } = lock.records();
    // A run may even die before its journal stands.
    files::sweep(private)?;
    files::sweep(public)?;
    let Some(journal) = lock::journal(lock.records())? else { return Ok(()) };
    tracing::info!(repository = %site.repo.name, phase = ?journal.phase, "a dead run is put right");
    let script = journal.step.as_ref().and_then(|step| step.script);
    if let (Some(script), true) = (script, journal.boot_id == here.node.boot_id) {
        process::outlast(script.process, script.deadline, || {})?;
    }
    sweep::after_death(site.git.git_dir(), journal.since)?;
    shallow::put_back(site.git.git_dir())?;
    Worktree::open(&site.repo.path)?.sweep_all()?;
    if let Some(step) = &journal.step {
        match journal.phase {
            Phase::Fetch => {}
            Phase::Apply => roll_forward(site, step)?,
            Phase::Run => {
                let ending = ending_of_a_dead_run(site, step, &journal);
                record_run(site, &journal, step, &ending)?;
            }
            Phase::Done => {
                if let Some(ending) = &step.ended {
                    record_run(site, &journal, step, ending)?;
                }
            }
        }
    }
    lock.withdraw(&journal)?;
    lock.clear()
}

/// Carries a half-written change on to its end, without scripts: the decision that follows runs
/// them.
///
/// # Errors
/// When somebody edited meanwhile: nothing of theirs is touched, and the journal stays. Without it
/// nobody would know any more where the files that are written already belong, and every later
/// update would find them in its way.
fn roll_forward(site: &Site, step: &Step) -> Result<()> {
    match apply::apply(site, step)? {
        Applied::Yes => Ok(()),
        Applied::Dirty(paths) => bail!(
            "an update to {} was cut off, and local changes are in the way of ending it: {}\n\
             hint: put them away; the next tick goes on",
            step.target.short(),
            paths.join(", ")
        ),
    }
}

/// A run whose `lastaction.txt` moved succeeded, even when no more than that was written down; any
/// other was cut off.
fn ending_of_a_dead_run(site: &Site, step: &Step, journal: &Journal) -> Ending {
    let now = node::now();
    let moved = step.previous != Some(step.target)
        && site.records.last_action().0 == LastAction::Revision(step.target);
    Ending {
        outcome: if moved { Outcome::Succeeded } else { Outcome::Interrupted },
        seconds: seconds_since(journal.since, now),
        at: now,
    }
}

fn record_run(site: &Site, journal: &Journal, step: &Step, ending: &Ending) -> Result<()> {
    let run = record::Run { id: &journal.id, trigger: journal.trigger, step, ending };
    record::run(site, &run, None)
}
