//! Prints the completions for a shell; packages put them where the shell looks.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::exit::Code;

/// Prints the completions for `args.shell`.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &Completions) -> Result<Code> {
    // Written at once: the generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agent", &mut text);
    std::io::stdout().write_all(&text).context("cannot write the completions")?;
    Ok(Code::Fine)
}
