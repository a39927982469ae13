//! What workers of other users ask of root while it waits for them: a socket that has no file, whose
//! name they are told, and which answers nobody but that user. One question and one answer each, both
//! JSON. Whoever connects and asks nothing is in nobody's way. Knows not what is asked.

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
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pid::Process;

/// The most that a question or an answer may hold, in bytes.
const CAP: u64 = 1 << 20;
/// How many may be about to ask at once: more than a user has workers.
const MOST_ASKING: usize = 64;
/// How long whoever asked may take to take the answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The place where questions come in.
#[derive(Debug)]
pub struct Requests {
    listener: UnixListener,
    name: String,
}

impl Requests {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let us = Process::current();
        let mut number = 0_u32;
        loop {
            // The kernel keeps these names apart, and forgets one when its socket closes.
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

    /// What those have to be told who may ask.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Answers what processes of user `uid` ask, each in a thread of its own, while `work` goes on.
    /// Who has asked by its end gets the answer; who has not is sent away.
    ///
    /// # Errors
    /// When the system gives no thread; nothing was done then.
    pub fn during<T, Q: DeserializeOwned, A: Serialize>(
        &self,
        uid: u32,
        answer: impl Fn(Q) -> A + Sync,
        work: impl FnOnce() -> T,
    ) -> Result<T> {
        let asking = Asking::default();
        thread::scope(|scope| {
            let listen = || {
                while let Some(stream) = self.next_of(uid) {
                    let Some((number, stream)) = asking.begins(stream) else { continue };
                    let (answer, asking) = (&answer, &asking);
                    let attend = move || {
                        if let Err(error) = attend(&stream, number, asking, answer) {
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
            drop(connect(&self.name));
            Ok(done)
        })
    }

    /// Who knocks next and is a process of user `uid`; `None`: it is over.
    fn next_of(&self, uid: u32) -> Option<UnixStream> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) {
                        // Such as too many open files: somebody will close one.
                        thread::sleep(Duration::from_millis(50));
                    }
                    continue;
                }
            };
            let Ok(peer) = socket_peercred(&stream) else { continue };
            // Nobody else of ours knocks but to say that it is over.
            if peer.pid.as_raw_nonzero().get() == Process::current().pid {
                return None;
            }
            if peer.uid.as_raw() == uid {
                return Some(stream);
            }
            tracing::warn!(uid = peer.uid.as_raw(), "a stranger asks; no answer");
        }
    }
}

/// Those who have knocked and not asked yet.
#[derive(Debug, Default)]
struct Asking(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    is_over: bool,
    next: u64,
    open: BTreeMap<u64, Arc<UnixStream>>,
}

impl Asking {
    /// One more, and its number; `None`: it is over. Where there are too many, the first of them goes:
    /// whoever has a question asks it at once.
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

    /// This one has asked.
    fn ends(&self, number: u64) {
        self.waiting().open.remove(&number);
    }

    /// Ends the wait for those who have not asked, and lets nobody begin.
    fn send_away(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        for stream in waiting.open.values() {
            // Who is gone already needs no more.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// No thread can leave it half written.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attend<Q: DeserializeOwned, A: Serialize>(
    stream: &UnixStream,
    number: u64,
    asking: &Asking,
    answer: &impl Fn(Q) -> A,
) -> Result<()> {
    let question = receive(stream).context("it is no question");
    asking.ends(number);
    stream.set_write_timeout(Some(ANSWER))?;
    send(stream, &answer(question?))
}

/// Asks at the place with this `name`.
///
/// # Errors
/// When nobody is there any more, or the answer is none.
pub fn ask<Q: Serialize, A: DeserializeOwned>(name: &str, question: &Q) -> Result<A> {
    let stream = connect(name).context("the tick of root that could do it has ended")?;
    // Nobody else has that name while root's tick lives; after it, anybody could take it.
    let peer = socket_peercred(&stream)?;
    ensure!(peer.uid.is_root(), "somebody else answers in the place of root's tick");
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
    use super::*;

    #[test]
    fn an_answer_comes_back_while_the_work_goes_on_and_nobody_answers_after_it() {
        let requests = Requests::open().unwrap();
        let (us, name) = (rustix::process::getuid().as_raw(), requests.name().to_owned());
        // A thread of this process is not a process of a worker: it ends the listening.
        let ended = requests.during(us, |number: u32| number + 1, || 7);
        assert_eq!(ended.unwrap(), 7);
        drop(requests);
        assert!(ask::<u32, u32>(&name, &1).is_err());
    }
}
