//! `agent history`: prints the finished runs of this machine, newest first. Reads no record itself.

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use comfy_table::Cell;
use serde::Serialize;

use crate::cli;
use crate::cmd::format;
use crate::domain::repository::action::{FinishedRun, Outcome};
use crate::domain::repository::state::Severity;
use crate::engine::context::Context;
use crate::engine::operator;
use crate::exit::ExitStatus;
use crate::system::host;

/// Consecutive successes of one revision, or one other run.
struct RunGroup<'a> {
    repository: &'a str,
    first: &'a FinishedRun,
    last: &'a FinishedRun,
    times: usize,
}

#[derive(Serialize)]
struct HistoryRecord<'a> {
    repository: &'a str,
    #[serde(flatten)]
    finished: &'a FinishedRun,
}

/// `agent history [REPO] [-n N] [--json]`
///
/// # Errors
/// When a repository is not known, its history cannot be read, or stdout cannot be written.
pub fn run(context: &Context, args: &cli::HistoryArgs) -> Result<ExitStatus> {
    let names: Vec<String> = args.repo.iter().cloned().collect();
    let (mut histories, mut unread) = (Vec::new(), None);
    for (name, found) in operator::histories(context, &names)? {
        match found {
            Ok(runs) => histories.push((name, runs)),
            // Of several repositories, one with an unreadable history does not stop the others.
            Err(why) if names.is_empty() => {
                tracing::warn!(repository = %name, %why, "left out");
                unread = unread.or(Some(why));
            }
            Err(why) => bail!(why),
        }
    }
    if let (Some(why), true) = (unread, histories.is_empty()) {
        bail!(why);
    }
    format::print(&match args.json {
        true => json(&histories, args.count)?,
        false => text(&histories, args.count, format::width(), host::now()),
    })?;
    Ok(ExitStatus::Fine)
}

/// The history as text: a line for each of the newest `limit` runs. Consecutive successes of one revision
/// count as one run, at the place of the first.
pub fn text(
    histories: &[(String, Vec<FinishedRun>)],
    limit: usize,
    width: Option<u16>,
    now: DateTime<Utc>,
) -> String {
    let mut folds: Vec<_> = histories.iter().flat_map(|(name, runs)| folded(name, runs)).collect();
    folds.sort_by_key(|fold| std::cmp::Reverse(fold.first.at));
    folds.truncate(limit);
    if folds.is_empty() {
        return "nothing was applied yet\n".to_owned();
    }
    let several = histories.len() > 1;
    let rows = folds.iter().map(|fold| cells(fold, several, width, now)).collect();
    let mut lines = Vec::new();
    for (fold, line) in folds.iter().zip(format::table(rows, 1, width)) {
        lines.push(line);
        if let Outcome::Hindered { reason } = &fold.first.outcome {
            lines.push(format!("    {}", format::reason_and_hint(reason).0));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The newest `limit` runs as a JSON array of objects, none of them grouped.
///
/// # Errors
/// When the JSON cannot be made, which does not happen for a tick's records.
pub fn json(histories: &[(String, Vec<FinishedRun>)], limit: usize) -> Result<String> {
    let mut records: Vec<_> = histories
        .iter()
        .flat_map(|(repository, runs)| {
            runs.iter().map(move |finished| HistoryRecord { repository, finished })
        })
        .collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.finished.at));
    records.truncate(limit);
    let text = serde_json::to_string_pretty(&records).context("cannot write history as JSON")?;
    Ok(text + "\n")
}

fn folded<'a>(repository: &'a str, runs: &'a [FinishedRun]) -> Vec<RunGroup<'a>> {
    let mut sorted: Vec<_> = runs.iter().collect();
    sorted.sort_by_key(|run| run.at);
    let mut folds: Vec<RunGroup<'a>> = Vec::new();
    for run in sorted {
        match folds.last_mut() {
            Some(fold)
                if run.outcome == Outcome::Succeeded
                    && fold.last.outcome == Outcome::Succeeded
                    && fold.last.revision == run.revision
                    && fold.last.reference == run.reference =>
            {
                fold.last = run;
                fold.times += 1;
            }
            _ => folds.push(RunGroup { repository, first: run, last: run, times: 1 }),
        }
    }
    folds
}

fn cells(fold: &RunGroup, several: bool, width: Option<u16>, now: DateTime<Utc>) -> Vec<Cell> {
    let run = fold.first;
    let of_ref = run.reference.as_deref().map_or(String::new(), |name| {
        format!("{} ", format::escaped(name.strip_prefix("refs/heads/").unwrap_or(name)))
    });
    let revision = format!("{of_ref}{} {}", run.revision.short(), format::escaped(&run.subject));
    let ending = match &run.outcome {
        numbered @ (Outcome::Failed { .. } | Outcome::Killed { .. }) => numbered.to_string(),
        Outcome::Succeeded if run.ran_nothing() => "nothing to run".to_owned(),
        outcome => outcome.word().to_owned(),
    };
    let outcome = match fold.times {
        1 if run.attempt > 1 => format!("{ending}, attempt {}", run.attempt),
        1 => ending,
        times => {
            format!("{ending} ×{times}, last {}", format::when_fitting(width, fold.last.at, now))
        }
    };
    let severity = match run.outcome {
        Outcome::Succeeded => Severity::Ok,
        Outcome::Deferred => Severity::Warning,
        _ => Severity::Critical,
    };
    let mut cells = vec![
        Cell::new(format::when_fitting(width, run.at, now)),
        Cell::new(revision),
        Cell::new(run.trigger),
        Cell::new(format::seconds(fold.last.seconds)),
        Cell::new(outcome).fg(format::colour(severity)),
    ];
    if several {
        // After the elastic column, whose index must not change.
        cells.insert(2, Cell::new(format::escaped(fold.repository)));
    }
    cells
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use chrono::Duration;

    use super::*;
    use crate::domain::repository::action::Trigger;

    fn now() -> DateTime<Utc> {
        "2026-11-22T09:00:00Z".parse().unwrap()
    }

    fn run(digit: &str, minutes_ago: i64, outcome: Outcome) -> FinishedRun {
        FinishedRun {
            id: format!("{digit}-{minutes_ago}"),
            at: now() - Duration::minutes(minutes_ago),
            revision: digit.repeat(40).parse().unwrap(),
            subject: format!("subject {digit}"),
            reference: None,
            previous: None,
            trigger: Trigger::Cron,
            outcome,
            attempt: 1,
            seconds: 0.84,
            log: Some("log".to_owned()),
        }
    }

    fn plain(histories: &[(String, Vec<FinishedRun>)], limit: usize) -> Vec<String> {
        let text = strip_str(&text(histories, limit, None, now())).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn history_is_listed_newest_first_with_repeated_successes_folded() {
        let mut runs: Vec<_> = (1..=12).map(|n| run("b", n * 2, Outcome::Succeeded)).collect();
        runs.push(run("a", 59, Outcome::Succeeded));
        runs.push(FinishedRun { attempt: 2, ..run("b", 30, Outcome::Failed { code: 3 }) });
        let lines = plain(&[("spog".into(), runs)], 10);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("24 min ago, "), "{lines:?}");
        assert!(
            lines[0].contains("  bbbbbbb subject b  cron  0.8 s  succeeded ×12, last 2 min ago, ")
        );
        assert!(lines[1].ends_with("bbbbbbb subject b  cron  0.8 s  exited 3, attempt 2"));
        assert!(lines[2].ends_with("aaaaaaa subject a  cron  0.8 s  succeeded"));
    }

    #[test]
    fn a_return_to_an_older_revision_is_not_folded_into_its_first_time() {
        let runs = ["a", "b", "a"].iter().zip([30, 20, 10]);
        let runs = runs.map(|(digit, ago)| run(digit, ago, Outcome::Succeeded)).collect();
        assert_eq!(plain(&[("spog".into(), runs)], 10).len(), 3);
    }

    #[test]
    fn what_hindered_an_action_is_printed_below_it() {
        let reason = "cannot write: disk full\nhint: make room".to_owned();
        let lines = plain(&[("spog".into(), vec![run("a", 5, Outcome::Hindered { reason })])], 10);
        assert!(lines[0].ends_with("  hindered"), "{lines:?}");
        assert_eq!(lines[1], "    cannot write: disk full");
    }

    #[test]
    fn several_repositories_are_merged_by_time_and_named() {
        let histories = [
            ("ops".to_owned(), vec![run("a", 5, Outcome::TimedOut)]),
            ("spog\u{1b}".to_owned(), vec![run("b", 3, Outcome::Succeeded)]),
        ];
        let lines = plain(&histories, 10);
        assert!(lines[0].contains("spog\\u{1b}") && lines[1].contains("ops"), "{lines:?}");
        assert_eq!(plain(&histories, 1).len(), 1);
        assert_eq!(plain(&[], 1), ["nothing was applied yet"]);
    }

    #[test]
    fn programs_get_every_run() {
        let runs = (1..=3).map(|n| run("b", n, Outcome::Succeeded)).collect();
        let text = json(&[("spog".into(), runs)], 2).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_array().map(Vec::len), Some(2));
        assert_eq!(value[0]["repository"], "spog");
        assert_eq!(value[0]["id"], "b-1");
        assert_eq!(value[0]["trigger"], "cron");
        assert_eq!(value[0]["outcome"]["kind"], "succeeded");
    }
}
