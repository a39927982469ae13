//! Scripts that fail and runs that are cut off: when that is a bad release, and when it is not.

use std::fs;

use serde_json::{Value, json};

use super::{assert_live, assert_rolled_back, lines, machine, marks};
use crate::sandbox::{Sandbox, wait_until};

/// Changes the record of the last attempt.
fn change(machine: &Sandbox, edit: impl FnOnce(&mut Value)) {
    let file = machine.private("ops", "state");
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(state["attempt"].is_object(), "nothing failed: {state:#}");
    edit(&mut state["attempt"]);
    fs::write(file, state.to_string()).unwrap();
}

/// Lets the first failure have been so many minutes earlier, and the wait be over.
fn failed_earlier(machine: &Sandbox, minutes: i64) {
    let first = chrono::Utc::now() - chrono::TimeDelta::minutes(minutes);
    change(machine, |attempt| {
        attempt["next_try"] = Value::Null;
        attempt["tally"]["first_failure"] = json!(first.to_rfc3339());
    });
}

/// Pushes a release whose script puts it live and then ends as `end` says.
fn push(machine: &Sandbox, end: &str) -> String {
    push_page(machine, "bad\n", end)
}

fn push_page(machine: &Sandbox, page: &str, end: &str) -> String {
    let work = format!("{}{end}\n", super::WORK);
    machine.push("ops", &[("page", page), ("work.sh", &work)])
}

#[test]
fn scripts_that_failed_three_times_over_ten_minutes_are_a_bad_release() {
    for mode in ["work", "checkout"] {
        let (machine, first) = machine(mode, "");
        let bad = push(&machine, "exit 3");
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "failing");
        failed_earlier(&machine, 4);
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "failing", "{mode}: {:#}", machine.row("ops"));
        assert_live(&machine, "bad");
        failed_earlier(&machine, 11);
        machine.tick().exits(1);
        let row = assert_rolled_back(&machine, &bad, &first);
        assert!(row["reason"].as_str().unwrap().contains("failed three times"), "{row:#}");
        assert_live(&machine, "one");
        let last = lines(&machine, "runs").last().unwrap().clone();
        assert_eq!(last, format!("rollback {first} {bad} page work.sh "), "{mode}");
    }
}

#[test]
fn a_mirror_that_is_away_for_two_minutes_and_75_are_no_bad_release() {
    let (machine, _) = machine("work", "");
    push_page(&machine, "two\n", "[ -e \"$AGENT_ROOT/../mirror\" ]");
    for minutes in [0, 1, 2] {
        machine.tick().exits(1);
        failed_earlier(&machine, minutes);
    }
    fs::write(machine.path("mirror"), "").unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    push(&machine, "exit 75 # not now");
    for _ in 0..4 {
        machine.tick().ok();
        change(&machine, |attempt| attempt["since"] = json!("2026-01-01T00:00:00Z"));
    }
    assert_eq!(machine.state("ops"), "waiting");
    assert_eq!(marks(&machine), [""; 0]);
}

/// Runs the release until it is cut off, as by a reboot, `after` so many minutes.
fn cut_off(machine: &Sandbox, after: i64) {
    machine.tick();
    wait_until("the script of the dead run ended", || {
        let runs = lines(machine, "runs").len();
        lines(machine, "ended").len() >= runs - 1
    });
    if after > 0 {
        let file = machine.private("ops", "journal");
        let mut journal: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let since = chrono::Utc::now() - chrono::TimeDelta::minutes(after);
        journal["since"] = json!(since.to_rfc3339());
        fs::write(file, journal.to_string()).unwrap();
    }
}

/// The release kills its worker; the next tick records that, and must not wait to try again.
const REBOOTS: &str = "kill -9 $PPID; echo >> \"$AGENT_ROOT/../ended\"";

#[test]
fn three_runs_in_a_row_that_were_cut_off_are_a_bad_release() {
    let (machine, first) = machine("work", "");
    let bad = push(&machine, REBOOTS);
    for number in 1..=3 {
        cut_off(&machine, 0);
        let ended = lines(&machine, "ended").len();
        assert_eq!(ended, number, "each tick runs it once");
        if number == 2 {
            // Recorded by the next tick, which then waits.
            machine.tick();
            machine.wait_is_over("ops");
        }
    }
    machine.tick().exits(1);
    let row = assert_rolled_back(&machine, &bad, &first);
    assert!(row["reason"].as_str().unwrap().contains("was cut off three times"), "{row:#}");
    assert_live(&machine, "one");
}

#[test]
fn runs_that_were_cut_off_later_than_ten_minutes_after_their_start_are_not() {
    let (machine, _) = machine("work", "");
    push(&machine, REBOOTS);
    for number in 1..=3 {
        cut_off(&machine, if number == 2 { 11 } else { 0 });
        if number == 2 {
            machine.tick();
            machine.wait_is_over("ops");
        }
    }
    machine.tick();
    assert_eq!(machine.state("ops"), "failing", "{:#}", machine.row("ops"));
    assert_eq!(marks(&machine), [""; 0]);
    assert_live(&machine, "bad");
}
