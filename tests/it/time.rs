//! Clocks that jump, and the bare surroundings that cron gives: no environment, no open files.
//! faketime(1) gives the agent another wall clock; files keep the real one's times.

use std::fs;
use std::process::Command;

use chrono::{DateTime, Duration, Utc};
use serde_json::Value;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox};

const FAILS: &str = "echo run >> \"$AGENT_ROOT/../runs\"\n[ -e \"$AGENT_ROOT/../good\" ]\n";

/// A clock that is off by this much, as faketime(1) writes it.
const YEAR_BACK: &str = "-365d";
const YEAR_AHEAD: &str = "+365d";
/// And the time itself, for a clock whose battery is empty; it goes on from there.
const AT_1970: &str = "@1970-01-02 00:00:00";

/// The agent under another clock.
fn at(machine: &Sandbox, clock: &str, arguments: &[&str]) -> Ran {
    let mut faketime = machine.command("faketime");
    faketime.env("NO_FAKE_STAT", "1").args(["-f", clock]).args(machine.agent_line(arguments));
    Ran::of(&mut faketime)
}

fn tick_at(machine: &Sandbox, clock: &str) -> Ran {
    at(machine, clock, &["tick", "--trigger", "cron"])
}

/// Sure that `status` under `clock` says `state`, that nothing in it lies in the future, and that it
/// is told without a minus sign.
#[track_caller]
fn is_at(machine: &Sandbox, clock: &str, state: &str) -> Value {
    let ran = at(machine, clock, &["status", "--json"]);
    let status: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran}"));
    let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let row = &status["repositories"][0];
    assert_eq!(row["state"], state, "{row:#}");
    assert!(time(&row["since"]) <= time(&status["at"]), "{row:#}");
    let people = at(machine, clock, &["status"]);
    assert!(people.code == ran.code && people.stderr.is_empty(), "{people}");
    row.clone()
}

#[test]
fn a_clock_set_back_by_a_year_makes_no_failure_wait_for_a_year() {
    let machine = Sandbox::with("ops", &[("work.sh", FAILS)]);
    for clock in [YEAR_AHEAD, "+0", YEAR_BACK, AT_1970] {
        let ran = tick_at(&machine, clock);
        assert_eq!(ran.code, Some(1), "{clock}: {ran}");
        is_at(&machine, clock, "failing");
    }
    // Each was an attempt, for the wait of the one before lay out of reach.
    assert_eq!(machine.runs().len(), 4);
    tick_at(&machine, AT_1970).exits(1);
    assert_eq!(machine.runs().len(), 4, "this one's own wait counts");
}

#[test]
fn a_clock_that_jumps_ahead_ends_the_wait_and_the_count_continues() {
    let machine = Sandbox::with("ops", &[("work.sh", FAILS)]);
    machine.tick().exits(1);
    tick_at(&machine, YEAR_AHEAD).exits(1);
    let row = is_at(&machine, YEAR_AHEAD, "failing");
    assert_eq!(row["attempt"], 2);
    fs::write(machine.path("good"), "").unwrap();
    machine.tick().ok();
    is_at(&machine, "+0", "current");
}

#[test]
fn what_was_recorded_under_a_wrong_clock_is_applied_once() {
    for wrong in [YEAR_AHEAD, YEAR_BACK, AT_1970] {
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        tick_at(&machine, wrong).ok();
        is_at(&machine, wrong, "current");
        machine.tick().ok();
        is_at(&machine, "+0", "current");
        assert_eq!(machine.runs().len(), 2, "{wrong}: one start, one end");
        assert_eq!(machine.status()["healthy"], true, "{wrong}");
        let history = machine.agent(&["history", "ops"]).ok().stdout;
        assert_eq!(history.lines().count(), 1, "{history}");

        // And the next revision is acted upon as ever.
        let revision = machine.push("ops", &[("page", "two\n")]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision));
    }
}

#[test]
fn an_idle_tick_under_a_clock_set_back_writes_no_status() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    tick_at(&machine, YEAR_AHEAD).ok();
    machine.tick().ok();
    let file = machine.root().join(".pmpy/status.json");
    let before = fs::read(&file).unwrap();
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_remote_lost_under_a_clock_ahead_alarms_a_quarter_of_an_hour_later_all_the_same() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    tick_at(&machine, YEAR_AHEAD).ok();
    machine.tick().ok();
    is_at(&machine, "+0", "unreachable");
    tick_at(&machine, "+14m").ok();
    tick_at(&machine, "+16m").exits(1);
}

#[test]
fn a_hold_until_later_ends_then_and_a_clock_set_back_does_not_end_it() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    machine.agent(&["hold", "ops", "migration", "--until", "1h"]).ok();
    let revision = machine.push("ops", &[("page", "two\n")]);
    for clock in ["+0", YEAR_BACK, AT_1970, "+50m"] {
        tick_at(&machine, clock).ok();
        is_at(&machine, clock, "held");
    }
    tick_at(&machine, "+70m").ok();
    is_at(&machine, "+70m", "current");
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn not_now_for_an_hour_is_no_failure_and_after_six_hours_monitoring_warns() {
    let script = "echo run >> \"$AGENT_ROOT/../runs\"\n[ -e \"$AGENT_ROOT/../good\" ] || exit 75\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    for minute in (0..=60).step_by(5) {
        let ran = tick_at(&machine, &format!("+{minute}m")).ok();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "minute {minute}");
    }
    assert_eq!(machine.runs().len(), 13, "each tick tries");
    let row = is_at(&machine, "+61m", "waiting");
    assert_eq!(row["attempt"], 0);
    assert_eq!(at(&machine, "+61m", &["status", "--nagios"]).code, Some(0));
    tick_at(&machine, "+7h").ok();
    assert_eq!(at(&machine, "+7h", &["status", "--nagios"]).code, Some(1));
    fs::write(machine.path("good"), "").unwrap();
    tick_at(&machine, "+8h").ok();
    is_at(&machine, "+8h", "current");
}

#[test]
fn each_hour_acts_again_though_the_last_success_lies_in_the_future() {
    let machine = Sandbox::with("ops", &[("work.sh", "echo run >> \"$AGENT_ROOT/../runs\"\n")]);
    machine.configure("[repo.ops]\nwhen = \"1h\"\n");
    machine.tick().ok();
    // The file's own time is what counts, and files are dated by the kernel.
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    let ahead = Utc::now() + Duration::days(365);
    fs::File::options().write(true).open(record).unwrap().set_modified(ahead.into()).unwrap();
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 2);
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 2, "and that success lies in the present");
}

/// The agent through a shell that first does `preparation`; with nothing in its environment.
fn bare(machine: &Sandbox, preparation: &str) -> Ran {
    let line = format!("exec \"$@\" {preparation}");
    let mut shell = Command::new("/bin/sh");
    shell
        .env_clear()
        .current_dir("/")
        .args(["-c", &line, "sh"])
        .args(["/usr/bin/env", "-i"])
        .args(machine.agent_line(&["tick", "--trigger", "cron"]));
    Ran::of(&mut shell)
}

#[test]
fn crons_bare_surroundings_are_enough() {
    let script = "echo \"$PATH $HOME $LANG\" >> \"$AGENT_ROOT/../runs\"\ngit --version\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    for round in 1..=2 {
        let ran = bare(&machine, "").ok();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
        assert_eq!(machine.runs().len(), round);
        assert!(machine.runs()[0].starts_with("/usr/local/sbin:"), "{:?}", machine.runs());
        machine.push("ops", &[("page", &format!("{round}\n"))]);
    }
}

#[test]
fn without_stdin_stdout_and_stderr_no_file_is_taken_for_them() {
    let script = format!("{NOTES_ITS_RUNS}echo out\necho err >&2\n");
    let machine = Sandbox::with("ops", &[("work.sh", &script), ("page", "one\n")]);
    bare(&machine, "<&- >&- 2>&-").ok();
    let revision = machine.push("ops", &[("page", "two\n")]);
    bare(&machine, "<&- >&- 2>&-").ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    // One that has something to say to nobody.
    machine.push("ops", &[("work.sh", "echo out\nexit 3\n")]);
    bare(&machine, "<&- >&- 2>&-").exits(1);

    assert_eq!(machine.differences("ops"), "");
    machine.git(&machine.clone_of("ops"), &["fsck", "--strict"]);
    assert_eq!(machine.state("ops"), "failing");
    let state = machine.root().join(".pmpy");
    assert_eq!(fs::read(state.join("last-tick")).unwrap(), b"");
    assert_eq!(machine.head("ops"), machine.git(&machine.desk("ops"), &["rev-parse", "HEAD"]));
    for log in machine.files_below(&state.join("log/ops")) {
        let log = fs::read_to_string(state.join("log/ops").join(log)).unwrap();
        assert!(log.starts_with("Start ") && log.contains("\nout\n"), "{log}");
        assert!(!log.contains("agent"), "{log}");
    }
}
