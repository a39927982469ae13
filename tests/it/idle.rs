//! What an idle tick does, by the system calls that it makes: 1,440 times a day it must cost next
//! to nothing and wear out no disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

/// Everything that says that a file was written, replaced or touched: path, inode, size, change time.
pub type Traces = Vec<(PathBuf, u64, u64, i64, i64)>;

fn three_current_repositories() -> Sandbox {
    let machine = Sandbox::new();
    for name in ["web", "ops", "dns"] {
        machine.serve(name, &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
        machine.clone_to_root(name);
    }
    machine.tick().ok();
    machine.tick().ok();
    for name in ["web", "ops", "dns"] {
        assert_eq!(machine.lastaction(name), Some(machine.head(name)));
    }
    machine
}

pub fn traces(machine: &Sandbox) -> Traces {
    let root = machine.root();
    machine
        .files_below(&root)
        .into_iter()
        .filter(|path| !path.ends_with("last-tick"))
        .map(|path| {
            let meta = fs::symlink_metadata(root.join(&path)).unwrap();
            (path, meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec())
        })
        .collect()
}

/// The system calls of an idle tick and of everything that it starts, as strace tells them, with
/// the path of each descriptor.
pub fn calls_of_a_tick(machine: &Sandbox) -> Vec<String> {
    let trace = machine.path("trace");
    let line = machine.agent_line(&["tick", "--trigger", "cron"]);
    let mut strace = machine.command("strace");
    strace.args(["-f", "-yy", "-o", text(&trace)]).args(line);
    let ran = Ran::of(&mut strace).ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "an idle tick is silent");
    fs::read_to_string(trace)
        .unwrap()
        .lines()
        // Each line begins with the process id, and two words more when a call was interrupted.
        .filter_map(|line| line.split_once(' '))
        .map(|(_, call)| call.trim_start().trim_start_matches("<... ").to_owned())
        .collect()
}

/// Whether a call, as strace tells it, changes something that outlives the process.
pub fn writes(call: &str) -> bool {
    let name: String =
        call.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let to_a_file = call
        .split_once('<')
        .is_some_and(|(_, path)| path.starts_with('/') && !path.starts_with("/dev/"));
    match name.as_str() {
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "sendfile"
        | "copy_file_range" => to_a_file,
        "open" | "openat" | "openat2" => {
            ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag))
                && !call.contains("\"/dev/")
        }
        "creat" | "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" | "mkdir"
        | "mkdirat" | "rmdir" | "link" | "linkat" | "symlink" | "symlinkat" | "truncate"
        | "ftruncate" | "fallocate" | "chmod" | "fchmod" | "fchmodat" | "fchmodat2" | "chown"
        | "fchown" | "lchown" | "fchownat" | "utimensat" | "setxattr" | "fsetxattr" | "mknod"
        | "mknodat" | "fsync" | "fdatasync" | "syncfs" => true,
        _ => false,
    }
}

#[test]
fn an_idle_tick_starts_no_process() {
    let machine = three_current_repositories();
    let calls = calls_of_a_tick(&machine);
    let started: Vec<&String> = calls
        .iter()
        .filter(|call| {
            let process =
                ["clone(", "clone3(", "fork(", "vfork("].iter().any(|name| call.starts_with(name))
                    && !call.contains("CLONE_THREAD");
            process || call.starts_with("execve")
        })
        .collect();
    assert_eq!(started.len(), 1, "only the agent itself is started: {started:#?}");
}

#[test]
fn an_idle_tick_writes_nothing_but_the_time_of_the_last_tick() {
    let machine = three_current_repositories();
    let before = traces(&machine);
    let last_tick = machine.root().join(".pmpy/last-tick");
    let time = || fs::metadata(&last_tick).map(|meta| (meta.mtime(), meta.mtime_nsec())).ok();
    let ticked = time();
    let calls = calls_of_a_tick(&machine);
    let written: Vec<&String> = calls
        .iter()
        .filter(|call| writes(call) && !call.contains(" = -1 ") && !call.contains("last-tick"))
        .collect();
    assert!(written.is_empty(), "an idle tick wrote: {written:#?}");
    assert_eq!(before, traces(&machine), "an idle tick left a file otherwise than it was");
    assert!(time() > ticked, "last-tick tells when the last tick was");
}

#[test]
fn an_idle_tick_costs_no_system_call_more_where_health_is_checked() {
    let machine = three_current_repositories();
    let configure = |health: &str| {
        let keys = |name: &str| {
            let url = machine.server(name);
            format!("[repo.{name}]\nurl = {:?}\nbranch = \"main\"\n{health}", text(&url))
        };
        machine.configure(&["web", "ops", "dns"].map(keys).concat());
        machine.tick().ok();
    };
    // Memory and threads cost what they cost; the files of the clones are the same each time.
    let of_files =
        ["openat(", "read(", "pread64(", "statx(", "newfstatat(", "readlink", "getdents64("];
    let count = |health: &str| {
        configure(health);
        let calls = calls_of_a_tick(&machine);
        let of_clones = calls.iter().filter(|call| call.contains("/.git"));
        of_clones.filter(|call| of_files.iter().any(|name| call.starts_with(name))).count()
    };
    let (without, with) =
        (count(""), count("health = [\"/bin/true\"]\non_failure = \"rollback\"\n"));
    assert_eq!(with, without);
}

#[test]
fn the_reader_of_traces_distinguishes_a_write_from_a_read() {
    let harmless = [
        r#"openat(AT_FDCWD</r>, "config", O_RDONLY|O_CLOEXEC) = 3</r/config>"#,
        r#"openat(AT_FDCWD</r>, "/dev/null", O_RDWR|O_CLOEXEC) = 3</dev/null>"#,
        r#"write(1<pipe:[4711]>, "x", 1) = 1"#,
        r#"write(4<anon_inode:[eventfd]>, "x", 8) = 8"#,
        r#"read(3</r/config>, "x", 1) = 1"#,
    ];
    for call in harmless {
        assert!(!writes(call), "{call}");
    }
    let harmful = [
        r#"openat(AT_FDCWD</r>, "lock", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3</r/lock>"#,
        r#"write(3</r/status.json>, "x", 1) = 1"#,
        r#"unlink("/r/again") = 0"#,
        r#"renameat(5</r>, "a", 5</r>, "b") = 0"#,
    ];
    for call in harmful {
        assert!(writes(call), "{call}");
    }
}
