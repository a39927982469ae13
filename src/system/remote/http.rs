//! Remotes on web servers, https:// and http://. The question where a branch is goes straight to
//! `git-upload-pack` in protocol version 2, without asking first what the server can do: one round
//! trip. Whatever is not exactly an answer leads to the full discovery, as git does it, and what is
//! learned there is used by the next poll.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use chrono::TimeDelta;

use self::meter::Count;
use self::place::Place;
use self::talk::{DISCOVER, Question, Shared, Talk};
use super::receive::Delivery;
use super::{Goal, Order, Progress, Update};
use crate::domain::git::{Commit, Remote};
use crate::domain::remote::{Answer, Dialect, Format, Reach, Trouble, Wanted, Way};
use crate::domain::wire::{
    self, Advertisement, Advertising, Answers, Capabilities, Listed, NotAnAnswer, Version,
};
use crate::system::git::Git;
use crate::system::node::{self, since_boot};

mod dumb;
mod gather;
mod login;
mod meter;
mod names;
mod netrc;
mod place;
mod proxy;
mod talk;
mod tls;
mod trouble;

/// The type of an answer of git-upload-pack.
const RESULT: &str = "application/x-git-upload-pack-result";
/// The type of what a git server says first.
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
/// The most bytes that the refs may take that were asked for: half a million of them.
const MOST_ASKED: u64 = 32 << 20;
/// The most bytes that all refs of a server may take.
const MOST_REFS: u64 = 256 << 20;
/// The most redirects that are followed.
const MOST_REDIRECTS: usize = 5;
/// How long a way that is not the direct one is used before the direct one is tried again.
const KEPT: TimeDelta = TimeDelta::hours(6);

/// Web servers, and the connections to them that are open.
#[derive(Debug, Default)]
pub(super) struct Http {
    shared: Shared,
}

/// What was found out about a repository.
struct Found {
    place: Place,
    dialect: Dialect,
    format: Format,
    refs: Vec<Listed>,
    /// In version 0: what the server can do, and commits that it has without their parents.
    capabilities: Capabilities,
    shallow: Vec<Commit>,
}

impl Found {
    fn new(place: &Place, dialect: Dialect, format: Format, refs: Vec<Listed>) -> Self {
        let capabilities = Capabilities::default();
        Self { place: place.clone(), dialect, format, refs, capabilities, shallow: Vec::new() }
    }
}

/// How a fetch ended.
enum Fetched {
    Done,
    /// The server no longer is or has what the poll found.
    Moved(Error),
}

impl Http {
    /// See [`Wire::poll`](super::Wire::poll).
    pub(super) fn poll(
        &self,
        remote: &Remote,
        wanted: &Wanted,
        reach: &Reach,
        known: Option<&Way>,
    ) -> Result<Answer> {
        let started = since_boot();
        let before = Count::now();
        let talk = Talk::new(&self.shared, remote, reach)?;
        let known = known.filter(|way| is_fresh(way));
        talk.recall(known);
        let found = talk.list(wanted, known)?;
        let (branch, tip) = wire::answer(wanted, &found.refs);
        let refs = wire::every(wanted, &found.refs);
        let mut way = Way {
            dialect: found.dialect,
            format: found.format,
            base: (found.place != talk.home).then(|| found.place.to_string()),
            wants_login: talk.is_asked_who(),
            ..way_since(before, started)
        };
        // Since when it is known, as long as nothing else is found.
        way.since = known.and_then(|known| known.since);
        if way.since.is_none() || !known.is_some_and(|known| known.is_the_same(&way)) {
            way.since = Some(node::now());
        }
        Ok(Answer { branch, tip, refs, way })
    }

    /// See [`Wire::fetch`](super::Wire::fetch).
    pub(super) fn fetch(
        &self,
        git: &Git,
        order: &Order,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let delivery = Delivery::new(git, order)?;
        let talk = Talk::new(&self.shared, order.remote, order.reach)?;
        let known = order.way.filter(|way| is_fresh(way));
        talk.recall(known);
        let found = known.and_then(|way| talk.found_before(way));
        let (branch, tip) = match order.goal {
            Goal::Branch { branch, tip } => (branch, tip),
            Goal::Refs(updates) => {
                let found = match found {
                    Some(found) => found,
                    None => talk.discover(&wire::prefixes(&Wanted::Default))?,
                };
                return match talk.fetch(&delivery, updates, &found, progress)? {
                    Fetched::Done => Ok(()),
                    Fetched::Moved(reason) => Err(reason),
                };
            }
        };
        if let Some((tip, found)) = tip.zip(found) {
            match talk.fetch(&delivery, &[Update::of(branch, tip)], &found, progress)? {
                Fetched::Done => return Ok(()),
                Fetched::Moved(reason) => tracing::debug!("asking anew: {reason:#}"),
            }
        }
        let wanted = Wanted::Branch(branch.clone());
        let found = match known.map(|way| way.dialect) {
            // It lists its refs anew before each fetch.
            Some(Dialect::Old | Dialect::Dumb) => talk.discover(&wire::prefixes(&wanted))?,
            _ => talk.list(&wanted, known.filter(|_| tip.is_none()))?,
        };
        let (_, tip) = wire::answer(&wanted, &found.refs);
        let tip = tip.with_context(|| format!("it has no branch {branch} any more"))?;
        match talk.fetch(&delivery, &[Update::of(branch, tip)], &found, progress)? {
            Fetched::Done => Ok(()),
            Fetched::Moved(reason) => Err(reason),
        }
    }
}

/// What a poll cost that began at `started` with the meter at `before`.
fn way_since(before: Count, started: Duration) -> Way {
    let cost = Count::since(before);
    let took = since_boot().saturating_sub(started);
    tracing::debug!(?cost, ?took, "polled over http");
    Way {
        bytes: cost.bytes,
        milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        ..Way::default()
    }
}

/// Whether `way` may be used again. The direct one costs nothing when it fails and is never
/// forgotten; others are, so that a server that was made better is noticed.
fn is_fresh(way: &Way) -> bool {
    let is_direct = way.dialect == Dialect::Direct && way.base.is_none() && !way.wants_login;
    is_direct || way.since.is_some_and(|since| node::now() - since < KEPT)
}

impl Talk<'_> {
    /// The refs that tell where `wanted` is, asked for as `known` says.
    fn list(&self, wanted: &Wanted, known: Option<&Way>) -> Result<Found> {
        let prefixes = wire::prefixes(wanted);
        if matches!(known.map(|way| way.dialect), Some(Dialect::Old | Dialect::Dumb)) {
            return self.discover(&prefixes);
        }
        let place = known.map_or(Ok(self.home.clone()), |way| self.place_of(way))?;
        let format = known.map(|way| way.format).unwrap_or_default();
        let reason = match self.ls_refs(&place, format, &prefixes) {
            Ok(Ok(refs)) => return Ok(Found::new(&place, Dialect::Direct, format, refs)),
            Ok(Err(reason)) => reason,
            // Where redirects lead now is for the configured address to say.
            Err(reason) if place != self.home => reason,
            Err(reason) => return Err(reason),
        };
        tracing::debug!("no answer to the direct question: {reason:#}");
        self.discover(&prefixes)
    }

    /// What a poll found out, as far as a fetch can use it.
    fn found_before(&self, way: &Way) -> Option<Found> {
        let place = self.place_of(way).ok()?;
        matches!(way.dialect, Dialect::Direct | Dialect::Discovered)
            .then(|| Found::new(&place, way.dialect, way.format, Vec::new()))
    }

    fn place_of(&self, way: &Way) -> Result<Place> {
        match &way.base {
            Some(base) => Place::parse(base).map(|(place, _)| place),
            None => Ok(self.home.clone()),
        }
    }

    /// Asks for refs in version 2. The inner error is a server that answers something else, which
    /// may be reached in another way; the outer one is final.
    fn ls_refs(
        &self,
        place: &Place,
        format: Format,
        prefixes: &[String],
    ) -> Result<Result<Vec<Listed>>> {
        let reply = self.ask(place, Question::Post(&wire::ls_refs(format, prefixes)))?;
        if !reply.is(RESULT) {
            let (status, later) = (reply.status, reply.later);
            let reason = match status {
                200 => not_git(place, &reply.kind),
                _ => trouble::refused(place, status, later),
            };
            reply.drain();
            // More questions do not help a server that has too many.
            return if matches!(status, 429 | 502..=504) { Err(reason) } else { Ok(Err(reason)) };
        }
        let refs = match reply.into_bytes(MOST_ASKED) {
            Ok(answer) => wire::read_ls_refs(format, &answer).map_err(Error::new),
            Err(error) => Err(Error::new(error)),
        };
        Ok(refs.with_context(|| format!("{place} does not list its refs")))
    }

    /// Asks what the server can do, and in the way that it can, for its refs. Redirects are followed
    /// here only.
    fn discover(&self, prefixes: &[String]) -> Result<Found> {
        let mut place = self.home.clone();
        let mut redirects = 0;
        let reply = loop {
            let reply = self.ask(&place, Question::Get(DISCOVER))?;
            let location = match (reply.status, &reply.location) {
                (200, _) => break reply,
                (301 | 302 | 303 | 307 | 308, Some(location)) => location.clone(),
                (status, _) => {
                    let refused = trouble::refused(&place, status, reply.later);
                    reply.drain();
                    return Err(refused);
                }
            };
            reply.drain();
            redirects += 1;
            if redirects > MOST_REDIRECTS {
                bail!("{} redirects on and on, last to {place}", self.home);
            }
            place = place.redirected(DISCOVER, &location)?;
        };
        if reply.kind != ADVERTISEMENT {
            return self.discover_files(&place, reply, prefixes);
        }
        let said = advertised(reply.into_reader(MOST_REFS), prefixes)
            .with_context(|| format!("{place} does not list its refs"))?;
        match said.version {
            Version::V2 => {
                let refs = self.ls_refs(&place, said.format, prefixes)??;
                Ok(Found::new(&place, Dialect::Discovered, said.format, refs))
            }
            Version::V0 => Ok(Found {
                place,
                dialect: Dialect::Old,
                format: said.format,
                refs: said.refs,
                capabilities: said.capabilities,
                shallow: said.shallow,
            }),
        }
    }

    /// What the files of a repository on a plain web server say.
    fn discover_files(
        &self,
        place: &Place,
        reply: talk::Reply,
        prefixes: &[String],
    ) -> Result<Found> {
        let kind = reply.kind.clone();
        let info = reply.into_bytes(dumb::MOST)?;
        let mut refs = dumb::refs(&info).ok_or_else(|| not_git(place, &kind))?;
        let is_listed = |prefix: &String| refs.iter().any(|listed| listed.name == *prefix);
        if !prefixes.iter().any(is_listed) && prefixes.iter().any(|prefix| prefix == "HEAD") {
            let reply = self.ask(place, Question::Get("HEAD"))?;
            if reply.status == 200 {
                let head = dumb::head(&refs, &reply.into_bytes(dumb::MOST)?);
                refs.extend(head);
            }
        }
        let is_long = refs.first().is_some_and(|listed| listed.id.0.as_bytes().len() == 32);
        let format = if is_long { Format::Sha256 } else { Format::Sha1 };
        Ok(Found::new(place, Dialect::Dumb, format, refs))
    }

    /// Fetches `updates` from where and how they were `found`.
    fn fetch(
        &self,
        delivery: &Delivery,
        updates: &[Update],
        found: &Found,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Fetched> {
        let Found { place, format, capabilities, .. } = found;
        let wants = delivery.missing(updates)?;
        if wants.is_empty() {
            return Ok(Fetched::Done);
        }
        let request = delivery.request(*format, &wants)?;
        let (question, answers) = match found.dialect {
            Dialect::Direct | Dialect::Discovered => (request.v2(), Answers::v2()),
            Dialect::Old if !capabilities.has("side-band-64k") => {
                bail!("{place} speaks a version of git's protocol that is too old")
            }
            Dialect::Old => (request.v0(capabilities), Answers::v0(delivery.depth())),
            Dialect::Dumb | Dialect::Files => bail!(
                "{place} is a plain web server, which can tell where a branch is and not send it\n\
                 hint: serve it with git-http-backend(1)"
            ),
        };
        let reply = self.ask(place, Question::Post(&question))?;
        if !reply.is(RESULT) {
            let reason = match reply.status {
                200 => not_git(place, &reply.kind),
                status => trouble::refused(place, status, reply.later),
            };
            reply.drain();
            // Asking anew does no good where we are not wanted.
            return if reason.is::<Trouble>() { Err(reason) } else { Ok(Fetched::Moved(reason)) };
        }
        let mut reader = reply.into_reader(u64::MAX);
        match delivery.receive(updates, &found.shallow, answers, &mut reader, progress) {
            Ok(()) => {
                reader.drain();
                Ok(Fetched::Done)
            }
            Err(error) => match error.downcast_ref() {
                Some(NotAnAnswer::Empty) => Ok(Fetched::Moved(error)),
                Some(told) if told.is_moved() => Ok(Fetched::Moved(error)),
                _ => Err(error),
            },
        }
    }
}

/// What a server says first.
fn advertised(mut reader: talk::Reading, prefixes: &[String]) -> Result<Advertisement> {
    let mut advertising = Advertising::new(prefixes.to_vec());
    let mut piece = vec![0; 64 << 10];
    while !advertising.is_complete() {
        let count = reader.read(&mut piece)?;
        if count == 0 {
            break;
        }
        advertising.feed(piece.get(..count).unwrap_or_default())?;
    }
    reader.drain();
    Ok(advertising.finish()?)
}

fn not_git(place: &Place, kind: &str) -> Error {
    let kind: String = kind.chars().take(100).collect();
    let kind = if kind.is_empty() { "something".to_owned() } else { kind };
    anyhow!(
        "{place} is no git repository: it answers with {}\n\
         hint: is it the address of a page about the repository?",
        kind.escape_debug()
    )
}
