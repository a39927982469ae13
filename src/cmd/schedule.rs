//! `agent schedule`: what makes the ticks of this machine happen is installed, shown or removed.

use anyhow::{Result, bail};

use super::show;
use crate::cli;
use crate::engine::Here;
use crate::engine::schedule::{self, CronLine, Loops, Way};
use crate::exit::{Code, Usage};

/// `agent schedule cron|systemd|none [--replace] [--print]`
///
/// # Errors
/// When it cannot be installed or removed, or stdout not be written.
pub fn run(here: &Here, args: &cli::ScheduleArgs) -> Result<Code> {
    let way = way(args.how);
    if args.replace && way.is_none() {
        return Err(Usage(
            "with none and --replace nothing would pull here any more\n\
             hint: write cron or systemd, or leave out --replace"
                .to_owned(),
        )
        .into());
    }
    if args.print {
        show::print(&shown(here, way)?)?;
        return Ok(Code::Fine);
    }
    if here.settings.world.own {
        show::print(&by_hand(here, way)?)?;
        return Ok(Code::Fine);
    }
    match way {
        Some(way) => tell(&schedule::install(here, way)?)?,
        None => match schedule::uninstall(here)?.as_slice() {
            [] => tell(&["nothing was installed".to_owned()])?,
            told => tell(told)?,
        },
    }
    // Two loops for a moment are better than none for good.
    let mut failed = Vec::new();
    if args.replace {
        let taken = schedule::take_over(here);
        tell(&taken.told)?;
        failed = taken.failed;
    }
    show::print(&loops_beside(here))?;
    if failed.is_empty() {
        return Ok(Code::Fine);
    }
    bail!("not every loop could be taken over: {}", failed.join("; "))
}

/// What somebody means who says `how`; `None`: nothing is to tick.
pub fn way(how: cli::Schedule) -> Option<Way> {
    match how {
        cli::Schedule::Cron => Some(Way::Cron),
        cli::Schedule::Systemd => Some(Way::Systemd),
        cli::Schedule::None => None,
    }
}

/// What a person has to put where for a world of its own.
///
/// # Errors
/// When systemd cannot start such a program.
pub fn by_hand(here: &Here, way: Option<Way>) -> Result<String> {
    let CronLine { place, line } = schedule::cron_line(here);
    Ok(match way {
        Some(Way::Cron) => {
            format!("To tick each minute, put this line into {place}:\n{line}\n")
        }
        Some(Way::Systemd) => format!(
            "To stay up, put this into a unit of your own:\n{}",
            schedule::file(here, Way::Systemd)?
        ),
        None => "Nothing is installed for a world of its own\n".to_owned(),
    })
}

/// The loops that still pull beside the agent, and how to end that; empty when there are none.
pub fn loops_beside(here: &Here) -> String {
    let Loops { rivals, unread } = schedule::loops(here);
    let mut text = String::new();
    for reason in &unread {
        let reason = show::escaped(reason);
        text += &format!("warning: whether another loop pulls here is not known: {reason}\n");
    }
    for rival in &rivals {
        text += &format!("another loop pulls here: {}\n", show::escaped(&rival.to_string()));
    }
    if rivals.iter().any(|rival| rival.about_us) {
        text += &take_over_hint(here);
    }
    text
}

/// How such a loop ends.
fn take_over_hint(here: &Here) -> String {
    format!("hint: {} takes it over\n", schedule::take_over_command(here))
}

/// That loops pull the clones of this world beside the agent, in one line and a hint; empty when none is
/// seen. A crontab that cannot be read is the business of `agent check`.
pub fn loop_upon_ours(here: &Here) -> String {
    if here.settings.world.own {
        return String::new();
    }
    let mut rivals = schedule::loops(here).rivals;
    rivals.retain(|rival| rival.about_us);
    let Some((first, others)) = rivals.split_first() else { return String::new() };
    let more = match others.len() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let first = show::escaped(&first.to_string());
    let hint = take_over_hint(here);
    format!("\nwarning: another loop pulls here: {first}{more}\n{hint}")
}

/// What would be installed; for "none", what is installed.
fn shown(here: &Here, way: Option<Way>) -> Result<String> {
    match way {
        Some(way) => schedule::file(here, way),
        None => Ok(match schedule::installed(here)?.as_slice() {
            [] => "nothing is installed\n".to_owned(),
            found => found.iter().map(|(_, place)| format!("{place}\n")).collect(),
        }),
    }
}

fn tell(sentences: &[String]) -> Result<()> {
    let text: String = sentences.iter().map(|it| show::escaped(it) + "\n").collect();
    show::print(&text)
}
