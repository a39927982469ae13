//! One run of a repository's scripts: its trigger, its outcome, and the time of the next attempt after a
//! failure. Knows neither processes nor files.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, ObjectId};
use crate::domain::hash;
use crate::domain::repository::health::FailureTally;
use crate::domain::signature::allowed_signers::Signer;
use crate::domain::text::EscapeControls;

pub use crate::domain::repository::outcome::{ActionCounts, Outcome};

/// The reason for an action; scripts see it as `AGENT_TRIGGER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The cron line.
    Cron,
    /// The timer of a resident agent.
    Timer,
    /// A message on the bus.
    Bus,
    /// A web hook.
    Webhook,
    /// A person at a terminal.
    Manual,
    /// The first action in a clone that the agent made.
    Bootstrap,
    /// A person asked to deploy the same revision again.
    Redo,
    /// A person went back to an older revision.
    Rollback,
    /// Files differed from the applied revision and were written anew.
    Drift,
}

impl Trigger {
    /// All triggers, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Cron,
        Self::Timer,
        Self::Bus,
        Self::Webhook,
        Self::Manual,
        Self::Bootstrap,
        Self::Redo,
        Self::Rollback,
        Self::Drift,
    ];

    /// The word in scripts, JSON and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::Timer => "timer",
            Self::Bus => "bus",
            Self::Webhook => "webhook",
            Self::Manual => "manual",
            Self::Bootstrap => "bootstrap",
            Self::Redo => "redo",
            Self::Rollback => "rollback",
            Self::Drift => "drift",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|trigger| trigger.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!(
                "\"{}\" is not a known trigger\nhint: write one of {known}",
                text.escape_controls()
            )
        })
    }
}

/// The latest unsuccessful attempt at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The attempted revision.
    pub revision: Commit,
    /// The number of the attempt from 1, per revision; deferred and hindered attempts do not count.
    pub number: u32,
    /// The result.
    pub outcome: Outcome,
    /// The script that caused the outcome, where there is one and it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// When the first attempt in this series of equal failures ended.
    pub since: DateTime<Utc>,
    /// When the next attempt may start; `None`: at the next tick.
    pub next_try: Option<DateTime<Utc>>,
    /// Only `before` was asked: nothing on the machine changed.
    #[serde(default)]
    pub is_of_before: bool,
    /// What may make the revision bad.
    #[serde(default)]
    pub tally: FailureTally,
}

/// The revisions that were tried since the last success, each once. What an attempt that did not succeed
/// has changed on the machine is not undone by another revision: its paths count as changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TriedRevisions(Vec<Commit>);

impl TriedRevisions {
    /// The most revisions whose paths are told apart.
    const MAX: usize = 32;

    /// Records an attempt at `revision` that did not succeed.
    pub fn add(&mut self, revision: Commit) {
        if self.0.len() <= Self::MAX && !self.0.contains(&revision) {
            self.0.push(revision);
        }
    }

    /// The revisions; `None`: there were too many to remember, so that every path may have changed.
    pub fn known(&self) -> Option<&[Commit]> {
        (self.0.len() <= Self::MAX).then_some(self.0.as_slice())
    }

    /// Returns `true` if the last attempt succeeded, or there was none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `true` if `revision` is among the first that were tried.
    pub fn contains(&self, revision: Commit) -> bool {
        self.0.contains(&revision)
    }

    /// The revisions that are remembered.
    pub fn iter(&self) -> impl Iterator<Item = &Commit> {
        self.0.iter()
    }
}

/// The start of a run, as a worker reports it to the waiting process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunStarted {
    /// The name of the repository.
    pub repo: String,
    /// The full name of the ref, where each of several is deployed by itself.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The revision that is deployed.
    pub revision: Commit,
    /// The revision deployed before it.
    pub previous: Option<Commit>,
    /// When it began.
    pub at: DateTime<Utc>,
}

/// The end of a run, as a worker reports it to the waiting process once it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEnded {
    /// The name of the repository.
    pub repo: String,
    /// The full name of the ref, where each of several is deployed by itself.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The revision that was deployed.
    pub revision: Commit,
    /// The revision deployed before it.
    pub previous: Option<Commit>,
    /// The result, as [`Outcome::word`].
    pub outcome: String,
    /// The run time of the scripts in seconds.
    pub seconds: f64,
    /// The reason for the run.
    pub trigger: Trigger,
    /// The file name in the repository's log directory; `None`: nothing ran.
    pub log: Option<String>,
}

impl RunEnded {
    /// The end of `run` in the repository `repo`.
    pub fn of(repo: &str, run: &FinishedRun) -> Self {
        Self {
            repo: repo.to_owned(),
            reference: run.reference.clone(),
            revision: run.revision,
            previous: run.previous,
            outcome: run.outcome.word().to_owned(),
            seconds: run.seconds,
            trigger: run.trigger,
            log: run.log.clone(),
        }
    }
}

/// The progress that a worker reports to the waiting process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgressEvent {
    /// An action begins.
    Begun(RunStarted),
    /// The output of an action goes to a new log.
    Logs {
        /// The name of the repository.
        repo: String,
        /// The file name in its log directory.
        log: String,
    },
    /// An action ended and is recorded.
    Ended(RunEnded),
    /// The remotes of a repository were polled.
    Polled {
        /// The name of the repository.
        repo: String,
        /// The bytes sent and received; `None`: no remote answered.
        bytes: Option<u64>,
    },
    /// A fetch ended, successful or not.
    Fetched {
        /// The name of the repository.
        repo: String,
        /// The bytes received.
        bytes: u64,
    },
}

impl ProgressEvent {
    /// The name of the repository concerned.
    pub fn repo(&self) -> &str {
        match self {
            Self::Begun(begun) => &begun.repo,
            Self::Ended(ended) => &ended.repo,
            Self::Logs { repo, .. } | Self::Polled { repo, .. } | Self::Fetched { repo, .. } => {
                repo
            }
        }
    }
}

/// One finished run, as `history` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedRun {
    /// The id of the run: the same in every record of it, so that recording it twice leaves one.
    pub id: String,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The revision that was deployed.
    pub revision: Commit,
    /// The first line of that commit's message, at most 200 characters.
    pub subject: String,
    /// The full name of the ref, where each of several is deployed by itself.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The short name of the tag by which the revision was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The revision deployed before it.
    pub previous: Option<Commit>,
    /// The reason for the run.
    pub trigger: Trigger,
    /// The result.
    pub outcome: Outcome,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The run time of the scripts in seconds.
    pub seconds: f64,
    /// The file name in the repository's log directory; `None` when nothing ran.
    pub log: Option<String>,
    /// The tree of the revision; `None`: an older agent wrote the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<ObjectId>,
    /// Who signed it, where signatures count; `None`: it was accepted here before, or they do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// The number of runs that this entry stands for.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u32,
    /// When the first of several runs ended; `None`: there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<DateTime<Utc>>,
}

fn once() -> u32 {
    1
}

fn is_once(count: &u32) -> bool {
    *count == 1
}

impl FinishedRun {
    /// When the first of its runs ended.
    pub fn first_at(&self) -> DateTime<Utc> {
        self.first.unwrap_or(self.at)
    }
}

impl FinishedRun {
    /// Returns `true` if it succeeded and there was no program to run. Periodic runs that succeed keep no
    /// log, so of them it is not known.
    pub fn ran_nothing(&self) -> bool {
        let is_periodic = matches!(self.trigger, Trigger::Cron | Trigger::Timer)
            && self.previous == Some(self.revision);
        let is_plain = self.outcome == Outcome::Succeeded && self.reference.is_none();
        is_plain && self.log.is_none() && !is_periodic
    }
}

/// The longest wait between two attempts, before the ±20 %.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

impl Attempt {
    /// The record of attempt `number` at `revision` after `outcome`. The next one waits 1, 2, 4 …
    /// minutes, at most an hour, ±20 % by `host` and revision so that a fleet does not retry in step.
    ///
    /// After the first interruption the next tick tries again: a reboot is not the script's fault. From
    /// the second on it backs off like a failure, so that a script which brings the machine down cannot
    /// do so every minute.
    pub fn after(
        outcome: Outcome,
        revision: Commit,
        number: u32,
        before: Option<&Self>,
        host: &str,
        now: DateTime<Utc>,
    ) -> Self {
        let first_cut_off = outcome == Outcome::Interrupted && number <= 1;
        let next_try =
            (outcome.backs_off() && !first_cut_off).then(|| now + wait(number, host, &revision));
        let since = before
            .filter(|before| before.revision == revision && before.outcome.word() == outcome.word())
            .map_or(now, |before| before.since.min(now));
        let tally = FailureTally::default();
        let attempt = Self {
            revision,
            number,
            outcome,
            script: None,
            since,
            next_try,
            is_of_before: false,
            tally,
        };
        attempt.carrying(before)
    }

    /// The answer of `before` about `revision`, unless it is yes. While it says "not now" it is asked by each tick
    /// for ten minutes, then every five; after another answer as after a failure.
    pub fn of_before(
        outcome: Outcome,
        revision: Commit,
        last: Option<&Self>,
        host: &str,
        now: DateTime<Utc>,
    ) -> Self {
        let last = last.filter(|last| last.is_of_before && last.revision == revision);
        let number = last.map_or(1, Self::next_number);
        let since = last.filter(|last| last.outcome.word() == outcome.word());
        let since = since.map_or(now, |last| last.since.min(now));
        let next_try = match outcome {
            Outcome::Deferred if now - since < EAGER => None,
            Outcome::Deferred => Some(now + BETWEEN_ANSWERS),
            _ => Some(now + wait(number, host, &revision)),
        };
        let tally = FailureTally::default();
        Self { revision, number, outcome, script: None, since, next_try, is_of_before: true, tally }
    }

    /// This attempt with the tally of the one before it, where that was at the same revision.
    fn carrying(self, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.revision == self.revision);
        Self { tally: before.map(|before| before.tally).unwrap_or_default(), ..self }
    }

    /// This attempt, counted: its run lasted `seconds` and ended at `at`.
    #[must_use]
    pub fn counted(self, seconds: f64, at: DateTime<Utc>) -> Self {
        Self { tally: self.tally.with(&self.outcome, seconds, at), ..self }
    }

    /// The script, the revision and the outcome, as a message.
    pub fn sentence(&self) -> String {
        let (revision, outcome) = (self.revision.short(), &self.outcome);
        match &self.script {
            Some(script) if self.is_of_before => {
                format!("before: {} {outcome} at {revision}", script.escape_controls())
            }
            None if self.is_of_before => format!("before, at {revision}: {outcome}"),
            Some(script) => format!("{} {outcome} at {revision}", script.escape_controls()),
            None => format!("{revision} {outcome}"),
        }
    }

    /// Returns `true` if scripts may have run in it.
    pub fn ran_scripts(&self) -> bool {
        !self.is_of_before && !matches!(self.outcome, Outcome::Hindered { .. })
    }

    /// The number of the next attempt: a deferred or hindered one does not count.
    pub fn next_number(&self) -> u32 {
        match self.outcome {
            Outcome::Deferred | Outcome::Unchecked => self.number,
            Outcome::Hindered { .. } if !self.is_of_before => self.number,
            _ => self.number.saturating_add(1),
        }
    }

    /// The time until which the next attempt has to wait; `None`: it may start at `now`. A time further
    /// away than the rule allows was written under a clock that has since been set back, and does not
    /// count.
    pub fn must_wait(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let furthest = now + LONGEST_WAIT.mul_f64(1.2);
        self.next_try.filter(|&next| next > now && next <= furthest)
    }
}

/// For how long `before` is asked by each tick.
const EAGER: TimeDelta = TimeDelta::minutes(10);
/// The time between two questions to `before` after that.
const BETWEEN_ANSWERS: Duration = Duration::from_secs(5 * 60);

/// The wait after failed attempt `number` (1, 2, …).
fn wait(number: u32, host: &str, revision: &Commit) -> Duration {
    let doublings = number.saturating_sub(1).min(16);
    let plain = Duration::from_secs(60 << doublings).min(LONGEST_WAIT);
    let share = hash::fraction(&[host.as_bytes(), revision.0.as_bytes()]);
    plain.mul_f64(0.8 + 0.4 * share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::domain::repository::action::*;

    fn revision(digit: char) -> Commit {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-11-22T09:00:00Z".parse().unwrap()
    }

    fn failed(number: u32) -> Attempt {
        Attempt::after(Outcome::Failed { code: 1 }, revision('a'), number, None, "web01", now())
    }

    #[test]
    fn the_script_that_failed_is_named_where_it_is_known() {
        let unknown =
            Attempt::after(Outcome::Failed { code: 3 }, revision('a'), 1, None, "web01", now());
        assert_eq!(unknown.sentence(), "aaaaaaa exited 3");
        let known = Attempt { script: Some("bin/init/common/init.sh".to_owned()), ..unknown };
        assert_eq!(known.sentence(), "bin/init/common/init.sh exited 3 at aaaaaaa");
    }

    #[test]
    fn not_now_and_hindered_are_tried_again_at_the_next_tick() {
        for outcome in [Outcome::Deferred, Outcome::Hindered { reason: "disk full".into() }] {
            let attempt = Attempt::after(outcome, revision('a'), 3, None, "web01", now());
            assert_eq!(attempt.next_try, None);
        }
    }

    #[test]
    fn the_first_cut_off_is_resumed_at_once_and_the_second_backs_off() {
        let cut = |n| Attempt::after(Outcome::Interrupted, revision('a'), n, None, "h", now());
        assert_eq!(cut(1).next_try, None);
        assert!(cut(2).next_try.is_some());
    }

    #[test]
    fn a_wait_written_under_a_clock_a_year_ahead_does_not_count() {
        let attempt = failed(1);
        assert_eq!(attempt.must_wait(now() - chrono::Duration::days(365)), None);
        assert_eq!(attempt.must_wait(now()), attempt.next_try);
        assert_eq!(attempt.must_wait(now() + chrono::Duration::days(365)), None);
    }

    #[test]
    fn a_row_of_equal_failures_keeps_its_beginning() {
        let first = failed(1);
        let later = now() + chrono::Duration::minutes(5);
        let second = Attempt::after(
            Outcome::Failed { code: 2 },
            revision('a'),
            2,
            Some(&first),
            "web01",
            later,
        );
        assert_eq!(second.since, now());
        let other =
            Attempt::after(Outcome::TimedOut, revision('a'), 3, Some(&second), "web01", later);
        assert_eq!(other.since, later);
    }

    #[test]
    fn every_trigger_is_read_back() {
        for trigger in Trigger::ALL {
            assert_eq!(trigger.as_str().parse(), Ok(trigger));
        }
        assert!("Cron".parse::<Trigger>().is_err());
    }

    proptest! {
        #[test]
        fn waits_grow_stay_within_an_hour_and_are_the_same_each_time(
            host in "[a-z]{1,12}", number in 1u32..60
        ) {
            let this = wait(number, &host, &revision('b'));
            prop_assert_eq!(this, wait(number, &host, &revision('b')));
            prop_assert!(this >= Duration::from_secs(48));
            prop_assert!(this <= LONGEST_WAIT.mul_f64(1.2));
            prop_assert!(wait(number + 1, &host, &revision('b')) >= this);
        }
    }
}
