//! `agent check`: prints the findings on everything that the agent depends on. Checks nothing itself.

use std::path::Path;

use anyhow::Result;
use comfy_table::Cell;

use crate::cli::{self, GlobalArgs};
use crate::cmd::format;
use crate::domain::repository::state::Severity;
use crate::engine::finding::{CheckFinding, CheckScope, FindingLevel};
use crate::engine::operator::check;
use crate::exit::ExitStatus;
use crate::system::host::Host;

/// `agent check [--offline]`
///
/// # Errors
/// When stdout cannot be written.
pub fn run(global: &GlobalArgs, args: &cli::CheckArgs) -> Result<ExitStatus> {
    let settings = match super::settings(global) {
        Ok(settings) => settings,
        Err(error) => {
            format::print(&text(&check::misconfigured(&error), FindingLevel::Ok))?;
            return Ok(ExitStatus::Usage);
        }
    };
    let scope = if args.offline { CheckScope::Machine } else { CheckScope::Remotes };
    let is_wrong = !settings.faults.is_empty();
    let verdicts = check::check(settings, Host::current(), scope, Path::new("/"));
    let least = if global.quiet { FindingLevel::Warn } else { FindingLevel::Ok };
    format::print(&text(&verdicts, least))?;
    Ok(match count(&verdicts, FindingLevel::Bad) {
        _ if is_wrong => ExitStatus::Usage,
        0 => ExitStatus::Fine,
        _ => ExitStatus::Attention,
    })
}

/// The findings that are at least as bad as `least`, and how many are not ok.
pub fn text(verdicts: &[CheckFinding], least: FindingLevel) -> String {
    let mut rows = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| verdict.level >= least) {
        let (word, severity) = word(verdict.level);
        rows.push(vec![
            Cell::new(word).fg(format::colour(severity)),
            Cell::new(format::escaped(&verdict.subject)),
            Cell::new(format::escaped(&verdict.text)),
        ]);
        rows.extend(verdict.remedy.iter().map(|remedy| {
            vec![
                Cell::new(""),
                Cell::new(""),
                Cell::new(format!("hint: {}", format::escaped(remedy))),
            ]
        }));
    }
    // No line is cut: half a hint is useless.
    let mut text: String =
        format::table(rows, 2, None).into_iter().map(|line| line + "\n").collect();
    let (bad, warnings) = (count(verdicts, FindingLevel::Bad), count(verdicts, FindingLevel::Warn));
    if least == FindingLevel::Ok || bad + warnings > 0 {
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

fn word(level: FindingLevel) -> (&'static str, Severity) {
    match level {
        FindingLevel::Ok => ("ok", Severity::Ok),
        FindingLevel::Warn => ("warn", Severity::Warning),
        FindingLevel::Bad => ("bad", Severity::Critical),
    }
}

fn count(verdicts: &[CheckFinding], level: FindingLevel) -> usize {
    verdicts.iter().filter(|verdict| verdict.level == level).count()
}
