//! The repair of drift where each ref is published by itself: which shown releases are written anew. The revisions that
//! they show stay.

use chrono::{DateTime, Utc};

use super::{PendingRef, PublishState, RefOverrides, RefRecord};
use crate::domain::git::Commit;
use crate::domain::repository::action::{Attempt, Outcome};

impl RefRecord {
    /// Whether files of the release differ, or the programs of an earlier repair have not succeeded yet.
    pub fn wants_repair(&self) -> bool {
        self.is_drifted || self.repair.is_some()
    }

    /// The shown revision, where everything succeeded at it before, and it may be written anew.
    fn repairable(&self) -> Option<Commit> {
        let shown = self.shown.filter(|shown| self.good == Some(*shown))?;
        let is_refused = self.verdict.as_ref().is_some_and(|(judged, _)| *judged == shown);
        let is_free = self.in_the_way.is_none() && !self.is_lost && self.moved_to.is_none();
        (is_free && !is_refused).then_some(shown)
    }
}

impl PublishState {
    /// The releases to write anew at `now`. One whose programs failed since is not among them: where a rule publishes
    /// it, its next attempt is planned as that of any other.
    pub fn repairs(&self, overrides: RefOverrides, now: DateTime<Utc>) -> Vec<PendingRef> {
        let by_rule = self.book.iter().map(|it| (it, false));
        let by_hand = self.by_hand.iter().map(|it| (it, true));
        let due = |((name, entry), is_by_hand): ((&String, &RefRecord), bool)| {
            let revision = entry.repairable().filter(|_| entry.wants_repair())?;
            let attempt = match &entry.attempt {
                None if entry.tried.is_empty() => None,
                // No rule plans it again.
                attempt if is_by_hand && entry.repair.is_some() => attempt.as_ref(),
                _ => return None,
            };
            let attempt = attempt.filter(|had| had.revision == revision);
            let is_due = attempt.is_none_or(|had| !overrides.must_wait(had, now));
            is_due.then(|| PendingRef {
                name: name.clone(),
                revision,
                directory: entry.directory.clone().unwrap_or_default(),
                attempt: attempt.map_or(1, Attempt::next_number),
                resumed: attempt.is_some_and(|had| had.outcome == Outcome::Interrupted),
                leaves: None,
                repairs: true,
            })
        };
        by_rule.chain(by_hand).filter_map(due).collect()
    }

    /// Whether a release has something to repair, now or later.
    pub fn wants_repair(&self) -> bool {
        let mut all = self.book.values().chain(self.by_hand.values());
        all.any(|entry| entry.wants_repair() && entry.moved_to.is_none())
    }

    /// The directories of the repairs whose programs have not succeeded yet.
    pub fn pending_repairs(&self) -> impl Iterator<Item = &String> {
        let all = self.book.values().chain(self.by_hand.values());
        all.filter(|entry| entry.moved_to.is_none()).filter_map(|entry| entry.repair.as_ref())
    }

    /// That of the ref `name`; `None`: none is.
    pub fn pending_repair(&self, name: &str) -> Option<&str> {
        let entry = self.book.get(name).or_else(|| self.by_hand.get(name));
        entry.and_then(|entry| entry.repair.as_deref())
    }

    /// Whether a ref was published after `at` and before `now`: what was found at its target is not true any more.
    pub fn is_published_since(&self, at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.book.values().chain(self.by_hand.values()).any(|it| at < it.since && it.since <= now)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn commit(digit: char) -> Commit {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-11-30T10:00:00Z".parse().unwrap()
    }

    /// Shows `a`, where everything succeeded, and differs.
    fn drifted() -> RefRecord {
        RefRecord {
            directory: Some("main".into()),
            shown: Some(commit('a')),
            good: Some(commit('a')),
            is_drifted: true,
            ..RefRecord::default()
        }
    }

    fn failed(minutes: i64) -> Attempt {
        let outcome = Outcome::Failed { code: 1 };
        let at = now() - TimeDelta::minutes(minutes);
        Attempt::after(outcome, commit('a'), 1, None, "web01", at)
    }

    fn repairs(by_rule: Option<RefRecord>, by_hand: Option<RefRecord>) -> Vec<PendingRef> {
        let book = |entry: Option<RefRecord>| {
            entry.into_iter().map(|entry| ("refs/heads/main".to_owned(), entry)).collect()
        };
        let (book, by_hand) = (book(by_rule), book(by_hand));
        let state = PublishState { book, by_hand, ..PublishState::default() };
        state.repairs(RefOverrides::default(), now())
    }

    #[test]
    fn what_differs_is_written_anew_where_everything_succeeded_before() {
        let due = repairs(Some(drifted()), None);
        assert_eq!((due.len(), due[0].repairs, due[0].attempt), (1, true, 1));
        assert_eq!(due[0].revision, commit('a'));
        let whole = RefRecord { is_drifted: false, ..drifted() };
        let pending = RefRecord { repair: Some("20261130T093000Z".into()), ..whole.clone() };
        assert_eq!((repairs(Some(whole), None).len(), repairs(Some(pending), None).len()), (0, 1));
        let not = [
            RefRecord { good: Some(commit('b')), ..drifted() },
            RefRecord { shown: None, ..drifted() },
            RefRecord { is_lost: true, ..drifted() },
            RefRecord { in_the_way: Some("a file".into()), ..drifted() },
            RefRecord { moved_to: Some("refs/heads/other".into()), ..drifted() },
            RefRecord { attempt: Some(failed(600)), ..drifted() },
        ];
        for entry in not {
            assert_eq!(repairs(Some(entry.clone()), None), [], "{entry:?}");
        }
    }

    #[test]
    fn another_revision_at_the_target_is_not_what_was_found_to_differ() {
        let mut entry = drifted();
        entry.sees(Some(commit('a')));
        assert!(entry.is_drifted);
        entry.sees(Some(commit('b')));
        assert!(!entry.is_drifted);
    }

    #[test]
    fn what_a_person_published_is_tried_again_by_its_repair_after_the_wait() {
        let pending = |minutes| RefRecord {
            repair: Some("20261130T093000Z".into()),
            attempt: Some(failed(minutes)),
            is_drifted: false,
            ..drifted()
        };
        assert_eq!(repairs(None, Some(pending(0))), []);
        let due = repairs(None, Some(pending(600)));
        assert_eq!((due.len(), due[0].attempt), (1, 2));
        assert_eq!(repairs(Some(pending(600)), None), [], "planned by its rule");
    }
}
