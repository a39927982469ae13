//! The heart: from what was seen of one repository to what is done about it. Pure; the same
//! question is asked before the lock and again under it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::action::{Attempt, Finished, Outcome, Trigger};
use super::git::{Commit, RefName, Relation};
use super::publication::{Publishing, Refs};
use super::remote::{Asked, Whom};

/// What the configuration asks for, as far as a decision depends on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// `active`: whether the repository is looked at.
    pub active: bool,
    /// `update`: how upstream's commits come into the worktree.
    pub update: Update,
    /// `rewritten`: what to do when upstream lost a revision that was seen.
    pub rewritten: OnRewrite,
    /// `when`: what, beside a new revision, is a reason to act.
    pub when: When,
}

/// How upstream's commits come into the worktree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// Only ever forward; local commits beside upstream's are `diverged`.
    #[default]
    FastForward,
    /// True merge commits by `agent@HOST` where both sides have commits.
    Merge,
    /// Upstream's tip whatever is here; the old HEAD is kept under `refs/pmpy/saved/`.
    Reset,
}

/// What to do when upstream no longer contains a revision that it once had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRewrite {
    /// Keep what is here until a person accepts.
    #[default]
    Refuse,
    /// Take what upstream has; the old HEAD is kept under `refs/pmpy/saved/`.
    Follow,
}

/// What, beside a new revision, is a reason to act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Nothing.
    #[default]
    Changed,
    /// Every tick.
    Always,
    /// The last success is longer ago than this.
    Every(std::time::Duration),
}

/// Everything a decision depends on, read once.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Why it cannot be read or worked on, with the remedy.
    pub broken: Option<String>,
    /// What cannot be read and may be put right without a person.
    pub damaged: Option<String>,
    /// What was put right without a person, not long ago.
    pub repaired: Option<String>,
    /// The action that runs right now.
    pub running: Option<Running>,
    /// A run that died left its journal.
    pub leftover: bool,
    /// Its init ladder ran before this machine had an id, which is to be written down.
    pub id_is_late: bool,
    /// Everything that holds it, in the order it is told.
    pub holds: Vec<Hold>,
    /// Rolled back to this.
    pub pin: Option<Pin>,
    /// A rewritten upstream revision that a person took.
    pub accepted: Option<Commit>,
    /// The checked-out commit; `None` while the branch is unborn.
    pub head: Option<Commit>,
    /// The branch that is followed, once it is known.
    pub branch: Option<RefName>,
    /// Upstream's tip of that branch, as last learned.
    pub upstream: Upstream,
    /// Another branch is checked out than the configured one.
    pub switch: Option<Switch>,
    /// How the followed branch stands to the tip; `None` when either is missing here.
    pub relation: Option<Relation>,
    /// A revision that upstream once had and no longer contains.
    pub lost: Option<Commit>,
    /// Only a mirror that lags behind answered.
    pub lagging: bool,
    /// A mirror that lags behind, as it is displayed; another one may have answered.
    pub late: Option<String>,
    /// No remote answered: since when and why.
    pub unreachable: Option<Unreachable>,
    /// Until when none of the remotes is asked, unless a person wants it.
    pub left_alone: Option<DateTime<Utc>>,
    /// Which remote answered last, and how it was asked.
    pub asked: Option<Asked>,
    /// `lastaction.txt`.
    pub acted: Option<Commit>,
    /// When that was recorded.
    pub acted_at: Option<DateTime<Utc>>,
    /// The latest success, as it was recorded.
    pub last_success: Option<Finished>,
    /// What `.pmpy.toml` of a revision says of `when`, as last read.
    pub tree_when: Option<TreeWhen>,
    /// The latest attempt, unless it succeeded.
    pub attempt: Option<Attempt>,
    /// What an earlier pass found out about a revision.
    pub verdict: Option<Verdict>,
    /// The refs, where each of several is acted upon by itself.
    pub refs: Option<Refs>,
}

/// What `.pmpy.toml` of a revision says of `when`: remembered, so that an idle tick need not look
/// into the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeWhen {
    /// The revision.
    pub revision: Commit,
    /// `None`: it says nothing.
    pub when: Option<When>,
}

/// What is known of upstream's branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// Nothing yet.
    #[default]
    Unknown,
    /// The remote answered and has no such branch, or nothing at all.
    Empty,
    /// Its tip.
    Tip {
        /// The commit.
        commit: Commit,
        /// Whether it is in the object store already.
        fetched: bool,
    },
}

/// The way from the branch that is checked out to the configured one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Where the configured branch is in this clone; `None`: not there yet.
    pub local: Option<Commit>,
}

/// An action that runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// What it acts upon; `None` while it still fetches.
    pub revision: Option<Commit>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The process to look at.
    pub pid: i32,
}

/// Something that stops this repository from acting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who: a user name, `currentaction.txt` or `.pmpy.toml`.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Until when; `None`: until it is lifted.
    pub until: Option<DateTime<Utc>>,
}

/// A roll-back that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The revision.
    pub revision: Commit,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub since: DateTime<Utc>,
}

/// Why and since when no remote answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    /// Since when.
    pub since: DateTime<Utc>,
    /// In words.
    pub reason: String,
}

/// What a pass found out about going from `head` to `revision`. It stands while both stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Where it was to go.
    pub revision: Commit,
    /// From where.
    pub head: Option<Commit>,
    /// What was found.
    pub finding: Finding,
    /// When it was found first.
    pub since: DateTime<Utc>,
}

/// The part of a [`Verdict`] that says what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Finding {
    /// The revision's tree breaks the rules: why and where.
    Refused {
        /// In words.
        reason: String,
    },
    /// Local changes are in the way. Looked at anew by each tick.
    Dirty {
        /// Which, at most a few.
        paths: Vec<String>,
    },
    /// The merge has conflicts.
    Conflict {
        /// Where.
        paths: Vec<String>,
    },
    /// The revision's own `.pmpy.toml` holds it.
    Held {
        /// In its words.
        reason: String,
    },
    /// No path of `paths` changed since the revision acted upon.
    Irrelevant {
        /// The revision acted upon.
        since_revision: Commit,
    },
}

/// Why this pass happens and what the person who started it may override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Why now.
    pub trigger: Trigger,
    /// A person named this repository: backoff does not count. Holds do.
    pub named: bool,
}

impl Request {
    /// Which remotes are asked. Who names a repository wants an answer, whatever it costs.
    pub fn whom(self) -> Whom {
        if self.named { Whom::Everybody } else { Whom::TheWilling }
    }
}

/// What to do about one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    /// Nothing. Nothing is written either.
    Idle,
    /// Put right what a dead run left or what is damaged, then decide again.
    Recover,
    /// Get the tip, then decide again.
    Fetch {
        /// What to get.
        tip: Commit,
    },
    /// Act.
    Run(Act),
    /// Bring the targets up to date, ref by ref.
    Publish(Publishing),
    /// A failed attempt, or a remote that is left alone, waits for its turn.
    Wait {
        /// When that is.
        until: DateTime<Utc>,
    },
    /// Only a person, a commit or time can bring it on; [`super::status`] tells which.
    Stopped,
}

impl Plan {
    /// Whether there is something for a worker to do.
    pub fn is_work(&self) -> bool {
        match self {
            Self::Recover | Self::Fetch { .. } | Self::Run(_) | Self::Publish(_) => true,
            Self::Idle | Self::Wait { .. } | Self::Stopped => false,
        }
    }
}

/// All that the doer needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// The commit checked out now.
    pub head: Option<Commit>,
    /// Where to go.
    pub target: Target,
    /// Whether commits of ours or seen revisions leave the branch: the old HEAD is kept as a ref.
    pub saves_head: bool,
    /// The revision last acted upon.
    pub previous: Option<Commit>,
    /// Why now.
    pub trigger: Trigger,
    /// 1, 2, 3 …
    pub attempt: u32,
    /// An earlier run of the same revision was cut off.
    pub resumed: bool,
    /// Only a relevant change is a reason to act (`paths` counts); else act in any case.
    pub only_if_relevant: bool,
}

/// Where an action goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// To this commit.
    Commit(Commit),
    /// To a merge commit, still to be made, of HEAD and this upstream tip.
    MergeOf(Commit),
}

/// Where HEAD ought to be, or why that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Go { target: Target, saves_head: bool },
    Fetch(Commit),
    Nowhere,
    Rewritten,
    Diverged,
}

/// Where HEAD ought to be.
pub(super) fn goal(seen: &Observed, policy: &Policy) -> Goal {
    let go = |commit| Goal::Go { target: Target::Commit(commit), saves_head: false };
    if let Some(pin) = &seen.pin {
        return Goal::Go { target: Target::Commit(pin.revision), saves_head: true };
    }
    let (tip, fetched) = match (seen.upstream, seen.head) {
        (Upstream::Tip { commit, fetched }, _) => (commit, fetched),
        // Nothing is known of upstream: the last good revision stays and keeps acting.
        (Upstream::Unknown, Some(head)) => return go(head),
        // The branch went. One that was never there may be a mistyped name.
        (Upstream::Empty, Some(head)) if seen.acted.is_some() => return go(head),
        (Upstream::Unknown | Upstream::Empty, _) => return Goal::Nowhere,
    };
    if !fetched {
        return Goal::Fetch(tip);
    }
    let local = seen.switch.map_or(seen.head, |switch| switch.local);
    let Some(local) = local else { return go(tip) };
    if seen.lagging {
        return go(local);
    }
    let accepted = seen.accepted == Some(tip);
    let reset = Goal::Go { target: Target::Commit(tip), saves_head: true };
    if seen.lost.is_some() {
        return match policy.rewritten {
            _ if accepted => reset,
            OnRewrite::Refuse => Goal::Rewritten,
            OnRewrite::Follow => reset,
        };
    }
    match seen.relation {
        Some(Relation::Same | Relation::Behind) => go(tip),
        _ if policy.update == Update::Reset || accepted => reset,
        Some(Relation::Ahead) => go(local),
        // What would be merged is what is checked out.
        Some(Relation::Diverged) if policy.update == Update::Merge && seen.switch.is_none() => {
            Goal::Go { target: Target::MergeOf(tip), saves_head: false }
        }
        Some(Relation::Diverged) => Goal::Diverged,
        None => Goal::Nowhere,
    }
}

impl Observed {
    /// What an earlier pass found about `target`, when it still applies.
    pub(super) fn standing(&self, target: Target) -> Option<&Finding> {
        let (Target::Commit(revision) | Target::MergeOf(revision)) = target;
        self.verdict
            .as_ref()
            .filter(|verdict| verdict.revision == revision && verdict.head == self.head)
            .map(|verdict| &verdict.finding)
            .filter(|finding| match finding {
                Finding::Conflict { .. } => matches!(target, Target::MergeOf(_)),
                Finding::Irrelevant { since_revision } => self.acted == Some(*since_revision),
                _ => true,
            })
    }

    /// What stands in the way of putting right what a dead run left, wherever upstream is by now.
    pub(super) fn blocked(&self) -> Option<&Finding> {
        self.verdict
            .as_ref()
            .filter(|verdict| self.leftover && verdict.head == self.head)
            .map(|verdict| &verdict.finding)
            .filter(|finding| matches!(finding, Finding::Dirty { .. }))
    }

    /// The latest attempt, when it was at `target`.
    pub(super) fn attempt_at(&self, target: Target) -> Option<&Attempt> {
        let (Target::Commit(revision) | Target::MergeOf(revision)) = target;
        self.attempt.as_ref().filter(|attempt| attempt.revision == revision)
    }
}

/// Decides what to do at `now` about a repository as `seen`.
pub fn decide(seen: &Observed, policy: &Policy, request: Request, now: DateTime<Utc>) -> Plan {
    if !policy.active || seen.running.is_some() {
        return Plan::Idle;
    }
    if seen.broken.is_some() {
        return Plan::Stopped;
    }
    // Even when held: half-written and damaged files are nobody's wish.
    if seen.leftover || seen.damaged.is_some() {
        return Plan::Recover;
    }
    if !seen.holds.is_empty() {
        return Plan::Stopped;
    }
    if let Some(refs) = &seen.refs {
        return refs.plan(seen, request, now);
    }
    let (target, saves_head) = match goal(seen, policy) {
        Goal::Go { target, saves_head } => (target, saves_head),
        Goal::Fetch(tip) => {
            let until = seen.left_alone.filter(|_| !request.named);
            return until.map_or(Plan::Fetch { tip }, |until| Plan::Wait { until });
        }
        Goal::Nowhere => return Plan::Idle,
        Goal::Rewritten | Goal::Diverged => return Plan::Stopped,
    };
    let asked = matches!(request.trigger, Trigger::Redo | Trigger::Rollback);
    let moves = seen.head.map(Target::Commit) != Some(target);
    let acted = seen.acted.map(Target::Commit) == Some(target);
    let due = match policy.when {
        When::Changed => false,
        When::Always => true,
        When::Every(period) => seen.acted_at.is_none_or(|at| {
            // A success in the future was recorded under a clock that has since been set back.
            at > now || (now - at).to_std().unwrap_or_default() >= period
        }),
    };
    let attempt = seen.attempt_at(target);
    // An attempt that did not succeed stands until one does, even at what was acted upon before.
    let rests = !moves && !due && !asked && attempt.is_none();
    match seen.standing(target) {
        Some(Finding::Refused { .. } | Finding::Held { .. } | Finding::Conflict { .. }) => {
            return Plan::Stopped;
        }
        Some(Finding::Irrelevant { .. }) if rests => return Plan::Idle,
        Some(Finding::Irrelevant { .. } | Finding::Dirty { .. }) | None => {}
    }
    if acted && rests {
        return Plan::Idle;
    }
    if let (Some(until), false) =
        (attempt.and_then(|attempt| attempt.must_wait(now)), request.named || asked)
    {
        return Plan::Wait { until };
    }
    Plan::Run(Act {
        head: seen.head,
        target,
        saves_head: saves_head && moves,
        previous: seen.acted,
        trigger: request.trigger,
        attempt: attempt.map_or(1, Attempt::next_number),
        resumed: attempt.is_some_and(|attempt| attempt.outcome == Outcome::Interrupted),
        // Moving HEAD back by hand asks for the same revision once more.
        only_if_relevant: !asked && !due && !acted && attempt.is_none(),
    })
}

#[cfg(test)]
mod tests;
