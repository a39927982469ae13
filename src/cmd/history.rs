//! `agent history`: prints the finished runs of this machine and the acts of people, newest first. Reads no
//! record itself.

use anstream::adapter::strip_str;
use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use comfy_table::Cell;
use serde::Serialize;

use crate::cli;
use crate::cmd::format;
use crate::domain::followed::named;
use crate::domain::repository::action::{FinishedRun, Outcome};
use crate::domain::repository::history::{HistoryEntry, PersonAct};
use crate::domain::repository::state::Severity;
use crate::engine::context::Context;
use crate::engine::operator;
use crate::exit::ExitStatus;
use crate::system::host;

/// Consecutive successes of one revision, or one other entry.
struct HistoryGroup<'a> {
    repository: &'a str,
    entry: &'a HistoryEntry,
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    count: u32,
}

#[derive(Serialize)]
struct HistoryRecord<'a> {
    repository: &'a str,
    #[serde(flatten)]
    entry: &'a HistoryEntry,
    #[serde(flatten)]
    times: Option<RunTimes>,
}

/// How often and when the runs of one entry ended. A single run's record has none of its own.
#[derive(Serialize)]
struct RunTimes {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<DateTime<Utc>>,
    last: DateTime<Utc>,
}

impl<'a> HistoryRecord<'a> {
    fn of(repository: &'a str, entry: &'a HistoryEntry) -> Self {
        let times = entry.run().map(|run| RunTimes {
            count: (run.count == 1).then_some(1),
            first: run.first.is_none().then_some(run.at),
            last: run.at,
        });
        Self { repository, entry, times }
    }
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

/// The history as text: a line for each of the newest `limit` entries. Consecutive successes of one revision
/// count as one entry, at the place of the first.
pub fn text(
    histories: &[(String, Vec<HistoryEntry>)],
    limit: usize,
    width: Option<u16>,
    now: DateTime<Utc>,
) -> String {
    let mut groups: Vec<_> = histories.iter().flat_map(|(name, all)| grouped(name, all)).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.first));
    groups.truncate(limit);
    if groups.is_empty() {
        return "nothing was applied yet\n".to_owned();
    }
    let several = histories.len() > 1;
    let rows = groups.iter().map(|group| cells(group, several, width, now)).collect();
    let mut lines = Vec::new();
    for (group, line) in groups.iter().zip(format::table(rows, 1, width)) {
        // What the table had to cut stands below, whole.
        let what = what(group.entry);
        let cut = Some(what).filter(|what| !strip_str(&line).to_string().contains(what));
        lines.push(line);
        for below in cut.into_iter().chain(detail(group.entry, now)) {
            lines.extend(format::wrapped(&below, "    ", width));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The revision and its subject, or what a person did.
fn what(entry: &HistoryEntry) -> String {
    match entry {
        HistoryEntry::Run(run) => {
            let of_ref = run.reference.as_deref().map_or(String::new(), |name| {
                format!("{} ", format::escaped(name.strip_prefix("refs/heads/").unwrap_or(name)))
            });
            let revision = named(run.tag.as_deref(), run.revision);
            format!("{of_ref}{revision} {}", format::escaped(&run.subject))
        }
        HistoryEntry::Act(act) => {
            let of =
                act.revision.map_or(String::new(), |revision| format!(" {}", revision.short()));
            format!("{}{of}", act.act.as_str())
        }
    }
}

/// What a table has no room for: the reason of an act or of a failure.
fn detail(entry: &HistoryEntry, now: DateTime<Utc>) -> Option<String> {
    match entry {
        HistoryEntry::Act(PersonAct { reason, until, .. }) => {
            let until = until.map(|until| format!("ends {}", format::when(until, now)));
            let parts: Vec<String> =
                reason.as_deref().map(format::escaped).into_iter().chain(until).collect();
            (!parts.is_empty()).then(|| parts.join(", "))
        }
        HistoryEntry::Run(run) => match &run.outcome {
            Outcome::Hindered { reason } => Some(format::reason_and_hint(reason).0),
            _ => run
                .signer
                .as_ref()
                .map(|it| format!("signed by {}", format::escaped(&it.to_string()))),
        },
    }
}

/// The newest `limit` entries as a JSON array of objects.
///
/// # Errors
/// When the JSON cannot be made, which does not happen for a tick's records.
pub fn json(histories: &[(String, Vec<HistoryEntry>)], limit: usize) -> Result<String> {
    let mut records: Vec<_> = histories
        .iter()
        .flat_map(|(name, all)| all.iter().map(move |entry| HistoryRecord::of(name, entry)))
        .collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.entry.at()));
    records.truncate(limit);
    let text = serde_json::to_string_pretty(&records).context("cannot write history as JSON")?;
    Ok(text + "\n")
}

fn grouped<'a>(repository: &'a str, entries: &'a [HistoryEntry]) -> Vec<HistoryGroup<'a>> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.at());
    let mut groups: Vec<HistoryGroup<'a>> = Vec::new();
    for entry in sorted {
        let (first, count) = entry.run().map_or((entry.at(), 1), |run| (run.first_at(), run.count));
        match (groups.last_mut(), entry.run()) {
            (Some(group), Some(run)) if group.entry.run().is_some_and(|it| is_again(it, run)) => {
                group.last = run.at;
                group.count += count;
            }
            _ => groups.push(HistoryGroup { repository, entry, first, last: entry.at(), count }),
        }
    }
    groups
}

/// Whether both are successes of one revision.
fn is_again(run: &FinishedRun, next: &FinishedRun) -> bool {
    run.outcome == Outcome::Succeeded
        && next.outcome == Outcome::Succeeded
        && (run.revision, &run.reference) == (next.revision, &next.reference)
}

fn cells(group: &HistoryGroup, several: bool, width: Option<u16>, now: DateTime<Utc>) -> Vec<Cell> {
    let when = Cell::new(format::when_fitting(width, group.first, now));
    let mut cells = vec![when, Cell::new(what(group.entry))];
    cells.extend(match group.entry {
        HistoryEntry::Run(run) => run_cells(group, run, width, now),
        HistoryEntry::Act(act) => act_cells(act),
    });
    if several {
        // After the elastic column, whose index must not change.
        cells.insert(2, Cell::new(format::escaped(group.repository)));
    }
    cells
}

/// Who it was, and from where.
fn act_cells(act: &PersonAct) -> Vec<Cell> {
    let from = act.who.from.as_deref().map(|from| format!(" from {}", format::escaped(from)));
    let who = format!("by {}{}", format::escaped(&act.who.name), from.unwrap_or_default());
    vec![Cell::new("person"), Cell::new(""), Cell::new(who)]
}

fn run_cells(
    group: &HistoryGroup,
    run: &FinishedRun,
    width: Option<u16>,
    now: DateTime<Utc>,
) -> Vec<Cell> {
    let ending = match &run.outcome {
        numbered @ (Outcome::Failed { .. } | Outcome::Killed { .. }) => numbered.to_string(),
        Outcome::Succeeded if run.ran_nothing() => "nothing to run".to_owned(),
        outcome => outcome.word().to_owned(),
    };
    let outcome = match group.count {
        1 if run.attempt > 1 => format!("{ending}, attempt {}", run.attempt),
        1 => ending,
        times => {
            format!("{ending} ×{times}, last {}", format::when_fitting(width, group.last, now))
        }
    };
    let severity = match run.outcome {
        Outcome::Succeeded => Severity::Ok,
        Outcome::Deferred => Severity::Warning,
        _ => Severity::Critical,
    };
    vec![
        Cell::new(run.trigger),
        Cell::new(format::seconds(run.seconds)),
        Cell::new(outcome).fg(format::colour(severity)),
    ]
}

#[cfg(test)]
mod tests {
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
            tag: None,
            previous: None,
            trigger: Trigger::Cron,
            outcome,
            attempt: 1,
            seconds: 0.84,
            log: Some("1.log".into()),
            tree: None,
            signer: None,
            count: 1,
            first: None,
        }
    }

    fn of(name: &str, runs: Vec<FinishedRun>) -> (String, Vec<HistoryEntry>) {
        (name.to_owned(), runs.into_iter().map(HistoryEntry::Run).collect())
    }

    fn plain(histories: &[(String, Vec<HistoryEntry>)], limit: usize) -> Vec<String> {
        let text = strip_str(&text(histories, limit, None, now())).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn history_is_listed_newest_first_with_repeated_successes_folded() {
        let mut runs: Vec<_> = (1..=12).map(|n| run("b", n * 2, Outcome::Succeeded)).collect();
        runs.push(run("a", 59, Outcome::Succeeded));
        runs.push(FinishedRun { attempt: 2, ..run("b", 30, Outcome::Failed { code: 3 }) });
        let lines = plain(&[of("spog", runs)], 10);
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
        assert_eq!(plain(&[of("spog", runs)], 10).len(), 3);
    }

    #[test]
    fn what_hindered_an_action_is_printed_below_it() {
        let reason = "cannot write: disk full\nhint: make room".to_owned();
        let lines = plain(&[of("spog", vec![run("a", 5, Outcome::Hindered { reason })])], 10);
        assert!(lines[0].ends_with("  hindered"), "{lines:?}");
        assert_eq!(lines[1], "    cannot write: disk full");
    }

    #[test]
    fn several_repositories_are_merged_by_time_and_named() {
        let histories = [
            of("ops", vec![run("a", 5, Outcome::TimedOut)]),
            of("spog\u{1b}", vec![run("b", 3, Outcome::Succeeded)]),
        ];
        let lines = plain(&histories, 10);
        assert!(lines[0].contains("spog\\u{1b}") && lines[1].contains("ops"), "{lines:?}");
        assert_eq!(plain(&histories, 1).len(), 1);
        assert_eq!(plain(&[], 1), ["nothing was applied yet"]);
    }

    #[test]
    fn no_terminal_is_too_narrow_for_a_subject() {
        let subject = "Serve the new page to everybody who asks for it".to_owned();
        let run = FinishedRun { subject: subject.clone(), ..run("a", 5, Outcome::Succeeded) };
        for width in [40, 60, 80, 140] {
            let text = text(&[of("spog", vec![run.clone()])], 10, Some(width), now());
            let text = strip_str(&text).to_string();
            let words: Vec<_> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(&subject), "{width}: {text}");
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
            assert!(widest <= usize::from(width) || width < 60, "{width}: {text}");
        }
    }

    #[test]
    fn programs_get_every_run() {
        let runs = (1..=3).map(|n| run("b", n, Outcome::Succeeded)).collect();
        let text = json(&[of("spog", runs)], 2).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_array().map(Vec::len), Some(2));
        assert_eq!(value[0]["repository"], "spog");
        assert_eq!(value[0]["id"], "b-1");
        assert_eq!(value[0]["trigger"], "cron");
        assert_eq!(value[0]["outcome"]["kind"], "succeeded");
        assert_eq!((&value[0]["count"], &value[0]["first"]), (&1.into(), &value[0]["last"]));
    }

    #[test]
    fn an_act_names_the_person_and_the_reason() {
        use crate::domain::repository::history::ActKind;
        use crate::domain::repository::hold::Person;
        let (name, from) = ("ann\u{1b}".to_owned(), Some("10.0.0.7".to_owned()));
        let act = PersonAct {
            at: now() - Duration::minutes(7),
            act: ActKind::Hold,
            who: Person { name, from, login: Some(1000), ..Person::default() },
            reason: Some("restore\nfirst".to_owned()),
            revision: None,
            until: Some(now() + Duration::hours(1)),
        };
        let folded = FinishedRun { count: 3, ..run("b", 3, Outcome::Succeeded) };
        let first = Some(now() - Duration::minutes(5));
        let all = vec![HistoryEntry::Act(act), HistoryEntry::Run(FinishedRun { first, ..folded })];
        let histories = [("spog".to_owned(), all)];
        let lines = plain(&histories, 10);
        assert!(lines[0].contains("succeeded ×3, last 3 min ago"), "{lines:?}");
        assert!(lines[1].contains("hold") && lines[1].ends_with("by ann\\u{1b} from 10.0.0.7"));
        assert!(lines[2].starts_with("    restore\\nfirst, ends in 1 h, "), "{lines:?}");
        let value: serde_json::Value =
            serde_json::from_str(&json(&histories, 10).unwrap()).unwrap();
        assert_eq!((&value[0]["count"], &value[1]["act"]), (&3.into(), &"hold".into()));
        assert_eq!(value[1]["who"]["login"], 1000);
    }
}
