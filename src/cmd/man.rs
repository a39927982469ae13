//! Writes the manual pages from sources that say the same elsewhere, so that the two cannot disagree: the
//! commands' pages from the command line's help, agent.toml(5) from docs/configuration.md by the build.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap::builder::Resettable;
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, ManArgs, help};
use crate::exit::ExitStatus;
use crate::system::files;

const SOURCE: &str = concat!("agent ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "Push-Me-Pull-You";
const CONFIGURATION: &str = include_str!(concat!(env!("OUT_DIR"), "/agent.toml.5"));

/// Writes every page into the directory `args.dir`: `agent.1`, `agent-COMMAND.1` for each command that
/// the help lists, `agent-COMMAND-SUBCOMMAND.1`, and `agent.toml.5`.
///
/// # Errors
/// When the directory does not exist or cannot be written.
pub fn run(args: &ManArgs) -> Result<ExitStatus> {
    let mut agent = Cli::command().disable_help_subcommand(true);
    agent.build();
    write_command(&args.dir, agent.clone())?;
    for command in agent.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_command(&args.dir, command.clone())?;
        for inner in command.get_subcommands() {
            write_command(&args.dir, inner.clone())?;
        }
    }
    files::put(&args.dir, "agent.toml.5", CONFIGURATION.as_bytes(), 0o644)?;
    Ok(ExitStatus::Fine)
}

fn write_command(dir: &Path, command: clap::Command) -> Result<()> {
    let typed = command.get_bin_name().unwrap_or_default();
    let name = typed.strip_prefix("agent ").unwrap_or_default().to_owned();
    let is_whole = name.is_empty();
    let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    // The help of the program ends with its examples and, behind an empty line, the exit codes.
    let overview = below.lines().skip(1).take_while(|line| !line.is_empty());
    let overview: Vec<String> = overview.map(|line| line.trim_start().to_owned()).collect();
    let command = command.after_help(Resettable::Reset).mut_args(|argument| {
        // agent(1) has them.
        let is_elsewhere = !is_whole && argument.is_global_set();
        argument.hide(is_elsewhere)
    });
    let page = Page::new(command).source(SOURCE).manual(MANUAL);
    let file = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text).with_context(|| format!("cannot make the manual page {file}"))?;
    let mut rest = Roff::new();
    let lines = if is_whole { overview } else { help::examples(&name) };
    rest.control("SH", ["EXAMPLES"]).control("EX", []);
    for line in lines.iter().flat_map(|line| line.lines()) {
        rest.text([roman(line)]);
    }
    rest.control("EE", []);
    let see_also = match is_whole {
        true => {
            for (title, entries) in SECTIONS {
                rest.control("SH", [title]);
                for (term, meaning) in entries {
                    rest.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
                }
            }
            "agent.toml(5), git(1), cron(8), crontab(5), systemd(1)"
        }
        false => "agent(1), agent.toml(5)",
    };
    rest.control("SH", ["SEE ALSO"]).text([roman(see_also)]);
    text.extend(rest.to_roff().bytes());
    files::put(dir, &file, &text, 0o644)
}

/// The sections of agent(1) that the help does not have: for root, with what other users have in brackets.
const SECTIONS: [(&str, &[(&str, &str)]); 3] = [
    (
        "FILES",
        &[
            (
                "/etc/pmpy/agent.toml, /etc/pmpy/agent.d/*.toml",
                "The configuration [~/.config/pmpy/].",
            ),
            ("/root/gitrepo/", "The root: one git clone for each repository [~/gitrepo/]."),
            (
                "REPO/.temp/nodeinfo/lastaction.txt",
                "The revision that was applied last. Remove it, and the next tick applies again.",
            ),
            (
                "REPO/.temp/nodeinfo/currentaction.txt",
                "The revision that is being applied. Written by anybody else, it holds the repository.",
            ),
            ("REPO/.git/pmpy/", "The state of the repository."),
            (
                "/var/lib/pmpy/status.json, last-tick",
                "What agent status --json prints, and the time of the last tick [~/.local/state/pmpy/].",
            ),
            ("/var/log/pmpy/REPO/", "The output of the last 50 actions, or of 30 days."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("AGENT_CONFIG", "As --config."),
            ("AGENT_ROOT", "As --root."),
            ("NO_COLOR", "Print no colours."),
            ("https_proxy, all_proxy, no_proxy", "The proxy, where the configuration names none."),
            ("TZ", "The zone of printed times."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Fine; for a tick without a name also: nothing to do, or busy elsewhere."),
            (
                "1",
                "A repository needs attention, or a named tick did not bring it to the revision of upstream, \
                 or no tick came for five minutes (status).",
            ),
            ("2", "Wrong usage or configuration; wins over 1."),
            ("70", "A bug: please report it."),
            ("0, 1, 2, 3", "agent status --nagios: ok, warning, critical, unknown."),
        ],
    ),
];
