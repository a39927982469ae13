//! The process of a script: it exists, and waits at a gate until it is recorded, before the first
//! instruction of the script runs. Does not know what is recorded.
//!
//! No other program is executed before it: the forked process waits before execve(2). The thread that forks
//! returns only then, so it is one of its own.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::process::Pid;

use super::{WaitOutcome, cannot_start, end_group, open, wait_while};
use crate::system::pid::Process;
use crate::system::privilege::Identity;
use crate::system::users::User;
use crate::system::{ffi, watchdog};

/// Exit codes of a program that is not there and of one that cannot be executed, as in a shell.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Command of a script with its directory, environment and user.
#[derive(Debug)]
pub struct ScriptCommand {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Working directory.
    pub working_dir: PathBuf,
    /// Device and inode of the checked working directory; the script starts in no other one.
    pub id: Option<(u64, u64)>,
    /// Complete environment.
    pub env: Vec<(OsString, OsString)>,
    /// User to run as; `None` for the current user. Where that user cannot reach the working directory,
    /// the script starts in `/`.
    pub user: Option<User>,
}

/// A started script that waits at the gate.
pub struct GatedScript {
    process: Process,
    gate: UnixStream,
    program: OsString,
    log: File,
    starting: JoinHandle<io::Result<Child>>,
}

impl ScriptCommand {
    /// Starts a process that waits at the gate; its output goes to `log`.
    ///
    /// # Errors
    /// When no process can be started.
    #[expect(clippy::disallowed_methods, reason = "the one door to processes")]
    pub fn spawn_gated(&self, log: &File) -> Result<GatedScript> {
        let (program, args) = self.argv.split_first().context("nothing to start")?;
        let identity = self.user.as_ref().map(Identity::of).transpose()?.flatten();
        let (mut gate, inside) = UnixStream::pair().context("no gate for the script")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(&self.working_dir)
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        let dir = CString::new(self.working_dir.as_os_str().as_bytes())?;
        let mut waiting = WaitingScript { inside, identity, dir, id: self.id };
        ffi::before_program(&mut command, gate.as_raw_fd(), move || waiting.wait());
        let start = move || {
            let started = command.spawn();
            // Closes our copy of its end of the gate: where nothing was started, the read below ends.
            drop(command);
            started
        };
        let starting = thread::Builder::new()
            .spawn(start)
            .with_context(|| cannot_start("a thread for the script"))?;
        let mut pid = [0; size_of::<i32>()];
        if gate.read_exact(&mut pid).is_err() {
            let error = starting.join().map_or_else(
                |_| lost(),
                |started| match started {
                    Err(error) => error.into(),
                    Ok(mut child) => {
                        // It ended before it was at the gate.
                        let _ = child.wait();
                        lost()
                    }
                },
            );
            return Err(error.context(cannot_start("a process for the script")));
        }
        let pid = i32::from_ne_bytes(pid);
        // Only this process can reap it, so the number cannot belong to another process.
        let process = Process::find(pid).unwrap_or(Process { pid, start: 0 });
        let (program, log) = (program.clone(), log.try_clone()?);
        Ok(GatedScript { process, gate, program, log, starting })
    }
}

fn lost() -> anyhow::Error {
    anyhow!("the process was ended")
}

/// The forked process, before it becomes the script. Only calls the kernel: see [`ffi::before_program`].
struct WaitingScript {
    inside: UnixStream,
    identity: Option<Identity>,
    dir: CString,
    id: Option<(u64, u64)>,
}

impl WaitingScript {
    fn wait(&mut self) -> io::Result<()> {
        rustix::process::setsid()?;
        let pid = rustix::process::getpid().as_raw_pid();
        rustix::io::write(&self.inside, &pid.to_ne_bytes())?;
        if let Some(identity) = &mut self.identity {
            if identity.assume().is_err() {
                complain(b"the process cannot become the user of the script\n");
                return Err(Errno::PERM.into());
            }
            // Looked up again with the rights of that user.
            rustix::process::chdir(c"/")?;
            let _ = rustix::process::chdir(&self.dir);
        }
        if let Some(id) = self.id {
            let found = rustix::fs::stat(c".")?;
            if (found.st_dev, found.st_ino) != id {
                complain(
                    b"the directory was exchanged while the script was to begin in it; see who can \
                      write in the directories above it\n",
                );
                return Err(Errno::PERM.into());
            }
        }
        let mut go = [0];
        loop {
            match rustix::io::read(&self.inside, &mut go) {
                Ok(0) => return Err(Errno::CANCELED.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Writes to the log of the script, which is standard error by now.
fn complain(text: &[u8]) {
    let _ = rustix::io::write(rustix::stdio::stderr(), text);
}

impl GatedScript {
    /// Process of the script, to be recorded before [`GatedScript::release`].
    pub fn process(&self) -> Process {
        self.process
    }

    /// Lowers the script's CPU priority to the minimum (nice 19).
    pub fn lower_priority(&self) {
        // A failure is harmless: the script runs at normal priority.
        let _ = rustix::process::setpriority_process(Pid::from_raw(self.process.pid), 19);
    }

    /// Opens the gate and waits for the script until `deadline` (time since boot). Calls `beat` a few
    /// times a second. A program that cannot be executed ends as in a shell, and the log says why.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn release(self, deadline: Duration, mut beat: impl FnMut()) -> Result<WaitOutcome> {
        self.release_while(deadline, || {
            beat();
            true
        })
    }

    /// As [`GatedScript::release`]; the script is also ended, as one that timed out, once `lasts` is false.
    ///
    /// # Errors
    /// When the wait fails.
    pub fn release_while(
        mut self,
        deadline: Duration,
        lasts: impl FnMut() -> bool,
    ) -> Result<WaitOutcome> {
        let _pause = watchdog::pause();
        // If the process has already ended, the wait below returns its status.
        let _ = self.gate.write_all(b"g");
        let timed_out = match open(self.process) {
            Some(handle) => !wait_while(&handle, deadline, lasts)?,
            None => false,
        };
        if timed_out {
            end_group(self.process)?;
        }
        let mut child = match self.starting.join().map_err(|_| lost())? {
            Ok(child) => child,
            Err(error) => {
                let program = Path::new(&self.program).display();
                let _ = writeln!(self.log, "cannot start {program}: {error}");
                return Ok(WaitOutcome::Exited(match error.kind() {
                    ErrorKind::NotFound => NOT_FOUND,
                    _ => NOT_EXECUTABLE,
                }));
            }
        };
        let status = child.wait().context("cannot wait for the script")?;
        Ok(match (timed_out, status.code(), status.signal()) {
            (true, ..) => WaitOutcome::TimedOut,
            (false, Some(code), _) => WaitOutcome::Exited(code),
            (false, None, signal) => WaitOutcome::Signalled(signal.unwrap_or_default()),
        })
    }
}
