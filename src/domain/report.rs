//! The quiet rule: what of a status is worth telling a person who did not ask. Knows what was told
//! last and nothing of mail, terminals or files.
//!
//! Cron mails whatever a tick prints, so a tick speaks when a repository gets into trouble, changes
//! its trouble, or is out of it; once a day while trouble lasts; and else not at all.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use super::status::{Row, State, Status};

/// What was told last about each repository. Equal to its predecessor when a tick has no news, so
/// that nothing needs to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reported {
    repositories: BTreeMap<String, Told>,
}

/// The last settled state of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The word.
    pub state: State,
    /// Which branch was followed.
    #[serde(default)]
    pub branch: Option<String>,
    /// When that state began.
    pub since: DateTime<Utc>,
    /// When it was told, or noted silently where it is a good one.
    pub at: DateTime<Utc>,
}

/// One line for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Which way it went.
    pub change: Change,
    /// What was told before; `None` when the repository is seen first.
    pub was: Option<Told>,
    /// The repository as it is now.
    pub row: Row,
}

/// Which way a repository went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Into trouble, or from one trouble into another.
    Worse,
    /// The same trouble, one day later.
    Still,
    /// Out of it.
    Better,
    /// To another branch, as when upstream's default branch was renamed.
    Moved,
}

/// How one revision stands to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containment {
    /// It is the last revision acted upon, or one of that revision's ancestors.
    Acted,
    /// HEAD contains it, and nothing that contains it was acted upon with success.
    ContainedInHead,
    /// It is in the object store, and HEAD does not contain it.
    FetchedNotActed,
    /// It is not in the object store.
    Unknown,
}

/// How a state counts here.
enum Standing {
    /// A person should look.
    Bad,
    /// Nobody needs to look, and it may stay so.
    Good,
    /// On its way, or too early to tell: says nothing about how it will end.
    Passing,
}

/// What to tell at `now`, and what has been told then. `status` must be about every repository of
/// the machine: one that it lacks is forgotten.
pub fn due(previous: &Reported, status: &Status, now: DateTime<Utc>) -> (Vec<Notice>, Reported) {
    let mut notices = Vec::new();
    let mut reported = Reported::default();
    for row in &status.repositories {
        let was = previous.repositories.get(&row.name);
        let (change, told) = judge(row, was, now);
        if let Some(told) = told {
            reported.repositories.insert(row.name.clone(), told);
        }
        if let Some(change) = change {
            notices.push(Notice { change, was: was.cloned(), row: row.clone() });
        }
    }
    (notices, reported)
}

/// Whether `row` is news after `was`, and what is to be remembered of it.
fn judge(row: &Row, was: Option<&Told>, now: DateTime<Utc>) -> (Option<Change>, Option<Told>) {
    let branch = row.branch.clone().or(was.and_then(|was| was.branch.clone()));
    let fresh = Told { state: row.state, branch: branch.clone(), since: row.since, at: now };
    let moved = |was: &Told| was.branch.is_some() && was.branch != branch;
    match (standing(row, now), was) {
        (Standing::Passing, was) => (None, was.cloned()),
        (Standing::Good, Some(was)) if was.state == row.state => {
            let change = moved(was).then_some(Change::Moved);
            (change, Some(Told { branch, ..was.clone() }))
        }
        (Standing::Good, Some(was)) if !is_good(was.state) => (Some(Change::Better), Some(fresh)),
        (Standing::Good, _) => (None, Some(fresh)),
        (Standing::Bad, Some(was)) if was.state == row.state => {
            // Either way round: what was told under a clock since set back must not silence us.
            if (now - was.at).abs() >= Duration::days(1) {
                (Some(Change::Still), Some(Told { at: now, ..was.clone() }))
            } else {
                (None, Some(was.clone()))
            }
        }
        (Standing::Bad, _) => (Some(Change::Worse), Some(fresh)),
    }
}

fn standing(row: &Row, now: DateTime<Utc>) -> Standing {
    if row.needs_attention(now) {
        Standing::Bad
    } else if is_good(row.state) {
        Standing::Good
    } else {
        // `waiting`, `new` and `behind` come and go between two failures, as `acting` does.
        Standing::Passing
    }
}

fn is_good(state: State) -> bool {
    matches!(state, State::Held | State::Pinned | State::Ahead | State::Current | State::Inactive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> DateTime<Utc> {
        "2026-11-22T09:00:00Z".parse().unwrap()
    }

    fn minutes(n: i64) -> DateTime<Utc> {
        start() + Duration::minutes(n)
    }

    fn row(state: State, since: DateTime<Utc>) -> Row {
        Row::bare("spog", state, since)
    }

    fn status(rows: Vec<Row>) -> Status {
        Status {
            agent: "0.1.0".into(),
            host: "web01".into(),
            part: None,
            stack: None,
            root: "/root/gitrepo".into(),
            at: start(),
            last_tick: None,
            healthy: true,
            repositories: rows,
        }
    }

    /// Feeds one state per minute and tells at which minutes there was a notice, and of what kind.
    fn story(states: &[State]) -> Vec<(i64, Change)> {
        let mut reported = Reported::default();
        let mut told = Vec::new();
        let mut since = start();
        for (minute, state) in (0..).zip(states) {
            if minute > 0 && states[minute as usize - 1] != *state {
                since = minutes(minute);
            }
            let (notices, next) =
                due(&reported, &status(vec![row(*state, since)]), minutes(minute));
            told.extend(notices.iter().map(|notice| (minute, notice.change)));
            reported = next;
        }
        told
    }

    use State::*;

    #[test]
    fn a_fine_repository_is_never_mentioned() {
        assert_eq!(story(&[New, Behind, Acting, Current, Behind, Acting, Current, Ahead]), []);
        assert_eq!(story(&[Current, Held, Pinned, Current, Inactive, Current]), []);
    }

    #[test]
    fn a_failure_is_told_once_and_so_is_its_end() {
        assert_eq!(
            story(&[Current, Failing, Failing, Acting, Current, Current]),
            [(1, Change::Worse), (4, Change::Better)]
        );
    }

    #[test]
    fn a_repository_first_seen_in_trouble_is_told() {
        assert_eq!(story(&[Broken, Broken]), [(0, Change::Worse)]);
        assert_eq!(story(&[New, Acting, Failing]), [(2, Change::Worse)]);
    }

    #[test]
    fn what_passes_between_two_equal_failures_is_not_back() {
        assert_eq!(
            story(&[Failing, Acting, Failing, Behind, Failing, Waiting, Failing, New, Failing]),
            [(0, Change::Worse)]
        );
    }

    #[test]
    fn another_trouble_is_told() {
        assert_eq!(
            story(&[Failing, Behind, Dirty, Dirty, Current]),
            [(0, Change::Worse), (2, Change::Worse), (4, Change::Better)]
        );
    }

    #[test]
    fn a_hold_on_a_failing_repository_ends_the_reminders() {
        assert_eq!(story(&[Failing, Held, Held]), [(0, Change::Worse), (1, Change::Better)]);
    }

    #[test]
    fn unreachable_is_told_after_a_quarter_of_an_hour_and_not_before() {
        let mut states = vec![Current];
        states.extend([Unreachable; 14]);
        states.push(Current);
        assert_eq!(story(&states), []);

        let mut states = vec![Current];
        states.extend([Unreachable; 20]);
        states.push(Current);
        assert_eq!(story(&states), [(16, Change::Worse), (21, Change::Better)]);
    }

    #[test]
    fn lasting_trouble_is_told_once_a_day() {
        let mut reported = Reported::default();
        let mut told = Vec::new();
        for minute in 0..3 * 1440 {
            let seen = status(vec![row(Failing, start())]);
            let (notices, next) = due(&reported, &seen, minutes(minute));
            told.extend(notices.iter().map(|notice| (minute, notice.change)));
            reported = next;
        }
        assert_eq!(told, [(0, Change::Worse), (1440, Change::Still), (2880, Change::Still)]);
    }

    #[test]
    fn a_clock_set_back_does_not_silence_lasting_trouble_for_a_year() {
        let seen = status(vec![row(Failing, start())]);
        let (_, reported) = due(&Reported::default(), &seen, start() + Duration::days(365));
        let (notices, reported) = due(&reported, &seen, start());
        assert_eq!(notices.len(), 1);
        assert_eq!(due(&reported, &seen, minutes(1)).0, []);
    }

    #[test]
    fn an_idle_tick_leaves_what_was_reported_as_it_is() {
        for state in [Current, Failing, Acting, Held, Unreachable] {
            let seen = status(vec![row(state, start())]);
            let (_, first) = due(&Reported::default(), &seen, minutes(20));
            let (_, second) = due(&first, &seen, minutes(21));
            assert_eq!(first, second, "{state}");
        }
    }

    #[test]
    fn a_notice_knows_what_the_repository_was_before() {
        let (_, reported) =
            due(&Reported::default(), &status(vec![row(Current, start())]), start());
        let (_, reported) = due(&reported, &status(vec![row(Acting, minutes(1))]), minutes(1));
        let (notices, reported) =
            due(&reported, &status(vec![row(Failing, minutes(2))]), minutes(2));
        assert_eq!(notices[0].was.as_ref().map(|told| told.state), Some(Current));
        let (notices, _) = due(&reported, &status(vec![row(Current, minutes(9))]), minutes(9));
        assert_eq!(notices[0].was.as_ref().map(|told| told.since), Some(minutes(2)));
    }

    #[test]
    fn a_removed_repository_is_forgotten() {
        let (_, reported) =
            due(&Reported::default(), &status(vec![row(Failing, start())]), start());
        let (notices, reported) = due(&reported, &status(Vec::new()), minutes(1));
        assert!(notices.is_empty());
        assert_eq!(reported, Reported::default());
    }

    #[test]
    fn what_was_reported_is_read_back() {
        let (_, reported) =
            due(&Reported::default(), &status(vec![row(Failing, start())]), start());
        let text = serde_json::to_string(&reported).unwrap();
        assert_eq!(serde_json::from_str::<Reported>(&text).unwrap(), reported);
    }

    #[test]
    fn another_branch_is_told_once() {
        let mut told = Reported::default();
        for (branch, expected) in
            [("main", None), ("main", None), ("trunk", Some(Change::Moved)), ("trunk", None)]
        {
            let mut status = status(vec![row(State::Current, start())]);
            status.repositories[0].branch = Some(branch.to_owned());
            let (notices, after) = due(&told, &status, minutes(1));
            assert_eq!(notices.first().map(|notice| notice.change), expected, "{branch}");
            told = after;
        }
    }
}
