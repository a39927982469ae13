//! Who passes which gates.

use std::fs;

use super::{SHUT, WORK, assert_applied, assert_waits, machine, seen_earlier, set};
use crate::sandbox::{Sandbox, text};

const ALL: &str = "min_age = \"30m\"\nrollout = \"2h\"\n[node]\nrollout_position = 1.0";

#[test]
fn a_revert_never_waits_but_for_the_window() {
    let machine = machine(ALL);
    let bad = machine.push("ops", &[("page", "bad")]);
    machine.agent(&["tick", "ops", "--override", "try it"]).ok();
    assert_applied(&machine, &bad);
    let reverted = machine.push_with("ops", |desk| fs::remove_file(desk.join("page")).unwrap());
    machine.tick().ok();
    assert_applied(&machine, &reverted);
    set(&machine, SHUT);
    machine.push("ops", &[("page", "bad")]);
    machine.tick().ok();
    assert_waits(&machine, "window");
}

#[test]
fn a_revert_of_a_revision_that_still_waits_ends_its_wait() {
    let machine = machine(ALL);
    machine.push("ops", &[("page", "bad")]);
    machine.tick().ok();
    let reverted = machine.push_with("ops", |desk| fs::remove_file(desk.join("page")).unwrap());
    machine.tick().ok();
    assert_applied(&machine, &reverted);
    machine.push("ops", &[("page", "next")]);
    machine.tick().ok();
    seen_earlier(&machine, 29);
    machine.tick().ok();
    assert_waits(&machine, "(min_age)");
}

#[test]
fn a_fix_does_not_wait_where_the_machine_fails_at_a_revision_that_never_succeeded() {
    let machine = machine(ALL);
    fs::write(machine.path("bad"), "").unwrap();
    machine.push("ops", &[("page", "bad")]);
    machine.agent(&["tick", "ops", "--override", "try it"]).exits(1);
    fs::remove_file(machine.path("bad")).unwrap();
    let mended = machine.push("ops", &[("page", "good")]);
    machine.tick().ok();
    assert_applied(&machine, &mended);
    // It fails at what succeeded here: what is new waits like any other.
    fs::write(machine.path("bad"), "").unwrap();
    machine.agent(&["redo", "ops"]).exits(1);
    machine.push("ops", &[("page", "new")]);
    machine.tick();
    assert_waits(&machine, "(min_age)");
}

#[test]
fn urgent_passes_the_waits_once_for_each_text() {
    let machine = machine(ALL);
    let urgent = machine.push("ops", &[(".pmpy.toml", "urgent = \"a hole\"\n")]);
    machine.tick().ok();
    assert_applied(&machine, &urgent);
    machine.push("ops", &[("page", "next")]);
    machine.tick().ok();
    assert_waits(&machine, "(min_age)");
    let another = machine.push("ops", &[(".pmpy.toml", "urgent = \"another hole\"\n")]);
    machine.tick().ok();
    assert_applied(&machine, &another);
}

#[test]
fn urgent_is_ignored_where_the_machine_says_so_and_needs_the_window() {
    let urgent = (".pmpy.toml", "urgent = \"a hole\"\n");
    for (keys, passes) in [
        (format!("{SHUT}\nurgent = true"), false),
        ("window = [\"2001-01-01\", \"urgent\"]".to_owned(), true),
        ("window = [\"2001-01-01\", \"urgent\"]\nurgent = false".to_owned(), false),
        ("min_age = \"30m\"\nurgent = false".to_owned(), false),
    ] {
        let machine = machine(&keys);
        let pushed = machine.push("ops", &[urgent]);
        machine.tick().ok();
        match passes {
            true => assert_applied(&machine, &pushed),
            false => assert_waits(&machine, ""),
        }
    }
}

#[test]
fn override_passes_window_and_waits_and_is_recorded_with_its_reason() {
    let machine = machine(&format!("{SHUT}\n{ALL}"));
    let pushed = machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    machine.agent(&["tick", "--override", "now"]).exits(2);
    machine.agent(&["tick", "ops", "--override", ""]).exits(2);
    machine.agent_as("ann", &["tick", "ops", "--override", "the shop is down"]).ok();
    assert_applied(&machine, &pushed);
    let history = machine.agent(&["history", "ops"]).stdout;
    assert!(history.contains("override") && history.contains("the shop is down"), "{history}");
    assert!(history.contains(&pushed[..7]) && history.contains("ann"), "{history}");
    // It passes nothing that a person or the revision said.
    machine.agent(&["hold", "ops", "migration"]).ok();
    machine.push("ops", &[("page", "three")]);
    machine.agent(&["tick", "ops", "--override", "now"]).exits(1);
    assert_eq!(machine.state("ops"), "held");
}

#[test]
fn the_first_action_of_a_machine_waits_for_nothing() {
    let keys = |machine: &Sandbox| {
        let url = machine.server("ops");
        machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n{SHUT}\n{ALL}\n", text(&url)));
    };
    let machine = Sandbox::new();
    let first = machine.serve("ops", &[("work.sh", WORK)]);
    keys(&machine);
    machine.tick().ok();
    assert_applied(&machine, &first);
    // A clone that repair or a person made anew is not the first.
    fs::remove_dir_all(machine.clone_of("ops")).unwrap();
    machine.push("ops", &[("page", "two")]);
    machine.tick();
    assert_eq!(machine.lastaction("ops"), None);
    assert_waits(&machine, "window");

    let adopted = Sandbox::with("ops", &[("work.sh", WORK)]);
    keys(&adopted);
    adopted.tick();
    assert_eq!(adopted.runs(), [""; 0]);
    assert_waits(&adopted, "window");
}

#[test]
fn what_began_inside_the_window_is_tried_again_outside() {
    let machine = machine("window = [\"Mon-Sun\"]");
    fs::write(machine.path("bad"), "").unwrap();
    let pushed = machine.push("ops", &[("page", "two")]);
    machine.tick().exits(1);
    fs::remove_file(machine.path("bad")).unwrap();
    set(&machine, SHUT);
    machine.wait_is_over("ops");
    machine.tick().ok();
    assert_applied(&machine, &pushed);

    fs::write(machine.path("bad"), "").unwrap();
    set(&machine, "window = [\"Mon-Sun\"]");
    machine.push("ops", &[("page", "three")]);
    machine.tick().exits(1);
    set(&machine, SHUT);
    let file = machine.private("ops", "state");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let earlier = chrono::Utc::now() - chrono::TimeDelta::minutes(61);
    state["begun"]["at"] = earlier.to_rfc3339().into();
    fs::write(&file, state.to_string()).unwrap();
    machine.wait_is_over("ops");
    let runs = machine.runs().len();
    machine.tick();
    assert_eq!(machine.runs().len(), runs, "an hour after it began it needs the window again");
}

#[test]
fn redo_a_removed_lastaction_and_when_pass_all_gates_of_time() {
    let machine = machine(&format!("{SHUT}\n{ALL}"));
    machine.agent(&["redo", "ops"]).ok();
    fs::remove_file(machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt")).unwrap();
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 3);
    set(&machine, &format!("when = \"always\"\n{SHUT}"));
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 4);
}

#[test]
fn what_is_applied_is_run_again_while_a_newer_revision_waits() {
    let machine = machine(&format!("when = \"always\"\n{ALL}"));
    let first = machine.lastaction("ops").unwrap();
    let pushed = machine.push("ops", &[("page", "two")]);
    for _ in 0..3 {
        machine.tick().ok();
    }
    assert_waits(&machine, "(min_age)");
    let runs = machine.runs();
    assert!(runs.len() >= 3 && runs.iter().all(|run| run.starts_with(&first)), "{runs:?}");
    // Its wait does not begin anew with each of them.
    seen_earlier(&machine, 150);
    machine.tick().ok();
    assert_applied(&machine, &pushed);
    set(&machine, SHUT);
    machine.push("ops", &[("page", "three")]);
    machine.tick().ok();
    fs::remove_file(machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt")).unwrap();
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(pushed));
    assert_waits(&machine, "window");
}

#[test]
fn a_rollback_passes_all_gates_and_what_comes_after_it_waits() {
    let machine = machine("");
    machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    set(&machine, SHUT);
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.state("ops"), "pinned");
    machine.agent(&["unhold", "ops"]).ok();
    machine.tick().ok();
    assert_waits(&machine, "window");
}

#[test]
fn accept_needs_the_window_and_waits_for_nothing_else() {
    let machine = machine(ALL);
    let held = machine.push("ops", &[(".pmpy.toml", "hold = \"not yet\"\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "held");
    machine.agent(&["accept", "ops", &held]).ok();
    assert_applied(&machine, &held);
}

#[test]
fn the_window_holds_for_every_branch_that_is_published() {
    let machine = Sandbox::with("ops", &[("page", "one")]);
    let target = machine.path("sites");
    fs::create_dir(&target).unwrap();
    let keys = format!(
        "mode = \"branches\"\ntarget = {target:?}\nafter = [\"sh\", \"-c\", \"[ ! -e ../../bad ]\"]"
    );
    set(&machine, &keys);
    machine.tick().ok();
    let shown = || fs::read_to_string(target.join("main/page")).unwrap();
    set(&machine, &format!("{keys}\n{SHUT}"));
    machine.push("ops", &[("page", "two")]);
    machine.git(&machine.desk("ops"), &["push", "--quiet", "origin", "HEAD:refs/heads/other"]);
    machine.tick().ok();
    assert_waits(&machine, "window never opens again");
    assert_eq!((shown().as_str(), target.join("other").exists()), ("one", false));
    machine.agent(&["tick", "ops", "--override", "now"]).ok();
    assert_eq!((shown().as_str(), target.join("other").exists()), ("two", true));
}

#[test]
fn gates_hold_for_in_place_and_checkout_as_well() {
    for mode in ["in-place", "checkout"] {
        let machine = Sandbox::with("ops", &[("page", "one")]);
        let target = machine.path("site");
        let target =
            if mode == "checkout" { format!("target = {target:?}") } else { String::new() };
        set(&machine, &format!("mode = \"{mode}\"\n{target}"));
        machine.tick().ok();
        let first = machine.lastaction("ops").unwrap();
        set(&machine, &format!("mode = \"{mode}\"\n{target}\n{SHUT}"));
        machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        assert_waits(&machine, "window");
        assert_eq!(machine.lastaction("ops"), Some(first));
        machine.agent(&["tick", "ops", "--override", "now"]).ok();
        assert_eq!(machine.state("ops"), "current");
    }
}
