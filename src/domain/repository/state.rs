//! The states of a repository, in the order of their precedence.

use std::fmt;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::repository::gate::{Gate, GateWait};

/// What can be said of a repository; the first that applies, in this order, is its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An action runs now.
    Acting,
    /// It cannot be read or worked on.
    Broken,
    /// Somebody stopped it.
    Held,
    /// Rolled back, and staying there.
    Pinned,
    /// Gone back by itself, because upstream's revision is bad here.
    #[serde(rename = "rolled-back")]
    RolledBack,
    /// The last attempt failed.
    Failing,
    /// The script said "not now".
    Waiting,
    /// The revision's tree breaks the rules.
    Refused,
    /// Upstream was force-pushed or rewound, and that is refused.
    Rewritten,
    /// Local and upstream commits, not merged.
    Diverged,
    /// Local changes in the way.
    Dirty,
    /// The remote answers and lacks the branch.
    #[serde(rename = "no-ref")]
    NoRef,
    /// A remote refuses until somebody acts.
    Denied,
    /// No remote answered.
    Unreachable,
    /// A newer revision is known and not applied yet.
    Behind,
    /// Never acted upon, or an empty remote.
    New,
    /// Acted upon, with local commits that the remote lacks.
    Ahead,
    /// Acted upon.
    Current,
    /// Switched off.
    Inactive,
}

impl State {
    /// All of them in the order of precedence.
    pub const ALL: [Self; 19] = [
        Self::Acting,
        Self::Broken,
        Self::Held,
        Self::Pinned,
        Self::RolledBack,
        Self::Failing,
        Self::Waiting,
        Self::Refused,
        Self::Rewritten,
        Self::Diverged,
        Self::Dirty,
        Self::NoRef,
        Self::Denied,
        Self::Unreachable,
        Self::Behind,
        Self::New,
        Self::Ahead,
        Self::Current,
        Self::Inactive,
    ];

    /// The table of states: everything that follows from the state alone.
    const fn rules(self) -> StateRules {
        use Onset::{AfterMinutes, AtOnce, FromAttempt};
        const DAY: Onset = AfterMinutes(24 * 60);
        const GRACE: Onset = AfterMinutes(UNREACHABLE_GRACE);
        let row = StateRules::of;
        match self {
            Self::Acting => row("acting", Tone::Busy),
            Self::Broken => row("broken", Tone::Bad).attention(AtOnce).critical(AtOnce).of_a_ref(),
            Self::Held => row("held", Tone::Open).warning(DAY).settled().of_a_ref(),
            Self::Pinned => row("pinned", Tone::Open).warning(DAY).settled(),
            Self::RolledBack => {
                row("rolled-back", Tone::Bad).attention(AtOnce).critical(AtOnce).of_a_ref()
            }
            Self::Failing => row("failing", Tone::Bad)
                .attention(AtOnce)
                .warning(AtOnce)
                .critical(FromAttempt(3))
                .of_a_ref(),
            Self::Waiting => row("waiting", Tone::Open).warning(AfterMinutes(6 * 60)).of_a_ref(),
            Self::Refused => {
                row("refused", Tone::Bad).attention(AtOnce).critical(AtOnce).of_a_ref()
            }
            Self::Rewritten => {
                row("rewritten", Tone::Bad).attention(AtOnce).critical(AtOnce).of_a_ref()
            }
            Self::Diverged => row("diverged", Tone::Bad).attention(AtOnce).warning(AtOnce),
            Self::Dirty => row("dirty", Tone::Bad).attention(AtOnce).warning(AtOnce),
            Self::NoRef => row("no-ref", Tone::Bad).attention(AtOnce).warning(AtOnce).critical(DAY),
            Self::Denied => row("denied", Tone::Bad).attention(AtOnce).critical(AtOnce),
            Self::Unreachable => row("unreachable", Tone::Open).attention(GRACE).warning(GRACE),
            Self::Behind => row("behind", Tone::Open).warning(AfterMinutes(8 * 24 * 60)),
            Self::New => row("new", Tone::Good),
            Self::Ahead => row("ahead", Tone::Good).settled(),
            Self::Current => row("current", Tone::Good).settled(),
            Self::Inactive => row("inactive", Tone::Dim).settled(),
        }
    }

    /// The word that people, JSON and metrics see.
    pub fn as_str(self) -> &'static str {
        self.rules().word
    }

    /// What it means to a person, while it needs no attention.
    pub(in crate::domain) fn tone(self) -> Tone {
        self.rules().tone
    }

    /// Whether the state lasts and is as somebody wants it: a change to it ends a series of bad news.
    pub fn is_settled(self) -> bool {
        self.rules().is_settled
    }

    /// Whether people see it below a hold or a pin, and monitoring warns of it at once.
    pub(super) fn shows_below_holds(self) -> bool {
        matches!(self, Self::RolledBack | Self::Failing | Self::Denied)
    }

    /// Whether a repository whose refs are published one by one has this state because of one of them.
    pub(super) fn is_of_a_ref(self) -> bool {
        self.rules().is_of_a_ref
    }

    /// Whether it stops the agent until a person or a new revision comes. What went back by itself is where it has to
    /// be.
    pub fn needs_a_person(self) -> bool {
        self.is_of_a_ref() && !matches!(self, Self::RolledBack | Self::Failing | Self::Waiting)
    }
}

/// When a state begins to count for something.
#[derive(Clone, Copy)]
enum Onset {
    Never,
    AtOnce,
    AfterMinutes(i64),
    FromAttempt(u32),
}

impl Onset {
    fn is_reached(self, lasted: Duration, attempt: u32) -> bool {
        match self {
            Self::Never => false,
            Self::AtOnce => true,
            Self::AfterMinutes(minutes) => lasted >= Duration::minutes(minutes),
            Self::FromAttempt(first) => attempt >= first,
        }
    }
}

/// What a state means to a person who looks at a list. The worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// A person should look.
    Bad,
    /// Not at upstream's revision, for a reason that somebody knows or that may pass.
    Open,
    /// At work.
    Busy,
    /// As it should be.
    Good,
    /// Of no interest.
    Dim,
}

/// A row of the table of states.
struct StateRules {
    word: &'static str,
    tone: Tone,
    /// When the exit code is 1.
    attention: Onset,
    warning: Onset,
    critical: Onset,
    is_settled: bool,
    is_of_a_ref: bool,
}

impl StateRules {
    const fn of(word: &'static str, tone: Tone) -> Self {
        let (attention, warning, critical) = (Onset::Never, Onset::Never, Onset::Never);
        Self { word, tone, attention, warning, critical, is_settled: false, is_of_a_ref: false }
    }

    const fn attention(self, attention: Onset) -> Self {
        Self { attention, ..self }
    }

    const fn warning(self, warning: Onset) -> Self {
        Self { warning, ..self }
    }

    const fn critical(self, critical: Onset) -> Self {
        Self { critical, ..self }
    }

    const fn settled(self) -> Self {
        Self { is_settled: true, ..self }
    }

    const fn of_a_ref(self) -> Self {
        Self { is_of_a_ref: true, ..self }
    }
}

/// Minutes without an answer of any remote before that counts.
const UNREACHABLE_GRACE: i64 = 15;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that tables may ask for a width.
        f.pad(self.as_str())
    }
}

/// What monitoring makes of a state, by the plug-in convention: the exit code of `--nagios`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// 0
    Ok,
    /// 1
    Warning,
    /// 2
    Critical,
}

/// A state that applies, with its reason and its beginning where they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The word.
    pub state: State,
    /// Why, as a sentence without its full stop; `None` where the word says it all.
    pub reason: Option<String>,
    /// Since when, where the cause itself tells.
    pub since: Option<DateTime<Utc>>,
    /// Which attempt failed last (only `failing`, else 0).
    pub attempt: u32,
    /// When the next attempt may start (only `failing`).
    pub next_try: Option<DateTime<Utc>>,
    /// The gate that is shut (only `behind`).
    #[serde(default)]
    pub gate: Option<GateWait>,
}

impl Condition {
    pub(in crate::domain) fn new(state: State) -> Self {
        Self { state, reason: None, since: None, attempt: 0, next_try: None, gate: None }
    }

    pub(super) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub(super) fn since(mut self, since: DateTime<Utc>) -> Self {
        self.since = Some(since);
        self
    }

    /// Whether a person should look: the part of a repository in the exit code. `since` is when the state
    /// began.
    pub fn needs_attention(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.state.rules().attention.is_reached(now - since, self.attempt)
    }

    /// The severity for monitoring; `since` is when the state began.
    pub fn severity(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Severity {
        let rules = self.state.rules();
        let reached = |onset: Onset| onset.is_reached(now - since, self.attempt);
        let waits_for_a_canary = self.gate.as_ref().is_some_and(|gate| gate.gate == Gate::Canaries);
        if waits_for_a_canary && reached(Onset::AfterMinutes(24 * 60)) {
            return Severity::Warning;
        }
        match (reached(rules.critical), reached(rules.warning)) {
            (true, _) => Severity::Critical,
            (false, true) => Severity::Warning,
            (false, false) => Severity::Ok,
        }
    }
}

/// The reason for `rewritten`: `lost` is what upstream no longer contains, `tip` what it has now.
pub(in crate::domain) fn rewritten(lost: &str, tip: &str, is_older: bool) -> String {
    if is_older {
        format!(
            "upstream went back to an older revision and no longer contains {lost}; \
             to go back to the older one: agent accept REPO {tip}"
        )
    } else {
        format!(
            "upstream no longer contains {lost}; to take what it has now: agent accept REPO {tip}"
        )
    }
}
