//! Which ended actions `on_action` has not reported yet, whichever process ran them: a tick, a person's command, or
//! a worker whose tick died. A file beside the status has the last reported run of each repository. Does not know
//! how a run is reported.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::hash;
use crate::domain::repository::action::FinishedRun;
use crate::domain::repository::history::{self, HistoryEntry, ReportedRun};
use crate::domain::repository::status::StatusRow;
use crate::engine::context::Context;
use crate::engine::operator;
use crate::engine::request::RunHistory;
use crate::engine::tick::TickReport;
use crate::system::agent_state::AgentState;

/// The file of the marks.
const REPORTED: &str = "reported-actions.json";
/// The file that the one tick has locked which reports.
const LOCK: &str = "reported-actions.lock";
/// The largest number of runs of one repository that one tick reports; the next one continues.
const MOST: usize = 20;
/// How old a run may be that is reported on a machine without an earlier tick.
const AGO: TimeDelta = TimeDelta::days(1);

/// A repository's name and its ended runs, oldest first.
pub type EndedRuns = (String, Vec<FinishedRun>);

/// What was reported of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReportMark {
    /// Runs that ended earlier are not reported: there was no program yet.
    since: DateTime<Utc>,
    /// The last reported run.
    last: Option<ReportedRun>,
    /// The hash of its row when its history was last read: while the row is the same, there is nothing new.
    row: Option<u64>,
}

/// Lets `tell` report each action that ended and was not reported, one after the other and in one process of the
/// machine at a time. While another tick reports, this one leaves it to the next.
///
/// # Errors
/// When the marks cannot be written.
pub fn tell(
    context: &Context,
    done: &TickReport,
    tell: &mut dyn FnMut(&str, &FinishedRun),
) -> Result<()> {
    // A helper has neither the program nor the right to run it.
    let is_wanted = |row: &&StatusRow| {
        let settings = context.settings.of_repo(&row.name);
        !settings.on_action.is_empty() && settings.broken.is_none()
    };
    let rows: Vec<&StatusRow> = done.status.repositories.iter().filter(is_wanted).collect();
    if rows.is_empty() || context.helper_input.is_some() {
        return Ok(());
    }
    let machine = AgentState::at(&context.settings.world.state);
    let read = || machine.read::<BTreeMap<String, ReportMark>>(REPORTED).unwrap_or_default();
    let is_new = |marks: &BTreeMap<String, ReportMark>, row: &StatusRow| {
        marks.get(&row.name).and_then(|mark| mark.row) != Some(hash(row)) || worked(done, &row.name)
    };
    let marks = read();
    if !rows.iter().any(|row| is_new(&marks, row)) {
        return Ok(());
    }
    let Some(_lock) = machine.lock_within(LOCK, Duration::ZERO)? else { return Ok(()) };
    let mut marks = read();
    let rows: Vec<&StatusRow> = rows.into_iter().filter(|row| is_new(&marks, row)).collect();
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let since = done.before.unwrap_or(done.status.at - AGO);
    for row in &rows {
        let mark = ReportMark { since, last: None, row: None };
        marks.entry(row.name.clone()).or_insert(mark);
    }
    machine.put(REPORTED, &marks)?;
    let mut unfinished = Vec::new();
    for (name, runs) in ended_runs(operator::histories(context, &names)?) {
        let Some(mark) = marks.get(&name).cloned() else { continue };
        let news = history::unreported(&runs, mark.last.as_ref(), mark.since);
        if news.len() > MOST {
            unfinished.push(name.clone());
        }
        for run in news.iter().take(MOST) {
            tell(&name, run);
            let last = Some(ReportedRun::of(run));
            marks.insert(name.clone(), ReportMark { last, ..mark.clone() });
            machine.put(REPORTED, &marks)?;
        }
    }
    // Last, so that a tick that dies before loses nothing. A history that cannot be read is not read again before
    // its row changes.
    for row in rows {
        if let Some(mark) = marks.get_mut(&row.name) {
            mark.row = Some(hash(row)).filter(|_| !unfinished.contains(&row.name));
        }
    }
    machine.put(REPORTED, &marks)
}

fn worked(done: &TickReport, name: &str) -> bool {
    done.decisions.iter().any(|(worked, plan)| worked == name && plan.is_work())
}

fn hash(row: &StatusRow) -> u64 {
    // A row always serializes.
    hash::stable(&[&serde_json::to_vec(&standing(row)).unwrap_or_default()])
}

/// The row without the fields that change without an action.
pub fn standing(row: &StatusRow) -> StatusRow {
    StatusRow { asked: None, upstream: None, ..row.clone() }
}

/// The ended runs of `histories`. A history that cannot be read shows in the repository's row.
pub fn ended_runs(histories: Vec<RunHistory>) -> Vec<EndedRuns> {
    let runs_of = |entries: Vec<HistoryEntry>| {
        entries.iter().filter_map(|entry| entry.run().cloned()).collect()
    };
    let ended = |(name, entries): RunHistory| Some((name, runs_of(entries.ok()?)));
    histories.into_iter().filter_map(ended).collect()
}
