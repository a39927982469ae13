//! Asks a person before something is removed. Knows nothing of what.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::Result;

use crate::cmd::format;
use crate::exit::UsageError;

/// Prints `list`, what is to be removed, and asks on a terminal; with `yes` it does not ask. `line` is the command
/// line that does not ask either.
///
/// # Errors
/// When there is no terminal to ask on.
pub fn is_confirmed(list: &str, yes: bool, line: &str) -> Result<bool> {
    if yes {
        format::print(list)?;
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        format::print(list)?;
        return Err(UsageError(format!(
            "nothing was removed: there is no terminal to ask on\nhint: {line}"
        ))
        .into());
    }
    format::print(&format!("{list}remove them? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
