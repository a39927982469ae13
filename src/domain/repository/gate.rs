//! What a gate is: its settings, what is observed for it, and its verdict. Judges nothing, see
//! [`super::gates`].

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::repository::sight::Waiting;
use crate::domain::repository::window::Window;
use crate::domain::signature::allowed_signers::Signer;
use crate::domain::text::utc_minute;

/// The settings of the gates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatePolicy {
    /// `window`; `None`: actions begin at any time.
    pub window: Option<Window>,
    /// `window_zone`: the name of a time zone; `None`: the system's.
    pub window_zone: Option<String>,
    /// `min_age`: how long a revision is known here before it is applied.
    pub min_age: Duration,
    /// `rollout`: the time over which the machines of a fleet follow one after the other.
    pub rollout: Duration,
    /// `[node] rollout_position`, from 0 to 1; `None`: by machine-id, host and repository.
    pub position: Option<f64>,
    /// `[node] name`; `None`: the host's.
    pub node_name: Option<String>,
    /// `urgent = false`: the key `urgent` of `.pmpy.toml` is ignored.
    pub ignores_urgent: bool,
    /// `canaries`: patterns of the machines that apply a revision first.
    pub canaries: Vec<String>,
    /// `before` names programs.
    pub asks_before: bool,
    /// `allowed_signers`: the file of the keys that may sign; `None`: signatures do not count.
    pub signers: Option<PathBuf>,
    /// `signed_since`: the commit that the first revision here has to descend from.
    pub signed_since: Option<Commit>,
}

impl GatePolicy {
    /// Whether a gate may shut that a revision has to be seen first for.
    pub fn is_set(&self) -> bool {
        self.window.is_some() || self.waits()
    }

    /// Whether a wait of each revision, or of the urgent ones, depends on when it was seen first.
    fn waits(&self) -> bool {
        let lets_urgent = self.window.as_ref().is_some_and(Window::lets_urgent);
        !self.min_age.is_zero()
            || !self.rollout.is_zero()
            || !self.canaries.is_empty()
            || (lets_urgent && !self.ignores_urgent)
    }
}

/// What was observed for the gates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateFacts {
    /// The zone of the window; `None`: there is no window.
    pub zone: Option<TimeZone>,
    /// The time of the newest record here.
    pub newest_record: Option<DateTime<Utc>>,
    /// The newest revision that waits.
    pub waiting: Option<Waiting>,
    /// The revision that the gates let begin last.
    pub begun: Option<BegunAction>,
    /// The revision to which `before` said yes.
    pub allowed: Option<Commit>,
    /// Nothing was ever applied here, and the agent has just made the clone.
    pub is_first: bool,
    /// The position of this machine in a rollout, from 0 to 1.
    pub position: f64,
    /// What the canaries have; `None`: there are none.
    pub canaries: Option<CanaryReport>,
    /// This machine is a canary.
    pub is_canary: bool,
    /// The revisions that were judged by the present file of the signers and may be applied, the newest last.
    pub signed: Vec<SignedRevision>,
}

/// A revision whose signatures were judged, and which may be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRevision {
    /// The revision.
    pub revision: Commit,
    /// The hash of the file of the signers.
    pub signers: String,
    /// What was asked of it.
    pub need: SignatureNeed,
    /// The tag by which it was to be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<JudgedTag>,
    /// Who signed it; `None`: it was accepted here before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// How many commits were verified for it.
    #[serde(default)]
    pub commits: usize,
}

/// A tag whose signature was judged: another one at the same revision is judged anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedTag {
    /// Its name, without `refs/tags/`.
    pub name: String,
    /// Its object.
    pub id: Commit,
}

/// What `allowed_signers` asks of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureNeed {
    /// It was accepted here before.
    AcceptedHere,
    /// It was, or it is signed, and all on the way to it.
    Signed,
}

/// A revision that the gates let begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BegunAction {
    /// The revision.
    pub revision: Commit,
    /// When its action began.
    pub at: DateTime<Utc>,
}

/// One gate, in the order in which they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Holds of people.
    Holds,
    /// `allowed_signers`.
    Signers,
    /// `hold` in the revision's own `.pmpy.toml`.
    RevisionHold,
    /// `window`.
    Window,
    /// `canaries`.
    Canaries,
    /// `min_age`.
    MinAge,
    /// `rollout`.
    Rollout,
    /// `before`.
    Before,
}

impl Gate {
    /// All of them, in the order in which they are judged.
    pub const ALL: [Self; 8] = [
        Self::Holds,
        Self::Signers,
        Self::RevisionHold,
        Self::Window,
        Self::Canaries,
        Self::MinAge,
        Self::Rollout,
        Self::Before,
    ];

    /// The words that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Signers => "allowed_signers",
            Self::RevisionHold => "hold in .pmpy.toml",
            Self::Window => "window",
            Self::Canaries => "canaries",
            Self::MinAge => "min_age",
            Self::Rollout => "rollout",
            Self::Before => "before",
        }
    }
}

/// A gate that is shut, and when it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateWait {
    /// The gate.
    pub gate: Gate,
    /// The reason for people, before the moment.
    pub reason: String,
    /// When time opens it; `None`: something else does.
    pub until: Option<DateTime<Utc>>,
}

/// The verdict of one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateVerdict {
    /// The gate.
    pub gate: Gate,
    /// The verdict.
    pub answer: GateAnswer,
}

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateAnswer {
    /// It is open, for this reason.
    Open(String),
    /// It does not count, for this reason.
    Passed(String),
    /// It is shut, with a reason for people; `until` is when time opens it.
    Shut {
        /// The reason, without the moment.
        reason: String,
        /// When time opens it; `None`: something else does, or nothing.
        until: Option<DateTime<Utc>>,
    },
}

impl GateWait {
    /// The reason and the moment, which the caller has written for its readers, as one sentence.
    pub fn with_moment(&self, moment: Option<&str>) -> String {
        match (moment, self.gate) {
            (Some(moment), Gate::MinAge | Gate::Rollout) => {
                format!("applied at {moment} ({})", self.gate.as_str())
            }
            (Some(moment), Gate::Before) => format!("{}, asked again {moment}", self.reason),
            (Some(moment), _) => format!("{} {moment}", self.reason),
            (None, _) => self.reason.clone(),
        }
    }

    /// The whole sentence, with the moment in UTC.
    pub fn sentence(&self) -> String {
        let moment = self.until.map(utc_minute);
        self.with_moment(moment.as_deref())
    }
}

impl GateVerdict {
    /// The gate as one that is waited for; `None`: it is not shut.
    pub fn wait(&self) -> Option<GateWait> {
        match &self.answer {
            GateAnswer::Shut { reason, until } => {
                Some(GateWait { gate: self.gate, reason: reason.clone(), until: *until })
            }
            GateAnswer::Open(_) | GateAnswer::Passed(_) => None,
        }
    }

    /// Whether it keeps the revision from being applied.
    pub fn is_shut(&self) -> bool {
        matches!(self.answer, GateAnswer::Shut { .. })
    }
}

/// What the canaries have of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReport {
    /// Canaries that have it.
    pub with: Vec<String>,
    /// Canaries that do not have it yet, with their state and revision as a part of a sentence.
    pub without: Vec<(String, String)>,
    /// Canaries that do not count now, and why.
    pub left_out: Vec<(String, String)>,
    /// The reason why their rows cannot be read.
    pub unreadable: Option<String>,
    /// Since when they cannot be.
    #[serde(default)]
    pub unreadable_since: Option<DateTime<Utc>>,
    /// Since when every canary has it.
    pub satisfied_since: Option<DateTime<Utc>>,
}

impl CanaryReport {
    /// Whether at least one canary has the revision.
    pub fn one_has_it(&self) -> bool {
        !self.with.is_empty() && self.unreadable.is_none()
    }

    /// The answer of the gate: open when every canary that counts has the revision, and one counts at least.
    pub fn answer(&self) -> GateAnswer {
        let shut = |reason: String| GateAnswer::Shut { reason, until: None };
        let left_out = match self.left_out.as_slice() {
            [] => String::new(),
            all => {
                let all: Vec<String> =
                    all.iter().map(|(name, why)| format!("{name} ({why})")).collect();
                format!(", left out: {}", all.join(", "))
            }
        };
        if let Some(why) = &self.unreadable {
            let since = self.unreadable_since.map(|since| format!(" since {}", utc_minute(since)));
            let since = since.unwrap_or_default();
            return shut(format!("the canaries cannot be read{since}: {why}"));
        }
        match (self.without.as_slice(), self.with.as_slice()) {
            ([], []) => shut(format!("waits for a canary, and none is left{left_out}")),
            ([], with) => GateAnswer::Open(format!("{} has it{left_out}", with.join(", "))),
            (without, _) => {
                let all: Vec<String> =
                    without.iter().map(|(name, how)| format!("{name}: {how}")).collect();
                shut(format!("waits for canary {}{left_out}", all.join(", ")))
            }
        }
    }
}
