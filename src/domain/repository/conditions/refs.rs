//! The states of a repository whose refs are published one by one.

use crate::domain::publish::state::{PublishState, RefStatus};
use crate::domain::repository::conditions::{
    lost_tag, no_ref, standing_of_the_revision, unreachable, with_drift,
};
use crate::domain::repository::gate::GateWait;
use crate::domain::repository::observed::{Observed, OnRewrite, Policy};
use crate::domain::repository::state::{Condition, State};
use crate::domain::text::EscapeControls;

/// The condition when what is followed was refused because of its signature, and no ref of its own says so.
fn unsigned(refs: &PublishState, statuses: &[RefStatus], seen: &Observed) -> Option<Condition> {
    let tip = refs.tip.filter(|tip| seen.is_unsigned(*tip))?;
    let verdict = seen.verdict.as_ref().filter(|verdict| verdict.revision == tip)?;
    if statuses.iter().any(|it| it.state == State::Refused) {
        return None;
    }
    let (state, reason) = verdict.finding.state_and_reason();
    Some(Condition::new(state).because(reason).since(verdict.since))
}

/// The conditions of a repository whose refs are published one by one: one sentence for each state that some
/// of `statuses` have, those that a person or a script wanted last. `gate` is the one that is shut.
pub(super) fn conditions(
    refs: &PublishState,
    statuses: &[RefStatus],
    seen: &Observed,
    policy: &Policy,
    gate: Option<GateWait>,
) -> Vec<Condition> {
    let count = statuses.len();
    let mut all = Vec::new();
    let is_refused = policy.rewritten == OnRewrite::Refuse
        && seen.tag.as_ref().is_some_and(|tag| seen.accepted != Some(tag.commit));
    if let (Some(reason), true) = (lost_tag(seen), is_refused) {
        all.push(Condition::new(State::Rewritten).because(reason));
    }
    all.extend(unsigned(refs, statuses, seen));
    let mut states: Vec<_> = State::ALL.into_iter().filter(|state| state.is_of_a_ref()).collect();
    states.sort_by_key(|state| matches!(state, State::Held | State::Waiting));
    for state in states {
        if state == State::Held {
            all.extend(no_ref(seen));
            all.extend(unreachable(seen));
        }
        let ref_statuses: Vec<_> = statuses.iter().filter(|it| it.state == state).collect();
        let Some(first) = ref_statuses.iter().min_by_key(|it| it.next_try) else { continue };
        let name = first.name.escape_controls();
        let reason = first.reason.as_deref().unwrap_or_default();
        let others = match ref_statuses.len() {
            1 => String::new(),
            these => format!("; {these} of {count} refs, see agent status -v"),
        };
        let condition = Condition::new(state).because(format!("{name}: {reason}{others}"));
        let attempt = ref_statuses.iter().map(|it| it.attempt).max().unwrap_or_default();
        let since = ref_statuses.iter().map(|it| it.since).min();
        all.push(Condition { since, attempt, next_try: first.next_try, ..condition });
    }
    let open = statuses.iter().any(|it| matches!(it.state, State::Behind | State::New));
    let last = if seen.acted.is_none() && refs.tip.is_none() {
        standing_of_the_revision(seen, None)
    } else if let (Some(gate), true) = (gate, open) {
        let condition = Condition::new(State::Behind).because(gate.sentence());
        Condition { gate: Some(gate), ..condition }
    } else if refs.unfetched || open {
        Condition::new(State::Behind).because("upstream has what is not here yet")
    } else if seen.acted.is_none() {
        Condition::new(State::New)
    } else {
        let reason = seen.doubt.clone().or_else(|| seen.repaired.clone());
        Condition { reason: with_drift(seen, reason), ..Condition::new(State::Current) }
    };
    all.push(last);
    all
}
