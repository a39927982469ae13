//! Processes of our own that work on repositories, and what they say to whoever waits for them: one line
//! when something begins, and at the end what they could not write down. They outlive us, and none of
//! them ever waits for somebody to listen. Knows not what is said.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{input, ours_with};

/// What of a worker's line is heard at a time, in bytes.
const PIECE: u64 = 64 << 10;

/// A process of ours for one repository, or for all those of a user.
pub struct Worker {
    child: Child,
}

/// Where what a process of ours says is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// By [`Worker::outlast`].
    ToUs,
    /// Where what we say is.
    BesideUs,
}

impl Worker {
    /// Starts `agent ARGS…`; what it says is heard by [`Worker::outlast`], and it finds `parcel` in
    /// its standard input. It makes a session of its own and outlives us.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(args: &[OsString], parcel: Option<&File>) -> Result<Self> {
        let child = ours_with(args)
            .stdin(input(parcel)?)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")?;
        Ok(Self { child })
    }

    /// Starts `agent ARGS…` with nothing of our environment but `env`; it becomes another user
    /// itself.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start_for(
        args: &[OsString],
        env: &[(OsString, OsString)],
        parcel: &File,
        speaks: Speaks,
    ) -> Result<Self> {
        let mut command = ours_with(args);
        command.env_clear().envs(env.iter().map(|(key, value)| (key, value)));
        command.stdin(input(Some(parcel))?);
        if speaks == Speaks::ToUs {
            command.stdout(Stdio::piped());
        }
        Ok(Self { child: command.spawn().context("cannot start a helper")? })
    }

    /// Waits for its end: its exit code, as the shell has it.
    ///
    /// # Errors
    /// When the kernel does not let us wait.
    pub fn code(mut self) -> Result<u8> {
        let status = self.child.wait().context("cannot wait for a helper")?;
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Hears what it says, line by line and long lines in pieces, until it ends: whether it ended
    /// well.
    ///
    /// # Errors
    /// When the kernel does not let us wait.
    pub fn outlast(mut self, mut hear: impl FnMut(&[u8])) -> Result<bool> {
        if let Some(words) = self.child.stdout.take() {
            let mut words = BufReader::new(words);
            let mut line = Vec::new();
            // What cannot be heard is told by how it ends.
            while let Ok(1..) = words.by_ref().take(PIECE).read_until(b'\n', &mut line) {
                hear(&line);
                line.clear();
            }
        }
        Ok(self.child.wait().context("cannot wait for a worker")?.success())
    }
}

/// Says a short line to whoever waits for us, who are a worker, unless nobody does or whoever does is
/// not ready for it: that is no reason to wait.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let is_ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&Timespec::default()));
    if is_ready == Ok(1) {
        let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    }
}
