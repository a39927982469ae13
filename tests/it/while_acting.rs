//! What happens while an action runs: who waits, who does not, and who may die meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, wait_until};

/// Notes its run and, where DIR/`gate` is, waits until somebody writes into it.
const WAITS_AT_THE_GATE: &str = "\
world=$AGENT_ROOT/..
echo \"start $AGENT_REVISION $AGENT_ATTEMPT $AGENT_RESUMED\" >> \"$world/runs\"
[ ! -e \"$world/gate\" ] || cat \"$world/gate\"
echo \"end $AGENT_REVISION\" >> \"$world/runs\"
";

/// A machine whose next action waits at the gate, and the revision that it will act upon.
fn machine() -> (Sandbox, String) {
    let machine = Sandbox::with("ops", &[("work.sh", WAITS_AT_THE_GATE), ("page", "one\n")]);
    machine.configure("[defaults]\ntimeout = \"50s\"\n");
    machine.tick().ok();
    fs::remove_file(machine.path("runs")).unwrap();
    Ran::of(machine.command("mkfifo").arg(gate(&machine))).ok();
    let revision = machine.push("ops", &[("page", "two\n")]);
    (machine, revision)
}

fn gate(machine: &Sandbox) -> PathBuf {
    machine.path("gate")
}

fn start(machine: &Sandbox, arguments: &[&str]) -> Child {
    machine.agent_command(arguments).stdout(Stdio::null()).spawn().unwrap()
}

/// Starts a tick and returns once its script waits at the gate.
fn started(machine: &Sandbox) -> Child {
    let tick = start(machine, &["tick", "--trigger", "cron"]);
    wait_until("the script runs", || !machine.runs().is_empty());
    tick
}

/// Lets the script at the gate go on, and none wait there any more.
fn open_the_gate(machine: &Sandbox) {
    let gate = fs::File::options().write(true).open(gate(machine)).unwrap();
    fs::remove_file(self::gate(machine)).unwrap();
    drop(gate);
}

/// The process that `.git/pmpy/journal` has at `path`.
fn journalled(machine: &Sandbox, path: &str) -> String {
    let journal: Value =
        serde_json::from_slice(&fs::read(machine.private("ops", "journal")).unwrap()).unwrap();
    journal.pointer(path).unwrap_or_else(|| panic!("{path} in {journal:#}")).to_string()
}

fn kill(machine: &Sandbox, pid: &str) {
    Ran::of(machine.command("kill").args(["-KILL", pid])).ok();
}

#[test]
fn the_action_continues_and_records_itself_when_its_tick_is_killed() {
    let (machine, revision) = machine();
    let mut tick = started(&machine);
    tick.kill().unwrap();
    tick.wait().unwrap();
    assert_eq!(machine.state("ops"), "acting");
    open_the_gate(&machine);
    wait_until("it is recorded", || machine.lastaction("ops").as_ref() == Some(&revision));
    wait_until("it is done", || machine.state("ops") == "current");
    assert_eq!(machine.runs().len(), 2);
}

#[test]
fn a_script_that_outlives_its_worker_is_waited_for_and_then_run_again() {
    let (machine, revision) = machine();
    let mut tick = started(&machine);
    kill(&machine, &journalled(&machine, "/worker/pid"));
    assert!(tick.wait().unwrap().success(), "it is acting, and nothing has failed yet");
    let script = journalled(&machine, "/script/process/pid");
    let row = machine.row("ops");
    assert_eq!(row["state"], "acting", "{row:#}");
    assert!(row["reason"].to_string().contains(&format!("(pid {script})")), "{row:#}");
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 1, "never two at once");

    open_the_gate(&machine);
    wait_until("the orphan has ended", || machine.runs().len() == 2);
    wait_until("it is acted upon again", || {
        machine.tick();
        machine.lastaction("ops").as_ref() == Some(&revision)
    });
    assert_eq!(
        machine.runs(),
        [
            format!("start {revision} 1 "),
            format!("end {revision}"),
            format!("start {revision} 2 1"),
            format!("end {revision}"),
        ]
    );
    assert_eq!(machine.state("ops"), "current");
    assert!(!machine.currentaction("ops").exists());
}

#[test]
fn a_message_that_comes_while_an_action_runs_is_seen_to_after_it() {
    let (machine, first) = machine();
    let mut tick = started(&machine);
    let second = machine.push("ops", &[("page", "three\n")]);
    machine.agent(&["tick", "--trigger", "bus"]).ok();
    assert_eq!(machine.runs().len(), 1, "the message does not wait, and starts no second one");
    open_the_gate(&machine);
    assert!(tick.wait().unwrap().success());
    assert_eq!(machine.lastaction("ops"), Some(second.clone()), "the holder of the lock saw to it");
    let ends: Vec<String> =
        machine.runs().into_iter().filter(|run| run.starts_with("end")).collect();
    assert_eq!(ends, [format!("end {first}"), format!("end {second}")]);
}

#[test]
fn who_waits_for_a_busy_repository_sees_the_end_of_it() {
    let (machine, revision) = machine();
    let mut tick = started(&machine);
    let mut waiting = start(&machine, &["redo", "ops"]);
    open_the_gate(&machine);
    assert!(tick.wait().unwrap().success());
    assert!(waiting.wait().unwrap().success());
    let starts: Vec<String> =
        machine.runs().into_iter().filter(|run| run.starts_with("start")).collect();
    assert_eq!(starts, [format!("start {revision} 1 "), format!("start {revision} 1 ")]);
}

#[test]
fn a_tick_with_wait_waits_and_applies_the_next_revision() {
    let (machine, _) = machine();
    let mut tick = started(&machine);
    let second = machine.push("ops", &[("page", "three\n")]);
    let mut waiting = start(&machine, &["tick", "--wait"]);
    open_the_gate(&machine);
    assert!(waiting.wait().unwrap().success());
    assert_eq!(machine.lastaction("ops"), Some(second));
    assert!(tick.wait().unwrap().success());
}

#[test]
fn a_hold_does_not_cut_off_what_runs_and_holds_what_comes() {
    let (machine, revision) = machine();
    let mut tick = started(&machine);
    machine.agent(&["hold", "ops", "enough"]).ok();
    assert_eq!(machine.state("ops"), "acting");
    open_the_gate(&machine);
    assert!(tick.wait().unwrap().success());
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.state("ops"), "held");
}

#[test]
fn unhold_leaves_the_currentaction_of_a_running_action_alone() {
    let (machine, revision) = machine();
    let mut tick = started(&machine);
    machine.agent(&["unhold", "ops"]).ok();
    assert_eq!(fs::read_to_string(machine.currentaction("ops")).unwrap(), format!("{revision}\n"));
    open_the_gate(&machine);
    assert!(tick.wait().unwrap().success());
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_currentaction_removed_while_the_script_runs_lets_no_second_one_in() {
    let (machine, revision) = machine();
    let mut tick = started(&machine);
    fs::remove_file(machine.currentaction("ops")).unwrap();
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 1);
    open_the_gate(&machine);
    assert!(tick.wait().unwrap().success());
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn neighbours_do_not_wait_for_a_script_that_takes_its_time() {
    let (machine, _) = machine();
    machine.serve("web", &[("page", "one\n")]);
    machine.clone_to_root("web");
    let mut tick = started(&machine);
    wait_until("the neighbour is done", || machine.state("web") == "current");
    assert_eq!(machine.state("ops"), "acting");
    open_the_gate(&machine);
    assert!(tick.wait().unwrap().success());
}

#[test]
fn a_script_may_ask_the_agent_about_its_own_machine() {
    let script =
        format!("{} status --oneline >> \"$AGENT_ROOT/../said\"\n", env!("CARGO_BIN_EXE_agent"));
    let machine = Sandbox::with("ops", &[("work.sh", &script)]);
    machine.tick().ok();
    let said = fs::read_to_string(machine.path("said")).unwrap();
    assert!(said.contains("ops acting"), "{said}");
}
