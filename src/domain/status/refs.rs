//! The states of a repository whose refs are acted upon one by one.

use super::{Condition, State, gone, standing_of_the_revision, unreachable};
use crate::domain::plan::{Observed, Upstream};
use crate::domain::publication::Refs;

impl State {
    /// Whether it is told of a repository because of one of its refs.
    fn is_of_a_ref(self) -> bool {
        matches!(
            self,
            Self::Broken
                | Self::Held
                | Self::Failing
                | Self::Waiting
                | Self::Refused
                | Self::Rewritten
        )
    }

    /// Whether it stays until a person or a new revision comes.
    pub fn needs_a_person(self) -> bool {
        self.is_of_a_ref() && !matches!(self, Self::Failing | Self::Waiting)
    }
}

/// What applies where each of several refs is acted upon by itself. What is wrong with some of them
/// is told in one sentence for each state, what is as somebody wants it behind what is not.
pub(super) fn conditions(refs: &Refs, seen: &Observed) -> Vec<Condition> {
    let all_standings = refs.standings(seen.accepted);
    let count = all_standings.len();
    let mut all = Vec::new();
    let mut states: Vec<_> = State::ALL.into_iter().filter(|state| state.is_of_a_ref()).collect();
    states.sort_by_key(|state| matches!(state, State::Held | State::Waiting));
    for state in states {
        if state == State::Held {
            all.extend(unreachable(seen));
        }
        let standings: Vec<_> = all_standings.iter().filter(|it| it.state == state).collect();
        let Some(first) = standings.iter().min_by_key(|it| it.next_try) else { continue };
        let name = first.name.escape_debug();
        let reason = first.reason.as_deref().unwrap_or_default();
        let others = match standings.len() {
            1 => String::new(),
            these => format!("; {these} of {count} refs, see agent status -v"),
        };
        let condition = Condition::new(state).because(format!("{name}: {reason}{others}"));
        let attempt = standings.iter().map(|it| it.attempt).max().unwrap_or_default();
        let since = standings.iter().map(|it| it.since).min();
        all.push(Condition { since, attempt, next_try: first.next_try, ..condition });
    }
    let open = all_standings.iter().any(|it| matches!(it.state, State::Behind | State::New));
    let last = if seen.acted.is_none() && refs.tip.is_none() {
        standing_of_the_revision(seen, None)
    } else if refs.unfetched || open {
        Condition::new(State::Behind).because("upstream has what is not here yet")
    } else if seen.acted.is_none() {
        Condition::new(State::New)
    } else if seen.upstream == Upstream::Empty {
        Condition::new(State::Current).because(gone(seen))
    } else {
        Condition { reason: seen.repaired.clone(), ..Condition::new(State::Current) }
    };
    all.push(last);
    all
}
