//! Prints the completions for a shell; packages install them where the shell looks for them. They offer what
//! people type, and ask `agent completions --names` for the names of the repositories.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::exit::ExitStatus;

/// Prints the completions for the shell of `args`.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<ExitStatus> {
    // Generated into memory first: the generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agent", &mut text);
    std::io::stdout().write_all(&text).context("cannot write the completions")?;
    Ok(ExitStatus::Fine)
}
