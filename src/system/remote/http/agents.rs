//! The HTTP agents, each with its open connections: one for each set of settings that connections depend
//! on. Sends no request.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use rustls::pki_types::ServerName;
use ureq::http::Uri;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, Proxy};

use super::tls::{self, TlsConnector};
use crate::domain::git::Remote;
use crate::domain::remote::ConnectionSettings;
use crate::system::host::since_boot;
use crate::system::remote::http::byte_counter::MeteringConnector;
use crate::system::remote::http::dns_cache::{DnsCache, locked};
use crate::system::remote::http::url::HttpLogin;
use crate::system::remote::http::write_coalescing::CoalescingConnector;

/// How long a server may send nothing, or accept nothing.
const STALL: Duration = Duration::from_secs(30);
/// The most idle connections for each server.
const MOST_IDLE: usize = 16;
/// Bytes of the input and the output buffer of each connection: one TLS record.
const BUFFER: usize = 16 << 10;
/// Hosting services recognize git by the beginning of this.
const USER_AGENT: &str = concat!("git/2.47 (pmpy ", env!("CARGO_PKG_VERSION"), ")");

/// What the connections to a server depend on: remotes with the same key share connections.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ConnectionKey {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) way: ProxyUse,
    /// Whether the server is reached with TLS: for others no certificates are read.
    pub(super) is_encrypted: bool,
    /// Whether private addresses are refused.
    pub(super) public_only: bool,
}

impl ConnectionKey {
    /// The key for `reach`, by `proxy` if there is one.
    pub(super) fn new(
        reach: &ConnectionSettings,
        proxy: Option<&Remote>,
        is_encrypted: bool,
        public_only: bool,
    ) -> Self {
        let (ca_file, client_cert) = (reach.ca_file.clone(), reach.client_cert.clone());
        let way = ProxyUse::of(proxy, is_encrypted);
        Self { ca_file, client_cert, way, is_encrypted, public_only }
    }
}

/// The use of a proxy, each with its address, which may hold a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum ProxyUse {
    /// No proxy.
    Direct,
    /// The proxy opens a connection to the server: `CONNECT`.
    Tunnel(String),
    /// The proxy itself sends the request on, as git and curl want it for http://.
    Forward(String),
}

impl ProxyUse {
    /// The use of `proxy` for a server that is reached with TLS or not.
    fn of(proxy: Option<&Remote>, is_encrypted: bool) -> Self {
        match proxy.map(|proxy| proxy.secret_url().to_owned()) {
            None => Self::Direct,
            Some(url) if is_encrypted => Self::Tunnel(url),
            Some(url) => Self::Forward(url),
        }
    }
}

/// How long an agent is used: then each server has to prove its name anew, and a server that moved is found.
const AGE: Duration = Duration::from_secs(600);
/// How long an open connection may be unused: longer than the minute between two ticks, and shorter than a
/// firewall remembers it.
const IDLE: Duration = Duration::from_secs(75);

/// What changes with a file: device, inode, size, and the time of the last change to any of it.
type FileStamp = (u64, u64, u64, (i64, i64));

fn stamp(file: &Path) -> Option<FileStamp> {
    let meta = file.metadata().ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), (meta.ctime(), meta.ctime_nsec())))
}

/// The agents of a process.
#[derive(Default)]
pub(super) struct HttpAgents(Mutex<HashMap<ConnectionKey, KeptAgent>>);

/// An agent, and what its connections trust.
struct KeptAgent {
    agent: Agent,
    /// When it was made, since boot.
    made: Duration,
    /// The files with its certificates, as they were before they were read.
    files: Vec<(PathBuf, Option<FileStamp>)>,
}

impl KeptAgent {
    /// Whether its connections may still be used.
    fn is_current(&self) -> bool {
        let is_same = |(path, seen): &(PathBuf, Option<FileStamp>)| stamp(path) == *seen;
        since_boot().saturating_sub(self.made) < AGE && self.files.iter().all(is_same)
    }
}

impl fmt::Debug for HttpAgents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agents(..)")
    }
}

impl HttpAgents {
    /// Whether there is no agent, and so no connection.
    pub(super) fn are_unused(&self) -> bool {
        locked(&self.0).is_empty()
    }

    /// The agent for `key`, made at the first use.
    ///
    /// # Errors
    /// When a file of certificates or the address of the proxy cannot be used.
    pub(super) fn get(&self, key: &ConnectionKey) -> Result<Agent> {
        let mut agents = locked(&self.0);
        if let Some(kept) = agents.get(key) {
            return Ok(kept.agent.clone());
        }
        let trusted = tls::trusted_file(key.ca_file.as_deref());
        let files = trusted.into_iter().chain(key.client_cert.clone());
        let files = files.map(|file| (file.clone(), stamp(&file))).collect();
        let made = since_boot();
        let agent = agent(key)?;
        agents.insert(key.clone(), KeptAgent { agent: agent.clone(), made, files });
        Ok(agent)
    }

    /// Closes the connections that must not be used any more: whose certificates changed on this machine, and
    /// old ones.
    pub(super) fn forget_outdated(&self) {
        locked(&self.0).retain(|_, kept| kept.is_current());
    }
}

fn agent(key: &ConnectionKey) -> Result<Agent> {
    let (mut tunnel, mut forward) = (None, None);
    match &key.way {
        ProxyUse::Direct => {}
        ProxyUse::Tunnel(url) => tunnel = Some(proxy_at(url)?),
        ProxyUse::Forward(url) => forward = Some(proxy_at(url)?),
    }
    let settings = Agent::config_builder()
        .proxy(tunnel)
        .user_agent(USER_AGENT)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(4 * MOST_IDLE)
        .max_idle_connections_per_host(MOST_IDLE)
        .max_idle_age(IDLE)
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .timeout_per_read(Some(STALL))
        .timeout_per_write(Some(STALL))
        .build();
    let instead = forward.as_ref().and_then(tls_name);
    let config = match key.is_encrypted || instead.is_some() {
        true => Some(tls::client(key.ca_file.as_deref(), key.client_cert.as_deref())?),
        false => None,
    };
    let login = forward.as_ref().and_then(|proxy| {
        let password = proxy.password().map(str::to_owned);
        proxy.username().map(|user| HttpLogin::new(user.to_owned(), password).basic())
    });
    let is_forwarded = forward.is_some();
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(TlsConnector { config, instead })
            .chain(CoalescingConnector { is_forwarded, login })
            .chain(MeteringConnector);
    let via: Option<Uri> = forward.map(|proxy| proxy.uri().clone());
    Ok(Agent::with_parts(settings, connector, DnsCache::new(via, key.public_only)))
}

/// The name in the certificate of a proxy that is itself reached with TLS.
fn tls_name(proxy: &Proxy) -> Option<ServerName<'static>> {
    let is_tls = proxy.uri().scheme_str() == Some("https");
    ServerName::try_from(proxy.host().trim_matches(['[', ']']).to_owned()).ok().filter(|_| is_tls)
}

/// The proxy at `url`.
fn proxy_at(url: &str) -> Result<Proxy> {
    let proxy = Remote::new(url);
    if url.contains('@') && !proxy.names_only_a_server() {
        // Which part of it is the password is not known.
        bail!(
            "the address of the proxy is none\n\
             hint: write http://USER:PASSWORD@HOST:PORT, with %2F for a / in the password"
        );
    }
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    if !["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        bail!("the proxy {proxy} cannot be used\nhint: only http:// and https:// proxies are");
    }
    Proxy::new(url).map_err(|_| anyhow!("the proxy {proxy} is no address of one"))
}
