//! The part of a fetch that is the same for every protocol: the request, and the way of the answer into
//! the object store. Knows git's messages and the clone; does not know how the bytes travel.
//!
//! Order, so that a crash between any two steps leaves a clone that git accepts: the edges of a shallow
//! history, the pack, the tracking ref.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::haves::{CompleteHistory, haves};
use super::intake::PackIntake;
use super::{FetchGoal, FetchOrder, FetchProgress, FetchedRef, point, shallow};
use crate::domain::git::{Commit, ObjectFormat};
use crate::domain::remote::FormatMismatch;
use crate::domain::wire::{FetchParser, FetchPart, FetchRequest, MOST_EDGES, ProtocolError};
use crate::system::git::Git;
use crate::system::host::since_boot;
use crate::system::remote::fetch_quota::FetchQuota;

const PIECE: usize = 64 << 10;

/// A fetch into one clone, with what the clone has. Made before anything is asked.
pub(super) struct FetchDelivery<'a> {
    git: &'a Git,
    limit: Duration,
    deadline: Duration,
    format: ObjectFormat,
    haves: Vec<Commit>,
    shallow: Vec<Commit>,
    depth: u32,
    allowance: FetchQuota,
    /// Whether ref updates write a log: only for a branch that is followed alone.
    logged: bool,
}

impl<'a> FetchDelivery<'a> {
    /// A fetch of `order` into `git`. Its time limit begins now.
    ///
    /// # Errors
    /// When the clone's refs or objects cannot be read.
    pub(super) fn new(git: &'a Git, order: &FetchOrder<'a>) -> Result<Self> {
        let limit = order.reach.limit;
        let haves = match order.goal {
            FetchGoal::Branch { to, .. } => haves(git, &[to])?,
            FetchGoal::Refs(updates) => {
                haves(git, &updates.iter().map(|update| update.to.as_str()).collect::<Vec<_>>())?
            }
        };
        let is_first = haves.is_empty();
        Ok(Self {
            git,
            limit,
            deadline: since_boot() + limit,
            format: git.format(),
            // Later fetches get everything new, however much: a history cut off between HEAD and the new
            // tip would make the two unrelated.
            depth: if is_first { order.reach.depth } else { 0 },
            shallow: if is_first {
                Vec::new()
            } else {
                shallow::read(git.git_dir(), git.format())?
            },
            haves,
            allowance: FetchQuota::of(git.git_dir()),
            logged: matches!(order.goal, FetchGoal::Branch { .. }),
        })
    }

    /// How many commits of history to ask for; 0 asks for all.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// The request for `wants`.
    ///
    /// # Errors
    /// `FormatMismatch` when the server's object format is not the clone's.
    pub(super) fn request<'b>(
        &'b self,
        format: ObjectFormat,
        wants: &'b [Commit],
    ) -> Result<FetchRequest<'b>> {
        FormatMismatch::check(format, self.format)?;
        let (haves, shallow) = (&self.haves, &self.shallow);
        Ok(FetchRequest { format, wants, haves, shallow, depth: self.depth })
    }

    /// The objects that the clone lacks for `updates`. When there are none, the refs have been set
    /// already.
    ///
    /// # Errors
    /// When history cannot be read or a ref cannot be written.
    pub(super) fn missing(&self, updates: &[FetchedRef]) -> Result<Vec<Commit>> {
        let context = CompleteHistory::of(self.git)?;
        let mut missing = Vec::new();
        for update in updates {
            if !context.holds(&update.to, update.id)? {
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

    /// Reads the answer from `reader`, puts its pack into the clone and sets the refs as `updates` say.
    /// `edges` are the commits that the server reported before to lack their parents. Reads no further
    /// than the end of the answer.
    ///
    /// # Errors
    /// When the answer is invalid, incomplete, too large or too slow, or the disk fails; the refs do not
    /// move then. A `ProtocolError` in the chain is the server's.
    pub(super) fn receive(
        &self,
        updates: &[FetchedRef],
        edges: &[Commit],
        mut answers: FetchParser,
        reader: &mut dyn Read,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        let mut intake = self.intake()?;
        let mut list: BTreeSet<Commit> = self.shallow.iter().copied().collect();
        list.extend(edges);
        let few = |edges: &BTreeSet<Commit>| match edges.len() {
            0..=MOST_EDGES => Ok(()),
            _ => Err(ProtocolError::too_many_edges()),
        };
        few(&list)?;
        let mut filled: BTreeSet<Commit> = BTreeSet::new();
        let mut piece = vec![0; PIECE];
        let mut received = 0;
        while !answers.is_complete() {
            self.is_in_time()?;
            let count = match reader.read(&mut piece) {
                Ok(0) if answers.ends_with_stream() => break,
                Ok(0) => bail!("the answer ends in the middle"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("the answer breaks off"),
            };
            received += count;
            self.allowance.covers(received)?;
            let bytes = piece.get(..count).unwrap_or_default();
            answers.feed(bytes, &mut |part| -> Result<()> {
                match part {
                    FetchPart::Shallow(edge) => {
                        self.is_ours(edge)?;
                        list.insert(edge);
                        few(&list)?;
                    }
                    FetchPart::Unshallow(edge) => {
                        self.is_ours(edge)?;
                        filled.insert(edge);
                        few(&filled)?;
                    }
                    FetchPart::Pack(bytes) => intake.write(bytes, received, progress)?,
                }
                Ok(())
            })?;
        }
        self.store(intake, updates, list, &filled, &mut |intake| intake.finish(received, progress))
    }

    /// As `receive`, for a pack without an answer around it: `read` gives its bytes, and 0 at its end.
    ///
    /// # Errors
    /// As for `receive`, and the errors of `read`.
    pub(super) fn receive_pack(
        &self,
        updates: &[FetchedRef],
        edges: &[Commit],
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        let mut intake = self.intake()?;
        let mut piece = vec![0; PIECE];
        let mut received = 0;
        loop {
            self.is_in_time()?;
            let count = read(&mut piece)?;
            if count == 0 {
                break;
            }
            received += count;
            self.allowance.covers(received)?;
            intake.write(piece.get(..count).unwrap_or_default(), received, progress)?;
        }
        let list = self.shallow.iter().chain(edges).copied().collect();
        let none = BTreeSet::new();
        self.store(intake, updates, list, &none, &mut |intake| intake.finish(received, progress))
    }

    fn intake(&self) -> Result<PackIntake<'a>> {
        PackIntake::begin(self.git, self.limit, self.deadline)
    }

    fn is_in_time(&self) -> Result<()> {
        if since_boot() > self.deadline {
            bail!("it took longer than {}", humantime::format_duration(self.limit));
        }
        Ok(())
    }

    /// Puts the pack of `intake` into the clone with `finish`, writes the edges in `list` without those
    /// in `filled`, and sets the refs as `updates` say.
    fn store(
        &self,
        intake: PackIntake<'a>,
        updates: &[FetchedRef],
        mut list: BTreeSet<Commit>,
        filled: &BTreeSet<Commit>,
        finish: &mut dyn FnMut(PackIntake<'a>) -> Result<()>,
    ) -> Result<()> {
        let before: BTreeSet<Commit> = self.shallow.iter().copied().collect();
        if list != before {
            shallow::write(self.git.git_dir(), &list)?;
        }
        if let Err(error) = finish(intake) {
            // An edge without its commits means nothing, and every walk through the history reads each
            // edge.
            shallow::write(self.git.git_dir(), &before)?;
            return Err(error);
        }
        if !filled.is_empty() {
            list.retain(|edge| !filled.contains(edge));
            shallow::write(self.git.git_dir(), &list)?;
        }
        self.git.look_for_new_packs()?;
        for FetchedRef { id, .. } in updates {
            ensure!(self.git.has_object(*id), "it sent a pack without {id}");
        }
        self.put(updates)
    }

    /// Fails for a commit of the other object format: git opens no clone with such an edge.
    fn is_ours(&self, edge: Commit) -> Result<()> {
        let what =
            || ProtocolError::NotThis(format!("names {edge}, which is no {} id", self.format));
        if edge.0.format() == self.format { Ok(()) } else { Err(what().into()) }
    }

    fn put(&self, updates: &[FetchedRef]) -> Result<()> {
        if self.logged {
            let set = |update: &FetchedRef| self.git.set_ref(&update.to, update.id, "fetch");
            return updates.iter().try_for_each(set);
        }
        point(self.git, updates)
    }
}
