//! The addresses of web servers, each looked up once for all questions of the same short while. The
//! library looks a name up for every request, even for one that takes an open connection, and each
//! time in a thread of its own so that it can give up: a tick would ask the name server as often as
//! the git server.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::talk::locked;
use crate::system::node::since_boot;

/// How long an address is used again: as long as a tick lasts, so that the next finds a server that
/// has moved.
const KEPT: Duration = Duration::from_secs(30);

/// Whom a URI names.
type Server = (Option<Scheme>, Option<Authority>);

/// Looks names up and remembers what was found.
#[derive(Debug, Default)]
pub(super) struct Names {
    system: DefaultResolver,
    found: Mutex<HashMap<Server, Found>>,
}

#[derive(Debug)]
struct Found {
    addresses: ResolvedSocketAddrs,
    /// As time since boot.
    at: Duration,
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let server = (uri.scheme().cloned(), uri.authority().cloned());
        if let Some(found) = locked(&self.found).get(&server)
            && since_boot().saturating_sub(found.at) < KEPT
        {
            return Ok(found.addresses.clone());
        }
        // Nobody waits meanwhile: a name server that is silent about one name may know the next.
        let addresses = self.system.resolve(uri, config, timeout)?;
        let found = Found { addresses: addresses.clone(), at: since_boot() };
        locked(&self.found).insert(server, found);
        Ok(addresses)
    }
}
