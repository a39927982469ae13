//! The one word for a repository, why, and what follows for exit codes and monitoring. The order of
//! [`State`] is the order of precedence. Pure.

use std::fmt;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use super::action::Outcome;
use super::git::{Commit, Relation};
use super::plan::{Finding, Goal, Observed, Policy, Target, Upstream, goal};
use super::remote::{AllLeftAlone, Asked};

mod refs;

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
    /// No remote answered.
    Unreachable,
    /// A newer revision is known and not acted upon yet.
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
    pub const ALL: [Self; 16] = [
        Self::Acting,
        Self::Broken,
        Self::Held,
        Self::Pinned,
        Self::Failing,
        Self::Waiting,
        Self::Refused,
        Self::Rewritten,
        Self::Diverged,
        Self::Dirty,
        Self::Unreachable,
        Self::Behind,
        Self::New,
        Self::Ahead,
        Self::Current,
        Self::Inactive,
    ];

    /// The word that people, JSON and metrics see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acting => "acting",
            Self::Broken => "broken",
            Self::Held => "held",
            Self::Pinned => "pinned",
            Self::Failing => "failing",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Rewritten => "rewritten",
            Self::Diverged => "diverged",
            Self::Dirty => "dirty",
            Self::Unreachable => "unreachable",
            Self::Behind => "behind",
            Self::New => "new",
            Self::Ahead => "ahead",
            Self::Current => "current",
            Self::Inactive => "inactive",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that tables may ask for a width.
        f.pad(self.as_str())
    }
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

/// How long `unreachable` is nobody's business yet.
pub fn unreachable_grace() -> Duration {
    Duration::minutes(15)
}

impl Condition {
    fn new(state: State) -> Self {
        Self { state, reason: None, since: None, attempt: 0, next_try: None }
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    fn since(mut self, since: DateTime<Utc>) -> Self {
        self.since = Some(since);
        self
    }

    /// Whether a person should look: the part of a repository in the exit code.
    pub fn needs_attention(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        match self.state {
            State::Broken
            | State::Failing
            | State::Refused
            | State::Rewritten
            | State::Diverged
            | State::Dirty => true,
            State::Unreachable => now - since >= unreachable_grace(),
            _ => false,
        }
    }

    /// The row of the table for monitoring; `since` is when the state began.
    pub fn severity(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Severity {
        let after = |limit: Duration| {
            if now - since >= limit { Severity::Warning } else { Severity::Ok }
        };
        match self.state {
            State::Broken | State::Refused | State::Rewritten => Severity::Critical,
            State::Failing if self.attempt >= 3 => Severity::Critical,
            State::Failing | State::Diverged | State::Dirty => Severity::Warning,
            State::Held | State::Pinned => after(Duration::days(1)),
            State::Waiting => after(Duration::hours(6)),
            State::Unreachable => after(unreachable_grace()),
            _ => Severity::Ok,
        }
    }
}

/// Everything that applies to a repository as `seen`, most important first; never empty.
pub fn conditions(seen: &Observed, policy: &Policy) -> Vec<Condition> {
    if !policy.active {
        return vec![Condition::new(State::Inactive)];
    }
    let mut all = Vec::new();
    if let Some(running) = &seen.running {
        let what = match running.revision {
            Some(revision) => format!("acting upon {} (pid {})", revision.short(), running.pid),
            None => format!("fetching (pid {})", running.pid),
        };
        all.push(Condition::new(State::Acting).because(what).since(running.since));
    }
    if let Some(reason) = seen.broken.as_ref().or(seen.damaged.as_ref()) {
        all.push(Condition::new(State::Broken).because(reason));
    }
    for hold in &seen.holds {
        let until = hold.until.map_or(String::new(), |until| {
            format!(", until {}", until.format("%Y-%m-%d %H:%M UTC"))
        });
        all.push(
            Condition::new(State::Held)
                .because(format!("by {}: {}{until}", hold.by, hold.reason))
                .since(hold.since),
        );
    }
    if let Some(pin) = &seen.pin {
        all.push(
            Condition::new(State::Pinned)
                .because(format!("rolled back to {} by {}", pin.revision.short(), pin.by))
                .since(pin.since),
        );
    }
    if let Some(refs) = &seen.refs {
        all = in_order(all);
        all.extend(refs::conditions(refs, seen));
        return all;
    }
    let goal = goal(seen, policy);
    let target = match goal {
        Goal::Go { target, .. } => Some(target),
        _ => None,
    };
    let tried = match goal {
        Goal::Fetch(tip) => Some(Target::Commit(tip)),
        _ => target,
    };
    if let Some(attempt) = tried.and_then(|target| seen.attempt_at(target)) {
        let state = match attempt.outcome {
            Outcome::Deferred => State::Waiting,
            _ => State::Failing,
        };
        let mut condition = Condition::new(state).because(attempt.told()).since(attempt.since);
        if state == State::Failing {
            condition.attempt = attempt.number;
            condition.next_try = attempt.next_try;
        }
        all.push(condition);
    }
    let standing = target.and_then(|target| seen.standing(target)).or_else(|| seen.blocked());
    let found_at = seen.verdict.as_ref().map(|verdict| verdict.since);
    if let Some(finding) = standing {
        let (state, reason) = finding.told();
        let mut condition = Condition::new(state).because(reason);
        condition.since = found_at;
        all.push(condition);
    }
    if goal == Goal::Rewritten {
        let lost = seen.lost.map_or_else(String::new, |lost| lost.short());
        let tip = match seen.upstream {
            Upstream::Tip { commit, .. } => commit.to_string(),
            _ => String::new(),
        };
        all.push(Condition::new(State::Rewritten).because(format!(
            "upstream no longer contains {lost}; to take what it has now: agent accept REPO {tip}"
        )));
    }
    if goal == Goal::Diverged {
        all.push(Condition::new(State::Diverged).because(
            "local and upstream commits, and update = \"fast-forward\" does not merge; \
             push or drop the local ones, or set update = \"merge\"",
        ));
    }
    all.extend(unreachable(seen));
    if !all.iter().any(|condition| condition.state == State::Current) {
        all.push(standing_of_the_revision(seen, target));
    }
    in_order(all)
}

fn in_order(mut all: Vec<Condition>) -> Vec<Condition> {
    all.sort_by_key(|condition| condition.state);
    all.dedup_by_key(|condition| (condition.state, condition.reason.clone()));
    all
}

fn unreachable(seen: &Observed) -> Option<Condition> {
    let unreachable = seen.unreachable.as_ref()?;
    let condition = Condition::new(State::Unreachable).because(unreachable.reason.clone());
    Some(condition.since(unreachable.since))
}

impl Finding {
    /// The state that it leads to, and why, in words.
    pub fn told(&self) -> (State, String) {
        match self {
            Self::Refused { reason } => (State::Refused, reason.clone()),
            Self::Held { reason } => (State::Held, format!("by .pmpy.toml: {reason}")),
            Self::Conflict { paths } => {
                (State::Diverged, format!("the merge has conflicts in {}", paths.join(", ")))
            }
            Self::Dirty { paths } => {
                (State::Dirty, format!("local changes in the way: {}", paths.join(", ")))
            }
            Self::Irrelevant { since_revision } => {
                (State::Current, format!("nothing relevant since {}", since_revision.short()))
            }
        }
    }
}

/// One of `behind`, `new`, `ahead` and `current`: exactly one applies.
fn standing_of_the_revision(seen: &Observed, target: Option<Target>) -> Condition {
    let Some(acted) = seen.acted else {
        let condition = Condition::new(State::New);
        return match seen.upstream {
            Upstream::Empty => condition.because(match &seen.branch {
                Some(branch) => format!("the remote has no branch {branch} yet"),
                None => "the remote is empty".to_owned(),
            }),
            _ => condition,
        };
    };
    let waits = match (target, seen.upstream) {
        (Some(target), _) => target != Target::Commit(acted) || seen.head != Some(acted),
        (None, Upstream::Tip { commit, .. }) => commit != acted || seen.head != Some(acted),
        (None, _) => seen.head != Some(acted),
    };
    if waits {
        let reason = match (target, seen.upstream) {
            (Some(Target::Commit(commit)), _) | (_, Upstream::Tip { commit, .. })
                if commit != acted =>
            {
                Some(format!("{} is known and not acted upon yet", commit.short()))
            }
            _ => seen.head.map(|head| format!("HEAD is at {}", head.short())),
        };
        return Condition { reason, ..Condition::new(State::Behind) };
    }
    if seen.relation == Some(Relation::Ahead) && !seen.lagging && seen.pin.is_none() {
        return Condition::new(State::Ahead).because("local commits that the remote lacks");
    }
    let current = Condition::new(State::Current);
    match (seen.lagging, &seen.late, seen.upstream) {
        (true, ..) => current.because("the mirror that answered lags behind"),
        (_, Some(late), _) => current.because(format!("the mirror {late} lags behind")),
        (_, None, Upstream::Empty) => current.because(gone(seen)),
        _ => Condition { reason: seen.repaired.clone(), ..current },
    }
}

/// What became of the branch that the remote does not have.
fn gone(seen: &Observed) -> String {
    match &seen.branch {
        Some(branch) => format!("the remote no longer has the branch {branch}"),
        None => "the remote is empty".to_owned(),
    }
}

/// `status --json`, `status.json`: all that is said about this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the agent that wrote it.
    pub agent: String,
    /// This machine's host name.
    pub host: String,
    /// Which part it is.
    pub part: Option<String>,
    /// Which stack it belongs to.
    pub stack: Option<String>,
    /// The folder of the repositories.
    pub root: String,
    /// When this was said.
    pub at: DateTime<Utc>,
    /// When the last tick ended.
    pub last_tick: Option<DateTime<Utc>>,
    /// Whether nobody needs to look.
    pub healthy: bool,
    /// One row each, by name.
    pub repositories: Vec<Row>,
}

/// One repository in a [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name: the configured one, or that of its folder.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Where it is pulled from, without credentials.
    pub remote: Option<String>,
    /// Which branch is followed.
    pub branch: Option<String>,
    /// The one word.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
    /// All that applies, most important first.
    pub conditions: Vec<State>,
    /// Since when it is in this state.
    pub since: DateTime<Utc>,
    /// The checked-out commit.
    pub head: Option<Commit>,
    /// Upstream's tip as last learned.
    pub upstream: Option<Commit>,
    /// The last revision acted upon with success.
    pub acted: Option<Acted>,
    /// Which attempt failed last; 0 when none did.
    pub attempt: u32,
    /// When a failed one is tried again.
    pub next_try: Option<DateTime<Utc>>,
    /// Which remote answered last, and how it was asked.
    #[serde(default)]
    pub asked: Option<Asked>,
    /// Which remotes are left alone until when, and why.
    #[serde(default, skip_serializing_if = "AllLeftAlone::is_empty")]
    pub left_alone: AllLeftAlone,
    /// Branches and tags at their targets (publish modes).
    pub published: Vec<Published>,
}

/// The last revision acted upon with success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acted {
    /// The revision.
    pub revision: Commit,
    /// Its first line.
    pub subject: Option<String>,
    /// When; `None` when the record was written by hand.
    pub at: Option<DateTime<Utc>>,
    /// Why it was acted upon.
    pub trigger: Option<String>,
    /// How that ended.
    pub outcome: Option<String>,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// One branch or tag at its target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The full ref name.
    #[serde(rename = "ref")]
    pub name: String,
    /// What stands at the target.
    pub revision: Option<Commit>,
    /// Where.
    pub path: String,
    /// Its own state.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
}

impl Row {
    /// This row as the condition that gave it its state.
    pub fn condition(&self) -> Condition {
        Condition {
            state: self.state,
            reason: self.reason.clone(),
            since: Some(self.since),
            attempt: self.attempt,
            next_try: self.next_try,
        }
    }

    /// Whether a person should look.
    pub fn needs_attention(&self, now: DateTime<Utc>) -> bool {
        self.condition().needs_attention(self.since, now)
    }

    /// What monitoring makes of it.
    pub fn severity(&self, now: DateTime<Utc>) -> Severity {
        self.condition().severity(self.since, now)
    }
}

impl Status {
    /// How old the last tick may be before silence itself is news.
    pub fn longest_silence() -> Duration {
        Duration::minutes(5)
    }

    /// Whether ticks happen: a time in the future was written under a clock since set back.
    pub fn ticks(&self) -> bool {
        self.last_tick.is_some_and(|last| self.at - last <= Self::longest_silence())
    }

    /// Works out [`Status::healthy`] from everything else.
    pub fn judge(mut self) -> Self {
        self.healthy = self.ticks()
            && !self.repositories.is_empty()
            && !self.repositories.iter().any(|row| row.needs_attention(self.at));
        self
    }
}

#[cfg(test)]
mod tests;
