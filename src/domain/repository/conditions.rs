//! The conditions of a repository: every state that applies, with its reason.

use crate::domain::followed::TagRelation;
use crate::domain::git::Relation;
use crate::domain::publish::state::TargetDiff;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::desired::{ActionTarget, DesiredHead, goal};
use crate::domain::repository::drift::DriftRecord;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gate::GateWait;
use crate::domain::repository::observed::{Observed, Policy, UpstreamTip};
use crate::domain::repository::state::{Condition, State, rewritten};
use crate::domain::text::{EscapeControls, utc_minute};

mod refs;

/// Every condition of a repository as `seen`, most important first; never empty. `target_diff` is the
/// difference at its targets, where its refs are published one by one; `gate` is the one that is shut.
pub fn conditions(
    seen: &Observed,
    policy: &Policy,
    target_diff: Option<&TargetDiff>,
    gate: Option<GateWait>,
) -> Vec<Condition> {
    if !policy.active {
        return vec![Condition::new(State::Inactive)];
    }
    let mut all = Vec::new();
    if let Some(running) = &seen.running {
        let what = match running.revision {
            Some(revision) => {
                let doing = if running.checks_health { "checking" } else { "applying" };
                format!("{doing} {} (pid {})", revision.short(), running.pid)
            }
            None => format!("fetching (pid {})", running.pid),
        };
        all.push(match &running.stalled {
            Some(why) => Condition::new(State::Failing).because(why).since(running.since),
            None => Condition::new(State::Acting).because(what).since(running.since),
        });
    }
    if let Some(reason) = seen.broken.as_ref().or(seen.damaged.as_ref()) {
        all.push(Condition::new(State::Broken).because(reason));
    }
    for hold in &seen.holds {
        let until =
            hold.until.map_or(String::new(), |until| format!(", until {}", utc_minute(until)));
        all.push(
            Condition::new(State::Held)
                .because(format!("{}{until}", hold.sentence()))
                .since(hold.since),
        );
    }
    if let Some(pin) = &seen.pin {
        all.push(
            Condition::new(State::Pinned)
                .because(format!(
                    "rolled back to {} by {}",
                    pin.revision.short(),
                    pin.by.escape_controls()
                ))
                .since(pin.since),
        );
    }
    if let (Some(refs), Some(target_diff)) = (&seen.refs, target_diff) {
        all = in_order(all);
        all.extend(refs::conditions(refs, &target_diff.ref_statuses, seen, policy, gate));
        return all;
    }
    let goal = goal(seen, policy);
    let target = match goal {
        DesiredHead::Go { target, .. } => Some(target),
        _ => None,
    };
    let tried = match goal {
        DesiredHead::Fetch(tip) => Some(ActionTarget::Commit(tip)),
        _ => target,
    };
    let standing = target.and_then(|target| seen.standing(target)).or_else(|| seen.blocked());
    let obstacle = standing.map(|finding| finding.state_and_reason().1);
    let bad = seen.bad_condition(obstacle.as_deref());
    let is_told = bad.as_ref().is_some_and(|bad| bad.state == State::Failing);
    all.extend(bad);
    if let Some(attempt) = tried.and_then(|target| seen.attempt_at(target))
        && !is_told
    {
        let state = match attempt.outcome {
            Outcome::Deferred | Outcome::Unchecked => State::Waiting,
            _ if attempt.is_of_before => State::Refused,
            _ => State::Failing,
        };
        let mut condition = Condition::new(state).because(attempt.sentence()).since(attempt.since);
        if matches!(state, State::Failing | State::Refused) {
            condition.attempt = attempt.number;
            condition.next_try = attempt.next_try;
        }
        all.push(condition);
    }
    let found_at = seen.verdict.as_ref().map(|verdict| verdict.since);
    if let Some(finding) = standing {
        let (state, reason) = finding.state_and_reason();
        let mut condition = Condition::new(state).because(reason);
        if state == State::Current {
            condition.reason = with_drift(seen, condition.reason);
        }
        condition.since = found_at;
        all.push(condition);
    }
    if goal == DesiredHead::Rewritten {
        let lost = seen.lost.map_or_else(String::new, |lost| lost.short());
        let tip = match seen.upstream {
            UpstreamTip::Tip { commit, .. } => commit.to_string(),
            _ => String::new(),
        };
        let is_older = seen.relation == Some(Relation::Ahead);
        let reason = lost_tag(seen).unwrap_or_else(|| rewritten(&lost, &tip, is_older));
        all.push(Condition::new(State::Rewritten).because(reason));
    }
    if goal == DesiredHead::Diverged {
        all.push(Condition::new(State::Diverged).because(
            "local and upstream commits, and update = \"fast-forward\" does not merge; \
             push or drop the local ones, or set update = \"merge\"",
        ));
    }
    all.extend(no_ref(seen));
    all.extend(unreachable(seen));
    if let Some(gate) = gate {
        let condition = Condition::new(State::Behind).because(gate.sentence());
        all.push(Condition { gate: Some(gate), ..condition });
    } else if !all.iter().any(|condition| condition.state == State::Current) {
        all.push(standing_of_the_revision(seen, target));
    }
    in_order(all)
}

pub(in crate::domain) fn in_order(mut all: Vec<Condition>) -> Vec<Condition> {
    all.sort_by_key(|condition| condition.state);
    all.dedup_by_key(|condition| (condition.state, condition.reason.clone()));
    all
}

/// The reason for `rewritten` where the tag that was seen here last moved or went; `None`: a branch is followed.
pub(in crate::domain) fn lost_tag(seen: &Observed) -> Option<String> {
    let ((lost, relation), tag) = (seen.lost_tag.as_ref()?, seen.tag.as_ref()?);
    let name = lost.name.escape_controls();
    let was = lost.commit.unwrap_or(lost.id).short();
    Some(match relation {
        TagRelation::Moved => format!(
            "upstream moved the tag {name} from {was} to {}; a newer tag is taken by itself; \
             to take the moved one: agent accept REPO {}",
            tag.commit.short(),
            tag.commit
        ),
        _ => format!(
            "upstream no longer has the tag {name} ({was}), and its newest is {}; a newer tag is taken by \
             itself; to go back to that one: agent accept REPO {}",
            tag.escaped(),
            tag.commit
        ),
    })
}

/// The condition when no remote answers, or none can be followed.
pub(in crate::domain) fn unreachable(seen: &Observed) -> Option<Condition> {
    let (state, why) = match (&seen.other_format, &seen.unreachable) {
        (Some(why), _) => (State::Rewritten, why),
        (None, Some(why)) if why.refusals > 0 => (State::Denied, why),
        (None, Some(why)) => (State::Unreachable, why),
        (None, None) => return None,
    };
    Some(Condition::new(state).because(why.reason.clone()).since(why.since))
}

/// The condition when the remote answers and lacks the branch.
pub(in crate::domain) fn no_ref(seen: &Observed) -> Option<Condition> {
    if seen.upstream != UpstreamTip::Empty
        || seen.unreachable.is_some()
        || seen.other_format.is_some()
    {
        return None;
    }
    let condition = Condition::new(State::NoRef);
    match (&seen.no_ref, seen.acted) {
        (Some(why), _) => Some(condition.because(why.reason.clone()).since(why.since)),
        (None, Some(_)) => Some(condition.because(
            "the remote has no refs at all any more\nhint: see whether it was set up anew, and push",
        )),
        (None, None) => None,
    }
}

/// One of `behind`, `new`, `ahead` and `current`: exactly one applies.
pub(in crate::domain) fn standing_of_the_revision(
    seen: &Observed,
    target: Option<ActionTarget>,
) -> Condition {
    let Some(acted) = seen.acted else {
        let condition = Condition::new(State::New);
        return match seen.upstream {
            UpstreamTip::Empty if seen.no_ref.is_none() => condition.because("the remote is empty"),
            _ => condition,
        };
    };
    let waits = match (target, seen.upstream) {
        (Some(target), _) => target != ActionTarget::Commit(acted) || seen.head != Some(acted),
        (None, UpstreamTip::Tip { commit, .. }) => commit != acted || seen.head != Some(acted),
        (None, _) => seen.head != Some(acted),
    };
    if waits {
        let reason = match (target, seen.upstream) {
            (Some(ActionTarget::Commit(commit)), _) | (_, UpstreamTip::Tip { commit, .. })
                if commit != acted =>
            {
                Some(format!("{} is known and not applied yet", seen.named(commit)))
            }
            _ => seen.head.map(|head| format!("HEAD is at {}", head.short())),
        };
        return Condition { reason, ..Condition::new(State::Behind) };
    }
    // A failed attempt at this very revision has a condition of its own.
    let is_tried = seen.is_tried && target.is_some_and(|target| seen.attempt_at(target).is_none());
    if is_tried {
        return Condition::new(State::Behind).because(format!(
            "another revision was tried since and did not succeed; {} is applied again",
            acted.short()
        ));
    }
    if seen.relation == Some(Relation::Ahead) && !seen.lagging && seen.pin.is_none() {
        let ahead = "local commits that the remote lacks".to_owned();
        return Condition { reason: with_drift(seen, Some(ahead)), ..Condition::new(State::Ahead) };
    }
    let current = Condition::new(State::Current);
    let current = match (seen.lagging, &seen.late, &seen.doubt) {
        (true, ..) => current.because("the mirror that answered lags behind"),
        (_, Some(late), _) => current.because(format!("the mirror {late} lags behind")),
        (_, None, Some(doubt)) => current.because(doubt),
        (_, None, None) => {
            let reason = seen.repaired.clone().or_else(|| seen.no_script.clone());
            Condition { reason, ..current }
        }
    };
    Condition { reason: with_drift(seen, current.reason), ..current }
}

/// The `reason` of a good state, and what differs from the applied revision.
fn with_drift(seen: &Observed, reason: Option<String>) -> Option<String> {
    let drift = seen.drift.as_ref().and_then(DriftRecord::reason);
    let all: Vec<String> = reason.into_iter().chain(drift).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

impl Finding {
    /// The state that follows from the finding, and the reason as a message.
    pub fn state_and_reason(&self) -> (State, String) {
        match self {
            Self::Refused { reason }
            | Self::Unsigned { reason, .. }
            | Self::TooLarge { reason, .. } => (State::Refused, reason.clone()),
            Self::Shared { path } => (
                State::Refused,
                format!(
                    "\"{path}\" is a shared directory here, and the revision has that path itself\n\
                     hint: remove it from the repository, or from the key shared"
                ),
            ),
            Self::Held { reason } => (State::Held, format!("by .pmpy.toml: {reason}")),
            Self::Conflict { paths } => {
                (State::Diverged, format!("the merge has conflicts in {}", paths.join(", ")))
            }
            Self::Dirty { paths } => (
                State::Dirty,
                format!(
                    "local changes in the way: {}\n\
                     hint: to keep them, commit and push them or move them away; to drop them: \
                     git checkout HEAD -- FILE; or for a new file: git reset -- FILE && rm FILE",
                    paths.join(", ")
                ),
            ),
            Self::Irrelevant { since_revision } => {
                (State::Current, format!("nothing relevant since {}", since_revision.short()))
            }
        }
    }
}
