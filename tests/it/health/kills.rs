//! The kill enumeration over act, check, mark, go back, record: the worker dies on entering each call that gives or
//! takes a name, and the next ticks bring the machine back to the good release all the same.

use std::fs;

use super::{assert_live, assert_rolled_back, machine, refs};
use crate::sandbox::{Ran, Sandbox, text, wait_until};

/// The calls that change what a name stands for.
const CALLS: [&str; 9] = [
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdirat",
    "symlink",
    "symlinkat",
    "linkat",
];

/// Runs the worker and kills it on entering `call` for the `nth` time; whether it got that far.
fn is_killed(machine: &Sandbox, call: &str, nth: usize) -> bool {
    let inject = format!("inject=?{call}:signal=SIGKILL:when={nth}");
    let mut strace = machine.command("strace");
    strace
        .args(["-o", text(&machine.path("trace")), "-e", &format!("trace=?{call}")])
        .args(["-e", &inject, "--"])
        .args(machine.agent_line(&["worker", "ops", "--trigger", "cron"]));
    Ran::of(&mut strace).code.is_none()
}

/// Ticks until the machine is back at `good` from `bad`.
fn converge(machine: &Sandbox, bad: &str, good: &str, what: &str) {
    let mut ticks = 0;
    wait_until(&format!("{what}: it is back"), || {
        machine.tick();
        ticks += 1;
        let row = machine.row("ops");
        if row["state"] == "failing" {
            // Cut off twice it waits its minute.
            machine.agent(&["tick", "ops", "--trigger", "cron"]);
        }
        machine.state("ops") == "rolled-back"
    });
    assert_rolled_back(machine, bad, good);
    assert!(!machine.private("ops", "journal").exists(), "{what}");
    assert!(!machine.currentaction("ops").exists(), "{what}");
}

fn enumerate(mode: &str, step: usize) -> usize {
    let (machine, mut good) = machine(mode, "");
    let mut page = "one".to_owned();
    let (mut round, mut kills) = (0, 0);
    for call in CALLS {
        for nth in (1..).step_by(step) {
            round += 1;
            let what = format!("{mode}, {call} {nth}");
            fs::remove_file(machine.path("runs")).ok();
            let content = format!("bad {round}\n");
            let bad = machine.push("ops", &[("page", &content)]);
            machine.agent(&["tick", "--dry-run"]);
            let is_hit = is_killed(&machine, call, nth);
            converge(&machine, &bad, &good, &what);
            assert_live(&machine, &page);
            let marked = super::marks(&machine);
            assert!(marked.contains(&bad), "{what}: {marked:?}");
            machine.git(
                &machine.clone_of("ops"),
                &["update-ref", "-d", &format!("refs/pmpy/bad/{bad}")],
            );
            page = format!("page {round}");
            good = machine.push("ops", &[("page", &format!("{page}\n"))]);
            machine.tick().ok();
            assert_live(&machine, &page);
            if !is_hit {
                break;
            }
            kills += 1;
        }
    }
    kills
}

/// As [`enumerate`], of a branch that is published next to another one.
fn enumerate_refs(step: usize) -> usize {
    let (machine, _, _) = refs::machine("branches", "");
    let (mut round, mut kills) = (0, 0);
    let mut good = "main one".to_owned();
    for call in CALLS {
        for nth in (1..).step_by(step) {
            round += 1;
            let (what, stage) = (format!("branches, {call} {nth}"), format!("stage {round}"));
            refs::push(&machine, "refs/heads/main", &format!("bad {round}"));
            refs::push(&machine, "refs/heads/stage", &stage);
            let is_hit = is_killed(&machine, call, nth);
            wait_until(&format!("{what}: it is back"), || {
                // Cut off twice it waits its minute.
                machine.agent(&["tick", "ops", "--trigger", "cron"]);
                machine.state("ops") == "rolled-back"
            });
            refs::assert_pages(&machine, "branches", &good, &stage);
            assert!(!machine.private("ops", "journal").exists(), "{what}");
            assert!(!machine.currentaction("ops").exists(), "{what}");
            good = format!("main {round}");
            refs::push(&machine, "refs/heads/main", &good);
            machine.tick().ok();
            refs::assert_pages(&machine, "branches", &good, &stage);
            if !is_hit {
                break;
            }
            kills += 1;
        }
    }
    kills
}

#[test]
fn a_worker_that_dies_anywhere_while_one_of_two_branches_is_bad_is_put_right() {
    let step = if std::env::var_os("PMPY_LONG").is_some() { 1 } else { 16 };
    let kills = enumerate_refs(step);
    println!("kills: branches {kills}");
    assert!(kills * step > 30, "only {kills} points were met");
}

#[test]
fn a_worker_that_dies_anywhere_on_the_way_to_a_bad_release_and_back_is_put_right() {
    let step = if std::env::var_os("PMPY_LONG").is_some() { 1 } else { 8 };
    for mode in ["work", "checkout"] {
        let kills = enumerate(mode, step);
        println!("kills: {mode} {kills}");
        assert!(kills * step > 30, "{mode}: only {kills} points were met");
    }
}
