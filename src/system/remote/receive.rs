//! The end of every fetch, whichever protocol carried it: what to ask for, and the answer on its way
//! into the object store. Knows git's messages and the clone; how bytes travel it does not know.
//!
//! Order, so that a death between any two steps leaves a clone that git accepts: the edges of a
//! shallow history, the pack, the tracking ref.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::allowance::Allowance;
use super::haves::{Complete, haves};
use super::{Goal, Order, Progress, Update, point, shallow};
use crate::domain::git::Commit;
use crate::domain::remote::Format;
use crate::domain::wire::{Answers, MOST_EDGES, NotAnAnswer, Part, Request};
use crate::system::git::Git;
use crate::system::git::error::explained;
use crate::system::git::format_of;
use crate::system::node::since_boot;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// A fetch into one clone: made before anything is asked, it knows what is here.
pub(super) struct Delivery<'a> {
    git: &'a Git,
    limit: Duration,
    deadline: Duration,
    format: Format,
    haves: Vec<Commit>,
    shallow: Vec<Commit>,
    depth: u32,
    allowance: Allowance,
    /// A branch that is followed alone is worth a log of where it was.
    logged: bool,
}

impl<'a> Delivery<'a> {
    /// Of what `order` names, into `git`. Its time runs from now on.
    ///
    /// # Errors
    /// When what is here cannot be read.
    pub(super) fn new(git: &'a Git, order: &Order<'a>) -> Result<Self> {
        let limit = order.reach.limit;
        shallow::put_back(git.git_dir())?;
        let haves = match order.goal {
            Goal::Branch { branch, .. } => haves(git, &[branch.tracking().as_str()])?,
            Goal::Refs(updates) => {
                haves(git, &updates.iter().map(|update| update.to.as_str()).collect::<Vec<_>>())?
            }
        };
        let is_first = haves.is_empty();
        Ok(Self {
            git,
            limit,
            deadline: since_boot() + limit,
            format: format_of(git.for_the_wire()?),
            // Later fetches bring what is new, however much: a history cut between HEAD and the new
            // tip would make them strangers.
            depth: if is_first { order.reach.depth } else { 0 },
            shallow: if is_first { Vec::new() } else { shallow::read(git.git_dir())? },
            haves,
            allowance: Allowance::of(git.git_dir()),
            logged: matches!(order.goal, Goal::Branch { .. }),
        })
    }

    /// How many commits of history are asked for; 0: all.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// What to ask for, to get `wants`.
    ///
    /// # Errors
    /// When the server names its objects by another hash than the clone.
    pub(super) fn request<'b>(
        &'b self,
        format: Format,
        wants: &'b [Commit],
    ) -> Result<Request<'b>> {
        ensure!(
            format == self.format,
            "it names its objects by {}, and the clone by {}\n\
             hint: move the clone away; the next tick clones it anew",
            hash(format),
            hash(self.format)
        );
        let (haves, shallow) = (&self.haves, &self.shallow);
        Ok(Request { format, wants, haves, shallow, depth: self.depth })
    }

    /// What has to come for `updates`. When that is nothing, the refs are where they belong already.
    ///
    /// # Errors
    /// When history cannot be read or a ref not be written.
    pub(super) fn missing(&self, updates: &[Update]) -> Result<Vec<Commit>> {
        let here = Complete::of(self.git)?;
        let mut missing = Vec::new();
        for update in updates {
            if !here.holds(&update.to, update.id)? {
                missing.push(update.id);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            self.put(updates)?;
        }
        Ok(missing)
    }

    /// Takes the answer from `reader`, puts its pack into the clone and the refs where `updates`
    /// say. `edges`: what the server said before to be without its parents there. Reads no further
    /// than the end of the answer.
    ///
    /// # Errors
    /// When the answer is none, is not whole, too large or too slow, or the disk fails; the refs stay
    /// then. A [`NotAnAnswer`] in the chain is the server's.
    pub(super) fn receive(
        &self,
        updates: &[Update],
        edges: &[Commit],
        mut answers: Answers,
        reader: &mut dyn Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        // libgit2 leaves this number to its own transports.
        let received = Cell::new(0);
        let odb = self.git.for_the_wire()?.odb()?;
        let mut pack = odb.packwriter().map_err(|error| explained(&error))?;
        pack.progress(|stats| {
            progress(Progress {
                received: stats.received_objects(),
                total: stats.total_objects(),
                bytes: received.get(),
            });
            true
        });
        let mut list: BTreeSet<Commit> = self.shallow.iter().copied().collect();
        list.extend(edges);
        let few = |edges: &BTreeSet<Commit>| match edges.len() {
            0..=MOST_EDGES => Ok(()),
            _ => Err(NotAnAnswer::too_many_edges()),
        };
        few(&list)?;
        let mut filled: BTreeSet<Commit> = BTreeSet::new();
        let mut piece = vec![0; PIECE];
        while !answers.is_complete() {
            if since_boot() > self.deadline {
                bail!("it took longer than {}", humantime::format_duration(self.limit));
            }
            let count = match reader.read(&mut piece) {
                Ok(0) => bail!("the answer ends in the middle"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("the answer breaks off"),
            };
            received.set(received.get() + count);
            self.allowance.covers(received.get())?;
            let bytes = piece.get(..count).unwrap_or_default();
            answers.feed(bytes, &mut |part| -> Result<()> {
                match part {
                    Part::Shallow(edge) => {
                        list.insert(edge);
                        few(&list)?;
                    }
                    Part::Unshallow(edge) => {
                        filled.insert(edge);
                        few(&filled)?;
                    }
                    // The library's `Write` tells no cause; libgit2 does.
                    Part::Pack(bytes) => pack
                        .write_all(bytes)
                        .map_err(|_| explained(&git2::Error::last_error(-1)))
                        .context("the pack cannot be taken")?,
                }
                Ok(())
            })?;
        }

        let before: BTreeSet<Commit> = self.shallow.iter().copied().collect();
        if list != before {
            shallow::write(self.git.git_dir(), &list)?;
        }
        if let Err(error) = pack.commit() {
            // Without its commits an edge means nothing, and whoever walks the history looks at each.
            shallow::write(self.git.git_dir(), &before)?;
            return Err(explained(&error)).context("the pack cannot be taken");
        }
        drop(pack);
        if !filled.is_empty() {
            list.retain(|edge| !filled.contains(edge));
            shallow::write(self.git.git_dir(), &list)?;
        }
        for Update { id, .. } in updates {
            ensure!(self.git.has_object(*id), "it sent a pack without {id}");
        }
        self.put(updates)
    }

    fn put(&self, updates: &[Update]) -> Result<()> {
        if self.logged {
            let set = |update: &Update| self.git.set_ref(&update.to, update.id, "fetch");
            return updates.iter().try_for_each(set);
        }
        point(self.git, updates)
    }
}

/// The name of a hash, for people.
fn hash(format: Format) -> &'static str {
    match format {
        Format::Sha1 => "SHA-1",
        Format::Sha256 => "SHA-256",
    }
}
