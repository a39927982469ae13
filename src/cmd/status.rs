//! `agent status`: which revision each repository acted upon, since when, and why it is not newer;
//! for people, programs, shell prompts and monitoring. Reads nothing and asks nobody: the status is
//! handed in. People are also told of a loop that pulls the same clones.

use anyhow::{Context as _, Error, Result};
use chrono::{DateTime, Utc};
use comfy_table::Cell;

use super::{schedule, show};
use crate::cli::{self, Global, StatusForm};
use crate::config::World;
use crate::domain::status::{Published, Row, Severity, State, Status};
use crate::engine::{Here, tick};
use crate::exit::Code;

/// How much to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A line for each repository, and why where it is not fine.
    Brief,
    /// All that is known.
    Full,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text(Detail),
    /// For programs.
    Json,
    /// For a shell prompt.
    Oneline,
    /// For monitoring, by the plug-in convention.
    Nagios,
}

/// `agent status`
///
/// # Errors
/// When there is no status, except for monitoring, which is told so; when stdout cannot be written.
pub fn run(here: &Here, global: &Global, args: &cli::Status) -> Result<Code> {
    let own = tick::survey(here, &args.repos);
    // A user without such repositories wants to know how the machine is.
    let guest = here.node.user.uid != 0 && !here.settings.world.own;
    let without = own.as_ref().map_or(true, |own| own.repositories.is_empty());
    let machine = (guest && without).then(|| tick::machine_status(&args.repos)).flatten();
    let status = match machine {
        Some(machine) => machine,
        None => own?,
    };
    tell(&status, form(global, args), &schedule::loop_upon_ours(here))
}

/// `agent status` for a user who may not read this world's configuration, from what its last tick left
/// for everybody.
///
/// # Errors
/// As `error`, where no tick left anything, or knew the repositories that are asked for.
pub fn from_outside(
    error: Error,
    world: &World,
    global: &Global,
    args: &cli::Status,
) -> Result<Code> {
    match tick::last_status(world, &args.repos) {
        Some(status) => tell(&status, form(global, args), ""),
        None if args.form.nagios => unknown(&error),
        None => Err(error),
    }
}

fn form(global: &Global, args: &cli::Status) -> Form {
    match &args.form {
        StatusForm { json: true, .. } => Form::Json,
        StatusForm { oneline: true, .. } => Form::Oneline,
        StatusForm { nagios: true, .. } => Form::Nagios,
        _ if global.verbose => Form::Text(Detail::Full),
        _ => Form::Text(Detail::Brief),
    }
}

/// Prints `status`, and what else `people` are told.
fn tell(status: &Status, form: Form, people: &str) -> Result<Code> {
    show::print(&match form {
        Form::Text(detail) => text(status, detail, show::width(), status.at) + people,
        Form::Json => json(status)?,
        Form::Oneline => oneline(status, status.at),
        Form::Nagios => {
            let known = status.last_tick.is_some() || !status.repositories.is_empty();
            let (text, code) = nagios(known.then_some(status));
            show::print(&text)?;
            return Ok(Code::Monitoring(code));
        }
    })?;
    Ok(exit_code(status))
}

/// For monitoring, where the configuration cannot be used: that nothing is known, and why.
///
/// # Errors
/// When stdout cannot be written.
pub fn unknown(error: &Error) -> Result<Code> {
    let why = format!("{error:#}").replace('|', "/");
    let why = show::escaped(why.lines().next().unwrap_or_default());
    show::print(&format!("PMPY UNKNOWN - {why}\n"))?;
    Ok(Code::Monitoring(3))
}

/// 1 when a repository needs attention, else 0.
pub fn exit_code(status: &Status) -> Code {
    match status.repositories.iter().any(|row| row.needs_attention(status.at)) {
        true => Code::Attention,
        false => Code::Fine,
    }
}

/// For people, at `now`, on a terminal of `width` columns (`None`: no terminal).
pub fn text(status: &Status, detail: Detail, width: Option<u16>, now: DateTime<Utc>) -> String {
    let mut lines = vec![headline(status, now)];
    lines.extend(warnings(status, now));
    if !status.repositories.is_empty() {
        lines.push(String::new());
    }
    let rows = status.repositories.iter().map(|row| cells(row, width, now)).collect();
    for (row, line) in status.repositories.iter().zip(show::table(rows, SUBJECT, width)) {
        lines.push(line);
        lines.extend(show::details(row, now).map(|details| format!("    {details}")));
        let hint = row.reason.as_deref().and_then(|reason| show::reason_and_hint(reason).1);
        lines.extend(hint.map(|hint| format!("    hint: {hint}")));
        if detail == Detail::Full {
            lines.extend(facts(row, now).into_iter().map(|fact| format!("    {fact}")));
        }
        let told = row.published.iter().filter(|entry| {
            detail == Detail::Full || (entry.state, &entry.reason) != (State::Current, &None)
        });
        lines.extend(told.map(|entry| format!("    {}", published(entry))));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The whole status as one JSON object.
///
/// # Errors
/// Never for what a tick writes.
pub fn json(status: &Status) -> Result<String> {
    let text = serde_json::to_string_pretty(status).context("cannot write the status as JSON")?;
    Ok(text + "\n")
}

/// One line in total: `spog current 1234abc 7 min ago · ops failing (attempt 3)`.
pub fn oneline(status: &Status, now: DateTime<Utc>) -> String {
    let mut parts = Vec::new();
    parts.extend(silence(status, now));
    if status.repositories.is_empty() {
        parts.push("no repository".to_owned());
    }
    parts.extend(status.repositories.iter().map(|row| {
        let name = show::escaped(&row.name);
        if row.attempt > 0 {
            return format!("{name} {} (attempt {})", row.state, row.attempt);
        }
        let revision = row
            .acted
            .as_ref()
            .map_or(String::new(), |acted| format!(" {}", acted.revision.short()));
        format!("{name} {}{revision} {}", row.state, show::ago(row.since, now))
    }));
    parts.join(" · ") + "\n"
}

/// For monitoring: one line with performance data, and the exit code: 0 fine, 1 warning, 2 critical,
/// 3 unknown (`None`, or no tick has ever run).
pub fn nagios(status: Option<&Status>) -> (String, u8) {
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
        let nothing = format!("no repository under {}", show::escaped(&status.root));
        troubles.push((Severity::Warning, nothing));
    }
    // Stable: by name within a severity.
    troubles.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));

    let (word, code) = match troubles.first().map(|(severity, _)| severity) {
        None | Some(Severity::Ok) => ("OK", 0),
        Some(Severity::Warning) => ("WARNING", 1),
        Some(Severity::Critical) => ("CRITICAL", 2),
    };
    let summary = match troubles.as_slice() {
        [] => tally(rows),
        troubles => {
            let told: Vec<_> = troubles.iter().take(5).map(|(_, text)| text.as_str()).collect();
            let more = match troubles.len() - told.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            told.join("; ") + &more
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
        Status::longest_silence().num_seconds(),
    );
    (text, code)
}

/// Who this machine is, and when it last looked.
fn headline(status: &Status, now: DateTime<Utc>) -> String {
    let mut parts = vec![show::escaped(&status.host)];
    parts.extend(status.part.as_deref().map(|part| format!("part {}", show::escaped(part))));
    parts.extend(status.stack.as_deref().map(|stack| format!("stack {}", show::escaped(stack))));
    parts.push(show::escaped(&status.root));
    parts.push(match status.last_tick {
        Some(last) => format!("last tick {}", show::when(last, now)),
        None => "no tick yet".to_owned(),
    });
    parts.join(" · ")
}

/// What is wrong with the machine as a whole, and the next command to type.
fn warnings(status: &Status, now: DateTime<Utc>) -> Vec<String> {
    let mut lines = Vec::new();
    if status.last_tick.is_none() {
        lines.push("warning: no tick has run here, so nothing is pulled".to_owned());
        lines.push("hint: run one now: agent tick; then let cron do it each minute".to_owned());
    } else if let Some(silence) = silence(status, now) {
        lines.push(format!("warning: {silence}, so nothing new is pulled"));
        lines.push("hint: does cron run? To try a tick by hand: agent tick".to_owned());
    }
    if status.repositories.is_empty() {
        lines
            .push(format!("warning: there is no repository under {}", show::escaped(&status.root)));
        lines.push("hint: add one: agent init URL".to_owned());
    }
    lines
}

/// That ticks have stopped, when they have.
fn silence(status: &Status, now: DateTime<Utc>) -> Option<String> {
    let age = now - status.last_tick?;
    (age > Status::longest_silence()).then(|| format!("no tick for {}", show::span(age)))
}

/// Which of [`cells`] may be cut.
const SUBJECT: usize = 2;

/// A row: name, state, what was acted upon, since when it is so.
fn cells(row: &Row, width: Option<u16>, now: DateTime<Utc>) -> Vec<Cell> {
    let revision = row.acted.as_ref().map_or_else(
        || "-".to_owned(),
        |acted| match &acted.subject {
            Some(subject) => format!("{} {}", acted.revision.short(), show::escaped(subject)),
            None => acted.revision.short(),
        },
    );
    vec![
        Cell::new(show::escaped(&row.name)),
        Cell::new(row.state).fg(show::colour(row.severity(now))),
        Cell::new(revision),
        Cell::new(show::when_fitting(width, row.since, now)),
    ]
}

/// What `-v` adds.
fn facts(row: &Row, now: DateTime<Utc>) -> Vec<String> {
    let acted = row.acted.as_ref().map(|acted| {
        let mut parts = vec![acted.revision.to_string()];
        parts.extend(acted.trigger.as_deref().map(show::escaped));
        parts.extend(acted.outcome.as_deref().map(show::escaped));
        parts.extend(acted.seconds.map(|seconds| format!("took {}", show::seconds(seconds))));
        parts.extend(acted.at.map(|at| show::when(at, now)));
        parts.join(", ")
    });
    let conditions: Vec<_> = row.conditions.iter().map(|state| state.as_str()).collect();
    let next_try = row.next_try.map(|next| show::when(next, now));
    let facts = [
        ("path", Some(show::escaped(&row.path))),
        ("remote", row.remote.as_deref().map(show::escaped)),
        ("asked", row.asked.as_ref().map(|asked| show::asked(asked, now))),
        ("branch", row.branch.as_deref().map(show::escaped)),
        ("head", row.head.map(|head| head.to_string())),
        ("upstream", row.upstream.map(|upstream| upstream.to_string())),
        ("acted", acted),
        ("conditions", Some(conditions.join(", "))),
        ("attempt", (row.attempt > 0).then(|| row.attempt.to_string())),
        ("next try", next_try),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name:<11} {value}")))
        .collect()
}

fn published(entry: &Published) -> String {
    let revision = entry.revision.map_or_else(|| "-".to_owned(), |revision| revision.short());
    let reason = entry
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {}", show::reason_and_hint(reason).0));
    format!(
        "{} {} {revision} at {}{reason}",
        show::escaped(&entry.name),
        entry.state,
        show::escaped(&entry.path)
    )
}

/// A row that monitoring should show.
fn trouble(row: &Row) -> String {
    let attempt =
        if row.attempt > 0 { format!(" (attempt {})", row.attempt) } else { String::new() };
    let reason = row
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {}", show::reason_and_hint(reason).0));
    format!("{} {}{attempt}{reason}", show::escaped(&row.name), row.state)
}

/// `3 repositories current`, or `3 repositories: 2 current, 1 held`.
fn tally(rows: &[Row]) -> String {
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
