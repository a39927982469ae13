//! Polls and fetches over https:// and http://. A poll sends `ls-refs` of protocol version 2 straight to
//! `git-upload-pack`, without a request for the server's capabilities: one round trip. Anything but a
//! valid answer leads to the full discovery, as in git, and the next poll uses what that found.
//!
//! It knows the order of requests; [`client`] sends one.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use chrono::TimeDelta;

use self::agents::HttpAgents;
use self::byte_counter::ByteCount;
use self::client::{DISCOVER, HttpClient, HttpRequest, HttpShared};
use self::reply::{HttpReply, ReplyReader};
use self::url::HttpUrl;
use super::receive::FetchDelivery;
use super::relay::{Relay, RelayedHead, RelayedQuestion};
use super::{FetchGoal, FetchOrder, FetchProgress, FetchedRef};
use crate::domain::git::{Commit, ObjectFormat, Remote};
use crate::domain::remote::{
    ConnectionSettings, MOST_FAILURES, PollAnswer, PollScope, RemoteFailure, RemoteHints,
    UnansweredProbe, WireDialect,
};
use crate::domain::text::EscapeControls;
use crate::domain::wire::{
    self, AdvertisedRef, Advertisement, AdvertisementParser, Capabilities, FetchParser,
    ProtocolError, ProtocolVersion, RefQuery, RefsAnswer,
};
use crate::system::git::Git;
use crate::system::host::{self, since_boot};
use crate::system::remote::denied;

mod agents;
mod byte_counter;
mod client;
mod credentials;
mod dns_cache;
mod dumb;
mod errors;
mod netrc;
mod proxy;
mod push;
mod reply;
mod tls;
mod url;
mod write_coalescing;

/// The content type of an answer of git-upload-pack.
const RESULT: &str = "application/x-git-upload-pack-result";
/// The content type of a git server's advertisement.
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
/// The most bytes of the requested refs: half a million refs.
const MOST_ASKED: u64 = 32 << 20;
/// The most bytes of all refs of a server.
const MOST_REFS: u64 = 256 << 20;
const MOST_REDIRECTS: usize = 5;
/// How long another dialect is used before the direct one is tried again.
const KEPT: TimeDelta = TimeDelta::hours(6);

/// The state that all polls and fetches over HTTP share, such as open connections.
#[derive(Debug, Default)]
pub(super) struct HttpRemotes {
    shared: HttpShared,
}

/// Open connections to web servers, for several [`Wire`](super::Wire)s one after the other.
#[derive(Clone, Debug, Default)]
pub struct OpenConnections(Arc<HttpAgents>);

/// The result of asking a server about a repository.
struct DiscoveredRepo {
    place: HttpUrl,
    dialect: WireDialect,
    format: ObjectFormat,
    refs: Vec<AdvertisedRef>,
    /// In version 0: the server's capabilities, and its commits without their parents.
    capabilities: Capabilities,
    shallow: Vec<Commit>,
    /// How the remote answered the poll; `None`: it was asked just now.
    polled: Option<RemoteHints>,
}

impl DiscoveredRepo {
    fn new(
        place: &HttpUrl,
        dialect: WireDialect,
        format: ObjectFormat,
        refs: Vec<AdvertisedRef>,
    ) -> Self {
        let (capabilities, shallow) = (Capabilities::default(), Vec::new());
        Self { place: place.clone(), dialect, format, refs, capabilities, shallow, polled: None }
    }
}

/// The end of a fetch.
enum HttpFetchEnd {
    Done,
    /// The server no longer has what the poll found, or no longer answers as it did then.
    Moved(Error),
}

impl HttpRemotes {
    /// Uses those of `connections` that may still be used, and leaves its own there.
    pub(super) fn share(&mut self, connections: &OpenConnections) {
        connections.0.forget_outdated();
        self.shared.agents = Arc::clone(&connections.0);
    }

    /// As [`Wire::fetch_over`](super::Wire::fetch_over).
    pub(super) fn fetch_over(&self, relay: Relay) {
        // A process has one line.
        let _ = self.shared.relay.set(Arc::new(relay));
    }

    /// Sends a worker's request to the place where the remote was polled.
    ///
    /// # Errors
    /// When no answer comes.
    pub(super) fn exchange(&self, asked: &RelayedQuestion) -> Result<(RelayedHead, ReplyReader)> {
        let talk = HttpClient::new(&self.shared, &asked.remote, &asked.reach)?;
        talk.recall(Some(&asked.way));
        let request = HttpRequest::Post(asked.question.as_bytes());
        let reply = talk.ask(&talk.place_of(&asked.way)?, request)?;
        let (status, kind, later) = (reply.status, reply.kind.clone(), reply.later);
        Ok((RelayedHead { status, kind, later }, reply.into_reader(u64::MAX)))
    }

    /// As [`Wire::poll`](super::Wire::poll), over HTTP.
    pub(super) fn poll(
        &self,
        remote: &Remote,
        wanted: &PollScope,
        reach: &ConnectionSettings,
        known: Option<&RemoteHints>,
    ) -> Result<PollAnswer> {
        let started = since_boot();
        let before = ByteCount::now();
        let talk = HttpClient::new(&self.shared, remote, reach)?;
        let known = known.filter(|way| is_fresh(way));
        talk.recall(known);
        let found = talk.list(wanted, known)?;
        let RefsAnswer { branch, tip, tag, head } = wire::answer(wanted, &found.refs);
        let refs = wire::selected_refs(wanted, &found.refs);
        let mut way = RemoteHints {
            dialect: found.dialect,
            format: found.format,
            base: (found.place != talk.home).then(|| found.place.to_string()),
            wants_login: talk.is_asked_who(),
            ..way_since(before, started)
        };
        // The time of the first poll with the same result.
        way.since = known.and_then(|known| known.since);
        if way.since.is_none() || !known.is_some_and(|known| known.is_the_same(&way)) {
            way.since = Some(host::now());
        }
        Ok(PollAnswer { branch, tip, tag, refs, head, others: Vec::new(), is_tag: false, way })
    }

    /// As [`Wire::fetch`](super::Wire::fetch), over HTTP.
    pub(super) fn fetch(
        &self,
        git: &Git,
        order: &FetchOrder,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        match self.fetch_once(git, order, progress) {
            Err(error) if self.shared.relay.get().is_some_and(|relay| relay.was_lost()) => {
                tracing::debug!("the tick ended; fetching without it: {error:#}");
                self.fetch_once(git, order, progress)
            }
            fetched => fetched,
        }
    }

    fn fetch_once(
        &self,
        git: &Git,
        order: &FetchOrder,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        let delivery = FetchDelivery::new(git, order)?;
        let talk = HttpClient::new(&self.shared, order.remote, order.reach)?;
        let known = order.way.filter(|way| is_fresh(way));
        talk.recall(known);
        let found = known.and_then(|way| talk.found_before(way));
        let (branch, to, tip) = match order.goal {
            FetchGoal::Branch { branch, to, tip } => (branch, to, tip),
            FetchGoal::Refs(updates) => {
                let found = match found {
                    Some(found) => found,
                    None => talk.discover(&RefQuery::of(&PollScope::Default), git.format())?,
                };
                return match talk.fetch(&delivery, updates, &found, progress)? {
                    HttpFetchEnd::Done => Ok(()),
                    HttpFetchEnd::Moved(reason) => Err(reason),
                };
            }
        };
        if let Some((tip, found)) = tip.zip(found) {
            match talk.fetch(&delivery, &[FetchedRef::of(branch, to, tip)], &found, progress)? {
                HttpFetchEnd::Done => return Ok(()),
                HttpFetchEnd::Moved(reason) => tracing::debug!("asking anew: {reason:#}"),
            }
        }
        let wanted = PollScope::Branch(branch.clone());
        let mut moved = None;
        // One attempt more after the branch moved between list and fetch.
        for _ in 0..2 {
            let found = match known.map(|way| way.dialect) {
                // The server lists its refs anew before each fetch.
                Some(WireDialect::Old | WireDialect::Dumb) => {
                    talk.discover(&RefQuery::of(&wanted), git.format())?
                }
                _ => talk.list(&wanted, known.filter(|_| tip.is_none()))?,
            };
            let answer = wire::answer(&wanted, &found.refs);
            let tip = answer.tip.with_context(|| format!("it has no branch {branch} any more"))?;
            match talk.fetch(&delivery, &[FetchedRef::of(branch, to, tip)], &found, progress)? {
                HttpFetchEnd::Done => return Ok(()),
                HttpFetchEnd::Moved(reason) => moved = Some(reason),
            }
        }
        Err(moved.unwrap_or_else(|| anyhow!("{branch} moves all the time")))
    }
}

/// The cost of a poll that began at `started` with the counter at `before`.
fn way_since(before: ByteCount, started: Duration) -> RemoteHints {
    let cost = ByteCount::since(before);
    let took = since_boot().saturating_sub(started);
    tracing::debug!(?cost, ?took, "polled over http");
    RemoteHints {
        bytes: cost.bytes,
        milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        ..RemoteHints::default()
    }
}

/// Whether `way` may be used again. The direct one never expires, and neither does version 0, for which
/// the server is asked for its capabilities each time. Others expire, so that a changed server is noticed.
fn is_fresh(way: &RemoteHints) -> bool {
    let is_checked = matches!(way.dialect, WireDialect::Direct | WireDialect::Old);
    (is_checked && way.base.is_none() && !way.wants_login)
        || way.since.is_some_and(|since| host::now() - since < KEPT)
}

/// A failed `ls-refs`.
struct ListFailure {
    reason: Error,
    /// The status of the answer; `None`: no answer.
    status: Option<u16>,
}

impl ListFailure {
    /// Whether more requests would be useless or unwelcome. `proven` is the way that worked before; a
    /// server that was never asked this way may just not answer what was not offered.
    fn is_final(&self, proven: Option<&RemoteHints>) -> bool {
        match (self.reason.downcast_ref::<RemoteFailure>(), self.status, proven) {
            (Some(RemoteFailure::Server | RemoteFailure::Credentials), ..) => true,
            (_, Some(429), _) => true,
            (.., None) => false,
            (Some(RemoteFailure::Later(_)), ..) => true,
            (_, None | Some(502..=504), Some(way)) => way.failed + 1 < MOST_FAILURES,
            _ => false,
        }
    }
}

impl HttpClient<'_> {
    /// Lists the refs that `wanted` needs, with the dialect of `known`.
    fn list(&self, wanted: &PollScope, known: Option<&RemoteHints>) -> Result<DiscoveredRepo> {
        let query = RefQuery::of(wanted);
        let format = known.map(|way| way.format).unwrap_or_default();
        // Without a time it is only assumed.
        let proven = known.filter(|way| way.since.is_some());
        let wants_it =
            known.is_some_and(|way| matches!(way.dialect, WireDialect::Old | WireDialect::Dumb));
        // Before there is a clone, nothing could be remembered of a server that a strange request breaks.
        if wants_it || known.is_none() || (proven.is_none() && self.wants_discovery()) {
            return self.discover(&query, format);
        }
        let place = known.map_or(Ok(self.home.clone()), |way| self.place_of(way))?;
        let is_listed = |dialect, refs| Ok(DiscoveredRepo::new(&place, dialect, format, refs));
        let failure = match self.ls_refs(&place, format, &query, proven.is_none()) {
            Ok(refs) if !refs.is_empty() => return is_listed(WireDialect::Direct, refs),
            // Servers of version 0 answer so as well; this one was asked for its version.
            Ok(refs) if proven.is_some_and(|way| way.dialect == WireDialect::Discovered) => {
                return is_listed(WireDialect::Discovered, refs);
            }
            Ok(_) => ListFailure { reason: anyhow!("it lists nothing"), status: Some(200) },
            // Only the configured address says where its redirects lead now.
            Err(failure) if place == self.home && failure.is_final(proven) => {
                return Err(failure.reason);
            }
            Err(failure) => failure,
        };
        tracing::debug!("no answer to the direct question: {:#}", failure.reason);
        if failure.status.is_some() || proven.is_some() {
            return self.discover(&query, format);
        }
        // The wait, or the broken connection, is spared the other repositories there. An error costs little,
        // and may concern this repository only.
        self.put_wants_discovery();
        self.discover(&query, format).map_err(|error| error.context(UnansweredProbe))
    }

    /// The result of a poll, as far as a fetch can use it.
    fn found_before(&self, way: &RemoteHints) -> Option<DiscoveredRepo> {
        let place = self.place_of(way).ok()?;
        matches!(way.dialect, WireDialect::Direct | WireDialect::Discovered).then(|| {
            let polled = Some(way.clone());
            let found = DiscoveredRepo::new(&place, way.dialect, way.format, Vec::new());
            DiscoveredRepo { polled, ..found }
        })
    }

    fn place_of(&self, way: &RemoteHints) -> Result<HttpUrl> {
        match &way.base {
            Some(base) => HttpUrl::parse(base).map(|(place, _)| place),
            None => Ok(self.home.clone()),
        }
    }

    /// Lists refs in version 2. `is_probe`: the server may not know such a request, and is not waited for
    /// long.
    fn ls_refs(
        &self,
        place: &HttpUrl,
        format: ObjectFormat,
        query: &RefQuery,
        is_probe: bool,
    ) -> Result<Vec<AdvertisedRef>, ListFailure> {
        let question = wire::ls_refs(format, query);
        let request = match is_probe {
            true => HttpRequest::Probe(&question),
            false => HttpRequest::Post(&question),
        };
        let unanswered = |reason| ListFailure { reason, status: None };
        let reply = self.ask(place, request).map_err(unanswered)?;
        let (status, later, kind) = (reply.status, reply.later, reply.kind.clone());
        let failed = |reason| ListFailure { reason, status: Some(status) };
        if status != 200 {
            reply.drain();
            return Err(failed(errors::refused(place, status, later)));
        }
        let answer = reply.into_bytes(MOST_ASKED).map_err(Error::new);
        let refs = answer.and_then(|answer| Ok(wire::read_ls_refs(format, &answer)?));
        refs.map_err(|error| failed(not_understood(error, place, &kind)))
    }

    /// Asks for the server's capabilities, and then for its refs in the best dialect that it has.
    /// Follows redirects, which no other request does. `likely` is the object format when the server
    /// reports none.
    fn discover(&self, query: &RefQuery, likely: ObjectFormat) -> Result<DiscoveredRepo> {
        let (place, reply) = self.introduced(DISCOVER)?;
        let said = if reply.kind == ADVERTISEMENT {
            advertised(reply.into_reader(MOST_REFS), query)
        } else {
            let kind = reply.kind.clone();
            let info = reply.into_bytes(dumb::MOST)?;
            if let Some(refs) = dumb::refs(&info) {
                return self.discover_files(&place, refs, query, likely);
            }
            match wire::read_advertisement(query.clone(), &info) {
                Err(ProtocolError::NotThis(_)) => return Err(not_git(&place, &kind)),
                said => said.map_err(Error::new),
            }
        };
        let said = said.with_context(|| format!("{place} does not list its refs"))?;
        match said.version {
            ProtocolVersion::V2 => {
                let refs = self.ls_refs(&place, said.format, query, false);
                let refs = refs.map_err(|failure| failure.reason)?;
                Ok(DiscoveredRepo::new(&place, WireDialect::Discovered, said.format, refs))
            }
            ProtocolVersion::V0 => Ok(DiscoveredRepo {
                place,
                dialect: WireDialect::Old,
                format: said.format_or(likely),
                refs: said.refs,
                capabilities: said.capabilities,
                shallow: said.shallow,
                polled: None,
            }),
        }
    }

    /// The answer to a request for the file at the end `tail` of the address, and the address that a redirect led to.
    fn introduced(&self, tail: &str) -> Result<(HttpUrl, HttpReply)> {
        let mut place = self.home.clone();
        let mut redirects = 0;
        loop {
            let reply = self.ask(&place, HttpRequest::Get(tail))?;
            let location = match (reply.status, &reply.location) {
                (200, _) => return Ok((place, reply)),
                (301 | 302 | 303 | 307 | 308, Some(location)) => location.clone(),
                (status, _) => {
                    let refused = errors::refused(&place, status, reply.later);
                    reply.drain();
                    return Err(refused);
                }
            };
            reply.drain();
            redirects += 1;
            if redirects > MOST_REDIRECTS {
                bail!("{} redirects without end, last to {place}", self.home);
            }
            place = place.redirected(tail, &location)?;
        }
    }

    /// Completes `refs`, which are from the files of a repository on a plain web server, with HEAD.
    fn discover_files(
        &self,
        place: &HttpUrl,
        mut refs: Vec<AdvertisedRef>,
        query: &RefQuery,
        likely: ObjectFormat,
    ) -> Result<DiscoveredRepo> {
        let is_listed = |prefix: &String| refs.iter().any(|listed| listed.name == *prefix);
        if !query.names.iter().any(is_listed) && query.asks_head() {
            let reply = self.ask(place, HttpRequest::Get("HEAD"))?;
            if reply.status == 200 {
                let head = dumb::head(&refs, &reply.into_bytes(dumb::MOST)?);
                refs.extend(head);
            }
        }
        let format = refs.first().map_or(likely, |listed| listed.id.0.format());
        Ok(DiscoveredRepo::new(place, WireDialect::Dumb, format, refs))
    }

    /// Fetches `updates` from the place and with the dialect in `found`.
    fn fetch(
        &self,
        delivery: &FetchDelivery,
        updates: &[FetchedRef],
        found: &DiscoveredRepo,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<HttpFetchEnd> {
        let DiscoveredRepo { place, format, capabilities, .. } = found;
        let wants = delivery.missing(updates)?;
        if wants.is_empty() {
            return Ok(HttpFetchEnd::Done);
        }
        let request = delivery.request(*format, &wants)?;
        let (question, answers) = match found.dialect {
            WireDialect::Direct | WireDialect::Discovered => (request.v2(), FetchParser::v2()),
            WireDialect::Old => {
                (request.v0(capabilities), FetchParser::v0(capabilities, delivery.depth()))
            }
            WireDialect::Dumb | WireDialect::Files => {
                return Err(denied(format!(
                    "{place} is a plain web server, which lists its refs and cannot send their \
                     objects\nhint: serve it with git-http-backend(1)"
                )));
            }
        };
        let reply = match found.polled.as_ref().and_then(|way| self.ask_over_relay(way, &question))
        {
            Some(reply) => reply,
            None => self.ask(place, HttpRequest::Post(&question))?,
        };
        if reply.status != 200 {
            let reason = errors::refused(place, reply.status, reply.later);
            reply.drain();
            // A new discovery does not help where the server refuses access.
            return if reason.is::<RemoteFailure>() {
                Err(reason)
            } else {
                Ok(HttpFetchEnd::Moved(reason))
            };
        }
        let kind = reply.kind.clone();
        let mut reader = reply.into_reader(u64::MAX);
        match delivery.receive(updates, &found.shallow, answers, &mut reader, progress) {
            Ok(()) => {
                reader.drain();
                Ok(HttpFetchEnd::Done)
            }
            Err(error) => match error.downcast_ref() {
                Some(ProtocolError::Empty) => Ok(HttpFetchEnd::Moved(error)),
                Some(failure) if failure.is_moved() => Ok(HttpFetchEnd::Moved(error)),
                Some(ProtocolError::NotThis(_)) if kind != RESULT => {
                    Ok(HttpFetchEnd::Moved(not_git(place, &kind)))
                }
                _ => Err(error),
            },
        }
    }
}

/// Reads a server's advertisement.
fn advertised(mut reader: ReplyReader, query: &RefQuery) -> Result<Advertisement> {
    let mut advertising = AdvertisementParser::new(query.clone());
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

/// The error for an answer with status 200 that is not valid. git does not look at its content type,
/// which may help a person.
fn not_understood(error: Error, place: &HttpUrl, kind: &str) -> Error {
    match error.downcast_ref::<ProtocolError>() {
        Some(ProtocolError::NotThis(_)) if kind != RESULT => not_git(place, kind),
        _ => error.context(format!("{place} does not list its refs")),
    }
}

fn not_git(place: &HttpUrl, kind: &str) -> Error {
    let kind: String = kind.chars().take(100).collect();
    let kind = if kind.is_empty() { "something".to_owned() } else { kind };
    anyhow!(
        "{place} is no git repository: it answers with {}\n\
         hint: is it the address of a page about the repository?",
        kind.escape_controls()
    )
}
