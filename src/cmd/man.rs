//! Prints manual pages made of the command line's own help, so that the two cannot disagree.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man as Page;

use crate::cli::{Cli, Man};
use crate::exit::{Code, Usage};

/// Prints the page of `args.command`, or that of the agent.
///
/// # Errors
/// When there is no such command or stdout cannot be written.
pub fn run(args: &Man) -> Result<Code> {
    let mut agent = Cli::command();
    agent.build();
    let command = match &args.command {
        None => &agent,
        Some(name) => agent.find_subcommand(name).ok_or_else(|| {
            Usage(format!(
                "there is no command \"{}\"\nhint: agent help lists them",
                name.escape_debug()
            ))
        })?,
    };
    let mut text = Vec::new();
    Page::new(command.clone())
        .source(concat!("agent ", env!("CARGO_PKG_VERSION")))
        .manual("Push-Me-Pull-You")
        .render(&mut text)
        .context("cannot make the manual page")?;
    std::io::stdout().write_all(&text).context("cannot write the manual page")?;
    Ok(Code::Fine)
}
