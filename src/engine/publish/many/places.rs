//! The directories of refs: given when a ref is first published, given up when it is gone or has
//! another one.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Round;
use crate::domain::action::Outcome;
use crate::domain::publication::{Due, Entry};
use crate::engine::observe::one_line;
use crate::system::node;

impl Round<'_, '_> {
    /// Takes away what those that are `shown` left in the directories that they had before; whether
    /// there was any.
    pub(super) fn leave(&mut self, shown: &[Due]) -> Result<bool> {
        let is_left = |entry: &Entry| {
            entry.heir.as_ref().is_some_and(|heir| shown.iter().any(|due| due.name == *heir))
        };
        let left = self.book.iter().filter(|(_, entry)| is_left(entry));
        let left: Vec<String> = left.map(|(name, _)| name.clone()).collect();
        self.remove(&left)?;
        Ok(!left.is_empty())
    }

    /// Takes away what refs left that are gone. What resists stays in the book, and is tried again.
    pub(super) fn remove(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for name in names {
            let Some(entry) = self.book.get_mut(name) else { continue };
            let hidden = match &entry.directory {
                Some(directory) => {
                    self.shelf.place(directory).and_then(|place| self.shelf.store.hide(&place))
                }
                None => Ok(()),
            };
            match hidden {
                Ok(()) => {
                    self.log_line(name, "removed");
                    gone.push(name);
                }
                Err(error) => {
                    let outcome = Outcome::Hindered { reason: one_line(&error) };
                    tracing::warn!(repository = %self.site.repo.name,
                        reference = %name.escape_debug(), %outcome, "cannot be removed");
                    let host = &self.site.here.node.host;
                    entry.stuck = entry.stick(outcome, host, node::now());
                }
            }
        }
        self.shelf.store.settle()?;
        for name in gone {
            self.book.remove(name);
        }
        self.save()
    }

    /// Gives `due` its entry. What stands in the directory that it had before stays there, until it
    /// is seen in this one. Whether that is new.
    pub(super) fn give_place(&mut self, due: &Due, holders: &BTreeMap<String, String>) -> bool {
        let directory = Some(due.directory.clone());
        let had = self.book.remove(&due.name).unwrap_or_default();
        if had.directory == directory {
            self.book.insert(due.name.clone(), had);
            return false;
        }
        // Nobody else may take away again what is seen there from now on.
        self.book.remove(&self.shelf.former(&due.directory));
        if let Some(holder) = holders.get(&due.directory)
            && self.book.get(holder).is_some_and(|entry| entry.directory == directory)
        {
            self.book.remove(holder);
        }
        if let Some(before) = &had.directory {
            let left = Entry { heir: Some(due.name.clone()), ..had.clone() };
            self.book.insert(self.shelf.former(before), left);
        }
        let entry = Entry { directory, since: self.began, ..Entry::default() };
        self.book.insert(due.name.clone(), entry);
        true
    }
}
