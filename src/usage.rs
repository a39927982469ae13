//! Reports a wrong command line as every other error: what is wrong, and what to type next. Knows what
//! clap found, not what the commands mean.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};

use crate::cli::{Cli, help};
use crate::domain::report::error_report::ErrorReport;
use crate::domain::text::EscapeControls;
use crate::exit::UsageError;
use crate::system::host;

/// The reason why no command is run.
#[derive(Debug)]
pub enum EarlyExit {
    /// Help or the version was asked for, or nothing was typed: clap's own text and exit code.
    Help(Error),
    /// The command line is wrong.
    Wrong(UsageError),
}

/// Parses a command line; the first word of `line` is the program.
///
/// # Errors
/// When the command line asks for help, or is wrong.
pub fn parse(line: &[OsString]) -> Result<Cli, EarlyExit> {
    let mut program = program();
    let found = program.try_get_matches_from_mut(line);
    found.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => EarlyExit::Help(error),
        // Options in the environment must not suppress the help.
        ErrorKind::MissingSubcommand if line.len() < 2 => {
            let kind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            EarlyExit::Help(Error::raw(kind, program.render_help().ansi()).with_cmd(&program))
        }
        _ => EarlyExit::Wrong(UsageError(sentence(&error, &program, line))),
    })
}

/// Our grammar; an empty environment variable counts as not set.
fn program() -> Command {
    let mut program = help::for_people(Cli::command());
    for (option, variable) in [("config", "AGENT_CONFIG"), ("root", "AGENT_ROOT")] {
        if host::is_empty(variable) {
            program = program.mut_arg(option, |option| option.env(None::<&str>));
        }
    }
    program
}

/// The error text, with what to type as the hint.
fn sentence(error: &Error, program: &Command, line: &[OsString]) -> String {
    let command = command(program, line);
    let name = command.map_or_else(|| "agent".to_owned(), |it| format!("agent {}", it.get_name()));
    let help = format!("hint: {name} --help");
    let word = |kind| first(error, kind).unwrap_or_default();
    let argument = word(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::MissingSubcommand => "which command?\nhint: agent --help lists them".to_owned(),
        ErrorKind::InvalidSubcommand => {
            let known = all(error, ContextKind::SuggestedSubcommand);
            let known = known.into_iter().find(|name| is_shown(name));
            let known = known.map_or(String::new(), |name| format!("did you mean \"{name}\"? "));
            format!(
                "there is no command {}\nhint: {known}agent --help lists them",
                quoted(&word(ContextKind::InvalidSubcommand))
            )
        }
        ErrorKind::UnknownArgument => {
            let instead = first(error, ContextKind::SuggestedArg);
            let help = instead.map_or(help, |it| format!("hint: did you mean {}?", quoted(&it)));
            match argument.starts_with('-') {
                true => format!("{name} has no option {}\n{help}", quoted(&argument)),
                false => format!("{name}: unexpected argument {}\n{help}", quoted(&argument)),
            }
        }
        ErrorKind::MissingRequiredArgument => missing(error, &name, &help),
        ErrorKind::ArgumentConflict => {
            let other = first(error, ContextKind::PriorArg).unwrap_or_else(|| "itself".to_owned());
            format!("{} cannot be used with {}\n{help}", bare(&argument), bare(&other))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => invalid(error, &argument, &help),
        _ => {
            let message = error.to_string();
            let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
            format!("{message}\n{help}")
        }
    }
}

fn missing(error: &Error, name: &str, help: &str) -> String {
    let lacking = all(error, ContextKind::InvalidArg);
    match lacking.first().map(String::as_str) {
        Some("<REPO>") => "which repository?\nhint: agent status lists them".to_owned(),
        Some("<[NAME=]URL>...") => "which repository is to be cloned?\n\
             hint: agent init git@git.example.org:ops.git; more with: agent init --help"
            .to_owned(),
        _ => {
            let lacking: Vec<_> = lacking.iter().map(|argument| bare(argument)).collect();
            format!("{name}: missing argument {}\n{help}", lacking.join(" and "))
        }
    }
}

/// The error text for an invalid value. Checks of values write hints of their own.
fn invalid(error: &Error, argument: &str, help: &str) -> String {
    let value = first(error, ContextKind::InvalidValue).unwrap_or_default();
    let argument = bare(argument);
    // A positional argument explains itself, so only options are named.
    let option = Some(argument).filter(|argument| argument.starts_with('-'));
    if let (Some(option), "") = (&option, value.as_str()) {
        return format!("{option} is missing its value\n{help}");
    }
    let about = option.map_or_else(String::new, |option| format!("{option}: "));
    if let Some(why) = std::error::Error::source(error).map(ToString::to_string) {
        let has_hint = !ErrorReport::parse(&why).hints().is_empty();
        let help = if has_hint { String::new() } else { format!("\n{help}") };
        return format!("{about}{why}{help}");
    }
    let expected = match all(error, ContextKind::ValidValue).as_slice() {
        [] => format!("\n{help}"),
        [only] => format!("; expected {only}"),
        [first @ .., last] => format!("; expected {} or {last}", first.join(", ")),
    };
    format!("{about}invalid value {}{expected}", quoted(&value))
}

/// The command that was typed.
fn command<'a>(program: &'a Command, line: &[OsString]) -> Option<&'a Command> {
    line.iter().skip(1).find_map(|word| program.find_subcommand(word))
}

fn is_shown(name: &str) -> bool {
    Cli::command().find_subcommand(name).is_some_and(|command| !command.is_hide_set())
}

/// An argument as clap writes it, such as `--until <DURATION>` or `<REF>`, without its brackets.
fn bare(argument: &str) -> String {
    match argument.split_once(" <") {
        Some((option, _)) => option.to_owned(),
        None => argument.trim_end_matches("...").trim_matches(['<', '>']).to_owned(),
    }
}

/// Foreign text as errors show it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_controls())
}

fn first(error: &Error, kind: ContextKind) -> Option<String> {
    all(error, kind).into_iter().next()
}

fn all(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> String {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        match parse(&line) {
            Err(EarlyExit::Wrong(UsageError(text))) => text,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn a_wrong_command_line_is_reported_with_what_to_type() {
        for (line, text) in [
            ("agent explain", "which repository?\nhint: agent status lists them"),
            (
                "agent init",
                "which repository is to be cloned?\n\
                 hint: agent init git@git.example.org:ops.git; more with: agent init --help",
            ),
            ("agent --root /x", "which command?\nhint: agent --help lists them"),
            (
                "agent stauts",
                "there is no command \"stauts\"\n\
                 hint: did you mean \"status\"? agent --help lists them",
            ),
            ("agent xyzzy", "there is no command \"xyzzy\"\nhint: agent --help lists them"),
            (
                "agent checkout ops",
                "agent checkout: missing argument REF\nhint: agent checkout --help",
            ),
            (
                "agent status --jason",
                "agent status has no option \"--jason\"\nhint: did you mean \"--json\"?",
            ),
            (
                "agent redo ops web",
                "agent redo: unexpected argument \"web\"\nhint: agent redo --help",
            ),
            ("agent -v -q tick", "--verbose cannot be used with --quiet\nhint: agent tick --help"),
            (
                "agent history -n x",
                "--count: \"x\" is not a number from 1 on\nhint: agent history --help",
            ),
            (
                "agent history -n 0",
                "--count: \"0\" is not a number from 1 on\nhint: agent history --help",
            ),
            ("agent history -n", "--count is missing its value\nhint: agent history --help"),
            ("agent schedule never", "invalid value \"never\"; expected cron, systemd or none"),
            (
                "agent hold ops --until soon",
                "--until: \"soon\" is not a time\n\
                 hint: write a number and its unit, such as \"2h\", a time such as \"14:30\", or a day such as \
                 \"2026-12-24\" or \"2026-12-24T18:00\"",
            ),
        ] {
            assert_eq!(message(line), text, "{line}");
        }
    }

    #[test]
    fn help_is_no_mistake() {
        for line in ["agent --help", "agent tick --help", "agent --version", "agent"] {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(matches!(parse(&line), Err(EarlyExit::Help(_))), "{line:?}");
        }
    }
}
