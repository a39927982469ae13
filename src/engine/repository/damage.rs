//! Damage of a repository: how it is recognized, and when a worker has to look for it again. Repairs
//! nothing.

use chrono::{DateTime, Utc};

use crate::engine::discovery::RepoEntry;
use crate::engine::repository::Repository;
use crate::system::git::{self, repair as files};
use crate::system::repo_state::{RepairOutcome, RepairRecord, RepoRecords};

/// The time for which a search that found nothing it can repair is not repeated for the same symptom.
pub(in crate::engine) const PATIENCE: chrono::Duration = chrono::Duration::hours(1);

/// The time for which the status mentions a repair.
const MENTIONED: chrono::Duration = chrono::Duration::days(1);

/// The reason why a repository cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryFault {
    /// It may be repaired: a worker has to look. Holds the symptom.
    Damaged(String),
    /// Only a person can repair it. Holds the cause and the remedy.
    Broken(String),
}

/// The damage that is visible without opening the repository; `None`: there is none, or another user
/// could write to it.
pub fn visible(repo: &RepoEntry, now: DateTime<Utc>) -> Option<RepositoryFault> {
    // Files that another user could have written are neither checked nor repaired.
    git::ownership::check_all(&repo.path, &repo.trust).ok()?;
    let git_dir = git::git_dir_of(&repo.path)?;
    let damage = files::find_damage(&git_dir).into_iter().next()?;
    Some(diagnose(&RepoRecords::of(&git_dir, &repo.path), damage.to_string(), now))
}

/// Decides by the last repair whether `symptom` needs a worker's search or was searched for recently.
pub fn diagnose(records: &RepoRecords, symptom: String, now: DateTime<Utc>) -> RepositoryFault {
    match records.repair().filter(|known| known.symptom == symptom && is_recent(known, now)) {
        Some(RepairRecord { led_to: RepairOutcome::Beyond(remedy), .. }) => {
            RepositoryFault::Broken(remedy)
        }
        Some(RepairRecord { led_to: RepairOutcome::Sound, .. }) => RepositoryFault::Broken(symptom),
        _ => RepositoryFault::Damaged(symptom),
    }
}

fn is_recent(known: &RepairRecord, now: DateTime<Utc>) -> bool {
    now >= known.at && now - known.at < PATIENCE
}

/// The fault of an object that an earlier repair could not restore and that is still needed.
pub fn lacking(
    repository: &Repository,
    known: &RepairRecord,
    now: DateTime<Utc>,
) -> Option<RepositoryFault> {
    let (id, head) = known.lack.as_ref()?;
    if *head != repository.head_commit() || id.parse().is_ok_and(|id| repository.git.reads(id)) {
        return None;
    }
    Some(match &known.led_to {
        RepairOutcome::Beyond(remedy) if is_recent(known, now) => {
            RepositoryFault::Broken(remedy.clone())
        }
        _ => RepositoryFault::Damaged(known.symptom.clone()),
    })
}

/// The repair of the last day, for the status.
pub fn mentioned(known: &RepairRecord, now: DateTime<Utc>) -> Option<String> {
    match known {
        RepairRecord { led_to: RepairOutcome::Repaired(what), at, .. } if now - at < MENTIONED => {
            Some(format!("repaired automatically: {what}"))
        }
        _ => None,
    }
}
