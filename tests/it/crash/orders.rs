//! A person's order that dies: it was carried out or it was not, and the same order once more is.

use std::fs;

use super::{CrashSetup, NAME, is_debris};
use crate::sandbox::Sandbox;

/// The calls that change something, and each how many of them come between two kills.
const STEPS: [(&str, usize); 12] = [
    ("write", 1),
    ("fsync", 1),
    ("rename", 1),
    ("renameat", 1),
    ("renameat2", 1),
    ("unlink", 1),
    // A clone has many files.
    ("unlinkat", 20),
    ("rmdir", 5),
    ("mkdir", 1),
    ("mkdirat", 1),
    ("flock", 1),
    ("fchmod", 1),
];

/// Runs `order` on what `prepare` made and kills it at each step; `judge` gives the order once more and looks.
/// Returns the number of kills.
fn killed_everywhere(
    order: &[&str],
    mut prepare: impl FnMut(&mut Option<CrashSetup>),
    judge: impl Fn(&Sandbox, &str),
) -> usize {
    let (mut setup, mut points) = (None, 0);
    for (call, stride) in STEPS {
        for nth in (1..).step_by(stride) {
            prepare(&mut setup);
            let setup = setup.get_or_insert_with(CrashSetup::new);
            // With its threads: a hold is written by one that may be left behind.
            let inject = format!("inject=?{call}:signal=SIGKILL:when={nth}");
            let hit = setup.traced(&["-f", "-e", &inject], order).code.is_none();
            judge(&setup.machine, &format!("{order:?} killed at {call} number {nth}"));
            if !hit {
                break;
            }
            points += 1;
        }
    }
    points
}

/// Nothing of an unfinished order is left after a tick, and the next revision is deployed.
fn goes_on(machine: &Sandbox, what: &str) {
    let revision = machine.push(NAME, &[("orders", what)]);
    machine.tick().ok();
    assert_eq!(machine.lastaction(NAME), Some(revision), "{what}");
    assert_eq!(machine.state(NAME), "current", "{what}");
    for file in machine.files_below(&machine.root()) {
        assert!(!is_debris(&file), "{what}: {} is left", file.display());
    }
}

#[test]
fn a_hold_that_dies_holds_or_does_not_and_is_given_again() {
    let points = killed_everywhere(
        &["hold", NAME, "moving house"],
        |_| {},
        |machine, what| {
            let state = machine.state(NAME);
            assert!(["current", "held"].contains(&state.as_str()), "{what}: {state}");
            machine.agent(&["hold", NAME, "moving house"]).ok();
            assert_eq!(machine.state(NAME), "held", "{what}");
            machine.agent(&["unhold", NAME]).ok();
            goes_on(machine, what);
        },
    );
    println!("hold: points={points}");
    assert!(points >= 3, "only {points} points");
}

#[test]
fn an_unhold_that_dies_lifts_or_does_not_and_is_given_again() {
    let points = killed_everywhere(
        &["unhold", NAME],
        |setup| {
            let setup = setup.get_or_insert_with(CrashSetup::new);
            setup.machine.agent(&["hold", NAME, "moving house"]).ok();
        },
        |machine, what| {
            let state = machine.state(NAME);
            assert!(["current", "held"].contains(&state.as_str()), "{what}: {state}");
            machine.agent(&["unhold", NAME]);
            goes_on(machine, what);
        },
    );
    println!("unhold: points={points}");
    assert!(points >= 2, "only {points} points");
}

#[test]
fn a_forget_that_dies_is_given_again() {
    let points = killed_everywhere(
        &["forget", NAME],
        |_| {},
        |machine, what| {
            let state = machine.state(NAME);
            assert!(["current", "inactive"].contains(&state.as_str()), "{what}: {state}");
            machine.agent(&["forget", NAME]).ok();
            assert_eq!(machine.state(NAME), "inactive", "{what}");
            fs::remove_file(machine.root().join(format!(".pmpy/agent.d/{NAME}.toml"))).unwrap();
            goes_on(machine, what);
        },
    );
    println!("forget: points={points}");
    assert!(points >= 3, "only {points} points");
}

#[test]
fn a_purge_that_dies_is_given_again_and_leaves_nothing() {
    for path in ["root/ops", "elsewhere"] {
        let order = ["forget", NAME, "--purge", "--yes"];
        let points = killed_everywhere(
            &order,
            |setup| {
                let new = CrashSetup::new();
                let machine = &new.machine;
                if path != "root/ops" {
                    // As `init` writes it.
                    let table = format!(
                        "[repo.{NAME}]\npath = {:?}\nurl = {:?}\n",
                        machine.path(path),
                        machine.server(NAME)
                    );
                    let file = machine.root().join(format!(".pmpy/agent.d/{NAME}.toml"));
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(file, table).unwrap();
                    fs::rename(machine.clone_of(NAME), machine.path(path)).unwrap();
                    machine.tick().ok();
                }
                *setup = Some(new);
            },
            |machine, what| {
                let runs = machine.runs().len();
                machine.tick();
                assert_eq!(
                    machine.runs().len(),
                    runs,
                    "{what}: nothing is run of what is half gone"
                );
                if machine.agent(&["status", NAME]).code != Some(2) {
                    machine.agent(&order).ok();
                }
                machine.agent(&["status", NAME]).exits(2);
                assert!(!machine.path(path).exists(), "{what}: the clone is left");
                let left = machine.root().join(format!(".pmpy/agent.d/{NAME}.toml"));
                assert!(!left.exists(), "{what}: the entry is left");
                assert!(!machine.root().join(format!(".pmpy/log/{NAME}")).exists(), "{what}: logs");
            },
        );
        println!("purge of {path}: points={points}");
        assert!(points >= 10, "only {points} points");
    }
}
