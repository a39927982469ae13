//! Caches the addresses of web servers, each for a short time. ureq resolves a name for every request,
//! even on an open connection, and each time in a thread of its own so that it can time out. Without the
//! cache, a tick would ask the name server as often as the git server.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::domain::remote::is_private;
use crate::system::host::since_boot;

/// How long an address is kept: about one tick, so that the next tick finds a server that has moved.
const KEPT: Duration = Duration::from_secs(30);

/// The scheme, host and port of a URI.
type ServerName = (Option<Scheme>, Option<Authority>);

/// A resolver that keeps the addresses that it found.
#[derive(Debug, Default)]
pub(super) struct DnsCache {
    system: DefaultResolver,
    /// The proxy that requests are sent to in place of their server.
    via: Option<Uri>,
    /// Whether private addresses are refused.
    public_only: bool,
    found: Mutex<HashMap<ServerName, ResolvedName>>,
}

#[derive(Debug)]
struct ResolvedName {
    addresses: ResolvedSocketAddrs,
    /// As time since boot.
    at: Duration,
}

impl DnsCache {
    /// A resolver that gives the addresses of `via`, if any, for every server. `public_only`: it gives none
    /// for a server with a private address.
    pub(super) fn new(via: Option<Uri>, public_only: bool) -> Self {
        Self { via, public_only, ..Self::default() }
    }
}

/// The error for a server that has a private address and must not.
#[derive(Debug)]
pub(super) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it has a private address")
    }
}

impl std::error::Error for NotPublic {}

impl Resolver for DnsCache {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let uri = self.via.as_ref().unwrap_or(uri);
        let server = (uri.scheme().cloned(), uri.authority().cloned());
        if let Some(found) = locked(&self.found).get(&server)
            && since_boot().saturating_sub(found.at) < KEPT
        {
            return Ok(found.addresses.clone());
        }
        // The lock is not held meanwhile: a name server that is silent about one name may know the next.
        let addresses = self.system.resolve(uri, config, timeout)?;
        if self.public_only && addresses.iter().any(|address| is_private(address.ip())) {
            return Err(ureq::Error::Other(NotPublic.into()));
        }
        let found = ResolvedName { addresses: addresses.clone(), at: since_boot() };
        locked(&self.found).insert(server, found);
        Ok(addresses)
    }
}

/// Locks a mutex, also one that a panic poisoned: the data stays valid.
pub(in crate::system) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
