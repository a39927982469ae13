//! The repair of releases where each ref is published by itself: keeps what differs in them. The publication that follows
//! writes them anew.

use std::collections::BTreeSet;

use anyhow::{Error, Result};
use chrono::{DateTime, Utc};

use super::{
    RepairDir, faulty, left_alone, mark_refs, of_release, places, put, unrepaired, with_left,
};
use crate::domain::git::Commit;
use crate::domain::publish::state::{PendingRef, PublishPlan, PublishRecord};
use crate::domain::repository::action::{Attempt, Outcome};
use crate::domain::repository::drift::DriftRecord;
use crate::engine::error::one_line;
use crate::engine::repository::Repository;
use crate::engine::repository::drift::{self, ComparedTree, PendingRepair};

/// Compares the releases once more, keeps what the repairs of `plan` replace, and records that they begin. Takes those
/// out of the plan that are not needed, or not possible now, which is recorded.
///
/// # Errors
/// When a record cannot be read or written.
pub fn prepare_refs(
    repository: &Repository,
    mut plan: PublishPlan,
    revision: Commit,
    now: DateTime<Utc>,
) -> Result<PublishPlan> {
    let compared = match drift::compare(repository, revision) {
        Ok(compared) => compared,
        Err(error) => {
            mark_refs(repository, &[], &BTreeSet::new())?;
            put(repository, faulty(repository, revision, &error, now))?;
            plan.publish.retain(|due| !due.repairs);
            return Ok(plan);
        }
    };
    let left = left_alone(repository, now);
    // What was found just now, at a release that is not in the plan, is repaired by the next tick.
    mark_refs(repository, &compared, &left)?;
    let book = repository.records.book()?;
    let (repair, kept, failure) = (None, BTreeSet::new(), None);
    let mut releases =
        KeptReleases { repository, compared, left, book, repair, kept, failure, now };
    plan.publish.retain(|due| !due.repairs || releases.prepare(due));
    releases.record(&mut plan, revision)?;
    Ok(plan)
}

/// The releases that are about to be written anew, and what is kept of them.
struct KeptReleases<'a> {
    repository: &'a Repository<'a>,
    compared: Vec<ComparedTree>,
    left: BTreeSet<Vec<u8>>,
    book: PublishRecord,
    /// Made with the first release of which something is kept.
    repair: Option<RepairDir>,
    /// The names of the refs of which something is kept.
    kept: BTreeSet<String>,
    /// Why one cannot be repaired.
    failure: Option<String>,
    now: DateTime<Utc>,
}

impl KeptReleases<'_> {
    /// Keeps what differs in the release of `due`; whether that may be published again.
    fn prepare(&mut self, due: &PendingRef) -> bool {
        let Some(entry) = self.book.get(&due.name) else { return false };
        let tree = of_release(&self.compared, Some(&due.directory), Some(due.revision));
        let directory = due.directory.clone();
        let pending = entry.repair.clone().map(|name| PendingRepair { name, directory });
        let (differs, places) = match tree {
            Some(tree) => (entry.is_drifted, places(self.repository, tree, &self.left)),
            None => (false, Vec::new()),
        };
        if !differs && pending.is_none() {
            return false;
        }
        let Some(tree) = tree.filter(|_| !places.is_empty()) else { return true };
        let repair = match self.repair.take() {
            Some(repair) => Ok(repair),
            None => RepairDir::begin(self.repository, self.now),
        };
        let kept = repair.and_then(|repair| {
            let repair = self.repair.insert(repair);
            repair.keep(self.repository, tree, &places, pending.as_ref())
        });
        match kept {
            Ok(_) => self.kept.insert(due.name.clone()),
            Err(error) => {
                self.not_kept(due, &error);
                false
            }
        }
    }

    /// Notes that the release of `due` cannot be kept, so that it is not tried again before the next look; one whose
    /// programs are still to run is tried again as after any failure.
    fn not_kept(&mut self, due: &PendingRef, error: &Error) {
        self.failure = unrepaired(self.repository, error);
        let Some(entry) = self.book.get_mut(&due.name) else { return };
        entry.is_drifted = false;
        if entry.repair.is_some() {
            let outcome = Outcome::Hindered { reason: one_line(error) };
            let (last, host) = (entry.attempt.as_ref(), &self.repository.context.node.host);
            let attempt = Attempt::after(outcome, due.revision, due.attempt, last, host, self.now);
            entry.attempt = Some(attempt);
        }
    }

    /// Writes what is kept, and what still differs, into the records. What has no list is not written anew.
    fn record(mut self, plan: &mut PublishPlan, revision: Commit) -> Result<()> {
        let repository = self.repository;
        let mut repaired = None;
        if let Some(repair) = self.repair.take() {
            let listed = if self.kept.is_empty() { Ok(()) } else { repair.put_list(repository) };
            if let Err(error) = &listed {
                let (without_list, remains): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.publish)
                    .into_iter()
                    .partition(|due| self.kept.contains(&due.name));
                without_list.iter().for_each(|due| self.not_kept(due, error));
                (plan.publish, self.kept) = (remains, BTreeSet::new());
            }
            for name in &self.kept {
                let Some(entry) = self.book.get_mut(name) else { continue };
                (entry.repair, entry.is_drifted) = (Some(repair.name.clone()), false);
            }
            match self.kept.is_empty() {
                // What stays there is removed with its time.
                true => drop(repository.records.drop_kept(&repair.name)),
                false => repaired = Some(repair.mention(repository, self.now)),
            }
        }
        repository.records.put_book(&self.book)?;
        let written: BTreeSet<&str> =
            self.kept.iter().filter_map(|name| self.book.get(name)?.directory.as_deref()).collect();
        // As it will be: a worker that dies from now on compares again, because of what is pending.
        self.compared.retain(|tree| !written.contains(tree.directory.as_str()));
        let found = with_left(repository, &self.compared, &self.left, revision, self.now);
        put(repository, DriftRecord { unrepaired: self.failure, repaired, ..found })
    }
}
