//! What is decided about drift while there is nothing else to do: to look, to repair, or why neither.

use chrono::{DateTime, Utc};

use super::{Plan, PlannedAction, Rule};
use crate::domain::git::Commit;
use crate::domain::publish::state::{PublishPlan, RefOverrides};
use crate::domain::repository::action::Trigger;
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::drift::{self, DriftRecord, OnDrift};
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

    /// Whether what the last look found is not true any more: an action wrote the files since.
    fn is_outdated(&self, found: &DriftRecord, now: DateTime<Utc>) -> bool {
        let is_published = match &self.refs {
            Some(refs) => refs.is_published_since(found.at, now),
            None => found.revision.is_some_and(|of| self.compared() != Some(of)),
        };
        found.files > 0 && is_published
    }
}

/// What follows from what the last look found.
pub fn outlook(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    now: DateTime<Utc>,
) -> DriftOutlook {
    let pending = seen.refs.as_ref().is_some_and(|refs| refs.pending_repairs().next().is_some());
    let has_news = |it: &&DriftRecord| it.files > 0 || it.pending.is_some() || pending;
    let Some(found) = seen.drift.as_ref().filter(has_news) else { return DriftOutlook::Nothing };
    let revision = match (policy.drift.on, seen.compared()) {
        (OnDrift::Repair, Some(revision))
            if seen.refs.is_some() || found.revision == Some(revision) =>
        {
            revision
        }
        _ => return DriftOutlook::Reported,
    };
    let wants_repair = match &seen.refs {
        Some(refs) => refs.wants_repair(),
        None => found.wants_repair(),
    };
    if !wants_repair {
        if found.unrepaired.is_some() { DriftOutlook::Hindered } else { DriftOutlook::Left }
    } else if !seen.holds.is_empty() {
        DriftOutlook::Held
    } else if is_failing(seen, request, revision, now) {
        DriftOutlook::Failing
    } else if seen.refs.is_none() && seen.is_unsigned(revision) {
        DriftOutlook::Refused
    } else if let Some(wait) = gates::window_of_repair(seen, policy, request, revision, now)
        && !has_begun(seen, found, now)
    {
        DriftOutlook::Window(wait)
    } else {
        DriftOutlook::Repaired
    }
}

/// Whether the last run at `revision` did not succeed, and has to first; of many refs, at each that differs.
fn is_failing(
    seen: &Observed,
    request: ActionRequest,
    revision: Commit,
    now: DateTime<Utc>,
) -> bool {
    match &seen.refs {
        Some(refs) => refs.repairs(overrides(seen, request), now).is_empty(),
        None => {
            let target = ActionTarget::Commit(revision);
            seen.attempt_at(target).is_some() || seen.going_back().is_some()
        }
    }
}

/// Whether a repair began within an hour, which a window that is shut by now does not stop.
fn has_begun(seen: &Observed, found: &DriftRecord, now: DateTime<Utc>) -> bool {
    let is_recent =
        |name: &String| drift::began(name).is_some_and(|began| gates::finishes_outside(began, now));
    match &seen.refs {
        Some(refs) => refs.pending_repairs().any(is_recent),
        None => found.pending.as_ref().is_some_and(is_recent),
    }
}

fn overrides(seen: &Observed, request: ActionRequest) -> RefOverrides {
    RefOverrides { accepted: seen.accepted, named: request.named, redo: false }
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
    // What an action wrote may be among what differed before it.
    let is_outdated = seen.drift.as_ref().is_some_and(|found| seen.is_outdated(found, now));
    if is_outdated || drift::is_due(&policy.drift, seen.look_times, now) {
        return Some((Plan::Look, Rule::DriftDue));
    }
    if outlook(seen, policy, request, now) != DriftOutlook::Repaired {
        return None;
    }
    if let Some(refs) = &seen.refs {
        // Each signature is judged before its tree is read.
        let mut publish = refs.repairs(overrides(seen, request), now);
        if gates::window_of_repair(seen, policy, request, revision, now).is_some() {
            publish.retain(|due| {
                let began = refs.pending_repair(&due.name).and_then(drift::began);
                began.is_some_and(|began| gates::finishes_outside(began, now))
            });
        }
        let plan = PublishPlan { fetch: false, remove: Vec::new(), publish, record: None };
        return Some((Plan::Publish(plan), Rule::Drift));
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
    use jiff::tz::TimeZone;

    use super::*;
    use crate::domain::git::Relation;
    use crate::domain::name_time;
    use crate::domain::repository::action::{Attempt, Outcome};
    use crate::domain::repository::decision::decide;
    use crate::domain::repository::drift::{Difference, DriftPolicy, DriftedFile, LookTimes};
    use crate::domain::repository::hold::Hold;
    use crate::domain::repository::observed::RerunPolicy;
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
            look_times: LookTimes {
                written: Some(now() - TimeDelta::hours(hours)),
                ..LookTimes::default()
            },
            ..Observed::default()
        }
    }

    /// As [`applied`], and a look just now found a file that differs.
    fn drifted() -> Observed {
        let file = DriftedFile { path: "etc/nginx.conf".into(), how: Difference::Content };
        let all = vec![file];
        let drift = Some(DriftRecord::new(Some(commit('a')), now(), all.into_iter()));
        let look_times = LookTimes { looked: Some(now()), ..applied(5).look_times };
        Observed { drift, look_times, ..applied(5) }
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
    fn what_runs_with_each_tick_is_compared_too() {
        let policy = Policy { when: RerunPolicy::Always, ..policy_of(OnDrift::Repair) };
        let plan = |seen: &Observed| decide(seen, &policy, CRON, now()).plan;
        assert_eq!(plan(&applied(5)), Plan::Look);
        assert!(matches!(plan(&applied(0)), Plan::Run(act) if !act.repairs));
        assert!(matches!(plan(&drifted()), Plan::Run(act) if act.repairs));
    }

    #[test]
    fn a_repair_that_began_while_the_window_was_open_is_finished_within_an_hour() {
        let mut policy = policy_of(OnDrift::Repair);
        policy.gates.window = Some(vec!["2001-01-01".to_owned()].try_into().unwrap());
        let mut seen = drifted();
        seen.gates.zone = Some(TimeZone::UTC);
        let is_repaired = |seen: &Observed| decide(seen, &policy, CRON, now()).rule == Rule::Drift;
        assert!(!is_repaired(&seen));
        for (minutes, finishes) in [(1, true), (59, true), (61, false), (-5, false)] {
            let began = name_time::name(now() - TimeDelta::minutes(minutes));
            seen.drift.as_mut().unwrap().pending = Some(began);
            assert_eq!(is_repaired(&seen), finishes, "{minutes}");
        }
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
