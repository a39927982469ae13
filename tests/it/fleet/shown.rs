//! What a person, a program and monitoring see of a fleet.

use serde_json::json;

use super::*;

/// Two machines that are as they should be, one that is behind, one that fails and one that is held.
fn five(status: &Status) {
    status.publish("web01", &at("web01", "current", NEW));
    status.publish("web02", &at("web02", "current", NEW));
    status.publish("web03", &at("web03", "behind", OLD));
    let mut failing = row("failing", OLD);
    failing["reason"] = json!("work.sh exited with 1\nhint: agent log ops");
    status.publish("db01", &presence("db01", json!([failing])));
    let mut held = row("held", OLD);
    held["holds"] = json!([{
        "by": "ann", "reason": "migration", "since": ago(Duration::hours(2)), "until": ago(Duration::hours(-2)),
    }]);
    status.publish("db02", &presence("db02", json!([held])));
}

#[test]
fn the_worst_machines_come_first_and_holds_and_failures_are_described() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    five(&status);
    let shown = status.fleet(&[]).exits(1).stdout;
    let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert!(lines[0].ends_with("· 5 machines"), "{shown}");
    assert_eq!(lines[1], "ops: main is 6b2c3d7 Release", "{shown}");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let counts: Vec<_> = lines[3..7].iter().map(|line| words(line)).collect();
    assert_eq!(
        counts,
        ["failing 1 db01", "held 1 db02", "behind 1 web03", "current 2 web01 web02"],
        "{shown}"
    );
    assert!(
        shown.contains("db01: ops failing at 5f71ff2 Release since 60 min ago")
            || shown.contains("db01: ops failing at 5f71ff2 Release since 1 h ago"),
        "{shown}"
    );
    assert!(shown.contains(": work.sh exited with 1"), "{shown}");
    assert!(shown.contains("held by ann until in "), "{shown}");
    assert!(shown.contains(": migration"), "{shown}");
    assert!(!shown.contains("web01: "), "nothing is said of what is as it should be: {shown}");
    let matrix = lines.iter().filter(|line| line.starts_with("ops  ")).count();
    assert_eq!(matrix, 4, "{shown}");
}

#[test]
fn files_that_were_changed_by_hand_are_said_of_a_machine_that_is_well() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let mut drifted = row("current", NEW);
    drifted["drifted"] = json!(3);
    status.publish("web01", &presence("web01", json!([drifted])));
    let shown = status.fleet(&[]).ok().stdout;
    assert!(shown.contains("web01: ops current at 6b2c3d7 Release since 1 h ago"), "{shown}");
    assert!(shown.contains("; 3 files differ"), "{shown}");
}

#[test]
fn all_is_well_where_every_machine_is_as_it_should_be() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    let shown = status.fleet(&[]).ok().stdout;
    assert!(shown.contains("1 machine\n") && shown.contains("current"), "{shown}");
    let verbose = status.fleet(&["-v"]).ok().stdout;
    assert!(verbose.contains("web01: agent 0.2.0, part web, published "), "{verbose}");
}

#[test]
fn names_patterns_and_verdicts_select() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    five(&status);
    status.fleet(&["--hosts", "web*"]).ok();
    let behind = status.fleet(&["--state", "behind"]).ok().stdout;
    assert!(behind.contains("web03") && !behind.contains("web01"), "{behind}");
    let both = status.fleet(&["--hosts", "web01", "--hosts", "db0[2]"]).ok().stdout;
    assert!(both.contains("2 machines"), "{both}");
    status.fleet(&["ops", "--hosts", "db01"]).exits(1);
    for wrong in [&["mail"][..], &["--hosts", "mail*"]] {
        let error = status.fleet(wrong).exits(2).stderr;
        assert!(error.contains("mail") && error.contains("hint: "), "{error}");
    }
    let error = status.fleet(&["--state", "fine"]).exits(2).stderr;
    assert!(error.contains("failing, "), "{error}");
}

#[test]
fn a_program_gets_the_machines_with_what_they_published() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    five(&status);
    let said = status.json();
    assert_eq!(said["counts"], json!({"failing": 1, "held": 1, "behind": 1, "current": 2}));
    let first = &said["machines"][0];
    assert_eq!(first["name"], "db01");
    assert_eq!(first["verdict"], "failing");
    assert_eq!(first["attention"], true);
    assert_eq!(first["repositories"][0]["acted"]["revision"], OLD);
    status.fleet(&["--json"]).exits(1);
}

#[test]
fn monitoring_gets_one_line_and_a_code() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let none = status.fleet(&["--nagios"]).exits(3).stdout;
    assert!(none.starts_with("PMPY UNKNOWN - no machine publishes there"), "{none}");
    status.publish("web01", &at("web01", "current", NEW));
    let fine = status.fleet(&["--nagios"]).ok().stdout;
    assert_eq!(fine, "PMPY OK - 1 current | machines=1;;;0 attention=0;;;0 silent=0;;;0\n");
    five(&status);
    let warning = status.fleet(&["--nagios"]).exits(1).stdout;
    assert!(warning.starts_with("PMPY WARNING - 1 failing: db01 | machines=5"), "{warning}");
    let mut old = at("old01", "current", NEW);
    old["at"] = json!(ago(Duration::days(2)));
    status.publish("old01", &old);
    let critical = status.fleet(&["--nagios"]).exits(2).stdout;
    assert!(
        critical.contains("1 silent: old01") && critical.contains("silent=1;;;0"),
        "{critical}"
    );
    let gone =
        machine.agent(&["fleet", "--nagios", "--url", "/nowhere/status.git"]).exits(3).stdout;
    assert!(gone.starts_with("PMPY UNKNOWN - cannot read presence from /nowhere"), "{gone}");
}

#[test]
fn a_silent_machine_is_shown_with_its_last_sign_and_a_doubt_where_only_its_own_clock_tells() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let mut old = at("old01", "current", NEW);
    old["at"] = json!(ago(Duration::days(2)));
    status.publish("old01", &old);
    let shown = status.fleet(&[]).exits(1).stdout;
    assert!(shown.contains("no sign for 2 days · old01"), "{shown}");
    assert!(
        shown.contains("old01: silent: no sign since 2 days ago") && shown.contains('?'),
        "{shown}"
    );
    // It moves, so it is there, whatever its clock says.
    old["seq"] = json!(2);
    status.publish("old01", &old);
    let shown = status.fleet(&[]).ok().stdout;
    assert!(!shown.contains("no sign"), "{shown}");
    // Who was away for two weeks is a line, and no trouble any longer.
    let mut retired = at("old02", "failing", OLD);
    retired["at"] = json!(ago(Duration::days(20)));
    status.publish("old02", &retired);
    let shown = status.fleet(&[]).ok().stdout;
    assert!(shown.contains("no sign for 20 days · old02"), "{shown}");
}

#[test]
fn nothing_that_a_machine_publishes_moves_the_cursor_or_breaks_a_line() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let mut evil = row("failing", OLD);
    evil["name"] = json!("o\u{1b}[2Jps");
    evil["reason"] = json!("\u{1b}]0;title\u{7}\nhint: \u{202e}rm");
    evil["acted"]["subject"] = json!("\u{1b}[31mred\r\nPMPY OK");
    evil["branch"] = json!("\u{9b}31m");
    evil["holds"] = json!([{"by": "\u{1b}c", "reason": "a\nb", "since": ago(Duration::hours(1))}]);
    let mut said = presence("web01", json!([evil, {"name": "x", "state": "\u{1b}[5mnew"}]));
    said["agent"] = json!("\u{1b}[2J");
    said["part"] = json!("a|b\n");
    status.publish("web01", &said);
    for arguments in [&[][..], &["-v"], &["--nagios"]] {
        let shown = status.fleet(arguments).stdout;
        let is_bad = |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
        assert!(!shown.contains(is_bad), "{shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("PMPY OK")), "{shown}");
    }
}

#[test]
fn without_a_status_repository_the_error_says_how_to_name_one() {
    let error = Sandbox::new().agent(&["fleet"]).exits(2).stderr;
    assert!(error.contains("agent fleet --url URL"), "{error}");
}
