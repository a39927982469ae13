//! Processes as names: which one a number means, and whether it still runs. Starts, signals and waits
//! for none.

use serde::{Deserialize, Serialize};

/// One process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, which is also that of its process group.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
    pub start: u64,
}

impl Process {
    /// The process with number `pid`, if there is one that has not ended.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name in field 2 may hold anything, so count from its last parenthesis.
        let behind_name = stat.iter().rposition(|&byte| byte == b')')? + 2;
        let mut fields = stat.get(behind_name..)?.split(|&byte| byte == b' ');
        if matches!(fields.next()?, b"Z" | b"X") {
            return None;
        }
        let start = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// This process.
    pub fn current() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::find(pid).unwrap_or(Self { pid, start: 0 })
    }

    /// Whether it still runs.
    pub fn lives(self) -> bool {
        Self::find(self.pid) == Some(self)
    }
}
