//! Scripts that do what they should not: to the repository that they belong to, to its records, to
//! the agent that runs them, to the disk. What `scripts.rs` tells of ordinary ones is not repeated.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::concurrency::{Beside, worker};
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text, wait_until};

/// Waits after its first line until `FOLDER/go` is there.
const WAITS: &str = "\
echo \"start $AGENT_REVISION\" >> \"$AGENT_ROOT/../runs\"
until [ -e \"$AGENT_ROOT/../go\" ]; do sleep 0.02; done
";

fn go(machine: &Sandbox) {
    fs::write(machine.path("go"), "").unwrap();
}

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_script_that_pulls_in_its_own_repository_skips_no_revision() {
    let script = format!(
        "{NOTES_ITS_RUNS}\
         export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null\n\
         until [ -e \"$AGENT_ROOT/../go\" ]; do sleep 0.02; done\n\
         git pull --quiet --ff-only || exit 1\n"
    );
    let machine = Sandbox::with("ops", &[("work.sh", &script)]);
    let first = machine.head("ops");
    let tick = Beside::tick(&machine);
    wait_until("the script runs", || machine.runs().len() == 2);
    let second = machine.push("ops", &[("page", "two\n")]);
    go(&machine);
    assert_eq!(tick.code(), Some(0));
    assert_eq!(machine.head("ops"), second, "the script moved it");
    assert_eq!(machine.lastaction("ops"), Some(first), "what was acted upon, not what is there");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops").as_ref(), Some(&second));
    assert!(machine.runs().contains(&format!("end {second}")));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_script_that_removes_its_own_repository_stops_no_other_and_it_is_cloned_again() {
    let script = format!("{NOTES_ITS_RUNS}[ -e \"$AGENT_ROOT/../kind\" ] || rm -rf \"$PWD\"\n");
    let machine = Sandbox::with("ops", &[("work.sh", &script)]);
    machine.serve("web", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.clone_to_root("web");
    let ran = machine.tick().exits(1);
    assert!(ran.stdout.contains("ops") && ran.stdout.contains("removed"), "{ran}");
    assert_eq!(machine.lastaction("web"), Some(machine.head("web")));
    assert!(!machine.clone_of("ops").exists());
    machine.tick().ok();

    machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n", text(&machine.server("ops"))));
    fs::write(machine.path("kind"), "").unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
}

#[test]
fn a_script_that_removes_the_agents_own_state_is_not_run_again() {
    let script = format!("{NOTES_ITS_RUNS}rm -rf .git/pmpy\n");
    let machine = Sandbox::with("ops", &[("work.sh", &script)]);
    machine.tick().exits(1);
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.runs().len(), 2, "one start, one end");
}

#[test]
fn a_push_while_a_script_runs_leaves_it_its_file_and_is_acted_upon_after_it() {
    let machine = Sandbox::new();
    let old = format!("{WAITS}echo 'the old tail' >> \"$AGENT_ROOT/../runs\"\n");
    let first = machine.serve("ops", &[("work.sh", &old)]);
    machine.clone_to_root("ops");
    let tick = Beside::tick(&machine);
    wait_until("the script runs", || machine.runs().len() == 1);
    let second = machine.push("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "acting");
    assert_eq!(machine.head("ops"), first, "nothing moves under a running script");
    go(&machine);
    assert_eq!(tick.code(), Some(0));
    assert_eq!(machine.runs(), [format!("start {first}"), "the old tail".to_owned()]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(second));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_script_that_removes_currentaction_is_still_alone_and_recorded() {
    let script = format!("rm .temp/nodeinfo/currentaction.txt\n{WAITS}");
    let machine = Sandbox::with("ops", &[("work.sh", &script)]);
    let tick = Beside::tick(&machine);
    wait_until("the script runs", || machine.runs().len() == 1);
    for arguments in [&["tick"][..], &["tick", "ops"], &["worker", "ops", "--trigger", "cron"]] {
        machine.agent(arguments).ok();
    }
    assert_eq!(machine.state("ops"), "acting");
    assert_eq!(machine.runs().len(), 1, "the lock keeps them apart, not the file");
    go(&machine);
    assert_eq!(tick.code(), Some(0));
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn what_a_script_writes_into_lastaction_is_replaced_by_the_truth() {
    for written in ["garbage", "1234567890123456789012345678901234567890"] {
        let script = format!("{NOTES_ITS_RUNS}echo {written} > .temp/nodeinfo/lastaction.txt\n");
        let machine = Sandbox::with("ops", &[("work.sh", &script)]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")), "{written}");
        machine.tick().ok();
        assert_eq!(machine.runs().len(), 2, "{written}: it ran once");
    }
}

#[test]
fn an_agent_that_is_replaced_while_a_script_runs_finishes_what_it_began() {
    let machine = Sandbox::with(
        "ops",
        &[
            ("bin/work/common/work.sh", WAITS),
            ("bin/work/part/web/work.sh", "echo 'the second' >> \"$AGENT_ROOT/../runs\"\n"),
        ],
    );
    machine.configure("[node]\npart = \"web\"\n");
    let agent = machine.path("agent");
    fs::copy(env!("CARGO_BIN_EXE_agent"), &agent).unwrap();
    let root = machine.root();
    let mut tick = machine.command(text(&agent));
    tick.args(["--root", text(&root), "tick", "--trigger", "cron"]);
    let tick = Beside::start(&mut tick);
    wait_until("the script runs", || machine.runs().len() == 1);
    // As a package manager does it: a new file takes the name.
    fs::write(machine.path("other"), "#!/bin/sh\nexit 9\n").unwrap();
    fs::rename(machine.path("other"), &agent).unwrap();
    go(&machine);
    assert_eq!(tick.code(), Some(0));
    assert_eq!(machine.runs()[1..], ["the second"]);
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 2);
}

#[test]
fn a_daemon_in_a_session_of_its_own_outlives_the_timeout_of_its_script() {
    let script = "\
        setsid sh -c 'echo $$ > \"$AGENT_ROOT/../daemon\"; exec sleep 60' &\n\
        sleep 60 & echo $! > \"$AGENT_ROOT/../child\"; wait\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.configure("[repo.ops]\ntimeout = \"1s\"\n");
    machine.tick().exits(1);
    let pid = |file| fs::read_to_string(machine.path(file)).unwrap();
    wait_until("the child is gone", || !lives(&pid("child")));
    assert!(lives(&pid("daemon")), "who leaves the session is left alone");
    Ran::of(machine.command("kill").arg(pid("daemon").trim())).ok();
}

/// How many bytes a file takes on the disk.
fn on_disk(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

#[test]
fn a_script_that_prints_gigabytes_costs_ten_megabytes_and_no_memory() {
    let gigabytes = if std::env::var_os("PMPY_LONG").is_some() { 10 } else { 1 };
    // In pieces with a pause after each: how fast a disk is has no say in how much stands on it.
    let pieces = gigabytes * 16;
    let script = format!(
        "echo first\nfor _ in $(seq {pieces}); do head -c 64M /dev/zero; sleep 0.3; done\n\
         echo\necho last\n"
    );
    let machine = Sandbox::with("ops", &[("work.sh", &script)]);
    let tick = Beside::tick(&machine);
    let folder = machine.root().join(".pmpy/log/ops");
    wait_until("the log is there", || folder.is_dir() && !machine.files_below(&folder).is_empty());
    let log = folder.join(&machine.files_below(&folder)[0]);
    let worker = worker(&machine);
    let (mut most_disk, mut memory) = (0, 0);
    let start = Instant::now();
    while let Ok(status) = fs::read_to_string(format!("/proc/{worker}/status")) {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(peak) = peak {
            memory = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
        most_disk = most_disk.max(on_disk(&log));
        assert!(start.elapsed() < Duration::from_secs(300), "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(tick.code(), Some(0));
    println!("most on disk={} MB, memory={memory} kB", most_disk >> 20);
    assert!(memory > 0 && memory < 50 << 10, "{memory} kB");
    assert!(most_disk < (gigabytes << 30) / 2, "{} MB at once", most_disk >> 20);
    let kept = fs::metadata(&log).unwrap().len();
    assert!(kept <= 10 << 20, "{kept} bytes are kept");
    let end = machine.agent(&["log", "ops"]).ok().stdout;
    assert!(end.contains("first") && end.contains("left out"), "the head and the note");
    assert!(end.trim_end().lines().rev().nth(1) == Some("last"), "and the tail");
}
