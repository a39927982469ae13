//! `window`, `min_age` and `rollout`: what waits, what is said of it, and that waiting costs nothing.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::{SHUT, assert_applied, assert_waits, live, machine, seen_earlier, set};
use crate::sandbox::Sandbox;

#[test]
fn while_a_gate_is_shut_nothing_on_the_machine_changes() {
    for (keys, reason) in [
        (SHUT, "window never opens again"),
        ("window = [\"Mon\", \"!2001-01-01..2090-01-01\"]", "window never opens again"),
        (
            "window = [\"!2001-01-01..2030-01-01\"]\nwindow_zone = \"UTC\"",
            "window opens 2030-01-02 00:00 UTC",
        ),
        ("min_age = \"30m\"", "UTC (min_age)"),
        ("rollout = \"2h\"\n[node]\nrollout_position = 1.0", "UTC (rollout)"),
    ] {
        let machine = machine(keys);
        let before = live(&machine);
        let pushed = machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        machine.tick().ok();
        assert_eq!(live(&machine), before, "{keys}");
        assert_waits(&machine, reason);
        assert_eq!(machine.row("ops")["upstream"], *pushed, "it is fetched and known");
        machine.agent(&["tick", "ops"]).exits(1);
        assert_eq!(live(&machine), before, "{keys}: a person who names it does not pass");
        set(&machine, "");
        machine.tick().ok();
        assert_applied(&machine, &pushed);
    }
}

/// The files of the agent and of git in the clone, with their times of change and their inodes.
fn stamps(machine: &Sandbox) -> Vec<(String, SystemTime)> {
    let clone = machine.clone_of("ops");
    let stamp = |file: &Path| fs::symlink_metadata(clone.join(file)).unwrap().modified().unwrap();
    machine.files_below(&clone).iter().map(|it| (it.display().to_string(), stamp(it))).collect()
}

#[test]
fn a_tick_that_waits_writes_nothing_beyond_the_first_sight() {
    let machine = machine("min_age = \"30m\"\nrollout = \"2h\"\n[node]\nrollout_position = 0.5");
    machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    machine.tick().ok();
    let (clone, status) = (stamps(&machine), fs::read(machine.root().join(".pmpy/status.json")));
    for _ in 0..3 {
        machine.tick().ok();
    }
    assert_eq!(stamps(&machine), clone);
    assert_eq!(fs::read(machine.root().join(".pmpy/status.json")).ok(), status.ok());
}

#[test]
fn a_wait_ends_when_its_time_is_over_and_restarts_with_each_push() {
    let machine = machine("min_age = \"30m\"");
    machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    seen_earlier(&machine, 29);
    machine.tick().ok();
    assert_waits(&machine, "(min_age)");
    let third = machine.push("ops", &[("page", "three")]);
    machine.tick().ok();
    seen_earlier(&machine, 29);
    machine.tick().ok();
    assert_waits(&machine, "(min_age)");
    seen_earlier(&machine, 1);
    machine.tick().ok();
    assert_applied(&machine, &third);
    assert_eq!(machine.runs().len(), 2, "the second was never applied");
}

#[test]
fn nobody_waits_longer_than_three_times_min_age_after_the_oldest_that_waits() {
    let machine = machine("min_age = \"30m\"");
    let mut newest = String::new();
    for number in 0..4 {
        newest = machine.push("ops", &[("page", &number.to_string())]);
        machine.tick().ok();
        assert_waits(&machine, "(min_age)");
        seen_earlier(&machine, 25);
    }
    machine.tick().ok();
    assert_applied(&machine, &newest);
}

#[test]
fn a_position_in_the_rollout_says_when_a_machine_follows() {
    let keys = |position: &str| {
        format!("min_age = \"10m\"\nrollout = \"2h\"\n[node]\nrollout_position = {position}")
    };
    for (position, minutes) in [("0.0", 10), ("0.5", 70), ("1", 130)] {
        let machine = machine(&keys(position));
        let pushed = machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        seen_earlier(&machine, minutes - 1);
        machine.tick().ok();
        assert_waits(&machine, if position == "0.0" { "(min_age)" } else { "(rollout)" });
        seen_earlier(&machine, 1);
        machine.tick().ok();
        assert_applied(&machine, &pushed);
    }
    let bad = Sandbox::new();
    bad.configure("[node]\nrollout_position = 1.5\n");
    let ran = bad.tick().exits(2);
    assert!(
        ran.stderr.contains("agent.toml:2:20: node.rollout_position: 1.5 is not a position"),
        "{ran}"
    );
}

#[test]
fn a_rollout_that_is_changed_counts_at_once_for_what_waits() {
    let keys = |rollout: &str| format!("rollout = \"{rollout}\"\n[node]\nrollout_position = 1.0");
    let machine = machine(&keys("2h"));
    let pushed = machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    seen_earlier(&machine, 61);
    machine.tick().ok();
    assert_waits(&machine, "(rollout)");
    set(&machine, &keys("1h"));
    machine.tick().ok();
    assert_applied(&machine, &pushed);
}

#[test]
fn two_images_with_one_machine_id_have_positions_of_their_own() {
    let due = |name: &str| {
        let machine = machine(&format!("rollout = \"200h\"\n[node]\nname = \"{name}\""));
        machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        machine.row("ops")["gate"]["until"].as_str().map(str::to_owned)
    };
    assert!(due("web01").is_some() && due("web01") != due("web02"));
}

#[test]
fn a_lost_first_sight_begins_the_wait_anew() {
    let machine = machine("min_age = \"30m\"");
    machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    seen_earlier(&machine, 29);
    fs::remove_file(machine.private("ops", "state")).unwrap();
    machine.tick().ok();
    seen_earlier(&machine, 29);
    machine.tick().ok();
    assert_waits(&machine, "(min_age)");
}

#[test]
fn a_wait_goes_on_over_a_reboot() {
    let machine = machine("min_age = \"30m\"");
    let pushed = machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    let file = machine.private("ops", "state");
    let state = fs::read_to_string(&file).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
    // Of another boot, whose clock said the same: 20 minutes ago.
    state["sight"]["boot_id"] = "another".into();
    let at = chrono::Utc::now() - chrono::TimeDelta::minutes(20);
    state["sight"]["at"] = at.to_rfc3339().into();
    fs::write(&file, state.to_string()).unwrap();
    machine.tick().ok();
    assert_waits(&machine, "(min_age)");
    let renewed: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let waited = renewed["sight"]["waited"]["secs"].as_u64().unwrap();
    assert!((1190..1260).contains(&waited), "{waited}");
    assert_ne!(renewed["sight"]["boot_id"], "another");
    seen_earlier(&machine, 10);
    machine.tick().ok();
    assert_applied(&machine, &pushed);
}

#[test]
fn a_clock_behind_the_newest_record_shuts_the_window_and_says_so() {
    let machine = machine("window = [\"Mon-Sun\"]");
    let file = machine.private("ops", "state");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    state["acted"]["at"] = "2090-01-01T00:00:00Z".into();
    fs::write(&file, state.to_string()).unwrap();
    let pushed = machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    assert_waits(
        &machine,
        "clock is behind the newest record here, which is of 2090-01-01T00:00:00Z",
    );
    let text = machine.agent(&["status"]).stdout;
    assert!(text.contains("agent tick ops --override REASON"), "{text}");
    machine.agent(&["tick", "ops", "--override", "the clock was wrong"]).ok();
    assert_applied(&machine, &pushed);
}

#[test]
fn what_may_not_run_is_told_while_the_window_is_shut() {
    for (file, content, state, reason) in [
        (".pmpy.toml", "hold = \"wait for Anna\"\n", "held", "wait for Anna"),
        (".pmpy.toml", "urgent = 5\n", "refused", ".pmpy.toml"),
        (".pmpy.toml", "urgent = \"\"\n", "refused", "the text is empty"),
        (".temp/x", "x", "refused", ".temp"),
    ] {
        let machine = machine(SHUT);
        machine.push("ops", &[(file, content)]);
        machine.tick();
        let row = machine.row("ops");
        assert_eq!(row["state"], state, "{row:#}");
        assert!(row["reason"].as_str().unwrap().contains(reason), "{row:#}");
        let mended = machine.push_with("ops", |desk| fs::remove_file(desk.join(file)).unwrap());
        machine.tick().ok();
        assert_waits(&machine, "window");
        assert_eq!(machine.row("ops")["upstream"], *mended);
    }
}

#[test]
fn windows_zones_and_keys_that_cannot_be_right_are_errors() {
    for (keys, named) in [
        ("window = [\"Mon\", \"!Mon\"]", "the window never opens"),
        ("window = [\"Mon-Fry\"]", "\"Mon-Fry\" has days that are none"),
        ("window = [\"urgent\"]", "names no hours"),
        ("window = []", "names no hours"),
        ("window_zone = \"../etc/passwd\"", "is not the name of a time zone"),
        ("min_age = \"soon\"", "min_age"),
        ("canaries = [\"web01\"]", "needs [presence]"),
        ("before = [\"../x\"]", "leaves the repository"),
        ("mode = \"branches\"\ntarget = \"/srv/x\"\nrollout = \"1h\"", "does nothing in mode"),
        (
            "mode = \"branches\"\ntarget = \"/srv/x\"\ncanaries = [\"web01\"]\n[presence]\nurl = \"/srv/status.git\"",
            "does nothing in mode",
        ),
    ] {
        let machine = machine(keys);
        let ran = machine.tick().exits(2);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(named) && said.contains("agent.toml:"), "{keys}: {ran}");
    }
    let machine = machine("window = [\"Mon\"]\nwindow_zone = \"Europe/Nowhere\"");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("window_zone: there is no time zone \"Europe/Nowhere\""), "{reason}");
}

#[test]
fn explain_lists_the_gates_with_the_moment_when_all_are_open() {
    let machine = machine(
        "window = [\"!2001-01-01..2030-01-01\"]\nmin_age = \"30m\"\nrollout = \"0s\"\nbefore = [\"bin/ok\"]",
    );
    machine.push("ops", &[("page", "two"), ("bin/ok", "exit 0\n")]);
    machine.tick().ok();
    let text = machine.agent(&["explain", "ops"]).stdout;
    for line in [
        "A gate is shut, window:",
        "  x window opens Wed 2030-01-02 00:00",
        " (min_age)",
        "  x before is run when all else is open",
        "agent tick ops --override REASON",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    set(&machine, "min_age = \"30m\"");
    machine.tick().ok();
    let text = machine.on_terminal(120, "", &["explain", "ops"]).stdout;
    assert!(text.contains("  ✗ applied at "), "{text}");
    assert!(text.contains("All gates are open in "), "{text}");
}

#[test]
fn check_tells_of_a_window_that_never_opens_again_and_of_programs_that_cannot_run() {
    let machine = machine(&format!("{SHUT}\nbefore = [\"/no/such\"]"));
    let ran = machine.agent(&["check", "--offline"]);
    assert!(ran.stdout.contains("its window never opens again"), "{ran}");
    assert!(ran.stdout.contains("there is no program \"/no/such\""), "{ran}");
    set(&machine, "window = [\"!2001-01-01..2030-01-01\"]\nwindow_zone = \"UTC\"");
    let ran = machine.agent(&["check", "--offline"]).ok();
    assert!(ran.stdout.contains("its window opens 2030-01-02T00:00:00Z"), "{ran}");
}
