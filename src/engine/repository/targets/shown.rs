//! The releases that targets show, opened for reading.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use super::{TargetStore, fits, seen_at};
use crate::domain::git::Commit;
use crate::engine::repository::Repository;
use crate::system::files::Dir;

/// A release that a target shows.
pub(in crate::engine) struct ShownRelease {
    /// The directory at the target; empty where one branch is published.
    pub directory: String,
    /// Its revision.
    pub revision: Commit,
    /// The release.
    pub dir: Dir,
    /// The path of the release.
    pub path: PathBuf,
}

/// The releases of this clone that targets show. What is not ours, or is lost, is not among them.
///
/// # Errors
/// When a record or a target cannot be used.
pub(in crate::engine) fn shown_releases(repository: &Repository) -> Result<Vec<ShownRelease>> {
    let Some(target) = repository.repo.settings.target() else { return Ok(Vec::new()) };
    let Some(target_store) = TargetStore::open(repository, target.clone())? else {
        return Ok(Vec::new());
    };
    let directories: BTreeSet<String> = match repository.fetches_all() {
        false => BTreeSet::from([String::new()]),
        true => {
            let book = repository.records.book()?.into_values();
            book.filter_map(|entry| entry.directory).filter(|it| fits(&target, it)).collect()
        }
    };
    let mut shown = Vec::new();
    for directory in directories {
        let seen = seen_at(repository, &target, Some(&target_store), &directory)?;
        let Some(revision) = seen.shown().filter(|revision| repository.git.has(*revision)) else {
            continue;
        };
        let place = target_store.place(&directory)?;
        if let Some(dir) = target_store.store.open_release(&place, revision)? {
            let path = target_store.store.release_path(&place, revision);
            shown.push(ShownRelease { directory, revision, dir, path });
        }
    }
    Ok(shown)
}
