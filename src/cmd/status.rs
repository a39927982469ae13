//! `agent status`: prints which revision each repository deployed, since when, and why it is not newer;
//! for people, programs, shell prompts and monitoring. Takes the status from the engine and asks no remote.
//! People also get a warning about a loop that pulls the same clones.

use std::cmp::Reverse;
use std::io::IsTerminal as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use chrono::{DateTime, Utc};
use comfy_table::Cell;

use super::schedule;
use crate::cli::{self, GlobalArgs, StatusForm};
use crate::cmd::format;
use crate::config::AgentDirs;
use crate::domain::followed;
use crate::domain::repository::gaps::ContentGaps;
use crate::domain::repository::state::{Severity, State, Tone};
use crate::domain::repository::status::{
    LastDeployed, MachineStatus, PresenceReport, PublishedRef, ReactionReport, StatusRow,
};
use crate::engine::context::Context;
use crate::engine::discovery::{self, safe_paths};
use crate::engine::run::log;
use crate::engine::{error, tick};
use crate::exit::ExitStatus;

/// The amount of detail in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailLevel {
    /// A line for each repository, with the reason where it needs attention.
    Brief,
    /// All details.
    Full,
}

/// The output format.
enum StatusFormat<'a> {
    /// Text, for people.
    Text(TextForm<'a>),
    /// JSON, for programs.
    Json,
    /// One line, for a shell prompt.
    Oneline,
    /// Plug-in output, for monitoring.
    Nagios,
}

/// The form of the text for people.
#[derive(Clone, Copy)]
pub struct TextForm<'a> {
    /// The amount of detail.
    pub detail: DetailLevel,
    /// Whether to list only what is not as it should be.
    pub problems_only: bool,
    /// The columns of the terminal; `None`: there is none.
    pub width: Option<u16>,
    /// The last lines of a failing script's output, where they may be read.
    pub output: &'a dyn Fn(&StatusRow) -> Vec<String>,
}

impl TextForm<'_> {
    /// All repositories in brief, without output of scripts.
    pub fn brief(width: Option<u16>) -> Self {
        let (detail, problems_only) = (DetailLevel::Brief, false);
        Self { detail, problems_only, width, output: &|_| Vec::new() }
    }
}

/// The time between two looks with `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);

/// The lines of a failing script's output that are shown.
const QUOTED: usize = 3;

/// `agent status`
///
/// # Errors
/// When there is no status, except for monitoring, which prints that; when stdout cannot be written.
pub fn run(context: &Context, global: &GlobalArgs, args: &cli::StatusArgs) -> Result<ExitStatus> {
    if !args.watch {
        return once(context, global, args);
    }
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        // To the upper left corner, and nothing below it.
        format::print(if is_terminal { "\u{1b}[H\u{1b}[J" } else { "\n" })?;
        once(context, global, args)?;
        thread::sleep(INTERVAL);
    }
}

fn once(context: &Context, global: &GlobalArgs, args: &cli::StatusArgs) -> Result<ExitStatus> {
    let own =
        discovery::selected(context, &args.repos).and_then(|names| tick::survey(context, &names));
    // A user without own repositories wants the machine's status.
    let guest = context.node.user.uid != 0 && !context.settings.world.own;
    let without = own.as_ref().map_or(true, |own| own.repositories.is_empty());
    let machine = (guest && without).then(|| tick::machine_status(&args.repos)).flatten();
    let is_own = machine.is_none();
    let status = match machine {
        Some(machine) => machine,
        None => own?,
    };
    let mut people = schedule::loop_upon_ours(context);
    for (key, argv) in context.settings.programs() {
        let fault = safe_paths::own_program_fault(context, key, argv);
        if let Some(fault) = fault.filter(|_| global.verbose) {
            people += &format!("{}\n", format::escaped(&error::one_line(&fault)));
        }
    }
    if is_own && (status.last_tick.is_none() || silence(&status, status.at).is_some()) {
        people = schedule::no_ticks(context) + &people;
    }
    // Only who may read the log sees it, so it is in no file and no JSON.
    let output = |row: &StatusRow| match is_own {
        true => log::telling_tail(context, row, QUOTED),
        false => Vec::new(),
    };
    print_status(&status, form(global, args, &output), &people)
}

/// `agent status` for a user who may not read this configuration: prints the status file of the last tick.
///
/// # Errors
/// Returns `error` where no tick left a status, or it lacks the named repositories.
pub fn from_outside(
    error: Error,
    world: &AgentDirs,
    global: &GlobalArgs,
    args: &cli::StatusArgs,
) -> Result<ExitStatus> {
    match tick::last_status(world, &args.repos) {
        Some(status) => print_status(&status, form(global, args, &|_| Vec::new()), ""),
        None if args.form.nagios => unknown(&error),
        None => Err(error),
    }
}

fn form<'a>(
    global: &GlobalArgs,
    args: &cli::StatusArgs,
    output: &'a dyn Fn(&StatusRow) -> Vec<String>,
) -> StatusFormat<'a> {
    let detail = if global.verbose { DetailLevel::Full } else { DetailLevel::Brief };
    match &args.form {
        StatusForm { json: true, .. } => StatusFormat::Json,
        StatusForm { oneline: true, .. } => StatusFormat::Oneline,
        StatusForm { nagios: true, .. } => StatusFormat::Nagios,
        _ => StatusFormat::Text(TextForm {
            detail,
            problems_only: args.problems,
            width: format::width(),
            output,
        }),
    }
}

/// Prints `status`, followed by the text `people` in the text format.
fn print_status(status: &MachineStatus, form: StatusFormat, people: &str) -> Result<ExitStatus> {
    format::print(&match form {
        StatusFormat::Text(form) => text(status, form, status.at) + people,
        StatusFormat::Json => json(status)?,
        StatusFormat::Oneline => oneline(status, status.at),
        StatusFormat::Nagios => {
            let known = status.last_tick.is_some() || !status.repositories.is_empty();
            let (text, code) = nagios(known.then_some(status));
            format::print(&text)?;
            return Ok(ExitStatus::Monitoring(code));
        }
    })?;
    Ok(exit_code(status))
}

/// The monitoring output for an unusable configuration: unknown, and why.
///
/// # Errors
/// When stdout cannot be written.
pub fn unknown(error: &Error) -> Result<ExitStatus> {
    let why = format!("{error:#}").replace('|', "/");
    let why = format::escaped(why.lines().next().unwrap_or_default());
    format::print(&format!("PMPY UNKNOWN - {why}\n"))?;
    Ok(ExitStatus::Monitoring(3))
}

/// The exit code: 1 when a repository needs attention, or ticks no longer come, else 0.
pub fn exit_code(status: &MachineStatus) -> ExitStatus {
    let is_trouble = status.repositories.iter().any(|row| row.needs_attention(status.at));
    match is_trouble || silence(status, status.at).is_some() {
        true => ExitStatus::Attention,
        false => ExitStatus::Fine,
    }
}

/// The text for people, at `now`: the machine, how many repositories are in which state, and each repository,
/// the worst first.
pub fn text(status: &MachineStatus, form: TextForm, now: DateTime<Utc>) -> String {
    let mut lines = format::wrapped(&headline(status, now), "", form.width);
    if status.repositories.len() > 1 {
        lines.extend(format::wrapped(&tally(&status.repositories), "", form.width));
    }
    if let (Some(report), DetailLevel::Full) = (&status.presence, form.detail) {
        lines.extend(format::wrapped(&presence(report, now), "", form.width));
        if let Some(report) = &report.on_change {
            lines.extend(format::wrapped(&reaction(report, now), "", form.width));
        }
    }
    for warning in warnings(status, now) {
        lines.extend(format::wrapped(&warning, "", form.width));
    }
    let mut rows: Vec<_> = status.repositories.iter().collect();
    if form.problems_only {
        rows.retain(|row| matches!(row.tone(now), Tone::Bad | Tone::Open));
    }
    rows.sort_by_key(|row| (row.tone(now), Reverse(row.severity(now))));
    if !rows.is_empty() {
        lines.push(String::new());
    }
    let table = rows.iter().map(|row| cells(row, form.width, now)).collect();
    for (row, line) in rows.iter().zip(format::table(table, SUBJECT, form.width)) {
        lines.push(line);
        for below in below(row, &form, status.last_tick, now) {
            // A command in a hint is copied: the terminal itself breaks the line, without a line feed.
            let width = form.width.filter(|_| !below.starts_with("hint: "));
            lines.extend(format::wrapped(&below, "    ", width));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What is printed below the line of a repository.
fn below(
    row: &StatusRow,
    form: &TextForm,
    last_tick: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<String> {
    let is_full = form.detail == DetailLevel::Full;
    let mut lines = Vec::from_iter(format::details(row, now));
    let hint = row.reason.as_deref().and_then(|reason| format::reason_and_hint(reason).1);
    lines.extend(hint.map(|hint| format!("hint: {hint}")));
    if matches!(row.hidden_state().unwrap_or(row.state), State::Failing | State::RolledBack) {
        let output = (form.output)(row);
        lines.extend(output.iter().map(|line| format!("| {}", format::escaped(line))));
    }
    if is_full {
        lines.extend(facts(row, last_tick, now));
    }
    let listed = row
        .published
        .iter()
        .filter(|entry| is_full || (entry.state, &entry.reason) != (State::Current, &None));
    lines.extend(listed.map(published));
    lines
}

/// The whole status as one JSON object.
///
/// # Errors
/// When the JSON cannot be made, which does not happen for a tick's status.
pub fn json(status: &MachineStatus) -> Result<String> {
    let text = serde_json::to_string_pretty(status).context("cannot write the status as JSON")?;
    Ok(text + "\n")
}

/// The status in one line: `spog current 1234abc 7 min ago · ops failing (attempt 3)`.
pub fn oneline(status: &MachineStatus, now: DateTime<Utc>) -> String {
    let mut parts = Vec::new();
    parts.extend(silence(status, now));
    if status.repositories.is_empty() {
        parts.push("no repository".to_owned());
    }
    parts.extend(status.repositories.iter().map(|row| {
        let name = format::escaped(&row.name);
        if row.attempt > 0 {
            return format!("{name} {} (attempt {})", row.shown_state(), row.attempt);
        }
        let revision =
            row.acted.as_ref().map_or(String::new(), |acted| format!(" {}", acted.named()));
        format!("{name} {}{revision} {}", row.shown_state(), format::ago(row.since, now))
    }));
    parts.join(" · ") + "\n"
}

/// The monitoring output: one line with performance data, and the exit code: 0 fine, 1 warning, 2
/// critical, 3 unknown (`None`, or no tick has ever run).
pub fn nagios(status: Option<&MachineStatus>) -> (String, u8) {
    let Some((status, last_tick)) = status.and_then(|status| Some((status, status.last_tick?)))
    else {
        return ("PMPY UNKNOWN - no tick has run on this machine\n".to_owned(), 3);
    };
    let now = status.at;
    let rows = &status.repositories;
    let mut troubles: Vec<(Severity, String)> = rows
        .iter()
        .map(|row| (row.severity(now), trouble(row)))
        .filter(|(severity, _)| *severity > Severity::Ok)
        .collect();
    troubles.extend(silence(status, now).map(|silence| (Severity::Critical, silence)));
    if rows.is_empty() {
        let nothing = format!("no repository under {}", format::escaped(&status.root));
        troubles.push((Severity::Warning, nothing));
    }
    // A stable sort: by name within a severity.
    troubles.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));

    let (word, code) = match troubles.first().map(|(severity, _)| severity) {
        None | Some(Severity::Ok) => ("OK", 0),
        Some(Severity::Warning) => ("WARNING", 1),
        Some(Severity::Critical) => ("CRITICAL", 2),
    };
    let summary = match troubles.as_slice() {
        [] => tally(rows),
        troubles => {
            let listed: Vec<_> = troubles.iter().take(5).map(|(_, text)| text.as_str()).collect();
            let more = match troubles.len() - listed.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            listed.join("; ") + &more
        }
    };
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    let attention = rows.iter().filter(|row| row.needs_attention(now)).count();
    let text = format!(
        "PMPY {word} - {} | repositories={};;;0 attention={attention};;;0 failing={};;;0 \
         held={};;;0 last_tick={}s;;{};0\n",
        // A bar would begin the performance data.
        summary.replace('|', "/"),
        rows.len(),
        count(State::Failing),
        count(State::Held),
        (now - last_tick).num_seconds().max(0),
        MachineStatus::longest_silence().num_seconds(),
    );
    (text, code)
}

/// The line about the machine and its last tick.
fn headline(status: &MachineStatus, now: DateTime<Utc>) -> String {
    let mut parts = vec![format::escaped(&status.host)];
    parts.extend(status.part.as_deref().map(|part| format!("part {}", format::escaped(part))));
    parts.extend(status.stack.as_deref().map(|stack| format!("stack {}", format::escaped(stack))));
    parts.push(format::escaped(&status.root));
    parts.push(match status.last_tick {
        Some(last) => format!("last tick {}", format::when(last, now)),
        None => "no tick yet".to_owned(),
    });
    parts.join(" · ")
}

/// The line about the publications.
fn presence(report: &PresenceReport, now: DateTime<Utc>) -> String {
    let name = format::escaped(&report.name.replacen("refs/heads/", "", 1));
    match (&report.reason, report.failing_since, report.published) {
        (Some(reason), Some(since), _) => {
            let (reason, hint) = format::reason_and_hint(reason);
            let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
            format!("presence: not published since {}: {reason}{hint}", format::when(since, now))
        }
        (_, _, Some(at)) => {
            format!("presence: published at {name} {}", format::when(at, now))
        }
        (_, _, None) => format!("presence: not yet published at {name}"),
    }
}

/// The line about the program that runs when other machines change.
fn reaction(report: &ReactionReport, now: DateTime<Utc>) -> String {
    let mut parts = vec![match report.ran {
        Some(at) => format!("last ran {}, with {} hosts", format::when(at, now), report.hosts),
        None => "has not run yet".to_owned(),
    }];
    if let (Some(since), Some(reason)) = (report.failing_since, &report.reason) {
        let (reason, hint) = format::reason_and_hint(reason);
        parts.push(format!("fails since {}: {reason}", format::when(since, now)));
        parts.extend(hint);
    }
    if !report.left_out.is_empty() {
        parts.push(format!("left out by name: {}", format::escaped(&report.left_out.join(" "))));
    }
    format!("presence: on_change {}", parts.join("; "))
}

/// Warnings about the whole machine, each with the next command to type.
fn warnings(status: &MachineStatus, now: DateTime<Utc>) -> Vec<String> {
    let mut lines = Vec::new();
    if status.last_tick.is_none() {
        lines.push("warning: no tick has run here, so nothing is pulled".to_owned());
        lines.push("hint: run one now: agent tick; then let cron do it each minute".to_owned());
    } else if let Some(silence) = silence(status, now) {
        lines.push(format!("warning: {silence}, so nothing new is pulled"));
        lines.push("hint: does cron run? To try a tick by hand: agent tick".to_owned());
    }
    if status.repositories.is_empty() {
        lines.push(format!(
            "warning: there is no repository under {}",
            format::escaped(&status.root)
        ));
        lines.push("hint: add one: agent init URL".to_owned());
    }
    lines
}

/// The warning that ticks have stopped; `None`: they have not.
fn silence(status: &MachineStatus, now: DateTime<Utc>) -> Option<String> {
    let age = now - status.last_tick?;
    (age > MachineStatus::longest_silence()).then(|| format!("no tick for {}", format::span(age)))
}

/// The index of the column of [`cells`] that may be cut.
const SUBJECT: usize = 2;

/// The cells of a row: name, state, deployed revision, since when.
fn cells(row: &StatusRow, width: Option<u16>, now: DateTime<Utc>) -> Vec<Cell> {
    let state = row.hidden_state().unwrap_or(row.state);
    let acted = row.acted.as_ref().map(|acted| acted.revision);
    let named = row.acted.as_ref().map(LastDeployed::named);
    // What was tried, beside what was deployed before.
    let tried = row.upstream.filter(|upstream| {
        matches!(state, State::Failing | State::Waiting) && Some(*upstream) != acted
    });
    let shown = named.unwrap_or_else(|| "-".to_owned());
    let subject = row.acted.as_ref().and_then(|acted| acted.subject.as_deref());
    let revision = match (tried, subject) {
        (Some(tried), _) => format!("{shown} -> {}", followed::named(row.tag.as_deref(), tried)),
        (None, Some(subject)) => format!("{shown} {}", format::escaped(subject)),
        (None, None) => shown,
    };
    vec![
        Cell::new(format::escaped(&row.name)),
        format::toned(&row.shown_state(), row.tone(now)),
        Cell::new(revision),
        Cell::new(format::when_fitting(width, row.since, now)),
    ]
}

/// The lines that `-v` adds for a repository.
fn facts(row: &StatusRow, last_tick: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Vec<String> {
    let acted = row.acted.as_ref().map(|acted| {
        let mut parts: Vec<String> =
            acted.tag.as_deref().map(format::escaped).into_iter().collect();
        parts.push(acted.revision.to_string());
        parts.extend(acted.trigger.as_deref().map(format::escaped));
        parts.extend(acted.outcome.as_deref().map(format::escaped));
        parts.extend(acted.seconds.map(|seconds| format!("took {}", format::seconds(seconds))));
        parts.extend(acted.at.map(|at| format::when(at, now)));
        parts.join(", ")
    });
    let signer = row.acted.as_ref().and_then(|acted| acted.signer.as_ref());
    let signer = signer.map(|signer| format::escaped(&signer.to_string()));
    let conditions: Vec<_> = row.conditions.iter().map(|state| state.as_str()).collect();
    let next_try = row.next_try.map(|next| format::when(next, now));
    let facts = [
        ("path", Some(format::escaped(&row.path))),
        ("remote", row.remote.as_deref().map(format::escaped)),
        ("asked", format::last_poll(row, last_tick, now)),
        ("branch", row.branch.as_deref().map(format::escaped)),
        ("tag", row.tag.as_deref().map(format::escaped)),
        ("head", row.head.map(|head| head.to_string())),
        ("upstream", row.upstream.map(|upstream| upstream.to_string())),
        ("acted", acted),
        ("signed by", signer),
        ("conditions", Some(conditions.join(", "))),
        ("attempt", (row.attempt > 0).then(|| row.attempt.to_string())),
        ("next try", next_try),
    ];
    let gaps = row.gaps.iter().flat_map(ContentGaps::sentences);
    let gaps = gaps.map(|sentence| ("left out", Some(format::escaped(&sentence))));
    let left = row.left.iter().map(|left| ("kept", Some(format::escaped(&left.sentence()))));
    let drifted = row.drifted.iter().flat_map(|found| {
        let compared = found.revision.map_or_else(
            || format::when(found.at, now),
            |of| format!("with {}, {}", of.short(), format::when(found.at, now)),
        );
        let files = format::drifted(found).into_iter().map(|file| ("drifted", Some(file)));
        std::iter::once(("compared", Some(compared))).chain(files)
    });
    let holds = row.holds.iter().map(|hold| {
        let (since, name) = (format::when(hold.since, now), format::escaped(&row.name));
        let held = format!("{}, since {since}", format::held(hold, now));
        ("hold", Some(format!("{0} {held}; to lift it: agent unhold {name} {0}", hold.number)))
    });
    let ignored = row.ignored_keys.iter().map(|key| ("ignored", Some(format::ignored_key(key))));
    facts
        .into_iter()
        .chain(holds)
        .chain(ignored)
        .chain(drifted)
        .chain(gaps)
        .chain(left)
        .filter_map(|(name, value)| value.map(|value| format!("{name:<11} {value}")))
        .collect()
}

fn published(entry: &PublishedRef) -> String {
    let revision = entry.revision.map_or_else(|| "-".to_owned(), |revision| revision.short());
    let reason = entry
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {}", format::reason_and_hint(reason).0));
    format!(
        "{} {} {revision} at {}{reason}",
        format::escaped(&entry.name),
        entry.state,
        format::escaped(&entry.path)
    )
}

/// The monitoring text for a row that needs attention.
fn trouble(row: &StatusRow) -> String {
    let attempt =
        if row.attempt > 0 { format!(" (attempt {})", row.attempt) } else { String::new() };
    let reason = row
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {}", format::reason_and_hint(reason).0));
    format!("{} {}{attempt}{reason}", format::escaped(&row.name), row.shown_state())
}

/// The count by state: `3 repositories current`, or `3 repositories: 2 current, 1 held`.
fn tally(rows: &[StatusRow]) -> String {
    let counts: Vec<_> = State::ALL
        .into_iter()
        .map(|state| (rows.iter().filter(|row| row.state == state).count(), state))
        .filter(|(count, _)| *count > 0)
        .collect();
    let total = match rows.len() {
        1 => "1 repository".to_owned(),
        n => format!("{n} repositories"),
    };
    match counts.as_slice() {
        [(_, state)] => format!("{total} {state}"),
        counts => {
            let counts: Vec<_> =
                counts.iter().map(|(count, state)| format!("{count} {state}")).collect();
            format!("{total}: {}", counts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
