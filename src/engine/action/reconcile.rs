//! Reconciles one repository in its worker process: lock, recover, observe again, decide again, fetch,
//! deploy. May die between any two lines. The decisions come from `domain::repository`.

use std::time::Duration;

use anyhow::{Error, Result, bail};
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::decision::{Plan, decide};
use crate::domain::repository::gate::SignatureNeed;
use crate::domain::repository::history::ActKind;
use crate::domain::repository::observed::{Pin, UpstreamTip};
use crate::engine::action::failure::record_failure;
use crate::engine::action::recover::{self, RecoveryOutcome};
use crate::engine::action::repair::{self, DamageSearch};
use crate::engine::action::way_back::CheckWatch;
use crate::engine::action::{clone, deploy, drift, fetch, housekeeping, sight, way_back};
use crate::engine::context::Context;
use crate::engine::discovery::{CloneState, RepoEntry};
use crate::engine::error::{self, one_line};
use crate::engine::publish::{multi_ref, restore};
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::repository::{Repository, limits, upstream_refs};
use crate::engine::request::{LockWait, WorkerCommand, WorkerJob};
use crate::engine::run::record::{self, OrderedAct};
use crate::engine::run::scripts;
use crate::system::git::{git_dir_of, ownership, size_limits};
use crate::system::lock::{self, ActionLock, TryLock};
use crate::system::remote::FetchProgress;
use crate::system::repo_state::{PollRecord, RepoRecords};
use crate::system::{host, process, stale_files, watchdog};

/// The interval at which a taken lock is tried again.
const LOCK_BEAT: Duration = Duration::from_millis(100);

/// The result of a worker's job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// The job is done; the records say how it ended.
    Seen,
    /// Another worker has the lock.
    Busy,
}

/// Works on one repository until nothing is left to do. `progress` is called during a fetch.
///
/// # Errors
/// When the agent itself fails; that is recorded as an attempt where possible.
pub fn work(
    context: &Context,
    repo: &RepoEntry,
    order: &WorkerJob,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<WorkerOutcome> {
    let cloned;
    let repo = match &repo.found {
        CloneState::Missing => {
            clone::make(context, repo)?;
            cloned = RepoEntry { found: CloneState::Clone, ..repo.clone() };
            &cloned
        }
        _ => repo,
    };
    let overrides = order.request.overrides.then_some((ActKind::Override, None));
    let mut act = order.command.act().or(overrides).map(|(act, revision)| OrderedAct {
        revision,
        reason: order.reason.clone(),
        ..OrderedAct::new(act)
    });
    loop {
        // Judges all files that the pass may read or write, before it touches any of them.
        ownership::prepare_to_write(&repo.path, &repo.trust)?;
        let git_dir = match git_dir_of(&repo.path) {
            Some(git_dir) => git_dir,
            // A link to it, or nothing.
            None => reopen(context, repo)?.git.git_dir().to_owned(),
        };
        let mut records = RepoRecords::of(&git_dir, &repo.path);
        records.make(&git_dir)?;
        if matches!(order.request.trigger, Trigger::Bus | Trigger::Webhook) {
            // Before trying the lock: its present holder checks this request after the release.
            records.request_rerun()?;
        }
        let ends_a_check = matches!(order.command, WorkerCommand::Rollback(_));
        // A command that was killed while it waited must not be carried out afterwards.
        let waits = || {
            let waits = lasts(order.wait) && !process::lost_reader();
            if waits && ends_a_check {
                // Where it cannot be written, the rollback waits longer.
                let _ = records.request_end_of_check();
            }
            waits
        };
        let Some(lock) = take_lock(context, &records, &waits)? else {
            return Ok(WorkerOutcome::Busy);
        };
        watchdog::begin("working on it", limits::STANDSTILL);
        records.take_rerun_request()?;
        if ends_a_check {
            records.forget_end_of_check()?;
        }
        housekeeping::wait_for_running_gc(context, &lock, &git_dir)?;
        // Opened under the lock: until then another worker may change everything.
        let mut opened = match observe::open(context, repo) {
            OpenOutcome::Ready(repository) => {
                records = repository.records.clone();
                Ok(repository)
            }
            OpenOutcome::Damaged(reason) => Err(reason),
            OpenOutcome::Broken(reason) => bail!(reason),
            OpenOutcome::Missing => bail!("{} is gone", repo.path.display()),
        };
        if let Some(mut act) = act.take() {
            // `redo` names none: it is the one that is checked out.
            let here = || opened.as_ref().ok().and_then(|repository| repository.is_at().ok()?);
            act.revision = match act.act {
                ActKind::Override => records.polled().tip.or_else(here),
                _ => act.revision.or_else(here),
            };
            record::act(context, &repo.name, &records, &act)?;
        }
        let mut outcome = match &mut opened {
            Ok(repository) => pass(context, repository, &lock, order, progress),
            Err(reason) => Err(Error::msg(reason.clone())),
        };
        if let Err(error) = &outcome {
            watchdog::begin("repairing it", limits::STANDSTILL);
            outcome = match repair::repair(context, repo, &lock, &one_line(error), progress) {
                Ok(DamageSearch::Repaired) => reopen(context, repo)
                    .and_then(|mut again| {
                        let outcome = pass(context, &mut again, &lock, order, progress);
                        opened = Ok(again);
                        outcome
                    })
                    .inspect_err(|again| repair::mark_ineffective(&records, &one_line(again))),
                Ok(DamageSearch::Sound) => outcome,
                Err(remains) => Err(remains),
            };
        }
        match &outcome {
            Ok(()) => {
                watchdog::begin("clearing up", limits::STANDSTILL);
                if let Ok(repository) = &opened {
                    housekeeping::tidy(repository, &lock);
                }
            }
            // No attempt is recorded: only a person can fix this, and a backoff must not delay the next
            // run.
            Err(error) if error::is_untrusted(error) => {}
            Err(error) => record_failure(context, repo, order, &records, error),
        }
        drop(lock);
        outcome?;
        if !records.take_rerun_request()? {
            return Ok(WorkerOutcome::Seen);
        }
    }
}

/// Whether the wait for a lock is not over yet.
fn lasts(wait: LockWait) -> bool {
    match wait {
        LockWait::No => false,
        LockWait::Unlimited => true,
        LockWait::Until(end) => host::since_boot() < end,
    }
}

/// Takes the lock of `records`; `None`: another worker holds it, and `waits` says that the wait is over.
///
/// # Errors
/// When it cannot be taken at all, or its holder is stopped (SIGSTOP) and cannot release it.
pub(in crate::engine) fn take_lock(
    context: &Context,
    records: &RepoRecords,
    waits: &dyn Fn() -> bool,
) -> Result<Option<ActionLock>> {
    loop {
        let holder = match ActionLock::acquire(records)? {
            // The lock file may have been deleted under a worker; its journal still counts.
            TryLock::Held(lock) => match lock::other_worker(records, &context.node.boot_id)? {
                None => return Ok(Some(lock)),
                worker => worker,
            },
            TryLock::Busy => lock::holder(records),
        };
        if let Some(holder) = holder.filter(|holder| holder.is_stopped()) {
            bail!(observe::stopped(holder));
        }
        if !waits() {
            return Ok(None);
        }
        // The holder has its own deadlines.
        watchdog::progress();
        std::thread::sleep(LOCK_BEAT);
    }
}

/// One pass under the lock: recover, observe, decide, carry out.
fn pass<'a>(
    context: &'a Context,
    repository: &mut Box<Repository<'a>>,
    lock: &ActionLock,
    order: &WorkerJob,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let repo = repository.repo;
    repository.git.no_torn_object()?;
    if let Some(pack) = size_limits::oversized_pack(repository.git.git_dir()) {
        bail!(pack);
    }
    match recover::recover(context, lock, repository)? {
        RecoveryOutcome::Nothing => {}
        RecoveryOutcome::Whole => *repository = reopen(context, repo)?,
        RecoveryOutcome::Blocked => return Ok(()),
    }
    stale_files::stale(repository.git.git_dir(), host::now())?;
    watchdog::begin(limits::LOOKING, 2 * limits::evaluation_timeout(&repo.settings));
    restore::restore_lost_releases(repository);
    persist_request(repository, order)?;
    scripts::adopt_id(repository)?;
    // A release that turns out bad, going back, and the revert that came meanwhile.
    for _ in 0..3 {
        follow(context, repository, lock, order, progress)?;
        if !way_back::leads_on(repository)? {
            break;
        }
        *repository = reopen(context, repo)?;
    }
    Ok(())
}

/// Fetches, and carries out at most one action.
fn follow<'a>(
    context: &'a Context,
    repository: &mut Box<Repository<'a>>,
    lock: &ActionLock,
    order: &WorkerJob,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let backoff = order.request.backoff();
    let (mut journal, mut listed) = (None, false);
    // Going back asks no remote: what was bad may have taken the network down.
    let goes_back = way_back::begins_at_a_ref(repository)?;
    // One round to fetch, one to verify signatures, one for the first sight, one to deploy, or one to look for drift
    // and one to repair it; a tip that moves between them is left to the next tick.
    for round in 0..6 {
        let now = host::now();
        let mut polled = PollRecord { listed, ..repository.polled() };
        // Poll if no poll is recorded, or if all refs are fetched: only a fresh list shows which are
        // gone.
        let is_first = round == 0 && repository.fetches_all() && !goes_back;
        let is_new = !polled.known || is_first;
        if is_new && order.command == WorkerCommand::Follow {
            polled = repository.take_or_poll(polled, order.request, now)?;
        }
        let mut seen = repository.observe(&polled, now);
        // What could not be restored is published anew like a revision that was never there.
        seen.release_lost = false;
        if order.command == WorkerCommand::Redo {
            // `redo` keeps the revision, whatever upstream has by now.
            seen.upstream = UpstreamTip::Unknown;
            if let Some(refs) = &mut seen.refs {
                refs.unfetched = false;
            }
        }
        if let Some(reason) = seen.damaged {
            bail!(reason);
        }
        match decide(&seen, &repository.policy(&seen), order.request, now).plan {
            Plan::Fetch { tip } => {
                deploy::wait_for_git_locks(repository)?;
                journal = Some(lock.begin(order.request.trigger, &context.node.boot_id, now)?);
                if !fetch::fetch(repository, tip, backoff, progress)? {
                    return lock.remove_journal();
                }
            }
            Plan::Look => match seen.compared() {
                Some(revision) => {
                    watchdog::begin("comparing its files", limits::STANDSTILL);
                    drift::look(repository, revision, now)?;
                }
                None => break,
            },
            Plan::Run(act) => {
                let mut repair = None;
                if act.repairs {
                    watchdog::begin("keeping what differs", limits::STANDSTILL);
                    repair = drift::prepare(repository, act.target.upstream(), now)?;
                    if repair.is_none() && act.trigger == Trigger::Drift {
                        break;
                    }
                }
                let journal = match journal.take() {
                    Some(journal) => journal,
                    None => lock.begin(order.request.trigger, &context.node.boot_id, now)?,
                };
                watchdog::begin("applying it", limits::STANDSTILL);
                let branches = (seen.local_branch.as_ref(), seen.branch.as_ref());
                return deploy::deploy(repository, lock, journal, &act, repair.as_ref(), branches);
            }
            Plan::Verify { target, need } => {
                verify(repository, target.upstream(), need, now)?;
            }
            Plan::Sight(target) => sight::record(repository, &seen, target, now)?,
            Plan::Publish(mut plan) => {
                if plan.repairs() && !plan.fetch {
                    watchdog::begin("keeping what differs", limits::STANDSTILL);
                    let of = seen.compared().or(seen.acted);
                    let Some(revision) = of else { break };
                    plan = drift::prepare_refs(repository, plan, revision, now)?;
                    if plan.is_empty() {
                        break;
                    }
                }
                let trigger = order.request.trigger;
                let begun = match journal.take() {
                    Some(journal) => journal,
                    None => lock.begin(trigger, &context.node.boot_id, now)?,
                };
                if !plan.fetch {
                    watchdog::begin("publishing it", limits::STANDSTILL);
                    let watch = CheckWatch::new(repository);
                    return multi_ref::carry_out(repository, lock, begun, &plan, (trigger, &watch));
                }
                deploy::wait_for_git_locks(repository)?;
                journal = Some(begun);
                // Without a fresh list no ref is known to be gone.
                let listing = repository.records.listing()?;
                let Some(tips) = upstream_refs::upstream(repository, &polled, listing.as_ref())
                else {
                    break;
                };
                if !fetch::fetch_all_refs(repository, &polled, &tips, backoff, progress)? {
                    return lock.remove_journal();
                }
                listed = !polled.is_doubtful();
            }
            Plan::Idle | Plan::Wait { .. } | Plan::Stopped | Plan::Recover => break,
        }
    }
    lock.remove_journal()
}

/// Records whether `revision` may be applied by its signatures.
fn verify(
    repository: &Repository,
    revision: Commit,
    need: SignatureNeed,
    now: DateTime<Utc>,
) -> Result<()> {
    watchdog::begin("verifying its signatures", limits::STANDSTILL);
    let Some(judge) = repository.signature_judge()? else { return Ok(()) };
    match judge.judge(revision, need)? {
        Ok(signed) => {
            let polled = repository.polled();
            if need == SignatureNeed::Signed && polled.tip == Some(revision) {
                fetch::raise_marks(repository, &polled)?;
            }
            record::signed(repository, signed)
        }
        Err(finding) => record::verdict(repository, revision, finding, now),
    }
}

fn reopen<'a>(context: &'a Context, repo: &'a RepoEntry) -> Result<Box<Repository<'a>>> {
    match observe::open(context, repo) {
        OpenOutcome::Ready(repository) => Ok(repository),
        OpenOutcome::Broken(reason) | OpenOutcome::Damaged(reason) => bail!(reason),
        OpenOutcome::Missing => bail!("{} is gone", repo.path.display()),
    }
}

/// Records a person's command, so that the next run continues it after an interruption.
fn persist_request(repository: &Repository, order: &WorkerJob) -> Result<()> {
    match order.command {
        WorkerCommand::Follow | WorkerCommand::Redo => Ok(()),
        WorkerCommand::Rollback(revision) | WorkerCommand::Checkout(revision) => {
            let (person, since) = (repository.context.person(), host::now());
            let (by, person) = (person.name.clone(), Some(person));
            let is_checkout = matches!(order.command, WorkerCommand::Checkout(_));
            repository.records.put_pin(&Pin { revision, by, since, person, is_checkout })
        }
        WorkerCommand::Accept(revision) => {
            let mut memory = repository.records.memory()?;
            let seen = repository.observe(&repository.polled(), host::now());
            if seen.awaits_unhold(revision) {
                memory.unheld = Some(revision);
            } else {
                memory.accepted = Some(revision);
            }
            repository.records.put_memory(&memory)
        }
    }
}
