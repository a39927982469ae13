//! Identity and state of processes and threads, from /proc. Starts, signals and waits for none.

use std::os::unix::fs::FileExt;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use serde::{Deserialize, Serialize};

/// Longest path that [`Process::waits_for`] returns, in bytes.
const MOST_PATH: usize = 4096;

/// Ancestors that are looked at.
const MOST_ANCESTORS: usize = 1000;

/// Identity of one process or thread, distinct from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id; for a process that we start also its process group id.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
    pub start: u64,
}

/// What `/proc/PID/stat` says of a process or thread.
struct ProcessStat {
    state: u8,
    parent: i32,
    start: u64,
}

/// Reads `/proc/PID/stat`; `None` when process or thread `pid` does not exist.
fn stat(pid: i32) -> Option<ProcessStat> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may contain anything, so count from its last parenthesis.
    let behind_name = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let mut fields = stat.get(behind_name..)?.split(|&byte| byte == b' ');
    let state = *fields.next()?.first()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let start = std::str::from_utf8(fields.nth(17)?).ok()?.parse().ok()?;
    Some(ProcessStat { state, parent, start })
}

impl Process {
    /// Finds the process or thread with number `pid`; `None` when it has ended or does not exist.
    pub fn find(pid: i32) -> Option<Self> {
        let ProcessStat { state, start, .. } = stat(pid)?;
        (!matches!(state, b'Z' | b'X')).then_some(Self { pid, start })
    }

    /// Identity of this process.
    pub fn current() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::find(pid).unwrap_or(Self { pid, start: 0 })
    }

    /// Id of the calling thread.
    pub fn current_thread() -> i32 {
        rustix::thread::gettid().as_raw_nonzero().get()
    }

    /// Whether the process still runs.
    pub fn lives(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Whether a signal stopped the process: it does nothing until SIGCONT.
    pub fn is_stopped(self) -> bool {
        stat(self.pid).is_some_and(|it| it.state == b'T' && it.start == self.start)
    }

    /// Parent of the process; `None` when either has ended.
    pub fn parent(self) -> Option<Self> {
        let parent = stat(self.pid).filter(|it| it.start == self.start)?.parent;
        Self::find(parent)
    }

    /// Whether this process descends from it. A daemon does not: init has adopted it.
    pub fn is_ancestor(self) -> bool {
        let parents = std::iter::successors(Self::current().parent(), |process| process.parent());
        // Process ids are bounded, and a chain that changes while it is read must end.
        parents.take(MOST_ANCESTORS).any(|process| process == self)
    }

    /// A thread that keeps a killed process from ending: the kernel waits in it, for instance for a
    /// disk. `None` when the process is gone.
    pub fn remains(self) -> Option<Self> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let same = stat(self.pid).is_some_and(|it| it.start == self.start);
        let number = |name: std::ffi::OsString| name.to_str()?.parse().ok();
        threads.filter(|_| same).find_map(|entry| Self::find(number(entry.ok()?.file_name())?))
    }

    /// Path for which this thread of ours waits in a system call such as open(2); `None` where it
    /// cannot be determined.
    pub fn waits_for(self) -> Option<String> {
        // A process that changed its user may otherwise not read its own /proc files.
        let before = dumpable_behavior().ok()?;
        set_dumpable_behavior(DumpableBehavior::Dumpable).ok()?;
        let path = self.path_of_call();
        let _ = set_dumpable_behavior(before);
        path
    }

    fn path_of_call(self) -> Option<String> {
        let call = std::fs::read_to_string(format!("/proc/self/task/{}/syscall", self.pid)).ok()?;
        let memory = std::fs::File::open("/proc/self/mem").ok()?;
        // The number of the call, then its arguments: the path is the first or the second of them.
        call.split(' ').skip(1).take(2).find_map(|word| {
            let address = u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()?;
            let mut bytes = vec![0; MOST_PATH];
            let read = memory.read_at(&mut bytes, address).ok()?;
            let path = bytes.get(..read)?.split(|&byte| byte == 0).next()?;
            path.starts_with(b"/").then(|| String::from_utf8_lossy(path).into_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test looks at processes of its own")]

    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn a_stopped_process_is_distinguished_from_one_that_runs_and_one_that_ended() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id() as i32;
        let process = Process::find(pid).unwrap();
        let send = |signal| {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
        };
        assert!(!process.is_stopped());
        send(rustix::process::Signal::STOP);
        while !process.is_stopped() {
            thread::yield_now();
        }
        assert!(process.lives() && process.remains() == Some(process));
        send(rustix::process::Signal::KILL);
        child.wait().unwrap();
        assert!(!process.is_stopped() && !process.lives() && process.remains().is_none());
    }

    #[test]
    fn the_file_that_a_thread_hangs_in_has_a_name() {
        let temp = tempfile::tempdir().unwrap();
        let pipe = temp.path().join("a pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (sender, receiver) = std::sync::mpsc::channel();
        let path = pipe.clone();
        let hangs = thread::spawn(move || {
            sender.send(Process::current_thread()).unwrap();
            std::fs::File::open(path).map(drop)
        });
        let thread = Process::find(receiver.recv().unwrap()).unwrap();
        let text = pipe.to_str().unwrap();
        while thread.waits_for().as_deref() != Some(text) {
            thread::yield_now();
        }
        drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
        hangs.join().unwrap().unwrap();
        // It is joined a moment before the kernel has removed it.
        while thread.lives() {
            thread::yield_now();
        }
    }
}
