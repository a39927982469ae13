//! What workers of other users ask of root while it waits for them: a socket that has no file, whose
//! name they are told, and which answers nobody but that user. One question and one answer each, both
//! JSON. Knows not what is asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::socket_peercred;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pid::Process;

/// The most that a question or an answer may hold, in bytes.
const CAP: u64 = 1 << 20;

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
    pub fn during<T, Q: DeserializeOwned, A: Serialize>(
        &self,
        uid: u32,
        answer: impl Fn(Q) -> A + Sync,
        work: impl FnOnce() -> T,
    ) -> T {
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok((stream, _)) = self.listener.accept() {
                    let Ok(peer) = socket_peercred(&stream) else { continue };
                    // Nobody else of ours knocks but to say that it is over.
                    if peer.pid.as_raw_nonzero().get() == Process::current().pid {
                        return;
                    }
                    if peer.uid.as_raw() != uid {
                        tracing::warn!(uid = peer.uid.as_raw(), "a stranger asks; no answer");
                        continue;
                    }
                    let answer = &answer;
                    scope.spawn(move || {
                        if let Err(error) = attend(stream, answer) {
                            tracing::warn!("a worker's question: {error:#}");
                        }
                    });
                }
            });
            let done = work();
            // Whoever still asks is answered before the scope ends.
            drop(connect(&self.name));
            done
        })
    }
}

fn attend<Q: DeserializeOwned, A: Serialize>(
    mut stream: UnixStream,
    answer: &impl Fn(Q) -> A,
) -> Result<()> {
    let question = receive(&stream).context("it is no question")?;
    send(&mut stream, &answer(question))
}

/// Asks at the place with this `name`.
///
/// # Errors
/// When nobody is there any more, or the answer is none.
pub fn ask<Q: Serialize, A: DeserializeOwned>(name: &str, question: &Q) -> Result<A> {
    let mut stream = connect(name).context("the tick of root that could do it has ended")?;
    // Nobody else has that name while root's tick lives; after it, anybody could take it.
    let peer = socket_peercred(&stream)?;
    ensure!(peer.uid.is_root(), "somebody else answers in the place of root's tick");
    send(&mut stream, question)?;
    receive(&stream).context("the tick of root that did it ended in the middle")
}

fn connect(name: &str) -> Result<UnixStream> {
    Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?)
}

fn send(stream: &mut UnixStream, what: &impl Serialize) -> Result<()> {
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
        assert_eq!(ended, 7);
        drop(requests);
        assert!(ask::<u32, u32>(&name, &1).is_err());
    }
}
