//! Reports a wrong command line as every other error: what is wrong, and what to type next. Knows what
//! clap found, not what the commands mean.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};

use crate::cli::{Cli, help};
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
    let mut program = program(Cli::command());
    let found = program.try_get_matches_from_mut(line);
    let error = match found.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    let help = || self::program(help::for_people(Cli::command()));
    Err(match error.kind() {
        // Made only for those who read it.
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            EarlyExit::Help(help().try_get_matches_from_mut(line).err().unwrap_or(error))
        }
        ErrorKind::DisplayVersion => EarlyExit::Help(error),
        // Options in the environment must not suppress the help.
        ErrorKind::MissingSubcommand if line.len() < 2 => {
            let kind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            let mut program = help();
            EarlyExit::Help(Error::raw(kind, program.render_help().ansi()).with_cmd(&program))
        }
        _ => EarlyExit::Wrong(UsageError(sentence(error, &program, line))),
    })
}

/// Our grammar; an empty environment variable counts as not set.
fn program(mut program: Command) -> Command {
    for (option, variable) in [("config", "AGENT_CONFIG"), ("root", "AGENT_ROOT")] {
        if host::is_empty(variable) {
            program = program.mut_arg(option, |option| option.env(None::<&str>));
        }
    }
    program
}

/// Clap's text in the form of every other error: a sentence, and what to type as the hint.
fn sentence(mut error: Error, program: &Command, line: &[OsString]) -> String {
    if let Some(ContextValue::Strings(names)) = error.remove(ContextKind::SuggestedSubcommand) {
        let is_shown =
            |name: &String| program.find_subcommand(name).is_some_and(|it| !it.is_hide_set());
        let shown: Vec<String> = names.into_iter().filter(is_shown).collect();
        if !shown.is_empty() {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(shown));
        }
    }
    let typed = line.iter().skip(1).find_map(|word| program.find_subcommand(word));
    let help = typed
        .map_or_else(|| "agent --help".to_owned(), |it| format!("agent {} --help", it.get_name()));
    let text = error.render().to_string();
    let text = text.split("\nUsage: ").next().unwrap_or_default();
    let text = text.split("\nFor more information").next().unwrap_or_default();
    let (mut sentence, mut hints) = (Vec::new(), Vec::new());
    for line in text.trim_start_matches("error: ").lines().map(str::trim) {
        match line.strip_prefix("tip: ").or_else(|| line.strip_prefix("hint: ")) {
            Some(hint) => hints.push(hint.escape_controls()),
            // Those that no person types are among them.
            None if line.is_empty() || line.starts_with("[subcommands: ") => {}
            None => sentence.push(line.escape_controls()),
        }
    }
    if hints.is_empty() {
        hints.push(match text.contains("<REPO>") {
            true => "agent status lists the repositories".to_owned(),
            false => help,
        });
    }
    format!("{}\nhint: {}", sentence.join(" "), hints.join("\nhint: "))
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
            (
                "agent explain",
                "the following required arguments were not provided: <REPO>\n\
                 hint: agent status lists the repositories",
            ),
            (
                "agent init",
                "the following required arguments were not provided: <[NAME=]URL>...\n\
                 hint: agent init --help",
            ),
            (
                "agent --root /x",
                "'agent' requires a subcommand but one was not provided\nhint: agent --help",
            ),
            (
                "agent stauts",
                "unrecognized subcommand 'stauts'\nhint: a similar subcommand exists: 'status'",
            ),
            ("agent xyzzy", "unrecognized subcommand 'xyzzy'\nhint: agent --help"),
            (
                "agent status --jason",
                "unexpected argument '--jason' found\nhint: a similar argument exists: '--json'",
            ),
            ("agent redo ops web", "unexpected argument 'web' found\nhint: agent redo --help"),
            (
                "agent schedule never",
                "invalid value 'never' for '[cron|systemd|none]' [possible values: cron, systemd, none]\n\
                 hint: agent schedule --help",
            ),
            (
                "agent hold ops --until soon",
                "invalid value 'soon' for '--until <WHEN>': \"soon\" is not a time\n\
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
