//! Writes the manual pages from sources that say the same elsewhere, so that the two cannot disagree: the
//! commands' pages from the command line's help, agent.toml(5) from docs/configuration.md.

mod markdown;

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};

use crate::cli::{Cli, ManArgs};
use crate::exit::ExitStatus;
use crate::system::files;

const SOURCE: &str = concat!("agent ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "Push-Me-Pull-You";
const CONFIGURATION: &str = include_str!("../../docs/configuration.md");

/// Writes every page into the directory `args.dir`: `agent.1`, `agent-COMMAND.1` for each command that
/// the help lists, and `agent.toml.5`.
///
/// # Errors
/// When the directory does not exist or cannot be written.
pub fn run(args: &ManArgs) -> Result<ExitStatus> {
    let mut agent = Cli::command().disable_help_subcommand(true);
    agent.build();
    write_command(&args.dir, agent.clone())?;
    for command in agent.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_command(&args.dir, command.clone())?;
    }
    files::put(&args.dir, "agent.toml.5", configuration()?.as_bytes(), 0o644)?;
    Ok(ExitStatus::Fine)
}

fn write_command(dir: &Path, command: clap::Command) -> Result<()> {
    let page = Page::new(command).source(SOURCE).manual(MANUAL);
    let name = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text).with_context(|| format!("cannot make the manual page {name}"))?;
    let mut others = Roff::new();
    others.control("SH", ["SEE ALSO"]).text([roman("agent(1), agent.toml(5)")]);
    text.extend(others.to_roff().bytes());
    files::put(dir, &name, &text, 0o644)
}

/// The text of agent.toml(5). The manual page's own title replaces the Markdown title.
fn configuration() -> Result<String> {
    let mut page = Roff::new();
    page.control("TH", ["agent.toml", "5", "", SOURCE, MANUAL]);
    // Keys and paths must be neither stretched nor hyphenated.
    page.control("ad", ["l"]).control("nh", []);
    page.control("SH", ["NAME"]);
    page.text([roman("agent.toml - the configuration of agent(1)")]);
    page.control("SH", ["DESCRIPTION"]);
    let text = CONFIGURATION.split_once('\n').map_or("", |(_title, text)| text);
    markdown::render(text, &mut page).context("cannot make the manual page agent.toml.5")?;
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("agent(1), agent-check(1), agent-explain(1)")]);
    Ok(page.render())
}
