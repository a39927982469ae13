//! Duties of process 1: it inherits every orphan and must reap it, or its number stays taken. Starts
//! one process, which does everything else.

use std::ffi::OsString;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process};

use super::{cannot_start, ours_with};
use crate::system::pid::Process;

/// The main child of process 1.
#[derive(Debug)]
pub struct ChildReaper {
    child: Process,
}

/// Whether this process is process 1 of its machine or container.
pub fn is_init() -> bool {
    rustix::process::getpid().is_init()
}

/// Forwards a signal to `process`: SIGHUP to reload its configuration, else SIGTERM.
pub fn hand_on(process: Process, reload: bool) {
    if let Some(pid) = Pid::from_raw(process.pid) {
        // If it has already ended, it needs no signal.
        let _ = kill_process(pid, if reload { Signal::HUP } else { Signal::TERM });
    }
}

impl ChildReaper {
    /// Starts `agent ARGS…` with our own standard streams.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(args: &[OsString]) -> Result<Self> {
        let child = ours_with(args).spawn().with_context(|| cannot_start("agent listen"))?;
        let pid = child.id() as i32;
        Ok(Self { child: Process::find(pid).unwrap_or(Process { pid, start: 0 }) })
    }

    /// The main child.
    pub fn process(&self) -> Process {
        self.child
    }

    /// Reaps every child until the main one ends; returns its exit code, encoded as the shell does.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn reap(self) -> Result<u8> {
        loop {
            let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait for a process"),
            };
            if pid.as_raw_nonzero().get() == self.child.pid {
                let signalled = status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or(signalled).unwrap_or(1);
                return Ok(u8::try_from(code).unwrap_or(1));
            }
        }
    }
}
