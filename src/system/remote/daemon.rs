//! git://: a plain connection to git-daemon(1), neither encrypted nor authenticated.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Error, Result};

use super::address::Address;
use super::stream::{self, CONNECT, Conversation, Line};
use super::{Order, Progress};
use crate::domain::git::Remote;
use crate::domain::remote::{Answer, Reach, Trouble, Wanted, Way};
use crate::system::git::Git;
use crate::system::node::since_boot;
use crate::system::tcp;

/// Where git-daemon(1) listens.
const PORT: u16 = 9418;
/// The shortest wait: none at all would mean for ever.
const BRIEF: Duration = Duration::from_millis(1);

/// See [`Wire::poll`](super::Wire::poll).
pub(super) fn poll(
    remote: &Remote,
    wanted: &Wanted,
    reach: &Reach,
    known: Option<&Way>,
) -> Result<Answer> {
    let address = Address::of(remote)?;
    let deadline = since_boot() + reach.limit;
    stream::poll(wanted, known, &|| open(&address, reach.limit, deadline))
}

/// See [`Wire::fetch`](super::Wire::fetch).
pub(super) fn fetch(git: &Git, order: &Order, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let address = Address::of(order.remote)?;
    let limit = order.reach.limit;
    let deadline = since_boot() + limit;
    stream::fetch(git, order, &|| open(&address, limit, deadline), progress)
}

/// Connects, and names the repository.
fn open(address: &Address, limit: Duration, deadline: Duration) -> Result<Conversation<TcpStream>> {
    let host = address.to_string();
    let port = address.port.unwrap_or(PORT);
    let stream = tcp::connect(&address.host, port, since_boot() + CONNECT).map_err(|error| {
        Error::new(Trouble::Server).context(format!("{host} does not answer: {error}"))
    })?;
    // Without it the question may wait until the greeting is acknowledged.
    stream.set_nodelay(true)?;
    let greeting = format!("git-upload-pack {}\0host={host}\0\0version=2\0", address.path);
    let greeting = format!("{:04x}{greeting}", greeting.len() + 4);
    let mut conversation = Conversation::new(stream, host, limit, deadline);
    conversation.write_all(greeting.as_bytes())?;
    Ok(conversation)
}

impl Line for TcpStream {
    fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(patience.max(BRIEF)))?;
        Read::read(self, into)
    }

    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        self.set_write_timeout(Some(patience.max(BRIEF)))?;
        Write::write(self, bytes)
    }

    fn stands(&self) -> bool {
        true
    }

    fn leave(self) {}

    fn reason(self, over: Error) -> Error {
        over
    }
}
