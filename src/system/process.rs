//! Starts all processes: workers of the agent, scripts of repositories, and commands of administrators.
//! Knows nothing of repositories. The output of a script is a file, never a pipe: so a daemon that it
//! leaves behind blocks no reader.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use serde::de::DeserializeOwned;

use super::pid::Process;
use super::{frames, watchdog};
use crate::system::clock::since_boot;

mod child_agent;
mod demo_shell;
mod duplex_child;
mod gated_script;
mod reaper;
mod run_with_input;

pub use child_agent::{ChildAgent, ChildFinish, OutputMode, print_line, report};
pub use demo_shell::{DemoShell, TypedLine, TypedOutput};
pub use duplex_child::{ChildExit, DuplexChild};
pub use gated_script::{GatedScript, ScriptCommand};
pub use reaper::{ChildReaper, hand_on, is_init};
pub use run_with_input::{ChildOutput, run_with_input};

/// Time between SIGTERM and SIGKILL for a script.
const GRACE: Duration = Duration::from_secs(10);
/// Interval at which a waiting worker checks the log.
const BEAT: Duration = Duration::from_millis(250);
/// First interval of polling a process without a pidfd.
const BRIEF: Duration = Duration::from_millis(5);

/// How long a worker waits for its job.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Largest sealed input of a process, in bytes.
const MOST_HANDED_OVER: u64 = 16 << 20;

/// Hint for messages when the system refuses a process or thread.
pub const MORE_TASKS: &str = "end what is not needed, or allow more processes: ulimit -u, and where \
                              systemd or a container limits them TasksMax= or pids.max";

/// The running executable, even if its file has been replaced since.
const OURSELVES: &str = "/proc/self/exe";

/// Method to detect the end of a process.
enum EndWatch {
    /// A pidfd, which becomes readable at the end.
    Handle(OwnedFd),
    /// Polling of the process, where the kernel has no pidfd (before Linux 5.3, or when a seccomp
    /// filter refuses it).
    Process(Process),
}

/// Watches for the end of a process; `None` when it has ended, because its number may belong to another
/// process by now.
fn open(process: Process) -> Option<EndWatch> {
    let handle = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty());
    // Check after the open: from then on the pidfd cannot refer to another process.
    if has_ended(process) {
        return None;
    }
    Some(handle.map_or(EndWatch::Process(process), EndWatch::Handle))
}

/// Whether a process has ended. A child of ours is not reaped.
fn has_ended(process: Process) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return true };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid), look) {
        Ok(ended) => ended.is_some(),
        // Not a child of this process.
        Err(_) => !process.lives(),
    }
}

fn signal_group(leader: Process, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader.pid) {
        // A group that has already ended is the wanted result.
        let _ = kill_process_group(pid, signal);
    }
}

/// Result of waiting for a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// The script exited with this code.
    Exited(i32),
    /// This signal ended the script.
    Signalled(i32),
    /// The timeout passed.
    TimedOut,
}

/// Waits for a script whose worker died; ends the script at `deadline` (time since boot).
///
/// # Errors
/// When the wait fails.
pub fn wait_for_exit(orphan: Process, deadline: Duration, beat: impl FnMut()) -> Result<()> {
    let _pause = watchdog::pause();
    let Some(handle) = open(orphan) else { return Ok(()) };
    if !wait(&handle, deadline, beat)? {
        end_group(orphan)?;
    }
    Ok(())
}

/// Sends SIGTERM to the group, and SIGKILL to its rest after the leader ends or the grace time passes.
fn end_group(leader: Process) -> Result<()> {
    signal_group(leader, Signal::TERM);
    if let Some(handle) = open(leader) {
        wait(&handle, since_boot() + GRACE, || {})?;
    }
    // An ended leader that is not reaped yet keeps the group's number from reuse.
    signal_group(leader, Signal::KILL);
    Ok(())
}

/// Waits for the process until `deadline`; `false` when it still runs.
fn wait(watch: &EndWatch, deadline: Duration, mut beat: impl FnMut()) -> Result<bool> {
    wait_while(watch, deadline, || {
        beat();
        true
    })
}

/// As [`wait`], and no longer than `lasts`, which is called a few times a second.
fn wait_while(
    watch: &EndWatch,
    deadline: Duration,
    mut lasts: impl FnMut() -> bool,
) -> Result<bool> {
    let mut brief = BRIEF;
    loop {
        let left = match lasts() {
            true => deadline.saturating_sub(since_boot()),
            false => Duration::ZERO,
        };
        let ended = match watch {
            EndWatch::Handle(handle) => is_ready(handle, PollFlags::IN, left.min(BEAT))?,
            EndWatch::Process(process) => {
                let ended = has_ended(*process);
                if !ended {
                    std::thread::sleep(left.min(brief));
                    brief = (2 * brief).min(BEAT);
                }
                ended
            }
        };
        if ended || left.is_zero() {
            return Ok(ended);
        }
    }
}

/// Waits until `end` is ready for `what`, at most for `patience`; `false` on timeout.
///
/// # Errors
/// When poll(2) fails.
fn is_ready(end: &impl AsFd, what: PollFlags, patience: Duration) -> Result<bool> {
    let timeout =
        Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    match poll(&mut [PollFd::new(end, what)], Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        ready => Ok(ready.context("cannot wait for a process")? > 0),
    }
}

/// Sets umask 022 for this process and its scripts, whatever cron or the caller set. Files that others
/// must not read get an explicit mode.
pub fn usual_umask() {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
}

/// Whether the process that reads our standard output has ended; `false` where that is neither a pipe
/// nor a socket.
pub fn lost_reader() -> bool {
    let output = std::io::stdout();
    let mut reader = [PollFd::new(&output, PollFlags::empty())];
    // The end of the reader is reported though it was not asked for (poll(2)): of a pipe as an error.
    poll(&mut reader, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && reader.iter().any(|it| it.revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

/// The line to the process that waits for us, which is our standard output, and our job, which comes over
/// it.
///
/// # Errors
/// When there is no such process, or it sends no job within ten seconds.
pub fn job<T: DeserializeOwned>() -> Result<(UnixStream, T)> {
    let line =
        std::io::stdout().as_fd().try_clone_to_owned().context("standard output is closed")?;
    let line = UnixStream::from(line);
    line.set_read_timeout(Some(FIRST_WORD)).context("standard output is no line to a tick")?;
    let job = frames::receive_json(&line).context("no job comes")?;
    Ok((line, job))
}

/// Starts a new session, so that signals of the terminal do not reach this process.
pub fn leave_session() {
    // Fails only for a process group leader, which needs no new session.
    let _ = rustix::process::setsid();
}

/// Makes Ctrl-C print `text` and end this process; workers continue in their own session.
///
/// # Errors
/// When the signal handler cannot be set.
pub fn print_on_interrupt(text: &'static str) -> Result<()> {
    let installed = ctrlc::set_handler(move || {
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::exit(130);
    });
    match installed {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(error) => Err(error).context("cannot catch Ctrl-C"),
    }
}

/// Creates an anonymous memory file for the output of a program.
///
/// # Errors
/// When memfd_create(2) fails.
pub fn report_file() -> Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(memfd_create("report", MemfdFlags::CLOEXEC).context("no memory for a report")?.into())
}

/// Reads at most `cap` bytes from the beginning of a [`report_file`].
///
/// # Errors
/// When it cannot be read.
pub fn reported(mut report: File, cap: u64) -> Result<String> {
    let mut bytes = Vec::new();
    report.rewind()?;
    report.take(cap).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Creates a sealed, immutable memory file with `content`, for the standard input of a process of ours.
///
/// # Errors
/// When the kernel cannot create or seal it.
pub fn sealed_file(content: &[u8]) -> Result<File> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file =
        File::from(memfd_create("helper-input", flags).context("cannot make a memory file")?);
    file.write_all(content)?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, all).context("cannot seal a memory file")?;
    Ok(file)
}

/// Reads the sealed file at our standard input; returns the file and its content. Several processes may
/// read the same one.
///
/// # Errors
/// When standard input is no such file.
pub fn handed_over() -> Result<(File, Vec<u8>)> {
    use std::os::unix::fs::FileExt;
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let size = file.metadata()?.len().min(MOST_HANDED_OVER);
    let mut content = vec![0; size as usize];
    file.read_exact_at(&mut content, 0).context("standard input is no sealed memory file")?;
    Ok((file, content))
}

fn input(helper_input: Option<&File>) -> Result<Stdio> {
    Ok(match helper_input {
        Some(helper_input) => helper_input.try_clone()?.into(),
        None => Stdio::null(),
    })
}

/// Runs a command of the administrator, such as `on_change`, for at most `limit`.
///
/// # Errors
/// When it cannot be started.
#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
pub fn run(argv: &[String], env: &[(&str, String)], limit: Duration) -> Result<WaitOutcome> {
    let Some((program, args)) = argv.split_first() else { bail!("nothing to start") };
    let mut child = Command::new(program)
        .args(args)
        .envs(env.iter().map(|(key, value)| (*key, value)))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    end_within(&mut child, limit)
}

/// Waits at most `limit` for the leader of a process group, then ends the group.
fn end_within(child: &mut Child, limit: Duration) -> Result<WaitOutcome> {
    let pid = child.id() as i32;
    let process = Process::find(pid).unwrap_or(Process { pid, start: 0 });
    let timed_out = match open(process) {
        Some(handle) => !wait(&handle, since_boot() + limit, || {})?,
        None => false,
    };
    if timed_out {
        end_group(process)?;
    }
    let status = child.wait()?;
    Ok(match (timed_out, status.code()) {
        (true, _) => WaitOutcome::TimedOut,
        (false, Some(code)) => WaitOutcome::Exited(code),
        (false, None) => WaitOutcome::Signalled(status.signal().unwrap_or_default()),
    })
}

/// Flag that Ctrl-C sets instead of ending the process.
#[derive(Clone, Debug)]
pub struct InterruptWatch(Arc<AtomicBool>);

impl InterruptWatch {
    /// Sets the signal handler.
    ///
    /// # Errors
    /// When the signal handler cannot be set.
    pub fn watch() -> Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&came);
        ctrlc::set_handler(move || seen.store(true, Ordering::Relaxed))
            .context("cannot catch Ctrl-C")?;
        Ok(Self(came))
    }

    /// Whether Ctrl-C was pressed.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Error message for a process of ours that cannot be started, with the missing prerequisite of this
/// machine.
fn cannot_start(what: &str) -> String {
    let lacking = [
        (OURSELVES, "/proc", "mount -t proc proc /proc"),
        ("/dev/null", "/dev/null", "mknod -m 666 /dev/null c 1 3"),
    ];
    match lacking.iter().find(|(path, ..)| std::fs::metadata(path).is_err()) {
        Some((_, name, remedy)) => {
            format!("cannot start {what}, because there is no {name}\nhint: {remedy}")
        }
        None => format!("cannot start {what}\nhint: {MORE_TASKS}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
fn ours_with(args: &[OsString]) -> Command {
    let mut command = Command::new(OURSELVES);
    command.arg0("agent").args(args);
    command
}
