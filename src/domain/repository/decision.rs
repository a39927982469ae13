//! The decision about one repository: from the observed facts to a plan. Pure; the same decision is made
//! before the lock and again under it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, RefName};
use crate::domain::publish::state::{
    PendingRef, PublishPlan, PublishState, RefOverrides, TargetDiff,
};
use crate::domain::repository::action::{Attempt, Outcome, Trigger};
use crate::domain::repository::conditions::conditions;
use crate::domain::repository::desired::{ActionTarget, DesiredHead, goal};
use crate::domain::repository::drift::OnDrift;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gate::{Gate, GateWait, SignatureNeed};
use crate::domain::repository::gates;
use crate::domain::repository::observed::{
    Observed, OnRewrite, Policy, RerunPolicy, UpdateMethod, UpstreamTip,
};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::state::{Condition, State};

pub mod drift;

/// The plan for one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    /// Do nothing, and write nothing.
    Idle,
    /// Clean up after a dead run or repair damage, then decide again.
    Recover,
    /// Fetch the tip, then decide again.
    Fetch {
        /// The commit to fetch.
        tip: Commit,
    },
    /// Record the first sight of the revision to apply, which a gate depends on, and what is in it, then decide
    /// again; `None`: nothing waits any more, and the record is removed.
    Sight(Option<ActionTarget>),
    /// Verify that the revision to apply is signed, before anything of its tree is read, then decide again.
    Verify {
        /// The revision.
        target: ActionTarget,
        /// What is asked of it.
        need: SignatureNeed,
    },
    /// Run an action.
    Run(PlannedAction),
    /// Compare the files with the applied revision and record what differs, then decide again.
    Look,
    /// Bring the targets up to date, ref by ref.
    Publish(PublishPlan),
    /// Wait until a failed attempt, or a remote in backoff, may be tried again.
    Wait {
        /// The end of the wait.
        until: DateTime<Utc>,
    },
    /// Only a person, a commit or time can help; [`super::status`] says which.
    Stopped,
}

impl Plan {
    /// Returns `true` if a worker has something to do.
    pub fn is_work(&self) -> bool {
        match self {
            Self::Recover
            | Self::Fetch { .. }
            | Self::Sight(_)
            | Self::Verify { .. }
            | Self::Run(_)
            | Self::Look
            | Self::Publish(_) => true,
            Self::Idle | Self::Wait { .. } | Self::Stopped => false,
        }
    }
}

/// The parameters of one action for its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedAction {
    /// The checked-out commit; `None` while the branch is unborn.
    pub head: Option<Commit>,
    /// The commit to check out.
    pub target: ActionTarget,
    /// Commits of ours or revisions seen earlier leave the branch: the old HEAD is kept as a ref.
    pub saves_head: bool,
    /// The revision deployed last.
    pub previous: Option<Commit>,
    /// The reason for the run.
    pub trigger: Trigger,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// An earlier run of the same revision was interrupted.
    pub resumed: bool,
    /// Run only if a relevant path changed (`paths` counts); else run in any case.
    pub only_if_relevant: bool,
    /// Do nothing if the revision's own `.pmpy.toml` holds it.
    pub heeds_hold: bool,
    /// Ask `before` first.
    pub asks_before: bool,
    /// The bad revision that this action leaves.
    pub leaves: Option<Commit>,
    /// The target is upstream's tip, so that going back from it drops no local commit.
    pub is_upstreams: bool,
    /// Files that differ from the target, which is applied, are kept and written anew.
    pub repairs: bool,
}

/// The rule behind a plan. `agent explain` has a sentence for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `active = false`.
    Inactive,
    /// Never a second action at the same time.
    ActionRuns,
    /// What cannot be read safely is left alone.
    Unreadable,
    /// A dead run or damage is cleaned up before anything else.
    Recovery,
    /// A repository that is not here is cloned first.
    Clone,
    /// A hold stops everything but recovery.
    Hold,
    /// A lagging mirror moves nothing back.
    LaggingMirror,
    /// Upstream has no branch to follow.
    NoUpstreamBranch,
    /// `paths` selects nothing that changed.
    Irrelevant,
    /// Upstream names its objects by another hash.
    OtherFormat,
    /// The desired revision is deployed.
    UpToDate,
    /// Upstream's revision has to be fetched before it is judged.
    Fetch,
    /// Targets follow their refs.
    Targets,
    /// Local changes are never overwritten.
    LocalChanges,
    /// The script asked to be run again.
    Deferred,
    /// An interrupted run is repeated.
    Interrupted,
    /// The wait after a failed attempt is over.
    RetryDue,
    /// The revision was never deployed.
    FirstDeployment,
    /// The revision is another one than the last that was deployed.
    NewRevision,
    /// An attempt at another revision has not succeeded since, and may have changed the machine.
    TriedSince,
    /// `when` asks for a run without a new revision.
    RerunDue,
    /// A person asked for it.
    Requested,
    /// A remote in backoff is left alone.
    RemoteBackoff,
    /// A failed attempt is repeated after a wait.
    AttemptBackoff,
    /// `rewritten = "refuse"`.
    Rewritten,
    /// The tree of the revision breaks the rules.
    TreeRefused,
    /// A file of the revision is larger than `max_file`.
    FileTooLarge,
    /// The revision's own `.pmpy.toml` holds it.
    TreeHold,
    /// A merge has conflicts.
    MergeConflict,
    /// `update = "fast-forward"` neither merges nor drops local commits.
    FastForwardOnly,
    /// A gate is shut.
    Gate(Gate),
    /// A revision that turned out bad is left.
    WayBack,
    /// A revision that turned out bad is not applied again.
    BadRevision,
    /// The files are compared with the applied revision once in `drift_every`.
    DriftDue,
    /// `drift = "repair"`.
    Drift,
    /// Only a person or a new revision can help.
    NeedsPerson,
}

/// What was decided about a repository, and by which rule. `status`, `explain`, a dry run and the metrics only
/// render it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The plan.
    pub plan: Plan,
    /// The rule behind the plan.
    pub rule: Rule,
    /// Every condition that applies, the most important first; never empty.
    pub conditions: Vec<Condition>,
    /// The difference at the targets; `None` where refs are not published one by one.
    pub target_diff: Option<TargetDiff>,
}

impl Decision {
    /// The decision about a repository that is not here: it is cloned.
    pub fn clone_first(seen: &Observed, policy: &Policy) -> Self {
        let conditions = conditions(seen, policy, None, None);
        Self { plan: Plan::Recover, rule: Rule::Clone, conditions, target_diff: None }
    }
}

/// Decides what to do at `now` about a repository as `seen`.
pub fn decide(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    now: DateTime<Utc>,
) -> Decision {
    let overrides = RefOverrides {
        accepted: seen.accepted,
        named: request.named,
        redo: request.trigger == Trigger::Redo,
    };
    let target_diff = seen.refs.as_ref().map(|refs| refs.target_diff(overrides, now));
    let gate = shut_gate(seen, policy, request, target_diff.as_ref(), now);
    let (plan, rule) =
        plan_by_rule(seen, policy, request, target_diff.as_ref(), gate.as_ref(), now);
    // What is applied may be run again while a newer revision waits.
    let gate = gate.filter(|_| matches!(rule, Rule::Gate(_)) || matches!(plan, Plan::Run(_)));
    let conditions = conditions(seen, policy, target_diff.as_ref(), gate);
    // What differs may be the local change that is in the way; and what runs periodically may never rest.
    let is_at_rest = !plan.is_work() || matches!(rule, Rule::LocalChanges | Rule::RerunDue);
    let drift = is_at_rest.then(|| drift::at_rest(seen, policy, request, now)).flatten();
    let (plan, rule) = drift.unwrap_or((plan, rule));
    Decision { plan, rule, conditions, target_diff }
}

/// The gate that is shut for the revision to apply, as a condition tells it.
fn shut_gate(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target_diff: Option<&TargetDiff>,
    now: DateTime<Utc>,
) -> Option<GateWait> {
    if let Some(target_diff) = target_diff {
        let has_work = !target_diff.is_empty();
        return has_work.then(|| gates::window_of_refs(seen, policy, request, now)).flatten();
    }
    let DesiredHead::Go { target, .. } = goal(seen, policy) else { return None };
    gates::first_shut(seen, policy, request, target, now)?.wait()
}

/// One table: its rows in the order of their precedence. `gate` is the one that is shut.
fn plan_by_rule(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target_diff: Option<&TargetDiff>,
    gate: Option<&GateWait>,
    now: DateTime<Utc>,
) -> (Plan, Rule) {
    if !policy.active {
        return (Plan::Idle, Rule::Inactive);
    }
    if seen.running.is_some() {
        return (Plan::Idle, Rule::ActionRuns);
    }
    if seen.broken.is_some() {
        return (Plan::Stopped, Rule::Unreadable);
    }
    // Even when held: half-written and damaged files are never wanted, nor is a target that shows nothing.
    if seen.stale_journal || seen.damaged.is_some() || seen.release_lost {
        return (Plan::Recover, Rule::Recovery);
    }
    let begins_to_go_back = match (&seen.refs, target_diff) {
        (Some(refs), Some(target_diff)) => refs.begins_to_go_back(target_diff),
        _ => seen.begins_to_go_back(),
    };
    if !seen.holds.is_empty() && !begins_to_go_back {
        return (Plan::Stopped, Rule::Hold);
    }
    if let (Some(refs), Some(target_diff)) = (&seen.refs, target_diff) {
        let mut plan = refs.plan(seen, target_diff);
        if let (Plan::Publish(publish), Some(gate)) = (&mut plan, gate)
            && !gates::goes_on(publish, refs, now)
        {
            return (wait(gate), Rule::Gate(gate.gate));
        }
        let rule = match &plan {
            Plan::Publish(plan) if plan.fetch => Rule::Fetch,
            Plan::Publish(plan) if plan.goes_back() => Rule::WayBack,
            Plan::Publish(_) => Rule::Targets,
            Plan::Wait { .. } => Rule::AttemptBackoff,
            Plan::Stopped => stopped_rule(seen, policy),
            _ if target_diff.ref_statuses.iter().any(|it| it.state == State::RolledBack) => {
                Rule::BadRevision
            }
            _ => idle_rule(seen),
        };
        return (plan, rule);
    }
    let (target, saves_head) = match goal(seen, policy) {
        DesiredHead::Go { target, saves_head } => (target, saves_head),
        DesiredHead::Fetch(tip) => {
            return match seen.left_alone.filter(|_| !request.named) {
                Some(until) => (Plan::Wait { until }, Rule::RemoteBackoff),
                None => (Plan::Fetch { tip }, Rule::Fetch),
            };
        }
        DesiredHead::Nowhere => return (Plan::Idle, idle_rule(seen)),
        DesiredHead::Rewritten | DesiredHead::Diverged => {
            return (Plan::Stopped, stopped_rule(seen, policy));
        }
    };
    let asked = matches!(request.trigger, Trigger::Redo | Trigger::Rollback);
    let moves = seen.head.map(ActionTarget::Commit) != Some(target);
    let acted = seen.acted.map(ActionTarget::Commit) == Some(target);
    let due = match policy.when {
        RerunPolicy::Changed => false,
        RerunPolicy::Always => true,
        RerunPolicy::Every(period) => seen.acted_at.is_none_or(|at| {
            // A success in the future was recorded under a clock that has since been set back.
            at > now || (now - at).to_std().unwrap_or_default() >= period
        }),
    };
    let attempt = seen.attempt_at(target);
    // An unsuccessful attempt counts until one succeeds, even at a revision that was deployed before.
    // So does a bad revision until the machine is known to be back.
    let unasked = !due && !asked && attempt.is_none() && seen.going_back().is_none();
    let is_idle = acted && !moves && unasked && !seen.is_tried;
    let finding = seen.standing(target);
    // Before anything of the tree counts.
    if !is_idle
        && let Some(need) = gates::signature_need(seen, policy, request, target)
        && !matches!(finding, Some(Finding::Unsigned { .. }))
        && !gates::is_signed(seen, target, need)
    {
        return (Plan::Verify { target, need }, Rule::Gate(Gate::Signers));
    }
    match finding {
        Some(
            Finding::Refused { .. }
            | Finding::Unsigned { .. }
            | Finding::TooLarge { .. }
            | Finding::Shared { .. }
            | Finding::Held { .. }
            | Finding::Conflict { .. },
        ) => return (Plan::Stopped, stopped_rule(seen, policy)),
        // At a target, what `paths` does not select is not shown; a worktree is there already.
        Some(Finding::Irrelevant { .. }) if unasked => return (Plan::Idle, idle_rule(seen)),
        Some(Finding::Irrelevant { .. } | Finding::Dirty { .. }) | None => {}
    }
    if is_idle {
        // A revision that waited is not upstream's any more: its wait must not count for the next.
        let plan = if seen.gates.waiting.is_some() { Plan::Sight(None) } else { Plan::Idle };
        return (plan, idle_rule(seen));
    }
    if let (Some(until), false) =
        (attempt.and_then(|attempt| attempt.must_wait(now)), request.named || asked)
    {
        return (Plan::Wait { until }, Rule::AttemptBackoff);
    }
    if let Some(gate) = gate {
        if !gates::is_sighted(seen, target) {
            return (Plan::Sight(Some(target)), Rule::Gate(gate.gate));
        }
        let again = rerun(seen, policy, request, due, now);
        return again.unwrap_or_else(|| (wait(gate), Rule::Gate(gate.gate)));
    }
    // An answer of `before` is no attempt of the scripts.
    let ran = attempt.filter(|attempt| !attempt.is_of_before);
    let leaves = seen.going_back().filter(|(to, _)| target == ActionTarget::Commit(*to));
    let rule = match (attempt, finding) {
        _ if leaves.is_some() => Rule::WayBack,
        (Some(attempt), _) if attempt.outcome == Outcome::Deferred => Rule::Deferred,
        (Some(attempt), _)
            if matches!(attempt.outcome, Outcome::Interrupted | Outcome::Unchecked) =>
        {
            Rule::Interrupted
        }
        (Some(attempt), _) if attempt.next_number() > 1 => Rule::RetryDue,
        (None, Some(Finding::Dirty { .. })) => Rule::LocalChanges,
        _ if seen.acted.is_none() => Rule::FirstDeployment,
        _ if moves || !acted => Rule::NewRevision,
        _ if seen.is_tried => Rule::TriedSince,
        _ if policy.when == RerunPolicy::Changed => Rule::Requested,
        _ => Rule::RerunDue,
    };
    let plan = Plan::Run(PlannedAction {
        head: seen.head,
        target,
        saves_head: saves_head && moves,
        previous: seen.acted,
        trigger: match leaves {
            Some(_) => Trigger::Rollback,
            // The scripts of a repair are still to succeed.
            None if acted && !asked && !request.named && seen.repair_is_pending() => Trigger::Drift,
            None => request.trigger,
        },
        attempt: ran.map_or(1, Attempt::next_number),
        resumed: ran.is_some_and(|attempt| attempt.outcome == Outcome::Interrupted),
        // Moving HEAD back by hand asks for the same revision once more.
        only_if_relevant: !asked && !due && !acted && ran.is_none(),
        heeds_hold: seen.is_held_by(target.upstream()),
        asks_before: gates::asks_before(seen, policy, request, target),
        leaves: leaves.map(|(_, bad)| bad),
        is_upstreams: seen.pin.is_none()
            && seen.upstream_tip().map(ActionTarget::Commit) == Some(target),
        repairs: acted && !moves && policy.drift.on == OnDrift::Repair && seen.repair_is_pending(),
    });
    (plan, rule)
}

/// The plan while `gate` is shut.
fn wait(gate: &GateWait) -> Plan {
    gate.until.map_or(Plan::Stopped, |until| Plan::Wait { until })
}

/// The run at the applied revision that is due while a newer one waits for a gate: as if upstream had nothing
/// new; `None`: none is.
fn rerun(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    due: bool,
    now: DateTime<Utc>,
) -> Option<(Plan, Rule)> {
    let head = seen.head?;
    let last = seen.last_success.as_ref().map(|run| run.revision);
    let failed = seen.attempt_at(ActionTarget::Commit(head)).is_some();
    let is_asked_for = due || seen.acted.is_none() || failed;
    if !is_asked_for || ![seen.acted, last].contains(&Some(head)) {
        return None;
    }
    let here = Observed { upstream: UpstreamTip::Unknown, ..seen.clone() };
    // What was applied here needs no gate again.
    let (plan, rule) = plan_by_rule(&here, policy, request, None, None, now);
    matches!(plan, Plan::Run(_) | Plan::Verify { .. }).then_some((plan, rule))
}

/// The rule by which nothing is to do.
fn idle_rule(seen: &Observed) -> Rule {
    let finding = seen.verdict.as_ref().map(|verdict| &verdict.finding);
    match finding {
        _ if seen.bad.is_some() && seen.pin.is_none() && seen.way_back().is_some() => {
            Rule::BadRevision
        }
        _ if seen.lagging => Rule::LaggingMirror,
        _ if matches!(seen.upstream, UpstreamTip::Empty | UpstreamTip::Unknown) => {
            Rule::NoUpstreamBranch
        }
        Some(Finding::Irrelevant { .. }) => Rule::Irrelevant,
        _ if seen.other_format.is_some() => Rule::OtherFormat,
        _ => Rule::UpToDate,
    }
}

/// The rule that stops a repository that is readable and not held.
fn stopped_rule(seen: &Observed, policy: &Policy) -> Rule {
    if seen.lost.is_some() && policy.rewritten == OnRewrite::Refuse {
        return Rule::Rewritten;
    }
    match seen.verdict.as_ref().map(|verdict| &verdict.finding) {
        Some(Finding::Refused { .. } | Finding::Shared { .. }) => Rule::TreeRefused,
        Some(Finding::Unsigned { .. }) => Rule::Gate(Gate::Signers),
        Some(Finding::TooLarge { .. }) => Rule::FileTooLarge,
        Some(Finding::Held { .. }) => Rule::TreeHold,
        Some(Finding::Conflict { .. }) => Rule::MergeConflict,
        _ if policy.update == UpdateMethod::FastForward => Rule::FastForwardOnly,
        _ => Rule::NeedsPerson,
    }
}

impl PublishState {
    /// The refs that are to go back; with `only_first`, only those that did not try to yet.
    fn ways_back<'a>(
        &'a self,
        target_diff: &'a TargetDiff,
        only_first: bool,
    ) -> impl Iterator<Item = PendingRef> + 'a {
        let begins = |due: &PendingRef| {
            let attempt = self.book.get(&due.name).and_then(|entry| entry.attempt.as_ref());
            attempt.is_none_or(|attempt| attempt.revision != due.revision)
        };
        let leaving = target_diff.publish.iter().filter(|due| due.leaves.is_some());
        leaving.filter(move |due| !only_first || begins(due)).cloned()
    }

    /// Whether a ref begins to go back, which no hold of a person stops.
    fn begins_to_go_back(&self, target_diff: &TargetDiff) -> bool {
        self.ways_back(target_diff, true).next().is_some()
    }

    /// The revision to be recorded as deployed: the followed branch's tip, or what a person put into the
    /// target of a repository that only fetches. `None`: not yet, or already recorded.
    pub fn to_record(&self, seen: &Observed, target_diff: &TargetDiff) -> Option<Commit> {
        let followed = seen.branch.as_ref().map(RefName::local);
        let is_open = target_diff.ref_statuses.iter().any(|status| {
            Some(&status.name) == followed.as_ref()
                && !matches!(status.state, State::Current | State::Inactive)
        });
        let by_hand = self.by_hand.values().find(|entry| entry.shown.is_some());
        let live =
            by_hand.map_or(self.tip, |entry| entry.shown.filter(|_| entry.shown == entry.good));
        live.filter(|live| !is_open && seen.acted != Some(*live) && !seen.is_unsigned(*live))
    }

    /// The plan for the targets, once nothing else prevents it.
    fn plan(&self, seen: &Observed, target_diff: &TargetDiff) -> Plan {
        let publish: Vec<_> = self.ways_back(target_diff, !seen.holds.is_empty()).collect();
        if !publish.is_empty() {
            // Alone: what was bad may have taken the network down, and the rest can wait for the next tick.
            let (fetch, remove, record) = (false, Vec::new(), None);
            return Plan::Publish(PublishPlan { fetch, remove, publish, record });
        }
        let record = self.to_record(seen, target_diff);
        if self.unfetched || !target_diff.is_empty() || record.is_some() {
            let TargetDiff { remove, publish, .. } = target_diff.clone();
            return Plan::Publish(PublishPlan { fetch: self.unfetched, remove, publish, record });
        }
        match target_diff.next_try() {
            Some(until) => Plan::Wait { until },
            None if self.tip.is_some_and(|tip| seen.is_unsigned(tip)) => Plan::Stopped,
            None if target_diff.ref_statuses.iter().all(|it| !it.state.needs_a_person()) => {
                Plan::Idle
            }
            None => Plan::Stopped,
        }
    }
}

#[cfg(test)]
mod tests;
