//! What is decided about drift while there is nothing else to do: to look, to repair, or why neither.

use chrono::{DateTime, Utc};

use super::{Plan, PlannedAction, Rule};
use crate::domain::git::Commit;
use crate::domain::repository::action::Trigger;
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::drift::{self, OnDrift};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gate::{Gate, GateWait, SignatureNeed};
use crate::domain::repository::gates;
use crate::domain::repository::observed::{Observed, Policy};
use crate::domain::repository::request::ActionRequest;

/// What follows from files that differ.
#[derive(Clone, Debug, PartialEq)]
pub enum DriftOutlook {
    /// None does, as far as is known.
    Nothing,
    /// They are only reported.
    Reported,
    /// They were repaired three times within an hour: a script may edit them.
    Left,
    /// They could not be kept or read, and are tried again at the next look.
    Hindered,
    /// A hold keeps them from being repaired.
    Held,
    /// The last run at this revision did not succeed; its next attempt comes first.
    Failing,
    /// The signature of the applied revision was refused.
    Refused,
    /// The window is shut.
    Window(GateWait),
    /// They are repaired now.
    Repaired,
}

impl Observed {
    /// The revision that the files here should be those of; `None`: none, or they are on the way to another one.
    pub fn compared(&self) -> Option<Commit> {
        let (acted, head) = (self.acted?, self.head?);
        let target = ActionTarget::Commit(head);
        let passed = || matches!(self.standing(target), Some(Finding::Irrelevant { .. }));
        (!self.has_no_files && (self.refs.is_some() || head == acted || passed())).then_some(head)
    }

    /// Whether the scripts of a repair have not succeeded yet.
    pub fn repair_is_pending(&self) -> bool {
        self.drift.as_ref().is_some_and(|drift| drift.pending.is_some())
    }
}

/// What follows from what the last look found.
pub fn outlook(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    now: DateTime<Utc>,
) -> DriftOutlook {
    let Some(found) = seen.drift.as_ref().filter(|it| it.files > 0 || it.pending.is_some()) else {
        return DriftOutlook::Nothing;
    };
    let revision = match (policy.drift.on, seen.compared()) {
        (OnDrift::Repair, Some(revision)) if found.revision == Some(revision) => revision,
        _ => return DriftOutlook::Reported,
    };
    let target = ActionTarget::Commit(revision);
    if !found.wants_repair() {
        if found.unrepaired.is_some() { DriftOutlook::Hindered } else { DriftOutlook::Left }
    } else if !seen.holds.is_empty() {
        DriftOutlook::Held
    } else if seen.attempt_at(target).is_some() || seen.going_back().is_some() {
        DriftOutlook::Failing
    } else if seen.is_unsigned(revision) {
        DriftOutlook::Refused
    } else if let Some(wait) = gates::window_of_repair(seen, policy, request, revision, now) {
        DriftOutlook::Window(wait)
    } else {
        DriftOutlook::Repaired
    }
}

/// What to do about drift in a repository that has nothing else to do; `None`: nothing.
pub(super) fn at_rest(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    now: DateTime<Utc>,
) -> Option<(Plan, Rule)> {
    let is_usable = policy.active && seen.running.is_none() && seen.broken.is_none();
    if policy.drift.on == OnDrift::Ignore || !is_usable {
        return None;
    }
    let revision = seen.compared()?;
    let looked = seen.drift.as_ref().map(|it| it.at);
    // What an action wrote may be among what differed before it.
    let is_stale =
        |it: &drift::DriftRecord| it.files > 0 && it.revision.is_some_and(|of| of != revision);
    let is_stale = seen.drift.as_ref().is_some_and(is_stale);
    if is_stale || drift::is_due(&policy.drift, seen.drift_offset, looked, seen.acted_at, now) {
        return Some((Plan::Look, Rule::DriftDue));
    }
    if outlook(seen, policy, request, now) != DriftOutlook::Repaired {
        return None;
    }
    let (target, need) = (ActionTarget::Commit(revision), SignatureNeed::AcceptedHere);
    if policy.gates.signers.is_some() && !gates::is_signed(seen, target, need) {
        return Some((Plan::Verify { target, need }, Rule::Gate(Gate::Signers)));
    }
    let plan = PlannedAction {
        head: Some(revision),
        target,
        saves_head: false,
        previous: seen.acted,
        trigger: Trigger::Drift,
        attempt: 1,
        resumed: false,
        only_if_relevant: false,
        heeds_hold: false,
        asks_before: false,
        leaves: None,
        is_upstreams: false,
        repairs: true,
    };
    Some((Plan::Run(plan), Rule::Drift))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::git::Relation;
    use crate::domain::repository::action::{Attempt, Outcome};
    use crate::domain::repository::decision::decide;
    use crate::domain::repository::drift::{Difference, DriftPolicy, DriftRecord, DriftedFile};
    use crate::domain::repository::hold::Hold;
    use crate::domain::repository::sight::Waiting;
    use crate::domain::repository::tests::{commit, now, policy, upstream};

    const CRON: ActionRequest = ActionRequest::OF_CRON;

    /// `a` is applied since `hours` and upstream's tip.
    fn applied(hours: i64) -> Observed {
        Observed {
            head: Some(commit('a')),
            branch: Some("main".parse().unwrap()),
            upstream: upstream('a'),
            relation: Some(Relation::Same),
            acted: Some(commit('a')),
            acted_at: Some(now() - TimeDelta::hours(hours)),
            ..Observed::default()
        }
    }

    /// As [`applied`], and a look just now found a file that differs.
    fn drifted() -> Observed {
        let file = DriftedFile { path: "etc/nginx.conf".into(), how: Difference::Content };
        let all = vec![file];
        let drift = Some(DriftRecord::new(Some(commit('a')), now(), all.into_iter()));
        Observed { drift, ..applied(5) }
    }

    fn policy_of(on: OnDrift) -> Policy {
        Policy { drift: DriftPolicy { on, ..DriftPolicy::default() }, ..policy() }
    }

    fn plan(seen: &Observed, on: OnDrift) -> (Plan, Rule) {
        let decision = decide(seen, &policy_of(on), CRON, now());
        (decision.plan, decision.rule)
    }

    #[test]
    fn a_look_is_due_in_its_hour_and_never_where_drift_is_ignored() {
        assert_eq!(plan(&applied(0), OnDrift::Report), (Plan::Idle, Rule::UpToDate));
        assert_eq!(plan(&applied(5), OnDrift::Report), (Plan::Look, Rule::DriftDue));
        assert_eq!(plan(&applied(5), OnDrift::Ignore), (Plan::Idle, Rule::UpToDate));
        assert_eq!(plan(&drifted(), OnDrift::Report), (Plan::Idle, Rule::UpToDate));
    }

    #[test]
    fn what_comes_first_comes_before_a_look() {
        let new =
            Observed { upstream: upstream('b'), relation: Some(Relation::Behind), ..applied(5) };
        assert!(matches!(plan(&new, OnDrift::Repair).0, Plan::Run(act) if !act.repairs));
        let broken = Observed { broken: Some("bare".into()), ..applied(5) };
        assert_eq!(plan(&broken, OnDrift::Report).0, Plan::Stopped);
        let moved = Observed { head: Some(commit('b')), relation: None, ..applied(5) };
        assert_eq!(moved.compared(), None, "HEAD was moved by hand: an action comes");
    }

    #[test]
    fn a_newer_revision_that_waits_is_shown_while_a_look_is_due() {
        let since = now() - TimeDelta::minutes(1);
        let waiting = Waiting {
            revision: commit('b'),
            since,
            oldest_since: since,
            urgent: None,
            succeeded_before: false,
            mends: false,
            is_of_this_boot: true,
        };
        let mut seen =
            Observed { upstream: upstream('b'), relation: Some(Relation::Behind), ..applied(5) };
        seen.gates.waiting = Some(waiting);
        let mut policy = policy_of(OnDrift::Report);
        policy.gates.min_age = std::time::Duration::from_secs(1800);
        let decision = decide(&seen, &policy, CRON, now());
        assert_eq!(decision.plan, Plan::Look);
        let gate = decision.conditions[0].gate.as_ref().map(|wait| wait.gate);
        assert_eq!(gate, Some(Gate::MinAge));
    }

    #[test]
    fn a_repair_runs_the_scripts_of_the_applied_revision() {
        let (Plan::Run(act), Rule::Drift) = plan(&drifted(), OnDrift::Repair) else {
            panic!("no repair")
        };
        assert!(act.repairs && !act.asks_before && !act.heeds_hold);
        assert_eq!((act.trigger, act.target), (Trigger::Drift, ActionTarget::Commit(commit('a'))));
    }

    #[test]
    fn what_keeps_files_from_being_repaired_is_said() {
        let outlook = |seen: &Observed| outlook(seen, &policy_of(OnDrift::Repair), CRON, now());
        assert_eq!(outlook(&applied(0)), DriftOutlook::Nothing);
        assert_eq!(outlook(&drifted()), DriftOutlook::Repaired);
        let held = Observed { holds: vec![Hold::default()], ..drifted() };
        assert_eq!(outlook(&held), DriftOutlook::Held);
        let failed = Outcome::Failed { code: 1 };
        let attempt = Attempt::after(failed, commit('a'), 1, None, "web01", now());
        let failing = Observed { attempt: Some(attempt), ..drifted() };
        assert_eq!(outlook(&failing), DriftOutlook::Failing);
        let mut left = drifted();
        left.drift.as_mut().unwrap().left = 1;
        assert_eq!(outlook(&left), DriftOutlook::Left);
        assert_eq!(plan(&left, OnDrift::Repair).0, Plan::Idle);
    }
}
