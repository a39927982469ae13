//! `agent redo`, `rollback`, `hold`, `unhold`, `accept`, `checkout`: a person's orders. Decides nothing.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use chrono::Local;

use super::{explain, helper, tick};
use crate::cli::{self, GlobalArgs};
use crate::cmd::format;
use crate::domain::repository::action::Trigger;
use crate::engine::context::Context;
use crate::engine::discovery::{self, RepoEntry};
use crate::engine::operator::checkout::{self, CheckoutAction};
use crate::engine::operator::{self, HoldKind, HoldOrder, ListedHold, UnholdOutcome, UnholdScope};
use crate::engine::repository::limits;
use crate::engine::request::{LockWait, TickOptions, WorkerCommand};
use crate::engine::run::log;
use crate::engine::tick::user_helper::CommandExtent;
use crate::exit::{self, ExitStatus, UsageError};
use crate::system::{host, process, watchdog};

/// `agent redo REPO`
///
/// # Errors
/// When the repository is not known or held.
pub fn redo(context: &Context, global: &GlobalArgs, args: &cli::RedoArgs) -> Result<ExitStatus> {
    let (ours, code) =
        helper::ours(context, std::slice::from_ref(&args.repo), CommandExtent::Work)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    limits::within(context, repo, operator::accepts_orders)?;
    limits::within(context, repo, operator::can_redo)?;
    in_foreground(context, global, &repo.name, Trigger::Redo, WorkerCommand::Redo, None)
}

/// `agent rollback REPO [REVISION]`
///
/// # Errors
/// When there is no earlier revision, or the repository is held.
pub fn rollback(
    context: &Context,
    global: &GlobalArgs,
    args: &cli::RollbackArgs,
) -> Result<ExitStatus> {
    let (ours, code) =
        helper::ours(context, std::slice::from_ref(&args.repo), CommandExtent::Work)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    limits::within(context, repo, operator::accepts_orders)?;
    let revision = args.revision.clone();
    let target =
        move |context: &_, repo: &_| operator::rollback_target(context, repo, revision.as_deref());
    let target = limits::within(context, repo, target)?;
    let (name, now) = (format::escaped(&repo.name), host::now());
    let age = target.committed.map(|at| format!(", committed {}", format::when(at, now)));
    format::print(&format!(
        "{name}: going back to {} {}{}; it stays there until: agent unhold {name}\n",
        target.revision.short(),
        format::escaped(&target.subject),
        age.unwrap_or_default()
    ))?;
    let command = WorkerCommand::Rollback(target.revision);
    in_foreground(context, global, &repo.name, Trigger::Rollback, command, None)
}

/// `agent accept REPO REVISION [REASON]`
///
/// # Errors
/// When upstream has another revision, or the repository is held.
pub fn accept(
    context: &Context,
    global: &GlobalArgs,
    args: &cli::AcceptArgs,
) -> Result<ExitStatus> {
    let (ours, code) =
        helper::ours(context, std::slice::from_ref(&args.repo), CommandExtent::Work)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    limits::within(context, repo, operator::accepts_orders)?;
    let revision = args.revision.clone();
    let acceptable = move |context: &_, repo: &_| operator::acceptable(context, repo, &revision);
    let revision = limits::within(context, repo, acceptable)?;
    let (command, reason) = (WorkerCommand::Accept(revision), args.reason());
    in_foreground(context, global, &repo.name, Trigger::Manual, command, reason)
}

/// `agent checkout REPO REF [--to DIR]`
///
/// # Errors
/// When there is no such ref, the repository is held, or the ref cannot be published there.
pub fn checkout(
    context: &Context,
    global: &GlobalArgs,
    args: &cli::CheckoutArgs,
) -> Result<ExitStatus> {
    if let Some(to) = args.to.as_deref().filter(|to| to.is_absolute()) {
        // Checked here first: a helper of another user knows fewer repositories.
        checkout::free_place(context, to)?;
    }
    let (ours, code) =
        helper::ours(context, std::slice::from_ref(&args.repo), CommandExtent::Work)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    limits::within(context, repo, operator::accepts_orders)?;
    let to = match &args.to {
        // A helper of root has left the directory in which root ran the command.
        Some(to) if to.is_relative() && context.helper_input.is_some() => {
            return Err(UsageError(format!(
                "--to {}: the command runs as {}, in another directory\nhint: write an absolute path",
                format::escaped(&to.display().to_string()),
                context.node.user.name
            ))
            .into());
        }
        Some(to) => Some(std::path::absolute(to)?),
        None => None,
    };
    let at = repo.clone();
    watchdog::start(move |late| {
        let code = exit::report(&anyhow!("{}: {}", at.name, limits::standstill(&at, late)));
        std::process::exit(i32::from(code.number()));
    })?;
    watchdog::begin(limits::LOOKING, limits::evaluation_timeout(&repo.settings));
    let (choice, way) = checkout::checkout(context, repo, &args.reference, to.as_deref())?;
    let name = format::escaped(&repo.name);
    match way {
        CheckoutAction::Pin(revision) => {
            format::print(&format!(
                "{name}: going to {}; it stays there until: agent unhold {name}\n",
                revision.short()
            ))?;
            let (command, reason) = (WorkerCommand::Checkout(revision), args.reference.clone());
            let trigger = Trigger::Rollback;
            in_foreground(context, global, &repo.name, trigger, command, Some(reason))
        }
        CheckoutAction::Shown(path) => {
            let path = format::escaped(&path.display().to_string());
            let (shown, revision) = (format::escaped(&choice.name), choice.revision.short());
            format::print(&format!("{name}: {path} shows {shown} ({revision})\n"))?;
            Ok(ExitStatus::Fine)
        }
    }
}

/// Works on one repository in the foreground and shows the output of its scripts.
fn in_foreground(
    context: &Context,
    global: &GlobalArgs,
    name: &str,
    trigger: Trigger,
    command: WorkerCommand,
    reason: Option<String>,
) -> Result<ExitStatus> {
    if std::io::stdout().is_terminal() {
        process::print_on_interrupt(
            "\nNo longer waiting; the action continues and is recorded: agent status\n",
        )?;
    }
    let options = TickOptions {
        names: vec![name.to_owned()],
        trigger,
        dry_run: false,
        wait: LockWait::Unlimited,
        command,
        reason,
        overrides: false,
        deleted: Vec::new(),
    };
    let before = log::latest_log(context, name);
    let code = tick::perform(context, global, &options)?;
    if tick::streams(global) {
        return Ok(code);
    }
    if code == ExitStatus::Fine && log::latest_log(context, name) != before && !global.quiet {
        let lines = log::log_tail(context, name, 1000);
        let lines = lines.iter().map(|line| format!("{}\n", format::escaped(line)));
        format::print(&lines.collect::<String>())?;
    }
    Ok(code)
}

/// `agent hold [REPO|--all] [REASON] [--until WHEN]`
///
/// # Errors
/// When no repository is named, the end is over already, or the hold cannot be written.
pub fn hold(context: &Context, args: &cli::HoldArgs) -> Result<ExitStatus> {
    let names = chosen(context, args.repo(), args.all, "hold")?;
    let now = host::now();
    let until = args.until.map(|end| end.resolve(&Local, now)).transpose();
    let order = HoldOrder {
        reason: args.reason().unwrap_or_else(|| "no reason given".to_owned()),
        until: until.map_err(|error| UsageError(format!("--until: {error}")))?,
        all: args.all,
    };
    let (ours, mut code) = helper::ours(context, &names, CommandExtent::Look)?;
    for repo in ours {
        // A repository that cannot be held must not leave the others unheld.
        let given = order.clone();
        let hold = move |context: &_, repo: &_| operator::hold(context, repo, &given);
        if let Err(error) = limits::within(context, &repo, hold) {
            code = code.max(super::print_error(error));
            continue;
        }
        let name = format::escaped(&repo.name);
        let until = order.until.map_or_else(
            || format!("until: agent unhold {name}"),
            |until| format!("ends {}", format::when(until, now)),
        );
        format::print(&format!("{name}: held ({}), {until}\n", format::escaped(&order.reason)))?;
    }
    Ok(code)
}

/// `agent unhold [REPO|--all] [N|--everybody]`
///
/// # Errors
/// When no repository is named, or stdout cannot be written.
pub fn unhold(context: &Context, args: &cli::UnholdArgs) -> Result<ExitStatus> {
    let names = chosen(context, args.repo.as_deref(), args.all, "unhold")?;
    let scope = match (args.all, args.number) {
        (true, _) => UnholdScope::All,
        (false, Some(number)) => UnholdScope::Number(number),
        (false, None) if args.everybody => UnholdScope::Everybody,
        (false, None) => UnholdScope::Own,
    };
    let (ours, mut code) = helper::ours(context, &names, CommandExtent::Look)?;
    for repo in ours {
        let lift = move |context: &_, repo: &_| operator::unhold(context, repo, scope);
        let outcome = match limits::within(context, &repo, lift) {
            Ok(outcome) => outcome,
            Err(error) => {
                code = code.max(super::print_error(error));
                continue;
            }
        };
        format::print(&unheld(context, &repo, scope, &outcome))?;
    }
    Ok(code)
}

/// What an `unhold` lifted, what still holds, and what is applied next.
fn unheld(
    context: &Context,
    repo: &RepoEntry,
    scope: UnholdScope,
    outcome: &UnholdOutcome,
) -> String {
    let (name, now) = (format::escaped(&repo.name), host::now());
    let lifted: Vec<String> = outcome.lifted.iter().map(lifted).collect();
    let lifted = lifted.join(" and ");
    let mut text = match (lifted.as_str(), outcome.left.is_empty()) {
        ("", true) => format!("{name}: not held\n"),
        ("", false) if scope == UnholdScope::All => format!("{name}: not held by hold --all\n"),
        ("", false) => format!("{name}: nothing lifted, others hold it\n"),
        (lifted, true) => format!("{name}: lifted {lifted}; the next tick continues\n"),
        (lifted, false) => format!("{name}: lifted {lifted}\n"),
    };
    for ListedHold { hold, .. } in &outcome.left {
        let since = format::when(hold.since, now);
        text += &format!("    held {}, since {since}\n", format::held(hold, now));
        text += &format!("    to lift it: agent unhold {name} {}\n", hold.number);
    }
    if outcome.left.len() > 1 {
        text += &format!("    to lift all of them: agent unhold {name} --everybody\n");
    }
    if outcome.left.is_empty() {
        let next = explain::next_steps(context, repo).unwrap_or_default();
        text += &next.iter().map(|sentence| format!("    {sentence}\n")).collect::<String>();
    }
    text
}

fn lifted(it: &ListedHold) -> String {
    let reason = format::escaped(&it.hold.reason);
    match it.kind {
        HoldKind::Order => format!("the hold of {} ({reason})", format::escaped(&it.hold.by)),
        HoldKind::CurrentAction => format!("currentaction.txt, which said: {reason}"),
        HoldKind::Pin => "the pin of a rollback".to_owned(),
    }
}

/// The repositories that an order names; `--all` is needed for all, and fails where there are none.
fn chosen(context: &Context, repo: Option<&str>, all: bool, command: &str) -> Result<Vec<String>> {
    match (repo, all) {
        (Some(name), _) => Ok(vec![name.to_owned()]),
        (None, true) => {
            if discovery::repositories(context)?.is_empty() {
                let root = format::escaped(&context.settings.world.root.display().to_string());
                format::print(&format!(
                    "there is no repository under {root}: agent init URL adds one\n"
                ))?;
            }
            Ok(Vec::new())
        }
        (None, false) => Err(UsageError(format!(
            "which repository?\nhint: agent {command} REPO, or for every one: agent {command} --all"
        ))
        .into()),
    }
}
