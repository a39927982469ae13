//! The output of scripts on a terminal while a tick runs them, line by line as `agent log` shows it. Does not know
//! what runs.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cmd::{format, log};
use crate::domain::repository::action::ProgressEvent;
use crate::engine::context::Context;
use crate::engine::run::log::log_dir;
use crate::system::logs::{self, LogReader};

/// The interval at which the logs are read.
const PAUSE: Duration = Duration::from_millis(100);
/// The most logs that are followed at a time; each is an open file. The output of more is only in their logs.
const MOST: usize = 200;
/// The most pieces that are read of a log after its action ended: a process left behind may write to it forever.
const LAST_PIECES: usize = 256;

/// Follows the logs of one tick and prints them. Without a thread for that, nothing is printed.
pub struct LogStream {
    events: Mutex<Sender<ProgressEvent>>,
    thread: Option<JoinHandle<BTreeSet<String>>>,
}

impl LogStream {
    /// Prints to `out` from now on. With `prefixed`, each line begins with the name of its repository.
    pub fn start(context: &Context, prefixed: bool, out: impl Write + Send + 'static) -> Self {
        let (events, received) = mpsc::channel();
        let ours = context.clone();
        let mut follower =
            Follower { context: ours, prefixed, out, open: Vec::new(), streamed: BTreeSet::new() };
        let thread = thread::Builder::new().spawn(move || {
            follower.follow(&received);
            follower.streamed
        });
        Self { events: Mutex::new(events), thread: thread.ok() }
    }

    /// Takes note of a progress event of the tick.
    pub fn hear(&self, event: &ProgressEvent) {
        if let Ok(events) = self.events.lock()
            && matches!(event, ProgressEvent::Logs { .. } | ProgressEvent::Ended(_))
        {
            // Without a receiver there is nothing to print either.
            let _ = events.send(event.clone());
        }
    }

    /// Prints what is left, and returns the repositories whose output was printed.
    pub fn finish(self) -> BTreeSet<String> {
        drop(self.events);
        self.thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// A log that is being printed.
struct OpenLog {
    repo: String,
    name: String,
    reader: LogReader,
    /// Whether our own first line is behind us.
    started: bool,
    /// The last line, which may be our own.
    held: Option<String>,
}

struct Follower<W> {
    context: Context,
    prefixed: bool,
    out: W,
    open: Vec<OpenLog>,
    streamed: BTreeSet<String>,
}

impl<W: Write> Follower<W> {
    fn follow(&mut self, events: &Receiver<ProgressEvent>) {
        loop {
            match events.recv_timeout(PAUSE) {
                Ok(ProgressEvent::Logs { repo, log }) => self.open(repo, log),
                Ok(ProgressEvent::Ended(run)) => {
                    let ended =
                        |it: &OpenLog| it.repo == run.repo && Some(&it.name) == run.log.as_ref();
                    for log in self.open.extract_if(.., |it| ended(it)).collect::<Vec<_>>() {
                        self.finish(log);
                    }
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let mut open = std::mem::take(&mut self.open);
            open.retain_mut(|log| self.print_next(log).is_some());
            self.open = open;
        }
        for log in std::mem::take(&mut self.open) {
            self.finish(log);
        }
    }

    /// Opens a log. The name may come from another user's process.
    fn open(&mut self, repo: String, name: String) {
        let known = self.open.iter().any(|it| it.repo == repo && it.name == name);
        if known || self.open.len() >= MOST || !logs::is_log_name(&name) {
            return;
        }
        // A log that cannot be read says so in `agent log`.
        if let Ok(reader) = LogReader::open(&log_dir(&self.context, &repo).join(&name)) {
            self.streamed.insert(repo.clone());
            self.open.push(OpenLog { repo, name, reader, started: false, held: None });
        }
    }

    /// Prints the next lines of a log; `Some(false)`: there are no more yet, `None`: it cannot be read.
    fn print_next(&mut self, log: &mut OpenLog) -> Option<bool> {
        let lines = log.reader.lines().ok()?;
        let is_news = !lines.is_empty();
        for line in lines {
            if !std::mem::replace(&mut log.started, true) {
                continue;
            }
            if let Some(held) = log.held.take() {
                self.print(&log.repo, &held);
            }
            match logs::is_finish(&line) {
                true => log.held = Some(line),
                false => self.print(&log.repo, &line),
            }
        }
        let _ = self.out.flush();
        Some(is_news)
    }

    /// Prints the rest of a log whose action ended.
    fn finish(&mut self, mut log: OpenLog) {
        for _ in 0..LAST_PIECES {
            if self.print_next(&mut log) != Some(true) {
                break;
            }
        }
        if let (Some(rest), true) = (log.reader.rest(), log.started) {
            self.print(&log.repo, &rest);
        }
        let _ = self.out.flush();
    }

    fn print(&mut self, repo: &str, line: &str) {
        let name =
            if self.prefixed { format!("{} | ", format::escaped(repo)) } else { String::new() };
        // The terminal may be gone; the log has it all.
        let _ = writeln!(self.out, "{name}{}", log::harmless(line));
    }
}
