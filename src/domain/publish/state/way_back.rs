//! The way back of one published ref from a bad revision: what its target has to show, and what is said of it.
//! The same rules as for a repository that follows one branch, for each ref by itself.

use chrono::{DateTime, Utc};

use super::{DesiredRefs, DueRevision, RefOverrides, RefRecord, RefStatus, recorded_status};
use crate::domain::git::Commit;
use crate::domain::repository::action::Attempt;
use crate::domain::repository::health::BadRevision;
use crate::domain::repository::state::State;

impl RefRecord {
    /// The bad revision that this ref leaves or has left, while upstream has `tip`; `is_marked`: there is a mark for
    /// `tip`. `None`: nothing is bad, or a newer revision comes first.
    fn bad_at(&self, tip: Commit, is_marked: bool) -> Option<BadRevision> {
        let known = self.bad.filter(|bad| bad.revision == tip || bad.back_since.is_none());
        let only_mark = || {
            let back_since = (self.shown != Some(tip)).then_some(self.since);
            BadRevision { revision: tip, cause: None, back_since }
        };
        known.or_else(|| is_marked.then(only_mark))
    }

    /// The revision that this ref goes back to from `bad`; `None`: nothing else succeeded here, or is known to.
    fn way_back_from(&self, bad: Commit) -> Option<Commit> {
        self.good.or(self.shown).filter(|good| *good != bad)
    }

    /// Whether this ref has a bad revision to leave, which no person `accepted`, and did not try to yet.
    pub fn begins_to_go_back(&self, accepted: Option<Commit>) -> bool {
        let leaves = self.bad.filter(|bad| bad.back_since.is_none());
        let leaves = leaves.filter(|bad| accepted != Some(bad.revision));
        let tried = self.attempt.as_ref().map(|attempt| attempt.revision);
        let refused = self.verdict.as_ref().map(|(judged, _)| *judged);
        let to = leaves.and_then(|bad| self.way_back_from(bad.revision));
        to.is_some() && tried != to && refused != to
    }
}

/// The status of a ref whose newest or shown revision is bad, and what it is to show now; `None`: none is bad, a
/// person accepted it, or a newer revision comes first.
pub(super) fn status(
    desired: &DesiredRefs,
    entry: &RefRecord,
    tip: Commit,
    overrides: RefOverrides,
    now: DateTime<Utc>,
) -> Option<(RefStatus, Option<DueRevision>)> {
    let bad = entry.bad_at(tip, desired.is_bad)?;
    if overrides.accepted == Some(bad.revision) {
        return None;
    }
    let plain = RefStatus { bad: Some(bad.revision), ..recorded_status(&desired.name, entry) };
    let Some(to) = entry.way_back_from(bad.revision) else {
        return (bad.revision == tip).then(|| (without_way(entry, bad, plain), None));
    };
    let due = |leaves| Some(DueRevision { revision: to, leaves });
    if bad.back_since.is_some()
        && entry.shown == Some(to)
        && entry.attempt.is_none()
        && entry.tried.is_empty()
    {
        let since = bad.back_since.unwrap_or(entry.since);
        let reason = Some(bad.back_at(&to.short()));
        let status = RefStatus { state: State::RolledBack, reason, since, ..plain };
        return Some((status, overrides.redo.then(|| due(None)).flatten()));
    }
    let attempt = entry.attempt.as_ref().filter(|attempt| attempt.revision == to);
    if attempt.is_some() && bad.revision != tip && tip != to {
        // A newer revision does not wait for a way back that fails.
        return None;
    }
    let obstacle = entry.verdict.as_ref().filter(|(judged, _)| *judged == to);
    let obstacle = obstacle.map(|(_, finding)| finding.state_and_reason().1);
    let reason =
        Some(bad.leaving(&to.short(), attempt.map(Attempt::sentence), obstacle.as_deref()));
    let failing = RefStatus { state: State::Failing, reason, ..plain };
    let is_due = obstacle.is_none() && attempt.is_none_or(|had| !overrides.must_wait(had, now));
    let status = match attempt {
        Some(had) => {
            let (since, attempt, next_try) = (had.since, had.number, had.next_try);
            RefStatus { since, attempt, next_try, ..failing }
        }
        None => failing,
    };
    Some((status, is_due.then(|| due(Some(bad.revision))).flatten()))
}

/// The status of a ref at a bad revision with nothing to go back to: it was removed and came again, or its record is
/// lost.
fn without_way(entry: &RefRecord, bad: BadRevision, plain: RefStatus) -> RefStatus {
    let sentence = bad.sentence();
    let (state, reason) = match entry.shown {
        Some(_) => {
            (State::Failing, format!("{sentence}, and no release to go back to is known here"))
        }
        None => {
            (State::RolledBack, format!("{sentence}; nothing is shown; waits for a newer revision"))
        }
    };
    RefStatus { state, reason: Some(reason), ..plain }
}
