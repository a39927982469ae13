//! A fetch over the connection that polled. The tick has that connection, so it sends the request of its
//! worker and passes the answer on: no second connection is opened, and the worker needs no client. The
//! line between the two is the socket pair that is the worker's standard output; its reports go the other
//! way. Does not know what a request means.
//!
//! Whatever ends it early, the worker fetches for itself.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::git::Remote;
use crate::domain::remote::{ConnectionSettings, RemoteHints};
use crate::system::{frames, process};

/// How long the worker waits for room on the line.
const STALL: Duration = Duration::from_secs(30);
/// Bytes of the answer in one frame.
const PIECE: usize = 64 << 10;
/// Bytes of a request that fit into a report; a larger one is not relayed.
const MOST_ASKED: usize = 32 << 10;
/// The length of the frame that says that the answer broke off; the reason follows.
const BROKEN: u32 = u32::MAX;

/// A worker's request to the tick.
#[derive(Debug, Serialize, Deserialize)]
pub struct RelayRequest {
    pub(super) relay: RelayedQuestion,
}

/// A request to a remote, and all that sending it depends on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RelayedQuestion {
    pub(super) remote: Remote,
    pub(super) reach: ConnectionSettings,
    /// How the remote answered the poll.
    pub(super) way: RemoteHints,
    pub(super) question: String,
}

/// The beginning of an answer. `None` in its place: the tick has none.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RelayedHead {
    pub(super) status: u16,
    pub(super) kind: String,
    pub(super) later: Option<Duration>,
}

/// The worker's end of the line.
#[derive(Debug)]
pub struct Relay {
    line: UnixStream,
    /// Whether nothing more is to be expected of the line.
    is_over: AtomicBool,
    /// Whether the tick ended in the middle of an answer.
    is_lost: AtomicBool,
}

impl Relay {
    /// The relay over `line`, which is our standard output.
    pub fn over(line: UnixStream) -> Self {
        Self { line, is_over: AtomicBool::new(false), is_lost: AtomicBool::new(false) }
    }

    /// Lets the tick send `question`; returns the answer and the reader of its content. `None`: there is
    /// none in this way.
    pub(super) fn ask(
        self: &Arc<Self>,
        question: RelayedQuestion,
    ) -> Option<(RelayedHead, RelayedContent)> {
        let limit = question.reach.limit;
        if self.is_over.load(Ordering::Relaxed) || question.question.len() > MOST_ASKED {
            return None;
        }
        let request = serde_json::to_string(&RelayRequest { relay: question }).ok()?;
        let mut content = RelayedContent { relay: Arc::clone(self), left: Some(0) };
        let head = self.line.set_read_timeout(Some(limit)).and_then(|()| {
            if !process::print_line(&request, STALL) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            frames::receive_json(&self.line)
        });
        match head {
            Ok(Some(head)) => Some((head, content)),
            Ok(None) => {
                // The line stays usable.
                content.left = None;
                None
            }
            Err(error) => {
                // Dropping `content` ends the relay.
                tracing::debug!("the tick relays nothing: {error}");
                None
            }
        }
    }

    /// Whether the tick ended in the middle of an answer since the last call.
    pub(super) fn was_lost(&self) -> bool {
        self.is_lost.swap(false, Ordering::Relaxed)
    }

    /// Ends the relay: the tick gets an error when it sends more.
    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.line.shutdown(std::net::Shutdown::Read);
    }
}

/// The reason why an answer broke off, as the tick found it: a sentence.
#[derive(Debug)]
pub(super) struct BrokenOff(String);

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokenOff {}

/// The content of a relayed answer. Dropped before its end, it ends the relay.
pub(super) struct RelayedContent {
    relay: Arc<Relay>,
    /// Bytes left of this frame; `None` after the last one.
    left: Option<usize>,
}

impl RelayedContent {
    fn next(&mut self, left: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let left = match left {
            0 => match frames::length(&self.relay.line)? {
                0 => {
                    self.left = None;
                    return Ok(0);
                }
                BROKEN => {
                    let reason = frames::receive_json(&self.relay.line)?;
                    self.left = None;
                    return Err(io::Error::other(BrokenOff(reason)));
                }
                length => length as usize,
            },
            left => left,
        };
        let most = buffer.len().min(left);
        let count = (&self.relay.line).read(buffer.get_mut(..most).unwrap_or_default())?;
        if count == 0 && most > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left = Some(left - count);
        Ok(count)
    }
}

impl Read for RelayedContent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.left else { return Ok(0) };
        self.next(left, buffer).inspect_err(|error| {
            if self.left.is_some() && error.kind() != ErrorKind::Interrupted {
                self.relay.is_lost.store(true, Ordering::Relaxed);
            }
        })
    }
}

impl Drop for RelayedContent {
    fn drop(&mut self) {
        if self.left.is_some() {
            self.relay.end();
        }
    }
}

/// Sends an answer to the worker at the other end of `line`: its head, and its content as far as that can
/// be read. `None`: there is no answer.
///
/// # Errors
/// When the worker takes nothing more.
pub(super) fn pass_on(
    mut line: &UnixStream,
    answer: Option<(RelayedHead, impl Read)>,
) -> io::Result<()> {
    let (head, content) = answer.unzip();
    frames::send_json(line, &head)?;
    let Some(mut content) = content else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    loop {
        match content.read(&mut piece) {
            Ok(0) => return frames::send(line, &[]),
            Ok(count) => frames::send(line, piece.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                line.write_all(&BROKEN.to_be_bytes())?;
                return frames::send_json(line, &error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crate::system::remote::relay::*;

    fn head() -> RelayedHead {
        RelayedHead { status: 200, kind: "text/plain".to_owned(), later: None }
    }

    /// The worker's and the tick's end of a line.
    fn line() -> (RelayedContent, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let relay = Arc::new(Relay::over(ours));
        (RelayedContent { relay, left: Some(0) }, theirs)
    }

    /// Reads the head away, which has its own reader in [`Relay::ask`].
    fn skip_head(content: &RelayedContent) {
        frames::receive(&content.relay.line).unwrap();
    }

    #[test]
    fn an_answer_arrives_whole_and_the_line_serves_again() {
        let (mut content, theirs) = line();
        let bytes: Vec<u8> = (0..40_000_u32).flat_map(u32::to_be_bytes).collect();
        thread::scope(|scope| {
            scope.spawn(|| pass_on(&theirs, Some((head(), bytes.as_slice()))).unwrap());
            skip_head(&content);
            let mut all = Vec::new();
            content.read_to_end(&mut all).unwrap();
            assert!(all == bytes);
        });
        let relay = Arc::clone(&content.relay);
        drop(content);
        assert!(!relay.was_lost() && !relay.is_over.load(Ordering::Relaxed));
    }

    #[test]
    fn an_answer_that_breaks_off_says_why_and_is_not_taken_for_a_lost_tick() {
        struct Breaks;
        impl Read for Breaks {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the server closed the connection"))
            }
        }
        let (mut content, theirs) = line();
        pass_on(&theirs, Some((head(), b"some".chain(Breaks)))).unwrap();
        skip_head(&content);
        let error = content.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "the server closed the connection");
        assert!(!content.relay.was_lost());
    }

    #[test]
    fn a_tick_that_ends_in_the_middle_is_noticed_and_one_that_is_not_heard_out_is_stopped() {
        let (mut content, theirs) = line();
        frames::send(&theirs, b"some").unwrap();
        drop(theirs);
        assert_eq!(content.read(&mut [0; 10]).unwrap(), 4);
        assert!(content.read(&mut [0; 10]).is_err() && content.relay.was_lost());

        let (content, theirs) = line();
        drop(content);
        let endless = io::repeat(7);
        assert!(pass_on(&theirs, Some((head(), endless))).is_err());
    }
}
