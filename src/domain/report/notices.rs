//! The rule for unasked notices: which changes of a status a person should see. Knows the last reported
//! states, and nothing of mail, terminals or files.
//!
//! Cron mails the output of a tick, so a tick reports when a repository gets into trouble, its trouble
//! changes or ends, and once a day while trouble lasts. Otherwise it prints nothing.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::repository::observed::MOST_REFUSALS;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{MachineStatus, StatusRow};

/// The last reported state of each repository. Unchanged by a tick without news, so that nothing needs
/// to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReportedStates {
    repositories: BTreeMap<String, ReportedState>,
}

/// The last settled state of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedState {
    /// The state.
    pub state: State,
    /// The branch that was followed.
    #[serde(default)]
    pub branch: Option<String>,
    /// When that state began.
    pub since: DateTime<Utc>,
    /// When it was reported, or recorded without a notice for a good state.
    pub at: DateTime<Utc>,
}

/// One line for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The kind of change.
    pub change: StateChange,
    /// The state reported before; `None` for a repository that is new here.
    pub was: Option<ReportedState>,
    /// The present status of the repository.
    pub row: StatusRow,
}

/// The kind of change in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// New trouble, or other trouble than before.
    Worse,
    /// The same trouble, one day later.
    Still,
    /// The trouble is over.
    Better,
    /// Another branch, for example after upstream renamed its default branch.
    Moved,
}

/// The presence of one revision on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionPresence {
    /// The revision is deployed, or an ancestor of the deployed one.
    Acted,
    /// HEAD contains it, and no revision that contains it was deployed with success.
    ContainedInHead,
    /// The revision is in the object store, and HEAD does not contain it.
    FetchedNotActed,
    /// The revision is not in the object store.
    Unknown,
}

/// The class of a state for notices.
enum StateClass {
    /// A person should look.
    Bad,
    /// No person needs to look, and it may stay so.
    Good,
    /// A transient state: it does not show how it will end.
    Passing,
}

/// The notices for `now`, and the states reported after them. `status` must hold every repository of the
/// machine: a missing one is forgotten.
pub fn due(
    previous: &ReportedStates,
    status: &MachineStatus,
    now: DateTime<Utc>,
) -> (Vec<Notice>, ReportedStates) {
    let mut notices = Vec::new();
    let mut reported = ReportedStates::default();
    for row in &status.repositories {
        let was = previous.repositories.get(&row.name);
        let (change, recorded) = compare(row, was, now);
        if let Some(recorded) = recorded {
            reported.repositories.insert(row.name.clone(), recorded);
        }
        if let Some(change) = change {
            notices.push(Notice { change, was: was.cloned(), row: row.clone() });
        }
    }
    (notices, reported)
}

/// The change from `was` to `row`, if it is news, and the state to remember.
fn compare(
    row: &StatusRow,
    was: Option<&ReportedState>,
    now: DateTime<Utc>,
) -> (Option<StateChange>, Option<ReportedState>) {
    let branch = row.branch.clone().or(was.and_then(|was| was.branch.clone()));
    let fresh =
        ReportedState { state: row.state, branch: branch.clone(), since: row.since, at: now };
    let moved = |was: &ReportedState| was.branch.is_some() && was.branch != branch;
    match (standing(row, now), was) {
        (StateClass::Passing, was) => (None, was.cloned()),
        (StateClass::Good, Some(was)) if was.state == row.state => {
            let change = moved(was).then_some(StateChange::Moved);
            (change, Some(ReportedState { branch, ..was.clone() }))
        }
        (StateClass::Good, Some(was)) if !was.state.is_settled() => {
            (Some(StateChange::Better), Some(fresh))
        }
        (StateClass::Good, _) => (None, Some(fresh)),
        (StateClass::Bad, Some(was)) if was.state == row.state => {
            // In both directions: a notice under a clock that was set back since must not silence us.
            if (now - was.at).abs() >= Duration::days(1) {
                (Some(StateChange::Still), Some(ReportedState { at: now, ..was.clone() }))
            } else {
                (None, Some(was.clone()))
            }
        }
        (StateClass::Bad, _) => (Some(StateChange::Worse), Some(fresh)),
    }
}

fn standing(row: &StatusRow, now: DateTime<Utc>) -> StateClass {
    if row.state == State::Denied && row.refusals < MOST_REFUSALS {
        // A server that restarts, or a token that is being exchanged, refuses once.
        StateClass::Passing
    } else if row.needs_attention(now) {
        StateClass::Bad
    } else if row.state.is_settled() {
        StateClass::Good
    } else {
        // `waiting`, `new` and `behind` come and go between two failures, as `acting` does.
        StateClass::Passing
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::report::notices::*;

    fn start() -> DateTime<Utc> {
        "2026-11-22T09:00:00Z".parse().unwrap()
    }

    fn minutes(n: i64) -> DateTime<Utc> {
        start() + Duration::minutes(n)
    }

    fn row(state: State, since: DateTime<Utc>) -> StatusRow {
        StatusRow::bare("spog", state, since)
    }

    fn status(rows: Vec<StatusRow>) -> MachineStatus {
        MachineStatus {
            agent: "0.1.0".into(),
            host: "web01".into(),
            part: None,
            stack: None,
            root: "/root/gitrepo".into(),
            at: start(),
            last_tick: None,
            healthy: true,
            configuration: None,
            presence: None,
            repositories: rows,
        }
    }

    /// The minutes at which a notice came, and its kind, for one state per minute.
    fn story(states: &[State]) -> Vec<(i64, StateChange)> {
        let mut reported = ReportedStates::default();
        let mut recorded = Vec::new();
        let mut since = start();
        for (minute, state) in (0..).zip(states) {
            if minute > 0 && states[minute as usize - 1] != *state {
                since = minutes(minute);
            }
            let (notices, next) =
                due(&reported, &status(vec![row(*state, since)]), minutes(minute));
            recorded.extend(notices.iter().map(|notice| (minute, notice.change)));
            reported = next;
        }
        recorded
    }

    use State::*;

    #[test]
    fn a_fine_repository_is_never_mentioned() {
        assert_eq!(story(&[New, Behind, Acting, Current, Behind, Acting, Current, Ahead]), []);
        assert_eq!(story(&[Current, Held, Pinned, Current, Inactive, Current]), []);
    }

    #[test]
    fn a_failure_is_reported_once_and_so_is_its_end() {
        assert_eq!(
            story(&[Current, Failing, Failing, Acting, Current, Current]),
            [(1, StateChange::Worse), (4, StateChange::Better)]
        );
    }

    #[test]
    fn a_repository_first_seen_in_trouble_is_reported() {
        assert_eq!(story(&[Broken, Broken]), [(0, StateChange::Worse)]);
        assert_eq!(story(&[New, Acting, Failing]), [(2, StateChange::Worse)]);
    }

    #[test]
    fn what_passes_between_two_equal_failures_is_not_back() {
        assert_eq!(
            story(&[Failing, Acting, Failing, Behind, Failing, Waiting, Failing, New, Failing]),
            [(0, StateChange::Worse)]
        );
    }

    #[test]
    fn another_trouble_is_reported() {
        assert_eq!(
            story(&[Failing, Behind, Dirty, Dirty, Current]),
            [(0, StateChange::Worse), (2, StateChange::Worse), (4, StateChange::Better)]
        );
    }

    #[test]
    fn a_hold_on_a_failing_repository_ends_the_reminders() {
        assert_eq!(
            story(&[Failing, Held, Held]),
            [(0, StateChange::Worse), (1, StateChange::Better)]
        );
    }

    #[test]
    fn unreachable_is_reported_after_a_quarter_of_an_hour_and_not_before() {
        let mut states = vec![Current];
        states.extend([Unreachable; 14]);
        states.push(Current);
        assert_eq!(story(&states), []);

        let mut states = vec![Current];
        states.extend([Unreachable; 20]);
        states.push(Current);
        assert_eq!(story(&states), [(16, StateChange::Worse), (21, StateChange::Better)]);
    }

    #[test]
    fn lasting_trouble_is_reported_once_a_day() {
        let mut reported = ReportedStates::default();
        let mut recorded = Vec::new();
        for minute in 0..3 * 1440 {
            let seen = status(vec![row(Failing, start())]);
            let (notices, next) = due(&reported, &seen, minutes(minute));
            recorded.extend(notices.iter().map(|notice| (minute, notice.change)));
            reported = next;
        }
        assert_eq!(
            recorded,
            [(0, StateChange::Worse), (1440, StateChange::Still), (2880, StateChange::Still)]
        );
    }

    #[test]
    fn a_clock_set_back_does_not_silence_lasting_trouble_for_a_year() {
        let seen = status(vec![row(Failing, start())]);
        let (_, reported) = due(&ReportedStates::default(), &seen, start() + Duration::days(365));
        let (notices, reported) = due(&reported, &seen, start());
        assert_eq!(notices.len(), 1);
        assert_eq!(due(&reported, &seen, minutes(1)).0, []);
    }

    #[test]
    fn an_idle_tick_leaves_what_was_reported_as_it_is() {
        for state in [Current, Failing, Acting, Held, Unreachable] {
            let seen = status(vec![row(state, start())]);
            let (_, first) = due(&ReportedStates::default(), &seen, minutes(20));
            let (_, second) = due(&first, &seen, minutes(21));
            assert_eq!(first, second, "{state}");
        }
    }

    #[test]
    fn a_notice_knows_what_the_repository_was_before() {
        let (_, reported) =
            due(&ReportedStates::default(), &status(vec![row(Current, start())]), start());
        let (_, reported) = due(&reported, &status(vec![row(Acting, minutes(1))]), minutes(1));
        let (notices, reported) =
            due(&reported, &status(vec![row(Failing, minutes(2))]), minutes(2));
        assert_eq!(notices[0].was.as_ref().map(|recorded| recorded.state), Some(Current));
        let (notices, _) = due(&reported, &status(vec![row(Current, minutes(9))]), minutes(9));
        assert_eq!(notices[0].was.as_ref().map(|recorded| recorded.since), Some(minutes(2)));
    }

    #[test]
    fn a_removed_repository_is_forgotten() {
        let (_, reported) =
            due(&ReportedStates::default(), &status(vec![row(Failing, start())]), start());
        let (notices, reported) = due(&reported, &status(Vec::new()), minutes(1));
        assert!(notices.is_empty());
        assert_eq!(reported, ReportedStates::default());
    }

    #[test]
    fn what_was_reported_is_read_back() {
        let (_, reported) =
            due(&ReportedStates::default(), &status(vec![row(Failing, start())]), start());
        let text = serde_json::to_string(&reported).unwrap();
        assert_eq!(serde_json::from_str::<ReportedStates>(&text).unwrap(), reported);
    }

    #[test]
    fn another_branch_is_reported_once() {
        let mut recorded = ReportedStates::default();
        for (branch, expected) in
            [("main", None), ("main", None), ("trunk", Some(StateChange::Moved)), ("trunk", None)]
        {
            let mut status = status(vec![row(State::Current, start())]);
            status.repositories[0].branch = Some(branch.to_owned());
            let (notices, after) = due(&recorded, &status, minutes(1));
            assert_eq!(notices.first().map(|notice| notice.change), expected, "{branch}");
            recorded = after;
        }
    }
}
