//! Evaluates one repository: polls its remote if the orders say so, decides on a plan and makes its status
//! row. Does not know which repositories run side by side, and changes no worktree.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::remote::BackoffList;
use crate::domain::repository::action::ActionCounts;
use crate::domain::repository::conditions::conditions;
use crate::domain::repository::decision::Plan;
use crate::domain::repository::observed::{Observed, Unreachable, UpstreamTip};
use crate::domain::repository::state::{Condition, State};
use crate::domain::repository::status::{LastDeployed, StatusRow};
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::{IS_A_BUG, WorkerError};
use crate::engine::repository::limits;
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::request::TickOptions;
use crate::system::pid::Process;

use self::view::View;
pub use self::view::{PollTraffic, kept_reason};

mod view;

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
                let own = limits::poll_timeout(&self.repo.settings);
                own.saturating_add(limits::canaries_timeout(self.context, &self.repo.settings))
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
        let leaves = |state| {
            let mut of_state = row.published.iter().filter(|it| it.state == state);
            of_state.find_map(|it| it.bad)
        };
        row.bad = row.bad.or_else(|| leaves(State::RolledBack)).or_else(|| leaves(State::Failing));
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
        gate: None,
    });
    let same = was.filter(|was| was.state == first.state).map(|was| was.since);
    let acted = seen.acted.map(|revision| {
        let known = seen.last_success.as_ref().filter(|known| known.revision == revision);
        LastDeployed {
            signer: known.and_then(|known| known.signer.clone()),
            revision,
            tag: seen.tag_of(revision).map(str::to_owned),
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
        tag: seen.tag.as_ref().map(|tag| tag.name.clone()),
        state: first.state,
        reason: first
            .reason
            .map(|reason| reason.replace("accept REPO", &format!("accept {}", repo.name)))
            .map(|reason| reason.replace("tick REPO", &format!("tick {}", repo.name)))
            .map(|reason| reason.replace("history REPO", &format!("history {}", repo.name))),
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
        gate: first.gate,
        bad: seen.bad.as_ref().map(|bad| bad.revision),
        asked: seen.asked.clone(),
        left_alone: BackoffList::new(),
        refusals: seen.unreachable.as_ref().map_or(0, |why| why.refusals),
        mirror_lags: seen.lagging,
        gaps: seen.gaps.clone().filter(|gaps| !gaps.is_empty()),
        left: None,
        drifted: seen.drift.clone(),
        actions: seen.actions.as_ref().map(ActionCounts::by_word).unwrap_or_default(),
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
    let conditions = conditions(&seen, &repo.settings.policy, None, None);
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
    let conditions = conditions(&seen, &repo.settings.policy, None, None);
    let row = row(repo, &seen, conditions, remote, was.clone(), now);
    match was {
        Some(was) if row.state == State::Unreachable => {
            let StatusRow { state, reason, since, .. } = row;
            let (attempt, next_try) = (0, None);
            let gate = None;
            StatusRow {
                state,
                reason,
                since,
                conditions: vec![state],
                attempt,
                next_try,
                gate,
                ..was
            }
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
        gate: None,
        ..was
    }
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
    // The wait is not what a person has to look at.
    row.gate = None;
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
