//! `agent tick`: one tick over the repositories. Under cron it prints only notices; on a terminal, and
//! with `-v`, it prints what it did. Decides nothing.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::cli::{self, GlobalArgs};
use crate::cmd::stream::LogStream;
use crate::cmd::{after_tick, format};
use crate::domain::followed::named;
use crate::domain::git::Commit;
use crate::domain::publish::state::PublishPlan;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::decision::Plan;
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::state::State;
use crate::domain::repository::status::StatusRow;
use crate::engine::context::Context;
use crate::engine::discovery;
use crate::engine::machine::presence::PresencePublisher;
use crate::engine::operator;
use crate::engine::request::{LockWait, TickOptions, WorkerCommand};
use crate::engine::run::log;
use crate::engine::tick::{self, TickReport};
use crate::exit::{self, ExitStatus};
use crate::system::{host, process};

/// The number of lines of a script's output in a notice.
const QUOTED: usize = 10;

/// Runs one tick from the command line.
///
/// # Errors
/// When the root cannot be read, a repository is not known, or stdout cannot be written.
pub fn run(context: &Context, global: &GlobalArgs, args: &cli::TickArgs) -> Result<ExitStatus> {
    let names = discovery::selected(context, &args.repos)?;
    let watched = std::io::stdout().is_terminal();
    if watched {
        process::print_on_interrupt(
            "\nNo longer waiting; running actions continue and are recorded: agent status\n",
        )?;
    }
    // Naming a repository is a person's order, also in a deploy job without a terminal.
    let is_order = watched || !args.repos.is_empty();
    let trigger = args.trigger.unwrap_or(if is_order { Trigger::Manual } else { Trigger::Cron });
    if !watched && args.repos.is_empty() {
        let splay = args.splay.unwrap_or(context.settings.splay);
        std::thread::sleep(splay.mul_f64(context.node.share()));
    }
    if args.wait {
        operator::can_wait_for(context, &names)?;
    }
    let options = TickOptions {
        names,
        trigger,
        dry_run: args.dry_run,
        wait: match (args.wait, args.timeout) {
            (false, _) => LockWait::No,
            (true, None) => LockWait::Unlimited,
            (true, Some(limit)) => LockWait::Until(host::since_boot() + limit),
        },
        command: WorkerCommand::Follow,
        reason: args.override_reason.clone(),
        overrides: args.override_reason.is_some(),
        deleted: Vec::new(),
    };
    perform(context, global, &options)
}

/// Runs a tick and prints its notices or its result.
///
/// # Errors
/// As for [`run`].
pub fn perform(
    context: &Context,
    global: &GlobalArgs,
    options: &TickOptions,
) -> Result<ExitStatus> {
    perform_with_progress(context, global, options, format::print)
}

/// Does the same as [`perform`], with `say` as the output.
///
/// # Errors
/// When the root cannot be read, a repository is not known, or `say` fails.
pub fn perform_with_progress(
    context: &Context,
    global: &GlobalArgs,
    options: &TickOptions,
    say: impl FnOnce(&str) -> Result<()>,
) -> Result<ExitStatus> {
    // A person who orders something reads the result, on a terminal or not.
    let ordered = !options.names.is_empty()
        && !matches!(
            options.trigger,
            Trigger::Cron | Trigger::Timer | Trigger::Bus | Trigger::Webhook
        );
    let watched = std::io::stdout().is_terminal() || global.verbose || ordered;
    let before = host::now();
    let (done, streamed) = watch(context, global, options)?;
    let now = done.status.at;
    if options.dry_run {
        say(&decisions(&done, now))?;
    } else if watched && !global.quiet {
        say(&account(context, &done, options, (before, &streamed)))?;
    } else if !global.quiet {
        say(&notices(context, &done, now))?;
    }
    if !options.dry_run {
        for trouble in after_tick::carry_out(context, &done, PresencePublisher::Process) {
            exit::report(&trouble);
        }
    }
    let warned = done.warning.as_ref().map_or(ExitStatus::Fine, exit::report);
    let asked = |row: &&StatusRow| options.names.is_empty() || options.names.contains(&row.name);
    // A named repository is to be at upstream's revision; any other order has its own end.
    let brings = !options.names.is_empty() && options.follow() && !options.dry_run;
    let is_open = |row: &StatusRow| row.needs_attention(now) || (brings && !row.is_at_upstream());
    Ok(match done.status.repositories.iter().filter(asked).any(is_open) {
        false => warned,
        true => ExitStatus::Attention,
    })
}

/// Runs the tick; on a terminal, prints the output of its scripts while they run. Returns the repositories whose output
/// was printed.
fn watch(
    context: &Context,
    global: &GlobalArgs,
    options: &TickOptions,
) -> Result<(TickReport, BTreeSet<String>)> {
    if !streams(global) || options.dry_run {
        return Ok((tick::tick(context, options, &drop)?, BTreeSet::new()));
    }
    let stream = LogStream::start(context, options.names.len() != 1, anstream::stdout());
    let done = tick::tick(context, options, &|event| stream.hear(&event));
    let streamed = stream.finish();
    Ok((done?, streamed))
}

/// Whether the output of scripts is printed while they run.
pub fn streams(global: &GlobalArgs) -> bool {
    std::io::stdout().is_terminal() && !global.quiet
}

/// Prints the notices.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_notices(context: &Context, done: &TickReport) -> Result<()> {
    format::print(&notices(context, done, done.status.at))
}

fn notices(context: &Context, done: &TickReport, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for notice in &done.notices {
        text += &format::notice(notice, now);
        text.push('\n');
        if has_output(&notice.row) {
            text += &quoted(context, &notice.row);
        }
    }
    text
}

/// Whether programs of the revision said why it is not applied.
fn has_output(row: &StatusRow) -> bool {
    matches!(row.state, State::Failing | State::RolledBack)
        || (row.state == State::Refused && row.attempt > 0)
}

/// The end of the latest log, indented.
fn quoted(context: &Context, row: &StatusRow) -> String {
    let lines = log::telling_tail(context, row, QUOTED);
    lines.iter().map(|line| format!("    {}\n", format::escaped(line))).collect()
}

/// The result of a tick, for a person who watches.
fn account(
    context: &Context,
    done: &TickReport,
    options: &TickOptions,
    (before, streamed): (DateTime<Utc>, &BTreeSet<String>),
) -> String {
    let now = done.status.at;
    let mut text = String::new();
    let mut idle = 0;
    for row in &done.status.repositories {
        if !options.names.is_empty() && !options.names.contains(&row.name) {
            continue;
        }
        let name = format::escaped(&row.name);
        let acted = row.acted.as_ref().filter(|acted| acted.at.is_some_and(|at| at >= before));
        if let Some(acted) = acted {
            let subject = format::escaped(acted.subject.as_deref().unwrap_or_default());
            let took = acted.seconds.map(format::seconds).unwrap_or_default();
            let revision = acted.named();
            text += &format!("{name}: applied {revision} {subject} in {took}\n");
        }
        // Why nothing ran, or why it may not be the newest: said where somebody asks for this one.
        let has_news = row.reason.is_some() && (acted.is_some() || !options.names.is_empty());
        match (row.state, acted) {
            (State::Current | State::Ahead, Some(_)) if !has_news => {}
            (State::Current | State::Ahead | State::Inactive, None) if !has_news => idle += 1,
            _ => {
                let details = format::details(row, now);
                let details = details.map_or(String::new(), |details| format!(": {details}"));
                let hint = row.reason.as_deref().and_then(|it| format::reason_and_hint(it).1);
                let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
                text += &format!("{name}: {}{details}{hint}\n", row.shown_state());
                if has_output(row) && !streamed.contains(&row.name) {
                    text += &quoted(context, row);
                }
            }
        }
    }
    match (done.status.repositories.len(), idle) {
        (0, _) => {
            let root = format::escaped(&done.status.root);
            text +=
                &format!("There is no repository under {root} yet; begin with: agent init URL\n");
        }
        (_, 0) => {}
        (_, 1) => text += "1 repository up to date\n",
        (_, idle) => text += &format!("{idle} repositories up to date\n"),
    }
    text
}

/// A revision for people, with the followed tag where it is upstream's.
fn shown(row: Option<&StatusRow>, revision: Commit) -> String {
    let newest = row.filter(|row| row.upstream == Some(revision));
    named(newest.and_then(|row| row.tag.as_deref()), revision)
}

/// The plans of a dry run.
fn decisions(done: &TickReport, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for (name, plan) in &done.decisions {
        let row = done.status.repositories.iter().find(|row| row.name == *name);
        let details = row
            .and_then(|row| format::details(row, now))
            .map_or(String::new(), |details| format!(" ({details})"));
        let would = match plan {
            Plan::Idle => "nothing to do".to_owned(),
            Plan::Recover if row.is_some_and(|row| row.head.is_none()) => {
                "would clone it".to_owned()
            }
            Plan::Recover => "would recover an interrupted run".to_owned(),
            Plan::Fetch { tip } => format!("would fetch {} and apply it", shown(row, *tip)),
            Plan::Sight(Some(target)) => {
                format!("would note that {} waits", target.upstream().short())
            }
            Plan::Verify { target, .. } => {
                format!("would verify the signature of {}", target.upstream().short())
            }
            Plan::Sight(None) => "would note that nothing waits any more".to_owned(),
            Plan::Look => "would compare its files with the applied revision".to_owned(),
            Plan::Run(act) if act.repairs => {
                "would write anew the files that differ, and run the scripts".to_owned()
            }
            Plan::Run(act) => match act.target {
                ActionTarget::Commit(commit) => format!("would apply {}", shown(row, commit)),
                ActionTarget::MergeOf(tip) => {
                    format!("would merge {} and apply the result", tip.short())
                }
            },
            Plan::Publish(plan) => format!("would {}", publishing(plan)),
            // The details contain the time of the next attempt.
            Plan::Wait { .. } if row.is_some_and(|row| row.attempt > 0 || row.gate.is_some()) => {
                "waits".to_owned()
            }
            Plan::Wait { until } => format!("waits: next try {}", format::when(*until, now)),
            Plan::Stopped => "stopped".to_owned(),
        };
        text += &format!("{}: {would}{details}\n", format::escaped(name));
    }
    text
}

/// The work at the targets, such as `fetch, publish 2 refs and remove 1`.
fn publishing(plan: &PublishPlan) -> String {
    let refs = |count: usize| if count == 1 { "1 ref".to_owned() } else { format!("{count} refs") };
    let mut parts = Vec::new();
    parts.extend(plan.fetch.then(|| "fetch".to_owned()));
    let repaired = plan.publish.iter().filter(|due| due.repairs).count();
    if plan.publish.len() > repaired {
        parts.push(format!("publish {}", refs(plan.publish.len() - repaired)));
    }
    if repaired > 0 {
        parts.push(format!("write {} anew, of which files differ", refs(repaired)));
    }
    if !plan.remove.is_empty() {
        parts.push(format!("remove {}", refs(plan.remove.len())));
    }
    match parts.as_slice() {
        [] => "record the present revisions".to_owned(),
        _ => parts.join(" and "),
    }
}
