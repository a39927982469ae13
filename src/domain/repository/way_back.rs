//! The way back from a bad revision: where the machine has to be, and what is said of it. Pure.

use crate::domain::git::Commit;
use crate::domain::repository::action::Attempt;
use crate::domain::repository::observed::{Observed, UpstreamTip};
use crate::domain::repository::state::{Condition, State};

impl Observed {
    /// The revision that the machine has to go back to, or to stay at, because another one is bad; `None`: none
    /// is bad, a person accepted it, nothing succeeded here before, or a newer revision comes first.
    pub(in crate::domain) fn way_back(&self) -> Option<Commit> {
        let bad = self.bad.as_ref().filter(|bad| self.accepted != Some(bad.revision))?;
        let last = self.acted.or(self.last_success.as_ref().map(|run| run.revision));
        let last = last.filter(|last| *last != bad.revision)?;
        let has_newer = match self.upstream {
            UpstreamTip::Tip { commit, .. } => {
                commit != bad.revision && commit != last && !self.upstream_is_bad
            }
            UpstreamTip::Unknown | UpstreamTip::Empty => false,
        };
        // A newer revision waits until the bad one is left, and not for a way back that fails.
        let is_tried = bad.back_since.is_some() || self.has_failed_at(last);
        (!(has_newer && is_tried)).then_some(last)
    }

    /// The revision that the machine goes back to now, and the one that it leaves; `None`: it is back, or no
    /// revision is bad.
    pub(in crate::domain) fn going_back(&self) -> Option<(Commit, Commit)> {
        let bad = self.bad.as_ref().filter(|bad| bad.back_since.is_none() && self.pin.is_none())?;
        Some((self.way_back()?, bad.revision))
    }

    fn has_failed_at(&self, revision: Commit) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.revision == revision)
    }

    /// Whether going back is to begin, which no hold of a person stops.
    pub(in crate::domain) fn begins_to_go_back(&self) -> bool {
        self.going_back().is_some_and(|(to, _)| !self.has_failed_at(to))
    }

    /// The condition that follows from a bad revision; `None`: there is none. `obstacle`: what is in the way back,
    /// as a message.
    pub(in crate::domain) fn bad_condition(&self, obstacle: Option<&str>) -> Option<Condition> {
        let (bad, to) = (self.bad.as_ref()?, self.way_back()?);
        if self.pin.is_some() {
            return None;
        }
        if bad.back_since.is_none() {
            let mut failing = Condition::new(State::Failing);
            let attempt = self.attempt.as_ref().filter(|attempt| attempt.revision == to);
            if let Some(attempt) = attempt {
                (failing.attempt, failing.next_try) = (attempt.number, attempt.next_try);
                failing.since = Some(attempt.since);
            }
            return Some(failing.because(bad.leaving(
                &to.short(),
                attempt.map(Attempt::sentence),
                obstacle,
            )));
        }
        let condition = Condition { since: bad.back_since, ..Condition::new(State::RolledBack) };
        Some(condition.because(bad.back_at(&to.short())))
    }
}
