//! The help as people read it: the commands in groups by what a person wants, an example for each, and the
//! options for every command once. The grammar is not changed.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command};

/// What a person wants, and the commands for it.
pub const GROUPS: [(&str, &[&str]); 4] = [
    ("Set up", &["init", "schedule", "check", "forget", "demo"]),
    ("Every day", &["status", "fleet", "tick", "log", "history", "explain", "diff"]),
    ("Stop, go back, go on", &["hold", "unhold", "rollback", "redo", "accept", "checkout"]),
    ("Work with other programs", &["listen", "notify"]),
];

/// Each command with what can be typed and what that does.
const EXAMPLES: [(&str, &[(&str, &str)]); 21] = [
    (
        "init",
        &[
            ("agent init git@git.example.org:ops.git --part web", "over ssh"),
            (
                "agent init site=https://git.example.org/www.git \\\n\
                 \u{20}     --username deploy --password-file site.token",
                "over https",
            ),
        ],
    ),
    (
        "tick",
        &[
            ("agent tick", "poll all, apply what is new"),
            ("agent tick ops && echo deployed", "0 only when upstream's revision is here"),
            ("agent tick --dry-run", "what would be done"),
        ],
    ),
    ("listen", &[("agent listen", "what the systemd service runs")]),
    (
        "status",
        &[
            ("agent status --problems", "only what is not as it should be"),
            ("agent status 'app*' -v", "all that is known of some"),
            ("agent status --json", "for programs"),
        ],
    ),
    (
        "explain",
        &[
            ("agent explain ops", "why it is in its state, and what happens next"),
            ("agent explain ops 1eb4f54", "whether this revision is here, and if not, why"),
        ],
    ),
    ("diff", &[("agent diff ops", "what was changed here by hand")]),
    (
        "fleet",
        &[
            ("agent fleet", "all, the worst first"),
            ("agent fleet --hosts 'web*' --state failing", "only some"),
            ("agent fleet --html /var/www/html/fleet.html", "as a page"),
            (
                "agent fleet --hosts 'canary*' --wait ops HEAD \\\n\
                 \u{20}     && git push origin HEAD:production",
                "promote it",
            ),
        ],
    ),
    (
        "fleet forget",
        &[
            ("agent fleet forget old01 web07", "with what their users publish"),
            ("agent fleet forget --silent 14d", "all that are silent for two weeks"),
        ],
    ),
    ("history", &[("agent history ops -n 50", "what was applied, and what people did")]),
    (
        "log",
        &[
            ("agent log ops", "the output of the last action"),
            ("agent log ops -f", "of the running one, as it comes"),
        ],
    ),
    ("redo", &[("agent redo ops", "run the scripts of the same revision again")]),
    (
        "rollback",
        &[
            ("agent rollback ops", "to the revision before, and stay"),
            ("agent rollback ops 1eb4f54", "to this one"),
        ],
    ),
    (
        "checkout",
        &[
            ("agent checkout site v1.4", "into the configured target"),
            ("agent checkout site main --to /srv/preview", "into another directory"),
        ],
    ),
    (
        "hold",
        &[
            ("agent hold ops \"database migration\"", "until somebody lifts it"),
            ("agent hold --all --until 14:30", "everything, until half past two"),
        ],
    ),
    (
        "unhold",
        &[
            ("agent unhold ops", "what the caller set"),
            ("agent unhold ops 2", "the hold with this number"),
        ],
    ),
    ("accept", &[("agent accept ops 5cbcade \"history was cleaned up\"", "take it, and say why")]),
    (
        "forget",
        &[
            ("agent forget ops", "stop working on it; its clone stays"),
            ("agent forget ops --purge", "remove all that belongs to it, after a question"),
        ],
    ),
    (
        "schedule",
        &[
            ("agent schedule", "what makes this machine tick now"),
            ("agent schedule cron", "a tick each minute"),
            ("agent schedule systemd --print", "only show the unit"),
        ],
    ),
    ("check", &[("agent check --offline", "only what needs no network")]),
    ("notify", &[("agent notify", "as hooks/post-receive of a repository on the git server")]),
    ("demo", &[("agent demo", "push, failure, fix and rollback, in a temporary directory")]),
];

/// The lines of the examples of `command`, such as `fleet forget`, in two columns.
pub fn examples(command: &str) -> Vec<String> {
    let all = EXAMPLES.iter().find(|(name, _)| *name == command).map_or(&[][..], |(_, all)| all);
    let last = |line: &str| line.lines().last().map_or(0, str::len);
    let width = all.iter().map(|(line, _)| last(line)).max().unwrap_or_default();
    let aligned =
        |(line, meaning): &(&str, &str)| format!("{line}{:1$}  {meaning}", "", width - last(line));
    all.iter().map(aligned).collect()
}

/// The grammar with the help for people.
pub fn for_people(program: Command) -> Command {
    let overview = overview(&program);
    let program = program.mut_args(|argument| {
        let is_global = argument.is_global_set();
        argument.hide(is_global)
    });
    let program = program.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        // In the overview they stand in groups.
        let command = command.after_help(below(&name)).hide(true);
        command.mut_subcommands(|inner| {
            let text = below(&format!("{name} {}", inner.get_name()));
            inner.after_help(text)
        })
    });
    program.override_usage("agent [OPTIONS] COMMAND [ARGUMENTS]").help_template(overview)
}

/// The text below the options of `command`.
fn below(command: &str) -> StyledStr {
    let examples = examples(command);
    let mut text = String::new();
    if !examples.is_empty() {
        text += &format!("{}\n  {}\n\n", heading("Examples"), examples.join("\n  "));
    }
    text += "Options for every command: agent --help";
    StyledStr::from(text)
}

fn heading(text: &str) -> String {
    format!("\u{1b}[1m\u{1b}[4m{text}:\u{1b}[0m")
}

/// The template of the help of the program itself.
fn overview(program: &Command) -> StyledStr {
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "\n{}", heading(title));
        for name in names {
            let about = program.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  \u{1b}[1m{name:<8}\u{1b}[0m  {about}");
        }
    }
    text += "\n{all-args}";
    let _ = writeln!(text, "\n\n{}", heading("Options for every command"));
    for option in program.get_arguments().filter(|argument| argument.is_global_set()) {
        let _ = writeln!(text, "  {}", line_of(option));
    }
    text.truncate(text.trim_end().len());
    text += "{after-help}";
    StyledStr::from(text)
}

/// A line such as `-v, --verbose  Log what is being done`.
fn line_of(option: &Arg) -> String {
    let short = option.get_short().map_or("    ".to_owned(), |short| format!("-{short}, "));
    let mut typed = format!("{short}--{}", option.get_long().unwrap_or_default());
    if option.get_action().takes_values() {
        let values = option.get_value_names().unwrap_or_default();
        typed += &format!(" <{}>", values.join(" "));
    }
    let help = option.get_help().map(ToString::to_string).unwrap_or_default();
    let env = option.get_env().map(|name| format!(" [env: {}]", name.to_string_lossy()));
    format!("\u{1b}[1m{typed:<28}\u{1b}[0m  {help}{}", env.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_command_that_people_type_is_in_one_group_and_has_an_example_that_it_takes() {
        let program = Cli::command();
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let groups = GROUPS.iter().filter(|(_, names)| names.contains(&name)).count();
            assert_eq!(groups, 1, "{name}");
            assert!(!examples(name).is_empty(), "{name}");
        }
        for (line, _) in EXAMPLES.iter().flat_map(|(_, all)| *all) {
            let line = line.split(" && ").next().unwrap_or_default().replace("\\\n", "");
            let words = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            let parsed = Cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }
}
