//! `agent redo`, `rollback`, `hold`, `unhold` and `accept`: what a person steers.

use std::io::IsTerminal;

use anyhow::Result;

use super::{helper, show, tick};
use crate::cli::{self, Global};
use crate::domain::action::Trigger;
use crate::engine::checkout::{self, Way};
use crate::engine::reconcile::Wish;
use crate::engine::tick::Orders;
use crate::engine::{Here, roster, steer};
use crate::exit::{Code, Usage};
use crate::system::{node, process};

/// `agent redo REPO`
///
/// # Errors
/// When it is not known or held.
pub fn redo(here: &Here, global: &Global, args: &cli::Redo) -> Result<Code> {
    let (ours, code) = helper::ours(here, std::slice::from_ref(&args.repo))?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    steer::must_not_be_held(here, repo)?;
    in_foreground(here, global, &repo.name, Trigger::Redo, Wish::Redo)
}

/// `agent rollback REPO [REVISION]`
///
/// # Errors
/// When there is nothing to go back to, or it is held.
pub fn rollback(here: &Here, global: &Global, args: &cli::Rollback) -> Result<Code> {
    let (ours, code) = helper::ours(here, std::slice::from_ref(&args.repo))?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    steer::must_not_be_held(here, repo)?;
    let revision = steer::rollback_target(here, repo, args.revision.as_deref())?;
    let name = show::escaped(&repo.name);
    show::print(&format!(
        "{name}: going back to {}; it stays there until: agent unhold {name}\n",
        revision.short()
    ))?;
    in_foreground(here, global, &repo.name, Trigger::Rollback, Wish::Rollback(revision))
}

/// `agent accept REPO REVISION`
///
/// # Errors
/// When upstream has another revision, or it is held.
pub fn accept(here: &Here, global: &Global, args: &cli::Accept) -> Result<Code> {
    let (ours, code) = helper::ours(here, std::slice::from_ref(&args.repo))?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    steer::must_not_be_held(here, repo)?;
    let revision = steer::acceptable(here, repo, &args.revision)?;
    in_foreground(here, global, &repo.name, Trigger::Manual, Wish::Accept(revision))
}

/// `agent checkout REPO REF [--to DIR]`
///
/// # Errors
/// When there is no such ref, it is held, or it cannot be shown there.
pub fn checkout(here: &Here, global: &Global, args: &cli::Checkout) -> Result<Code> {
    if let Some(to) = args.to.as_deref().filter(|to| to.is_absolute()) {
        // Before somebody else does it for us, who knows of fewer repositories.
        checkout::free_place(here, to)?;
    }
    let (ours, code) = helper::ours(here, std::slice::from_ref(&args.repo))?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    steer::must_not_be_held(here, repo)?;
    let to = match &args.to {
        // Whoever works for root has left the folder that root was in.
        Some(to) if to.is_relative() && here.parcel.is_some() => {
            return Err(Usage(format!(
                "--to {}: this is done as {}, in no folder of yours\nhint: write the whole path",
                show::escaped(&to.display().to_string()),
                here.node.user.name
            ))
            .into());
        }
        Some(to) => Some(std::path::absolute(to)?),
        None => None,
    };
    let (choice, way) = checkout::checkout(here, repo, &args.reference, to.as_deref())?;
    let name = show::escaped(&repo.name);
    match way {
        Way::Pin(revision) => {
            show::print(&format!(
                "{name}: going to {}; it stays there until: agent unhold {name}\n",
                revision.short()
            ))?;
            in_foreground(here, global, &repo.name, Trigger::Rollback, Wish::Rollback(revision))
        }
        Way::Shown(path) => {
            let path = show::escaped(&path.display().to_string());
            let (shown, revision) = (show::escaped(&choice.name), choice.revision.short());
            show::print(&format!("{name}: {path} shows {shown} ({revision})\n"))?;
            Ok(Code::Fine)
        }
    }
}

/// Works on one repository while a person waits, and shows what its scripts print.
fn in_foreground(
    here: &Here,
    global: &Global,
    name: &str,
    trigger: Trigger,
    wish: Wish,
) -> Result<Code> {
    if std::io::stdout().is_terminal() {
        process::tell_on_interrupt(
            "\nNo longer waiting; the action goes on and is recorded: agent status\n",
        )?;
    }
    let orders = Orders { names: vec![name.to_owned()], trigger, dry_run: false, wait: true, wish };
    let before = steer::latest_log(here, name);
    let code = tick::perform(here, global, &orders)?;
    if code == Code::Fine && steer::latest_log(here, name) != before && !global.quiet {
        let lines = steer::log_tail(here, name, 1000);
        let lines = lines.iter().map(|line| format!("{}\n", show::escaped(line)));
        show::print(&lines.collect::<String>())?;
    }
    Ok(code)
}

/// `agent hold [REPO|--all] [REASON] [--until DUR]`
///
/// # Errors
/// When nothing is named, or it cannot be written.
pub fn hold(here: &Here, args: &cli::Hold) -> Result<Code> {
    let names = chosen(here, args.repo(), args.all, "hold")?;
    let reason = args.reason().unwrap_or_else(|| "no reason given".to_owned());
    let now = node::now();
    let until = args.until.map(|length| now + length);
    let (ours, mut code) = helper::ours(here, &names)?;
    for repo in ours {
        // One that cannot be held must not leave the others acting.
        if let Err(error) = steer::hold(here, &repo, &reason, until) {
            code = code.max(super::tell(error));
            continue;
        }
        let name = show::escaped(&repo.name);
        let until = until.map_or_else(
            || format!("until: agent unhold {name}"),
            |until| format!("ends {}", show::when(until, now)),
        );
        show::print(&format!("{name}: held ({}), {until}\n", show::escaped(&reason)))?;
    }
    Ok(code)
}

/// `agent unhold [REPO|--all]`
///
/// # Errors
/// When nothing is named, or something cannot be removed.
pub fn unhold(here: &Here, args: &cli::Unhold) -> Result<Code> {
    let names = chosen(here, args.repo.as_deref(), args.all, "unhold")?;
    let (ours, mut code) = helper::ours(here, &names)?;
    for repo in ours {
        let lifted = match steer::unhold(here, &repo) {
            Ok(lifted) => lifted,
            Err(error) => {
                code = code.max(super::tell(error));
                continue;
            }
        };
        let name = show::escaped(&repo.name);
        let mut said = Vec::new();
        if let Some(hold) = &lifted.hold {
            said.push(format!(
                "the hold of {} ({})",
                show::escaped(&hold.by),
                show::escaped(&hold.reason)
            ));
        }
        if lifted.pinned {
            said.push("the pin of a rollback".to_owned());
        }
        if let Some(current) = &lifted.current {
            let text = show::escaped(current.text.trim());
            said.push(format!("currentaction.txt, which said: {text}"));
        }
        let line = match said.as_slice() {
            [] => format!("{name}: nothing held it\n"),
            said => format!("{name}: lifted {}; the next tick goes on\n", said.join(" and ")),
        };
        show::print(&line)?;
    }
    Ok(code)
}

/// The names that an order is about; stopping everything takes a word, and says where there is nothing.
fn chosen(here: &Here, repo: Option<&str>, all: bool, command: &str) -> Result<Vec<String>> {
    match (repo, all) {
        (Some(name), _) => Ok(vec![name.to_owned()]),
        (None, true) => {
            if roster::repositories(here)?.is_empty() {
                let root = show::escaped(&here.settings.world.root.display().to_string());
                show::print(&format!(
                    "there is no repository under {root}: agent init URL adds one\n"
                ))?;
            }
            Ok(Vec::new())
        }
        (None, false) => Err(Usage(format!(
            "which repository?\nhint: agent {command} REPO, or for every one: agent {command} --all"
        ))
        .into()),
    }
}
