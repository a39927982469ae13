//! Sends one request to a web server and returns its answer: with the login, within the remaining time,
//! over an open connection if there is one. It does not know what an answer means.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::http::{Response, header};
use ureq::typestate::{WithBody, WithoutBody};
use ureq::{Agent, Body, RequestBuilder};

use super::proxy::proxy_for;
use crate::domain::git::Remote;
use crate::domain::remote::{ConnectionSettings, RemoteHints};
use crate::system::host::since_boot;
use crate::system::remote::dead_hosts::DeadHosts;
use crate::system::remote::http::agents::{ConnectionKey, HttpAgents};
use crate::system::remote::http::byte_counter::ByteCount;
use crate::system::remote::http::credentials::HttpCredentials;
use crate::system::remote::http::dns_cache::locked;
use crate::system::remote::http::errors::{self, TriedServer};
use crate::system::remote::http::reply::HttpReply;
use crate::system::remote::http::url::{HttpLogin, HttpOrigin, HttpUrl};
use crate::system::remote::relay::{Relay, RelayedQuestion};

/// How long a connection may take to open, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may send nothing in answer to a request that it may not know: short, so that there
/// is time to ask in another way.
const PROBE_STALL: Duration = Duration::from_secs(5);
/// The smallest request in bytes that is compressed, as in git.
const LARGE: usize = 1024;

/// The content type of the report on a push.
pub(super) const REPORT: &str = "application/x-git-receive-pack-result";
/// The end of the address where a server reports its capabilities.
pub(super) const DISCOVER: &str = "info/refs?service=git-upload-pack";

/// The state that all polls and fetches of a process share.
#[derive(Debug, Default)]
pub(super) struct HttpShared {
    pub(super) agents: Arc<HttpAgents>,
    /// Servers that asked for a login: later requests send it at once.
    requires_auth: Mutex<HashSet<HttpOrigin>>,
    /// Servers that want to be asked for their capabilities before anything else.
    wants_discovery: Mutex<HashSet<HttpOrigin>>,
    /// Servers, also those that a redirect led to, and proxies that cannot be reached.
    silent: DeadHosts,
    /// In a worker: the line to the tick, which has open connections.
    pub(super) relay: OnceLock<Arc<Relay>>,
}

/// A request to a repository.
#[derive(Clone, Copy)]
pub(super) enum HttpRequest<'a> {
    /// The content of the file at this end of the address.
    Get(&'a str),
    /// The answer of git-upload-pack to this request.
    Post(&'a [u8]),
    /// The same from a server that may not know such a request; it is not waited for long.
    Probe(&'a [u8]),
    /// The report of git-receive-pack on this push.
    Push(&'a [u8]),
}

/// The client for one poll or fetch.
pub(super) struct HttpClient<'a> {
    shared: &'a HttpShared,
    remote: &'a Remote,
    reach: &'a ConnectionSettings,
    logins: HttpCredentials<'a>,
    deadline: Duration,
    /// The configured address.
    pub(super) home: HttpUrl,
    /// Whether the configured server has a private address.
    is_home_private: OnceCell<bool>,
}

impl<'a> HttpClient<'a> {
    /// A client for `remote`; its time limit begins now.
    ///
    /// # Errors
    /// When the address of `remote` is invalid.
    pub(super) fn new(
        shared: &'a HttpShared,
        remote: &'a Remote,
        reach: &'a ConnectionSettings,
    ) -> Result<Self> {
        let (home, login) = HttpUrl::parse(remote.secret_url())
            .with_context(|| format!("{remote} cannot be asked"))?;
        let logins = HttpCredentials::new(home.origin.clone(), login, reach);
        let deadline = since_boot() + reach.limit;
        Ok(Self { shared, remote, reach, logins, deadline, home, is_home_private: OnceCell::new() })
    }

    /// Takes over what an earlier poll found: whether the server wants a login.
    pub(super) fn recall(&self, known: Option<&RemoteHints>) {
        if known.is_some_and(|way| way.wants_login) {
            locked(&self.shared.requires_auth).insert(self.home.origin.clone());
        }
    }

    /// Whether the server wants to be asked for its capabilities first, as another poll found out.
    pub(super) fn wants_discovery(&self) -> bool {
        locked(&self.shared.wants_discovery).contains(&self.home.origin)
    }

    /// Remembers that for the other repositories there.
    pub(super) fn put_wants_discovery(&self) {
        locked(&self.shared.wants_discovery).insert(self.home.origin.clone());
    }

    /// Whether the server asked for a login and got one.
    pub(super) fn is_asked_who(&self) -> bool {
        locked(&self.shared.requires_auth).contains(&self.home.origin)
    }

    /// Sends the request to `place`, and once more with a login when the server asks for one.
    ///
    /// # Errors
    /// When no answer comes, or the server does not accept the login.
    pub(super) fn ask(&self, place: &HttpUrl, question: HttpRequest) -> Result<HttpReply> {
        let is_curious = locked(&self.shared.requires_auth).contains(&place.origin);
        let login = match is_curious {
            true => self.logins.challenged(&place.origin)?,
            false => self.logins.preemptive(&place.origin)?,
        };
        let reply = self.send(place, question, login.as_ref())?;
        if reply.status != 401 {
            if is_curious && login.is_none() {
                // It now answers without a login as well.
                locked(&self.shared.requires_auth).remove(&place.origin);
            }
            return Ok(reply);
        }
        if !reply.other_logins.is_empty() {
            return Err(errors::other_login(place, &reply.other_logins));
        }
        reply.drain();
        let later = if is_curious { None } else { self.logins.challenged(&place.origin)? };
        let reply = match later {
            Some(later) if login.as_ref() != Some(&later) => {
                locked(&self.shared.requires_auth).insert(place.origin.clone());
                self.send(place, question, Some(&later))?
            }
            _ => {
                let source = login.map(|_| self.logins.source());
                return Err(errors::stranger(place, &self.logins, source.as_deref()));
            }
        };
        if reply.status == 401 {
            reply.drain();
            let source = self.logins.source();
            return Err(errors::stranger(place, &self.logins, Some(&source)));
        }
        Ok(reply)
    }

    /// Lets the tick send a request over the connection on which it was answered in this `way`. `None`:
    /// there is no tick, or this process has connections of its own.
    pub(super) fn ask_over_relay(&self, way: &RemoteHints, question: &[u8]) -> Option<HttpReply> {
        let relay = self.shared.relay.get().filter(|_| self.shared.agents.are_unused())?;
        let (head, content) = relay.ask(RelayedQuestion {
            remote: self.remote.clone(),
            reach: self.reach.clone(),
            way: way.clone(),
            // Requests are text.
            question: str::from_utf8(question).ok()?.to_owned(),
        })?;
        Some(HttpReply::relayed(head, content, self.home.origin.clone()))
    }

    fn send(
        &self,
        place: &HttpUrl,
        question: HttpRequest,
        login: Option<&HttpLogin>,
    ) -> Result<HttpReply> {
        let proxy = proxy_for(self.reach.proxy.as_ref(), &place.origin);
        let agent = self.shared.agents.get(&self.connection_key(place, proxy.as_ref())?)?;
        let shown = proxy.map(|proxy| proxy.to_string());
        let server = shown.clone().unwrap_or_else(|| place.origin.to_string());
        self.shared.silent.unless(&server, || {
            let left = self.deadline.saturating_sub(since_boot());
            let before = ByteCount::now();
            let mut answered = send(&agent, place, question, login, left);
            let was_open = ByteCount::since(before).connections == 0;
            if was_open && answered.as_ref().is_err_and(is_cut) {
                // The server closed the connection just as it was used again.
                answered = send(&agent, place, question, login, left);
            }
            answered.map(|response| HttpReply::new(response, place.origin.clone())).map_err(
                |error| {
                    if errors::is_not_public(&error) {
                        return errors::not_followed(&self.home, place);
                    }
                    let tried = TriedServer {
                        origin: &place.origin,
                        proxy: shown.as_deref(),
                        patience: patience(left),
                    };
                    errors::unanswered(error, &tried)
                },
            )
        })
    }
}

impl HttpClient<'_> {
    /// What the connections to `place` depend on.
    ///
    /// # Errors
    /// When a redirect must not lead to `place`.
    fn connection_key(&self, place: &HttpUrl, proxy: Option<&Remote>) -> Result<ConnectionKey> {
        let must_be_public = self.must_be_public(place);
        if must_be_public && place.origin.is_plainly_private() {
            return Err(errors::not_followed(&self.home, place));
        }
        // Behind a proxy, only the proxy knows the address of a name.
        let public_only = must_be_public && proxy.is_none();
        let is_encrypted = place.origin.is_encrypted;
        let key = ConnectionKey::new(self.reach, proxy, is_encrypted, public_only);
        // The client certificate is for the configured server alone, as the login is.
        let client_cert = key.client_cert.filter(|_| self.logins.are_for(&place.origin));
        Ok(ConnectionKey { client_cert, ..key })
    }

    /// Whether `place` may only have a public address: a redirect led there from a public one, and the
    /// configuration does not name it.
    fn must_be_public(&self, place: &HttpUrl) -> bool {
        let (home, host) = (&self.home.origin, &place.origin.host);
        *host != home.host
            && !self.reach.named_hosts.contains(host)
            && !self.is_home_private.get_or_init(|| home.is_private())
    }
}

/// How long to wait for a connection when the time `left` remains. A short time ends earlier, so that a
/// missing connection and a missing answer stay distinct.
fn patience(left: Duration) -> Duration {
    CONNECT.min(left * 9 / 10)
}

/// Whether the connection was closed during a request.
fn is_cut(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kinds = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
    matches!(error, ureq::Error::Io(error) if kinds.contains(&error.kind()))
}

fn send(
    agent: &Agent,
    place: &HttpUrl,
    question: HttpRequest,
    login: Option<&HttpLogin>,
    left: Duration,
) -> Result<Response<Body>, ureq::Error> {
    match question {
        HttpRequest::Get(tail) => {
            let request: RequestBuilder<WithoutBody> =
                dressed(agent.get(place.at(tail)), login, left);
            request.call()
        }
        HttpRequest::Push(body) => {
            let request: RequestBuilder<WithBody> =
                dressed(agent.post(place.at("git-receive-pack")), login, left);
            // The pack in it is compressed already.
            request
                .header(header::CONTENT_TYPE, "application/x-git-receive-pack-request")
                .header(header::ACCEPT, REPORT)
                .send(body)
        }
        HttpRequest::Post(body) | HttpRequest::Probe(body) => {
            let request: RequestBuilder<WithBody> =
                dressed(agent.post(place.at("git-upload-pack")), login, left);
            let request = request
                .header(header::CONTENT_TYPE, "application/x-git-upload-pack-request")
                .header(header::ACCEPT, "application/x-git-upload-pack-result");
            let request = match question {
                HttpRequest::Probe(_) => {
                    let stall = PROBE_STALL.min(left / 4);
                    request.config().timeout_per_read(Some(stall)).build()
                }
                _ => request,
            };
            if body.len() < LARGE {
                return request.send(body);
            }
            let mut small = GzEncoder::new(Vec::new(), Compression::fast());
            small.write_all(body)?;
            request.header(header::CONTENT_ENCODING, "gzip").send(small.finish()?.as_slice())
        }
    }
}

/// Adds the headers and timeouts of every request.
fn dressed<B>(
    request: RequestBuilder<B>,
    login: Option<&HttpLogin>,
    left: Duration,
) -> RequestBuilder<B> {
    let mut request = request.header("Git-Protocol", "version=2");
    if let Some(login) = login {
        request = request.header(header::AUTHORIZATION, login.basic());
    }
    let patience = Some(patience(left));
    let config = request.config().timeout_global(Some(left));
    config.timeout_resolve(patience).timeout_connect(patience).build()
}
