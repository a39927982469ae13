//! The status of a repository: its state, the reason, and the result for exit codes and monitoring. The
//! order of [`State`] is the order of precedence. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::followed::named;
use crate::domain::git::Commit;
use crate::domain::publish::release_paths::LeftFiles;
use crate::domain::remote::{BackoffList, LastPoll};
use crate::domain::repository::drift::DriftRecord;
use crate::domain::repository::gaps::ContentGaps;
use crate::domain::repository::gate::GateWait;
use crate::domain::repository::hold::Hold;
use crate::domain::repository::state::{Condition, Severity, State, Tone};
use crate::domain::signature::allowed_signers::Signer;

/// The status of this machine, as in `status --json` and `status.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The version of the agent that wrote the status.
    pub agent: String,
    /// This machine's host name.
    pub host: String,
    /// The configured part of the machine.
    pub part: Option<String>,
    /// The configured stack of the machine.
    pub stack: Option<String>,
    /// The directory of the repositories.
    pub root: String,
    /// When the status was taken.
    pub at: DateTime<Utc>,
    /// When the last tick ended.
    pub last_tick: Option<DateTime<Utc>>,
    /// Ticks happen, there are repositories, none of them needs attention, and the configuration is used.
    pub healthy: bool,
    /// Why the configuration cannot be used, so that no tick runs, or an earlier configuration is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// What is known of the publications of this status; `None`: there is no `[presence]`, or a tick wrote this status,
    /// which does not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceReport>,
    /// The repositories, by name.
    pub repositories: Vec<StatusRow>,
}

/// What is known of the publications of a machine's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceReport {
    /// The full name of the ref.
    #[serde(rename = "ref")]
    pub name: String,
    /// When the remote took the last one; `None`: it took none.
    pub published: Option<DateTime<Utc>>,
    /// Since when they fail, or the ref is contested; `None`: they do not.
    pub failing_since: Option<DateTime<Utc>>,
    /// Why the last one failed: a sentence, perhaps with a hint.
    pub reason: Option<String>,
    /// Another machine publishes at the ref too, so that this one stopped.
    pub contested: bool,
    /// What is known of the program of `on_change`; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<ReactionReport>,
}

/// What is known of the program that runs when other machines change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactionReport {
    /// When it last succeeded; `None`: never.
    pub ran: Option<DateTime<Utc>>,
    /// How many hosts it was told of then.
    pub hosts: usize,
    /// Since when it, or the look at the other machines, fails; `None`: it does not.
    pub failing_since: Option<DateTime<Utc>>,
    /// Why: a sentence, perhaps with a hint.
    pub reason: Option<String>,
    /// Some hosts that are left out because of their names.
    pub left_out: Vec<String>,
}

/// One repository in a [`MachineStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusRow {
    /// The name: the configured one, or that of the directory.
    pub name: String,
    /// The path of the repository.
    pub path: String,
    /// The remote, without credentials.
    pub remote: Option<String>,
    /// The followed branch; with `tag` or `revision` the checked-out one.
    pub branch: Option<String>,
    /// The newest tag that matches, as last polled; `None`: none does, or no tag is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The state: the first of the conditions.
    pub state: State,
    /// The reason for the state.
    pub reason: Option<String>,
    /// The states that apply, most important first.
    pub conditions: Vec<State>,
    /// When this state began.
    pub since: DateTime<Utc>,
    /// The checked-out commit.
    pub head: Option<Commit>,
    /// Upstream's tip, as last polled.
    pub upstream: Option<Commit>,
    /// The last revision deployed with success.
    pub acted: Option<LastDeployed>,
    /// The number of the last failed attempt; 0 when none failed.
    pub attempt: u32,
    /// When the next attempt may start; `None`: there is no failed one, or at the next tick.
    pub next_try: Option<DateTime<Utc>>,
    /// The gate that is shut, and when it opens; `None`: none is, or another state comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateWait>,
    /// The revision that turned out bad here and is not applied again, of several refs that of the first; `None`:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<Commit>,
    /// The remote that answered last, and how it was polled.
    #[serde(default)]
    pub asked: Option<LastPoll>,
    /// The remotes in backoff, with end and reason.
    #[serde(default, skip_serializing_if = "BackoffList::is_empty")]
    pub left_alone: BackoffList,
    /// How many polls in a row a remote refused, counted up to 2; 0: none did.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refusals: u32,
    /// Only a mirror that lags behind answered: upstream may have a newer revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror_lags: bool,
    /// What the deployed revision names and the agent does not fetch; `None`: nothing, or it was not
    /// counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaps: Option<ContentGaps>,
    /// Files that published releases had and their revisions do not; `None`: there is none, or a tick
    /// wrote this row, which does not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<LeftFiles>,
    /// Keys in the `.pmpy.toml` of the deployed revision that this version ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_keys: Vec<String>,
    /// What the last comparison of the files with the applied revision found; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted: Option<DriftRecord>,
    /// How many actions ended with each outcome, by its word; empty: none was counted yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub actions: BTreeMap<String, u64>,
    /// The holds, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// Branches and tags at their targets (publish modes).
    pub published: Vec<PublishedRef>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The last revision deployed with success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastDeployed {
    /// The revision.
    pub revision: Commit,
    /// The tag by which it was chosen; `None`: no tag was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The first line of the commit message.
    pub subject: Option<String>,
    /// Who signed it, where signatures count; `None`: it was accepted here before, or they do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// When it was deployed; `None` when the record was written by hand.
    pub at: Option<DateTime<Utc>>,
    /// The trigger of the run.
    pub trigger: Option<String>,
    /// The outcome of the run.
    pub outcome: Option<String>,
    /// The duration of the run in seconds.
    pub seconds: Option<f64>,
}

impl LastDeployed {
    /// The revision for people: `v1.10 (6b2c3d7)`, or `6b2c3d7`.
    pub fn named(&self) -> String {
        named(self.tag.as_deref(), self.revision)
    }
}

/// One branch or tag at its target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedRef {
    /// The full ref name.
    #[serde(rename = "ref")]
    pub name: String,
    /// The revision at the target.
    pub revision: Option<Commit>,
    /// The path of the target.
    pub path: String,
    /// The state of this ref.
    pub state: State,
    /// The reason for the state.
    pub reason: Option<String>,
    /// The revision that turned out bad here and is not applied again; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<Commit>,
}

impl StatusRow {
    /// The condition that this row's state comes from.
    pub fn condition(&self) -> Condition {
        Condition {
            state: self.state,
            reason: self.reason.clone(),
            since: Some(self.since),
            attempt: self.attempt,
            next_try: self.next_try,
            gate: self.gate.clone(),
        }
    }

    /// Returns `true` if upstream's revision is deployed here, as far as any remote told; also for a
    /// repository that is not to be worked on.
    pub fn is_at_upstream(&self) -> bool {
        match self.state {
            State::Current => !self.mirror_lags,
            State::Ahead | State::Inactive => true,
            _ => false,
        }
    }

    /// Returns `true` if a person should look.
    pub fn needs_attention(&self, now: DateTime<Utc>) -> bool {
        self.condition().needs_attention(self.since, now)
    }

    /// The severity for monitoring. A hold hides no failure.
    pub fn severity(&self, now: DateTime<Utc>) -> Severity {
        let severity = self.condition().severity(self.since, now);
        if self.hidden_state().is_some() { severity.max(Severity::Warning) } else { severity }
    }

    /// What the state means to a person who looks at a list.
    pub fn tone(&self, now: DateTime<Utc>) -> Tone {
        match self.state {
            _ if self.needs_attention(now) => Tone::Bad,
            State::Current if self.mirror_lags => Tone::Open,
            state => state.tone(),
        }
    }

    /// The state below a hold or a pin that people must see; `None`: there is none.
    pub fn hidden_state(&self) -> Option<State> {
        let is_stopped = matches!(self.state, State::Held | State::Pinned);
        self.conditions.iter().copied().find(|state| is_stopped && state.shows_below_holds())
    }

    /// The state for people, such as `held (failing)`.
    pub fn shown_state(&self) -> String {
        match self.hidden_state() {
            Some(hidden) => format!("{} ({hidden})", self.state),
            None => self.state.to_string(),
        }
    }
}

impl MachineStatus {
    /// The age of the last tick from which ticks count as missing.
    pub fn longest_silence() -> Duration {
        Duration::minutes(5)
    }

    /// Returns `true` if ticks happen: a time in the future was written under a clock since set back.
    pub fn ticks(&self) -> bool {
        self.last_tick.is_some_and(|last| self.at - last <= Self::longest_silence())
    }

    /// Computes [`MachineStatus::healthy`] from the other fields.
    pub fn with_health(mut self) -> Self {
        self.healthy = self.ticks()
            && self.configuration.is_none()
            && !self.repositories.is_empty()
            && !self.repositories.iter().any(|row| row.needs_attention(self.at));
        self
    }
}

#[cfg(test)]
mod tests;
