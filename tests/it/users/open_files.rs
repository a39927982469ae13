//! What the agent's caller has open, seen from every program that the agent starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::{machine, push};
use crate::sandbox::{Sandbox, set_mode, text, wait_until, write_program};

/// Prints `name`, and what a program has open. The last one is the listing itself.
pub fn listing(name: &str) -> String {
    format!("echo 'open in {name}'; ls -l /proc/self/fd; echo end\n")
}

/// A file that only root may read, which the caller holds open and locked.
fn secret(machine: &Sandbox) -> PathBuf {
    let secret = machine.path("secret");
    fs::write(&secret, "canary\n").unwrap();
    set_mode(&secret, 0o600);
    secret
}

/// The agent, started by somebody who has `secret` open and locked.
fn start(machine: &Sandbox, secret: &Path, arguments: &[&str]) -> Child {
    let line = "exec 9<>\"$1\" 8<\"$1\" && flock 9 && shift && exec \"$@\"";
    let mut shell = machine.command("sh");
    shell.args(["-c", line, "sh", text(secret)]).args(machine.agent_line(arguments));
    shell.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// The processes of this machine that have `file` open.
fn holders(file: &Path) -> Vec<u32> {
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|it| fs::read_link(it.path()).ok()).any(|it| it == file)
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|it| it.file_name().to_str()?.parse().ok());
    pids.filter(holds).collect()
}

/// Each of `names` told in the last logs of its four descriptors: nothing, its output twice, and the
/// listing.
#[track_caller]
pub fn assert_plain(machine: &Sandbox, names: &[&str]) {
    // `before` has a log of its own.
    let count = if names.contains(&"before") { "2" } else { "1" };
    let log = machine.agent(&["log", "ops", "-n", count]).ok().stdout;
    for name in names {
        let heading = format!("open in {name}\n");
        let (_, reported) = log.split_once(&heading).unwrap_or_else(|| panic!("{name}: {log}"));
        let (reported, _) = reported.split_once("end\n").unwrap();
        let sides = reported.lines().filter_map(|line| line.split_once(" -> "));
        let open: Vec<[&str; 2]> =
            sides.map(|(entry, file)| [entry.rsplit(' ').next().unwrap(), file]).collect();
        let [["0", input], ["1", output], ["2", errors], ["3", list]] = open[..] else {
            panic!("{name}: {reported}");
        };
        assert_eq!(input, "/dev/null", "{name}");
        assert_eq!(output, errors, "{name}: {reported}");
        // Root's tick keeps what is printed in memory, for the worker to write down.
        let is_log = output.starts_with(text(&machine.root())) && output.ends_with(".log");
        assert!(is_log || output == "/memfd:report (deleted)", "{name}: {reported}");
        assert!(list.starts_with("/proc/") && list.ends_with("/fd"), "{name}: {reported}");
    }
}

#[test]
fn what_the_caller_of_a_tick_has_open_reaches_no_script_helper_or_worker() {
    let machine = machine("true");
    let (started, go) = (machine.path("started"), machine.path("go"));
    fs::write(&started, "").unwrap();
    set_mode(&started, 0o666);
    let work = format!(
        "{}echo yes > '{started}'\nuntil [ -e '{go}' ] || [ ! -e '{started}' ]; do sleep 0.01; done\n",
        listing("work"),
        started = text(&started),
        go = text(&go)
    );
    let revision = push(&machine, &[("work.sh", &work)]);
    let secret = secret(&machine);
    let mut tick = start(&machine, &secret, &["tick", "--trigger", "cron"]);
    wait_until("the script runs", || fs::read_to_string(&started).unwrap() == "yes\n");
    let holders = holders(&secret);
    fs::write(&go, "").unwrap();
    assert!(tick.wait().unwrap().success());
    // Tick, helper, worker and script were all there, and one of them was given it.
    assert_eq!(holders, [tick.id()]);
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_plain(&machine, &["work"]);
}

#[test]
fn what_the_caller_of_a_tick_has_open_reaches_no_program_around_a_publication() {
    let machine = machine("true");
    let program = |name: &str| {
        let program = machine.path(name);
        write_program(&program, format!("#!/bin/sh\n{}", listing(name)));
        program
    };
    let (owners, roots) = (program("after"), program("after-user"));
    push(&machine, &[("bin/validate", &listing("before"))]);
    let secret = secret(&machine);
    let mut keys = format!("before = [\"bin/validate\"]\nafter = [\"{}\"]", text(&owners));
    super::publishes(&machine, &keys);
    assert!(start(&machine, &secret, &["tick"]).wait().unwrap().success());
    assert_plain(&machine, &["before", "after"]);

    for user in ["root", "daemon"] {
        keys = format!("after = [\"{}\"]\nafter_user = \"{user}\"", text(&roots));
        super::configure(&machine, &keys);
        push(&machine, &[("page", user)]);
        assert!(start(&machine, &secret, &["tick"]).wait().unwrap().success());
        assert_plain(&machine, &["after-user"]);
    }
}

#[test]
fn a_lock_that_the_caller_holds_is_not_held_on_by_a_script() {
    let started = "echo yes > \"$AGENT_ROOT/../started\"\n\
                   until [ -e \"$AGENT_ROOT/../go\" ] || [ ! -d \"$AGENT_ROOT\" ]; do sleep 0.01; done\n";
    let machine = Sandbox::with("ops", &[("work.sh", started)]);
    let secret = secret(&machine);
    let mut tick = start(&machine, &secret, &["tick", "--trigger", "cron"]);
    wait_until("the script runs", || machine.path("started").exists());
    let holders = holders(&secret);
    // As flock(1) before cron's command: the next one must not wait for the script.
    tick.kill().unwrap();
    tick.wait().unwrap();
    let mut next = machine.command("flock");
    let free = next.args(["--nonblock", text(&secret), "true"]).status().unwrap();
    fs::write(machine.path("go"), "").unwrap();
    assert_eq!(holders, [tick.id()]);
    assert!(free.success());
    wait_until("the action is recorded", || machine.lastaction("ops").is_some());
}
