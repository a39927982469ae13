//! Commits and tags as bytes, and walks over them. libgit2 reads nothing of a commit whose author,
//! committer or tagger line it cannot parse, and git does: old importers wrote lines without a bracket, a
//! time or an address. Where libgit2 fails for that, this file answers. It reads more than libgit2 would,
//! so it is never asked first.
#![expect(clippy::disallowed_types, reason = "part of the one door to libgit2")]

use std::collections::{BinaryHeap, HashSet};

use anyhow::{Context, Result, bail};
use git2::{ObjectType, Oid, Repository};

use super::oid_in;
use crate::domain::git::ObjectId;
use crate::system::{files, watchdog};

/// The most tags in a row, each of which points at the next.
const MOST_TAGS: usize = 64;
/// The size limit of `.git/shallow`, in bytes.
const MAX_SHALLOW: u64 = 64 << 20;

/// A commit, as far as its object holds it; nothing of it is checked.
pub(super) struct RawCommit {
    pub(super) tree: Oid,
    pub(super) parents: Vec<Oid>,
    /// The committer's time in seconds of Unix time; 0 where there is none.
    pub(super) time: i64,
    /// The author line without its first word, and without a time that could be recognised.
    pub(super) author: Vec<u8>,
    pub(super) message: Vec<u8>,
}

/// Reads commit `id`.
///
/// # Errors
/// When it is missing or damaged, is no commit, or names no tree.
pub(super) fn raw_commit(repo: &Repository, id: Oid) -> Result<RawCommit> {
    let odb = repo.odb()?;
    let object = odb.read(id)?;
    if object.kind() != ObjectType::Commit {
        bail!("the object {id} is no commit");
    }
    let (head, message) = split_head(object.data());
    let mut lines = head.split(|&byte| byte == b'\n');
    let tree = lines.next().and_then(|line| line.strip_prefix(b"tree "));
    let tree = tree.with_context(|| format!("the commit {id} names no tree"))?;
    let mut commit = RawCommit {
        tree: oid(repo, tree)?,
        parents: Vec::new(),
        time: 0,
        author: Vec::new(),
        message: message.to_owned(),
    };
    for line in lines {
        if let Some(parent) = line.strip_prefix(b"parent ") {
            commit.parents.push(oid(repo, parent)?);
        } else if let Some(author) = line.strip_prefix(b"author ") {
            commit.author = signer(author).0.to_owned();
        } else if let Some(committer) = line.strip_prefix(b"committer ") {
            commit.time = signer(committer).1;
        }
    }
    Ok(commit)
}

/// The object that the annotated tag `id` points at; `None` when it is no annotated tag.
///
/// # Errors
/// When it is missing or damaged, or names no object.
pub(super) fn tag_target(repo: &Repository, id: Oid) -> Result<Option<Oid>> {
    let odb = repo.odb()?;
    if odb.read_header(id)?.1 != ObjectType::Tag {
        return Ok(None);
    }
    let object = odb.read(id)?;
    let line = object.data().split(|&byte| byte == b'\n').next().unwrap_or_default();
    let target = line.strip_prefix(b"object ");
    oid(repo, target.with_context(|| format!("the tag {id} names no object"))?).map(Some)
}

/// The object behind `id`, which may be an annotated tag, also of another tag.
///
/// # Errors
/// When an object is missing or damaged, or there are too many tags.
pub(super) fn peeled(repo: &Repository, mut id: Oid) -> Result<Oid> {
    for _ in 0..MOST_TAGS {
        match tag_target(repo, id)? {
            Some(target) => id = target,
            None => return Ok(id),
        }
    }
    bail!("the tag {id} is one of more than {MOST_TAGS} that point at one another")
}

/// The history of one repository.
pub(super) struct History<'r> {
    repo: &'r Repository,
    /// The commits at which a shallow history ends.
    ends: HashSet<Oid>,
}

impl<'r> History<'r> {
    /// Reads where a shallow history ends.
    ///
    /// # Errors
    /// When `.git/shallow` cannot be read.
    pub(super) fn of(repo: &'r Repository) -> Result<Self> {
        let ends = files::read_small(&repo.path().join("shallow"), MAX_SHALLOW)?;
        let ends = ends.unwrap_or_default();
        let ends = ends.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        // A line that is no id ends nothing; opening the repository has reported it.
        Ok(Self { repo, ends: ends.filter_map(|line| oid(repo, line).ok()).collect() })
    }

    /// Commit `id` without the parents that a shallow history lacks.
    ///
    /// # Errors
    /// As [`raw_commit`].
    pub(super) fn commit(&self, id: Oid) -> Result<RawCommit> {
        watchdog::progress();
        let mut commit = raw_commit(self.repo, id)?;
        if self.ends.contains(&id) {
            commit.parents.clear();
        }
        Ok(commit)
    }

    /// The commits in the history of `tips`, these included, without those of `hidden` and what is
    /// behind them.
    ///
    /// # Errors
    /// When a commit cannot be read.
    pub(super) fn reachable(&self, tips: &[Oid], hidden: &HashSet<Oid>) -> Result<HashSet<Oid>> {
        let (mut seen, mut pending) = (HashSet::new(), tips.to_vec());
        while let Some(id) = pending.pop() {
            if !hidden.contains(&id) && seen.insert(id) {
                pending.extend(self.commit(id)?.parents);
            }
        }
        Ok(seen)
    }

    /// Whether the history of `tip` contains `commit`.
    ///
    /// # Errors
    /// When a commit cannot be read before it is found.
    pub(super) fn contains(&self, tip: Oid, commit: Oid) -> Result<bool> {
        Ok(self.newest_common(tip, &HashSet::from([commit]))?.is_some())
    }

    /// The newest commit that both histories contain; `None` when there is none.
    ///
    /// # Errors
    /// When a commit cannot be read.
    pub(super) fn merge_base(&self, one: Oid, other: Oid) -> Result<Option<Oid>> {
        self.newest_common(other, &self.reachable(&[one], &HashSet::new())?)
    }

    /// The newest commit of `wanted` in the history of `tip`.
    fn newest_common(&self, tip: Oid, wanted: &HashSet<Oid>) -> Result<Option<Oid>> {
        let mut seen = HashSet::from([tip]);
        let mut pending = BinaryHeap::from([(self.commit(tip)?.time, tip)]);
        while let Some((_, id)) = pending.pop() {
            if wanted.contains(&id) {
                return Ok(Some(id));
            }
            for parent in self.commit(id)?.parents {
                if seen.insert(parent) {
                    pending.push((self.commit(parent)?.time, parent));
                }
            }
        }
        Ok(None)
    }
}

fn oid(repo: &Repository, hex: &[u8]) -> Result<Oid> {
    let id: ObjectId = std::str::from_utf8(hex)?.trim_end().parse()?;
    oid_in(repo, &id)
}

/// Splits the lines before the first empty one from the message after it.
fn split_head(object: &[u8]) -> (&[u8], &[u8]) {
    match object.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => {
            (object.get(..at).unwrap_or_default(), object.get(at + 2..).unwrap_or_default())
        }
        None => (object, &[]),
    }
}

/// The name and address in an author line, and its time; the whole line and 0 where there is no time.
fn signer(line: &[u8]) -> (&[u8], i64) {
    let mut words = line.rsplitn(3, |&byte| byte == b' ');
    let (zone, time, name) = (words.next(), words.next(), words.next());
    let number = |word: Option<&[u8]>| std::str::from_utf8(word?).ok()?.parse::<i64>().ok();
    match (number(zone), number(time), name) {
        (Some(_), Some(time), Some(name)) => (name, time),
        _ => (line, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_line_is_taken_apart_as_far_as_it_goes() {
        for (line, name, time) in [
            ("Pat <pat@example.org> 12 +0100", "Pat <pat@example.org>", 12),
            ("A a@b> 1 +0000", "A a@b>", 1),
            ("Pat <pat@example.org>", "Pat <pat@example.org>", 0),
            ("Pat <pat@example.org> late +0100", "Pat <pat@example.org> late +0100", 0),
            ("", "", 0),
        ] {
            assert_eq!(signer(line.as_bytes()), (name.as_bytes(), time), "{line}");
        }
    }

    #[test]
    fn the_message_begins_after_the_first_empty_line() {
        assert_eq!(split_head(b"tree x\n\na\n\nb"), (b"tree x".as_slice(), b"a\n\nb".as_slice()));
        assert_eq!(split_head(b"tree x\n"), (b"tree x\n".as_slice(), b"".as_slice()));
    }
}
