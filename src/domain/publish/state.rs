//! The state of the targets of a repository that publishes many refs: compares the desired refs with our
//! own record and returns a [`TargetDiff`]. Pure. The directory of each ref is chosen in
//! [`publish`](crate::domain::publish::rules).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::repository::action::{Attempt, Outcome, TriedRevisions};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::health::BadRevision;
use crate::domain::repository::state::{State, rewritten};

mod repair;
mod way_back;

/// Our own record of the published refs, by full ref name.
pub type PublishRecord = BTreeMap<String, RefRecord>;

/// The record of one ref.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefRecord {
    /// The assigned directory; `None`: none yet.
    pub directory: Option<String>,
    /// The revision that the target shows.
    pub shown: Option<Commit>,
    /// The last revision for which every step succeeded, including `after`.
    pub good: Option<Commit>,
    /// Releases that are kept besides the shown one, newest first.
    pub older: Vec<Commit>,
    /// The latest attempt, unless it succeeded.
    pub attempt: Option<Attempt>,
    /// The revisions tried since the last success.
    #[serde(default)]
    pub tried: TriedRevisions,
    /// The latest failed attempt to remove the target.
    #[serde(default, rename = "stuck")]
    pub removal_failure: Option<Attempt>,
    /// Set for the old directory of a ref that was given another one: the full name of that ref. The old
    /// directory is removed once the ref is shown in the new one.
    #[serde(default, rename = "heir")]
    pub moved_to: Option<String>,
    /// A revision that is not published, and why.
    pub verdict: Option<(Commit, Finding)>,
    /// The revision that turned out bad here last, until a newer one succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadRevision>,
    /// Files of the shown release differ from its revision, and are not left: the last look found that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_drifted: bool,
    /// The directory of a repair of drift whose programs have not succeeded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// Foreign content at the target, as a message; checked each time.
    #[serde(skip)]
    pub in_the_way: Option<String>,
    /// Our link is there, and its release is missing or was emptied; checked each time.
    #[serde(skip)]
    pub is_lost: bool,
    /// When this record last changed.
    pub since: DateTime<Utc>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(it: &bool) -> bool {
    !it
}

/// The desired state of one ref, from upstream and the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRefs {
    /// The full ref name.
    pub name: String,
    /// The revision to show and its directory; or why the ref is skipped.
    pub release: Result<(Commit, String), SkippedRef>,
    /// The revision shown last, when the new one does not contain it and that is refused.
    pub rewrites: Option<Commit>,
    /// The new revision is an ancestor of that one.
    pub goes_back: bool,
    /// The revision is marked as bad at this ref.
    pub is_bad: bool,
}

/// The reason why an upstream ref is not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkippedRef {
    /// The rules give it no directory. Its published tree is removed.
    NoPlace(String),
    /// It points to no commit that can be fetched. Its published tree stays, because upstream still has
    /// the ref.
    NoCommit(String),
    /// It is unknown if upstream still has it. Its published tree stays.
    Unproven(String),
}

/// The overrides of a person for one pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefOverrides {
    /// A rewritten revision that a person accepted.
    pub accepted: Option<Commit>,
    /// A person named the repository: backoff is ignored.
    pub named: bool,
    /// Every ref is published again.
    pub redo: bool,
}

impl RefOverrides {
    /// Returns `true` if the revision of `attempt` may not be tried again yet.
    fn must_wait(self, attempt: &Attempt, now: DateTime<Utc>) -> bool {
        attempt.must_wait(now).is_some() && !self.named && !self.redo
    }
}

/// One ref to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRef {
    /// The full ref name.
    pub name: String,
    /// The revision to show.
    pub revision: Commit,
    /// The directory to show it in.
    pub directory: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// An earlier attempt was interrupted.
    pub resumed: bool,
    /// The bad revision that this one is gone back to from; `None`: it is not the way back.
    #[serde(default)]
    pub leaves: Option<Commit>,
    /// It is shown already: files of its release that differ are kept, and the release is written anew.
    #[serde(default)]
    pub repairs: bool,
}

/// The work to do at the targets, and the status of each ref until it is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetDiff {
    /// Refs that are gone, or that moved to another directory while another ref needs the old one: their
    /// old targets are removed.
    pub remove: Vec<String>,
    /// Refs to publish, by name.
    pub publish: Vec<PendingRef>,
    /// The status of every ref, by name.
    pub ref_statuses: Vec<RefStatus>,
}

/// The status of one ref.
#[derive(Clone, Debug, PartialEq)]
pub struct RefStatus {
    /// The full ref name.
    pub name: String,
    /// Its directory; `None`: it has none.
    pub directory: Option<String>,
    /// The revision that its target shows.
    pub shown: Option<Commit>,
    /// The state of the ref.
    pub state: State,
    /// The reason for the state.
    pub reason: Option<String>,
    /// When the state began.
    pub since: DateTime<Utc>,
    /// The number of the last failed attempt; 0 when none failed.
    pub attempt: u32,
    /// When the next attempt may start.
    pub next_try: Option<DateTime<Utc>>,
    /// The revision that is bad here and was left, or is being left.
    pub bad: Option<Commit>,
}

/// The revision that a ref is to show now.
struct DueRevision {
    revision: Commit,
    /// The bad revision that is left for it.
    leaves: Option<Commit>,
}

impl TargetDiff {
    /// The difference between the record `book` and the `desired` refs.
    pub fn between(
        desired: &[DesiredRefs],
        book: &PublishRecord,
        overrides: RefOverrides,
        now: DateTime<Utc>,
    ) -> Self {
        let nothing = RefRecord::default();
        let mut target_diff = Self::default();
        let names: BTreeSet<&str> = desired.iter().map(|it| it.name.as_str()).collect();
        let taken: BTreeMap<&str, &str> = desired
            .iter()
            .filter_map(|it| Some((it.release.as_ref().ok()?.1.as_str(), it.name.as_str())))
            .collect();
        for (name, entry) in book {
            let Some(directory) = &entry.directory else { continue };
            let waits = entry.moved_to.as_ref().is_some_and(|moved_to| {
                let owner = taken.get(directory.as_str());
                owner.is_some_and(|owner| owner == moved_to)
                    || (owner.is_none()
                        && names.contains(moved_to.as_str())
                        && book.get(moved_to).is_none_or(|moved_to| moved_to.shown.is_none()))
            });
            if !names.contains(name.as_str()) && !waits {
                target_diff.leave(name, entry, overrides, now);
            }
        }
        for it in desired {
            let mut entry = book.get(&it.name).unwrap_or(&nothing);
            let (revision, directory) = match &it.release {
                Ok(release) => release,
                Err(SkippedRef::NoCommit(reason)) if entry.shown.is_some() => {
                    let (state, reason) = (State::Broken, Some(reason.clone()));
                    target_diff.ref_statuses.push(RefStatus {
                        state,
                        reason,
                        ..recorded_status(&it.name, entry)
                    });
                    continue;
                }
                Err(SkippedRef::Unproven(reason)) => {
                    let (state, reason) = match &entry.in_the_way {
                        Some(what) => (State::Broken, what),
                        None => (State::Behind, reason),
                    };
                    let reason = Some(reason.clone());
                    target_diff.ref_statuses.push(RefStatus {
                        state,
                        reason,
                        ..recorded_status(&it.name, entry)
                    });
                    continue;
                }
                Err(SkippedRef::NoPlace(reason) | SkippedRef::NoCommit(reason)) => {
                    if entry.directory.is_some() {
                        target_diff.remove.push(it.name.clone());
                    }
                    let recorded_status = recorded_status(&it.name, entry);
                    let left_out = RefStatus { directory: None, shown: None, ..recorded_status };
                    let reason = Some(reason.clone());
                    target_diff.ref_statuses.push(RefStatus {
                        state: State::Inactive,
                        reason,
                        ..left_out
                    });
                    continue;
                }
            };
            if let Some(had) = entry.directory.as_ref().filter(|had| *had != directory) {
                // Otherwise the old target stays until the ref is shown in its new directory.
                if taken.contains_key(had.as_str()) {
                    target_diff.remove.push(it.name.clone());
                }
                // The recorded attempts and findings belong to the old directory.
                entry = &nothing;
            }
            let (standing, due) = ref_status(it, entry, *revision, overrides, now);
            let directory = directory.clone();
            if let Some(DueRevision { revision, leaves }) = due {
                let before = entry.attempt.as_ref().filter(|had| had.revision == revision);
                target_diff.publish.push(PendingRef {
                    name: it.name.clone(),
                    revision,
                    directory: directory.clone(),
                    attempt: before.map_or(1, Attempt::next_number),
                    resumed: before.is_some_and(|had| had.outcome == Outcome::Interrupted),
                    leaves,
                    repairs: entry.repair.is_some()
                        && entry.shown == Some(revision)
                        && !overrides.redo,
                });
            }
            target_diff.ref_statuses.push(RefStatus { directory: Some(directory), ..standing });
        }
        target_diff.ref_statuses.sort_by(|one, other| one.name.cmp(&other.name));
        target_diff
    }

    /// Removes the target of the ref `name`, which upstream deleted; waits if a removal just failed.
    fn leave(
        &mut self,
        name: &str,
        entry: &RefRecord,
        overrides: RefOverrides,
        now: DateTime<Utc>,
    ) {
        if let Some(attempt) = &entry.removal_failure {
            self.ref_statuses.push(RefStatus {
                state: State::Failing,
                reason: Some(format!("it is gone; {}", attempt.outcome)),
                since: attempt.since,
                attempt: attempt.number,
                next_try: attempt.next_try,
                ..recorded_status(name, entry)
            });
            if overrides.must_wait(attempt, now) {
                return;
            }
        }
        self.remove.push(name.to_owned());
    }

    /// Returns `true` if there is nothing to do now.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.publish.is_empty()
    }

    /// The earliest next attempt of a ref that is in backoff.
    pub fn next_try(&self) -> Option<DateTime<Utc>> {
        self.ref_statuses.iter().filter_map(|standing| standing.next_try).min()
    }
}

/// The status of a ref that is to show `revision`, upstream's, and what it is to show now; `None`: what it shows.
fn ref_status(
    desired: &DesiredRefs,
    entry: &RefRecord,
    revision: Commit,
    overrides: RefOverrides,
    now: DateTime<Utc>,
) -> (RefStatus, Option<DueRevision>) {
    let plain = recorded_status(&desired.name, entry);
    let because =
        |state, reason: String| RefStatus { state, reason: Some(reason), ..plain.clone() };
    let when = |is_due: bool| is_due.then_some(DueRevision { revision, leaves: None });
    if let Some(what) = &entry.in_the_way {
        return (because(State::Broken, what.clone()), None);
    }
    if let Some(answer) = way_back::status(desired, entry, revision, overrides, now) {
        return answer;
    }
    if let Some((judged, finding)) = &entry.verdict
        && *judged == revision
        && !overrides.redo
        && !(overrides.accepted == Some(revision)
            && matches!(finding, Finding::Held { .. } | Finding::Unsigned { .. }))
    {
        let (state, reason) = finding.state_and_reason();
        return (because(state, reason), None);
    }
    if entry.is_good_at(revision) {
        return (RefStatus { state: State::Current, ..plain }, when(overrides.redo));
    }
    if let Some(lost) = desired.rewrites
        && overrides.accepted != Some(revision)
    {
        let words = rewritten(&lost.short(), &revision.to_string(), desired.goes_back);
        return (because(State::Rewritten, words), None);
    }
    if let Some(attempt) = entry.attempt.as_ref().filter(|had| had.revision == revision) {
        let reason = match attempt.is_of_before {
            true => Some(attempt.sentence()),
            false => Some(format!("{} {}", revision.short(), attempt.outcome)),
        };
        let standing = match attempt.outcome {
            Outcome::Deferred | Outcome::Unchecked => {
                RefStatus { state: State::Waiting, reason, ..plain }
            }
            _ => {
                let (number, next_try) = (attempt.number, attempt.next_try);
                let state = if attempt.is_of_before { State::Refused } else { State::Failing };
                let failing = RefStatus { state, reason, ..plain };
                RefStatus { attempt: number, next_try, ..failing }
            }
        };
        let since = attempt.since;
        return (RefStatus { since, ..standing }, when(!overrides.must_wait(attempt, now)));
    }
    let state = if entry.shown.is_some() { State::Behind } else { State::New };
    let reason = format!("{} is known and not published yet", revision.short());
    (because(state, reason), when(true))
}

/// The status of the ref `name` from `entry` alone.
fn recorded_status(name: &str, entry: &RefRecord) -> RefStatus {
    RefStatus {
        name: name.to_owned(),
        directory: entry.directory.clone(),
        shown: entry.shown,
        state: State::New,
        reason: None,
        since: entry.since,
        attempt: 0,
        next_try: None,
        bad: None,
    }
}

impl RefRecord {
    /// Whether the target shows `revision`, and every step succeeded since anything was tried here.
    fn is_good_at(&self, revision: Commit) -> bool {
        let is_at = self.shown == Some(revision) && self.good == Some(revision);
        is_at && self.attempt.is_none() && self.tried.is_empty()
    }

    /// Records that the target shows `revision` now, also when a person changed it.
    pub fn sees(&mut self, revision: Option<Commit>) {
        let before = std::mem::replace(&mut self.shown, revision);
        self.is_drifted &= before == revision;
        self.older.retain(|older| Some(*older) != revision);
        if let Some(before) = before.filter(|before| Some(*before) != revision) {
            self.older.insert(0, before);
        }
    }

    /// Records that the target shows `revision` from `now` on.
    pub fn show(&mut self, revision: Commit, now: DateTime<Utc>) {
        self.sees(Some(revision));
        (self.in_the_way, self.verdict, self.removal_failure) = (None, None, None);
        self.is_lost = false;
        self.since = now;
    }

    /// The failed removal of the target with `outcome`; `None`: the target shows nothing.
    pub fn stick(&self, outcome: Outcome, host: &str, now: DateTime<Utc>) -> Option<Attempt> {
        let before = self.removal_failure.as_ref();
        let number = before.map_or(1, |had| had.number + 1);
        let revision = self.shown.or(self.good)?;
        Some(Attempt::after(outcome, revision, number, before, host, now))
    }

    /// The releases to keep: the shown one, the last good one, and `keep` older ones. Drops the others
    /// from the record.
    pub fn keep(&mut self, keep: u32) -> BTreeSet<Commit> {
        let good = self.good;
        let mut kept = 0;
        self.older.retain(|older| {
            let is_good = Some(*older) == good;
            kept += u32::from(!is_good);
            is_good || kept <= keep
        });
        self.older.iter().copied().chain(self.shown).chain(good).collect()
    }
}

/// The state of a repository whose refs are all fetched.
#[derive(Clone, Debug, Default)]
pub struct PublishState {
    /// Upstream has refs that are not fetched yet.
    pub unfetched: bool,
    /// The tip of the followed branch at the last fetch.
    pub tip: Option<Commit>,
    /// The desired refs.
    pub desired: Vec<DesiredRefs>,
    /// The record of the published refs.
    pub book: PublishRecord,
    /// Targets that a person made; no rule publishes or removes them.
    pub by_hand: PublishRecord,
}

impl PublishState {
    /// The work to do at the targets, and the status of each ref.
    pub fn target_diff(&self, overrides: RefOverrides, now: DateTime<Utc>) -> TargetDiff {
        TargetDiff::between(&self.desired, &self.book, overrides, now)
    }

    /// Revisions that a person may accept: they do not contain the shown one, where that is refused, hold
    /// themselves, or turned out bad.
    pub fn acceptable(&self) -> Vec<Commit> {
        let revision = |desired: &DesiredRefs| {
            let revision = desired.release.as_ref().ok()?.0;
            let entry = self.book.get(&desired.name);
            let verdict = entry.and_then(|entry| entry.verdict.as_ref());
            let known = entry.and_then(|entry| entry.bad);
            let is_bad = desired.is_bad || known.is_some_and(|bad| bad.revision == revision);
            let is_stopped = verdict.is_some_and(|(judged, finding)| {
                *judged == revision
                    && matches!(finding, Finding::Held { .. } | Finding::Unsigned { .. })
            });
            (desired.rewrites.is_some() || is_stopped || is_bad).then_some(revision)
        };
        self.desired.iter().filter_map(revision).collect()
    }
}

/// The plan for a repository whose refs are deployed one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishPlan {
    /// Fetch upstream's refs first; then decide again.
    pub fetch: bool,
    /// Refs whose targets are removed.
    pub remove: Vec<String>,
    /// Refs whose targets get another revision.
    pub publish: Vec<PendingRef>,
    /// The revision to record as deployed.
    pub record: Option<Commit>,
}

impl PublishPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let is_empty = self.remove.is_empty() && self.publish.is_empty();
        is_empty && !self.fetch && self.record.is_none()
    }

    /// Whether releases are repaired.
    pub fn repairs(&self) -> bool {
        self.publish.iter().any(|due| due.repairs)
    }

    /// Whether refs leave a bad revision.
    pub fn goes_back(&self) -> bool {
        self.publish.iter().any(|due| due.leaves.is_some())
    }
}
