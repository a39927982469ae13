//! Where HEAD of a repository should be, from what was observed and what the policy wants.

use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, Relation};
use crate::domain::repository::action::Attempt;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::observed::{
    Observed, OnRewrite, Policy, RecordedFinding, UpdateMethod, UpstreamTip,
};

/// The commit that an action checks out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionTarget {
    /// This commit.
    Commit(Commit),
    /// A merge commit, still to be made, of HEAD and this upstream tip.
    MergeOf(Commit),
}

impl ActionTarget {
    /// The commit itself, or the upstream tip that is merged.
    pub fn upstream(self) -> Commit {
        let (Self::Commit(commit) | Self::MergeOf(commit)) = self;
        commit
    }
}

/// The commit that HEAD should be at, or why it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) enum DesiredHead {
    Go { target: ActionTarget, saves_head: bool },
    Fetch(Commit),
    Nowhere,
    Rewritten,
    Diverged,
}

/// The commit that HEAD should be at.
pub(in crate::domain) fn goal(seen: &Observed, policy: &Policy) -> DesiredHead {
    let go = |commit| DesiredHead::Go { target: ActionTarget::Commit(commit), saves_head: false };
    if let Some(pin) = &seen.pin {
        return DesiredHead::Go { target: ActionTarget::Commit(pin.revision), saves_head: true };
    }
    if let Some(last) = seen.way_back() {
        return DesiredHead::Go { target: ActionTarget::Commit(last), saves_head: true };
    }
    let (tip, fetched) = match (seen.upstream, seen.head) {
        (UpstreamTip::Tip { commit, fetched }, _) => (commit, fetched),
        // Nothing is known of upstream: the local revision stays and its runs continue.
        (UpstreamTip::Unknown, Some(head)) => return go(head),
        // Upstream deleted the branch. A branch that never existed may be a mistyped name.
        (UpstreamTip::Empty, Some(head)) if seen.acted.is_some() => return go(head),
        (UpstreamTip::Unknown | UpstreamTip::Empty, _) => return DesiredHead::Nowhere,
    };
    if !fetched {
        // No remote that can be followed has the tip any more.
        return match (&seen.other_format, seen.head) {
            (None, _) => DesiredHead::Fetch(tip),
            (Some(_), Some(head)) => go(head),
            (Some(_), None) => DesiredHead::Nowhere,
        };
    }
    let local = seen.switch.map_or(seen.head, |switch| switch.local);
    let Some(local) = local else { return go(tip) };
    if seen.lagging {
        return go(local);
    }
    let accepted = seen.accepted == Some(tip);
    let reset = DesiredHead::Go { target: ActionTarget::Commit(tip), saves_head: true };
    if seen.lost.is_some() {
        return match policy.rewritten {
            _ if accepted => reset,
            OnRewrite::Refuse => DesiredHead::Rewritten,
            OnRewrite::Follow => reset,
        };
    }
    match seen.relation {
        Some(Relation::Same | Relation::Behind) => go(tip),
        _ if policy.update == UpdateMethod::Reset || accepted => reset,
        Some(Relation::Ahead) => go(local),
        // A merge works on the checked-out branch.
        Some(Relation::Diverged)
            if policy.update == UpdateMethod::Merge && seen.switch.is_none() =>
        {
            DesiredHead::Go { target: ActionTarget::MergeOf(tip), saves_head: false }
        }
        Some(Relation::Diverged) => DesiredHead::Diverged,
        None => DesiredHead::Nowhere,
    }
}

impl Observed {
    /// Whether `hold` in the `.pmpy.toml` of `revision` counts: not on the way back, not where it was deployed
    /// already, and not when a person accepted the revision.
    pub fn is_held_by(&self, revision: Commit) -> bool {
        let passed = [self.accepted, self.unheld, self.acted];
        let is_way_back = self.way_back() == Some(revision);
        self.pin.is_none() && !is_way_back && !passed.contains(&Some(revision))
    }

    /// Whether an `accept` of `revision` passes its own hold and nothing else.
    pub fn awaits_unhold(&self, revision: Commit) -> bool {
        let is_held = |verdict: &RecordedFinding| {
            verdict.revision == revision && matches!(verdict.finding, Finding::Held { .. })
        };
        self.refs.is_none() && self.lost.is_none() && self.verdict.as_ref().is_some_and(is_held)
    }

    /// Whether `revision` was refused because of its signature, and no person accepted it.
    pub fn is_unsigned(&self, revision: Commit) -> bool {
        let is_refused = |verdict: &RecordedFinding| match &verdict.finding {
            Finding::Unsigned { tag, .. } => {
                verdict.revision == revision && *tag == self.judged_tag(revision)
            }
            _ => false,
        };
        self.accepted != Some(revision) && self.verdict.as_ref().is_some_and(is_refused)
    }

    /// The finding of an earlier pass about `target`, when it still applies.
    pub(in crate::domain) fn standing(&self, target: ActionTarget) -> Option<&Finding> {
        let revision = target.upstream();
        self.verdict
            .as_ref()
            .filter(|verdict| verdict.revision == revision && verdict.head == self.head)
            .map(|verdict| &verdict.finding)
            .filter(|finding| match finding {
                Finding::Held { .. } => self.is_held_by(revision),
                Finding::Unsigned { .. } => self.is_unsigned(revision),
                Finding::Conflict { .. } => matches!(target, ActionTarget::MergeOf(_)),
                Finding::Irrelevant { since_revision } => self.acted == Some(*since_revision),
                _ => true,
            })
    }

    /// The finding that keeps a dead run from being cleaned up, wherever upstream is by now.
    pub(in crate::domain) fn blocked(&self) -> Option<&Finding> {
        self.verdict
            .as_ref()
            .filter(|verdict| self.stale_journal && verdict.head == self.head)
            .map(|verdict| &verdict.finding)
            .filter(|finding| matches!(finding, Finding::Dirty { .. }))
    }

    /// The latest attempt, when it was at `target`.
    pub(in crate::domain) fn attempt_at(&self, target: ActionTarget) -> Option<&Attempt> {
        let revision = target.upstream();
        self.attempt.as_ref().filter(|attempt| attempt.revision == revision)
    }
}
