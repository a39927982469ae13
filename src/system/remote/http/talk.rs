//! One question to a web server and its answer: with who we are, within the time that is left, over
//! a connection that is open already if there is one. What the answer means it does not know.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::http::{Response, header};
use ureq::typestate::{WithBody, WithoutBody};
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Body, BodyReader, Proxy, RequestBuilder};

use super::gather::Gather;
use super::login::{Login, Logins};
use super::meter::{Count, Meter};
use super::names::Names;
use super::place::{Origin, Place};
use super::proxy::proxy_for;
use super::tls;
use super::trouble::{self, Tried};
use crate::domain::git::Remote;
use crate::domain::remote::{Reach, Way};
use crate::system::node::{self, since_boot};
use crate::system::remote::silent::Silent;

/// How long it may take to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may send nothing, or take nothing.
const STALL: Duration = Duration::from_secs(30);
/// The most connections that wait for their next use, for each server.
const MOST_IDLE: usize = 16;
/// How much of an answer, and of a question, is held at a time, for each connection: a TLS record.
const BUFFER: usize = 16 << 10;
/// From this many bytes on, a request is compressed, as git does it.
const LARGE: usize = 1024;
/// The most that is read of an answer that nobody needs, so that its connection can be used again.
const MOST_DRAINED: u64 = 64 << 10;
/// Hosting services tell git from browsers by how it begins.
const USER_AGENT: &str = concat!("git/2.47 (pmpy ", env!("CARGO_PKG_VERSION"), ")");

/// The tail of the address that tells what a server can do.
pub(super) const DISCOVER: &str = "info/refs?service=git-upload-pack";

/// What all polls and fetches of a process share.
#[derive(Default)]
pub(super) struct Shared {
    agents: Mutex<HashMap<Means, Agent>>,
    /// Servers that asked who we are: they are told at once from then on.
    curious: Mutex<HashSet<Origin>>,
    /// Servers, wherever a redirect to them began, and proxies that nobody can connect to.
    silent: Silent,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared(..)")
    }
}

/// What one agent is made for: connections are shared by those who trust and show the same.
#[derive(PartialEq, Eq, Hash)]
struct Means {
    ca_file: Option<std::path::PathBuf>,
    client_cert: Option<std::path::PathBuf>,
    proxy: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    /// The content of the file with this tail.
    Get(&'a str),
    /// The answer of git-upload-pack to this.
    Post(&'a [u8]),
}

/// What came back.
pub(super) struct Reply {
    pub(super) status: u16,
    /// The type of its content, in lower case and without parameters.
    pub(super) kind: String,
    /// Where a redirect leads.
    pub(super) location: Option<String>,
    /// How long it asks to be left alone.
    pub(super) later: Option<Duration>,
    origin: Origin,
    body: Body,
}

/// All that is asked for one poll or fetch.
pub(super) struct Talk<'a> {
    shared: &'a Shared,
    reach: &'a Reach,
    logins: Logins<'a>,
    deadline: Duration,
    /// Where the configured address leads.
    pub(super) home: Place,
}

impl<'a> Talk<'a> {
    /// About `remote`; its time runs from now on.
    ///
    /// # Errors
    /// When its address is none.
    pub(super) fn new(shared: &'a Shared, remote: &Remote, reach: &'a Reach) -> Result<Self> {
        let (home, login) = Place::parse(remote.secret_url())
            .with_context(|| format!("{remote} cannot be asked"))?;
        let logins = Logins::new(home.origin.clone(), login, reach);
        Ok(Self { shared, reach, logins, deadline: since_boot() + reach.limit, home })
    }

    /// What was found out before about the server: whether it wants to know who we are.
    pub(super) fn recall(&self, known: Option<&Way>) {
        if known.is_some_and(|way| way.wants_login) {
            locked(&self.shared.curious).insert(self.home.origin.clone());
        }
    }

    /// Whether the server asked who we are, and was told.
    pub(super) fn is_asked_who(&self) -> bool {
        locked(&self.shared.curious).contains(&self.home.origin)
    }

    /// Asks at `place`, and once more with who we are when that is wanted.
    ///
    /// # Errors
    /// When nothing comes back, or we are not who may ask.
    pub(super) fn ask(&self, place: &Place, question: Question) -> Result<Reply> {
        let is_curious = locked(&self.shared.curious).contains(&place.origin);
        let login = match is_curious {
            true => self.logins.asked(&place.origin)?,
            false => self.logins.unasked(&place.origin)?,
        };
        let reply = self.send(place, question, login.as_ref())?;
        if reply.status != 401 {
            if is_curious && login.is_none() {
                // It answers strangers as well by now.
                locked(&self.shared.curious).remove(&place.origin);
            }
            return Ok(reply);
        }
        reply.drain();
        let later = if is_curious { None } else { self.logins.asked(&place.origin)? };
        let reply = match later {
            Some(later) if login.as_ref() != Some(&later) => {
                locked(&self.shared.curious).insert(place.origin.clone());
                self.send(place, question, Some(&later))?
            }
            _ => {
                let source = login.map(|_| self.logins.source());
                return Err(trouble::stranger(place, &self.logins, source.as_deref()));
            }
        };
        if reply.status == 401 {
            reply.drain();
            let source = self.logins.source();
            return Err(trouble::stranger(place, &self.logins, Some(&source)));
        }
        Ok(reply)
    }

    fn send(&self, place: &Place, question: Question, login: Option<&Login>) -> Result<Reply> {
        let proxy = proxy_for(self.reach.proxy.as_ref(), &place.origin);
        // Who we are is for the configured server alone, whichever way it is told.
        let reach = match self.logins.are_for(&place.origin) {
            true => Cow::Borrowed(self.reach),
            false => Cow::Owned(Reach { client_cert: None, ..self.reach.clone() }),
        };
        let agent = self.shared.agent(&reach, proxy.as_ref())?;
        let shown = proxy.map(|proxy| proxy.to_string());
        let whom = shown.clone().unwrap_or_else(|| place.origin.to_string());
        self.shared.silent.unless(&whom, || {
            let left = self.deadline.saturating_sub(since_boot());
            let before = Count::now();
            let mut answered = send(&agent, place, question, login, left);
            let was_open = Count::since(before).connections == 0;
            if was_open && answered.as_ref().is_err_and(is_cut) {
                // The server closed it just when we thought of using it again.
                answered = send(&agent, place, question, login, left);
            }
            answered.map(|response| Reply::new(response, place.origin.clone())).map_err(|error| {
                let tried = Tried {
                    origin: &place.origin,
                    proxy: shown.as_deref(),
                    patience: patience(left),
                };
                trouble::unanswered(error, &tried)
            })
        })
    }
}

impl Shared {
    /// The agent for the means of `reach` through `proxy`, made at its first use: reading the
    /// system's authorities takes longer than most questions.
    fn agent(&self, reach: &Reach, proxy: Option<&Remote>) -> Result<Agent> {
        let means = Means {
            ca_file: reach.ca_file.clone(),
            client_cert: reach.client_cert.clone(),
            proxy: proxy.map(|proxy| proxy.secret_url().to_owned()),
        };
        let mut agents = locked(&self.agents);
        if let Some(agent) = agents.get(&means) {
            return Ok(agent.clone());
        }
        let config = Agent::config_builder()
            .tls_config(tls::tls(reach)?)
            .proxy(proxy.map(connecting).transpose()?)
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(4 * MOST_IDLE)
            .max_idle_connections_per_host(MOST_IDLE)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .build();
        let connector = DefaultConnector::default().chain(Gather).chain(Meter);
        let agent = Agent::with_parts(config, connector, Names::default());
        agents.insert(means, agent.clone());
        Ok(agent)
    }
}

/// What every part of the library needs that is poisoned by a panic nowhere near it.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy as the library takes it.
fn connecting(proxy: &Remote) -> Result<Proxy> {
    let url = proxy.secret_url();
    if url.contains('@') && !proxy.names_only_a_server() {
        // What of it is a password is not known.
        bail!(
            "the address of the proxy is none\n\
             hint: write http://USER:PASSWORD@HOST:PORT, with %2F for a / in the password"
        );
    }
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    if !["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        bail!("the proxy {proxy} cannot be used\nhint: only http:// and https:// proxies are");
    }
    Proxy::new(url).map_err(|_| Error::msg(format!("the proxy {proxy} is no address of one")))
}

/// How long may be waited for a connection when so much time is `left`: where that is short, it ends
/// before all is over, so that it can be told apart from an answer that does not come.
fn patience(left: Duration) -> Duration {
    CONNECT.min(left * 9 / 10)
}

/// Whether the connection was closed under a question.
fn is_cut(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kinds = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
    matches!(error, ureq::Error::Io(error) if kinds.contains(&error.kind()))
}

fn send(
    agent: &Agent,
    place: &Place,
    question: Question,
    login: Option<&Login>,
    left: Duration,
) -> Result<Response<Body>, ureq::Error> {
    match question {
        Question::Get(tail) => {
            let request: RequestBuilder<WithoutBody> =
                dressed(agent.get(place.at(tail)), login, left);
            request.call()
        }
        Question::Post(body) => {
            let request: RequestBuilder<WithBody> =
                dressed(agent.post(place.at("git-upload-pack")), login, left)
                    .header(header::CONTENT_TYPE, "application/x-git-upload-pack-request")
                    .header(header::ACCEPT, "application/x-git-upload-pack-result");
            if body.len() < LARGE {
                return request.send(body);
            }
            let mut small = GzEncoder::new(Vec::new(), Compression::fast());
            small.write_all(body)?;
            request.header(header::CONTENT_ENCODING, "gzip").send(small.finish()?.as_slice())
        }
    }
}

/// What every request has.
fn dressed<B>(
    request: RequestBuilder<B>,
    login: Option<&Login>,
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

impl Reply {
    fn new(response: Response<Body>, origin: Origin) -> Self {
        let (head, body) = response.into_parts();
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let kind = text(header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let location = head.headers.get(header::LOCATION);
        Self {
            status: head.status.as_u16(),
            kind,
            location: location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            later: text(header::RETRY_AFTER)
                .and_then(|value| trouble::retry_after(value, node::now())),
            origin,
            body,
        }
    }

    /// Whether it is the content that was asked for.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.status == 200 && self.kind == kind
    }

    /// The content, up to `most` bytes; more is an error.
    pub(super) fn into_reader(self, most: u64) -> Reading {
        let inner = self.body.into_with_config().limit(most).reader();
        Reading { origin: self.origin, inner }
    }

    /// The whole content, of at most `most` bytes.
    ///
    /// # Errors
    /// When it is larger or breaks off.
    pub(super) fn into_bytes(self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.into_reader(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the content away, so that the connection can be used again.
    pub(super) fn drain(self) {
        self.into_reader(u64::MAX).drain();
    }
}

/// The content of an answer. Its errors are sentences.
pub(super) struct Reading {
    origin: Origin,
    inner: BodyReader<'static>,
}

impl Reading {
    /// Reads what is left away, so that the connection can be used again; one that sends on and on
    /// is closed.
    pub(super) fn drain(self) {
        // Whatever happens, it was not needed.
        let _ = io::copy(&mut self.inner.take(MOST_DRAINED), &mut io::sink());
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            outcome => outcome.map_err(|error| trouble::broken_off(error, &self.origin)),
        }
    }
}
