//! All repositories, once: ask their remotes, decide, let workers act where there is work, and say
//! how everything stands. A repository that cannot be worked on is a row in the status and stops
//! nobody.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::Here;
use super::observe::{self, Opened, one_line};
use super::reconcile::Wish;
use super::roster::{self, Repo};
use crate::config::{Sources, World};
use crate::domain::action::Trigger;
use crate::domain::plan::{Observed, Plan, Policy, Request, Unreachable, Upstream, decide};
use crate::domain::report::{self, Notice, Reported};
use crate::domain::status::{Acted, Condition, Row, State, Status, conditions};
use crate::system::machine::Machine;
use crate::system::node;
use crate::system::process::{self, Worker};

/// How many workers work at a time. A repository whose script takes an hour holds one place of one
/// tick; the next tick has its own.
const WORKERS: usize = 16;

const STATUS: &str = "status.json";
const REPORTED: &str = "reported.json";

const GONE: &str = "it was removed while it was acted upon";

/// What to do in one tick.
#[derive(Clone, Debug)]
pub struct Orders {
    /// These repositories only; all when empty.
    pub names: Vec<String>,
    /// Why.
    pub trigger: Trigger,
    /// Poll and decide, and change nothing.
    pub dry_run: bool,
    /// Wait for repositories that are busy.
    pub wait: bool,
    /// What a person asked for.
    pub wish: Wish,
}

impl Orders {
    /// Whether a worker is to be sent even where one is busy: to wait for it, or to ask it for one
    /// more pass, because nobody else will tell it of the news that a message brings.
    fn joins(&self) -> bool {
        self.wait || matches!(self.trigger, Trigger::Bus | Trigger::Webhook)
    }
}

/// What one tick did.
#[derive(Clone, Debug)]
pub struct Tick {
    /// How everything stands now.
    pub status: Status,
    /// What was decided, by repository.
    pub decisions: Vec<(String, Plan)>,
    /// What is worth telling a person who did not ask.
    pub notices: Vec<Notice>,
    /// Rows whose state changed, with the state before.
    pub changes: Vec<(Row, Option<State>)>,
}

/// One repository, looked at.
struct Looked {
    repo: Repo,
    row: Row,
    plan: Option<Plan>,
}

/// One tick.
///
/// # Errors
/// When the root cannot be read or a name is not known; a single repository's trouble is in its row.
pub fn tick(here: &Here, orders: &Orders) -> Result<Tick> {
    let machine = Machine::at(&here.settings.world.state);
    let before: Option<Status> = machine.read(STATUS);
    let now = node::now();
    let repositories = roster::repositories(here)?;
    roster::known(here, &repositories, &orders.names)?;
    let mut looked = Vec::new();
    for repo in repositories {
        let asked = orders.names.is_empty() || orders.names.contains(&repo.name);
        let poll = asked && repo.settings.policy.active;
        let was = row_before(&before, &repo.name);
        looked.push(look(here, repo, was, poll.then_some(orders), now));
    }
    let decisions = looked
        .iter()
        .filter_map(|it| it.plan.clone().map(|plan| (it.repo.name.clone(), plan)))
        .collect();
    if orders.dry_run {
        let status = status_of(here, looked, &machine, now);
        return Ok(Tick { status, decisions, notices: Vec::new(), changes: Vec::new() });
    }
    let jobs: Vec<Repo> = looked
        .iter()
        .filter(|it| matches!(it.plan, Some(Plan::Recover | Plan::Fetch { .. } | Plan::Run(_))))
        .map(|it| it.repo.clone())
        .collect();
    let troubles = work(here, orders, jobs)?;
    let now = node::now();
    for it in &mut looked {
        if let Some(trouble) = troubles.get(&it.repo.name) {
            let was = row_before(&before, &it.repo.name);
            let Ok(repo) = roster::one(here, &it.repo.name) else {
                hindered(&mut it.row, GONE, was, now);
                continue;
            };
            *it = look(here, repo, was.clone(), None, now);
            if let Some(reason) = trouble {
                hindered(&mut it.row, reason, was, now);
            }
        }
    }
    machine.tick_ended(now)?;
    let status = status_of(here, looked, &machine, now);
    tell(&machine, status, decisions, now)
}

/// How everything stands, without asking any remote.
///
/// # Errors
/// When the root cannot be read or a name is not known.
pub fn survey(here: &Here, names: &[String]) -> Result<Status> {
    let machine = Machine::at(&here.settings.world.state);
    let before: Option<Status> = machine.read(STATUS);
    let now = node::now();
    let looked = roster::named(here, names)?
        .into_iter()
        .map(|repo| match row_before(&before, &repo.name) {
            // What belongs to somebody else is not for us to open; the last tick knew how it is.
            Some(row) if !node::owns(&repo.path) => Looked { repo, row, plan: None },
            was => {
                let mut it = look(here, repo, was.clone(), None, now);
                if let Some((was, reason)) = was.and_then(unrecorded) {
                    hindered(&mut it.row, &reason, Some(was), now);
                }
                it
            }
        })
        .collect();
    Ok(status_of(here, looked, &machine, now))
}

/// What the last tick of the machine's own agent said, for a user who has none; `None` when there
/// was none.
pub fn machine_status() -> Option<Status> {
    let root = Sources { is_root: true, ..Sources::default() };
    let machine = Machine::at(&World::of(&root).ok()?.state);
    let status: Status = machine.read(STATUS)?;
    Some(Status { at: node::now(), last_tick: machine.last_tick(), ..status }.judge())
}

fn row_before(before: &Option<Status>, name: &str) -> Option<Row> {
    before.as_ref()?.repositories.iter().find(|row| row.name == name).cloned()
}

fn status_of(here: &Here, looked: Vec<Looked>, machine: &Machine, now: DateTime<Utc>) -> Status {
    Status {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        host: here.node.host.clone(),
        part: here.part.clone(),
        stack: here.stack.clone(),
        root: here.settings.world.root.display().to_string(),
        at: now,
        last_tick: machine.last_tick(),
        healthy: false,
        repositories: looked.into_iter().map(|it| it.row).collect(),
    }
    .judge()
}

/// Looks at one repository; with `orders`, asks its remote first and decides.
fn look(
    here: &Here,
    repo: Repo,
    was: Option<Row>,
    orders: Option<&Orders>,
    now: DateTime<Utc>,
) -> Looked {
    let request =
        |orders: &Orders| Request { trigger: orders.trigger, named: !orders.names.is_empty() };
    let mut trouble = None;
    let (seen, policy, remote, plan) = match observe::open(here, &repo) {
        Opened::Ready(site) => {
            let asked = match orders {
                // A person's wish is about what is here; the remote has no say in it.
                Some(orders) if orders.wish == Wish::Follow => site.poll(now),
                _ => Ok(site.records.polled()),
            };
            let polled = asked.unwrap_or_else(|error| {
                trouble = Some(one_line(&error));
                site.records.polled()
            });
            let seen = site.observe(&polled, now);
            let policy = site.policy(&seen);
            let plan = orders.map(|orders| match orders.wish {
                Wish::Follow if orders.dry_run => decide(&seen, &policy, request(orders), now),
                Wish::Follow if seen.running.is_some() && orders.joins() => Plan::Recover,
                Wish::Follow => first_look(decide(&seen, &policy, request(orders), now), &site),
                // What may be done about it is the worker's to find out, under the lock.
                _ => Plan::Recover,
            });
            (seen, policy, site.remotes().into_iter().next(), plan)
        }
        Opened::Missing => {
            let seen = Observed {
                unreachable: was.as_ref().filter(|row| row.state == State::Unreachable).and_then(
                    |row| {
                        let reason = row.reason.clone()?;
                        Some(Unreachable { since: row.since, reason })
                    },
                ),
                ..Observed::default()
            };
            let clone = Plan::Recover;
            let policy = repo.settings.policy.clone();
            let plan = orders.filter(|_| policy.active).map(|_| clone);
            (seen, policy, repo.settings.urls.first().cloned(), plan)
        }
        Opened::Damaged(reason) => {
            let seen = Observed { damaged: Some(reason), ..Observed::default() };
            let policy = repo.settings.policy.clone();
            let plan = orders.map(|orders| decide(&seen, &policy, request(orders), now));
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
    let mut row = row(&repo, &seen, &policy, remote, was.clone(), now);
    if seen.broken.is_some() && row.acted.is_none() {
        // What cannot be read now was known to the last tick.
        row.acted = last_acted;
    }
    if let Some(reason) = trouble {
        hindered(&mut row, &reason, was, now);
    }
    Looked { repo, row, plan }
}

/// A repository that was never worked on has its folders made by a worker, even when it is held or
/// there is nothing to act upon yet.
fn first_look(plan: Plan, site: &observe::Site) -> Plan {
    match plan {
        Plan::Idle | Plan::Stopped if !site.records.exist() => Plan::Recover,
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
        published: Vec::new(),
    }
}

/// What is wrong could not even be written down by whom it hindered. Whatever is more important than
/// `failing` stays the state.
fn hindered(row: &mut Row, reason: &str, was: Option<Row>, now: DateTime<Utc>) {
    let state = match row.state {
        // Nothing is cloned yet: the remote is what is missing.
        State::New | State::Unreachable if row.head.is_none() => State::Unreachable,
        state if state <= State::Failing => return,
        _ => State::Failing,
    };
    row.since = was.filter(|was| was.state == state).map_or(now, |was| was.since.min(now));
    row.state = state;
    row.reason = Some(reason.to_owned());
    if row.conditions.first() != Some(&state) {
        row.conditions.insert(0, state);
    }
}

/// What only the last tick could say: a failure that stands in no record, and so has no number.
fn unrecorded(was: Row) -> Option<(Row, String)> {
    let reason = was.reason.clone().filter(|_| was.state == State::Failing && was.attempt == 0)?;
    Some((was, reason))
}

/// Lets workers work on `jobs`, a bounded number at a time. For each: what it could not write down
/// itself.
fn work(here: &Here, orders: &Orders, jobs: Vec<Repo>) -> Result<BTreeMap<String, Option<String>>> {
    let mut waiting = jobs.into_iter();
    let mut running: Vec<(String, Worker, File)> = Vec::new();
    let mut troubles = BTreeMap::new();
    loop {
        while running.len() < WORKERS {
            let Some(repo) = waiting.next() else { break };
            let report = process::report_file()?;
            match Worker::start(&worker_args(here, orders, &repo.name), &report) {
                Ok(worker) => running.push((repo.name, worker, report)),
                Err(error) => {
                    troubles.insert(repo.name, Some(one_line(&error)));
                }
            }
        }
        if running.is_empty() {
            return Ok(troubles);
        }
        process::wait_for_any();
        let mut still = Vec::new();
        for (name, mut worker, report) in running {
            match worker.ended()? {
                None => still.push((name, worker, report)),
                Some(true) => {
                    troubles.insert(name, None);
                }
                Some(false) => {
                    troubles.insert(name, Some(said(report)));
                }
            }
        }
        running = still;
    }
}

/// What a worker said before it ended.
fn said(report: File) -> String {
    match process::reported(report) {
        Ok(text) if !text.is_empty() => text,
        _ => "its worker ended without a word; the next tick looks again".to_owned(),
    }
}

fn worker_args(here: &Here, orders: &Orders, name: &str) -> Vec<OsString> {
    let world = &here.settings.world;
    let mut args: Vec<OsString> = vec!["worker".into()];
    if world.own {
        args.extend(["--root".into(), world.root.clone().into()]);
    }
    if world.config_named {
        args.extend(["--config".into(), world.config_file.clone().into()]);
    }
    args.extend(["--trigger".into(), orders.trigger.as_str().into()]);
    if !orders.names.is_empty() {
        args.push("--named".into());
    }
    if orders.wait {
        args.push("--wait".into());
    }
    match orders.wish {
        Wish::Follow => {}
        Wish::Redo => args.push("--redo".into()),
        Wish::Rollback(revision) => {
            args.extend(["--rollback".into(), revision.to_string().into()]);
        }
        Wish::Accept(revision) => args.extend(["--accept".into(), revision.to_string().into()]),
    }
    args.extend(["--".into(), name.into()]);
    args
}

/// Writes the status down where it changed, and finds out what is news. A tick without news writes
/// nothing.
fn tell(
    machine: &Machine,
    status: Status,
    decisions: Vec<(String, Plan)>,
    now: DateTime<Utc>,
) -> Result<Tick> {
    let known = |machine: &Machine| {
        let reported: Reported = machine.read(REPORTED).unwrap_or_default();
        let before: Option<Status> = machine.read(STATUS);
        (reported, before)
    };
    let (reported, before) = known(machine);
    let (notices, after) = report::due(&reported, &status, now);
    let same = before.as_ref().is_some_and(|before| says_the_same(before, &status));
    if same && notices.is_empty() && after == reported {
        return Ok(Tick { status, decisions, notices, changes: Vec::new() });
    }
    // Several ticks may have the same news; one of them tells it.
    let turn = machine.turn()?;
    let (reported, before) = known(machine);
    let (notices, after) = report::due(&reported, &status, now);
    let changes = status
        .repositories
        .iter()
        .map(|row| (row.clone(), row_before(&before, &row.name).map(|was| was.state)))
        .filter(|(row, was)| *was != Some(row.state))
        .collect();
    machine.put(STATUS, &status)?;
    if after != reported {
        machine.put(REPORTED, &after)?;
    }
    drop(turn);
    Ok(Tick { status, decisions, notices, changes })
}

fn says_the_same(one: &Status, other: &Status) -> bool {
    let timeless = |status: &Status| Status {
        at: DateTime::UNIX_EPOCH,
        last_tick: None,
        healthy: false,
        ..status.clone()
    };
    timeless(one) == timeless(other)
}
