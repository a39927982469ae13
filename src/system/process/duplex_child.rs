//! A child program with pipes for its standard input and output, such as ssh. Its stderr goes to a
//! small memory file: a background process that the child leaves would hold a pipe open, and a pipe
//! could fill up. Every wait has a timeout. Knows no protocol.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::ioctl_fionbio;

use super::{Process, end_group, open, ours_with, wait};
use crate::system::clock::since_boot;

/// Bytes kept of the program's stderr.
const MOST_COMPLAINTS: u64 = 4096;

/// A running program with open pipes; dropping it ends its process group.
#[derive(Debug)]
pub struct DuplexChild {
    child: Child,
    process: Process,
    input: Option<ChildStdin>,
    output: ChildStdout,
    complaints: File,
}

/// Exit of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildExit {
    /// Exit code; `None` when a signal ended it, such as ours after a timeout.
    pub code: Option<i32>,
    /// First 4 KB of stderr; invalid UTF-8 is replaced.
    pub complaints: String,
}

impl DuplexChild {
    /// Starts `argv` with `env` added to our environment, in its own process group and in `/`: a
    /// background process that it leaves must keep no file system busy.
    ///
    /// # Errors
    /// When the program does not exist, or no process can be started.
    #[expect(clippy::disallowed_methods, reason = "the one door to processes")]
    pub fn start(argv: &[OsString], env: &[(&str, &str)]) -> io::Result<Self> {
        let Some((program, args)) = argv.split_first() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied());
        Self::spawn(command)
    }

    /// Starts `agent ARGS…` as [`DuplexChild::start`] does.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start_ours(args: &[OsString]) -> io::Result<Self> {
        Self::spawn(ours_with(args))
    }

    fn spawn(mut command: Command) -> io::Result<Self> {
        let complaints = never_growing(MOST_COMPLAINTS)?;
        let mut child = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?)
            .process_group(0)
            .spawn()?;
        let pid = child.id() as i32;
        // Only this process can reap it, so the number cannot belong to another process.
        let process = Process::find(pid).unwrap_or(Process { pid, start: 0 });
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => {
                // Non-blocking, because a program that does not read must not block us.
                ioctl_fionbio(&input, true)?;
                Ok(Self { child, process, input: Some(input), output, complaints })
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Reads its standard output, waiting at most `patience`; returns 0 at its end.
    ///
    /// # Errors
    /// `TimedOut` when no output arrived.
    pub fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize> {
        until_ready(&self.output, PollFlags::IN, patience)?;
        self.output.read(into)
    }

    /// Writes some of `bytes` to its standard input, waiting at most `patience`.
    ///
    /// # Errors
    /// `TimedOut` when it reads nothing, `BrokenPipe` when it has ended.
    pub fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        let Some(input) = &mut self.input else { return Err(io::ErrorKind::BrokenPipe.into()) };
        until_ready(&*input, PollFlags::OUT, patience)?;
        input.write(bytes)
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Closes its standard input, waits at most `patience` for its end, then ends it.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn finish(mut self, patience: Duration) -> anyhow::Result<ChildExit> {
        self.end(patience)?;
        let code = self.child.wait()?.code();
        let mut bytes = Vec::new();
        self.complaints.rewind()?;
        (&mut self.complaints).take(MOST_COMPLAINTS).read_to_end(&mut bytes)?;
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(ChildExit { code, complaints: String::from_utf8_lossy(text).into_owned() })
    }

    fn end(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.close_input();
        match open(self.process) {
            Some(handle) if !wait(&handle, since_boot() + patience, || {})? => {
                end_group(self.process)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for DuplexChild {
    fn drop(&mut self) {
        // A caller that needs the error has called `finish`.
        if self.end(Duration::ZERO).is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// Creates a memory file of a fixed size; writes past its end fail.
fn never_growing(bytes: u64) -> io::Result<File> {
    let file = memfd_create("complaints", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, bytes)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file.into())
}

fn until_ready(end: &impl AsFd, what: PollFlags, patience: Duration) -> io::Result<()> {
    let deadline = since_boot() + patience;
    loop {
        let left = deadline.saturating_sub(since_boot());
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(end, what)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::system::process::duplex_child::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(line: &str) -> DuplexChild {
        let argv = ["sh", "-c", line].map(OsString::from);
        DuplexChild::start(&argv, &[("SAID", "so")]).unwrap()
    }

    fn all(dialogue: &mut DuplexChild) -> Vec<u8> {
        let (mut text, mut piece) = (Vec::new(), [0; 1000]);
        loop {
            match dialogue.read(&mut piece, LONG).unwrap() {
                0 => return text,
                read => text.extend_from_slice(&piece[..read]),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_answered() {
        let mut cat = shell("read line; echo \"$line $SAID $PWD\"; echo no >&2; exit 7");
        assert_eq!(cat.write(b"it is\n", LONG).unwrap(), 6);
        assert_eq!(all(&mut cat), b"it is so /\n");
        let farewell = cat.finish(LONG).unwrap();
        assert_eq!(farewell, ChildExit { code: Some(7), complaints: "no\n".to_owned() });
    }

    #[test]
    fn a_flood_of_complaints_is_cut_and_stops_nothing() {
        let mut loud = shell(
            "i=0; while [ $i -lt 9999 ]; do echo complaint $i >&2; i=$((i+1)); done; echo done",
        );
        assert_eq!(all(&mut loud), b"done\n");
        let farewell = loud.finish(LONG).unwrap();
        assert!(farewell.complaints.starts_with("complaint 0\n"));
        assert!(farewell.complaints.len() <= 4096);
    }

    #[test]
    fn what_stays_in_the_background_delays_no_tick() {
        let mut parent = shell("sleep 600 <&- >&- & echo $!");
        let pid: i32 = String::from_utf8(all(&mut parent)).unwrap().trim().parse().unwrap();
        let farewell = parent.finish(LONG).unwrap();
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        );
        assert_eq!(farewell.code, Some(0));
    }

    #[test]
    fn a_program_that_says_and_takes_nothing_is_given_up_and_ended() {
        let mut deaf = shell("sleep 600 & echo $!; wait");
        let mut piece = [0; 100];
        let read = deaf.read(&mut piece, LONG).unwrap();
        let child: i32 = std::str::from_utf8(&piece[..read]).unwrap().trim().parse().unwrap();
        let brief = Duration::from_millis(10);
        assert_eq!(deaf.read(&mut piece, brief).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let full = loop {
            if let Err(error) = deaf.write(&[0; 65536], brief) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        assert_eq!(deaf.finish(brief).unwrap().code, None);
        let handle = Process::find(child).and_then(open);
        assert!(handle.is_none_or(|handle| wait(&handle, since_boot() + LONG, || {}).unwrap()));
    }

    #[test]
    fn a_program_that_is_not_there_is_reported() {
        let error = DuplexChild::start(&["/no/such/program".into()], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
