//! What one look at a repository found: polls it if the orders say so, observes it and decides. Makes no row.

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Remote;
use crate::domain::publish::release_paths::LeftFiles;
use crate::domain::remote::{BackoffList, DoubtedAnswer};
use crate::domain::repository::conditions::conditions;
use crate::domain::repository::decision::{Plan, decide};
use crate::domain::repository::observed::{Observed, Unreachable};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::state::{Condition, State};
use crate::domain::repository::status::{PublishedRef, StatusRow};
use crate::engine::action::clone;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::WorkerError;
use crate::engine::repository::{Repository, poll, targets};
use crate::engine::request::{TickOptions, WorkerCommand};
use crate::engine::tick::canaries;
use crate::system::repo_state::PollRecord;

/// The bytes that polling transferred in both directions; `None`: no remote answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollTraffic(pub Option<u64>);

/// What one look at a repository found, and what follows from it.
#[derive(Default)]
pub(super) struct View {
    pub seen: Observed,
    pub conditions: Vec<Condition>,
    /// The first remote.
    pub remote: Option<Remote>,
    /// `None`: there were no orders, or nothing could be decided.
    pub plan: Option<Plan>,
    /// The error that no record has.
    pub trouble: Option<WorkerError>,
    /// `None`: no remote was polled.
    pub traffic: Option<PollTraffic>,
    pub published: Vec<PublishedRef>,
    pub left: Option<LeftFiles>,
    pub left_alone: BackoffList,
}

impl View {
    pub fn of_clone(
        repository: &Repository,
        options: Option<&TickOptions>,
        now: DateTime<Utc>,
    ) -> Self {
        let (polled, traffic, mut trouble) = polled(repository, options, now);
        let mut seen = repository.observe(&polled, now);
        let policy = repository.policy(&seen);
        let request = options.map_or(ActionRequest::OF_CRON, TickOptions::request);
        let mut decision = decide(&seen, &policy, request, now);
        if options.is_some_and(TickOptions::follow) {
            match canaries::look(repository, &seen, now) {
                Ok(None) => {}
                Ok(report) => {
                    seen.gates.canaries = report;
                    decision = decide(&seen, &policy, request, now);
                }
                Err(error) => trouble = trouble.or_else(|| Some(WorkerError::of(&error))),
            }
        }
        // Without orders: what the next tick would do. It judges everything before it works, too.
        let mut plan = match options.map(|options| (options, options.command)) {
            None => decision.plan.clone(),
            Some((options, WorkerCommand::Follow)) if options.dry_run => decision.plan.clone(),
            Some((options, WorkerCommand::Follow)) if seen.running.is_some() && options.joins() => {
                Plan::Recover
            }
            Some((_, WorkerCommand::Follow)) => {
                first_look(decision.plan.clone(), &seen, repository)
            }
            // The worker decides under the lock whether the person's order is possible.
            Some(_) => Plan::Recover,
        };
        if plan.is_work()
            && let Some(reason) = repository.foreign_part()
        {
            seen.broken = Some(reason);
            decision = decide(&seen, &policy, request, now);
            plan = decision.plan.clone();
        }
        let published = targets::published(repository, &seen, &decision);
        // Counted for a person only: it may be many files.
        let left = options.is_none().then(|| targets::left_files(repository)).flatten();
        if let (Some(tips), Some(options)) = (&polled.refs, options)
            && (plan.is_work()
                || seen.running.as_ref().is_some_and(|running| running.checks_health))
            && !options.dry_run
        {
            // Where the tips cannot be written, the worker polls itself. One that checks the health learns from them
            // that upstream went back.
            let _ = repository.records.put_heard(tips);
        }
        Self {
            seen,
            conditions: decision.conditions,
            remote: repository.remotes.first().cloned(),
            plan: options.map(|_| plan),
            trouble,
            traffic,
            published,
            left,
            left_alone: polled.left_alone,
        }
    }

    pub fn of_missing(
        context: &Context,
        repo: &RepoEntry,
        was: Option<&StatusRow>,
        options: Option<&TickOptions>,
        now: DateTime<Utc>,
    ) -> Self {
        let policy = &repo.settings.policy;
        let options = options.filter(|_| policy.active);
        let (polled, begun) = missing(context, repo, was, options, now);
        let trouble = begun.err().map(|error| WorkerError::of(&error));
        // Every worker of a missing repository starts with a clone, for any order.
        let can = !polled.is_unclonable() || !options.is_some_and(TickOptions::follow);
        let work = can && trouble.is_none();
        let seen = Observed {
            left_alone: polled.all_left_alone(&repo.settings.urls, now),
            upstream: polled.upstream_without_clone(),
            unreachable: polled.unreachable,
            no_ref: polled.no_ref,
            branch: polled.branch,
            ..Observed::default()
        };
        Self {
            conditions: conditions(&seen, policy, None, None),
            seen,
            remote: repo.settings.urls.first().cloned(),
            plan: options.map(|_| if work { Plan::Recover } else { Plan::Idle }),
            trouble,
            left_alone: polled.left_alone,
            ..Self::default()
        }
    }

    pub fn of_damaged(
        repo: &RepoEntry,
        reason: String,
        options: Option<&TickOptions>,
        now: DateTime<Utc>,
    ) -> Self {
        let seen = Observed { damaged: Some(reason), ..Observed::default() };
        let request = options.map_or(ActionRequest::OF_CRON, TickOptions::request);
        let decision = decide(&seen, &repo.settings.policy, request, now);
        let plan = options.map(|_| decision.plan);
        let remote = repo.settings.urls.first().cloned();
        Self { seen, conditions: decision.conditions, remote, plan, ..Self::default() }
    }

    pub fn of_broken(repo: &RepoEntry, reason: String) -> Self {
        let seen = Observed { broken: Some(reason), ..Observed::default() };
        let conditions = conditions(&seen, &repo.settings.policy, None, None);
        let remote = repo.settings.urls.first().cloned();
        Self { seen, conditions, remote, ..Self::default() }
    }
}

/// The answer of the remote: a new one, where the orders ask for it, else the last one. Also the traffic of a
/// poll, and why there was none.
fn polled(
    repository: &Repository,
    options: Option<&TickOptions>,
    now: DateTime<Utc>,
) -> (PollRecord, Option<PollTraffic>, Option<WorkerError>) {
    let polled = repository.polled();
    // An answer in doubt is asked for again, whatever `poll` says.
    let in_doubt = DoubtedAnswer::reason(&polled.doubts, now).is_some();
    let asks = |options: &&TickOptions| {
        options.asks(&repository.repo.settings) || (in_doubt && options.follow())
    };
    let Some(options) = options.filter(asks) else { return (polled, None, None) };
    match repository.poll(&polled, options.request(), &options.deleted, now) {
        Ok(answered) => {
            let traffic = PollTraffic(answered.bytes);
            (answered, Some(traffic), None)
        }
        Err(error) => (polled, None, Some(WorkerError::of(&error))),
    }
}

/// Polls the remotes of a repository that is not cloned yet, and starts its clone by the answer; also
/// returns whether that succeeded. Without orders, or while polling is backed off, the earlier answers
/// count: only the last tick's row has them.
fn missing(
    context: &Context,
    repo: &RepoEntry,
    was: Option<&StatusRow>,
    options: Option<&TickOptions>,
    now: DateTime<Utc>,
) -> (PollRecord, Result<()>) {
    let kept = |state| was.and_then(|row| kept_reason(row, state));
    let unreachable = kept(State::Unreachable).or_else(|| kept(State::Denied));
    let no_ref = kept(State::NoRef);
    let left_alone = was.map(|row| row.left_alone.clone()).unwrap_or_default();
    let known = no_ref.is_some();
    let before = PollRecord { unreachable, no_ref, known, left_alone, ..PollRecord::default() };
    let Some(options) = options.filter(|options| options.follow()) else { return (before, Ok(())) };
    match poll::ask_before_cloning(context, repo, &before, options.request().backoff(), now) {
        Ok(polled) if polled.is_unclonable() || options.dry_run => (polled, Ok(())),
        Ok(polled) => {
            let begun = clone::begin(repo, &polled);
            (polled, begun)
        }
        Err(error) => (before, Err(error)),
    }
}

/// The plan with the first visit of a worker added: it creates the directories of a repository without
/// records, even when it is held or has nothing to deploy, and records a machine id that is new.
fn first_look(plan: Plan, seen: &Observed, repository: &Repository) -> Plan {
    // What was read from both directories proves that they are there.
    let exist =
        || (seen.acted.is_some() && seen.last_success.is_some()) || repository.records.exist();
    match plan {
        Plan::Idle | Plan::Stopped if seen.id_is_late || !exist() => Plan::Recover,
        plan => plan,
    }
}

/// The reason in the row of a repository that is not cloned yet; `None`: its state is another one.
pub fn kept_reason(row: &StatusRow, state: State) -> Option<Unreachable> {
    let reason = row.reason.clone().filter(|_| row.state == state)?;
    let refusals = if state == State::Denied { row.refusals.max(1) } else { 0 };
    Some(Unreachable { since: row.since, reason, refusals })
}
