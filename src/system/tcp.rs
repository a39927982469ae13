//! TCP connections with a time limit. Knows no protocol above TCP.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::sockopt;

use crate::system::host::since_boot;

/// Minimum time to connect to one address.
const BRIEF: Duration = Duration::from_millis(100);

/// The silence on a connection after which the kernel asks the other side.
const SILENCE: Duration = Duration::from_secs(60);

/// Connects to `port` of `host`, a name or an IP address, until `deadline` (time since boot). Tries
/// each of its addresses; all of them share the time.
///
/// # Errors
/// The error of the last address.
pub fn connect(host: &str, port: u16, deadline: Duration) -> io::Result<TcpStream> {
    let left = || deadline.saturating_sub(since_boot());
    let addresses = resolve(host, port, left())?;
    let mut untried = addresses.len() as u32;
    let mut last = io::Error::other("its name has no address");
    for address in addresses {
        let share = left() / untried.max(1);
        match TcpStream::connect_timeout(&address, share.max(BRIEF)) {
            Ok(stream) => {
                keep_alive(&stream);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
        untried = untried.saturating_sub(1);
    }
    Err(last)
}

/// Lets the kernel ask after a minute of silence whether the other side is still there, and give up after
/// three questions. Without it, a connection that ended at a firewall without a word stays open for ever.
fn keep_alive(stream: &TcpStream) {
    // A socket without it works all the same.
    let _ = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, SILENCE))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, SILENCE / 4))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, 3));
}

/// Resolves the host name. The system's resolver has no deadline, so it runs in its own thread.
fn resolve(host: &str, port: u16, patience: Duration) -> io::Result<Vec<SocketAddr>> {
    let place = (host.to_owned(), port);
    let (found, waiting) = mpsc::channel();
    std::thread::Builder::new().spawn(move || {
        // After a timeout there is no receiver any more.
        let _ = found.send(place.to_socket_addrs().map(Iterator::collect));
    })?;
    waiting
        .recv_timeout(patience)
        .map_err(|_| io::Error::other("its name was not resolved in time"))?
        .map_err(|error: io::Error| io::Error::other(format!("its name is not known: {error}")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use crate::system::tcp::*;

    #[test]
    fn the_kernel_asks_a_silent_peer_after_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect("127.0.0.1", port, since_boot() + Duration::from_secs(60)).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), SILENCE);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), 3);
    }
}
