//! Polls and fetches over git://, a plain connection to git-daemon(1), neither encrypted nor
//! authenticated. The protocol itself is in `duplex_stream`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Error, Result};

use super::address::RemoteAddress;
use super::{FetchOrder, FetchProgress};
use crate::domain::git::Remote;
use crate::domain::remote::{
    ConnectionSettings, PollAnswer, PollScope, RemoteFailure, RemoteHints,
};
use crate::system::git::Git;
use crate::system::host::since_boot;
use crate::system::remote::duplex_stream::{self, CONNECT, DuplexStream, GitConversation};
use crate::system::tcp;

/// git-daemon(1)'s default port.
const PORT: u16 = 9418;
/// The shortest timeout: zero would mean no timeout.
const BRIEF: Duration = Duration::from_millis(1);

/// As [`Wire::poll`](super::Wire::poll), over git://.
pub(super) fn poll(
    remote: &Remote,
    wanted: &PollScope,
    reach: &ConnectionSettings,
    known: Option<&RemoteHints>,
) -> Result<PollAnswer> {
    let address = RemoteAddress::of(remote)?;
    let deadline = since_boot() + reach.limit;
    duplex_stream::poll(wanted, known, &|| open(&address, reach.limit, deadline))
}

/// As [`Wire::fetch`](super::Wire::fetch), over git://.
pub(super) fn fetch(
    git: &Git,
    order: &FetchOrder,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let address = RemoteAddress::of(order.remote)?;
    let limit = order.reach.limit;
    let deadline = since_boot() + limit;
    duplex_stream::fetch(git, order, &|| open(&address, limit, deadline), progress)
}

/// Connects, and sends the name of the repository.
fn open(
    address: &RemoteAddress,
    limit: Duration,
    deadline: Duration,
) -> Result<GitConversation<TcpStream>> {
    let host = address.to_string();
    let port = address.port.unwrap_or(PORT);
    let stream = tcp::connect(&address.host, port, since_boot() + CONNECT).map_err(|error| {
        Error::new(RemoteFailure::Server).context(format!("{host} does not answer: {error}"))
    })?;
    // Without this the request may wait until the server acknowledges the greeting.
    stream.set_nodelay(true)?;
    let greeting = format!("git-upload-pack {}\0host={host}\0\0version=2\0", address.path);
    let greeting = format!("{:04x}{greeting}", greeting.len() + 4);
    let mut conversation = GitConversation::new(stream, host, limit, deadline);
    conversation.write_all(greeting.as_bytes())?;
    Ok(conversation)
}

impl DuplexStream for TcpStream {
    fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(patience.max(BRIEF)))?;
        Read::read(self, into)
    }

    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        self.set_write_timeout(Some(patience.max(BRIEF)))?;
        Write::write(self, bytes)
    }

    fn is_open(&self) -> bool {
        true
    }

    fn leave(self) {}

    fn reason(self, over: Error) -> Error {
        over
    }
}
