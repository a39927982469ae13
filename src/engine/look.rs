//! One repository looked at: its remote asked if that is wanted, what is to be done decided, and the
//! row that says how it stands.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::crew::Hindrance;
use super::observe::{self, Opened, Site};
use super::reconcile::Wish;
use super::roster::Repo;
use super::tick::Orders;
use super::{Here, clone, publish};
use crate::domain::plan::{Observed, Plan, Policy, Unreachable, Upstream, decide};
use crate::domain::remote::AllLeftAlone;
use crate::domain::status::{Acted, Condition, Row, State, conditions};
use crate::system::record::Polled;

/// Who has to answer before a repository can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nobody: no remote is asked.
    Nowhere,
    /// A disk, which may be another machine's.
    Disk,
    /// A server.
    Server(String),
}

/// A repository that is to be looked at.
pub struct Job<'a> {
    here: &'a Here,
    repo: &'a Repo,
    opened: Opened<'a>,
    /// What the last tick said of it.
    was: Option<Row>,
    /// With these, its remote is asked first, and something is decided.
    orders: Option<&'a Orders>,
    now: DateTime<Utc>,
}

/// One repository, looked at.
pub struct Looked {
    /// Which.
    pub name: String,
    /// How it stands.
    pub row: Row,
    /// What is to be done, if anybody asked.
    pub plan: Option<Plan>,
    /// How asking its remotes went, if anybody did here.
    pub polled: Option<Poll>,
}

/// That remotes were asked: how many bytes went to and fro; `None`: none of them answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll(pub Option<u64>);

impl<'a> Job<'a> {
    /// Opens the repository.
    pub fn new(
        here: &'a Here,
        repo: &'a Repo,
        was: Option<Row>,
        orders: Option<&'a Orders>,
        now: DateTime<Utc>,
    ) -> Self {
        Self { here, repo, opened: observe::open(here, repo), was, orders, now }
    }

    /// Who will be asked first.
    pub fn place(&self) -> Place {
        let remote = match &self.opened {
            Opened::Ready(site) => site.remotes.first(),
            Opened::Missing => self.repo.settings.urls.first(),
            Opened::Damaged(_) | Opened::Broken(_) => None,
        };
        match remote.filter(|_| self.orders.is_some_and(|orders| orders.follow())) {
            Some(remote) => remote.server().map_or(Place::Disk, Place::Server),
            None => Place::Nowhere,
        }
    }

    /// Looks. A panic costs this repository alone.
    pub fn look(self) -> Looked {
        let (repo, was, now) = (self.repo, self.was.clone(), self.now);
        catch_unwind(AssertUnwindSafe(|| self.look_inside())).unwrap_or_else(|_| {
            let reason = "looking at it makes the agent fail, which is a bug in the agent; \
                          please report what agent check says";
            let row = broken_row(repo, reason.to_owned(), was, now);
            tracing::error!(repository = %repo.name, "panicked");
            Looked { name: repo.name.clone(), row, plan: None, polled: None }
        })
    }

    fn look_inside(self) -> Looked {
        let Self { here, repo, opened, was, orders, now } = self;
        let (mut trouble, mut poll) = (None, None);
        let mut published = Vec::new();
        let mut left_alone = AllLeftAlone::new();
        let (seen, policy, remote, plan) = match opened {
            Opened::Ready(site) => {
                let mut polled = site.records.polled();
                if let Some(orders) = orders.filter(|orders| orders.asks(repo)) {
                    match site.poll(&polled, orders.request().whom(), now) {
                        Ok(answered) => {
                            poll = Some(Poll(answered.bytes));
                            polled = answered;
                        }
                        Err(error) => trouble = Some(Hindrance::of(&error)),
                    }
                }
                let seen = site.observe(&polled, now);
                let policy = site.policy(&seen);
                let plan = orders.map(|orders| match orders.wish {
                    Wish::Follow if orders.dry_run => decide(&seen, &policy, orders.request(), now),
                    Wish::Follow if seen.running.is_some() && orders.joins() => Plan::Recover,
                    Wish::Follow => {
                        first_look(decide(&seen, &policy, orders.request(), now), &seen, &site)
                    }
                    // What may be done about it is the worker's to find out, under the lock.
                    _ => Plan::Recover,
                });
                published = publish::published(&site, &seen);
                left_alone.clone_from(&polled.left_alone);
                if let (Some(tips), Some(plan)) = (&polled.refs, &plan)
                    && plan.is_work()
                    && !orders.is_some_and(|orders| orders.dry_run)
                {
                    // Where that is not possible, the worker asks for itself.
                    let _ = site.records.put_heard(tips);
                }
                (seen, policy, site.remotes.first().cloned(), plan)
            }
            Opened::Missing => {
                let policy = repo.settings.policy.clone();
                let orders = orders.filter(|_| policy.active);
                let (polled, begun) = missing(here, repo, was.as_ref(), orders, now);
                trouble = begun.err().map(|error| Hindrance::of(&error));
                left_alone = polled.left_alone.clone();
                let seen = Observed {
                    left_alone: polled.all_left_alone(&repo.settings.urls, now),
                    unreachable: polled.unreachable,
                    ..Observed::default()
                };
                // Whatever else a worker is sent for, it begins with a clone.
                let can = seen.unreachable.is_none() || !orders.is_some_and(Orders::follow);
                let work = can && trouble.is_none();
                let plan = orders.map(|_| if work { Plan::Recover } else { Plan::Idle });
                (seen, policy, repo.settings.urls.first().cloned(), plan)
            }
            Opened::Damaged(reason) => {
                let seen = Observed { damaged: Some(reason), ..Observed::default() };
                let policy = repo.settings.policy.clone();
                let plan = orders.map(|orders| decide(&seen, &policy, orders.request(), now));
                (seen, policy, repo.settings.urls.first().cloned(), plan)
            }
            Opened::Broken(reason) => {
                let seen = Observed { broken: Some(reason), ..Observed::default() };
                let policy = repo.settings.policy.clone();
                (seen, policy, repo.settings.urls.first().cloned(), None)
            }
        };
        let remote = remote.map(|remote| remote.to_string());
        let last_acted = was.as_ref().and_then(|was| was.acted.clone());
        let mut row = row(repo, &seen, &policy, remote, was.clone(), now);
        row.published = published;
        row.left_alone = left_alone;
        if seen.broken.is_some() && row.acted.is_none() {
            // What cannot be read now was known to the last tick.
            row.acted = last_acted;
        }
        if let Some(hindrance) = trouble {
            hindered(&mut row, &hindrance, was, now);
        }
        Looked { name: repo.name.clone(), row, plan, polled: poll }
    }
}

/// What the remotes of a repository say that is to be cloned, and whether its clone could be begun from
/// that; where nobody asks, or nobody may be asked yet, what they said before. Of what is not there,
/// only the last tick's row is left.
fn missing(
    here: &Here,
    repo: &Repo,
    was: Option<&Row>,
    orders: Option<&Orders>,
    now: DateTime<Utc>,
) -> (Polled, Result<()>) {
    let unreachable = was.and_then(unreachable);
    let left_alone = was.map(|row| row.left_alone.clone()).unwrap_or_default();
    let before = Polled { unreachable, left_alone, ..Polled::default() };
    let Some(orders) = orders.filter(|orders| orders.follow()) else { return (before, Ok(())) };
    match clone::ask(here, repo, &before, orders.request().whom(), now) {
        Ok(polled) if polled.unreachable.is_some() || orders.dry_run => (polled, Ok(())),
        Ok(polled) => {
            let begun = clone::begin(repo, &polled);
            (polled, begun)
        }
        Err(error) => (before, Err(error)),
    }
}

/// A repository that was never worked on has its folders made by a worker, even when it is held or
/// there is nothing to act upon yet; and so has the id of a machine written down that had none before.
fn first_look(plan: Plan, seen: &Observed, site: &Site) -> Plan {
    match plan {
        Plan::Idle | Plan::Stopped if !site.records.exist() || seen.id_is_late => Plan::Recover,
        plan => plan,
    }
}

fn row(
    repo: &Repo,
    seen: &Observed,
    policy: &Policy,
    remote: Option<String>,
    was: Option<Row>,
    now: DateTime<Utc>,
) -> Row {
    let all = conditions(seen, policy);
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
        Acted {
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
    Row {
        name: repo.name.clone(),
        path: repo.path.display().to_string(),
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
            Upstream::Tip { commit, .. } => Some(commit),
            _ => None,
        },
        acted,
        attempt: first.attempt,
        next_try: first.next_try,
        asked: seen.asked.clone(),
        left_alone: AllLeftAlone::new(),
        published: Vec::new(),
    }
}

/// The row of a repository that nobody could look into.
pub fn broken_row(repo: &Repo, reason: String, was: Option<Row>, now: DateTime<Utc>) -> Row {
    let seen = Observed { broken: Some(reason), ..Observed::default() };
    let remote = repo.settings.urls.first().map(ToString::to_string);
    let acted = was.as_ref().and_then(|was| was.acted.clone());
    Row { acted, ..row(repo, &seen, &repo.settings.policy, remote, was, now) }
}

/// That no remote answered, as the row of a repository says that is not cloned yet.
pub fn unreachable(row: &Row) -> Option<Unreachable> {
    let reason = row.reason.clone().filter(|_| row.state == State::Unreachable)?;
    Some(Unreachable { since: row.since, reason })
}

/// What is wrong could not even be written down by whom it hindered. Whatever is more important stays the
/// state.
pub fn hindered(row: &mut Row, by: &Hindrance, was: Option<Row>, now: DateTime<Utc>) {
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

/// What only the last tick could say: a failure that stands in no record, and so has no number.
pub fn unrecorded(was: Row) -> Option<(Row, Hindrance)> {
    let reason = was.reason.clone().filter(|_| was.state == State::Failing && was.attempt == 0)?;
    Some((was, Hindrance::failing(reason)))
}
