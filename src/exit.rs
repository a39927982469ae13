//! How the agent ends: its exit codes, and how an error is told, once. Knows nothing of what went
//! wrong but the words of the error.

use std::any::Any;
use std::fmt;
use std::io::Write;
use std::panic::{Location, PanicHookInfo};
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};

use crate::config;
use crate::engine::roster::Unknown;

/// The exit codes, which scripts and monitoring rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// 0: fine; also "nothing to do" and "busy elsewhere".
    Fine,
    /// 1: a person should look: at least one repository needs attention, or something failed.
    Attention,
    /// 2: wrong usage or configuration.
    Usage,
    /// 70: a bug in the agent (`EX_SOFTWARE`, sysexits.h).
    Bug,
    /// 0 to 3, which mean what the convention for monitoring plug-ins says.
    Monitoring(u8),
}

impl Code {
    /// What a process of ours ended with.
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Fine,
            1 => Self::Attention,
            2 => Self::Usage,
            _ => Self::Bug,
        }
    }

    /// As the shell sees it.
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

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

/// The command line cannot be carried out as it stands: why, and after `"\nhint: "` what to write.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Tells `error` on stderr (what failed, because of what, and last what to do about it) and which
/// code it ends with.
pub fn report(error: &anyhow::Error) -> Code {
    // Nobody is left to be told when stderr itself is gone.
    let _ = write!(anstream::stderr(), "{}", told(error));
    code_of(error)
}

/// From now on a panic is told as the bug that it is. What catches it decides what it costs: one
/// repository, or the process, which then ends with [`Code::Bug`].
pub fn on_panic() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let _ = write!(anstream::stderr(), "{}", bug(panic.payload(), panic.location()));
    }));
}

fn code_of(error: &anyhow::Error) -> Code {
    let asked_wrongly = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<config::Error>() || cause.is::<Usage>() || cause.is::<Unknown>()
    };
    if error.chain().any(asked_wrongly) { Code::Usage } else { Code::Attention }
}

/// The error as text with colours in it, which the stream takes out where they are unwanted.
fn told(error: &anyhow::Error) -> String {
    let mut sentences: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let (hinting, saying): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.starts_with("hint: "));
        let sentence = saying.join("\n");
        // Many libraries repeat their cause in their own message.
        if !sentence.is_empty() && !sentences.iter().any(|told| told.ends_with(&sentence)) {
            sentences.push(sentence);
        }
        for hint in hinting {
            if !hints.iter().any(|told| told == hint) {
                hints.push(hint.to_owned());
            }
        }
    }

    let mut out = String::new();
    for (at, sentence) in sentences.iter().enumerate() {
        let sentence = sentence.replace('\n', "\n  ");
        out += &match at {
            0 => format!("{} {sentence}\n", styled("agent:", red())),
            _ => format!("  because {sentence}\n"),
        };
    }
    for hint in &hints {
        out += &format!("{}{}\n", styled("hint:", green()), hint.trim_start_matches("hint:"));
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
        what.escape_debug()
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
    use crate::config::Source;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn an_error_tells_what_failed_then_why_then_what_to_do() {
        let error = anyhow!("permission denied\nhint: run it as root")
            .context("cannot open /srv/a/.git")
            .context("spog: cannot be looked at\nhint: see agent check");
        assert_eq!(
            plain(&told(&error)),
            "agent: spog: cannot be looked at\n  \
             because cannot open /srv/a/.git\n  \
             because permission denied\n\
             hint: see agent check\n\
             hint: run it as root\n"
        );
        assert_eq!(code_of(&error), Code::Attention);
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error = anyhow!("no space left").context("cannot write: no space left");
        assert_eq!(plain(&told(&error)), "agent: cannot write: no space left\n");
    }

    #[test]
    fn wrong_usage_and_wrong_configuration_end_with_2_however_deep() {
        let mut source = Source::default();
        source.add("agent.toml", "sply = \"1s\"");
        let world = config::World::of(&config::Sources { is_root: true, ..Default::default() });
        let wrong = config::Settings::parse(world.unwrap(), &source).unwrap_err();
        let error = Err::<(), _>(wrong).context("the tick did not begin").unwrap_err();
        assert_eq!(code_of(&error), Code::Usage);
        assert!(plain(&told(&error)).ends_with("hint: did you mean \"splay\"?\n"));

        let error = anyhow::Error::new(Usage("there is no spog".to_owned()));
        assert_eq!(code_of(&error), Code::Usage);
    }

    #[test]
    fn a_panic_is_told_as_a_bug_with_its_place() {
        let text = plain(&bug(&"index\n9".to_owned(), Some(Location::caller())));
        assert!(text.starts_with("agent: this is a bug in agent 0."), "{text}");
        assert!(text.contains("index\\n9 (src/exit.rs:"), "{text}");
        assert!(text.ends_with("; please report it\n"), "{text}");
    }
}
