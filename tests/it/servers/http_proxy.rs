//! A web proxy as companies have them: `CONNECT` only, with or without a password. It takes every
//! host for this machine, so that a test may use names that no name server knows.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{PASSWORD, USER};

/// The longest head of a request that it reads.
const LONGEST_HEAD: usize = 1 << 14;

/// The running proxy. Dropping it ends its listening; connections end with their clients.
pub struct HttpProxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    /// The `Authorization` that it wants; empty for none.
    wanted: String,
    connected: AtomicU64,
    refused: AtomicU64,
    hosts: Mutex<Vec<String>>,
}

impl HttpProxy {
    /// One that lets everybody through.
    pub fn open() -> Self {
        Self::start(String::new())
    }

    /// One that wants [`USER`] and [`PASSWORD`].
    pub fn with_password() -> Self {
        // Base64 of "pat:open sesame".
        assert_eq!((USER, PASSWORD), ("pat", "open sesame"));
        Self::start("Basic cGF0Om9wZW4gc2VzYW1l".to_owned())
    }

    fn start(wanted: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { wanted, ..State::default() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Relaxed) {
                    break;
                }
                let shared = Arc::clone(&shared);
                // A client that goes away in the middle is none of its worries.
                thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Self { port, state }
    }

    /// Its URL, without credentials.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its URL with the credentials in it.
    pub fn url_with_password(&self) -> String {
        format!("http://{USER}:{}@127.0.0.1:{}", PASSWORD.replace(' ', "%20"), self.port)
    }

    /// How many connections it made so far.
    pub fn connected(&self) -> u64 {
        self.state.connected.load(Relaxed)
    }

    /// How many it refused for want of credentials.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Relaxed)
    }

    /// What it was asked to connect to, `host:port` each.
    pub fn hosts(&self) -> Vec<String> {
        self.state.hosts.lock().unwrap().clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        loop {
            let Some(head) = read_head(&mut client)? else { return Ok(()) };
            let mut words = head.split_whitespace();
            let (method, host) = (words.next(), words.next().unwrap_or_default());
            if method != Some("CONNECT") {
                client.write_all(b"HTTP/1.1 405 CONNECT only\r\nContent-Length: 0\r\n\r\n")?;
                return Ok(());
            }
            self.hosts.lock().unwrap().push(host.to_owned());
            let given = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("Proxy-Authorization").then(|| value.trim())
            });
            if self.wanted.is_empty() || given == Some(self.wanted.as_str()) {
                let port = host.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
                return self.connect(client, port);
            }
            self.refused.fetch_add(1, Relaxed);
            client.write_all(
                b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"tests\"\r\n\
                  Content-Length: 0\r\n\r\n",
            )?;
        }
    }

    fn connect(&self, mut client: TcpStream, port: u16) -> std::io::Result<()> {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            return client.write_all(b"HTTP/1.1 502 Nobody there\r\nContent-Length: 0\r\n\r\n");
        };
        self.connected.fetch_add(1, Relaxed);
        client.write_all(b"HTTP/1.1 200 Go on\r\n\r\n")?;
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || pass_on(&from_client, &to_server));
        pass_on(&server, &client);
        Ok(())
    }
}

/// Passes everything on, then the end.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Everything up to the empty line; `None` when the client is gone.
fn read_head(client: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 || head.len() == LONGEST_HEAD {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}
