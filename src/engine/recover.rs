//! What to do with a journal that a dead run left. Under the lock; may itself die anywhere and be
//! done again.

use anyhow::Result;

use super::Here;
use super::apply::{self, Applied};
use super::observe::Site;
use super::publish;
use super::record;
use super::scripts::seconds_since;
use crate::domain::action::Outcome;
use crate::domain::git::Commit;
use crate::domain::plan::Finding;
use crate::system::lock::{self, ActionLock, Ending, Journal, Phase, Step};
use crate::system::record::{LastAction, Records};
use crate::system::remote::shallow;
use crate::system::worktree::Worktree;
use crate::system::{files, node, process, sweep};

/// What became of what a dead run left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing is left of it.
    Whole,
    /// Local changes stand in the way of ending its update. Nothing of theirs is touched, nothing else
    /// can be done before they are gone, and the journal stays: without it nobody would know any more
    /// where the files that are written already belong.
    Blocked,
}

/// Puts right what the run of `lock`'s journal left, if there is one.
///
/// # Errors
/// When something cannot be put right now; the journal stays, and the next tick tries again.
pub fn recover(here: &Here, lock: &ActionLock, site: &Site) -> Result<Recovered> {
    let Records { private, public } = lock.records();
    // A run may even die before its journal stands.
    files::sweep(private)?;
    files::sweep(public)?;
    let Some(journal) = lock::journal(lock.records())? else { return Ok(Recovered::Whole) };
    tracing::info!(repository = %site.repo.name, phase = ?journal.phase, "a dead run is put right");
    let script = journal.step.as_ref().and_then(|step| step.script);
    if let (Some(script), true) = (script, journal.boot_id == here.node.boot_id) {
        process::outlast(script.process, script.deadline, || {})?;
    }
    sweep::after_death(site.git.git_dir(), journal.since)?;
    shallow::put_back(site.git.git_dir())?;
    Worktree::open(&site.repo.path)?.sweep_all()?;
    publish::clear_up(site);
    if let Some(step) = &journal.step {
        match journal.phase {
            Phase::Fetch => {}
            // What is shown is whole, and the decision that follows shows the rest.
            Phase::Apply if site.publishes() => {}
            Phase::Run | Phase::Done if site.fetches_all() => publish::cut_off(site, step)?,
            Phase::Apply => {
                if let Applied::Dirty(paths) = roll_forward(site, step)? {
                    lock.withdraw(&journal)?;
                    record::verdict(site, step.target, Finding::Dirty { paths }, node::now())?;
                    return Ok(Recovered::Blocked);
                }
            }
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
    lock.clear()?;
    Ok(Recovered::Whole)
}

/// Carries a half-written change on to its end, without scripts: the decision that follows runs
/// them.
fn roll_forward(site: &Site, step: &Step) -> Result<Applied> {
    match moved_by_a_person(site, step)? {
        // Where to go from there is to be decided anew, with what was half written taken back.
        Some(commit) => apply::rewrite(site, Some(step.target), commit),
        None => apply::apply(site, step),
    }
}

/// Where the branch is, when somebody committed or reset since the run died.
fn moved_by_a_person(site: &Site, step: &Step) -> Result<Option<Commit>> {
    let branch = site.git.ref_commit(&step.branch.local())?;
    Ok(match branch {
        Some(commit) if branch != step.head && !site.git.contains(step.target, commit)? => branch,
        _ => None,
    })
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
