//! `agent diff REPO`: how the files here differ from the applied revision, as git shows it.

use std::io::{self, IsTerminal};

use anyhow::Result;

use super::helper;
use crate::cli;
use crate::cmd::format;
use crate::engine::context::Context;
use crate::engine::operator::diff;
use crate::engine::repository::limits;
use crate::engine::tick::user_helper::CommandExtent;
use crate::exit::ExitStatus;

/// `agent diff REPO`: 1 where something differs, as `git diff --exit-code`.
///
/// # Errors
/// When the repository cannot be read, or nothing is applied yet.
pub fn run(context: &Context, args: &cli::DiffArgs) -> Result<ExitStatus> {
    let (ours, code) =
        helper::ours(context, std::slice::from_ref(&args.repo), CommandExtent::Look)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    let difference = limits::within(context, repo, diff::diff)?;
    // For a program it is what git would write, also what no terminal should get.
    let text = match io::stdout().is_terminal() {
        true => for_a_terminal(&difference.text).into_bytes(),
        false => difference.text,
    };
    let print = |bytes: &[u8]| format::print_to(io::stdout().lock(), bytes);
    print(&text)?;
    if difference.left_out > 0 {
        let left_out = difference.left_out;
        print(format!("and {left_out} more files, whose difference is left out\n").as_bytes())?;
    }
    Ok(if difference.files == 0 { ExitStatus::Fine } else { ExitStatus::Attention })
}

/// The text with its control characters escaped, but for tabs and the ends of lines.
fn for_a_terminal(text: &[u8]) -> String {
    let line = |line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        text.split('\t').map(format::escaped).collect::<Vec<_>>().join("\t")
    };
    text.split(|byte| *byte == b'\n').map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters_but_tabs_and_line_ends() {
        assert_eq!(for_a_terminal(b"+a\tb\x1b[31m\n"), "+a\tb\\u{1b}[31m\n");
    }
}
