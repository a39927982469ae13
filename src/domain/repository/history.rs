//! The history of a repository: finished runs and the acts of people. Which lines are folded, which are kept,
//! and where a rollback leads. Knows no files.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, ObjectId};
use crate::domain::repository::action::{FinishedRun, Outcome, Trigger};
use crate::domain::repository::hold::Person;

/// The number of the newest entries that are kept in any case.
const NEWEST: usize = 1000;
/// The days for which every entry is kept.
const DAYS: i64 = 400;
/// The number of distinct successes that are kept in any case.
const SUCCESSES: usize = 20;

/// What a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActKind {
    /// `agent hold`
    Hold,
    /// `agent unhold`
    Unhold,
    /// `agent accept`
    Accept,
    /// `agent rollback`
    Rollback,
    /// `agent redo`
    Redo,
    /// `agent checkout`
    Checkout,
    /// `agent tick --override`
    Override,
}

impl ActKind {
    /// The word for people, as the command is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Unhold => "unhold",
            Self::Accept => "accept",
            Self::Rollback => "rollback",
            Self::Redo => "redo",
            Self::Checkout => "checkout",
            Self::Override => "override",
        }
    }
}

/// One act of a person, as `history` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonAct {
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub act: ActKind,
    /// Who.
    pub who: Person,
    /// Why, in the person's words, or what exactly; `None`: nothing more was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The revision that the act names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    /// When a hold ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HistoryEntry {
    /// An act of a person.
    Act(PersonAct),
    /// A finished run, or several at one revision.
    Run(FinishedRun),
}

impl HistoryEntry {
    /// When it happened; of several runs the last.
    pub fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Act(act) => act.at,
            Self::Run(run) => run.at,
        }
    }

    /// The run; `None`: it is a person's act.
    pub fn run(&self) -> Option<&FinishedRun> {
        match self {
            Self::Act(_) => None,
            Self::Run(run) => Some(run),
        }
    }

    fn success(&self) -> Option<&FinishedRun> {
        self.run().filter(|run| run.outcome == Outcome::Succeeded)
    }
}

/// Whether `next` repeats `run` without a person or a push: at one revision, with one outcome that needs
/// nobody.
fn repeats(run: &FinishedRun, next: &FinishedRun) -> bool {
    let is_periodic = matches!(run.trigger, Trigger::Cron | Trigger::Timer);
    let is_calm = matches!(run.outcome, Outcome::Succeeded | Outcome::Deferred);
    is_periodic
        && is_calm
        && (run.revision, &run.reference) == (next.revision, &next.reference)
        && (run.trigger, &run.outcome) == (next.trigger, &next.outcome)
}

/// `entries`, oldest first, with consecutive periodic runs at one revision as one entry: the last run, with
/// their number and the time of the first.
pub fn fold(entries: Vec<HistoryEntry>) -> Vec<HistoryEntry> {
    let mut folded: Vec<HistoryEntry> = Vec::new();
    for entry in entries {
        match (folded.last_mut(), entry) {
            (Some(HistoryEntry::Run(run)), HistoryEntry::Run(next)) if repeats(run, &next) => {
                let (first, count) = (run.first_at(), run.count.saturating_add(next.count));
                *run = FinishedRun { first: Some(first), count, ..next };
            }
            (_, entry) => folded.push(entry),
        }
    }
    folded
}

/// The last run of a repository that was reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedRun {
    /// Its id.
    pub id: String,
    /// When it ended.
    pub at: DateTime<Utc>,
}

impl ReportedRun {
    /// The mark of `run`.
    pub fn of(run: &FinishedRun) -> Self {
        Self { id: run.id.clone(), at: run.at }
    }
}

/// The `runs`, oldest first, behind the `last` reported one; where none was, those from `since` on.
pub fn unreported<'a>(
    runs: &'a [FinishedRun],
    last: Option<&ReportedRun>,
    since: DateTime<Utc>,
) -> &'a [FinishedRun] {
    let found = last.and_then(|last| runs.iter().rposition(|run| run.id == last.id));
    let first = match (found, last) {
        (Some(found), _) => found + 1,
        // These runs were read before the reported one was recorded, or the history was cut or folded since.
        (None, Some(last)) => runs.partition_point(|run| run.at <= last.at),
        (None, None) => runs.partition_point(|run| run.at < since),
    };
    runs.get(first..).unwrap_or_default()
}

/// What tells one success from another: the ref and the tree; of an older agent's record the revision.
fn content(run: &FinishedRun) -> (Option<&str>, ObjectId) {
    (run.reference.as_deref(), run.tree.unwrap_or(run.revision.0))
}

/// The indices of `entries`, oldest first, that a rollback needs: the first and the last of each of the newest
/// distinct successes.
fn needed(entries: &[HistoryEntry]) -> BTreeSet<usize> {
    let mut spans: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (at, run) in entries.iter().enumerate().filter_map(|(at, it)| Some((at, it.success()?))) {
        spans.entry(content(run)).or_insert((at, at)).1 = at;
    }
    let mut spans: Vec<_> = spans.into_values().collect();
    spans.sort_by_key(|(_, last)| std::cmp::Reverse(*last));
    spans.truncate(SUCCESSES);
    spans.into_iter().flat_map(|(first, last)| [first, last]).collect()
}

/// The `entries`, oldest first, that are kept at `now`: the newest, those of the last 400 days while there is
/// room for `most`, the newest distinct successes always. Of each kept success its first one is kept too:
/// without it a rollback could lead forward.
pub fn kept(entries: Vec<HistoryEntry>, most: usize, now: DateTime<Utc>) -> Vec<HistoryEntry> {
    let begin = now - TimeDelta::days(DAYS);
    let length = entries.len();
    let old = entries.iter().take_while(|entry| entry.at() < begin).count();
    let from = old.min(length.saturating_sub(NEWEST)).max(length.saturating_sub(most));
    let mut keep = needed(&entries);
    let mut firsts = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        let Some(run) = entry.success() else { continue };
        let first = *firsts.entry(content(run)).or_insert(at);
        if at >= from {
            keep.insert(first);
        }
    }
    let kept = |(at, entry)| (at >= from || keep.contains(&at)).then_some(entry);
    entries.into_iter().enumerate().filter_map(kept).collect()
}

/// The revision to which a rollback leads: the newest success before the tree `now` first succeeded that
/// `is_usable`; where it never succeeded, the newest with another tree. `None`: there is none. `tree_of` finds
/// the tree that a record of an older agent lacks.
pub fn way_back(
    runs: &[FinishedRun],
    now: Option<ObjectId>,
    tree_of: impl Fn(Commit) -> Option<ObjectId>,
    is_usable: impl Fn(Commit) -> bool,
) -> Option<Commit> {
    let successes: Vec<(Commit, Option<ObjectId>)> = runs
        .iter()
        .filter(|run| run.outcome == Outcome::Succeeded)
        .map(|run| (run.revision, run.tree.or_else(|| tree_of(run.revision))))
        .collect();
    let is_now = |tree: &Option<ObjectId>| now.is_some() && *tree == now;
    let first = successes.iter().position(|(_, tree)| is_now(tree));
    let before = successes.iter().take(first.unwrap_or(successes.len())).rev();
    before.map(|(revision, _)| *revision).find(|revision| is_usable(*revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-22T09:00:00Z".parse().unwrap()
    }

    fn id(number: usize) -> Commit {
        format!("{number:040x}").parse().unwrap()
    }

    /// A success of revision `number`, with the tree of the same number.
    fn run(number: usize, minutes_ago: i64) -> FinishedRun {
        FinishedRun {
            id: format!("{number}-{minutes_ago}"),
            at: now() - TimeDelta::minutes(minutes_ago),
            revision: id(number),
            subject: String::new(),
            reference: None,
            tag: None,
            previous: None,
            trigger: Trigger::Cron,
            outcome: Outcome::Succeeded,
            attempt: 1,
            seconds: 0.1,
            log: None,
            tree: Some(id(1000 + number).0),
            signer: None,
            count: 1,
            first: None,
        }
    }

    fn entries(runs: Vec<FinishedRun>) -> Vec<HistoryEntry> {
        runs.into_iter().map(HistoryEntry::Run).collect()
    }

    fn hold() -> HistoryEntry {
        let (at, act, who) = (now(), ActKind::Hold, Person::default());
        HistoryEntry::Act(PersonAct { at, act, who, reason: None, revision: None, until: None })
    }

    fn back(runs: &[FinishedRun], tree: usize) -> Option<Commit> {
        way_back(runs, Some(id(1000 + tree).0), |_| None, |_| true)
    }

    #[test]
    fn periodic_runs_at_one_revision_are_one_entry() {
        let failed = FinishedRun { outcome: Outcome::Failed { code: 3 }, ..run(2, 6) };
        let redo = FinishedRun { trigger: Trigger::Redo, ..run(2, 3) };
        let runs = vec![run(1, 9), run(1, 8), run(1, 7), failed.clone(), run(2, 5), redo];
        let folded = fold(entries(runs));
        let counts: Vec<u32> = folded.iter().map(|it| it.run().unwrap().count).collect();
        assert_eq!(counts, [3, 1, 1, 1]);
        let first = folded[0].run().unwrap();
        assert_eq!((first.first_at(), first.at), (run(1, 9).at, run(1, 7).at));
        assert_eq!(fold(folded.clone()), folded);
        // An act of a person between two runs is not hidden; a failure is one entry each.
        let between = vec![HistoryEntry::Run(run(1, 9)), hold(), HistoryEntry::Run(run(1, 8))];
        assert_eq!(fold(between).len(), 3);
        assert_eq!(fold(entries(vec![failed.clone(), failed])).len(), 2);
    }

    #[test]
    fn entries_are_read_as_what_was_written() {
        for entry in [HistoryEntry::Run(run(1, 1)), hold()] {
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<HistoryEntry>(&text).unwrap(), entry, "{text}");
        }
    }

    #[test]
    fn the_newest_the_last_400_days_and_distinct_successes_are_kept() {
        let day = 24 * 60;
        let mut all = entries((1..=5).map(|number| run(number, 900 * day)).collect());
        let failed = |at| FinishedRun { outcome: Outcome::TimedOut, ..run(9, at) };
        all.extend(entries((0..3000).map(|it| failed(800 * day - it)).collect()));
        let kept_now = |all: &Vec<HistoryEntry>, most| kept(all.clone(), most, now());
        assert_eq!(kept_now(&all, usize::MAX).len(), 5 + NEWEST);
        all.extend(entries((0..1500).map(|it| failed(300 * day - it)).collect()));
        let cut = kept_now(&all, usize::MAX);
        assert_eq!(cut.len(), 5 + 1500);
        assert_eq!(kept_now(&cut, usize::MAX), cut);
        assert_eq!(kept_now(&all, 700).len(), 5 + 700);
    }

    #[test]
    fn of_a_kept_success_the_first_one_stays() {
        let day = 24 * 60;
        let mut all = entries(vec![run(1, 900 * day), run(2, 899 * day)]);
        all.extend(entries((10..2000).map(|number| run(number, 800 * day)).collect()));
        all.push(HistoryEntry::Run(run(1, 5)));
        let cut = kept(all, usize::MAX, now());
        let runs: Vec<FinishedRun> = cut.iter().filter_map(|it| it.run().cloned()).collect();
        assert_eq!(runs[0].revision, id(1));
        assert_eq!(back(&runs, 1), None, "nothing succeeded before it");
    }

    #[test]
    fn a_rollback_never_leads_forward() {
        let mut runs = vec![run(1, 90), run(2, 80), run(3, 70)];
        assert_eq!(back(&runs, 3), Some(id(2)));
        let rollback = FinishedRun { trigger: Trigger::Rollback, ..run(2, 60) };
        let redo = FinishedRun { trigger: Trigger::Redo, ..run(2, 50) };
        runs.extend([rollback, redo, run(2, 40)]);
        assert_eq!(back(&runs, 2), Some(id(1)));
        // A revert of 3 is a new revision with the tree of 2.
        runs.push(FinishedRun { tree: run(2, 0).tree, ..run(4, 30) });
        assert_eq!(back(&runs, 2), Some(id(1)));
        assert_eq!(back(&runs, 1), None);
        // One that never succeeded here.
        assert_eq!(back(&runs, 5), Some(id(4)));
    }

    #[test]
    fn records_of_an_older_agent_are_compared_by_the_tree_of_their_revision() {
        let older = |number| FinishedRun { tree: None, ..run(number, 10) };
        let runs = [older(1), older(2), older(3), older(2)];
        let tree_of = |commit: Commit| {
            let number = (1..9).find(|number| id(*number) == commit)?;
            Some(id(1000 + number).0)
        };
        let found = way_back(&runs, tree_of(id(2)), tree_of, |_| true);
        assert_eq!(found, Some(id(1)));
        let gone = way_back(&runs, tree_of(id(3)), tree_of, |commit| commit != id(2));
        assert_eq!(gone, Some(id(1)));
    }
}
