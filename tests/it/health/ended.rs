//! What ends the wait for the health of a release without a verdict: a hold, a rollback, a revert upstream.

use std::fs;
use std::process::{Child, Stdio};

use super::{assert_live, lines, machine, marks};
use crate::sandbox::{Sandbox, wait_until};

/// A machine that waits for the health of a bad release, and its first revision.
fn waiting() -> (Sandbox, String, Child) {
    let (machine, first) = machine("work", "");
    let program = machine.path("is-well");
    let keys = "branch = \"main\"\non_failure = \"rollback\"\nhealth_within = \"10m\"\n";
    machine.configure(&format!("[repo.ops]\n{keys}health = [{program:?}]\n"));
    fs::remove_file(machine.path("checks")).unwrap();
    machine.push("ops", &[("page", "bad\n")]);
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    let tick = tick.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let tick = tick.spawn().unwrap();
    wait_until("it is checked", || !lines(&machine, "checks").is_empty());
    (machine, first, tick)
}

#[test]
fn under_a_hold_the_machine_stays_and_checks_again_when_it_is_lifted() {
    let (machine, _, mut tick) = waiting();
    machine.agent(&["hold", "ops", "look"]).ok();
    tick.wait().unwrap();
    assert_eq!(machine.state("ops"), "held");
    assert_live(&machine, "bad");
    assert_eq!(marks(&machine), [""; 0], "nothing is bad");
    machine.tick();
    assert_live(&machine, "bad");
    let checks = lines(&machine, "checks").len();
    machine.agent(&["unhold", "ops"]).ok();
    // Well by now.
    crate::sandbox::write_program(
        &machine.path("is-well"),
        "#!/bin/sh\necho >> \"$AGENT_ROOT/../checks\"\n",
    );
    machine.tick().ok();
    assert_eq!(lines(&machine, "checks").len(), checks + 1);
    assert_eq!(machine.state("ops"), "current");
    assert_live(&machine, "bad");
}

#[test]
fn a_rollback_ends_it_at_once() {
    let (machine, first, mut tick) = waiting();
    machine.agent(&["rollback", "ops"]).ok();
    tick.wait().unwrap();
    let row = machine.row("ops");
    assert_eq!(row["state"], "pinned", "{row:#}");
    assert_eq!(machine.head("ops"), first);
    assert_live(&machine, "one");
    assert_eq!(marks(&machine), [""; 0], "nothing is bad");
}

#[test]
fn upstream_back_at_a_tree_that_succeeded_ends_it_and_is_applied() {
    let (machine, _, mut tick) = waiting();
    let revert = machine.push("ops", &[("page", "one\n")]);
    // The tick of the next minute polls; it finds the action at work.
    machine.tick();
    tick.wait().unwrap();
    assert_eq!(machine.lastaction("ops"), Some(revert));
    assert_eq!(machine.state("ops"), "current");
    assert_live(&machine, "one");
    assert_eq!(marks(&machine), [""; 0], "nothing is bad");
}

#[test]
fn a_newer_revision_that_never_succeeded_does_not_end_it() {
    let (machine, _, mut tick) = waiting();
    machine.push("ops", &[("page", "two\n")]);
    machine.tick();
    let checks = lines(&machine, "checks").len();
    wait_until("it is checked once more", || lines(&machine, "checks").len() > checks);
    machine.agent(&["hold", "ops", "enough"]).ok();
    tick.wait().unwrap();
    assert_live(&machine, "bad");
}
