//! The fleet as text for people: how many machines are in which state, what needs a person, and who runs what.

use chrono::{DateTime, Utc};
use comfy_table::Cell;

use crate::cmd::format;
use crate::domain::fleet::{Fleet, JudgedMember, MatrixRow, Said, SignClock, Verdict};
use crate::domain::git::Remote;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::report::presence::{PresenceHold, PresenceRow};
use crate::domain::repository::state::{State, Tone};
use crate::domain::text::{counted, thousands};

/// The most machines whose trouble is described, unless all is asked for.
const MOST_DESCRIBED: usize = 20;

/// The index of the column with names, which may be cut.
const NAMES: usize = 2;

/// The whole text.
pub fn text(
    fleet: &Fleet,
    remote: &Remote,
    others: usize,
    is_verbose: bool,
    width: Option<u16>,
) -> String {
    let groups = fleet.by_verdict();
    let mut lines = format::wrapped(&headline(fleet, remote, others), "", width);
    for ((repository, branch), wanted) in fleet.wanted() {
        let branch = branch.map_or(String::new(), |it| format!("{} is ", format::escaped(it)));
        let subject = fleet.subject(repository, wanted.revision);
        let subject = subject.map_or(String::new(), |it| format!(" {}", format::escaped(it)));
        let line = format!(
            "{}: {branch}{}{subject}",
            format::escaped(repository),
            wanted.revision.short()
        );
        lines.extend(format::wrapped(&line, "", width));
    }
    let section = |lines: &mut Vec<String>, more: Vec<String>| {
        if !more.is_empty() {
            lines.push(String::new());
            lines.extend(more);
        }
    };
    section(&mut lines, counts(&groups, fleet.at, width));
    section(&mut lines, described(fleet, is_verbose, width));
    section(&mut lines, matrix(fleet, width));
    lines.push(String::new());
    lines.join("\n")
}

fn headline(fleet: &Fleet, remote: &Remote, others: usize) -> String {
    let machines = match fleet.machines.len() {
        0 => "no machine".to_owned(),
        count => counted(count, "machine"),
    };
    let mut parts = vec![remote.to_string(), machines];
    if others > 0 {
        parts.push(format!("{} other branches", thousands(others)));
    }
    parts.join(" · ")
}

/// All verdicts in one line: `3 failing, 11 behind, 982 current`.
pub fn tally(groups: &[(Verdict, Vec<&JudgedMember>)]) -> String {
    let count =
        |(verdict, group): &(Verdict, Vec<_>)| format!("{} {}", group.len(), verdict.as_str());
    groups.iter().map(count).collect::<Vec<_>>().join(", ")
}

/// A line for each verdict: how many machines, and which.
fn counts(
    groups: &[(Verdict, Vec<&JudgedMember>)],
    now: DateTime<Utc>,
    width: Option<u16>,
) -> Vec<String> {
    let rows = groups.iter().map(|(verdict, group)| {
        let tone = group.iter().map(|it| it.tone).min().unwrap_or(Tone::Dim);
        let mut names = names(group);
        let last = group.iter().filter_map(|it| it.silence).map(|it| it.since).max();
        if let (Verdict::Silent, Some(last)) = (verdict, last) {
            names = format!("no sign for {} · {names}", format::span(now - last));
        }
        let count =
            Cell::new(thousands(group.len())).set_alignment(comfy_table::CellAlignment::Right);
        vec![format::toned(verdict.as_str(), tone), count, Cell::new(names)]
    });
    format::table(rows.collect(), NAMES, width)
}

fn names(group: &[&JudgedMember]) -> String {
    group.iter().map(|it| it.member.name.short()).collect::<Vec<_>>().join(" ")
}

/// A line for each thing that a person should know, and for each machine where all is asked for.
fn described(fleet: &Fleet, is_verbose: bool, width: Option<u16>) -> Vec<String> {
    let now = fleet.at;
    let mut lines: Vec<String> = Vec::new();
    let mut left_out = 0;
    let mut described = 0;
    for machine in &fleet.machines {
        let about = about(machine, is_verbose, now);
        if about.is_empty() {
            continue;
        }
        described += 1;
        if described > MOST_DESCRIBED && !is_verbose {
            left_out += 1;
            continue;
        }
        let name = machine.member.name.short();
        lines.extend(
            about.iter().flat_map(|it| format::wrapped(&format!("{name}: {it}"), "", width)),
        );
    }
    if left_out > 0 {
        lines.push(format!("and {left_out} more: agent fleet -v"));
    }
    lines
}

/// What a person should know of a machine.
fn about(machine: &JudgedMember, is_verbose: bool, now: DateTime<Utc>) -> Vec<String> {
    let mut about = Vec::new();
    if let Said::Unreadable(why) = &machine.member.sighting.said {
        about.push(format!("unreadable: {}", format::escaped(why)));
    }
    let Some(presence) = machine.member.presence() else { return about };
    if is_verbose {
        let mut facts = vec![format!("agent {}", format::escaped(&presence.agent))];
        let words = [("part", &presence.part), ("stack", &presence.stack)];
        for (key, value) in words {
            facts.extend(value.as_deref().map(|value| format!("{key} {}", format::escaped(value))));
        }
        facts.push(format!("published {}", format::when(presence.at, now)));
        about.push(facts.join(", "));
    }
    if let Some(contested) = &presence.contested {
        let name = machine.member.name.short();
        let report = ErrorReport::parse(&contested.sentence(&presence.id, &name));
        about.push(format!("contested: {}", format::escaped(&report.sentence())));
        about.extend(report.hint().map(|hint| format!("hint: {}", format::escaped(&hint))));
    }
    if let Some(silence) = machine.silence.filter(|_| machine.tone == Tone::Bad || is_verbose) {
        let doubt = if silence.clock == SignClock::Machine { "?" } else { "" };
        about.push(format!("silent: no sign since {}{doubt}", format::when(silence.since, now)));
    }
    let is_told = |row: &&PresenceRow| {
        is_verbose || row.tone(now) == Tone::Bad || !row.holds.is_empty() || row.drifted > 0
    };
    about.extend(machine.rows.iter().filter(is_told).map(|row| line(row, now)));
    about
}

/// A repository in one line.
fn line(row: &PresenceRow, now: DateTime<Utc>) -> String {
    let mut parts =
        vec![format!("{} {}", format::escaped(&row.name), format::escaped(row.state.as_str()))];
    if let Some(acted) = &row.acted {
        let subject = acted.subject.as_deref().map_or(String::new(), |it| format!(" {it}"));
        parts.push(format!("at {}{}", acted.revision.short(), format::escaped(&subject)));
    }
    parts.extend(row.since.map(|since| format!("since {}", format::when(since, now))));
    let mut text = parts.join(" ");
    let is_held = matches!(row.state.known(), Some(State::Held | State::Pinned));
    let reason = row.reason.as_deref().filter(|_| !is_held || row.holds.is_empty());
    if let Some(reason) = reason {
        text += &format!(": {}", format::reason_and_hint(reason).0);
    }
    match row.drifted {
        0 => {}
        1 => text += "; 1 file differs",
        files => text += &format!("; {files} files differ"),
    }
    for hold in &row.holds {
        text += &format!("; {}", held(hold, now));
    }
    text
}

fn held(hold: &PresenceHold, now: DateTime<Utc>) -> String {
    let until =
        hold.until.map_or(String::new(), |until| format!(" until {}", format::when(until, now)));
    let reason = format::escaped(&hold.reason);
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("held by {}{until}{why}", format::escaped(&hold.by))
}

/// Who runs what, where not all machines run the same.
fn matrix(fleet: &Fleet, width: Option<u16>) -> Vec<String> {
    let mut rows = Vec::new();
    for (repository, cells) in fleet.matrix().into_iter().filter(|(_, cells)| cells.len() > 1) {
        rows.extend(cells.iter().map(|cell| row_of(fleet, repository, cell)));
    }
    format::table(rows, NAMES + 2, width)
}

fn row_of(fleet: &Fleet, repository: &str, cell: &MatrixRow) -> Vec<Cell> {
    let revision = cell.revision.map_or_else(
        || "-".to_owned(),
        |revision| match fleet.subject(repository, revision) {
            Some(subject) => {
                let subject: String = subject.chars().take(40).collect();
                format!("{} {}", revision.short(), format::escaped(&subject))
            }
            None => revision.short(),
        },
    );
    let tone = cell.state.known().map_or(Tone::Open, |state| {
        let rows = cell.machines.iter().flat_map(|machine| &machine.rows);
        let tones = rows.filter(|row| row.name == repository && row.state.known() == Some(state));
        tones.map(|row| row.tone(fleet.at)).min().unwrap_or(Tone::Dim)
    });
    vec![
        Cell::new(format::escaped(repository)),
        Cell::new(revision),
        format::toned(&format::escaped(cell.state.as_str()), tone),
        Cell::new(thousands(cell.machines.len())).set_alignment(comfy_table::CellAlignment::Right),
        Cell::new(names(&cell.machines)),
    ]
}
