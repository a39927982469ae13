//! What a world remembers of its publications: when the next one is due, and whose the ref is when it is not where it
//! was left. Knows neither files nor the clock.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{ContestedPresence, Presence, PresenceId};
use crate::domain::git::{Commit, ObjectFormat};
use crate::domain::remote::{PushHints, RemoteHints};
use crate::domain::repository::status::PresenceReport;

/// The shortest time between two publications: less than a minute, because a tick comes a little early now and then.
const PAUSE: TimeDelta = TimeDelta::seconds(50);
/// The longest pause while publications fail.
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// How often a contested ref is looked at.
const CONTESTED_PAUSE: TimeDelta = TimeDelta::hours(1);
/// How long publications fail before a person hears of it.
const GRACE: TimeDelta = TimeDelta::minutes(15);
/// The time in which a second foreign publication with the own id makes the ref contested.
const TWICE_WITHIN: TimeDelta = TimeDelta::days(1);
/// The most publications without a known end that are remembered.
const MOST_SENT: usize = 16;

/// The memory of one world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceRecord {
    /// The remote, without credentials.
    pub remote: String,
    /// The full name of the ref.
    pub name: String,
    /// The id of this world.
    pub id: PresenceId,
    /// The number of the last publication that was sent.
    #[serde(default)]
    pub seq: u64,
    /// The object format of the remote; `None`: not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ObjectFormat>,
    /// The last publication that the remote took; `None`: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastPublication>,
    /// Publications that were sent since, and whose end is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<SentPublication>,
    /// The machine whose ref this was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<PresenceId>,
    /// When a publication with the own id was found that this machine did not send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin_seen: Option<DateTime<Utc>>,
    /// Why nothing is published until a person has acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contested: Option<ContestedPresence>,
    /// Since when publications fail, and why the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PresenceFailure>,
    /// When the last attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<DateTime<Utc>>,
    /// How the remote took the last push.
    #[serde(default)]
    pub push_hints: PushHints,
    /// How the remote answered when it was asked for the ref.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<RemoteHints>,
}

/// A publication that the remote took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPublication {
    /// Its commit.
    pub commit: Commit,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// The digest of what it said.
    pub digest: String,
}

/// A publication that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentPublication {
    /// Its commit.
    pub commit: Commit,
    /// Its number.
    pub seq: u64,
}

/// Publications fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceFailure {
    /// When the first of them failed.
    pub since: DateTime<Utc>,
    /// Why the last one did: a sentence, perhaps with a hint.
    pub reason: String,
}

/// What is at the own ref, where that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPublication {
    /// Who published it.
    pub id: PresenceId,
    /// Its number.
    pub seq: u64,
    /// Its author stopped publishing.
    pub is_contested: bool,
}

impl FoundPublication {
    /// The same of a publication.
    pub fn of(presence: &Presence) -> Self {
        let is_contested = presence.contested.is_some();
        Self { id: presence.id.clone(), seq: presence.seq, is_contested }
    }
}

/// Whose the own ref is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnRefVerdict {
    /// Ours: the old id that was sent was stale.
    Ours,
    /// That of another machine, which this one replaces.
    TakeOver(PresenceId),
    /// That of another machine, which publishes still.
    Contested(PresenceId),
}

impl PresenceRecord {
    /// The memory of a world that has not published at `name` of `remote`.
    pub fn new(remote: String, name: String, id: PresenceId) -> Self {
        Self {
            remote,
            name,
            id,
            seq: 0,
            format: None,
            last: None,
            sent: Vec::new(),
            replaced: None,
            twin_seen: None,
            contested: None,
            failure: None,
            tried: None,
            push_hints: PushHints::default(),
            hints: None,
        }
    }

    /// Whether it is about the ref `name` of `remote`.
    pub fn is_about(&self, remote: &str, name: &str) -> bool {
        self.remote == remote && self.name == name
    }

    /// Whether something is to be sent at `now`: it was not `digest` that was published last, or that was `every`
    /// seconds ago (0: does not count). A time in the future was written under a clock that was set back.
    pub fn is_due(&self, digest: &str, every: u64, now: DateTime<Utc>) -> bool {
        let pause = match (&self.contested, &self.failure) {
            (Some(_), _) => CONTESTED_PAUSE,
            (None, Some(failure)) => ((now - failure.since) / 2).clamp(PAUSE, LONGEST_PAUSE),
            (None, None) => PAUSE,
        };
        if self.tried.is_some_and(|tried| (now - tried).abs() < pause) {
            return false;
        }
        let every = i64::try_from(every).ok().filter(|every| *every > 0);
        let every = every.and_then(TimeDelta::try_seconds);
        let Some(last) = &self.last else { return true };
        self.contested.is_some()
            || !self.sent.is_empty()
            || last.digest != digest
            || every.is_some_and(|every| (now - last.at).abs() >= every)
    }

    /// Whose the own ref is, which is at `tip`. `found` is its content; `None`: not needed, see
    /// [`PresenceRecord::knows`]. Remembers what it depends on.
    pub fn judge(&mut self, found: &FoundPublication, now: DateTime<Utc>) -> OwnRefVerdict {
        self.seq = self.seq.max(found.seq);
        let is_first = self.last.is_none();
        if found.id != self.id {
            if is_first {
                self.replaced = Some(found.id.clone());
                return OwnRefVerdict::TakeOver(found.id.clone());
            }
            return OwnRefVerdict::Contested(found.id.clone());
        }
        let again = self.twin_seen.is_some_and(|seen| (now - seen).abs() < TWICE_WITHIN);
        if is_first {
            return OwnRefVerdict::Ours;
        }
        if again || found.is_contested {
            return OwnRefVerdict::Contested(found.id.clone());
        }
        self.twin_seen = Some(now);
        OwnRefVerdict::Ours
    }

    /// Whether this world sent the publication with the commit `tip`.
    pub fn knows(&self, tip: Commit) -> bool {
        self.last.as_ref().is_some_and(|last| last.commit == tip)
            || self.sent.iter().any(|sent| sent.commit == tip)
    }

    /// Remembers that a publication is sent now.
    pub fn sends(&mut self, publication: SentPublication) {
        self.seq = self.seq.max(publication.seq);
        if self.sent.len() >= MOST_SENT {
            self.sent.remove(0);
        }
        self.sent.push(publication);
    }

    /// Remembers that the remote took a publication.
    pub fn published(&mut self, last: LastPublication) {
        self.last = Some(last);
        self.sent.clear();
        self.failure = None;
    }

    /// Remembers that an attempt failed.
    pub fn failed(&mut self, reason: String, now: DateTime<Utc>) {
        let since = self.failure.as_ref().map_or(now, |failure| failure.since.min(now));
        self.failure = Some(PresenceFailure { since, reason });
    }

    /// Forgets what was published: the ref is gone, or names its objects in another way. The number stays.
    pub fn begin_anew(&mut self) {
        (self.last, self.contested, self.twin_seen) = (None, None, None);
        self.sent.clear();
    }

    /// What is known of the publications, for people and programs.
    pub fn report(&self) -> PresenceReport {
        let contested = self.contested.as_ref();
        let failure = contested.map(|it| self.of_contested(it)).or_else(|| self.failure.clone());
        PresenceReport {
            name: self.name.clone(),
            published: self.last.as_ref().map(|last| last.at),
            failing_since: failure.as_ref().map(|failure| failure.since),
            reason: failure.map(|failure| failure.reason),
            contested: contested.is_some(),
            on_change: None,
        }
    }

    fn of_contested(&self, contested: &ContestedPresence) -> PresenceFailure {
        let name = self.name.strip_prefix("refs/heads/").unwrap_or(&self.name);
        let name = name.strip_suffix("/state").unwrap_or(name);
        PresenceFailure { since: contested.since, reason: contested.sentence(&self.id, name) }
    }

    /// Since when a person should know that nothing is published, and why; `None`: there is nothing to know yet.
    pub fn trouble(&self, now: DateTime<Utc>) -> Option<PresenceFailure> {
        if let Some(contested) = &self.contested {
            return Some(self.of_contested(contested));
        }
        self.failure.clone().filter(|failure| now - failure.since >= GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }

    fn commit(digit: char) -> Commit {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn fresh() -> PresenceRecord {
        let (remote, name) = ("https://git.example.org/status.git", "refs/heads/web01/state");
        PresenceRecord::new(remote.into(), name.into(), id("new"))
    }

    fn published(minutes: i64) -> PresenceRecord {
        let mut record = fresh();
        record.tried = Some(at(minutes));
        record.published(LastPublication {
            commit: commit('a'),
            at: at(minutes),
            digest: "a".into(),
        });
        record
    }

    fn id(machine: &str) -> PresenceId {
        PresenceId::of(machine, 0, b"/root/gitrepo")
    }

    fn found(machine: &str, seq: u64) -> FoundPublication {
        FoundPublication { id: id(machine), seq, is_contested: false }
    }

    #[test]
    fn news_is_due_after_a_minute_and_the_rest_when_every_is_over() {
        let record = published(0);
        assert!(!record.is_due("a", 14_400, at(239)));
        assert!(record.is_due("a", 14_400, at(240)));
        assert!(record.is_due("b", 14_400, at(1)));
        assert!(!record.is_due("b", 14_400, at(0) + TimeDelta::seconds(49)));
        assert!(!record.is_due("a", 0, at(1_000_000)), "0s: never");
        assert!(fresh().is_due("a", 0, at(0)));
        assert!(record.is_due("a", 14_400, at(-600)), "the clock was set back");
    }

    #[test]
    fn what_fails_is_tried_again_with_growing_pauses() {
        let mut record = published(0);
        record.failed("away".into(), at(10));
        record.tried = Some(at(40));
        assert!(!record.is_due("b", 0, at(50)));
        assert!(record.is_due("b", 0, at(55)));
        record.failed("still away".into(), at(40));
        assert_eq!(record.failure.as_ref().unwrap().since, at(10), "the first failure counts");
    }

    #[test]
    fn a_person_hears_of_it_after_a_quarter_of_an_hour() {
        let mut record = fresh();
        record.failed("away".into(), at(0));
        assert_eq!(record.trouble(at(14)), None);
        assert!(record.trouble(at(15)).is_some());
        record.published(LastPublication {
            commit: commit('a'),
            at: at(16),
            digest: String::new(),
        });
        assert_eq!(record.trouble(at(60)), None);
    }

    #[test]
    fn the_first_publication_takes_over_and_a_later_one_does_not() {
        let mut record = fresh();
        assert_eq!(record.judge(&found("old", 41), at(0)), OwnRefVerdict::TakeOver(id("old")));
        assert_eq!((record.replaced.clone(), record.seq), (Some(id("old")), 41));
        let mut record = published(0);
        assert_eq!(record.judge(&found("old", 41), at(0)), OwnRefVerdict::Contested(id("old")));
    }

    #[test]
    fn a_second_publication_of_a_twin_within_a_day_is_contested() {
        let mut record = published(0);
        assert_eq!(record.judge(&found("new", 2), at(1)), OwnRefVerdict::Ours);
        let mut later = record.clone();
        assert_eq!(record.judge(&found("new", 3), at(60)), OwnRefVerdict::Contested(id("new")));
        assert_eq!(later.judge(&found("new", 3), at(25 * 60)), OwnRefVerdict::Ours);
        let mut lost = fresh();
        assert_eq!(lost.judge(&found("new", 9), at(0)), OwnRefVerdict::Ours);
        assert_eq!(lost.twin_seen, None, "a machine that lost its record sees its own publication");
        assert_eq!(lost.seq, 9);
    }

    #[test]
    fn a_publication_that_was_sent_is_known_until_its_end_is() {
        let mut record = published(0);
        record.sends(SentPublication { commit: commit('b'), seq: 5 });
        assert!(
            record.knows(commit('a')) && record.knows(commit('b')) && !record.knows(commit('c'))
        );
        assert!(record.is_due("a", 0, at(1)), "its end has to be found out");
        for _ in 0..100 {
            record.sends(SentPublication { commit: commit('d'), seq: 6 });
        }
        assert!(record.sent.len() <= MOST_SENT && record.seq == 6);
    }
}
