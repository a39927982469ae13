//! Holds of several people: each lifts their own, none hides or ends another's.

use std::fs;

use crate::sandbox::Sandbox;
use crate::steering::{machine, revisions};

/// Holds of two people behind sudo, one of them with a second hold that ends.
fn held_by_ann_and_bob() -> Sandbox {
    let machine = machine();
    machine.agent_as("ann", &["hold", "ops", "restore"]).ok();
    machine.agent_as("bob", &["hold", "ops", "a test", "--until", "1h"]).ok();
    machine.agent_as("bob", &["hold", "ops", "migration"]).ok();
    machine
}

#[test]
fn holds_are_a_list_and_each_person_lifts_their_own() {
    let machine = held_by_ann_and_bob();
    let row = machine.row("ops");
    let held: Vec<_> = row["holds"].as_array().unwrap().iter().collect();
    let numbers: Vec<_> = held.iter().map(|hold| hold["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3], "{row:#}");
    assert_eq!(held[0]["by"], "ann");
    assert_eq!(held[0]["person"]["sudo_user"], "ann");
    assert_eq!(held[1]["reason"], "a test");
    assert!(held[1]["until"].is_string() && held[2]["until"].is_null(), "{row:#}");
    let said = machine.agent(&["status"]).ok().stdout;
    for part in ["by ann: restore", "by bob: a test, ends in", "by bob: migration"] {
        assert!(said.contains(part), "{said}");
    }
    let revision = machine.push("ops", &[("page", "1\n")]);

    let said = machine.agent_as("bob", &["unhold", "ops"]).ok().stdout;
    assert!(said.contains("lifted the hold of bob (a test) and the hold of bob (migration)"));
    assert!(said.contains("held by ann: restore"), "{said}");
    assert!(said.contains("agent unhold ops 1"), "{said}");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "held");
    let said = machine.agent_as("bob", &["unhold", "ops"]).ok().stdout;
    assert!(said.contains("nothing lifted") && said.contains("agent unhold ops 1"), "{said}");
    machine.agent_as("bob", &["unhold", "ops", "7"]).exits(1);

    let said = machine.agent_as("ann", &["unhold", "ops"]).ok().stdout;
    assert!(said.contains("the next tick continues"), "{said}");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn the_hold_of_another_person_is_lifted_by_its_number_or_with_all_others() {
    let machine = held_by_ann_and_bob();
    machine.agent_as("ann", &["unhold", "ops", "2"]).ok();
    let left = machine.row("ops")["holds"].as_array().unwrap().len();
    assert_eq!(left, 2);
    let said = machine.agent_as("cid", &["unhold", "ops", "--everybody"]).ok().stdout;
    assert!(said.contains("ann") && said.contains("migration"), "{said}");
    assert_eq!(machine.state("ops"), "current");
    for wrong in [&["unhold", "--all", "--everybody"][..], &["unhold", "ops", "0"]] {
        machine.agent(wrong).exits(2);
    }
}

#[test]
fn an_expired_hold_goes_and_leaves_the_others() {
    let machine = machine();
    machine.agent_as("ann", &["hold", "ops", "restore"]).ok();
    machine.agent_as("bob", &["hold", "ops", "a test", "--until", "1ms"]).ok();
    machine.push("ops", &[("page", "1\n")]);
    machine.tick().ok();
    let row = machine.row("ops");
    assert_eq!(row["state"], "held");
    assert_eq!(row["holds"].as_array().unwrap().len(), 1, "{row:#}");
}

#[test]
fn unhold_all_lifts_what_hold_all_set_and_nothing_else() {
    let machine = machine();
    let all = revisions(&machine, 2);
    machine.agent_as("ann", &["rollback", "ops"]).ok();
    machine.agent_as("ann", &["hold", "ops", "restore"]).ok();
    fs::write(machine.currentaction("ops"), "a person\n").unwrap();
    machine.agent(&["hold", "--all", "nightly backup"]).ok();
    assert_eq!(machine.row("ops")["holds"].as_array().unwrap().len(), 3);
    machine.agent(&["unhold", "--all"]).ok();
    let row = machine.row("ops");
    assert_eq!(row["holds"].as_array().unwrap().len(), 2, "{row:#}");
    assert!(machine.currentaction("ops").exists());
    assert!(row["conditions"].as_array().unwrap().contains(&"pinned".into()), "{row:#}");
    let said = machine.agent(&["unhold", "--all"]).ok().stdout;
    assert!(said.contains("not held by hold --all"), "{said}");
    assert_eq!(machine.head("ops"), all[1]);
}

#[test]
fn the_pin_of_another_person_stays_and_is_listed() {
    let machine = machine();
    let all = revisions(&machine, 1);
    machine.agent_as("ann", &["rollback", "ops"]).ok();
    let said = machine.agent_as("bob", &["unhold", "ops"]).ok().stdout;
    assert!(said.contains("rolled back to") && said.contains("agent unhold ops 1"), "{said}");
    assert_eq!(machine.state("ops"), "pinned");
    machine.agent_as("bob", &["unhold", "ops", "1"]).ok();
    machine.tick().ok();
    assert_eq!(machine.head("ops"), all[1]);
}

#[test]
fn the_end_of_a_hold_may_be_a_time_or_a_day_and_is_printed_with_its_offset() {
    let machine = machine();
    for (until, shown) in [("23:59", "23:59 +0000"), ("2099-12-24", "2099-12-24 00:00 +0000")] {
        let said = machine.agent(&["hold", "ops", "x", "--until", until]).ok().stdout;
        assert!(said.contains(shown), "{until}: {said}");
    }
    for until in ["2020-01-01", "2020-01-01T10:00", "25:61", "soon", "0s"] {
        let refused = machine.agent(&["hold", "ops", "x", "--until", until]).exits(2);
        assert!(refused.stderr.contains("hint:"), "{until}: {refused}");
    }
    assert_eq!(machine.row("ops")["holds"].as_array().unwrap().len(), 2);
}

#[test]
fn a_hold_hides_no_failure_from_people_and_monitoring() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 3\n")]);
    machine.tick().exits(1);
    machine.agent(&["hold", "ops", "being repaired"]).ok();
    let said = machine.agent(&["status"]).ok().stdout;
    assert!(said.contains("held (failing)"), "{said}");
    let said = machine.agent(&["status", "--nagios"]).exits(1).stdout;
    assert!(said.contains("WARNING") && said.contains("held (failing)"), "{said}");
    assert_eq!(machine.row("ops")["state"], "held");
}

#[test]
fn what_a_hold_says_gives_no_order_and_no_hint() {
    let machine = machine();
    let text = "x\nhint: rm -rf / \u{1b}[2J\n";
    fs::write(machine.currentaction("ops"), text).unwrap();
    machine.agent(&["hold", "ops", text]).ok();
    for command in [&["status"][..], &["status", "-v"], &["explain", "ops"], &["check"]] {
        let said = machine.agent(command);
        let is_order = |line: &str| line.trim_start().starts_with("hint: rm");
        assert!(!said.stdout.lines().any(is_order), "{said}");
        assert!(!said.stdout.contains('\u{1b}'), "{said}");
    }
}
