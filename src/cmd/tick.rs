//! `agent tick`: one pass over the repositories. Under cron it speaks only when there is news; on a
//! terminal, and with `-v`, it tells what it did.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use chrono::{DateTime, Utc};

use super::show;
use crate::cli::{self, Global};
use crate::domain::action::Trigger;
use crate::domain::metrics;
use crate::domain::plan::{Plan, Target};
use crate::domain::publication::Publishing;
use crate::domain::status::{Row, State, Status};
use crate::engine::reconcile::Wish;
use crate::engine::tick::{self, Orders, Tick};
use crate::engine::{Here, steer};
use crate::exit::{self, Code};
use crate::system::files::{self, Fault};
use crate::system::machine::Machine;
use crate::system::{node, process, syslog};

/// How long `on_change` may take.
const ON_CHANGE: Duration = Duration::from_secs(60);
/// How many lines of a script's output a notice quotes.
const QUOTED: usize = 10;

/// One tick, from the command line.
///
/// # Errors
/// When the root cannot be read, a repository is not known, or stdout cannot be written.
pub fn run(here: &Here, global: &Global, args: &cli::Tick) -> Result<Code> {
    let watched = std::io::stdout().is_terminal();
    if watched {
        process::tell_on_interrupt(
            "\nNo longer waiting; what was started goes on and is recorded: agent status\n",
        )?;
    }
    let trigger = args.trigger.unwrap_or(if watched { Trigger::Manual } else { Trigger::Cron });
    if !watched && args.repos.is_empty() {
        let splay = args.splay.unwrap_or(here.settings.splay);
        std::thread::sleep(splay.mul_f64(here.node.share()));
    }
    let orders = Orders {
        names: args.repos.clone(),
        trigger,
        dry_run: args.dry_run,
        wait: args.wait,
        wish: Wish::Follow,
    };
    perform(here, global, &orders)
}

/// Carries out a tick and tells what there is to tell.
///
/// # Errors
/// As [`run`].
pub fn perform(here: &Here, global: &Global, orders: &Orders) -> Result<Code> {
    perform_telling(here, global, orders, show::print)
}

/// As [`perform`], with `say` to tell it.
///
/// # Errors
/// When the root cannot be read, a repository is not known, or `say` fails.
pub fn perform_telling(
    here: &Here,
    global: &Global,
    orders: &Orders,
    say: impl FnOnce(&str) -> Result<()>,
) -> Result<Code> {
    // Whoever asks for more than a tick reads what came of it.
    let ordered = orders.wish != Wish::Follow;
    let watched = std::io::stdout().is_terminal() || global.verbose || ordered;
    let before = node::now();
    let done = tick::tick(here, orders, &drop)?;
    let now = done.status.at;
    if orders.dry_run {
        say(&decisions(&done, now))?;
    } else if watched && !global.quiet {
        say(&account(here, &done, orders, before))?;
    } else if !global.quiet {
        say(&notices(here, &done, now))?;
    }
    if !orders.dry_run {
        for trouble in after(here, &done) {
            exit::report(&trouble);
        }
    }
    let asked = |row: &&Row| orders.names.is_empty() || orders.names.contains(&row.name);
    let rows = done.status.repositories.iter().filter(asked);
    Ok(match rows.filter(|row| row.needs_attention(now)).count() {
        0 => Code::Fine,
        _ => Code::Attention,
    })
}

/// Prints what a person who did not ask has to know.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_notices(here: &Here, done: &Tick) -> Result<()> {
    show::print(&notices(here, done, done.status.at))
}

fn notices(here: &Here, done: &Tick, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for notice in &done.notices {
        text += &show::notice(notice, now);
        text.push('\n');
        if notice.row.state == State::Failing {
            text += &quoted(here, &notice.row.name);
        }
    }
    text
}

/// The end of the latest log, indented.
fn quoted(here: &Here, name: &str) -> String {
    let lines = steer::log_tail(here, name, QUOTED);
    lines.iter().map(|line| format!("    {}\n", show::escaped(line))).collect()
}

/// What somebody who watches wants to read.
fn account(here: &Here, done: &Tick, orders: &Orders, before: DateTime<Utc>) -> String {
    let now = done.status.at;
    let mut text = String::new();
    let mut idle = 0;
    for row in &done.status.repositories {
        if !orders.names.is_empty() && !orders.names.contains(&row.name) {
            continue;
        }
        let name = show::escaped(&row.name);
        let acted = row.acted.as_ref().filter(|acted| acted.at.is_some_and(|at| at >= before));
        if let Some(acted) = acted {
            let subject = show::escaped(acted.subject.as_deref().unwrap_or_default());
            let took = acted.seconds.map(show::seconds).unwrap_or_default();
            let revision = acted.revision.short();
            text += &format!("{name}: acted upon {revision} {subject} in {took}\n");
        }
        match (row.state, acted) {
            (State::Current | State::Ahead, Some(_)) => {}
            (State::Current | State::Ahead | State::Inactive, None) => idle += 1,
            _ => {
                let details = show::details(row, now);
                let details = details.map_or(String::new(), |details| format!(": {details}"));
                text += &format!("{name}: {}{details}\n", row.state);
                if row.state == State::Failing {
                    text += &quoted(here, &row.name);
                }
            }
        }
    }
    match (done.status.repositories.len(), idle) {
        (0, _) => {
            let root = show::escaped(&done.status.root);
            text +=
                &format!("There is no repository under {root} yet; begin with: agent init URL\n");
        }
        (_, 0) => {}
        (_, 1) => text += "1 repository is as upstream has it\n",
        (_, idle) => text += &format!("{idle} repositories are as upstream has them\n"),
    }
    text
}

/// What a tick would do.
fn decisions(done: &Tick, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for (name, plan) in &done.decisions {
        let row = done.status.repositories.iter().find(|row| row.name == *name);
        let details = row
            .and_then(|row| show::details(row, now))
            .map_or(String::new(), |details| format!(" ({details})"));
        let would = match plan {
            Plan::Idle => "nothing to do".to_owned(),
            Plan::Recover if row.is_some_and(|row| row.head.is_none()) => {
                "would clone it".to_owned()
            }
            Plan::Recover => "would put right what a dead run left".to_owned(),
            Plan::Fetch { tip } => format!("would fetch {} and act upon it", tip.short()),
            Plan::Run(act) => match act.target {
                Target::Commit(commit) => format!("would act upon {}", commit.short()),
                Target::MergeOf(tip) => format!("would merge {} and act upon that", tip.short()),
            },
            Plan::Publish(plan) => format!("would {}", publishing(plan)),
            // The details say until when.
            Plan::Wait { .. } if row.is_some_and(|row| row.attempt > 0) => "waits".to_owned(),
            Plan::Wait { until } => format!("waits: next try {}", show::when(*until, now)),
            Plan::Stopped => "stopped".to_owned(),
        };
        text += &format!("{}: {would}{details}\n", show::escaped(name));
    }
    text
}

/// What there is to do at the targets, such as `fetch, publish 2 refs and remove 1`.
fn publishing(plan: &Publishing) -> String {
    let refs = |count: usize| if count == 1 { "1 ref".to_owned() } else { format!("{count} refs") };
    let mut parts = Vec::new();
    parts.extend(plan.fetch.then(|| "fetch".to_owned()));
    if !plan.publish.is_empty() {
        parts.push(format!("publish {}", refs(plan.publish.len())));
    }
    if !plan.remove.is_empty() {
        parts.push(format!("remove {}", refs(plan.remove.len())));
    }
    match parts.as_slice() {
        [] => "record what is here".to_owned(),
        _ => parts.join(" and "),
    }
}

/// What the configuration asks for after a tick: a command at state changes, and the metrics file.
/// Neither fails the tick. What went wrong with them and was not told before, for the caller to tell.
pub fn after(here: &Here, done: &Tick) -> Vec<Error> {
    // First the changes: they are told once, and the next tick knows nothing of them any more.
    let mut troubles = Vec::new();
    for (row, was) in &done.changes {
        if let Err(error) = on_change(here, row, *was)
            && !troubles.iter().any(|known: &Error| known.to_string() == error.to_string())
        {
            syslog::tell(syslog::Level::Warning, &one_line(&error));
            troubles.push(error);
        }
    }
    troubles.extend(put_metrics(here, &done.status).err());
    troubles
}

/// Tells the configured command of one change.
fn on_change(here: &Here, row: &Row, was: Option<State>) -> Result<()> {
    let Some(program) = here.settings.on_change.first() else { return Ok(()) };
    let env = [
        ("AGENT_REPO", row.name.clone()),
        ("AGENT_STATE", row.state.to_string()),
        ("AGENT_WAS", was.map_or_else(String::new, |was| was.to_string())),
        ("AGENT_REASON", row.reason.clone().unwrap_or_default()),
    ];
    let end = match process::run(&here.settings.on_change, &env, ON_CHANGE) {
        Ok(process::Ended::Exited(0)) => return Ok(()),
        Ok(process::Ended::Exited(code)) => format!("exited {code}"),
        Ok(process::Ended::Signalled(signal)) => format!("was ended by signal {signal}"),
        Ok(process::Ended::TimedOut) => {
            format!("took longer than {} s and was ended", ON_CHANGE.as_secs())
        }
        Err(error) => {
            let why = "the command of on_change did not start, and nobody was told of a change\n\
                       hint: agent check";
            return Err(error.context(why));
        }
    };
    Err(anyhow!(
        "the command of on_change failed: {} {end}\nhint: run it by hand with AGENT_REPO={} and \
         AGENT_STATE={} set",
        show::escaped(program),
        show::escaped(&row.name),
        row.state
    ))
}

/// Writes the metrics where they are wanted.
///
/// # Errors
/// When they cannot be written, once a day for each reason.
fn put_metrics(here: &Here, status: &Status) -> Result<()> {
    let Some(path) = &here.settings.metrics_file else { return Ok(()) };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Lazily: the next tick writes them anew.
    let written = files::put_lazily(folder, &name, metrics::text(status).as_bytes(), 0o644);
    let written = written.map_err(|error| {
        let (shown, us) = (show::escaped(&folder.display().to_string()), &here.node.user.name);
        let hint = match Fault::of(&error) {
            Some(fault) => fault.remedy().to_owned(),
            None if folder.is_dir() => format!("let {us} write in {shown}"),
            None => format!("make the folder: mkdir -p {shown}; or correct metrics_file"),
        };
        error.context(format!("the metrics are not written\nhint: {hint}"))
    });
    let trouble = written.as_ref().err().map(one_line);
    let machine = Machine::at(&here.settings.world.state);
    match machine.is_news("metrics.trouble", trouble.as_deref(), status.at) {
        true => written,
        false => Ok(()),
    }
}

fn one_line(error: &Error) -> String {
    format!("{error:#}").replace('\n', "; ")
}
