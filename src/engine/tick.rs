//! All repositories, once: ask their remotes, decide, let workers act where there is work, and say
//! how everything stands. A repository that cannot be worked on is a row in the status and stops
//! nobody.

use std::path::Path;
use std::thread;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::crew::{Crew, Hindrance};
use super::delegate::{self, Report, Sorted};
use super::look::{Job, Looked, Poll, broken_row, hindered, unreachable, unrecorded};
use super::observe::reason;
use super::reconcile::Wish;
use super::roster::{self, Repo};
use super::{Here, rounds};
use crate::config::{Sources, World};
use crate::domain::action::{Trigger, Word};
use crate::domain::plan::{Plan, Request, Unreachable};
use crate::domain::report::{self, Notice, Reported};
use crate::domain::status::{Row, State, Status};
use crate::system::machine::Machine;
use crate::system::node;

const STATUS: &str = "status.json";
const REPORTED: &str = "reported.json";

const GONE: &str = "it was removed while it was acted upon";

/// What is done about what is said while a tick works, the moment it is said.
pub type OnWord<'a> = dyn Fn(Word) + Sync + 'a;

/// What to do in one tick.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// These repositories only; all when empty.
    pub names: Vec<String>,
    /// Why.
    pub trigger: Trigger,
    /// Poll and decide, and change nothing but the note of what the remotes said.
    pub dry_run: bool,
    /// Wait for repositories that are busy.
    pub wait: bool,
    /// What a person asked for.
    pub wish: Wish,
}

impl Orders {
    /// Whether this is about what upstream has. A person's wish is about what is here; no remote has
    /// a say in it.
    pub fn follow(&self) -> bool {
        self.wish == Wish::Follow
    }

    /// Whether a person named repositories, and so wants them looked at now. A message names one as
    /// well, and anybody can have written it: it overrides nothing.
    pub fn is_named(&self) -> bool {
        let by_a_message = matches!(self.trigger, Trigger::Bus | Trigger::Webhook);
        !self.names.is_empty() && !by_a_message
    }

    /// Whether the remotes of `repo` are asked.
    pub fn asks(&self, repo: &Repo) -> bool {
        // A bus that is back says nothing of any repository.
        let by_itself = matches!(self.trigger, Trigger::Cron | Trigger::Timer)
            || (self.names.is_empty() && matches!(self.trigger, Trigger::Bus | Trigger::Webhook));
        self.follow() && (self.is_named() || repo.settings.poll || !by_itself)
    }

    /// For whom a decision is made.
    pub fn request(&self) -> Request {
        Request { trigger: self.trigger, named: self.is_named() }
    }

    /// Whether a worker is to be sent even where one is busy: to wait for it, or to ask it for one
    /// more pass, because nobody else will tell it of the news that a message brings.
    pub fn joins(&self) -> bool {
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

/// One tick. `on_word` hears what is said meanwhile.
///
/// # Errors
/// When the root cannot be read or a name is not known; a single repository's trouble is in its row.
pub fn tick(here: &Here, orders: &Orders, on_word: &OnWord) -> Result<Tick> {
    let machine = Machine::at(&here.settings.world.state);
    let before: Option<Status> = machine.read(STATUS);
    let repositories = roster::repositories(here)?;
    roster::known(here, &repositories, &orders.names)?;
    let mut looked = everybody(here, repositories, &before, Some(orders), on_word)?;
    looked.sort_by(|one, other| one.name.cmp(&other.name));
    let decisions =
        looked.iter().filter_map(|it| Some((it.name.clone(), it.plan.clone()?))).collect();
    let now = node::now();
    if orders.dry_run || here.parcel.is_some() {
        let status = status_of(here, looked, &machine, now);
        return Ok(Tick { status, decisions, notices: Vec::new(), changes: Vec::new() });
    }
    machine.tick_ended(now)?;
    let status = status_of(here, looked, &machine, now);
    tell(&machine, status, decisions, now)
}

/// What a helper finds out about all that was handed over to it, and with orders does there; `on_word`
/// hears what is said meanwhile.
///
/// # Errors
/// When nothing can be said at all.
pub fn errand(here: &Here, orders: Option<&Orders>, on_word: &OnWord) -> Result<Vec<Report>> {
    let before: Option<Status> = Machine::at(&here.settings.world.state).read(STATUS);
    let repositories = roster::repositories(here)?;
    let looked = ours(here, &repositories, &before, orders, on_word);
    Ok(looked.into_iter().map(|it| Report { row: it.row, plan: it.plan }).collect())
}

/// Everybody's repositories: ours here, those of others by helpers, all at the same time.
fn everybody(
    here: &Here,
    repositories: Vec<Repo>,
    before: &Option<Status>,
    orders: Option<&Orders>,
    on_word: &OnWord,
) -> Result<Vec<Looked>> {
    let Sorted { ours: own, theirs, nobodys } = delegate::sort(here, repositories);
    let now = node::now();
    let broken = |repo: &Repo, why: String| {
        let was = row_before(before, &repo.name);
        Looked {
            name: repo.name.clone(),
            row: broken_row(repo, why, was, now),
            plan: None,
            polled: None,
        }
    };
    let mut looked: Vec<Looked> =
        nobodys.into_iter().map(|(repo, why)| broken(&repo, why)).collect();
    thread::scope(|scope| {
        let helpers: Vec<_> = theirs
            .iter()
            .map(|(user, repos)| {
                (repos, scope.spawn(move || delegate::look(here, user, repos, orders, on_word)))
            })
            .collect();
        looked.extend(ours(here, &own, before, orders, on_word));
        for (repos, helper) in helpers {
            let reports =
                helper.join().unwrap_or_else(|_| bail!("its helper failed, which is a bug"));
            match reports {
                Ok(reports) => {
                    looked.extend(reports.into_iter().map(|Report { row, plan }| Looked {
                        name: row.name.clone(),
                        row,
                        plan,
                        // Its helper has said so.
                        polled: None,
                    }))
                }
                Err(error) => {
                    let why = reason(&error);
                    looked.extend(repos.iter().map(|repo| broken(repo, why.clone())));
                }
            }
        }
        Ok(looked)
    })
}

/// Looks at `repositories`, which are ours, and with orders lets workers work where there is work.
fn ours(
    here: &Here,
    repositories: &[Repo],
    before: &Option<Status>,
    orders: Option<&Orders>,
    on_word: &OnWord,
) -> Vec<Looked> {
    let now = node::now();
    let jobs = repositories.iter().map(|repo| {
        let asked = orders.filter(|orders| {
            let named = orders.names.is_empty() || orders.names.contains(&repo.name);
            named && repo.settings.policy.active
        });
        Job::new(here, repo, row_before(before, &repo.name), asked, now)
    });
    let jobs = jobs.collect();
    let mut looked: Vec<Looked> = Vec::new();
    let Some(orders) = orders else {
        rounds::all(jobs, |it| looked.push(it));
        return looked;
    };
    let crew = Crew::new(here, orders, on_word);
    thread::scope(|scope| {
        rounds::all(jobs, |it| {
            if let Some(Poll(bytes)) = it.polled {
                on_word(Word::Polled { repo: it.name.clone(), bytes });
            }
            let work = it.plan.as_ref().is_some_and(Plan::is_work);
            if work && !orders.dry_run {
                crew.send(scope, it.name.clone());
            }
            looked.push(it);
        });
    });
    let troubles = crew.troubles();
    if troubles.is_empty() {
        return looked;
    }
    // What was worked on is looked at again, and a script may have removed it.
    let left = roster::repositories(here).unwrap_or_default();
    let now = node::now();
    for (name, trouble) in troubles {
        let Some(it) = looked.iter_mut().find(|it| it.name == name) else { continue };
        let was = row_before(before, &name);
        let Some(repo) = left.iter().find(|repo| repo.name == name) else {
            hindered(&mut it.row, &Hindrance::failing(GONE), was, now);
            continue;
        };
        let after = Job::new(here, repo, was.clone(), None, now).look();
        *it = Looked { plan: it.plan.take(), ..after };
        if let Some(hindrance) = trouble {
            hindered(&mut it.row, &hindrance, was, now);
        }
    }
    looked
}

/// How everything stands, without asking any remote.
///
/// # Errors
/// When the root cannot be read or a name is not known.
pub fn survey(here: &Here, names: &[String]) -> Result<Status> {
    let machine = Machine::at(&here.settings.world.state);
    let before: Option<Status> = machine.read(STATUS);
    let repositories = roster::named(here, names)?;
    let mut looked = if here.node.user.uid == 0 {
        everybody(here, repositories, &before, None, &drop)?
    } else {
        // What belongs to somebody else is not for us to open; the last tick knew how it is.
        let known =
            |repo: &Repo| row_before(&before, &repo.name).filter(|_| !node::owns(&repo.path));
        let (strange, own): (Vec<_>, Vec<_>) =
            repositories.into_iter().partition(|repo| known(repo).is_some());
        let mut looked = everybody(here, own, &before, None, &drop)?;
        looked.extend(strange.into_iter().filter_map(|repo| {
            Some(Looked { row: known(&repo)?, name: repo.name, plan: None, polled: None })
        }));
        looked
    };
    let now = node::now();
    for it in &mut looked {
        if let Some((was, hindrance)) = row_before(&before, &it.name).and_then(unrecorded)
            && node::owns(Path::new(&it.row.path))
        {
            hindered(&mut it.row, &hindrance, Some(was), now);
        }
    }
    looked.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(status_of(here, looked, &machine, now))
}

/// What the last tick of the machine's own agent said of the repositories with these names (of all when
/// there are none), for a user who has no such ones; `None` when there was none, or it knew them not.
pub fn machine_status(names: &[String]) -> Option<Status> {
    let root = Sources { is_root: true, ..Sources::default() };
    last_status(&World::of(&root).ok()?, names)
}

/// What the last tick in `world` said, likewise, for whoever may not look there.
pub fn last_status(world: &World, names: &[String]) -> Option<Status> {
    let machine = Machine::at(&world.state);
    let mut status: Status = machine.read(STATUS)?;
    let known = |name: &String| status.repositories.iter().any(|row| row.name == *name);
    if !names.iter().all(known) {
        return None;
    }
    status.repositories.retain(|row| names.is_empty() || names.contains(&row.name));
    Some(Status { at: node::now(), last_tick: machine.last_tick(), ..status }.judge())
}

/// What the last tick said of a repository that is not cloned yet; `None`: it could not be had, and
/// nothing is known of why.
pub fn unreachable_before(here: &Here, name: &str) -> Option<Unreachable> {
    let before: Option<Status> = Machine::at(&here.settings.world.state).read(STATUS);
    row_before(&before, name).as_ref().and_then(unreachable)
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
    let Status { agent, host, part, stack, root, at: _, last_tick: _, healthy: _, repositories } =
        one;
    (agent, host, part, stack) == (&other.agent, &other.host, &other.part, &other.stack)
        && (root, repositories) == (&other.root, &other.repositories)
}
