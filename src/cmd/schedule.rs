//! `agent schedule`: installs, prints or removes what runs this machine's ticks. Does not know cron.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};

use crate::cli;
use crate::cmd::format;
use crate::engine::context::Context;
use crate::engine::machine::schedule::{self, CronLine, PullLoops, ScheduleMethod};
use crate::engine::machine::ticking::{self, SourceFault, TickSource};
use crate::exit::{ExitStatus, UsageError};

/// `agent schedule [cron|systemd|none] [--replace] [--print]`
///
/// # Errors
/// When it cannot be installed or removed, or stdout cannot be written.
pub fn run(context: &Context, args: &cli::ScheduleArgs) -> Result<ExitStatus> {
    let Some(how) = args.how else { return show(context) };
    let way = way(how);
    if args.replace && way.is_none() {
        return Err(UsageError(
            "none with --replace would leave this machine without a pull loop\n\
             hint: write cron or systemd, or leave out --replace"
                .to_owned(),
        )
        .into());
    }
    if args.print {
        format::print(&preview(context, way)?)?;
        return Ok(ExitStatus::Fine);
    }
    if context.settings.world.own {
        format::print(&by_hand(context, way)?)?;
        return Ok(ExitStatus::Fine);
    }
    match way {
        Some(way) => print_sentences(&schedule::install(context, way)?)?,
        None => match schedule::uninstall(context)?.as_slice() {
            [] => print_sentences(&["nothing was installed".to_owned()])?,
            sentences => print_sentences(sentences)?,
        },
    }
    if way.is_some() {
        warn_of_no_ticks(context);
    }
    // Two loops for a moment are better than none for ever.
    let mut failed = Vec::new();
    if args.replace {
        let taken = schedule::take_over(context);
        print_sentences(&taken.sentences)?;
        failed = taken.failed;
    }
    format::print(&loops_beside(context))?;
    if failed.is_empty() {
        return Ok(ExitStatus::Fine);
    }
    bail!("not every pull loop could be replaced: {}", failed.join("; "))
}

/// Prints what makes this machine tick.
fn show(context: &Context) -> Result<ExitStatus> {
    let Some(sources) = ticking::sources(context, Path::new("/")) else {
        format::print(&by_hand(context, Some(ScheduleMethod::Cron))?)?;
        return Ok(ExitStatus::Fine);
    };
    let mut lines = Vec::new();
    for TickSource { place, fault } in &sources {
        let place = format::escaped(place);
        match fault {
            None => lines.push(format!("{place} makes the agent tick")),
            Some(SourceFault { text, remedy }) => lines.extend([
                format!("no ticks: {}", format::escaped(text)),
                format!("hint: {}", format::escaped(remedy)),
            ]),
        }
    }
    if sources.is_empty() {
        lines.push("nothing is installed".to_owned());
        lines.push("hint: agent schedule cron, or agent schedule systemd".to_owned());
    }
    format::print(&(lines.join("\n") + "\n" + &loops_beside(context)))?;
    Ok(match ticking::trouble(&sources) {
        None => ExitStatus::Fine,
        Some(_) => ExitStatus::Attention,
    })
}

/// Warns on standard error where nothing makes this machine tick; returns whether it warned.
pub fn warn_of_no_ticks(context: &Context) -> bool {
    let warning = no_ticks(context);
    // Without a standard error there is no reader.
    let _ = anstream::stderr().write_all(warning.as_bytes());
    !warning.is_empty()
}

/// The warning that nothing makes this machine tick, with its remedy; empty where something does.
pub fn no_ticks(context: &Context) -> String {
    let sources = ticking::sources(context, Path::new("/"));
    let Some(trouble) = sources.and_then(|sources| ticking::trouble(&sources)) else {
        return String::new();
    };
    let (sentence, hint) = format::reason_and_hint(&trouble);
    let hint = hint.map_or_else(String::new, |hint| format!("hint: {hint}\n"));
    format!("warning: {sentence}\n{hint}")
}

/// The method for `how`; `None`: nothing runs ticks.
pub fn way(how: cli::ScheduleKind) -> Option<ScheduleMethod> {
    match how {
        cli::ScheduleKind::Cron => Some(ScheduleMethod::Cron),
        cli::ScheduleKind::Systemd => Some(ScheduleMethod::Systemd),
        cli::ScheduleKind::None => None,
    }
}

/// Instructions for an agent with its own `--root`: which line or unit a person has to install where.
///
/// # Errors
/// When systemd cannot start a program at our path.
pub fn by_hand(context: &Context, way: Option<ScheduleMethod>) -> Result<String> {
    let CronLine { place, line } = schedule::cron_line(context);
    Ok(match way {
        Some(ScheduleMethod::Cron) => {
            format!("To tick each minute, put this line into {place}:\n{line}\n")
        }
        Some(ScheduleMethod::Systemd) => format!(
            "To run it as a service, put this into a unit of your own:\n{}",
            schedule::file(context, ScheduleMethod::Systemd)?
        ),
        None => "Nothing is installed for a self-contained instance\n".to_owned(),
    })
}

/// Warnings about other loops that pull besides the agent, with a hint; empty when there are none.
pub fn loops_beside(context: &Context) -> String {
    let PullLoops { pull_jobs, unread } = schedule::loops(context);
    let mut text = String::new();
    for reason in &unread {
        let reason = format::escaped(reason);
        text += &format!("warning: whether another loop pulls here is unknown: {reason}\n");
    }
    for pull_job in &pull_jobs {
        text += &format!("another loop pulls here: {}\n", format::escaped(&pull_job.to_string()));
    }
    if pull_jobs.iter().any(|pull_job| pull_job.about_us) {
        text += &take_over_hint(context);
    }
    text
}

/// The hint at the command that ends such a loop.
fn take_over_hint(context: &Context) -> String {
    format!("hint: {} replaces it\n", schedule::take_over_command(context))
}

/// A line and a hint about other loops that pull this agent's clones; empty when none is seen. Crontabs
/// that cannot be read are left to `agent check`.
pub fn loop_upon_ours(context: &Context) -> String {
    if context.settings.world.own {
        return String::new();
    }
    let mut pull_jobs = schedule::loops(context).pull_jobs;
    pull_jobs.retain(|pull_job| pull_job.about_us);
    let Some((first, others)) = pull_jobs.split_first() else { return String::new() };
    let more = match others.len() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let first = format::escaped(&first.to_string());
    let hint = take_over_hint(context);
    format!("\nwarning: another loop pulls here: {first}{more}\n{hint}")
}

/// The text that would be installed; for "none" the places of what is installed.
fn preview(context: &Context, way: Option<ScheduleMethod>) -> Result<String> {
    match way {
        Some(way) => schedule::file(context, way),
        None => Ok(match schedule::installed(context)?.as_slice() {
            [] => "nothing is installed\n".to_owned(),
            found => found.iter().map(|(_, place)| format!("{place}\n")).collect(),
        }),
    }
}

fn print_sentences(sentences: &[String]) -> Result<()> {
    let text: String = sentences.iter().map(|it| format::escaped(it) + "\n").collect();
    format::print(&text)
}
