//! One tree at one target: a branch that is followed, or what a person asks for.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::gate::Passage;
use super::stage::{self, Known, Ready, Stop};
use super::{Shelf, kept};
use crate::config::RepoSettings;
use crate::domain::action::{Outcome, Trigger};
use crate::domain::git::Commit;
use crate::domain::publication::Due;
use crate::domain::publish::Target;
use crate::engine::observe::Site;
use crate::engine::{record, scripts, steer};
use crate::system::lock::{ActionLock, Ending, Journal, Phase};
use crate::system::release::Staged;
use crate::system::{logs, node};

/// Whether `before` and `after` run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// They do.
    Run,
    /// Nothing relevant changed: they do not, and nothing is recorded. What was acted upon stays what
    /// it was.
    Rest,
}

/// Shows the journal's revision at `target`, and records how that ended.
///
/// # Errors
/// When something cannot be read, written or started.
pub fn follow(
    site: &Site,
    lock: &ActionLock,
    mut journal: Journal,
    settings: &RepoSettings,
    target: Target,
    programs: Programs,
    trigger: Trigger,
) -> Result<Outcome> {
    let Some(step) = journal.step.clone() else { bail!("the journal lost its step") };
    let prepared = site.records.prepare_last_action(step.target)?;
    let started = node::now();
    if programs == Programs::Run {
        scripts::tell_step(site, &step, started);
    }
    let (reference, revision) = (step.branch.local(), step.target);
    let path = target.folder.join(target.link(""));
    let target = path.as_path();
    let mut passage = Passage { site, lock, settings, step, reference, trigger, target, log: None };
    let shown = show(&mut passage, &mut journal, programs);
    let Passage { mut step, log, .. } = passage;
    let ended = node::now();
    let seconds = scripts::seconds_since(started, ended);
    if let (Some(log), Ok((_, outcome))) = (log, &shown) {
        log.finish(ended, outcome, seconds);
        let folder = steer::log_folder(site.here, &site.repo.name);
        logs::prune(&folder, ended)?;
    }
    let recorded = match &shown {
        Ok((_, outcome)) if programs == Programs::Run => {
            let ending = Ending { outcome: outcome.clone(), seconds, at: ended };
            journal.phase = Phase::Done;
            step.ended = Some(ending.clone());
            journal.step = Some(step.clone());
            // With a full disk this fails; the rename that records a success still works after it.
            let written = lock.write(&journal);
            let run = record::Run { id: &journal.id, trigger, step: &step, ending: &ending };
            record::run(site, &run, Some(prepared)).and(written)
        }
        _ => Ok(()),
    };
    // Whatever went wrong: without its journal this file would be taken for somebody's wish.
    lock.withdraw(&journal)?;
    let (shelf, outcome) = shown?;
    recorded?;
    retire(site, &shelf, &kept(site, revision)?)?;
    lock.clear()?;
    Ok(outcome)
}

/// Shows it, between `before` and `after`.
fn show(
    passage: &mut Passage,
    journal: &mut Journal,
    programs: Programs,
) -> Result<(Shelf, Outcome)> {
    let (site, revision) = (passage.site, passage.step.target);
    let Some(target) = site.repo.settings.target() else { bail!("there is no target") };
    let shelf = Shelf::make(site, target)?;
    shelf.sweep(site);
    let known = Known::when(passage.trigger);
    if let Ready::Staged(staged) = stage_one(site, &shelf, revision, known)? {
        if programs == Programs::Run {
            let outcome = passage.before(journal, staged.path())?;
            if outcome != Outcome::Succeeded {
                return Ok((shelf, outcome));
            }
        }
        seal(&shelf, staged, known)?;
    }
    shelf.store.show(&shelf.place("")?, revision)?;
    shelf.store.settle()?;
    let outcome = match programs {
        Programs::Run => passage.after(journal)?,
        Programs::Rest => Outcome::Succeeded,
    };
    Ok((shelf, outcome))
}

/// Lets `target` show `revision`; nothing runs. What it showed before goes.
///
/// # Errors
/// When the tree breaks the rules, or something cannot be read or written.
pub fn put(site: &Site, target: Target, revision: Commit) -> Result<()> {
    let shelf = Shelf::make(site, target)?;
    shelf.sweep(site);
    let known = Known::Renewed;
    if let Ready::Staged(staged) = stage_one(site, &shelf, revision, known)? {
        seal(&shelf, staged, known)?;
    }
    shelf.store.show(&shelf.place("")?, revision)?;
    shelf.store.settle()?;
    retire(site, &shelf, &[revision].into())
}

/// Makes a release of what was staged, on disk before and after it has its name.
fn seal(shelf: &Shelf, staged: Staged, known: Known) -> Result<()> {
    shelf.store.settle()?;
    known.seal(staged)?;
    shelf.store.settle()
}

/// Takes the releases away that are not `kept`, and what one that was written anew left.
fn retire(site: &Site, shelf: &Shelf, kept: &BTreeSet<Commit>) -> Result<()> {
    let surplus = shelf.store.surplus(&shelf.place("")?, kept)?;
    if !surplus.is_empty() {
        surplus.iter().try_for_each(|release| shelf.store.retire(release))?;
        shelf.store.settle()?;
    }
    shelf.sweep(site);
    Ok(())
}

fn stage_one(site: &Site, shelf: &Shelf, revision: Commit, known: Known) -> Result<Ready> {
    let (name, directory) = (String::new(), String::new());
    let due = Due { name, revision, directory, attempt: 1, resumed: false };
    match stage::all(site, shelf, std::slice::from_ref(&due), known)?.pop() {
        Some(Ok(ready)) => Ok(ready),
        Some(Err(Stop::Hindered(reason))) => bail!(reason),
        Some(Err(Stop::Verdict(finding))) => bail!(finding.told().1),
        None => bail!("nothing was staged"),
    }
}
