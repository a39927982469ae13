//! Many refs at once: in `packed-refs`, where however many take one write and one wait for the disk.
//! libgit2 gives each a file of its own, which the disk has to confirm four times.
//!
//! A ref that has a file of its own keeps it, since that would hide what is written here, and so does
//! what only libgit2 can judge: it writes those. What is written here has no log.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use git2::ObjectType;
use rustix::fs::AtFlags;

use super::error::{Locked, explained, patiently};
use super::{Git, commit_of, oid_of};
use crate::domain::git::Commit;
use crate::system::files::{self, Dir};

const FILE: &str = "packed-refs";
/// git's own, which its commands respect.
const LOCK: &str = "packed-refs.lock";
/// The most that the file may hold: half a million refs.
const CAP: u64 = 64 << 20;
/// What the first line says of the others: for each annotated tag it stands there what it names.
const PEELED: &str = "fully-peeled";

/// A full ref name and where it is to point; `None`: it goes.
pub type Move = (String, Option<Commit>);

impl Git {
    /// Carries out all of `moves`, wherever the refs pointed before. One that dies in the middle has
    /// carried out a part. The objects have to be here.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn move_refs(&self, moves: &[Move], message: &str) -> Result<()> {
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

    /// Writes those of `moves` that may stand in `packed-refs`, and gives back the others.
    fn pack_refs<'a>(&self, moves: &'a [Move]) -> Result<Vec<&'a Move>> {
        let lock = Lock::take(self.git_dir())?;
        let Some(before) = Packed::read(self.git_dir())? else { return Ok(moves.iter().collect()) };
        let mut after = before.clone();
        let mut rest = Vec::new();
        for one in moves {
            let (name, to) = one;
            match to {
                _ if !is_free(self.git_dir(), name) => rest.push(one),
                Some(_) if after.excludes(name) => rest.push(one),
                Some(to) => {
                    let stands_for = self.tagged(*to)?;
                    after.0.insert(name.clone(), Entry { id: *to, stands_for });
                }
                None => drop(after.0.remove(name)),
            }
        }
        if after != before {
            lock.commit(&after.text())?;
        }
        Ok(rest)
    }

    /// What an annotated tag stands for; `None`: it is none.
    fn tagged(&self, id: Commit) -> Result<Option<Commit>> {
        let oid = oid_of(&id.0)?;
        let told = || format!("the object {id} cannot be read");
        if self.repo.odb()?.read_header(oid).with_context(told)?.1 != ObjectType::Tag {
            return Ok(None);
        }
        let tag = self.repo.find_object(oid, Some(ObjectType::Tag)).with_context(told)?;
        let object = tag.peel(ObjectType::Any).map_err(|error| explained(&error));
        commit_of(object.with_context(told)?.id()).map(Some)
    }
}

/// Whether nothing has the ref's name below `git_dir`, nor the name of a folder that it would be in.
fn is_free(git_dir: &Path, name: &str) -> bool {
    let found = git_dir.join(name).symlink_metadata();
    found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// `packed-refs`, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed(BTreeMap<String, Entry>);

/// One ref in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: Commit,
    /// What it leads to, when it is an annotated tag.
    stands_for: Option<Commit>,
}

impl Packed {
    /// `None`: it holds something else, or was written by a git that left out what tags stand for.
    fn read(git_dir: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::read_small(&git_dir.join(FILE), CAP)? else {
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
                let entry: &mut Entry = refs.get_mut(&last.take()?)?;
                entry.stands_for = Some(id.parse().ok()?);
            } else {
                let (id, name) = line.split_once(' ')?;
                refs.insert(name.to_owned(), Entry { id: id.parse().ok()?, stands_for: None });
                last = Some(name.to_owned());
            }
        }
        Some(Self(refs))
    }

    /// Whether a ref here is called as a folder of `name`, or the other way round: never both are.
    fn excludes(&self, name: &str) -> bool {
        let folder = format!("{name}/");
        let inside = self.0.range(folder.clone()..).next();
        inside.is_some_and(|(inside, _)| inside.starts_with(&folder))
            || name.match_indices('/').any(|(at, _)| self.0.contains_key(&name[..at]))
    }

    fn text(&self) -> String {
        let mut text = format!("# pack-refs with: peeled {PEELED} sorted \n");
        for (name, Entry { id, stands_for }) in &self.0 {
            // A String takes everything.
            let _ = writeln!(text, "{id} {name}");
            if let Some(object) = stands_for {
                let _ = writeln!(text, "^{object}");
            }
        }
        text
    }
}

/// git's lock on `packed-refs`, which becomes the new file.
struct Lock {
    dir: Dir,
    file: File,
    committed: bool,
}

impl Lock {
    fn take(git_dir: &Path) -> Result<Self> {
        let dir = Dir::open(git_dir)?;
        match files::create_new(&dir, LOCK.as_bytes(), 0o644) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Locked.into()),
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

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.committed {
            // One that stays is swept as any lock of git's is.
            let _ = rustix::fs::unlinkat(&self.dir, LOCK, AtFlags::empty());
        }
    }
}
