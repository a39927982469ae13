//! What an attempt that did not succeed changed on the machine is not undone by a revert: the scripts run
//! again, and hear of every path, so that what is live is what the files here say.

use std::fs;

use crate::sandbox::{Sandbox, text, wait_until, write_program};

/// Puts the configuration live, tells what it was told, and ends as `how` says.
const SCRIPT: &str = "\
set -e
cp nginx/conf \"$AGENT_ROOT/../live\"
tr '\\0' '\\n' < \"$AGENT_CHANGED\" > \"$AGENT_ROOT/../told\"
. ./how
";

/// How the attempt ends.
const ENDS: [(&str, &str); 6] = [
    ("fails", "exit 3\n"),
    ("says not now", "exit 75\n"),
    ("is killed", "kill -9 $$\n"),
    ("times out", "exec sleep 1000\n"),
    ("loses its worker", "kill -9 $PPID\nexec sleep 1\n"),
    ("is not well", "exit 0 # unwell\n"),
];

/// The way out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayOut {
    Revert,
    Rollback,
    /// The cause is outside of `paths`, and is mended there.
    Elsewhere,
    /// Upstream goes back to the very commit that succeeded.
    Rewound,
}

const WAYS: [WayOut; 4] = [WayOut::Revert, WayOut::Rollback, WayOut::Elsewhere, WayOut::Rewound];

fn settings(machine: &Sandbox, is_target: bool, paths: &str) -> String {
    let mode = match is_target {
        true => format!(
            "mode = \"checkout\"\ntarget = {:?}\nafter = [\"sh\", \"work.sh\"]\n",
            machine.path("site")
        ),
        false => String::new(),
    };
    let url = machine.server("ops");
    let check = machine.path("is-well");
    write_program(&check, "#!/bin/sh\n! grep -q unwell how\n");
    let paths = format!("health = [{check:?}]\nhealth_within = \"1s\"\n{paths}");
    format!(
        "[repo.ops]\nurl = {:?}\nbranch = \"main\"\nrewritten = \"follow\"\ntimeout = \"1s\"\n\
         {mode}{paths}",
        text(&url)
    )
}

fn is_put_right(is_target: bool, paths: &str, end: (&str, &str), way: WayOut) {
    let what = format!("{}, {way:?}, target: {is_target}, {paths}", end.0);
    let machine = Sandbox::new();
    let good = machine.serve(
        "ops",
        &[("work.sh", SCRIPT), ("nginx/conf", "good\n"), ("how", "exit 0\n"), ("docs", "1\n")],
    );
    machine.configure(&settings(&machine, is_target, paths));
    machine.tick().ok();
    machine.push("ops", &[("nginx/conf", "bad\n"), ("how", end.1)]);
    machine.tick();
    let live = || fs::read_to_string(machine.path("live")).unwrap();
    assert_eq!(live(), "bad\n", "{what}");
    fs::remove_file(machine.path("told")).unwrap();
    match way {
        WayOut::Revert => {
            machine.push("ops", &[("nginx/conf", "good\n"), ("how", "exit 0\n")]);
        }
        WayOut::Rollback => drop(machine.agent(&["rollback", "ops", &good])),
        WayOut::Elsewhere => drop(machine.push("ops", &[("how", "exit 0\n")])),
        WayOut::Rewound => {
            machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", &good]);
            machine.git(&machine.desk("ops"), &["push", "--quiet", "--force", "origin", "main"]);
            machine.answered_twice("ops", "refs/heads/main");
        }
    }
    let state = if way == WayOut::Rollback { "pinned" } else { "current" };
    // The script of a dead worker is waited for.
    wait_until("the dead run's script ended", || {
        machine.tick();
        end.0 != "loses its worker" || machine.state("ops") == state
    });
    let row = machine.row("ops");
    assert_eq!(row["state"], state, "{what}: {row:#}");
    let place = if is_target { machine.path("site") } else { machine.clone_of("ops") };
    assert_eq!(live(), fs::read_to_string(place.join("nginx/conf")).unwrap(), "{what}");
    let told = fs::read_to_string(machine.path("told")).unwrap_or_default();
    assert!(told.contains("nginx/conf\n"), "{what}: AGENT_CHANGED had {told:?}");
    assert!(paths.is_empty() || !told.contains("docs"), "{what}: AGENT_CHANGED had {told:?}");
    // And only once.
    fs::remove_file(machine.path("told")).unwrap();
    machine.tick().ok();
    assert!(!machine.path("told").exists(), "{what}: an idle tick ran it again");
}

#[test]
fn after_an_attempt_that_did_not_succeed_what_is_live_is_what_the_worktree_holds() {
    for end in ENDS {
        for way in WAYS {
            for paths in ["", "paths = [\"nginx/**\"]\n"] {
                is_put_right(false, paths, end, way);
            }
        }
    }
}

#[test]
fn after_an_attempt_that_did_not_succeed_what_is_live_is_what_the_target_shows() {
    for end in ENDS {
        for way in WAYS {
            is_put_right(true, "paths = [\"nginx/**\"]\n", end, way);
        }
    }
}

#[test]
fn a_run_that_failed_at_the_applied_revision_is_not_forgotten_for_a_push_of_no_relevance() {
    let machine = Sandbox::with("ops", &[("work.sh", SCRIPT), ("nginx/conf", "1"), ("how", "")]);
    machine.configure("[repo.ops]\npaths = [\"nginx/**\"]\n");
    machine.tick().ok();
    // What the script needs is not there for a while.
    let live = machine.path("live");
    fs::remove_file(&live).unwrap();
    fs::create_dir_all(live.join("conf")).unwrap();
    machine.agent(&["redo", "ops"]).exits(1);
    machine.push("ops", &[("docs", "2")]);
    machine.tick();
    assert_eq!(machine.state("ops"), "failing", "{:#}", machine.row("ops"));
}

#[test]
fn more_revisions_than_are_remembered_count_as_every_path() {
    let machine = Sandbox::with("ops", &[("work.sh", SCRIPT), ("nginx/conf", "1"), ("how", "")]);
    machine.tick().ok();
    for number in 0..34 {
        machine.push("ops", &[("how", "exit 3\n"), ("number", &number.to_string())]);
        machine.tick();
    }
    machine.push("ops", &[("how", "")]);
    machine.tick().ok();
    let told = fs::read_to_string(machine.path("told")).unwrap();
    assert!(told.contains("work.sh\n"), "{told}");
}
