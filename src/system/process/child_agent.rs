//! Agent processes that work on repositories, and their messages to the waiting parent: a line when an
//! action begins, and at the end what they could not record. They may run longer than the parent, and a
//! worker never blocks on a missing reader. Does not know the format of the messages.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::{cannot_start, input, is_ready, open, ours_with, wait};
use crate::system::clock::since_boot;
use crate::system::pid::Process;

/// Bytes read from a worker's output at a time.
const PIECE: usize = 64 << 10;
/// Interval of the checks for a stopped child.
const BEAT: Duration = Duration::from_secs(1);
/// Consecutive checks after which a child counts as stopped: a debugger stops one for a moment.
const STOPPED: u32 = 3;
/// Time for a helper to end after SIGTERM, and again after SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// Time for a worker to take what its parent sends.
const TAKEN: Duration = Duration::from_secs(30);

/// Detached workers; each is reaped once it has ended.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// An agent process for one repository, or for all repositories of a user.
pub struct ChildAgent {
    child: Child,
    process: Process,
    /// Its standard output, until the end of that.
    output: Option<File>,
}

/// Destination of the standard output of an agent process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMode {
    /// A pipe that [`ChildAgent::wait_for_exit`] reads.
    Piped,
    /// Our own standard output.
    Inherit,
}

/// Result of waiting for an agent process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildFinish {
    /// The process ended with this exit code, encoded as the shell does.
    Code(u8),
    /// The time limit passed; the process continues.
    Overdue,
    /// A signal such as `kill -STOP` stopped the process; it waits for SIGCONT.
    Stopped,
}

impl ChildAgent {
    /// Starts `agent ARGS…`, with `helper_input` as its standard input; [`ChildAgent::wait_for_exit`] reads
    /// its output. It starts its own session and may run longer than this process. What is written to the
    /// returned line can be read at its standard output.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(args: &[OsString], helper_input: Option<&File>) -> Result<(Self, UnixStream)> {
        let (line, theirs) = UnixStream::pair().with_context(|| cannot_start("a worker"))?;
        // A worker that is stopped takes nothing; its tick has others.
        line.set_write_timeout(Some(TAKEN))?;
        let child = ours_with(args)
            .stdin(input(helper_input)?)
            .stdout(OwnedFd::from(theirs))
            .spawn()
            .with_context(|| cannot_start("a worker"))?;
        let output = File::from(OwnedFd::from(line.try_clone()?));
        Ok((Self { output: Some(output), ..Self::of(child) }, line))
    }

    /// Starts `agent ARGS…` with only `env` as its environment; the child changes its user itself.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start_for(
        args: &[OsString],
        env: &[(OsString, OsString)],
        helper_input: &File,
        speaks: OutputMode,
    ) -> Result<Self> {
        let mut command = ours_with(args);
        command.env_clear().envs(env.iter().map(|(key, value)| (key, value)));
        command.stdin(input(Some(helper_input))?);
        if speaks == OutputMode::Piped {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| cannot_start("a helper"))?;
        let output = child.stdout.take().map(|output| File::from(OwnedFd::from(output)));
        Ok(Self { output, ..Self::of(child) })
    }

    /// Starts `agent ARGS…` with `input_file` as its standard input, and does not wait for it: it keeps no output of ours
    /// open, such as cron's pipe.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start_detached(args: &[OsString], input_file: &File) -> Result<()> {
        let child = ours_with(args)
            .stdin(input(Some(input_file))?)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| cannot_start("a worker"))?;
        Self::of(child).detach();
        Ok(())
    }

    fn of(child: Child) -> Self {
        let pid = child.id() as i32;
        // Only this process can reap it, so the number cannot belong to another process.
        let process = Process::find(pid).unwrap_or(Process { pid, start: 0 });
        Self { child, process, output: None }
    }

    /// Identity of the process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Passes its output to `hear`, line by line and long lines in pieces, until the child ends,
    /// `patience` passes, or the child is stopped. A duration that `hear` returns replaces the
    /// remaining time.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn wait_for_exit(
        &mut self,
        patience: Duration,
        mut hear: impl FnMut(&[u8]) -> Option<Duration>,
    ) -> Result<ChildFinish> {
        let mut deadline = since_boot().saturating_add(patience);
        let mut stopped = 0;
        let mut line = Vec::new();
        let mut piece = [0; PIECE];
        // After the end of its output, its exit status says the rest.
        while let Some(words) = &mut self.output {
            let left = deadline.saturating_sub(since_boot());
            if !is_ready(words, PollFlags::IN, left.min(BEAT))? {
                stopped = if self.process.is_stopped() { stopped + 1 } else { 0 };
                match left.is_zero() {
                    _ if stopped >= STOPPED => return Ok(ChildFinish::Stopped),
                    true => return Ok(ChildFinish::Overdue),
                    false => continue,
                }
            }
            let read = words.read(&mut piece).unwrap_or_default();
            for part in piece.get(..read).unwrap_or_default().split_inclusive(|&byte| byte == b'\n')
            {
                line.extend_from_slice(part);
                if line.ends_with(b"\n") || line.len() >= PIECE {
                    if let Some(more) = hear(&line) {
                        deadline = since_boot().saturating_add(more);
                    }
                    line.clear();
                }
            }
            if read == 0 {
                self.output = None;
            }
        }
        if !line.is_empty() {
            hear(&line);
        }
        self.end_before(deadline)
    }

    /// Waits for its end until `deadline` (time since boot), or until it is stopped.
    fn end_before(&mut self, deadline: Duration) -> Result<ChildFinish> {
        let mut stopped = 0;
        while let Some(end) = open(self.process) {
            let beat = since_boot() + BEAT;
            if wait(&end, deadline.min(beat), || {})? {
                break;
            }
            stopped = if self.process.is_stopped() { stopped + 1 } else { 0 };
            if stopped >= STOPPED {
                return Ok(ChildFinish::Stopped);
            }
            if since_boot() >= deadline {
                return Ok(ChildFinish::Overdue);
            }
        }
        Ok(ChildFinish::Code(code_of(
            self.child.wait().context("cannot wait for a process of ours")?,
        )))
    }

    /// Ends the process with SIGTERM, then SIGKILL. Only for one that holds no lock and runs no action.
    /// Returns a thread that the kernel keeps alive; `None` when the process is gone.
    pub fn end(mut self) -> Option<Process> {
        for signal in [Signal::TERM, Signal::KILL] {
            if let Some(pid) = Pid::from_raw(self.process.pid) {
                // Not reaped yet, so the number is still its own; an ended process is the wanted
                // result.
                let _ = kill_process(pid, signal);
            }
            if let Ok(ChildFinish::Code(_)) = self.end_before(since_boot() + GRACE) {
                return None;
            }
        }
        let remains = self.process.remains();
        self.detach();
        remains
    }

    /// Stops waiting for the process. It continues; a later call here, also for another child, reaps
    /// it.
    pub fn detach(self) {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        left.push(self.child);
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Sends a line from a helper to the waiting parent; blocks until it is written.
///
/// # Errors
/// When the parent is gone.
pub fn report(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}

/// Sends a short line from a worker to the waiting parent, unless there is no reader or its pipe stays full for
/// `patience`: a worker must not block on that. Returns whether it was sent.
pub fn print_line(line: &str, patience: Duration) -> bool {
    let mut out = std::io::stdout().lock();
    let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    let is_ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&limit));
    let line = format!("{line}\n");
    is_ready == Ok(1) && out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
}
