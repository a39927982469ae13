//! Trees at the targets whose entry in the agent's record was lost. Their links show which clone
//! published them, and which revision.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{TargetStore, assigned};
use crate::domain::publish::state::{PublishRecord, RefRecord};
use crate::engine::repository::Repository;
use crate::system::host;
use crate::system::release::LinkState;

/// Adds an entry to `book` for each link of this clone that has none: under the ref that the rules
/// assign to its directory, else under the ref that it may have had.
///
/// # Errors
/// When the store or a record cannot be read.
pub fn found_by_links(
    repository: &Repository,
    target_store: &TargetStore,
    book: &mut PublishRecord,
) -> Result<()> {
    let Some(rules) = repository.repo.settings.rules(&target_store.target)? else { return Ok(()) };
    let known: BTreeSet<&str> =
        book.values().filter_map(|entry| entry.directory.as_deref()).collect();
    let is_ours = |slot: &String| {
        let standing =
            target_store.place(slot).and_then(|place| target_store.store.standing(&place));
        matches!(standing, Ok(LinkState::Ours(_)))
    };
    let slots = target_store.store.slots()?.into_iter();
    let lost: Vec<String> =
        slots.filter(|slot| !known.contains(slot.as_str())).filter(is_ours).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let listing = repository.records.listing()?;
    let assigned = assigned(&rules, listing.as_ref(), book);
    let owners: BTreeMap<&str, &str> = assigned
        .iter()
        .filter_map(|it| Some((it.directory.as_deref().ok()?, it.name.as_str())))
        .collect();
    for slot in lost {
        let owner = owners.get(slot.as_str()).map(|name| (*name).to_owned());
        let is_assigned = owner.is_some();
        let name = owner.unwrap_or_else(|| rules.name_of(&slot));
        let is_elsewhere = !is_assigned && assigned.iter().any(|it| it.name == name);
        // The ref had this directory before it was given another.
        let moved_to = (is_elsewhere || book.contains_key(&name)).then(|| name.clone());
        let key = if moved_to.is_some() { target_store.former(&slot) } else { name };
        let releases = target_store.store.revisions(&target_store.place(&slot)?)?;
        let older = releases.into_iter().collect();
        let (directory, since) = (Some(slot), host::now());
        book.insert(key, RefRecord { directory, older, moved_to, since, ..RefRecord::default() });
    }
    Ok(())
}
