//! A command line that cannot be understood, told as every other error: what is wrong with it, and the
//! next thing to type. Knows what clap found, and no command's meaning.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};

use crate::cli::Cli;
use crate::exit::Usage;
use crate::system::node;

/// Why there is nothing to carry out.
#[derive(Debug)]
pub enum Stop {
    /// Help or the version was asked for, or nothing at all: clap's own text and exit code.
    Help(Error),
    /// It is wrong.
    Wrong(Usage),
}

/// Reads a command line; the first of `line` is the program.
///
/// # Errors
/// When it asks for help, or is wrong.
pub fn parse(line: &[OsString]) -> Result<Cli, Stop> {
    let mut program = program();
    let found = program.try_get_matches_from_mut(line);
    found.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Stop::Help(error),
        // What the environment says is no reason to leave out the help.
        ErrorKind::MissingSubcommand if line.len() < 2 => {
            let kind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            Stop::Help(Error::raw(kind, program.render_help().ansi()).with_cmd(&program))
        }
        _ => Stop::Wrong(Usage(told(&error, &program, line))),
    })
}

/// Our grammar, in which a variable that is set to nothing is not set.
fn program() -> Command {
    let mut program = Cli::command();
    for (option, variable) in [("config", "AGENT_CONFIG"), ("root", "AGENT_ROOT")] {
        if node::is_empty(variable) {
            program = program.mut_arg(option, |option| option.env(None::<&str>));
        }
    }
    program
}

/// What is wrong, and as the hint what to type.
fn told(error: &Error, program: &Command, line: &[OsString]) -> String {
    let command = command(program, line);
    let name = command.map_or_else(|| "agent".to_owned(), |it| format!("agent {}", it.get_name()));
    let help = format!("hint: {name} --help");
    let word = |kind| first(error, kind).unwrap_or_default();
    let argument = word(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::MissingSubcommand => "which command?\nhint: agent --help lists them".to_owned(),
        ErrorKind::InvalidSubcommand => {
            let known = all(error, ContextKind::SuggestedSubcommand);
            let known = known.into_iter().find(|name| is_shown(program, name));
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
                false => format!("{} is one word too many for {name}\n{help}", quoted(&argument)),
            }
        }
        ErrorKind::MissingRequiredArgument => missing(error, &name, &help),
        ErrorKind::ArgumentConflict => {
            let other = first(error, ContextKind::PriorArg).unwrap_or_else(|| "itself".to_owned());
            format!("{} does not go together with {}\n{help}", bare(&argument), bare(&other))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => invalid(error, &argument, &help),
        _ => {
            let told = error.to_string();
            let told = told.lines().next().unwrap_or_default().trim_start_matches("error: ");
            format!("{told}\n{help}")
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
            format!("{name} needs {} as well\n{help}", lacking.join(" and "))
        }
    }
}

/// A value that its argument cannot have. The judges of values write hints of their own.
fn invalid(error: &Error, argument: &str, help: &str) -> String {
    let value = first(error, ContextKind::InvalidValue).unwrap_or_default();
    let argument = bare(argument);
    // A word in its place says by itself what it is about.
    let option = Some(argument).filter(|argument| argument.starts_with('-'));
    if let (Some(option), "") = (&option, value.as_str()) {
        return format!("{option} is missing its value\n{help}");
    }
    let about = option.map_or_else(String::new, |option| format!("{option}: "));
    if let Some(why) = std::error::Error::source(error).map(ToString::to_string) {
        let help = if why.contains("\nhint: ") { String::new() } else { format!("\n{help}") };
        return format!("{about}{why}{help}");
    }
    let help = match all(error, ContextKind::ValidValue) {
        known if known.is_empty() => help.to_owned(),
        known => format!("hint: write one of {}", known.join(", ")),
    };
    format!("{about}{} is not possible here\n{help}", quoted(&value))
}

/// The command that was typed.
fn command<'a>(program: &'a Command, line: &[OsString]) -> Option<&'a Command> {
    line.iter().skip(1).find_map(|word| program.find_subcommand(word))
}

fn is_shown(program: &Command, name: &str) -> bool {
    program.find_subcommand(name).is_some_and(|command| !command.is_hide_set())
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
    format!("\"{}\"", text.escape_debug())
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

    fn told(line: &str) -> String {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        match parse(&line) {
            Err(Stop::Wrong(Usage(text))) => text,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn a_wrong_command_line_is_told_with_what_to_type() {
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
            ("agent checkout ops", "agent checkout needs REF as well\nhint: agent checkout --help"),
            (
                "agent status --jason",
                "agent status has no option \"--jason\"\nhint: did you mean \"--json\"?",
            ),
            (
                "agent redo ops web",
                "\"web\" is one word too many for agent redo\nhint: agent redo --help",
            ),
            (
                "agent -v -q tick",
                "--verbose does not go together with --quiet\nhint: agent tick --help",
            ),
            (
                "agent history -n x",
                "-n: \"x\" is not a number from 1 on\nhint: agent history --help",
            ),
            (
                "agent history -n 0",
                "-n: \"0\" is not a number from 1 on\nhint: agent history --help",
            ),
            ("agent history -n", "-n is missing its value\nhint: agent history --help"),
            (
                "agent schedule never",
                "\"never\" is not possible here\nhint: write one of cron, systemd, none",
            ),
            (
                "agent hold ops --until soon",
                "--until: \"soon\" is not a time\n\
                 hint: write a number and its unit, such as \"30s\", \"5m\" or \"1h\"",
            ),
        ] {
            assert_eq!(told(line), text, "{line}");
        }
    }

    #[test]
    fn help_is_no_mistake() {
        for line in ["agent --help", "agent tick --help", "agent --version", "agent"] {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(matches!(parse(&line), Err(Stop::Help(_))), "{line:?}");
        }
    }
}
