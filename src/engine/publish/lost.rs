//! Trees that stand at the targets without an entry in our record, which was lost then: their links
//! tell whose they are and what they show.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{Shelf, assigned};
use crate::domain::publication::{Book, Entry};
use crate::engine::observe::Site;
use crate::system::node;
use crate::system::release::Standing;

/// Gives an entry in `book` to each of our links that has none: as the ref that the rules give its
/// directory, else as the one that it may have been.
///
/// # Errors
/// When the store or a record cannot be read.
pub fn found_by_links(site: &Site, shelf: &Shelf, book: &mut Book) -> Result<()> {
    let Some(rules) = site.repo.settings.rules(&shelf.target)? else { return Ok(()) };
    let known: BTreeSet<&str> =
        book.values().filter_map(|entry| entry.directory.as_deref()).collect();
    let is_ours = |slot: &String| {
        let standing = shelf.place(slot).and_then(|place| shelf.store.standing(&place));
        matches!(standing, Ok(Standing::Ours(_)))
    };
    let slots = shelf.store.slots()?.into_iter();
    let lost: Vec<String> =
        slots.filter(|slot| !known.contains(slot.as_str())).filter(is_ours).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let listing = site.records.listing()?;
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
        // It had this directory before it was given another.
        let heir = (is_elsewhere || book.contains_key(&name)).then(|| name.clone());
        let key = if heir.is_some() { shelf.former(&slot) } else { name };
        let releases = shelf.store.revisions(&shelf.place(&slot)?)?;
        let older = releases.into_iter().collect();
        let (directory, since) = (Some(slot), node::now());
        book.insert(key, Entry { directory, older, heir, since, ..Entry::default() });
    }
    Ok(())
}
