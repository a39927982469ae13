//! `agent check`: a verdict on everything that the agent depends on, and what to do about it.

use std::path::Path;

use anyhow::Result;
use comfy_table::Cell;

use super::show;
use crate::cli::{self, Global};
use crate::domain::status::Severity;
use crate::engine::check::{self, Level, Scope, Verdict};
use crate::exit::Code;
use crate::system::node::Node;

/// `agent check [--offline]`
///
/// # Errors
/// When stdout cannot be written.
pub fn run(global: &Global, args: &cli::Check) -> Result<Code> {
    let settings = match super::settings(global) {
        Ok(settings) => settings,
        Err(error) => {
            show::print(&text(&[check::misconfigured(&error)], Level::Ok))?;
            return Ok(Code::Usage);
        }
    };
    let scope = if args.offline { Scope::Machine } else { Scope::Remotes };
    let verdicts = check::check(settings, Node::here(), scope, Path::new("/"));
    let least = if global.quiet { Level::Warn } else { Level::Ok };
    show::print(&text(&verdicts, least))?;
    Ok(match count(&verdicts, Level::Bad) {
        0 => Code::Fine,
        _ => Code::Attention,
    })
}

/// The verdicts that are at least as bad as `least`, and how many are not ok.
fn text(verdicts: &[Verdict], least: Level) -> String {
    let mut rows = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| verdict.level >= least) {
        let (word, severity) = word(verdict.level);
        rows.push(vec![
            Cell::new(word).fg(show::colour(severity)),
            Cell::new(show::escaped(&verdict.subject)),
            Cell::new(show::escaped(&verdict.text)),
        ]);
        rows.extend(verdict.remedy.iter().map(|remedy| {
            vec![
                Cell::new(""),
                Cell::new(""),
                Cell::new(format!("hint: {}", show::escaped(remedy))),
            ]
        }));
    }
    // Nothing is cut: half a remedy is none.
    let mut text: String = show::table(rows, 2, None).into_iter().map(|line| line + "\n").collect();
    let (bad, warnings) = (count(verdicts, Level::Bad), count(verdicts, Level::Warn));
    if least == Level::Ok || bad + warnings > 0 {
        let number = |count: usize, word: &str| match count {
            0 => format!("no {word}s"),
            1 => format!("1 {word}"),
            _ => format!("{count} {word}s"),
        };
        text += &match (bad, warnings) {
            (0, 0) => "\nAll is well.\n".to_owned(),
            (0, _) => format!("\nNo errors, {}.\n", number(warnings, "warning")),
            (_, 0) => format!("\n{}.\n", number(bad, "error")),
            _ => format!("\n{}, {}.\n", number(bad, "error"), number(warnings, "warning")),
        };
    }
    text
}

fn word(level: Level) -> (&'static str, Severity) {
    match level {
        Level::Ok => ("ok", Severity::Ok),
        Level::Warn => ("warn", Severity::Warning),
        Level::Bad => ("bad", Severity::Critical),
    }
}

fn count(verdicts: &[Verdict], level: Level) -> usize {
    verdicts.iter().filter(|verdict| verdict.level == level).count()
}
