//! Where a process can be killed.

/// The system calls that leave a trace outside the process. Not each machine has each of them.
pub const CALLS: [&str; 33] = [
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "ftruncate",
    "fallocate",
    "utimensat",
    "flock",
    "clone",
    "clone3",
    "vfork",
    "execve",
    "wait4",
    "waitid",
    "pidfd_open",
    "pidfd_send_signal",
    "kill",
];

/// Where a process is killed: on entering the `nth` such call.
#[derive(Clone, Debug)]
pub struct Point {
    pub call: &'static str,
    pub nth: usize,
}
