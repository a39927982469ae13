//! `agent fleet --wait`: looks again and again until machines run a revision, and prints what changed.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::look;
use crate::cli::FleetArgs;
use crate::cmd::format;
use crate::domain::fleet::wait::{self, WaitGoal, WaitOutcome};
use crate::domain::fleet::{Fleet, NamePattern};
use crate::domain::git::Commit;
use crate::engine::context::Context;
use crate::engine::fleet::{RevisionGraph, StatusRepository};
use crate::exit::ExitStatus;
use crate::system::host::{self, since_boot};

/// The time between two looks at a few machines.
const INTERVAL: Duration = Duration::from_secs(5);
/// For this many machines more, a second more.
const FOR_A_SECOND: usize = 1_000;
/// The most machines that one line names.
const MOST_NAMED: usize = 3;

/// Waits until the selected machines run `revision` of `repo`.
///
/// # Errors
/// When the revision is not known, or the status repository cannot be read for the whole time.
pub fn run(
    context: &Context,
    status: &StatusRepository,
    args: &FleetArgs,
    repo: &str,
    revision: &str,
) -> Result<ExitStatus> {
    let deadline = since_boot() + args.timeout;
    let name = NamePattern::exactly(repo);
    let mut fleet = look(context, status, args, std::slice::from_ref(&name))?.0;
    let graph = graph(args.clone.as_deref())?;
    let goal = WaitGoal {
        repo: repo.to_owned(),
        revision: revision_of(revision, &fleet, graph.as_ref())?,
        stable: chrono::Duration::from_std(args.stable).context("--stable is too long")?,
        ignored: args.ignore.iter().copied().collect(),
    };
    if graph.is_none() {
        format::print(&format!(
            "no clone here tells what descends from {}: only this revision itself counts\n",
            goal.revision.short()
        ))?;
    }
    let includes = |other: Commit| match &graph {
        Some(graph) => graph.includes(other, goal.revision),
        None => other == goal.revision,
    };
    let mut said = String::new();
    loop {
        let now = match wait::outcome(&fleet, &goal, &includes) {
            WaitOutcome::Reached(count, left_out) => {
                let left_out = match left_out.as_slice() {
                    [] => String::new(),
                    names => format!("; left out: {}", names.join(", ")),
                };
                let machines = if count == 1 { "machine runs" } else { "machines run" };
                format::print(&format!(
                    "{count} {machines} {}{left_out}\n",
                    goal.revision.short()
                ))?;
                return Ok(ExitStatus::Fine);
            }
            WaitOutcome::Over(why) => {
                let lines: String = why.iter().map(|line| format!("{line}\n")).collect();
                format::print(&lines)?;
                return Ok(ExitStatus::Attention);
            }
            WaitOutcome::Pending { done, waiting } => pending(done, &waiting),
        };
        if since_boot() >= deadline {
            format::print(&format!("the time is over: {now}\n"))?;
            return Ok(ExitStatus::Attention);
        }
        if now != said {
            format::print(&format!("{} {now}\n", format::clock(host::now(), host::now())))?;
            said = now;
        }
        let pause = INTERVAL + Duration::from_secs((fleet.machines.len() / FOR_A_SECOND) as u64);
        thread::sleep(pause.min(deadline.saturating_sub(since_boot())));
        match look(context, status, args, std::slice::from_ref(&name)) {
            Ok((next, _)) => fleet = next,
            // The server may come back before the time is over.
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

/// How far the machines are, in one line.
fn pending(done: usize, waiting: &[(String, String)]) -> String {
    let named = waiting.iter().take(MOST_NAMED).map(|(name, why)| format!("{name} ({why})"));
    let mut named: Vec<String> = named.collect();
    if waiting.len() > MOST_NAMED {
        named.push(format!("and {} more", waiting.len() - MOST_NAMED));
    }
    format!("{done} of {} done; not yet: {}", done + waiting.len(), named.join(", "))
}

/// The history that tells what descends from what; `None`: there is no clone here, and none was named.
fn graph(clone: Option<&Path>) -> Result<Option<RevisionGraph>> {
    match clone {
        Some(path) => Ok(Some(RevisionGraph::of(path)?)),
        None => {
            let here: Option<PathBuf> = std::env::current_dir().ok();
            Ok(here.and_then(|here| here.ancestors().find_map(|path| RevisionGraph::of(path).ok())))
        }
    }
}

/// The revision that `text` names: in the clone, a whole id, or the beginning of one that some machine names.
fn revision_of(text: &str, fleet: &Fleet, graph: Option<&RevisionGraph>) -> Result<Commit> {
    if let Some(found) = graph.and_then(|graph| graph.resolve(text)) {
        return Ok(found);
    }
    if let Ok(whole) = text.parse() {
        return Ok(whole);
    }
    let rows = fleet.machines.iter().flat_map(|machine| &machine.rows);
    let named = rows.flat_map(|row| {
        [row.upstream, row.acted.as_ref().map(|acted| acted.revision)].into_iter().flatten()
    });
    let mut found: Vec<Commit> =
        named.filter(|it| text.len() >= 4 && it.to_string().starts_with(text)).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(*one),
        _ => bail!(
            "{}: neither a clone nor a machine knows this revision\nhint: write the whole id, or name a clone: --in DIR",
            format::escaped(text)
        ),
    }
}
