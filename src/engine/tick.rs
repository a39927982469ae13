//! One tick over all repositories: polls their remotes, decides, runs workers where there is work and
//! returns the machine's status. Does not know how one repository is evaluated or deployed. A repository
//! that cannot be worked on becomes a row in the status and does not stop the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Error, Result, anyhow};
use chrono::{DateTime, Utc};

use crate::config::{AgentDirs, ConfigError, ConfigLocations};
use crate::domain::report::notices::{self, Notice, ReportedStates};
use crate::domain::repository::action::{ProgressEvent, RunEnded};
use crate::domain::repository::decision::Plan;
use crate::domain::repository::names;
use crate::domain::repository::observed::Unreachable;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{MachineStatus, StatusRow};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::{self, RepoEntry, safe_paths};
use crate::engine::error::{WorkerError, reason};
use crate::engine::repository::limits;
use crate::engine::request::{ProgressSink, TickOptions};
use crate::engine::tick::evaluation::{
    PollTraffic, RepoReport, add_worker_error, broken_row, kept_reason, unrecorded, waiting_row,
};
use crate::engine::tick::poll_scheduler::{EvaluationRound, EvaluationTask};
use crate::engine::tick::user_helper::{HANGING, HelperReplies, HelperReport, ReposByUser};
use crate::engine::tick::worker_pool::{WorkerPool, WorkerResult};
use crate::system::agent_state::{AgentState, STATUS};
use crate::system::host;
use crate::system::pid::Process;

pub mod canaries;
pub mod evaluation;
pub mod passwords;
pub mod poll_scheduler;
pub mod presence_report;
pub mod user_helper;
pub mod worker_pool;

const REPORTED: &str = "reported.json";

const GONE: &str = "it was removed during its action";

/// The result of one tick.
#[derive(Debug)]
pub struct TickReport {
    /// When the tick before this one ended; `None`: there was none.
    pub before: Option<DateTime<Utc>>,
    /// The status of all repositories after the tick.
    pub status: MachineStatus,
    /// The plans that were decided, each with its repository's name.
    pub decisions: Vec<(String, Plan)>,
    /// The notices for a person who did not ask, such as the reader of cron's mail.
    pub notices: Vec<Notice>,
    /// Rows whose state changed, each with the state before; `None`: the repository is new.
    pub changes: Vec<(StatusRow, Option<State>)>,
    /// A fault of the agent itself that did not stop the tick.
    pub warning: Option<Error>,
}

/// Runs one tick. `progress` receives the progress events.
///
/// # Errors
/// When the root cannot be read or a name is not known; an error in one repository is in its row.
pub fn tick(
    context: &Context,
    options: &TickOptions,
    progress: &ProgressSink,
) -> Result<TickReport> {
    let progress = &|event| {
        if let ProgressEvent::Ended(run) = &event {
            log_ended(run);
        }
        progress(event);
    };
    let machine = AgentState::at(&context.settings.world.state);
    let last_tick = machine.last_tick();
    let before: Option<MachineStatus> = machine.read(STATUS);
    let repositories = discovery::repositories(context)?;
    discovery::known(context, &repositories, &options.names)?;
    let passwords = passwords::refresh(context, &repositories, &before, Some(options));
    let mut looked = everybody(context, repositories, &before, Some(options), progress);
    passwords::drop_refused(&passwords, &before, &looked);
    looked.sort_by(|one, other| one.name.cmp(&other.name));
    let decisions =
        looked.iter().filter_map(|it| Some((it.name.clone(), it.plan.clone()?))).collect();
    let now = host::now();
    if options.dry_run || context.helper_input.is_some() {
        let status = status_of(context, looked, &machine, now);
        return Ok(TickReport {
            before: last_tick,
            status,
            decisions,
            notices: Vec::new(),
            changes: Vec::new(),
            warning: None,
        });
    }
    safe_paths::state(context)?;
    machine.tick_ended(now)?;
    note_hanging(&machine, &looked)?;
    let status = status_of(context, looked, &machine, now);
    let report = write_notices(&machine, status, decisions, now)?;
    Ok(TickReport { before: last_tick, ..report })
}

/// Logs an ended action: one line of the same facts for every trigger and every user's repositories. Its text may come
/// from a helper of another user.
fn log_ended(run: &RunEnded) {
    tracing::info!(
        repository = %run.repo.escape_controls(),
        "ref" = run.reference.as_ref().map(|name| tracing::field::display(name.escape_controls())),
        revision = %run.revision,
        previous = %run.previous.map_or_else(String::new, |revision| revision.to_string()),
        outcome = %run.outcome.escape_controls(),
        seconds = (run.seconds * 1000.0).round() / 1000.0,
        trigger = %run.trigger,
        "action ended"
    );
}

/// Evaluates all repositories of a helper's input, and with orders works on them. `progress` receives the
/// progress events, `report` the report of each repository.
///
/// # Errors
/// When the repositories cannot be listed.
pub fn helper_request(
    context: &Context,
    options: Option<&TickOptions>,
    progress: &ProgressSink,
    report: &dyn Fn(&HelperReport),
) -> Result<()> {
    let before: Option<MachineStatus> = AgentState::at(&context.settings.world.state).read(STATUS);
    let repositories = discovery::repositories(context)?;
    ours(context, repositories, &before, options, progress, &|it, is_last| {
        let (row, plan) = (it.row.clone(), it.plan.clone());
        report(&HelperReport { row, plan, hangs: it.hangs, is_last });
    });
    Ok(())
}

/// Evaluates all repositories at the same time: our own in this process, those of other users by helpers.
fn everybody(
    context: &Context,
    repositories: Vec<RepoEntry>,
    before: &Option<MachineStatus>,
    options: Option<&TickOptions>,
    progress: &ProgressSink,
) -> Vec<RepoReport> {
    let (misconfigured, usable): (Vec<_>, Vec<_>) =
        repositories.into_iter().partition(|repo| repo.settings.broken.is_some());
    let ReposByUser { ours: own, delegated, unusable, hanging } =
        user_helper::sort_by_user(context, usable);
    let now = host::now();
    let broken = |(repo, why): (RepoEntry, Error)| {
        let was = row_before(before, &repo.name);
        if let Some(process) = hanging.get(&repo.name) {
            return RepoReport::unseen(&repo, reason(&why), was, Some(*process), now);
        }
        let row = match WorkerError::of(&why) {
            WorkerError { state: State::Unreachable, reason } => {
                waiting_row(&repo, reason, was, now)
            }
            WorkerError { reason, .. } => broken_row(&repo, reason, was, now),
        };
        RepoReport { name: repo.name, row, plan: None, polled: None, hangs: None }
    };
    let mut looked: Vec<RepoReport> = unusable.into_iter().map(broken).collect();
    looked.extend(misconfigured.into_iter().map(|repo| {
        let reason = repo.settings.broken.clone().unwrap_or_default();
        let row = broken_row(&repo, reason, row_before(before, &repo.name), now);
        RepoReport { name: repo.name, row, plan: None, polled: None, hangs: None }
    }));
    thread::scope(|scope| {
        let helpers: Vec<_> = delegated
            .iter()
            .map(|(user, repos)| {
                let look = move || {
                    if options.is_some_and(TickOptions::follow) {
                        canaries::for_helper(context, repos, before, now);
                    }
                    user_helper::run_helper(context, user, repos, options, progress)
                };
                (repos, thread::Builder::new().spawn_scoped(scope, look))
            })
            .collect();
        looked.extend(ours(context, own, before, options, progress, &|_, _| {}));
        for (repos, helper) in helpers {
            let failed =
                |error| HelperReplies { items: Vec::new(), failure: Some(error), remains: None };
            let answers = match helper.map(ScopedJoinHandle::join) {
                Ok(Ok(answers)) => answers,
                Ok(Err(_)) => failed(anyhow!("its helper failed, which is a bug")),
                Err(error) => failed(Error::new(error).context(limits::no_thread())),
            };
            looked.extend(of_helper(repos, answers, before, now));
        }
    });
    looked
}

/// The reports on `repos` that a helper's `answers` contain; unseen rows for those without one.
fn of_helper(
    repos: &[RepoEntry],
    answers: HelperReplies<HelperReport>,
    before: &Option<MachineStatus>,
    now: DateTime<Utc>,
) -> Vec<RepoReport> {
    let HelperReplies { items, failure, remains } = answers;
    let why = failure.as_ref().map(reason).unwrap_or_default();
    // A helper may report a repository twice; the later report counts.
    let mut reports: BTreeMap<String, HelperReport> =
        items.into_iter().map(|report| (report.row.name.clone(), report)).collect();
    let of_one = |repo: &RepoEntry| {
        let was = row_before(before, &repo.name);
        let Some(HelperReport { mut row, plan, hangs, is_last }) = reports.remove(&repo.name)
        else {
            let unseen = RepoReport::unseen(repo, why.clone(), was.clone(), remains, now);
            return match failure.as_ref().map(WorkerError::of) {
                // The helper could not become its user yet, so the repository waits.
                Some(WorkerError { state: State::Unreachable, reason }) => {
                    RepoReport { row: waiting_row(repo, reason, was, now), ..unseen }
                }
                _ => unseen,
            };
        };
        if !is_last {
            add_worker_error(&mut row, &WorkerError::failing(&why), was, now);
        }
        // The helper itself sent the `Polled` event, so `polled` stays empty here.
        RepoReport { name: repo.name.clone(), row, plan, polled: None, hangs }
    };
    repos.iter().map(of_one).collect()
}

/// Evaluates our own `repositories`, and with orders lets workers work where there is work. `report` gets
/// each report as soon as it is known, and whether it is the last one of its repository.
fn ours(
    context: &Context,
    repositories: Vec<RepoEntry>,
    before: &Option<MachineStatus>,
    options: Option<&TickOptions>,
    progress: &ProgressSink,
    report: &dyn Fn(&RepoReport, bool),
) -> Vec<RepoReport> {
    let pool = options.map(|options| WorkerPool::new(context, options, progress, &repositories));
    let round = |repositories: Vec<RepoEntry>, options: Option<&TickOptions>| {
        let task = |repo: RepoEntry| {
            let is_asked = options.is_some_and(|options| {
                let named = options.names.is_empty() || options.names.contains(&repo.name);
                named && repo.settings.policy.active
            });
            EvaluationTask { was: row_before(before, &repo.name), is_asked, repo }
        };
        let tasks = repositories.into_iter().map(task).collect();
        EvaluationRound {
            context: context.clone(),
            tasks,
            options: options.cloned(),
            now: host::now(),
        }
    };
    let mut looked: Vec<RepoReport> = Vec::new();
    let (Some(options), Some(pool)) = (options, pool) else {
        poll_scheduler::all(round(repositories, None), |it| {
            report(&it, true);
            looked.push(it);
        });
        return looked;
    };
    thread::scope(|scope| {
        poll_scheduler::all(round(repositories, Some(options)), |it| {
            if let Some(PollTraffic(bytes)) = it.polled {
                progress(ProgressEvent::Polled { repo: it.name.clone(), bytes });
            }
            let work = it.is_work() && !options.dry_run;
            if work {
                pool.send(scope, it.name.clone());
            }
            report(&it, !work);
            looked.push(it);
        });
    });
    let mut ended = pool.ended();
    if ended.is_empty() {
        return looked;
    }
    // Repositories that were worked on are evaluated again. A script may have removed one of them.
    let mut left = discovery::repositories(context).unwrap_or_default();
    left.retain(|repo| ended.contains_key(&repo.name));
    let now = host::now();
    let conclude = |it: &mut RepoReport, trouble: Option<WorkerError>| {
        if let Some(worker_error) = trouble {
            add_worker_error(&mut it.row, &worker_error, row_before(before, &it.name), now);
        }
        report(it, true);
    };
    poll_scheduler::all(round(left, None), |after| {
        let WorkerResult { trouble, hangs } = ended.remove(&after.name).unwrap_or_default();
        let Some(it) = looked.iter_mut().find(|it| it.name == after.name) else { return };
        *it = RepoReport { plan: it.plan.take(), hangs: after.hangs.or(hangs), ..after };
        conclude(it, trouble);
    });
    for it in looked.iter_mut().filter(|it| ended.contains_key(&it.name)) {
        conclude(it, Some(WorkerError::failing(GONE)));
    }
    looked
}

/// The status of all repositories, without polling any remote.
///
/// # Errors
/// When the root cannot be read or a name is not known.
pub fn survey(context: &Context, names: &[String]) -> Result<MachineStatus> {
    let machine = AgentState::at(&context.settings.world.state);
    let before: Option<MachineStatus> = machine.read(STATUS);
    let repositories = discovery::named(context, names)?;
    let mut looked = if context.node.user.uid == 0 {
        everybody(context, repositories, &before, None, &drop)
    } else {
        // We must not open what belongs to another user; its row is the one of the last tick.
        let is_strange =
            |repo: &RepoEntry| repo.settings.broken.is_none() && !host::owns(&repo.path);
        let known = |repo: &RepoEntry| row_before(&before, &repo.name).filter(|_| is_strange(repo));
        let (strange, own): (Vec<_>, Vec<_>) =
            repositories.into_iter().partition(|repo| known(repo).is_some());
        let mut looked = everybody(context, own, &before, None, &drop);
        looked.extend(strange.into_iter().filter_map(|repo| {
            let (row, name) = (known(&repo)?, repo.name);
            Some(RepoReport { row, name, plan: None, polled: None, hangs: None })
        }));
        looked
    };
    let now = host::now();
    for it in &mut looked {
        if let Some((was, worker_error)) = row_before(&before, &it.name).and_then(unrecorded)
            // A recorded state has its own `since`.
            && it.row.state > worker_error.state
            && host::owns(Path::new(&it.row.path))
        {
            add_worker_error(&mut it.row, &worker_error, Some(was), now);
        }
    }
    looked.sort_by(|one, other| one.name.cmp(&other.name));
    let presence = presence_report::report(context, now);
    Ok(MachineStatus { presence, ..status_of(context, looked, &machine, now) })
}

/// The status by the last tick of root's agent, with the repositories of these names (all when empty), for
/// a user who has none of them. `None`: there was no tick, or it did not know one of the names.
pub fn machine_status(names: &[String]) -> Option<MachineStatus> {
    let root = ConfigLocations { is_root: true, ..ConfigLocations::default() };
    last_status(&AgentDirs::of(&root).ok()?, names)
}

/// The status by the last tick in these directories, for a user who may not open its repositories.
pub fn last_status(world: &AgentDirs, names: &[String]) -> Option<MachineStatus> {
    let machine = AgentState::at(&world.state);
    let mut status: MachineStatus = machine.read(STATUS)?;
    let known: Vec<_> = status.repositories.iter().map(|row| row.name.as_str()).collect();
    let names = names::selected(names, &known).ok()?;
    status.repositories.retain(|row| names.contains(&row.name));
    Some(MachineStatus { at: host::now(), last_tick: machine.last_tick(), ..status }.with_health())
}

/// The reason of the last tick for the state of a repository that is not cloned yet; `None`: its state was
/// another one.
pub fn reason_before(context: &Context, name: &str, state: State) -> Option<Unreachable> {
    let before: Option<MachineStatus> = AgentState::at(&context.settings.world.state).read(STATUS);
    kept_reason(row_before(&before, name).as_ref()?, state)
}

fn row_before(before: &Option<MachineStatus>, name: &str) -> Option<StatusRow> {
    before.as_ref()?.repositories.iter().find(|row| row.name == name).cloned()
}

fn status_of(
    context: &Context,
    looked: Vec<RepoReport>,
    machine: &AgentState,
    now: DateTime<Utc>,
) -> MachineStatus {
    MachineStatus {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        host: context.node.host.clone(),
        part: context.part.clone(),
        stack: context.stack.clone(),
        root: context.settings.world.root.display().to_string(),
        at: now,
        last_tick: machine.last_tick(),
        healthy: false,
        configuration: context.settings.rejected.clone(),
        presence: None,
        repositories: looked.into_iter().map(|it| it.row).collect(),
    }
    .with_health()
}

/// Says in `status.json` that no tick runs because of `why`, the configuration; the rows stay as they are.
/// Returns the status; `None`: it says so already.
///
/// # Errors
/// When the file cannot be written.
pub fn note_unusable(context: &Context, why: &ConfigError) -> Result<Option<MachineStatus>> {
    safe_paths::state(context)?;
    let machine = AgentState::at(&context.settings.world.state);
    // Where another tick keeps the lock, its status says so soon.
    let _turn = machine.turn()?;
    let now = host::now();
    let before =
        machine.read(STATUS).unwrap_or_else(|| status_of(context, Vec::new(), &machine, now));
    let configuration = Some(why.to_reason());
    if before.configuration == configuration {
        return Ok(None);
    }
    let last_tick = machine.last_tick();
    let status = MachineStatus { configuration, at: now, last_tick, ..before }.with_health();
    machine.put(STATUS, &status)?;
    Ok(Some(status))
}

/// Records which processes hang, so that the next tick starts nothing in those repositories. Otherwise each
/// minute would add another hanging process.
fn note_hanging(machine: &AgentState, looked: &[RepoReport]) -> Result<()> {
    let of_one = |it: &RepoReport| Some((it.name.clone(), it.hangs?));
    let hanging: BTreeMap<String, Process> = looked.iter().filter_map(of_one).collect();
    let noted: Option<BTreeMap<String, Process>> = machine.read(HANGING);
    if noted.unwrap_or_default() == hanging { Ok(()) } else { machine.put(HANGING, &hanging) }
}

/// Writes `status.json` and `reported.json` where they changed, and works out the notices. A tick without
/// changes writes nothing.
fn write_notices(
    machine: &AgentState,
    status: MachineStatus,
    decisions: Vec<(String, Plan)>,
    now: DateTime<Utc>,
) -> Result<TickReport> {
    let known = |machine: &AgentState| {
        let reported: ReportedStates = machine.read(REPORTED).unwrap_or_default();
        let before: Option<MachineStatus> = machine.read(STATUS);
        (reported, before)
    };
    let (reported, before) = known(machine);
    let (notices, after) = notices::due(&reported, &status, now);
    let same = before.as_ref().is_some_and(|before| says_the_same(before, &status));
    if same && notices.is_empty() && after == reported {
        let changes = Vec::new();
        return Ok(TickReport { before: None, status, decisions, notices, changes, warning: None });
    }
    // Several ticks may see the same change; the lock lets only one of them report it.
    let turn = machine.turn()?;
    let (reported, before) = known(machine);
    let (notices, after) = notices::due(&reported, &status, now);
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
    let warning = match turn {
        Some(_) => None,
        None => Some(anyhow!(
            "another tick does not end its report; this one reported without it\n\
             hint: see which process it is: fuser -v {0}; continue or end it: kill -CONT PID, \
             kill -KILL PID",
            machine.turn_file().display()
        )),
    };
    Ok(TickReport { before: None, status, decisions, notices, changes, warning })
}

fn says_the_same(one: &MachineStatus, other: &MachineStatus) -> bool {
    let MachineStatus {
        agent,
        host,
        part,
        stack,
        root,
        at: _,
        last_tick: _,
        healthy: _,
        configuration,
        presence: _,
        repositories,
    } = one;
    (agent, host, part, stack) == (&other.agent, &other.host, &other.part, &other.stack)
        && (root, repositories) == (&other.root, &other.repositories)
        && *configuration == other.configuration
}
