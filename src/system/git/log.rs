//! What a push brought into a repository on a server, for people to read. The repository may be bare
//! and need not be a clone of ours.
#![expect(clippy::disallowed_types, reason = "the one door to libgit2")]

use std::path::Path;

use anyhow::Result;
use chrono::DateTime;
use git2::{Commit, Repository, RepositoryOpenFlags, Signature};

use super::error::explained;
use super::{commit_of, oid_of};
use crate::domain::bus::{Logged, Update};

/// The commits that `update` brought into the repository at `git_dir`, newest first, at most `most`:
/// back along the first parents to where the ref was. Of a new ref only the newest is told: where it
/// left its neighbours would have to be searched for. None of one that is gone, and of one that does
/// not lead to a commit.
///
/// # Errors
/// When the repository cannot be read.
pub fn brought(git_dir: &Path, update: &Update, most: usize) -> Result<Vec<Logged>> {
    let Some(new) = update.new else { return Ok(Vec::new()) };
    let none: [&std::ffi::OsStr; 0] = [];
    let flags = RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::BARE;
    let repo = Repository::open_ext(git_dir, flags, none).map_err(|error| explained(&error))?;
    let Ok(tip) = repo.find_object(oid_of(&new)?, None)?.peel_to_commit() else {
        return Ok(Vec::new());
    };
    let old = update.old.map(|old| oid_of(&old)).transpose()?;
    let most = if old.is_some() { most } else { 1 };
    let first_parents = std::iter::successors(Some(tip), |commit| commit.parent(0).ok());
    first_parents
        .take_while(|commit| Some(commit.id()) != old)
        .take(most)
        .map(|commit| logged(&commit))
        .collect()
}

fn logged(commit: &Commit<'_>) -> Result<Logged> {
    let author = commit.author();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Logged {
        commit: commit_of(commit.id())?,
        author: format!("{} <{}>", text(author.name_bytes()), text(author.email_bytes())),
        date: date(&author),
        message: text(commit.message_bytes()),
    })
}

/// As `git log` writes it.
fn date(author: &Signature<'_>) -> String {
    let when = author.when();
    let offset = chrono::FixedOffset::east_opt(when.offset_minutes().saturating_mul(60));
    let time = DateTime::from_timestamp(when.seconds(), 0).zip(offset);
    time.map_or_else(String::new, |(time, offset)| {
        time.with_timezone(&offset).format("%a %b %-d %H:%M:%S %Y %z").to_string()
    })
}
