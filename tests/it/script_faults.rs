//! Scripts that do what they should not: to the repository that they belong to, to its records, to
//! the agent that runs them, to the disk. What `scripts.rs` tells of ordinary ones is not repeated.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::concurrency::worker;
use crate::sandbox::{Beside, NOTES_ITS_RUNS, Ran, Sandbox, install_agent, text, wait_until};

/// Waits after its first line until `DIR/go` is there.
const WAITS: &str = "\
echo \"start $AGENT_REVISION\" >> \"$AGENT_ROOT/../runs\"
until [ -e \"$AGENT_ROOT/../go\" ] || [ ! -d \"$AGENT_ROOT\" ]; do sleep 0.02; done
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
         until [ -e \"$AGENT_ROOT/../go\" ] || [ ! -d \"$AGENT_ROOT\" ]; do sleep 0.02; done\n\
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
fn a_push_while_a_script_runs_leaves_it_its_file_and_is_applied_after_it() {
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
    let worker = ["worker", "ops", "--trigger", "cron"];
    for (arguments, code) in [(&["tick"][..], 0), (&["tick", "ops"], 1), (&worker, 0)] {
        machine.agent(arguments).exits(code);
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
    install_agent(&agent);
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
    let dir = machine.root().join(".pmpy/log/ops");
    wait_until("the log is there", || dir.is_dir() && !machine.files_below(&dir).is_empty());
    let log = dir.join(&machine.files_below(&dir)[0]);
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

/// What the agent says of `ops` where something else than a script stands at `path`.
#[track_caller]
fn assert_failing(machine: &Sandbox, path: &str, what: &str) {
    for _ in 0..2 {
        machine.tick().exits(1);
        let row = machine.row("ops");
        assert_eq!(row["state"], "failing", "{what}: {row:#}");
        let reason = row["reason"].as_str().unwrap();
        assert!(reason.contains(path) && reason.contains(what), "{what}: {reason}");
    }
    assert_eq!((machine.lastaction("ops"), machine.runs()), (None, vec![]), "{what}");
    assert!(!machine.currentaction("ops").exists(), "{what}");
    let checked = machine.agent(&["check", "--offline"]).exits(1).stdout;
    assert!(checked.contains(what), "{checked}");
}

#[test]
fn what_upstream_has_in_the_place_of_a_script_and_is_none_is_a_failure_that_names_it() {
    fn plant_directory(desk: &Path, script: &Path) {
        fs::create_dir_all(script).unwrap();
        fs::write(script.join("README"), desk.to_str().unwrap()).unwrap();
    }
    fn plant_link(_: &Path, script: &Path) {
        symlink("gone.sh", script).unwrap();
    }
    fn plant_link_to_directory(desk: &Path, script: &Path) {
        symlink(desk, script).unwrap();
    }
    fn plant_link_on_the_way(_: &Path, script: &Path) {
        let dir = script.parent().unwrap();
        fs::remove_dir(dir).unwrap();
        symlink("gone", dir).unwrap();
    }
    type Plant = fn(&Path, &Path);
    let common = "bin/work/common/work.sh";
    let cases: [(&str, Plant, &str); 10] = [
        ("work.sh", plant_directory, "is a directory"),
        (common, plant_directory, "is a directory"),
        ("bin/work/part/web/work.sh", plant_directory, "is a directory"),
        ("work.sh", plant_link, "is a link to nothing"),
        (common, plant_link, "is a link to nothing"),
        (common, plant_link_to_directory, "is a directory"),
        (common, plant_link_on_the_way, "is a link to nothing"),
        ("init.sh", plant_directory, "is a directory"),
        ("bin/init/common/init.sh", plant_link, "is a link to nothing"),
        ("configured.sh", plant_directory, "is a directory"),
    ];
    for (path, plant, what) in cases {
        let machine = Sandbox::new();
        machine.serve("ops", &[("page", "one")]);
        let scripts = if path == "configured.sh" { "scripts = [\"configured.sh\"]\n" } else { "" };
        // The init ladder is for clones of the agent's.
        machine.configure(&format!(
            "[node]\npart = \"web\"\n[repo.ops]\nurl = {:?}\n{scripts}",
            machine.server("ops")
        ));
        machine.push_with("ops", |desk| {
            let script = desk.join(path);
            fs::create_dir_all(script.parent().unwrap()).unwrap();
            plant(desk, &script);
        });
        assert_failing(&machine, path.trim_end_matches("/work.sh"), what);
        machine.push_with("ops", |desk| {
            for file in ["work.sh", "init.sh", "configured.sh", "bin"] {
                let _ = fs::remove_dir_all(desk.join(file));
                let _ = fs::remove_file(desk.join(file));
            }
            // A link to a script is one.
            fs::write(desk.join("real.sh"), NOTES_ITS_RUNS).unwrap();
            let script = if path == "configured.sh" { path } else { "work.sh" };
            symlink("real.sh", desk.join(script)).unwrap();
        });
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
        assert_eq!(machine.runs().len(), 2, "one start, one end");
    }
}

#[test]
fn a_submodule_in_the_place_of_a_script_is_a_failure_that_names_it() {
    let machine = Sandbox::with("ops", &[("page", "one")]);
    let desk = machine.desk("ops");
    let link = format!("160000,{},work.sh", machine.git(&desk, &["rev-parse", "HEAD"]));
    machine.git(&desk, &["update-index", "--add", "--cacheinfo", &link]);
    machine.git(&desk, &["commit", "--quiet", "--message", "A submodule"]);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:main"]);
    assert_failing(&machine, "work.sh", "is a directory");
}

#[test]
fn what_is_in_the_place_of_a_script_and_is_none_is_a_failure_and_not_waited_for() {
    for path in ["work.sh", "bin/work/common/work.sh", "configured.sh"] {
        for (kind, what) in [
            (rustix::fs::FileType::Fifo, "is a named pipe"),
            (rustix::fs::FileType::Socket, "is a socket"),
            (rustix::fs::FileType::CharacterDevice, "is a device"),
        ] {
            let machine = Sandbox::with("ops", &[("page", "one"), (".gitignore", "*.sh\n")]);
            if path == "configured.sh" {
                machine.configure("[repo.ops]\nscripts = [\"configured.sh\"]\n");
            }
            let script = machine.clone_of("ops").join(path);
            fs::create_dir_all(script.parent().unwrap()).unwrap();
            let mode = rustix::fs::Mode::from(0o644);
            let device = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(rustix::fs::CWD, &script, kind, mode, device).unwrap();
            assert_failing(&machine, path, what);
            fs::remove_file(&script).unwrap();
            fs::write(&script, NOTES_ITS_RUNS).unwrap();
            machine.tick().ok();
            assert_eq!(machine.state("ops"), "current", "{path}: {:#}", machine.row("ops"));
            assert_eq!(machine.runs().len(), 2, "{path}: one start, one end");
        }
    }
}

#[test]
fn a_script_that_an_editor_spoiled_is_failing_and_no_part_of_it_runs() {
    let ran = "touch \"$AGENT_ROOT/../ran\"";
    for spoiled in [
        format!("#!/bin/bash\r\nset -e\r\n{ran}\n"),
        format!("set -e\r\n{ran}\n"),
        "#!/usr/bin/env python3\r\nopen('ran', 'w')\r\n".to_owned(),
        format!("\u{feff}#!/bin/sh\n{ran}\n"),
    ] {
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        machine.tick().ok();
        let good = machine.lastaction("ops");
        machine.push("ops", &[("work.sh", &spoiled)]);
        let reported = machine.tick().exits(1);
        assert!(reported.stdout.contains("work.sh"), "{spoiled:?}: {reported}");
        assert!(!machine.path("ran").exists() && !machine.clone_of("ops").join("ran").exists());
        assert_eq!(machine.state("ops"), "failing");
        let reason = machine.row("ops")["reason"].to_string();
        assert!(reason.contains("carriage return") || reason.contains("byte order"), "{reason}");
        assert!(reason.contains("sed -i"), "it says how to mend the script: {reason}");
        assert_eq!(machine.lastaction("ops"), good);
        let found = machine.agent(&["check", "--offline"]).exits(1);
        assert!(found.stdout.contains("bad  ops"), "{found}");

        machine.push("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
    }
}

#[test]
fn a_spoiled_init_script_is_failing_too() {
    let machine = Sandbox::new();
    machine.serve(
        "ops",
        &[
            ("bin/init/common/init.sh", "#!/bin/sh\r\ntouch \"$AGENT_ROOT/../ran\"\n"),
            ("work.sh", NOTES_ITS_RUNS),
        ],
    );
    machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n", text(&machine.server("ops"))));
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing");
    assert!(!machine.path("ran").exists());
    assert_eq!(machine.lastaction("ops"), None);
}
