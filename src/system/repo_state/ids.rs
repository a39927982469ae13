//! Object ids in the state files. An id of another length than the repository's is damage, just as any
//! other text would be. Does not know the files.

use super::{ActionState, ListedRef, PollRecord, RefListing, RepairRecord};
use crate::domain::git::{Commit, ObjectFormat};
use crate::domain::publish::state::{PublishRecord, RefRecord};
use crate::domain::repository::action::{Attempt, FinishedRun, TriedRevisions};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::history::HistoryEntry;
use crate::domain::repository::observed::{Pin, RecordedFinding};

/// A record with object ids.
pub(in crate::system) trait ContainsIds {
    /// Whether every object id in the record has this format.
    fn are_of(&self, format: ObjectFormat) -> bool;
}

impl ContainsIds for Commit {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.0.format() == format
    }
}

impl<T: ContainsIds> ContainsIds for Option<T> {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.as_ref().is_none_or(|it| it.are_of(format))
    }
}

impl ContainsIds for Attempt {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.revision.are_of(format)
    }
}

impl ContainsIds for TriedRevisions {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.iter().all(|revision| revision.are_of(format))
    }
}

impl ContainsIds for Finding {
    fn are_of(&self, format: ObjectFormat) -> bool {
        match self {
            Self::Irrelevant { since_revision } => since_revision.are_of(format),
            Self::Refused { .. }
            | Self::Unsigned { .. }
            | Self::TooLarge { .. }
            | Self::Shared { .. }
            | Self::Dirty { .. }
            | Self::Conflict { .. }
            | Self::Held { .. } => true,
        }
    }
}

impl ContainsIds for RecordedFinding {
    fn are_of(&self, format: ObjectFormat) -> bool {
        let Self { revision, head, finding, .. } = self;
        revision.are_of(format) && head.are_of(format) && finding.are_of(format)
    }
}

impl ContainsIds for FinishedRun {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.revision.are_of(format)
            && self.previous.are_of(format)
            && self.tree.is_none_or(|tree| tree.format() == format)
    }
}

impl ContainsIds for HistoryEntry {
    fn are_of(&self, format: ObjectFormat) -> bool {
        match self {
            Self::Act(act) => act.revision.are_of(format),
            Self::Run(run) => run.are_of(format),
        }
    }
}

impl ContainsIds for ActionState {
    fn are_of(&self, format: ObjectFormat) -> bool {
        let Self { attempt, tried, verdict, accepted, unheld, tree_when, gaps, acted, .. } = self;
        let Self { sight, begun, allowed, bad, drift, .. } = self;
        attempt.are_of(format)
            && tried.are_of(format)
            && unheld.are_of(format)
            && verdict.are_of(format)
            && accepted.are_of(format)
            && tree_when.map(|it| it.revision).are_of(format)
            && gaps.as_ref().map(|it| it.revision).are_of(format)
            && acted.are_of(format)
            && sight.as_ref().map(|it| it.revision).are_of(format)
            && begun.as_ref().map(|it| it.revision).are_of(format)
            && allowed.are_of(format)
            && bad.map(|it| it.revision).are_of(format)
            && drift.as_ref().and_then(|it| it.revision).are_of(format)
    }
}

impl ContainsIds for Pin {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.revision.are_of(format)
    }
}

impl ContainsIds for PollRecord {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.tip.are_of(format) && self.way.as_ref().is_none_or(|way| way.format == format)
    }
}

impl ContainsIds for RepairRecord {
    fn are_of(&self, format: ObjectFormat) -> bool {
        let lack = self.lack.as_ref();
        lack.is_none_or(|(id, head)| {
            head.are_of(format) && id.parse().is_ok_and(|id: Commit| id.are_of(format))
        })
    }
}

impl ContainsIds for RefListing {
    fn are_of(&self, format: ObjectFormat) -> bool {
        let fits = |it: &ListedRef| it.tip.id.are_of(format) && it.commit.are_of(format);
        self.0.iter().all(fits)
    }
}

/// The releases shown at a target and next to it may come from an earlier clone, so they are not
/// checked.
impl ContainsIds for PublishRecord {
    fn are_of(&self, format: ObjectFormat) -> bool {
        self.values().all(|RefRecord { good, attempt, tried, verdict, bad, .. }| {
            good.are_of(format)
                && attempt.are_of(format)
                && tried.are_of(format)
                && bad.is_none_or(|bad| bad.revision.are_of(format))
                && verdict.as_ref().is_none_or(|(id, it)| id.are_of(format) && it.are_of(format))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::domain::git::ObjectFormat;
    use crate::system::files;
    use crate::system::repo_state::{LastAction, RepoRecords};

    #[test]
    fn an_id_of_the_other_length_is_damage_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path: &Path = dir.path();
        let records = RepoRecords { private: path.into(), public: path.into(), format: None };
        let id = "ab".repeat(32);
        let pin = format!(r#"{{"revision":"{id}","by":"pat","since":"2026-11-22T09:00:00Z"}}"#);
        let poll = format!(r#"{{"branch":"main","tip":"{id}","known":true}}"#);
        let refs = format!("{id} - refs/heads/main\n");
        let files = [("pin", pin), ("poll", poll), ("refs", refs), ("lastaction.txt", id)];
        for (name, text) in files {
            files::put(path, name, text.as_bytes(), 0o600).unwrap();
        }
        for (format, is_whole) in [(ObjectFormat::Sha256, true), (ObjectFormat::Sha1, false)] {
            let records = records.clone().in_format(format);
            assert_eq!(records.pin().is_ok(), is_whole);
            assert_eq!(records.polled().known, is_whole);
            assert_eq!(records.listing().is_ok(), is_whole);
            assert_eq!(records.last_action().0 != LastAction::Unusable, is_whole);
        }
    }
}
