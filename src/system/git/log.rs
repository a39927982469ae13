//! Lists the commits that a push brought into a repository on a server, for people to read. The
//! repository may be bare and need not be a clone of the agent's.
#![expect(clippy::disallowed_types, reason = "the one door to libgit2")]

use std::path::Path;

use anyhow::Result;
use chrono::DateTime;
use git2::{ObjectType, Oid, Repository, RepositoryOpenFlags, Signature};

use super::error::explained;
use super::history::{self, History};
use super::{commit_of, oid_in};
use crate::domain::bus::message::{CommitSummary, RefUpdate};

/// The commits that `update` brought into the repository at `git_dir`, newest first, at most `most`:
/// along the first parents back to the old tip. Only the newest for a new ref, since finding where it
/// left the other branches would take a search. None for a removed ref, or one that does not lead to a
/// commit.
///
/// # Errors
/// When the repository cannot be read.
pub fn brought(git_dir: &Path, update: &RefUpdate, most: usize) -> Result<Vec<CommitSummary>> {
    let Some(new) = update.new else { return Ok(Vec::new()) };
    let none: [&std::ffi::OsStr; 0] = [];
    let flags = RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::BARE;
    let repo = Repository::open_ext(git_dir, flags, none).map_err(|error| explained(&error))?;
    let tip = history::peeled(&repo, oid_in(&repo, &new)?)?;
    if repo.odb()?.read_header(tip)?.1 != ObjectType::Commit {
        return Ok(Vec::new());
    }
    let old = update.old.map(|old| oid_in(&repo, &old)).transpose()?;
    let most = if old.is_some() { most } else { 1 };
    let history = History::of(&repo)?;
    let first_parents = std::iter::successors(Some(tip), |commit| {
        let parent = history.commit(*commit).ok()?.parents.first().copied()?;
        repo.odb().is_ok_and(|odb| odb.exists(parent)).then_some(parent)
    });
    first_parents
        .take_while(|commit| Some(*commit) != old)
        .take(most)
        .map(|commit| logged(&repo, commit))
        .collect()
}

fn logged(repo: &Repository, commit: Oid) -> Result<CommitSummary> {
    let Ok(commit) = repo.find_commit(commit) else {
        let raw = history::raw_commit(repo, commit)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return Ok(CommitSummary {
            commit: commit_of(commit)?,
            author: text(&raw.author),
            date: String::new(),
            message: text(&raw.message),
        });
    };
    let author = commit.author();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(CommitSummary {
        commit: commit_of(commit.id())?,
        author: format!("{} <{}>", text(author.name_bytes()), text(author.email_bytes())),
        date: date(&author),
        message: text(commit.message_bytes()),
    })
}

/// The author's date, as `git log` writes it.
fn date(author: &Signature<'_>) -> String {
    let when = author.when();
    let offset = chrono::FixedOffset::east_opt(when.offset_minutes().saturating_mul(60));
    let time = DateTime::from_timestamp(when.seconds(), 0).zip(offset);
    time.map_or_else(String::new, |(time, offset)| {
        time.with_timezone(&offset).format("%a %b %-d %H:%M:%S %Y %z").to_string()
    })
}
