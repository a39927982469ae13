//! Writes many refs at once into `packed-refs`, with one write and one fsync. libgit2 writes a file for
//! each ref, with four fsyncs each.
//!
//! This module writes no log entries. It leaves to libgit2 a ref that has a file of its own, which would
//! hide the line in `packed-refs`, and all that only libgit2 can judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::AtFlags;

use super::error::{GitLocked, patiently};
use super::{Git, commit_of, history};
use crate::domain::git::Commit;
use crate::system::files::{self, Dir};
use crate::system::git::size_limits::PACKED_REFS;

const FILE: &str = "packed-refs";
/// The lock file that git's own commands respect.
const LOCK: &str = "packed-refs.lock";
/// The trait in the header that promises a peeled id (a `^` line) for each annotated tag.
const PEELED: &str = "fully-peeled";

/// A full ref name and its new target; `None` removes the ref.
pub type RefMove = (String, Option<Commit>);

impl Git {
    /// Carries out all of `moves`, wherever the refs pointed before. A process that dies in the middle
    /// leaves some of them carried out. The objects have to be in the store already.
    ///
    /// # Errors
    /// When a ref cannot be written.
    pub fn move_refs(&self, moves: &[RefMove], message: &str) -> Result<()> {
        if moves.is_empty() {
            return Ok(());
        }
        self.no_torn_object()?;
        let rest = patiently(|| self.pack_refs(moves)).with_context(|| {
            format!("{} cannot be written", self.git_dir().join(FILE).display())
        })?;
        for (name, to) in rest {
            match to {
                Some(to) => self.set_ref(name, *to, message)?,
                None => self.remove_ref(name)?,
            }
        }
        Ok(())
    }

    /// Writes those of `moves` that may be in `packed-refs`, and returns the others.
    fn pack_refs<'a>(&self, moves: &'a [RefMove]) -> Result<Vec<&'a RefMove>> {
        let lock = PackedRefsLock::take(self.git_dir())?;
        let Some(before) = PackedRefs::read(self.git_dir())? else {
            return Ok(moves.iter().collect());
        };
        let mut after = before.clone();
        let mut rest = Vec::new();
        for one in moves {
            let (name, to) = one;
            match to {
                _ if !is_free(self.git_dir(), name) => rest.push(one),
                Some(_) if after.excludes(name) => rest.push(one),
                Some(to) => {
                    let stands_for = self.tagged(*to)?;
                    after.0.insert(name.clone(), PackedRef { id: *to, stands_for });
                }
                None => drop(after.0.remove(name)),
            }
        }
        if after != before {
            lock.commit(&after.text())?;
        }
        Ok(rest)
    }

    /// The object that an annotated tag points at; `None` when `id` is no annotated tag.
    fn tagged(&self, id: Commit) -> Result<Option<Commit>> {
        let oid = self.oid(&id.0)?;
        let message = || format!("the object {id} cannot be read");
        match history::tag_target(&self.repo, oid).with_context(message)? {
            Some(target) => {
                let object = history::peeled(&self.repo, target).with_context(message)?;
                commit_of(object).map(Some)
            }
            None => Ok(None),
        }
    }
}

/// Whether nothing below `git_dir` has the ref's name, and no file is in the place of a directory above
/// it.
fn is_free(git_dir: &Path, name: &str) -> bool {
    let found = git_dir.join(name).symlink_metadata();
    found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PackedRefs(BTreeMap<String, PackedRef>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedRef {
    id: Commit,
    /// The peeled id, for an annotated tag.
    stands_for: Option<Commit>,
}

impl PackedRefs {
    /// Reads the file; `None` when it holds something else, or a git wrote it that left out peeled tags.
    fn read(git_dir: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::read_small(&git_dir.join(FILE), PACKED_REFS)? else {
            return Ok(Some(Self::default()));
        };
        Ok(String::from_utf8(bytes).ok().and_then(|text| Self::parse(&text)))
    }

    fn parse(text: &str) -> Option<Self> {
        let (head, text) = text.strip_suffix('\n')?.split_once('\n').unwrap_or((text, ""));
        let traits = head.strip_prefix("# pack-refs with:")?;
        traits.split_whitespace().find(|&it| it == PEELED)?;
        let mut refs = BTreeMap::new();
        let mut last: Option<String> = None;
        for line in text.lines() {
            if let Some(id) = line.strip_prefix('^') {
                let entry: &mut PackedRef = refs.get_mut(&last.take()?)?;
                entry.stands_for = Some(id.parse().ok()?);
            } else {
                let (id, name) = line.split_once(' ')?;
                refs.insert(name.to_owned(), PackedRef { id: id.parse().ok()?, stands_for: None });
                last = Some(name.to_owned());
            }
        }
        Some(Self(refs))
    }

    /// Whether a ref here has the name of a directory of `name`, or the other way round. Git never has
    /// both.
    fn excludes(&self, name: &str) -> bool {
        let directory = format!("{name}/");
        let inside = self.0.range(directory.clone()..).next();
        inside.is_some_and(|(inside, _)| inside.starts_with(&directory))
            || name.match_indices('/').any(|(at, _)| self.0.contains_key(&name[..at]))
    }

    fn text(&self) -> String {
        let mut text = format!("# pack-refs with: peeled {PEELED} sorted \n");
        for (name, PackedRef { id, stands_for }) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{id} {name}");
            if let Some(object) = stands_for {
                let _ = writeln!(text, "^{object}");
            }
        }
        text
    }
}

/// git's lock on `packed-refs`. The lock file becomes the new `packed-refs`.
struct PackedRefsLock {
    dir: Dir,
    file: File,
    committed: bool,
}

impl PackedRefsLock {
    fn take(git_dir: &Path) -> Result<Self> {
        let dir = Dir::open(git_dir)?;
        match files::create_new(&dir, LOCK.as_bytes(), 0o644) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(GitLocked.into()),
            file => Ok(Self { dir, file: file?, committed: false }),
        }
    }

    fn commit(mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        rustix::fs::renameat(&self.dir, LOCK, &self.dir, FILE)?;
        self.committed = true;
        Ok(self.dir.sync()?)
    }
}

impl Drop for PackedRefsLock {
    fn drop(&mut self) {
        if !self.committed {
            // The sweep of stale git locks removes one that stays.
            let _ = rustix::fs::unlinkat(&self.dir, LOCK, AtFlags::empty());
        }
    }
}
