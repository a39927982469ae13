//! One repository, once, by its worker: lock, recover, observe again, decide again, fetch, apply,
//! run, record. Assumes that it may die between any two lines.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::Here;
use super::apply::{self, Applied};
use super::observe::{self, Opened, Site, one_line};
use super::publish::{self, Programs};
use super::recover::Recovered;
use super::repair::{self, Looked};
use super::roster::{Found, Repo};
use super::scripts::{self, Agenda};
use super::{clone, fetch, housekeeping, record, recover, steer};
use crate::config::RepoSettings;
use crate::domain::action::{Attempt, Outcome, Trigger};
use crate::domain::change::{Change, ChangeError};
use crate::domain::git::{Commit, RefName};
use crate::domain::paths::Patterns;
use crate::domain::plan::{Act, Finding, Observed, Pin, Plan, Request, Target, Upstream, decide};
use crate::system::git::merge::Merged;
use crate::system::git::{Head, git_dir_of};
use crate::system::lock::{self, ActionLock, Ending, Journal, Phase, Step, Tried};
use crate::system::logs::{self, Log};
use crate::system::record::{Memory, Polled, Records};
use crate::system::remote::Progress;
use crate::system::worktree::Unready;
use crate::system::{node, process, sweep};

/// How long a lock of git's is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What a worker was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Why, and what may be overridden.
    pub request: Request,
    /// Wait for the lock instead of leaving when it is taken.
    pub wait: bool,
    /// What a person asked for beside following upstream.
    pub wish: Wish,
}

/// What a person asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// Nothing in particular.
    Follow,
    /// Act again upon what is checked out.
    Redo,
    /// Go back to this revision and stay there.
    Rollback(Commit),
    /// Take this rewritten upstream revision.
    Accept(Commit),
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was seen to; the records tell how it ended.
    Seen,
    /// Another worker is at it.
    Busy,
}

/// Works on one repository until nothing is left to do. `progress` hears of a fetch.
///
/// # Errors
/// When the agent itself cannot do its part; that is remembered as an attempt where it can be.
pub fn work(
    here: &Here,
    repo: &Repo,
    order: &Order,
    progress: &mut dyn FnMut(Progress),
) -> Result<Done> {
    let cloned;
    let repo = match repo.found {
        Found::Missing => {
            clone::make(here, repo)?;
            cloned = Repo { found: Found::Clone, ..repo.clone() };
            &cloned
        }
        _ => repo,
    };
    loop {
        let git_dir = git_dir_of(&repo.path);
        let (git_dir, records) = match (observe::open(here, repo), git_dir) {
            (Opened::Ready(site), _) => (site.git.git_dir().to_owned(), site.records),
            (Opened::Damaged(_), Some(git_dir)) => {
                let records = Records::of(&git_dir, &repo.path);
                (git_dir, records)
            }
            (Opened::Broken(reason) | Opened::Damaged(reason), _) => bail!(reason),
            (Opened::Missing, _) => bail!("{} is not there", repo.path.display()),
        };
        records.make(&git_dir)?;
        if matches!(order.request.trigger, Trigger::Bus | Trigger::Webhook) {
            // Before trying the lock: whoever holds it now looks for this after letting go.
            records.ask_again()?;
        }
        let lock = match (ActionLock::acquire(&records)?, order.wait) {
            (Tried::Held(lock), _) => lock,
            (Tried::Busy, true) => ActionLock::wait(&records)?,
            (Tried::Busy, false) => return Ok(Done::Busy),
        };
        if let Some(worker) = lock::other_worker(&records, &here.node.boot_id)? {
            // Somebody removed the lock file from under it. Its journal still keeps us apart.
            drop(lock);
            if !order.wait {
                return Ok(Done::Busy);
            }
            process::outlast(worker, Duration::MAX, || {})?;
            continue;
        }
        records.asked_again()?;
        housekeeping::outlast_collecting(here, &lock, &git_dir)?;
        let mut outcome = pass(here, repo, &lock, order, progress);
        if let Err(error) = &outcome {
            outcome = match repair::repair(here, repo, &lock, &one_line(error), progress) {
                Ok(Looked::Repaired) => pass(here, repo, &lock, order, progress)
                    .inspect_err(|again| repair::in_vain(&records, &one_line(again))),
                Ok(Looked::Sound) => outcome,
                Err(remains) => Err(remains),
            };
        }
        match &outcome {
            Ok(()) => housekeeping::tidy(here, repo, &lock),
            Err(error) => hindered(here, repo, order, &records, error),
        }
        drop(lock);
        outcome?;
        if !records.asked_again()? {
            return Ok(Done::Seen);
        }
    }
}

/// Remembers that the agent could not do its part, if that much can still be written.
fn hindered(here: &Here, repo: &Repo, order: &Order, records: &Records, error: &anyhow::Error) {
    let reason = one_line(error);
    tracing::warn!(repository = %repo.name, %reason, "could not be worked on");
    let Opened::Ready(site) = observe::open(here, repo) else { return };
    let Ok(mut memory) = records.memory() else { return };
    let now = node::now();
    let mut seen = Observed { leftover: false, ..site.observe(&records.polled(), now) };
    if order.wish == Wish::Redo {
        seen.upstream = Upstream::Unknown;
    }
    let (revision, number) = match decide(&seen, &site.policy(&seen), order.request, now) {
        Plan::Run(Act { target: Target::Commit(to) | Target::MergeOf(to), attempt, .. }) => {
            (to, attempt)
        }
        Plan::Fetch { tip } => (tip, 1),
        // Nothing that would have to be done once more.
        Plan::Idle | Plan::Wait { .. } | Plan::Stopped | Plan::Recover | Plan::Publish(_) => return,
    };
    let (outcome, before) = (Outcome::Hindered { reason }, memory.attempt.take());
    let attempt = Attempt::after(outcome, revision, number, before.as_ref(), &here.node.host, now);
    memory.attempt = Some(attempt);
    // The same cause may stand in the way of this as well; the tick tells it then.
    let _ = records.put_memory(&memory);
}

/// One pass under the lock.
fn pass(
    here: &Here,
    repo: &Repo,
    lock: &ActionLock,
    order: &Order,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    // Opened under the lock: another worker may have moved everything since.
    let mut site = reopened(here, repo)?;
    site.git.no_torn_object()?;
    if recover::recover(here, lock, &site)? == Recovered::Blocked {
        return Ok(());
    }
    sweep::stale(site.git.git_dir(), node::now())?;
    site = reopened(here, repo)?;
    grant(&site, order)?;
    scripts::adopt_id(&site)?;
    let whom = order.request.whom();
    let (mut journal, mut listed) = (None, false);
    // Once to fetch, once to act; a tip that moves in between is the next tick's.
    for round in 0..2 {
        let now = node::now();
        let mut polled = Polled { listed, ..site.records.polled() };
        // Where nobody has asked yet. And what is gone is told by a fresh list of refs only.
        let is_new = !polled.known || (round == 0 && site.fetches_all());
        if is_new && order.wish == Wish::Follow {
            polled = site.hear(polled, whom, now)?;
        }
        let mut seen = site.observe(&polled, now);
        if order.wish == Wish::Redo {
            // The same revision, whatever upstream has meanwhile.
            seen.upstream = Upstream::Unknown;
            if let Some(refs) = &mut seen.refs {
                refs.unfetched = false;
            }
        }
        if let Some(reason) = seen.damaged {
            bail!(reason);
        }
        match decide(&seen, &site.policy(&seen), order.request, now) {
            Plan::Fetch { tip } => {
                no_locks(&site)?;
                journal = Some(lock.begin(order.request.trigger, &here.node.boot_id, now)?);
                if !fetch::fetch(&site, tip, whom, progress)? {
                    return lock.clear();
                }
                site = reopened(here, repo)?;
            }
            Plan::Run(act) => {
                let journal = match journal.take() {
                    Some(journal) => journal,
                    None => lock.begin(order.request.trigger, &here.node.boot_id, now)?,
                };
                return run(&site, lock, journal, &act, &seen.branch);
            }
            Plan::Publish(plan) => {
                let trigger = order.request.trigger;
                let begun = match journal.take() {
                    Some(journal) => journal,
                    None => lock.begin(trigger, &here.node.boot_id, now)?,
                };
                if !plan.fetch {
                    return publish::carry_out(&site, lock, begun, &plan, trigger);
                }
                no_locks(&site)?;
                journal = Some(begun);
                // Without a fresh list nothing is known to be gone.
                let listing = site.records.listing()?;
                let Some(tips) = fetch::upstream(&site, &polled, listing.as_ref()) else { break };
                if !fetch::every(&site, &polled, &tips, whom, progress)? {
                    return lock.clear();
                }
                listed = !polled.is_doubtful();
                site = reopened(here, repo)?;
            }
            Plan::Idle | Plan::Wait { .. } | Plan::Stopped | Plan::Recover => break,
        }
    }
    lock.clear()
}

fn reopened<'a>(here: &'a Here, repo: &'a Repo) -> Result<Box<Site<'a>>> {
    match observe::open(here, repo) {
        Opened::Ready(site) => Ok(site),
        Opened::Broken(reason) | Opened::Damaged(reason) => bail!(reason),
        Opened::Missing => bail!("{} is gone", repo.path.display()),
    }
}

/// Fails while git's locks stand in the way of writing. To be asked before the first write: one that
/// is found half-way leaves files behind that no commit explains.
fn no_locks(site: &Site) -> Result<()> {
    let start = node::since_boot();
    loop {
        let Some(found) = sweep::locks(site.git.git_dir())?.into_iter().next() else {
            return Ok(());
        };
        // A git command of a person's is over in a moment.
        if node::since_boot() - start < LOCK_PATIENCE {
            std::thread::sleep(LOCK_PATIENCE / 20);
            continue;
        }
        bail!(
            "{} is there since {}: another git command works here, or one died\n\
             hint: it is removed once it is ten minutes old and no process has it open",
            found.path.display(),
            found.since.format("%Y-%m-%d %H:%M:%S UTC")
        );
    }
}

/// Writes a person's wish down, so that a run that is cut off goes on with it.
fn grant(site: &Site, order: &Order) -> Result<()> {
    match order.wish {
        Wish::Follow | Wish::Redo => Ok(()),
        Wish::Rollback(revision) => {
            let (by, since) = (node::person(), node::now());
            site.records.put_pin(&Pin { revision, by, since })
        }
        Wish::Accept(revision) => {
            let memory = Memory { accepted: Some(revision), ..site.records.memory()? };
            site.records.put_memory(&memory)
        }
    }
}

/// Acts, or finds out why not.
fn run(
    site: &Site,
    lock: &ActionLock,
    mut journal: Journal,
    act: &Act,
    upstream_branch: &Option<RefName>,
) -> Result<()> {
    let now = node::now();
    let branch = match (upstream_branch, &site.head) {
        (Some(branch), _) | (None, Head::Branch(branch, _)) => branch.clone(),
        _ => bail!("HEAD is on no branch"),
    };
    let stop = |revision, finding| {
        record::verdict(site, revision, finding, now)?;
        lock.clear()
    };
    let target = match act.target {
        Target::Commit(commit) => commit,
        Target::MergeOf(tip) => {
            let Some(head) = act.head else { bail!("there is nothing to merge into") };
            match site.git.merge(head, tip, &branch, &site.here.node.host)? {
                Merged::Commit(commit) => commit,
                Merged::Conflicts(paths) => return stop(tip, Finding::Conflict { paths }),
            }
        }
    };
    let found_for = match act.target {
        Target::Commit(commit) | Target::MergeOf(commit) => commit,
    };
    let tree = match apply::tree_settings(&site.git, target) {
        Ok(tree) => tree,
        Err(reason) => return stop(found_for, Finding::Refused { reason }),
    };
    if let Some(reason) = &tree.hold {
        return stop(found_for, Finding::Held { reason: reason.clone() });
    }
    let settings = site.repo.settings.with_tree(&tree);
    let change = match apply::change_between(&site.git, act.head, target) {
        Ok(change) => change,
        Err(ChangeError::Refused(refusal)) => {
            return stop(found_for, Finding::Refused { reason: refusal.to_string() });
        }
        Err(ChangeError::Unreadable(error)) => return Err(error.into()),
    };
    let since_acted = apply::changed_since(&site.git, act.previous, target);
    let relevant = match (&since_acted, act.only_if_relevant) {
        (Some(paths), true) => Patterns::new(&settings.paths)?.match_any(paths),
        _ => true,
    };
    if !relevant && act.head == Some(target) {
        let Some(since_revision) = act.previous else { bail!("nothing to compare with") };
        return stop(target, Finding::Irrelevant { since_revision });
    }
    if !site.publishes() {
        match apply::ready(site, &change) {
            Ok(_) => {}
            Err(Unready::Dirty(paths)) => {
                return stop(found_for, Finding::Dirty { paths: apply::shown(&paths) });
            }
            Err(Unready::Failed(error)) => return Err(error),
        }
    }
    record::no_verdict(site)?;
    no_locks(site)?;
    if act.saves_head
        && let Some(head) = act.head
    {
        let name = format!("refs/pmpy/saved/{}-{}", now.format("%Y%m%dT%H%M%SZ"), head.short());
        site.git.set_ref(&name, head, "before it left the branch")?;
    }
    let step = Step {
        branch,
        reference: None,
        head: act.head,
        target,
        previous: act.previous,
        attempt: act.attempt,
        resumed: act.resumed,
        current: None,
        script: None,
        culprit: None,
        log: None,
        ended: None,
    };
    if let Some(hold) = lock.announce(&mut journal, step)? {
        tracing::info!(repository = %site.repo.name, by = %hold.by, "held");
        return lock.clear();
    }
    let Some(step) = journal.step.clone() else { bail!("the journal lost its step") };
    if let Some(target) = settings.target() {
        let programs = if relevant { Programs::Run } else { Programs::Rest };
        let ended = publish::follow(site, lock, journal, &settings, target, programs, act.trigger)?;
        return match (ended, act.previous) {
            (Outcome::Succeeded, Some(since_revision)) if !relevant => {
                stop(step.target, Finding::Irrelevant { since_revision })
            }
            _ => apply::lower_mark(site, &step),
        };
    }
    match apply::apply(site, &step)? {
        Applied::Yes => {}
        Applied::Dirty(paths) => {
            lock.withdraw(&journal)?;
            return stop(found_for, Finding::Dirty { paths });
        }
    }
    tell_submodules(site, &change)?;
    if !relevant {
        lock.withdraw(&journal)?;
        let Some(since_revision) = act.previous else { bail!("nothing to compare with") };
        return stop(target, Finding::Irrelevant { since_revision });
    }
    let changed = since_acted.unwrap_or_else(|| apply::every_path(&site.git, target));
    act_upon(site, lock, journal, &settings, &changed, act.trigger)
}

/// Runs the scripts upon what is checked out now, and records how that ended.
fn act_upon(
    site: &Site,
    lock: &ActionLock,
    mut journal: Journal,
    settings: &RepoSettings,
    changed: &[Vec<u8>],
    trigger: Trigger,
) -> Result<()> {
    let Some(mut step) = journal.step.clone() else { bail!("the journal lost its step") };
    let here = site.here;
    let memory = site.records.memory()?;
    let init_due = scripts::init_due(here, &memory);
    let trigger = if init_due { Trigger::Bootstrap } else { trigger };
    let agenda = Agenda::of(site, settings, init_due);
    let prepared = site.records.prepare_last_action(step.target)?;
    let started = node::now();
    scripts::tell_step(site, &step, started);
    let mut log = None;
    let outcome = if agenda.is_empty() {
        Outcome::Succeeded
    } else {
        let folder = steer::log_folder(here, &site.repo.name);
        let file = Log::create(&folder, started, &step.target)?;
        file.start(&format!(
            "{} {} (previous {}, {trigger}, attempt {})",
            site.repo.name,
            step.target,
            step.previous.map_or_else(|| "none".to_owned(), |id| id.short()),
            step.attempt
        ));
        step.log = Some(file.name().to_owned());
        journal.step = Some(step.clone());
        let list = site.records.put_changed(&apply::nul_separated(changed))?;
        let env = scripts::environment(site, settings, &step, trigger, &list)?;
        let deadline = scripts::deadline(settings.timeout);
        let worktree = &site.repo.path;
        let mut go = |rungs: &[String]| {
            let list = scripts::Programs::scripts(worktree, rungs, &env)?;
            scripts::run(lock, &mut journal, list, &file, deadline)
        };
        let mut outcome = go(&agenda.init)?;
        if outcome == Outcome::Succeeded && init_due {
            scripts::init_succeeded(site)?;
        }
        if outcome == Outcome::Succeeded {
            outcome = go(&agenda.work)?;
        }
        step.culprit = journal.step.as_ref().and_then(|step| step.culprit.clone());
        log = scripts::log_to_keep(file, folder, &mut step, trigger, &outcome)?;
        outcome
    };
    if init_due && agenda.init.is_empty() && outcome == Outcome::Succeeded {
        scripts::init_succeeded(site)?;
    }
    let ended = node::now();
    let ending = Ending { outcome, seconds: scripts::seconds_since(started, ended), at: ended };
    journal.phase = Phase::Done;
    step.ended = Some(ending.clone());
    journal.step = Some(step.clone());
    // With a full disk this fails; the rename that records a success still works after it.
    let written = lock.write(&journal);
    if let Some((file, folder)) = log {
        file.finish(ended, &ending.outcome, ending.seconds);
        logs::prune(&folder, ended)?;
    }
    let run = record::Run { id: &journal.id, trigger, step: &step, ending: &ending };
    let recorded = record::run(site, &run, Some(prepared));
    // Whatever went wrong: without its journal, which a script may even have removed, this file would
    // be taken for somebody's wish.
    lock.withdraw(&journal)?;
    recorded?;
    written?;
    lock.clear()
}

/// Says once that submodules are left out.
fn tell_submodules(site: &Site, change: &Change) -> Result<()> {
    let Some(first) = change.submodules().next() else { return Ok(()) };
    let mut memory = site.records.memory()?;
    if memory.submodules_told {
        return Ok(());
    }
    tracing::warn!(repository = %site.repo.name, %first, "submodules are never fetched; left empty");
    memory.submodules_told = true;
    site.records.put_memory(&memory)
}
