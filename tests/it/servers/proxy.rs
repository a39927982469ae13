//! A proxy between a client and a server that counts, delays and misbehaves. It knows bytes and
//! connections, no protocol.
//!
//! The delay is TCP's over a line with this round trip: what the client sends reaches the server no
//! sooner than one and a half round trips after it connected, and each piece takes half of one. So a
//! turn through it costs what it would over a real line, with no help from the kernel.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// What the proxy does with the server's answers. A count of bytes is per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Passes everything on.
    Faithful,
    /// Takes what comes and never answers, neither old connections nor new ones.
    BlackHole,
    /// One byte at a time, with this pause after each.
    Drip(Duration),
    /// Closes the connection after so many bytes, as a server does that was stopped.
    CloseAfter(u64),
    /// Resets the connection after so many bytes; 0 resets it as soon as it is there.
    ResetAfter(u64),
    /// Answers with these bytes, again and again and as fast as they are taken, whatever the server
    /// says.
    Flood(Vec<u8>),
    /// Flips the lowest bit of the byte at this place, counted from 0.
    FlipBitOf(u64),
    /// Resets every second connection at once.
    ResetEverySecond,
}

/// What went through since the last [`Proxy::forget_counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes from the server.
    pub down: u64,
    /// How often a client spoke first on a connection, or again after the server had spoken: the
    /// round trips that the client had to wait for, its connecting not counted. Without a delay, words
    /// of the server that nobody waits for (TLS has some) may count as well.
    pub turns: u64,
}

/// The running proxy. Dropping it ends every connection.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    target: u16,
    round_trip: Duration,
    behaviour: Mutex<Behaviour>,
    ended: AtomicBool,
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    turns: AtomicU64,
    /// Both ends of every connection, to end them.
    ends: Mutex<Vec<Weak<TcpStream>>>,
}

impl Proxy {
    /// A line without delay to `target`, a port of the loopback device.
    pub fn to(target: u16) -> Self {
        Self::with_round_trip(target, Duration::ZERO)
    }

    /// A line over which a round trip takes `round_trip`.
    pub fn with_round_trip(target: u16, round_trip: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            target,
            round_trip,
            behaviour: Mutex::new(Behaviour::Faithful),
            ended: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            ends: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Relaxed) {
                    break;
                }
                if let Ok(client) = client {
                    shared.connect(client);
                }
            }
        });
        Self { port, state }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `url`, which names the target's port, with the proxy's port in its place.
    pub fn url_of(&self, url: &str) -> String {
        let target = format!(":{}/", self.state.target);
        assert!(url.contains(&target), "{url} does not name the port {}", self.state.target);
        url.replacen(&target, &format!(":{}/", self.port), 1)
    }

    /// From now on, it does this, on connections that are there already as well.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    /// Ends every connection that is there.
    pub fn cut(&self) {
        for end in self.state.ends.lock().unwrap().iter().filter_map(Weak::upgrade) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.state.connections.load(Relaxed),
            up: self.state.up.load(Relaxed),
            down: self.state.down.load(Relaxed),
            turns: self.state.turns.load(Relaxed),
        }
    }

    /// Counts from 0 again.
    pub fn forget_counts(&self) {
        let State { connections, up, down, turns, .. } = &*self.state;
        for count in [connections, up, down, turns] {
            count.store(0, Relaxed);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Relaxed);
        self.cut();
        // Lets the listening thread see that it has ended.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// A piece of what one end said, and when it may reach the other.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

impl State {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap().clone()
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        let number = self.connections.fetch_add(1, Relaxed);
        let start = Instant::now();
        let refused = match self.behaviour() {
            Behaviour::ResetAfter(0) => true,
            Behaviour::ResetEverySecond => number % 2 == 1,
            _ => false,
        };
        if refused {
            return reset(&client);
        }
        let _ = client.set_nodelay(true);
        let client = self.keep(client);
        let opened =
            if self.round_trip.is_zero() { start } else { start + self.round_trip * 3 / 2 };
        let server_spoke = Arc::new(AtomicBool::new(true));
        let (to_server, for_server) = channel();
        let (state, source, spoke) =
            (Arc::clone(self), Arc::clone(&client), Arc::clone(&server_spoke));
        thread::spawn(move || state.read_client(&source, opened, &spoke, &to_server));
        let state = Arc::clone(self);
        thread::spawn(move || {
            sleep_until(opened);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, state.target));
            let Ok(server) = TcpStream::connect(address) else { return reset(&client) };
            let _ = server.set_nodelay(true);
            let server = state.keep(server);
            let (to_client, for_client) = channel();
            let (reader, source) = (Arc::clone(&state), Arc::clone(&server));
            thread::spawn(move || reader.read_server(&source, &to_client));
            let writer = Arc::clone(&state);
            thread::spawn(move || writer.answer(&client, &server_spoke, &for_client));
            state.pass_on(&server, &for_server);
        });
    }

    /// The end of a connection that lives as long as somebody reads or writes it.
    fn keep(&self, end: TcpStream) -> Arc<TcpStream> {
        let end = Arc::new(end);
        let mut ends = self.ends.lock().unwrap();
        ends.retain(|end| end.strong_count() > 0);
        ends.push(Arc::downgrade(&end));
        end
    }

    fn read_client(
        &self,
        mut client: &TcpStream,
        opened: Instant,
        server_spoke: &AtomicBool,
        out: &Sender<Piece>,
    ) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            self.up.fetch_add(length as u64, Relaxed);
            if server_spoke.swap(false, Relaxed) {
                self.turns.fetch_add(1, Relaxed);
            }
            let due = (Instant::now() + self.round_trip / 2).max(opened);
            if out.send(Piece { due, bytes: buffer[..length].to_vec() }).is_err() {
                break;
            }
        }
    }

    fn read_server(&self, mut server: &TcpStream, out: &Sender<Piece>) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            let due = Instant::now() + self.round_trip / 2;
            if out.send(Piece { due, bytes: buffer[..length].to_vec() }).is_err() {
                break;
            }
        }
    }

    /// To the server: always faithful, but for the black hole.
    fn pass_on(&self, mut server: &TcpStream, pieces: &Receiver<Piece>) {
        for Piece { due, bytes } in pieces {
            sleep_until(due);
            if self.behaviour() != Behaviour::BlackHole && server.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
    }

    /// To the client: as the proxy is told to behave.
    fn answer(&self, client: &TcpStream, spoke: &AtomicBool, pieces: &Receiver<Piece>) {
        let mut done = 0;
        for Piece { due, bytes } in pieces {
            sleep_until(due);
            spoke.store(true, Relaxed);
            match self.answer_piece(client, bytes, done) {
                Some(length) => done += length,
                None => return,
            }
        }
        if self.behaviour() != Behaviour::BlackHole {
            let _ = client.shutdown(Shutdown::Write);
        }
    }

    /// Writes one piece, of which `done` bytes went before; how many bytes it was, `None` when the
    /// connection is over.
    fn answer_piece(&self, mut client: &TcpStream, mut bytes: Vec<u8>, done: u64) -> Option<u64> {
        let length = bytes.len() as u64;
        let left = |limit: u64| usize::try_from(limit.saturating_sub(done)).unwrap();
        let mut write = |bytes: &[u8]| {
            self.down.fetch_add(bytes.len() as u64, Relaxed);
            client.write_all(bytes).ok()
        };
        match self.behaviour() {
            Behaviour::Faithful | Behaviour::ResetEverySecond => write(&bytes)?,
            Behaviour::BlackHole => {}
            Behaviour::Drip(pause) => {
                for (index, byte) in bytes.iter().enumerate() {
                    if !matches!(self.behaviour(), Behaviour::Drip(_)) {
                        write(&bytes[index..])?;
                        break;
                    }
                    write(&[*byte])?;
                    thread::sleep(pause);
                }
            }
            Behaviour::CloseAfter(limit) if left(limit) <= bytes.len() => {
                write(&bytes[..left(limit)])?;
                let _ = client.shutdown(Shutdown::Both);
                return None;
            }
            Behaviour::ResetAfter(limit) if left(limit) <= bytes.len() => {
                write(&bytes[..left(limit)])?;
                reset(client);
                return None;
            }
            Behaviour::CloseAfter(_) | Behaviour::ResetAfter(_) => write(&bytes)?,
            Behaviour::Flood(flood) => {
                // In pieces that are larger than what anybody reads at once.
                let flood = flood.repeat((1 << 16) / flood.len() + 1);
                loop {
                    write(&flood)?;
                }
            }
            Behaviour::FlipBitOf(place) => {
                if let Some(byte) =
                    place.checked_sub(done).and_then(|at| bytes.get_mut(at as usize))
                {
                    *byte ^= 1;
                }
                write(&bytes)?;
            }
        }
        Some(length)
    }
}

/// Ends a connection so that the client sees a reset, not an end.
fn reset(end: &TcpStream) {
    let _ = rustix::net::connect_unspec(end);
}

fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}
