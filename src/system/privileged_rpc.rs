//! Requests from workers of other users to root while it waits for them: an abstract socket that only
//! that user's processes may use. One request and one response for each connection, both JSON. An idle
//! connection blocks no other one. Does not know the meaning of the requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{Shutdown as Half, shutdown};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pid::Process;

/// Largest request or response, in bytes.
const CAP: u64 = 1 << 20;
/// Most connections without a request yet: more than a user has workers.
const MOST_ASKING: usize = 64;
/// Time limit for a client to receive the response.
const ANSWER: Duration = Duration::from_secs(5);

/// The listening socket for requests to root.
#[derive(Debug)]
pub struct PrivilegedRpc {
    listener: UnixListener,
    name: String,
}

impl PrivilegedRpc {
    /// Opens the socket under a new abstract name.
    ///
    /// # Errors
    /// When the kernel provides no socket.
    pub fn open() -> Result<Self> {
        let us = Process::current();
        let mut number = 0_u32;
        loop {
            // The kernel keeps these names unique, and releases one when its socket closes.
            let name = format!("pmpy-requests-{}-{}-{number}", us.pid, us.start);
            match UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?) {
                Ok(listener) => return Ok(Self { listener, name }),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && number < 10_000 => {
                    number += 1;
                }
                Err(error) => return Err(error).context("no socket for what workers ask"),
            }
        }
    }

    /// Abstract name of the socket, to pass to the permitted workers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Answers requests of processes of user `uid`, each in its own thread, while `work` runs. When
    /// `work` ends, requests already received are answered; connections without a request are closed.
    ///
    /// # Errors
    /// When no thread can be created; `work` has not run then.
    pub fn during<T, Q: DeserializeOwned, A: Serialize>(
        &self,
        uid: u32,
        answer: impl Fn(Q) -> A + Sync,
        work: impl FnOnce() -> T,
    ) -> Result<T> {
        let asking = PendingClients::default();
        thread::scope(|scope| {
            let listen = || {
                while let Some(stream) = self.next_of(uid, &asking) {
                    let Some((number, stream)) = asking.begins(stream) else { continue };
                    let (answer, asking) = (&answer, &asking);
                    let attend = move || {
                        if let Err(error) = serve(&stream, number, asking, answer) {
                            tracing::warn!("a worker's question: {error:#}");
                        }
                    };
                    if let Err(error) = thread::Builder::new().spawn_scoped(scope, attend) {
                        asking.ends(number);
                        tracing::warn!("no thread for a worker's question: {error}");
                    }
                }
            };
            thread::Builder::new()
                .spawn_scoped(scope, listen)
                .context("no thread for what workers ask")?;
            let done = work();
            asking.send_away();
            // Ends the accept loop. A connection to ourselves could fail, or block where there are too
            // many.
            let _ = shutdown(&self.listener, Half::Both);
            Ok(done)
        })
    }

    /// Accepts the next connection of a process of user `uid`; `None` when `work` has ended.
    fn next_of(&self, uid: u32, asking: &PendingClients) -> Option<UnixStream> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(_) if asking.waiting().is_over => return None,
                Err(error) => {
                    if !matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) {
                        // For instance too many open files: retry until one is closed.
                        thread::sleep(Duration::from_millis(50));
                    }
                    continue;
                }
            };
            let Ok(peer) = socket_peercred(&stream) else { continue };
            if peer.uid.as_raw() == uid {
                return Some(stream);
            }
            tracing::warn!(uid = peer.uid.as_raw(), "a stranger asks; no answer");
        }
    }
}

/// Connections that have not sent a request yet.
#[derive(Debug, Default)]
struct PendingClients(Mutex<PendingClient>);

#[derive(Debug, Default)]
struct PendingClient {
    is_over: bool,
    next: u64,
    open: BTreeMap<u64, Arc<UnixStream>>,
}

impl PendingClients {
    /// Adds a connection and returns its number; `None` when `work` has ended. If there are too many,
    /// closes the oldest: a real client sends its request at once.
    fn begins(&self, stream: UnixStream) -> Option<(u64, Arc<UnixStream>)> {
        let mut waiting = self.waiting();
        if waiting.is_over {
            return None;
        }
        if waiting.open.len() >= MOST_ASKING
            && let Some((_, first)) = waiting.open.pop_first()
        {
            let _ = first.shutdown(Shutdown::Both);
        }
        waiting.next += 1;
        let (number, stream) = (waiting.next, Arc::new(stream));
        waiting.open.insert(number, Arc::clone(&stream));
        Some((number, stream))
    }

    /// Removes the connection, because its request has arrived.
    fn ends(&self, number: u64) {
        self.waiting().open.remove(&number);
    }

    /// Closes all connections without a request and accepts no new ones.
    fn send_away(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        for stream in waiting.open.values() {
            // A client that has disconnected needs no shutdown.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Locks the state. A panic cannot leave it half written, so poisoning is ignored.
    fn waiting(&self) -> MutexGuard<'_, PendingClient> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve<Q: DeserializeOwned, A: Serialize>(
    stream: &UnixStream,
    number: u64,
    asking: &PendingClients,
    answer: &impl Fn(Q) -> A,
) -> Result<()> {
    let question = receive(stream).context("it is no question");
    asking.ends(number);
    stream.set_write_timeout(Some(ANSWER))?;
    send(stream, &answer(question?))
}

/// Sends `question` to the socket `name` and returns the response.
///
/// # Errors
/// When root's tick has ended, or its response is invalid.
pub fn call<Q: Serialize, A: DeserializeOwned>(name: &str, question: &Q) -> Result<A> {
    let stream = connect(name).context("the tick of root that could do it has ended")?;
    // While root's tick runs, the name is taken; afterwards any process could bind it.
    let peer = socket_peercred(&stream)?;
    ensure!(peer.uid.is_root(), "another process answers in the place of root's tick");
    send(&stream, question)?;
    receive(&stream).context("the tick of root that did it ended in the middle")
}

fn connect(name: &str) -> Result<UnixStream> {
    Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?)
}

fn send(mut stream: &UnixStream, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

fn receive<T: DeserializeOwned>(stream: &UnixStream) -> Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(CAP)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        bail!("it breaks off");
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use crate::system::privileged_rpc::*;

    #[test]
    fn an_answer_comes_back_while_the_work_continues_and_none_after_it() {
        let requests = PrivilegedRpc::open().unwrap();
        let (us, name) = (rustix::process::getuid().as_raw(), requests.name().to_owned());
        let silent = connect(&name).unwrap();
        let ended = requests.during(us, |number: u32| number + 1, || call::<u32, u32>(&name, &6));
        // A silent connection delays the end of `during` no longer than the work takes.
        drop(silent);
        match us {
            0 => assert_eq!(ended.unwrap().unwrap(), 7),
            _ => drop(ended.unwrap()),
        }
        drop(requests);
        assert!(call::<u32, u32>(&name, &1).is_err());
    }
}
