//! The inputs of a decision: what was observed, and what the configuration wants.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::followed::{ChosenTag, SeenTag, TagRelation, named};
use crate::domain::git::{Commit, RefName, Relation};
use crate::domain::publish::state::PublishState;
use crate::domain::remote::LastPoll;
use crate::domain::repository::action::{ActionCounts, Attempt, FinishedRun};
use crate::domain::repository::drift::{DriftPolicy, DriftRecord, LookTimes};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gaps::ContentGaps;
use crate::domain::repository::gate::{GateFacts, GatePolicy, JudgedTag};
use crate::domain::repository::health::BadRevision;
use crate::domain::repository::hold::{self, Hold, Person};

/// The part of the configuration that a decision depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// `active`: the agent manages the repository.
    pub active: bool,
    /// `update`: how upstream's commits come into the worktree.
    pub update: UpdateMethod,
    /// `rewritten`: what to do when upstream lost a revision that it had.
    pub rewritten: OnRewrite,
    /// `when`: what triggers a run besides a new revision.
    pub when: RerunPolicy,
    /// `window`, `min_age`, `rollout` and the other gates.
    #[serde(default)]
    pub gates: GatePolicy,
    /// `drift`, `drift_every`, `drift_ignore`.
    #[serde(default)]
    pub drift: DriftPolicy,
}

/// How upstream's commits come into the worktree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateMethod {
    /// Fast-forward only; local commits next to upstream's are `diverged`.
    #[default]
    FastForward,
    /// Merge commits by `agent@HOST` where both sides have commits.
    Merge,
    /// Upstream's tip in any case; the old HEAD is kept under `refs/pmpy/saved/`.
    Reset,
}

/// The reaction to an upstream that no longer contains a revision that it once had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRewrite {
    /// Keep the local revision until a person accepts the new one.
    #[default]
    Refuse,
    /// Take upstream's revision; the old HEAD is kept under `refs/pmpy/saved/`.
    Follow,
}

/// The reasons for a run besides a new revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RerunPolicy {
    /// Only a new revision.
    #[default]
    Changed,
    /// Every tick.
    Always,
    /// When the last success is longer ago than this.
    Every(Duration),
}

/// The facts that a decision depends on, read once.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The reason why the repository cannot be read or worked on, with the remedy.
    pub broken: Option<String>,
    /// Damage that can be repaired without a person, as a message.
    pub damaged: Option<String>,
    /// A recent repair that needed no person.
    pub repaired: Option<String>,
    /// The action that runs now.
    pub running: Option<RunningAction>,
    /// An interrupted run left its journal.
    pub stale_journal: bool,
    /// A target shows a release of ours that is missing or was emptied, and that can be written again.
    pub release_lost: bool,
    /// The init scripts ran before this machine had an id; the id is still to be recorded.
    pub id_is_late: bool,
    /// Everything that holds the repository, in the order of display.
    pub holds: Vec<Hold>,
    /// The revision that a rollback pinned.
    pub pin: Option<Pin>,
    /// A rewritten upstream revision that a person accepted.
    pub accepted: Option<Commit>,
    /// The revision whose own hold a person passed.
    pub unheld: Option<Commit>,
    /// Keys in the `.pmpy.toml` of the deployed revision that this version ignores.
    pub ignored_keys: Vec<String>,
    /// The checked-out commit; `None` while the branch is unborn.
    pub head: Option<Commit>,
    /// The followed branch; `None` while it is not known.
    pub branch: Option<RefName>,
    /// The local branch that HEAD is to be on; `None` while it is not known.
    pub local_branch: Option<RefName>,
    /// Upstream's tip of that branch, as last polled.
    pub upstream: UpstreamTip,
    /// The switch to the configured or renamed branch, when another one is checked out.
    pub switch: Option<BranchSwitch>,
    /// How the followed branch relates to the tip; `None` when either is missing here.
    pub relation: Option<Relation>,
    /// A revision that upstream once had and no longer contains.
    pub lost: Option<Commit>,
    /// The newest tag that matches, as last polled; `None`: none does, or no tag is followed.
    pub tag: Option<ChosenTag>,
    /// The tag that was seen here last, where it moved or went.
    pub lost_tag: Option<(SeenTag, TagRelation)>,
    /// The tag that the deployed revision was deployed by.
    pub acted_tag: Option<String>,
    /// The pattern or the revision that is followed; `None`: a branch is.
    pub fixed: Option<String>,
    /// Only a mirror that lags behind answered.
    pub lagging: bool,
    /// The display name of a mirror that lags behind; another remote may have answered.
    pub late: Option<String>,
    /// The remote that answered has other refs than the followed one: since when, and which.
    pub no_ref: Option<Unreachable>,
    /// An answer of a remote that has to be repeated before it is believed, as a message.
    pub doubt: Option<String>,
    /// No remote answered: since when and why.
    pub unreachable: Option<Unreachable>,
    /// No remote can be followed, because one of them uses another object format: since when and why.
    pub other_format: Option<Unreachable>,
    /// The end of the backoff of all remotes; a request by a person ignores it.
    pub left_alone: Option<DateTime<Utc>>,
    /// The remote that answered last, and how it was polled.
    pub asked: Option<LastPoll>,
    /// The deployed revision, from `lastaction.txt`.
    pub acted: Option<Commit>,
    /// When the deployed revision was recorded.
    pub acted_at: Option<DateTime<Utc>>,
    /// The latest success, as it was recorded.
    pub last_success: Option<FinishedRun>,
    /// How many runs ended with each outcome; `None`: that was not counted yet.
    pub actions: Option<ActionCounts>,
    /// The `when` of a revision's own `.pmpy.toml`, as last read.
    pub tree_when: Option<TreeRerunPolicy>,
    /// No script was there to run for the deployed revision, as a message.
    pub no_script: Option<String>,
    /// What the deployed revision names and the agent does not fetch, as last counted.
    pub gaps: Option<ContentGaps>,
    /// The latest attempt, unless it succeeded.
    pub attempt: Option<Attempt>,
    /// An attempt at some revision since the last success: it may have changed the machine.
    pub is_tried: bool,
    /// The reason why an earlier pass did not deploy a revision.
    pub verdict: Option<RecordedFinding>,
    /// The checked-out branch, where the clone's configuration names no upstream for it: the branch of
    /// its name is followed. Read for a person only.
    pub without_upstream: Option<RefName>,
    /// Settings of the clone's configuration, and hooks, that `git pull` would use and the agent does not.
    /// Read for a person only.
    pub unused: Vec<String>,
    /// The refs, where each of several is deployed by itself.
    pub refs: Option<PublishState>,
    /// What the gates depend on.
    pub gates: GateFacts,
    /// The revision that is bad here: upstream's, the checked-out one, or one that the machine is leaving.
    pub bad: Option<BadRevision>,
    /// Upstream's tip is marked as bad here.
    pub upstream_is_bad: bool,
    /// What the last comparison of the files found; `None`: there was none, or nothing is compared.
    pub drift: Option<DriftRecord>,
    /// What the time of the next comparison depends on.
    pub look_times: LookTimes,
    /// Nothing is compared here: nothing is written but what git keeps.
    pub has_no_files: bool,
}

impl Observed {
    /// The tag by which `revision` was chosen, here or upstream.
    pub fn tag_of(&self, revision: Commit) -> Option<&str> {
        let chosen = self.tag.as_ref().filter(|tag| tag.commit == revision);
        let acted = self.acted_tag.as_deref().filter(|_| self.acted == Some(revision));
        chosen.map(|tag| tag.name.as_str()).or(acted)
    }

    /// Upstream's tip; `None`: it has none, or none is known.
    pub fn upstream_tip(&self) -> Option<Commit> {
        match self.upstream {
            UpstreamTip::Tip { commit, .. } => Some(commit),
            UpstreamTip::Unknown | UpstreamTip::Empty => None,
        }
    }

    /// The tag that is judged together with `revision`; `None`: a branch or a fixed revision is followed.
    pub fn judged_tag(&self, revision: Commit) -> Option<JudgedTag> {
        let tag = self.tag.as_ref().filter(|tag| tag.commit == revision)?;
        Some(JudgedTag { name: tag.name.clone(), id: tag.id })
    }

    /// `revision` for people: `v1.10 (6b2c3d7)`, or `6b2c3d7` where no tag names it.
    pub fn named(&self, revision: Commit) -> String {
        named(self.tag_of(revision), revision)
    }
}

/// The `when` of a revision's own `.pmpy.toml`, remembered so that an idle tick need not read the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRerunPolicy {
    /// The revision that the file belongs to.
    pub revision: Commit,
    /// The setting; `None`: the file has none.
    pub when: Option<RerunPolicy>,
}

/// The known tip of upstream's branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamTip {
    /// Not polled yet.
    #[default]
    Unknown,
    /// The remote answered and has no such branch, or no refs at all.
    Empty,
    /// The branch has this tip.
    Tip {
        /// The commit.
        commit: Commit,
        /// The commit is in the object store already.
        fetched: bool,
    },
}

/// The switch from the checked-out branch to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchSwitch {
    /// The tip of that branch in this clone; `None`: not there yet.
    pub local: Option<Commit>,
}

/// An action that runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAction {
    /// The revision that is deployed; `None` while the run still fetches.
    pub revision: Option<Commit>,
    /// When it began.
    pub since: DateTime<Utc>,
    /// Its health is checked.
    pub checks_health: bool,
    /// The process id of the worker.
    pub pid: i32,
    /// The reason why it makes no progress, with the remedy; `None`: no problem is visible.
    pub stalled: Option<String>,
}

/// A rollback that stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The pinned revision.
    pub revision: Commit,
    /// The user who asked for it.
    pub by: String,
    /// When it began.
    pub since: DateTime<Utc>,
    /// Who asked for it; `None`: only `by` is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
    /// `agent checkout` set it, not a rollback.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_checkout: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(it: &bool) -> bool {
    !it
}

impl Pin {
    /// Whether `person` set it, as far as is known.
    pub fn is_of(&self, person: &Person) -> bool {
        hold::is_of(self.person.as_ref(), &self.by, person)
    }
}

/// The cause and the start of a time without a usable remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    /// When it began.
    pub since: DateTime<Utc>,
    /// The cause, as a message.
    pub reason: String,
    /// How many polls in a row a remote refused, counted up to [`MOST_REFUSALS`]; 0: none did.
    #[serde(default)]
    pub refusals: u32,
}

/// The number of refusals up to which they are counted: the first is no news to a person yet.
pub const MOST_REFUSALS: u32 = 2;

/// The finding of a pass on the way from `head` to `revision`. Valid while both stay the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFinding {
    /// The revision that was to be deployed.
    pub revision: Commit,
    /// The checked-out commit at that time.
    pub head: Option<Commit>,
    /// The reason why it was not deployed.
    pub finding: Finding,
    /// When it was found first.
    pub since: DateTime<Utc>,
}
