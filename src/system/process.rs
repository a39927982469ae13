//! The only starter of processes: workers of our own, the repository's scripts, and commands of
//! people. Knows no repository. A script is started behind a gate, so that its process is written down before its
//! first instruction runs, and it gets a file for its output, never a pipe: a daemon that it leaves
//! behind can hold up nobody.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::node::since_boot;
use super::pid::Process;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

mod dialogue;
mod question;
mod worker;

pub use dialogue::{Dialogue, Farewell};
pub use question::{Answer, ask};
pub use worker::{Speaks, Worker, say};

/// How long a script has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);
/// How often a waiting worker looks after the log.
const BEAT: Duration = Duration::from_millis(250);

/// The most that a parcel holds, in bytes.
const MOST_HANDED_OVER: u64 = 16 << 20;

/// This very program, even when the file it was started from has been replaced since.
const OURSELVES: &str = "/proc/self/exe";

/// A handle on a process, unless it has ended: the number alone may be somebody else's by now.
fn open(process: Process) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    process.lives().then_some(handle)
}

fn signal_group(leader: Process, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader.pid) {
        // A group that is gone already is what was wanted.
        let _ = kill_process_group(pid, signal);
    }
}

/// How waiting for a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// Its time was up.
    TimedOut,
}

/// What to start, where and with what.
#[derive(Debug)]
pub struct Script {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The working directory.
    pub folder: PathBuf,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// As whom; `None`: as we are.
    pub user: Option<String>,
}

/// A script that waits at the gate.
pub struct Staged {
    child: Child,
    process: Process,
}

impl Script {
    /// Starts it up to the gate; output goes to `log`.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn stage(&self, log: &File) -> Result<Staged> {
        let child = ours("stage")
            .args(self.user.iter().flat_map(|user| ["--user", user]))
            .arg("--")
            .args(&self.argv)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .context("cannot start a process for the script")?;
        let pid = child.id() as i32;
        // Nobody but us can reap it, so the number cannot have become somebody else's.
        let process = Process::find(pid).unwrap_or(Process { pid, start: 0 });
        Ok(Staged { child, process })
    }
}

impl Staged {
    /// To be written down before [`Staged::go`].
    pub fn process(&self) -> Process {
        self.process
    }

    /// Lets everybody else go first: its share of the processor becomes the least.
    pub fn step_back(&self) {
        // What cannot be slowed down is no worse than what was not.
        let _ = rustix::process::setpriority_process(Pid::from_raw(self.process.pid), 19);
    }

    /// Opens the gate and waits for the script, until `deadline` (time since boot). `beat` is
    /// called a few times a second.
    ///
    /// # Errors
    /// When the kernel does not let us wait.
    pub fn go(mut self, deadline: Duration, beat: impl FnMut()) -> Result<Ended> {
        if let Some(mut gate) = self.child.stdin.take() {
            // Should it be gone already, waiting for it tells how.
            let _ = gate.write_all(b"g");
        }
        let timed_out = match open(self.process) {
            Some(handle) => !wait(&handle, deadline, beat)?,
            None => false,
        };
        if timed_out {
            end_group(self.process)?;
        }
        let status = self.child.wait().context("cannot wait for the script")?;
        Ok(match (timed_out, status.code(), status.signal()) {
            (true, ..) => Ended::TimedOut,
            (false, Some(code), _) => Ended::Exited(code),
            (false, None, signal) => Ended::Signalled(signal.unwrap_or_default()),
        })
    }
}

/// Waits for a script whose worker died; ends it when its `deadline` (time since boot) passes.
///
/// # Errors
/// When the kernel does not let us wait.
pub fn outlast(orphan: Process, deadline: Duration, beat: impl FnMut()) -> Result<()> {
    let Some(handle) = open(orphan) else { return Ok(()) };
    if !wait(&handle, deadline, beat)? {
        end_group(orphan)?;
    }
    Ok(())
}

/// TERM to the group, KILL to what is left of it when its leader has ended or the grace is over.
fn end_group(leader: Process) -> Result<()> {
    signal_group(leader, Signal::TERM);
    if let Some(handle) = open(leader) {
        wait(&handle, since_boot() + GRACE, || {})?;
    }
    // An ended leader that nobody reaped yet keeps the group's number from being given away.
    signal_group(leader, Signal::KILL);
    Ok(())
}

/// Whether the process ended before `deadline`.
fn wait(handle: &OwnedFd, deadline: Duration, mut beat: impl FnMut()) -> Result<bool> {
    loop {
        beat();
        let left = deadline.saturating_sub(since_boot());
        let slice = left.min(BEAT);
        let timeout =
            Timespec { tv_sec: slice.as_secs() as i64, tv_nsec: i64::from(slice.subsec_nanos()) };
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error).context("cannot wait for a process"),
        }
    }
}

/// The far side of the gate: becomes the script once the worker has written it down. Never returns
/// when all goes well.
///
/// # Errors
/// When the worker died before that, or the program cannot be started.
#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
pub fn become_script(argv: &[OsString]) -> Result<std::convert::Infallible> {
    let Some((program, args)) = argv.split_first() else { bail!("nothing to start") };
    rustix::process::setsid().context("cannot make a session for the script")?;
    let mut go = [0];
    if std::io::stdin().read(&mut go)? == 0 {
        bail!("the worker died before the script was to begin");
    }
    let error = Command::new(program).args(args).stdin(Stdio::null()).exec();
    Err(error).with_context(|| format!("cannot start {}", Path::new(program).display()))
}

/// Whatever the umask of cron or of the caller: from now on files have the usual modes, those of the
/// scripts included. What others must not read is made with a mode of its own.
pub fn usual_umask() {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
}

/// Makes a session of our own, so that what is typed at a terminal does not reach us.
pub fn leave_session() {
    // Fails only for the leader of a group, who has no need of it.
    let _ = rustix::process::setsid();
}

/// From now on Ctrl-C prints `text` and ends this process; workers have a session of their own.
///
/// # Errors
/// When the signal cannot be caught.
pub fn tell_on_interrupt(text: &'static str) -> Result<()> {
    let told = ctrlc::set_handler(move || {
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::exit(130);
    });
    match told {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(error) => Err(error).context("cannot catch Ctrl-C"),
    }
}

/// A file without a name for what a program prints; needs no disk.
///
/// # Errors
/// When the kernel does not give one.
pub fn report_file() -> Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(memfd_create("report", MemfdFlags::CLOEXEC).context("no memory for a report")?.into())
}

/// The beginning of what a process wrote into its [`report_file`], at most `cap` bytes.
///
/// # Errors
/// When it cannot be read.
pub fn reported(mut report: File, cap: u64) -> Result<String> {
    let mut bytes = Vec::new();
    report.rewind()?;
    report.take(cap).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A file without a name that holds `content` and can never be changed again, for the standard input
/// of a process of ours.
///
/// # Errors
/// When the kernel does not give one.
pub fn parcel(content: &[u8]) -> Result<File> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("parcel", flags).context("no memory for a parcel")?);
    file.write_all(content)?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, all).context("a parcel cannot be sealed")?;
    Ok(file)
}

/// The parcel in our standard input, and its content. Several processes may read one at a time.
///
/// # Errors
/// When there is none.
pub fn handed_over() -> Result<(File, Vec<u8>)> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let size = file.metadata()?.len().min(MOST_HANDED_OVER);
    let mut content = vec![0; size as usize];
    file.read_exact_at(&mut content, 0).context("there is no parcel")?;
    Ok((file, content))
}

fn input(parcel: Option<&File>) -> Result<Stdio> {
    Ok(match parcel {
        Some(parcel) => parcel.try_clone()?.into(),
        None => Stdio::null(),
    })
}

/// Runs a command of the administrator's, such as `on_change`, to its end or for `limit`.
///
/// # Errors
/// When it cannot be started.
#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
pub fn run(argv: &[String], env: &[(&str, String)], limit: Duration) -> Result<Ended> {
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

/// Waits for the leader of a process group, for `limit`, and ends the group then.
fn end_within(child: &mut Child, limit: Duration) -> Result<Ended> {
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
        (true, _) => Ended::TimedOut,
        (false, Some(code)) => Ended::Exited(code),
        (false, None) => Ended::Signalled(status.signal().unwrap_or_default()),
    })
}

/// A shell at which a person types; `agent` means this very program there.
#[derive(Clone, Debug)]
pub struct Shell {
    /// The working directory.
    pub folder: PathBuf,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
}

/// A line that was typed and runs.
pub struct Typed {
    child: Child,
    output: File,
}

/// What a typed line did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// How it ended.
    pub ended: Ended,
    /// What it printed, errors among it; what is no UTF-8 is replaced.
    pub text: String,
}

impl Shell {
    /// The shell's parent is this process, whatever became of the file that it was started from.
    const AGENT: &str = "agent() { (exec -a agent \"/proc/$PPID/exe\" \"$@\"); }\n";

    /// Starts `line` in a process group of its own.
    ///
    /// # Errors
    /// When there is no bash, or no process can be started.
    #[expect(clippy::disallowed_methods, reason = "the one door to processes")]
    pub fn start(&self, line: &str) -> Result<Typed> {
        let output = report_file()?;
        let child = Command::new("bash")
            .arg("-c")
            .arg(format!("{}{line}", Self::AGENT))
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()
            .context("cannot start bash\nhint: apt-get install bash")?;
        Ok(Typed { child, output })
    }
}

impl Typed {
    /// Waits for it, at most for `limit`.
    ///
    /// # Errors
    /// When the kernel does not let us wait, or read what it printed.
    pub fn finish(mut self, limit: Duration) -> Result<Said> {
        let ended = end_within(&mut self.child, limit)?;
        let mut bytes = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut bytes)?;
        Ok(Said { ended, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// Hears of Ctrl-C instead of being ended by it.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on.
    ///
    /// # Errors
    /// When the signal cannot be caught.
    pub fn watch() -> Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&came);
        ctrlc::set_handler(move || seen.store(true, Ordering::Relaxed))
            .context("cannot catch Ctrl-C")?;
        Ok(Self(came))
    }

    /// Whether it was pressed.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn ours(command: &str) -> Command {
    ours_with(&[OsString::from(command)])
}

#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
fn ours_with(args: &[OsString]) -> Command {
    let mut command = Command::new(OURSELVES);
    command.arg0("agent").args(args);
    command
}
