//! Evaluates one repository: polls its remote if the orders say so, decides on a plan and makes its status
//! row. Does not know which repositories run side by side, and changes no worktree.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Remote;
use crate::domain::publish::release_paths::LeftFiles;
use crate::domain::remote::{BackoffList, DoubtedAnswer};
use crate::domain::repository::conditions::conditions;
use crate::domain::repository::decision::{Plan, decide};
use crate::domain::repository::observed::{Observed, Unreachable, UpstreamTip};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::state::{Condition, State};
use crate::domain::repository::status::{LastDeployed, PublishedRef, StatusRow};
use crate::engine::action::clone;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::{IS_A_BUG, WorkerError};
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::repository::{Repository, limits, poll, targets};
use crate::engine::request::{TickOptions, WorkerCommand};
use crate::system::pid::Process;
use crate::system::repo_state::PollRecord;

/// The service that has to answer before a repository can be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepoServices {
    /// None: no remote is polled.
    Nowhere,
    /// A disk, which may belong to another machine.
    Disk,
    /// A server, by its name.
    Server(String),
}

/// An opened repository that is to be evaluated.
pub struct RepoTask<'a> {
    context: &'a Context,
    repo: &'a RepoEntry,
    opened: OpenOutcome<'a>,
    /// Its row by the last tick.
    was: Option<StatusRow>,
    /// `None`: no remote is polled and nothing is decided.
    options: Option<&'a TickOptions>,
    now: DateTime<Utc>,
}

/// The result of evaluating one repository.
pub struct RepoReport {
    /// The repository's name.
    pub name: String,
    /// Its status row.
    pub row: StatusRow,
    /// The decided plan; `None`: there were no orders, or nothing could be decided.
    pub plan: Option<Plan>,
    /// The traffic of polling its remotes; `None`: this process did not poll.
    pub polled: Option<PollTraffic>,
    /// The process that hangs in it; nothing else is started there meanwhile.
    pub hangs: Option<Process>,
}

impl RepoReport {
    /// The report when nothing could be seen because of `why`: the last tick's row.
    pub fn unseen(
        repo: &RepoEntry,
        why: String,
        was: Option<StatusRow>,
        hangs: Option<Process>,
        now: DateTime<Utc>,
    ) -> Self {
        let row = unseen_row(repo, why, was, now);
        Self { name: repo.name.clone(), row, plan: None, polled: None, hangs }
    }

    /// Whether a worker has something to do.
    pub fn is_work(&self) -> bool {
        self.plan.as_ref().is_some_and(Plan::is_work)
    }
}

/// The bytes that polling transferred in both directions; `None`: no remote answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollTraffic(pub Option<u64>);

impl<'a> RepoTask<'a> {
    /// Opens the repository.
    pub fn new(
        context: &'a Context,
        repo: &'a RepoEntry,
        was: Option<StatusRow>,
        options: Option<&'a TickOptions>,
        now: DateTime<Utc>,
    ) -> Self {
        let opened = catch_unwind(AssertUnwindSafe(|| observe::open(context, repo)))
            .unwrap_or_else(|_| OpenOutcome::Broken(IS_A_BUG.to_owned()));
        Self { context, repo, opened, was, options, now }
    }

    /// The repository to evaluate.
    pub fn repo(&self) -> &'a RepoEntry {
        self.repo
    }

    /// The time limit of the evaluation.
    pub fn limit(&self) -> Duration {
        match self.place() {
            RepoServices::Nowhere => limits::evaluation_timeout(&self.repo.settings),
            RepoServices::Disk | RepoServices::Server(_) => {
                limits::poll_timeout(&self.repo.settings)
            }
        }
    }

    /// The service that answers first.
    pub fn place(&self) -> RepoServices {
        let remote = match &self.opened {
            OpenOutcome::Ready(repository) => repository.remotes.first(),
            OpenOutcome::Missing => self.repo.settings.urls.first(),
            OpenOutcome::Damaged(_) | OpenOutcome::Broken(_) => None,
        };
        match remote.filter(|_| self.options.is_some_and(|options| options.follow())) {
            Some(remote) => remote.server().map_or(RepoServices::Disk, RepoServices::Server),
            None => RepoServices::Nowhere,
        }
    }

    /// Evaluates the repository. A panic costs only this one.
    pub fn evaluate(self) -> RepoReport {
        let (repo, was, now) = (self.repo, self.was.clone(), self.now);
        catch_unwind(AssertUnwindSafe(|| self.look_inside())).unwrap_or_else(|_| {
            let row = broken_row(repo, IS_A_BUG.to_owned(), was, now);
            tracing::error!(repository = %repo.name, "panicked");
            RepoReport { name: repo.name.clone(), row, plan: None, polled: None, hangs: None }
        })
    }

    fn look_inside(self) -> RepoReport {
        let Self { context, repo, opened, was, options, now } = self;
        let view = match opened {
            OpenOutcome::Ready(repository) => View::of_clone(&repository, options, now),
            OpenOutcome::Missing => View::of_missing(context, repo, was.as_ref(), options, now),
            OpenOutcome::Damaged(reason) => View::of_damaged(repo, reason, options, now),
            OpenOutcome::Broken(reason) => View::of_broken(repo, reason),
        };
        let remote = view.remote.map(|remote| remote.to_string());
        let last_acted = was.as_ref().and_then(|was| was.acted.clone());
        let mut row = row(repo, &view.seen, view.conditions, remote, was.clone(), now);
        (row.published, row.left, row.left_alone) = (view.published, view.left, view.left_alone);
        if view.seen.broken.is_some() && row.acted.is_none() {
            // What cannot be read now is in the last tick's row.
            row.acted = last_acted;
        }
        if let Some(worker_error) = view.trouble {
            add_worker_error(&mut row, &worker_error, was, now);
        }
        RepoReport {
            name: repo.name.clone(),
            row,
            plan: view.plan,
            polled: view.traffic,
            hangs: None,
        }
    }
}

/// What one look at a repository found, and what follows from it.
#[derive(Default)]
struct View {
    seen: Observed,
    conditions: Vec<Condition>,
    /// The first remote.
    remote: Option<Remote>,
    /// `None`: there were no orders, or nothing could be decided.
    plan: Option<Plan>,
    /// The error that no record has.
    trouble: Option<WorkerError>,
    /// `None`: no remote was polled.
    traffic: Option<PollTraffic>,
    published: Vec<PublishedRef>,
    left: Option<LeftFiles>,
    left_alone: BackoffList,
}

impl View {
    fn of_clone(
        repository: &Repository,
        options: Option<&TickOptions>,
        now: DateTime<Utc>,
    ) -> Self {
        let (polled, traffic, trouble) = polled(repository, options, now);
        let mut seen = repository.observe(&polled, now);
        let policy = repository.policy(&seen);
        let request = options.map_or(ActionRequest::OF_CRON, TickOptions::request);
        let mut decision = decide(&seen, &policy, request, now);
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
            && plan.is_work()
            && !options.dry_run
        {
            // Where the tips cannot be written, the worker polls itself.
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

    fn of_missing(
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
            conditions: conditions(&seen, policy, None),
            seen,
            remote: repo.settings.urls.first().cloned(),
            plan: options.map(|_| if work { Plan::Recover } else { Plan::Idle }),
            trouble,
            left_alone: polled.left_alone,
            ..Self::default()
        }
    }

    fn of_damaged(
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

    fn of_broken(repo: &RepoEntry, reason: String) -> Self {
        let seen = Observed { broken: Some(reason), ..Observed::default() };
        let conditions = conditions(&seen, &repo.settings.policy, None);
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

fn row(
    repo: &RepoEntry,
    seen: &Observed,
    all: Vec<Condition>,
    remote: Option<String>,
    was: Option<StatusRow>,
    now: DateTime<Utc>,
) -> StatusRow {
    let first = all.first().cloned().unwrap_or(Condition {
        state: State::New,
        reason: None,
        since: None,
        attempt: 0,
        next_try: None,
    });
    let same = was.filter(|was| was.state == first.state).map(|was| was.since);
    let acted = seen.acted.map(|revision| {
        let known = seen.last_success.as_ref().filter(|known| known.revision == revision);
        LastDeployed {
            revision,
            subject: known.map(|known| known.subject.clone()),
            at: known.map(|known| known.at).or(seen.acted_at),
            trigger: known.map(|known| known.trigger.to_string()),
            outcome: known.map(|known| known.outcome.word().to_owned()),
            seconds: known.map(|known| known.seconds),
        }
    });
    let acted_at = match first.state {
        State::Current => acted.as_ref().and_then(|acted| acted.at),
        _ => None,
    };
    // A time in the future was written under a clock that has since been set back.
    let since = [first.since, acted_at, same].into_iter().flatten().find(|since| *since <= now);
    let since = since.unwrap_or(now);
    let mut states: Vec<State> = all.iter().map(|condition| condition.state).collect();
    states.dedup();
    StatusRow {
        name: repo.name.clone(),
        path: repo.listed.display().to_string(),
        remote,
        branch: seen.branch.as_ref().map(ToString::to_string),
        state: first.state,
        reason: first
            .reason
            .map(|reason| reason.replace("accept REPO", &format!("accept {}", repo.name))),
        conditions: states,
        since,
        head: seen.head,
        upstream: match seen.upstream {
            UpstreamTip::Tip { commit, .. } => Some(commit),
            _ => None,
        },
        acted,
        attempt: first.attempt,
        next_try: first.next_try,
        asked: seen.asked.clone(),
        left_alone: BackoffList::new(),
        refusals: seen.unreachable.as_ref().map_or(0, |why| why.refusals),
        mirror_lags: seen.lagging,
        gaps: seen.gaps.clone().filter(|gaps| !gaps.is_empty()),
        left: None,
        holds: seen.holds.clone(),
        ignored_keys: seen.ignored_keys.clone(),
        published: Vec::new(),
    }
}

/// The row of a repository that cannot be evaluated.
pub fn broken_row(
    repo: &RepoEntry,
    reason: String,
    was: Option<StatusRow>,
    now: DateTime<Utc>,
) -> StatusRow {
    let seen = Observed { broken: Some(reason), ..Observed::default() };
    let remote = repo.settings.urls.first().map(ToString::to_string);
    let acted = was.as_ref().and_then(|was| was.acted.clone());
    let conditions = conditions(&seen, &repo.settings.policy, None);
    StatusRow { acted, ..row(repo, &seen, conditions, remote, was, now) }
}

/// The row of a repository that waits for the name service: the last tick's row, now `unreachable`.
pub fn waiting_row(
    repo: &RepoEntry,
    reason: String,
    was: Option<StatusRow>,
    now: DateTime<Utc>,
) -> StatusRow {
    let before = was.as_ref().filter(|was| was.state == State::Unreachable);
    let since = before.map_or(now, |was| was.since.min(now));
    let seen = Observed {
        unreachable: Some(Unreachable { since, reason, refusals: 0 }),
        ..Observed::default()
    };
    let remote = repo.settings.urls.first().map(ToString::to_string);
    let conditions = conditions(&seen, &repo.settings.policy, None);
    let row = row(repo, &seen, conditions, remote, was.clone(), now);
    match was {
        Some(was) if row.state == State::Unreachable => {
            let StatusRow { state, reason, since, .. } = row;
            let (attempt, next_try) = (0, None);
            StatusRow { state, reason, since, conditions: vec![state], attempt, next_try, ..was }
        }
        _ => row,
    }
}

/// The row of a repository whose evaluation did not end: the last tick's row, now `broken`, with the
/// reason.
fn unseen_row(
    repo: &RepoEntry,
    reason: String,
    was: Option<StatusRow>,
    now: DateTime<Utc>,
) -> StatusRow {
    let Some(was) = was else { return broken_row(repo, reason, None, now) };
    let since = if was.state == State::Broken { was.since.min(now) } else { now };
    StatusRow {
        state: State::Broken,
        reason: Some(reason),
        conditions: vec![State::Broken],
        since,
        attempt: 0,
        next_try: None,
        ..was
    }
}

/// The reason in the row of a repository that is not cloned yet; `None`: its state is another one.
pub fn kept_reason(row: &StatusRow, state: State) -> Option<Unreachable> {
    let reason = row.reason.clone().filter(|_| row.state == state)?;
    let refusals = if state == State::Denied { row.refusals.max(1) } else { 0 };
    Some(Unreachable { since: row.since, reason, refusals })
}

/// Adds an error to the row that its worker could not record. A more important state of the row stays.
pub fn add_worker_error(
    row: &mut StatusRow,
    by: &WorkerError,
    was: Option<StatusRow>,
    now: DateTime<Utc>,
) {
    let state = by.state;
    if row.state < state || row.state == State::Failing {
        return;
    }
    row.since = was.filter(|was| was.state == state).map_or(now, |was| was.since.min(now));
    row.state = state;
    row.reason = Some(by.reason.clone());
    if row.conditions.first() != Some(&state) {
        row.conditions.insert(0, state);
    }
}

/// The error that only the last tick's row has: a failure without a record, and so without an attempt
/// number, or a name service that did not answer.
pub fn unrecorded(was: StatusRow) -> Option<(StatusRow, WorkerError)> {
    let state = was.state;
    let unrecorded = state == State::Unreachable || (state == State::Failing && was.attempt == 0);
    let reason = was.reason.clone().filter(|_| unrecorded)?;
    Some((was, WorkerError { state, reason }))
}
