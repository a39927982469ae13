//! What stands at the targets of a repository that publishes many refs, and what has still to be done
//! there: from what is desired and what our own record says to a [`Drift`]. Pure. Which ref gets
//! which directory is decided in [`publish`](super::publish).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::action::{Attempt, Outcome, Trigger};
use super::git::{Commit, RefName};
use super::plan::{Finding, Observed, Plan, Request};
use super::status::State;

/// Our own record of what was published, by full ref name.
pub type Book = BTreeMap<String, Entry>;

/// What was done about one ref.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The directory that it was given; `None`: none yet.
    pub directory: Option<String>,
    /// What its target shows.
    pub shown: Option<Commit>,
    /// The last revision for which everything succeeded, `after` included.
    pub good: Option<Commit>,
    /// Releases that are kept beside the one shown, newest first.
    pub older: Vec<Commit>,
    /// The latest attempt, unless it succeeded.
    pub attempt: Option<Attempt>,
    /// The latest attempt to take away what it left, which failed.
    #[serde(default)]
    pub stuck: Option<Attempt>,
    /// Of a directory that a ref had before it was given another: the ref. It goes once something is
    /// shown at the other.
    #[serde(default)]
    pub heir: Option<String>,
    /// What was found about a revision that is not published.
    pub verdict: Option<(Commit, Finding)>,
    /// What stands at its target and is not ours, in words; found anew each time.
    #[serde(skip)]
    pub in_the_way: Option<String>,
    /// When that last changed.
    pub since: DateTime<Utc>,
}

/// What upstream and the rules ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The full ref name.
    pub name: String,
    /// What is to be seen at its target, and in which directory; or why it is left out.
    pub release: Result<(Commit, String), LeftOut>,
    /// The revision that was shown last, where this one lacks it and that is refused.
    pub rewrites: Option<Commit>,
}

/// Why a ref of upstream's is not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// The rules have no directory for it. What it published before goes.
    NoPlace(String),
    /// It stands for no commit that can be had here. What it published before stays: upstream has it
    /// still.
    NoCommit(String),
    /// Nobody knows whether upstream has it still. What it published before stays.
    Unproven(String),
}

/// What may override the rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// A rewritten revision that a person took.
    pub accepted: Option<Commit>,
    /// A person named the repository: nothing waits for its turn.
    pub named: bool,
    /// Everything is to be done again.
    pub redo: bool,
}

impl Wishes {
    /// Whether what `attempt` failed at is not to be tried again yet.
    fn must_wait(self, attempt: &Attempt, now: DateTime<Utc>) -> bool {
        attempt.must_wait(now).is_some() && !self.named && !self.redo
    }
}

/// One ref that is to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The full ref name.
    pub name: String,
    /// What is to be seen.
    pub revision: Commit,
    /// Where.
    pub directory: String,
    /// 1, 2, 3 …
    pub attempt: u32,
    /// An earlier attempt was cut off.
    pub resumed: bool,
}

/// What is to be done at the targets, and how each ref stands until then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drift {
    /// Refs that are gone, or were given another directory while another ref needs the one that they
    /// had: what they left goes.
    pub remove: Vec<String>,
    /// Refs to publish, by name.
    pub publish: Vec<Due>,
    /// Every ref, by name.
    pub standings: Vec<Standing>,
}

/// How one ref stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The full ref name.
    pub name: String,
    /// Its directory.
    pub directory: Option<String>,
    /// What its target shows.
    pub shown: Option<Commit>,
    /// The word.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Which attempt failed last.
    pub attempt: u32,
    /// When a failed one is tried again.
    pub next_try: Option<DateTime<Utc>>,
}

impl Drift {
    /// From what `book` has to what is `desired`.
    pub fn between(desired: &[Desired], book: &Book, wishes: Wishes, now: DateTime<Utc>) -> Self {
        let nothing = Entry::default();
        let mut drift = Self::default();
        let names: BTreeSet<&str> = desired.iter().map(|it| it.name.as_str()).collect();
        let taken: BTreeMap<&str, &str> = desired
            .iter()
            .filter_map(|it| Some((it.release.as_ref().ok()?.1.as_str(), it.name.as_str())))
            .collect();
        for (name, entry) in book {
            let Some(directory) = &entry.directory else { continue };
            let waits = entry.heir.as_ref().is_some_and(|heir| {
                let owner = taken.get(directory.as_str());
                owner.is_some_and(|owner| owner == heir)
                    || (owner.is_none()
                        && names.contains(heir.as_str())
                        && book.get(heir).is_none_or(|heir| heir.shown.is_none()))
            });
            if !names.contains(name.as_str()) && !waits {
                drift.leave(name, entry, wishes, now);
            }
        }
        for it in desired {
            let mut entry = book.get(&it.name).unwrap_or(&nothing);
            let (revision, directory) = match &it.release {
                Ok(release) => release,
                Err(LeftOut::NoCommit(reason)) if entry.shown.is_some() => {
                    let (state, reason) = (State::Broken, Some(reason.clone()));
                    drift.standings.push(Standing { state, reason, ..stands(&it.name, entry) });
                    continue;
                }
                Err(LeftOut::Unproven(reason)) => {
                    let (state, reason) = match &entry.in_the_way {
                        Some(what) => (State::Broken, what),
                        None => (State::Behind, reason),
                    };
                    let reason = Some(reason.clone());
                    drift.standings.push(Standing { state, reason, ..stands(&it.name, entry) });
                    continue;
                }
                Err(LeftOut::NoPlace(reason) | LeftOut::NoCommit(reason)) => {
                    if entry.directory.is_some() {
                        drift.remove.push(it.name.clone());
                    }
                    let stands = stands(&it.name, entry);
                    let left_out = Standing { directory: None, shown: None, ..stands };
                    let reason = Some(reason.clone());
                    drift.standings.push(Standing { state: State::Inactive, reason, ..left_out });
                    continue;
                }
            };
            if let Some(had) = entry.directory.as_ref().filter(|had| *had != directory) {
                // Else it stays there until it is seen in its new place.
                if taken.contains_key(had.as_str()) {
                    drift.remove.push(it.name.clone());
                }
                // Whatever was done about it, was done in another place.
                entry = &nothing;
            }
            let (standing, is_due) = judge(it, entry, *revision, wishes, now);
            let directory = directory.clone();
            if is_due {
                let before = entry.attempt.as_ref().filter(|had| had.revision == *revision);
                drift.publish.push(Due {
                    name: it.name.clone(),
                    revision: *revision,
                    directory: directory.clone(),
                    attempt: before.map_or(1, Attempt::next_number),
                    resumed: before.is_some_and(|had| had.outcome == Outcome::Interrupted),
                });
            }
            drift.standings.push(Standing { directory: Some(directory), ..standing });
        }
        drift.standings.sort_by(|one, other| one.name.cmp(&other.name));
        drift
    }

    /// Has what the ref `name` left taken away, which is gone; not yet, where that just failed.
    fn leave(&mut self, name: &str, entry: &Entry, wishes: Wishes, now: DateTime<Utc>) {
        if let Some(attempt) = &entry.stuck {
            self.standings.push(Standing {
                state: State::Failing,
                reason: Some(format!("it is gone; {}", attempt.outcome)),
                since: attempt.since,
                attempt: attempt.number,
                next_try: attempt.next_try,
                ..stands(name, entry)
            });
            if wishes.must_wait(attempt, now) {
                return;
            }
        }
        self.remove.push(name.to_owned());
    }

    /// Whether nothing is to be done now.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.publish.is_empty()
    }

    /// When the first ref that waits for its turn has it.
    pub fn next_try(&self) -> Option<DateTime<Utc>> {
        self.standings.iter().filter_map(|standing| standing.next_try).min()
    }
}

/// How a ref stands that is to show `revision`, and whether something is to be done about it now.
fn judge(
    desired: &Desired,
    entry: &Entry,
    revision: Commit,
    wishes: Wishes,
    now: DateTime<Utc>,
) -> (Standing, bool) {
    let plain = stands(&desired.name, entry);
    let because = |state, reason: String| Standing { state, reason: Some(reason), ..plain.clone() };
    if let Some(what) = &entry.in_the_way {
        return (because(State::Broken, what.clone()), false);
    }
    if let Some((judged, finding)) = &entry.verdict
        && *judged == revision
        && !wishes.redo
    {
        let (state, reason) = finding.told();
        return (because(state, reason), false);
    }
    if entry.shown == Some(revision) && entry.good == Some(revision) && entry.attempt.is_none() {
        return (Standing { state: State::Current, ..plain }, wishes.redo);
    }
    if let Some(lost) = desired.rewrites
        && wishes.accepted != Some(revision)
    {
        let words = format!(
            "upstream no longer contains {}; to take what it has now: agent accept REPO {revision}",
            lost.short()
        );
        return (because(State::Rewritten, words), false);
    }
    if let Some(attempt) = entry.attempt.as_ref().filter(|had| had.revision == revision) {
        let reason = Some(format!("{} {}", revision.short(), attempt.outcome));
        let standing = match attempt.outcome {
            Outcome::Deferred => Standing { state: State::Waiting, reason, ..plain },
            _ => {
                let (number, next_try) = (attempt.number, attempt.next_try);
                let failing = Standing { state: State::Failing, reason, ..plain };
                Standing { attempt: number, next_try, ..failing }
            }
        };
        let since = attempt.since;
        return (Standing { since, ..standing }, !wishes.must_wait(attempt, now));
    }
    let state = if entry.shown.is_some() { State::Behind } else { State::New };
    let reason = format!("{} is known and not published yet", revision.short());
    (because(state, reason), true)
}

/// How the ref `name` stands as far as `entry` alone tells.
fn stands(name: &str, entry: &Entry) -> Standing {
    Standing {
        name: name.to_owned(),
        directory: entry.directory.clone(),
        shown: entry.shown,
        state: State::New,
        reason: None,
        since: entry.since,
        attempt: 0,
        next_try: None,
    }
}

impl Entry {
    /// That `revision` is seen now, whoever saw to that.
    pub fn sees(&mut self, revision: Option<Commit>) {
        let before = std::mem::replace(&mut self.shown, revision);
        self.older.retain(|older| Some(*older) != revision);
        if let Some(before) = before.filter(|before| Some(*before) != revision) {
            self.older.insert(0, before);
        }
    }

    /// That `revision` is shown from now on.
    pub fn show(&mut self, revision: Commit, now: DateTime<Utc>) {
        self.sees(Some(revision));
        (self.in_the_way, self.verdict, self.stuck) = (None, None, None);
        self.since = now;
    }

    /// The attempt to take away what it left, which came to `outcome`; `None`: it shows nothing.
    pub fn stick(&self, outcome: Outcome, host: &str, now: DateTime<Utc>) -> Option<Attempt> {
        let before = self.stuck.as_ref();
        let number = before.map_or(1, |had| had.number + 1);
        let revision = self.shown.or(self.good)?;
        Some(Attempt::after(outcome, revision, number, before, host, now))
    }

    /// The releases that stay: the one shown, the last good one, and `keep` older ones. The others
    /// are forgotten.
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

/// The refs of a repository that is fetched whole.
#[derive(Clone, Debug, Default)]
pub struct Refs {
    /// Upstream has others than were fetched.
    pub unfetched: bool,
    /// Where the followed branch was at the last fetch.
    pub tip: Option<Commit>,
    /// What is to be seen at the targets.
    pub desired: Vec<Desired>,
    /// What is.
    pub book: Book,
    /// What a person put there, which no rule asks for or takes away.
    pub by_hand: Book,
}

impl Refs {
    /// What has to be done at the targets, and how each ref stands.
    pub fn drift(&self, wishes: Wishes, now: DateTime<Utc>) -> Drift {
        Drift::between(&self.desired, &self.book, wishes, now)
    }

    /// How each ref stands, by name.
    pub fn standings(&self, accepted: Option<Commit>) -> Vec<Standing> {
        // The time decides what is due, not how it stands.
        let wishes = Wishes { accepted, ..Wishes::default() };
        self.drift(wishes, DateTime::UNIX_EPOCH).standings
    }

    /// Revisions that lack what is shown now, where that is refused.
    pub fn rewritten(&self) -> Vec<Commit> {
        let rewriting = self.desired.iter().filter(|desired| desired.rewrites.is_some());
        rewriting.filter_map(|desired| Some(desired.release.as_ref().ok()?.0)).collect()
    }

    /// The revision to be recorded as acted upon once nothing about it is left to do.
    pub fn to_record(&self, seen: &Observed) -> Option<Commit> {
        let followed = seen.branch.as_ref().map(RefName::local);
        let is_open = self.standings(seen.accepted).into_iter().any(|standing| {
            Some(standing.name) == followed
                && !matches!(standing.state, State::Current | State::Inactive)
        });
        self.tip.filter(|tip| !is_open && seen.acted != Some(*tip))
    }

    /// What to do, once nothing else stands in the way.
    pub fn plan(&self, seen: &Observed, request: Request, now: DateTime<Utc>) -> Plan {
        let wishes = Wishes {
            accepted: seen.accepted,
            named: request.named,
            redo: request.trigger == Trigger::Redo,
        };
        let drift = self.drift(wishes, now);
        let record = self.to_record(seen);
        if self.unfetched || !drift.is_empty() || record.is_some() {
            let Drift { remove, publish, .. } = drift;
            return Plan::Publish(Publishing { fetch: self.unfetched, remove, publish, record });
        }
        match drift.next_try() {
            Some(until) => Plan::Wait { until },
            None if drift.standings.iter().all(|standing| !standing.state.needs_a_person()) => {
                Plan::Idle
            }
            None => Plan::Stopped,
        }
    }
}

/// What there is to do where each of several refs is acted upon by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publishing {
    /// Get what upstream has first; then decide again.
    pub fetch: bool,
    /// Refs whose targets go.
    pub remove: Vec<String>,
    /// Refs whose targets are to show something else.
    pub publish: Vec<Due>,
    /// What is to be recorded as acted upon.
    pub record: Option<Commit>,
}
