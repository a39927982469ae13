//! Connections over TCP, made in bounded time.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use super::node::since_boot;

/// The shortest time that an address is given.
const BRIEF: Duration = Duration::from_millis(100);

/// Connects to `port` of `host`, which is a name or an IP address, until `deadline` (time since boot).
/// Tries each of its addresses; all of them share the time.
///
/// # Errors
/// The last one's reason.
pub fn connect(host: &str, port: u16, deadline: Duration) -> io::Result<TcpStream> {
    let left = || deadline.saturating_sub(since_boot());
    let addresses = resolve(host, port, left())?;
    let mut untried = addresses.len() as u32;
    let mut last = io::Error::other("its name stands for no address");
    for address in addresses {
        let share = left() / untried.max(1);
        match TcpStream::connect_timeout(&address, share.max(BRIEF)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
        untried = untried.saturating_sub(1);
    }
    Err(last)
}

/// The addresses of the host. The system's resolver knows no deadline; so it is waited for from
/// outside.
fn resolve(host: &str, port: u16, patience: Duration) -> io::Result<Vec<SocketAddr>> {
    let place = (host.to_owned(), port);
    let (found, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = found.send(place.to_socket_addrs().map(Iterator::collect));
    });
    waiting
        .recv_timeout(patience)
        .map_err(|_| io::Error::other("nobody tells its address"))?
        .map_err(|error: io::Error| io::Error::other(format!("its name is not known: {error}")))
}
