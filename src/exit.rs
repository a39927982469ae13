//! The exit codes of the agent, and the report of the error that ends it. Knows only the text of an error,
//! not its causes.

use std::any::Any;
use std::fmt;
use std::io::Write;
use std::panic::{Location, PanicHookInfo};
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};

use crate::config;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::text::EscapeControls;
use crate::engine::discovery::UnknownRepo;

/// The exit codes, which scripts and monitoring rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitStatus {
    /// 0: fine; also "nothing to do" and "busy elsewhere".
    Fine,
    /// 1: a person should look: at least one repository needs attention, or something failed.
    Attention,
    /// 2: wrong usage or configuration.
    Usage,
    /// 70: a bug in the agent (`EX_SOFTWARE`, sysexits.h).
    Bug,
    /// 0 to 3, by the convention for monitoring plug-ins.
    Monitoring(u8),
}

impl ExitStatus {
    /// The status for the exit code of a process of ours.
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Fine,
            1 => Self::Attention,
            2 => Self::Usage,
            _ => Self::Bug,
        }
    }

    /// The exit code that the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Attention => 1,
            Self::Usage => 2,
            Self::Bug => 70,
            Self::Monitoring(code) => code,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(code: ExitStatus) -> Self {
        Self::from(code.number())
    }
}

/// An error in the command line: the reason, and after `"\nhint: "` what to write.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Prints `error` on stderr (what failed, its causes, and last what to do) and returns its exit code.
pub fn report(error: &anyhow::Error) -> ExitStatus {
    // When stderr itself is closed, no output is left.
    let _ = write!(anstream::stderr(), "{}", sentence(error));
    code_of(error)
}

/// Installs a panic hook that reports a panic as a bug. The code that catches the panic limits the damage:
/// to one repository, or to the process, which then ends with [`ExitStatus::Bug`].
pub fn on_panic() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let _ = write!(anstream::stderr(), "{}", bug(panic.payload(), panic.location()));
    }));
}

fn code_of(error: &anyhow::Error) -> ExitStatus {
    let asked_wrongly = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<config::ConfigError>() || cause.is::<UsageError>() || cause.is::<UnknownRepo>()
    };
    if error.chain().any(asked_wrongly) { ExitStatus::Usage } else { ExitStatus::Attention }
}

/// The error as text with colours, which the stream removes where they are unwanted.
pub fn sentence(error: &anyhow::Error) -> String {
    let report = ErrorReport::of_causes(error.chain());
    let mut out = String::new();
    for (at, sentence) in report.sentences().enumerate() {
        let sentence = sentence.replace('\n', "\n  ");
        out += &match at {
            0 => format!("{} {sentence}\n", styled("agent:", red())),
            _ => format!("  because {sentence}\n"),
        };
    }
    for hint in report.hints() {
        out += &format!("{} {hint}\n", styled("hint:", green()));
    }
    out
}

fn bug(payload: &dyn Any, place: Option<&Location<'_>>) -> String {
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked");
    let place = place.map_or_else(String::new, |place| format!(" ({place})"));
    format!(
        "{} this is a bug in agent {}: {}{place}; please report it\n",
        styled("agent:", red()),
        env!("CARGO_PKG_VERSION"),
        what.escape_controls()
    )
}

fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

fn red() -> Style {
    AnsiColor::Red.on_default().bold()
}

fn green() -> Style {
    AnsiColor::Green.on_default().bold()
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;
    use crate::config::ConfigTexts;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn an_error_says_what_failed_then_why_then_what_to_do() {
        let error = anyhow!("permission denied\nhint: run it as root")
            .context("cannot open /srv/a/.git")
            .context("spog: cannot be looked at\nhint: see agent check");
        assert_eq!(
            plain(&sentence(&error)),
            "agent: spog: cannot be looked at\n  \
             because cannot open /srv/a/.git\n  \
             because permission denied\n\
             hint: see agent check\n\
             hint: run it as root\n"
        );
        assert_eq!(code_of(&error), ExitStatus::Attention);
    }

    #[test]
    fn a_cause_that_was_reported_is_not_reported_again() {
        let error = anyhow!("no space left").context("cannot write: no space left");
        assert_eq!(plain(&sentence(&error)), "agent: cannot write: no space left\n");
    }

    #[test]
    fn wrong_usage_and_wrong_configuration_end_with_2_however_deep() {
        let mut source = ConfigTexts::default();
        source.add("agent.toml", "sply = \"1s\"");
        let world =
            config::AgentDirs::of(&config::ConfigLocations { is_root: true, ..Default::default() });
        let wrong = config::Settings::parse(world.unwrap(), &source).unwrap_err();
        let error = Err::<(), _>(wrong).context("the tick did not begin").unwrap_err();
        assert_eq!(code_of(&error), ExitStatus::Usage);
        assert!(plain(&sentence(&error)).ends_with("hint: did you mean \"splay\"?\n"));

        let error = anyhow::Error::new(UsageError("there is no spog".to_owned()));
        assert_eq!(code_of(&error), ExitStatus::Usage);
    }

    #[test]
    fn a_panic_is_reported_as_a_bug_with_its_place() {
        let text = plain(&bug(&"index\n9".to_owned(), Some(Location::caller())));
        assert!(text.starts_with("agent: this is a bug in agent 0."), "{text}");
        assert!(text.contains("index\\n9 (src/exit.rs:"), "{text}");
        assert!(text.ends_with("; please report it\n"), "{text}");
    }
}
