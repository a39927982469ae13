//! `agent forget`: ends the work on a repository, and asks before it removes anything.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{confirm, helper};
use crate::cli::ForgetArgs;
use crate::cmd::format;
use crate::domain::repository::state::State;
use crate::engine::context::Context;
use crate::engine::discovery::{self, RepoEntry};
use crate::engine::operator::forget::{self, EntryChange, ForgetExtent, ForgetPlan};
use crate::engine::repository::limits;
use crate::engine::tick;
use crate::engine::tick::user_helper::CommandExtent;
use crate::exit::ExitStatus;
use crate::system::host;

/// `agent forget REPO [--purge]`
///
/// # Errors
/// When an action runs, the configuration cannot be written, or something cannot be removed.
pub fn run(context: &Context, args: &ForgetArgs) -> Result<ExitStatus> {
    let repo = discovery::one(context, &args.repo)?;
    if context.helper_input.is_some() {
        // Root asked already, and changes the configuration.
        limits::within(context, &repo, forget::must_rest)?;
        forget::purge_clone(context, &repo)?;
        return Ok(ExitStatus::Fine);
    }
    if let Some(reason) = &repo.settings.broken {
        bail!("{}: {reason}", repo.name);
    }
    let extent = if args.purge { ForgetExtent::Everything } else { ForgetExtent::Work };
    let (name, plan) = (format::escaped(&repo.name), forget::plan(context, &repo, extent)?);
    if let EntryChange::ByHand(files) = &plan.entry {
        let shown = |file: &PathBuf| format::escaped(&file.display().to_string());
        let files: Vec<_> = files.iter().map(shown).collect();
        format::print(&format!(
            "{name}: its entry was written by hand and is not edited; to forget it, write under \
             [repo.{name}] in {}:\n    active = false\n",
            files.join(" and ")
        ))?;
        return Ok(ExitStatus::Attention);
    }
    rests(context, &repo)?;
    if args.purge && !is_confirmed(&name, &plan, args.yes)? {
        format::print(&format!("{name}: nothing was changed\n"))?;
        return Ok(ExitStatus::Attention);
    }
    forget::change_entry(&plan)?;
    if args.purge {
        let names = std::slice::from_ref(&args.repo);
        let (ours, code) = helper::ours(context, names, CommandExtent::Work)?;
        if code != ExitStatus::Fine {
            return Ok(code);
        }
        ours.iter().try_for_each(|repo| forget::purge_clone(context, repo))?;
        forget::purge_rest(context, &repo, &plan)?;
    }
    format::print(&done(&repo, &plan, args.purge))?;
    Ok(ExitStatus::Fine)
}

/// Fails while an action runs.
fn rests(context: &Context, repo: &RepoEntry) -> Result<()> {
    if host::owns(&repo.path) {
        return limits::within(context, repo, forget::must_rest);
    }
    let status = tick::survey(context, std::slice::from_ref(&repo.name))?;
    if status.repositories.iter().any(|row| row.state == State::Acting) {
        bail!(forget::runs(repo));
    }
    Ok(())
}

/// Lists what is to be removed, and asks on a terminal.
fn is_confirmed(name: &str, plan: &ForgetPlan, yes: bool) -> Result<bool> {
    let mut text = format!("{name}: --purge removes, with all that is in it:\n");
    for path in &plan.purge {
        text += &format!("    {}\n", format::escaped(&path.display().to_string()));
    }
    confirm::is_confirmed(&text, yes, &format!("agent forget {name} --purge --yes"))
}

fn done(repo: &RepoEntry, plan: &ForgetPlan, is_purged: bool) -> String {
    let name = format::escaped(&repo.name);
    let file = format::escaped(&plan.file.display().to_string());
    let clone = format::escaped(&repo.listed.display().to_string());
    match &plan.entry {
        _ if is_purged => format!("{name}: forgotten, and removed\n"),
        EntryChange::Write(_) => format!(
            "{name}: no longer worked on: active = false in {file}; the clone {clone} stays\n"
        ),
        EntryChange::Remove => {
            format!("{name}: no longer worked on: {file} is removed; the clone {clone} stays\n")
        }
        EntryChange::None | EntryChange::ByHand(_) => {
            format!("{name}: it is switched off already; the clone {clone} stays\n")
        }
    }
}
