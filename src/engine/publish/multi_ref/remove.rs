//! The directories of refs: assigned when a ref is first published, removed when the ref is gone or has
//! another one.

use std::collections::BTreeMap;

use anyhow::Result;

use super::PublishRun;
use crate::domain::publish::state::{PendingRef, RefRecord};
use crate::domain::repository::action::Outcome;
use crate::domain::text::EscapeControls;
use crate::engine::error::one_line;
use crate::system::host;

impl PublishRun<'_, '_> {
    /// Removes the former directories of the refs that are `shown`; returns whether there was one.
    pub(super) fn remove_moved(&mut self, shown: &[PendingRef]) -> Result<bool> {
        let is_left = |entry: &RefRecord| {
            entry
                .moved_to
                .as_ref()
                .is_some_and(|moved_to| shown.iter().any(|due| due.name == *moved_to))
        };
        let left = self.book.iter().filter(|(_, entry)| is_left(entry));
        let left: Vec<String> = left.map(|(name, _)| name.clone()).collect();
        self.remove(&left)?;
        Ok(!left.is_empty())
    }

    /// Removes the directories of the refs `names`, which are gone. One that cannot be removed stays in
    /// the record and is tried again.
    pub(super) fn remove(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for name in names {
            let Some(entry) = self.book.get_mut(name) else { continue };
            let hidden = match &entry.directory {
                Some(directory) => self.target_store.place(directory).and_then(|place| {
                    self.target_store.store.unlink(&place)?;
                    let releases = self.target_store.store.releases(&place)?;
                    self.target_store.retire(self.repository, &releases)
                }),
                None => Ok(()),
            };
            match hidden {
                Ok(()) => {
                    self.log_line(name, "removed");
                    gone.push(name);
                }
                Err(error) => {
                    let outcome = Outcome::Hindered { reason: one_line(&error) };
                    tracing::warn!(repository = %self.repository.repo.name,
                        reference = %name.escape_controls(), %outcome, "cannot be removed");
                    let host = &self.repository.context.node.host;
                    entry.removal_failure = entry.stick(outcome, host, host::now());
                }
            }
        }
        self.target_store.store.sync()?;
        for name in gone {
            self.book.remove(name);
        }
        self.save()
    }

    /// Gives `due` its entry in the record; returns whether its directory is new. The tree in its former
    /// directory stays until `due` is shown in the new one.
    pub(super) fn give_place(
        &mut self,
        due: &PendingRef,
        holders: &BTreeMap<String, String>,
    ) -> bool {
        let directory = Some(due.directory.clone());
        let had = self.book.remove(&due.name).unwrap_or_default();
        if had.directory == directory {
            self.book.insert(due.name.clone(), had);
            return false;
        }
        // No other entry may remove what is shown there from now on.
        self.book.remove(&self.target_store.former(&due.directory));
        if let Some(holder) = holders.get(&due.directory)
            && self.book.get(holder).is_some_and(|entry| entry.directory == directory)
        {
            self.book.remove(holder);
        }
        if let Some(before) = &had.directory {
            let left = RefRecord { moved_to: Some(due.name.clone()), ..had.clone() };
            self.book.insert(self.target_store.former(before), left);
        }
        let entry = RefRecord { directory, since: self.began, ..RefRecord::default() };
        self.book.insert(due.name.clone(), entry);
        true
    }
}
