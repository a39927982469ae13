//! What people ask for: holding and going on, going back, acting again, looking back.

use std::fs;

use serde_json::Value;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox};

/// A machine with `ops` at the first of its revisions, and acted upon.
pub fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "0\n")]);
    machine.tick().ok();
    machine
}

/// Pushes `count` more revisions and acts upon each; returns all of them, the first included.
pub fn revisions(machine: &Sandbox, count: usize) -> Vec<String> {
    let mut all = vec![machine.head("ops")];
    for number in 1..=count {
        all.push(machine.push("ops", &[("page", &format!("{number}\n"))]));
        machine.tick().ok();
    }
    all
}

/// The revisions of the actions that ended, in order.
fn ended(machine: &Sandbox) -> Vec<String> {
    machine.runs().iter().filter_map(|run| run.strip_prefix("end ").map(str::to_owned)).collect()
}

#[test]
fn a_hold_outlives_ticks_and_people_who_name_the_repository_until_it_is_lifted() {
    let machine = machine();
    let said = machine.agent(&["hold", "ops", "moving", "house"]).ok().stdout;
    assert!(said.contains("moving house") && said.contains("agent unhold ops"), "{said}");
    let revision = machine.push("ops", &[("page", "1\n")]);
    machine.tick().ok();
    machine.agent(&["tick", "ops"]).exits(1);
    for command in [vec!["redo", "ops"], vec!["rollback", "ops"], vec!["accept", "ops", &revision]]
    {
        let refused = machine.agent(&command).exits(1);
        assert!(refused.stderr.contains("moving house"), "{refused}");
        assert!(refused.stderr.contains("hint: agent unhold ops"), "{refused}");
    }
    assert_eq!(ended(&machine).len(), 1);

    let said = machine.agent(&["unhold", "ops"]).ok().stdout;
    assert!(said.contains("moving house"), "{said}");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    let said = machine.agent(&["unhold", "ops"]).ok().stdout;
    assert!(said.contains(": not held"), "{said}");
}

#[test]
fn a_hold_with_an_end_passes_by_itself() {
    let machine = machine();
    machine.agent(&["hold", "ops", "lunch", "--until", "1h"]).ok();
    assert_eq!(machine.state("ops"), "held");
    assert!(machine.row("ops")["reason"].to_string().contains("until 2"));
    let revision = machine.push("ops", &[("page", "1\n")]);
    machine.tick().ok();
    assert_eq!(ended(&machine).len(), 1);

    let file = machine.private("ops", "hold");
    let mut hold: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    hold["until"] = "2020-01-01T00:00:00Z".into();
    fs::write(&file, hold.to_string()).unwrap();
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn all_holds_and_lets_go_every_repository() {
    let machine = machine();
    machine.serve("web", &[("page", "0\n")]);
    machine.clone_to_root("web");
    machine.agent(&["hold", "--all", "network maintenance"]).ok();
    machine.tick().ok();
    for name in ["ops", "web"] {
        assert_eq!(machine.state(name), "held");
    }
    machine.agent(&["unhold", "--all"]).ok();
    machine.tick().ok();
    for name in ["ops", "web"] {
        assert_eq!(machine.state(name), "current");
    }
    machine.agent(&["hold"]).exits(2);
    machine.agent(&["unhold"]).exits(2);
}

#[test]
fn all_continues_after_one_that_cannot_be_held() {
    let machine = machine();
    for name in ["a", "z"] {
        machine.serve(name, &[("page", "0\n")]);
        machine.clone_to_root(name);
    }
    machine.configure(
        "[repo.gone]\nurl = \"/nowhere.git\"\n[repo.nobodys]\nurl = \"/nowhere.git\"\n\
         user = \"nobody-of-that-name\"\n",
    );
    for order in ["hold", "unhold"] {
        let ran = machine.agent(&[order, "--all"]).exits(1);
        for name in ["a", "ops", "z"] {
            assert!(ran.stdout.contains(&format!("{name}: ")), "{ran}");
            assert_eq!(machine.state(name) == "held", order == "hold", "{name}: {ran}");
        }
        assert!(ran.stderr.contains("agent: gone is not cloned yet"), "{ran}");
        assert!(ran.stderr.contains("agent: nobodys: there is no user"), "{ran}");
        assert_eq!(ran.stderr.matches("hint: ").count(), 2, "{ran}");
    }
}

#[test]
fn unhold_prints_and_removes_a_foreign_currentaction() {
    let machine = machine();
    fs::write(machine.currentaction("ops"), "ask Ann \u{1b}[2J first\n").unwrap();
    assert_eq!(machine.state("ops"), "held");
    let said = machine.agent(&["unhold", "ops"]).ok().stdout;
    assert!(said.contains("ask Ann \\u{1b}[2J first"), "{said}");
    assert!(!machine.currentaction("ops").exists());
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_hold_can_be_put_upon_what_is_broken() {
    let machine = machine();
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "--detach"]);
    machine.agent(&["hold", "ops", "being repaired"]).ok();
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "main"]);
    assert_eq!(machine.state("ops"), "held");
}

#[test]
fn redo_acts_again_upon_the_same_revision_and_shows_the_output() {
    let script = "echo \"$AGENT_TRIGGER\" >> \"$AGENT_ROOT/../runs\"\necho from the script\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.tick().ok();
    let acted = machine.head("ops");
    machine.push("ops", &[("page", "1\n")]);
    let said = machine.agent(&["redo", "ops"]).ok().stdout;
    assert!(said.contains("from the script"), "{said}");
    assert_eq!(machine.runs(), ["cron", "redo"]);
    assert_eq!(machine.head("ops"), acted, "upstream has no say in it");
    machine.tick().ok();
    assert_eq!(machine.runs(), ["cron", "redo", "cron"]);
}

#[test]
fn redo_does_not_wait_for_the_next_try() {
    let machine = Sandbox::with("ops", &[("work.sh", "[ -e \"$AGENT_ROOT/../good\" ]\n")]);
    machine.tick().exits(1);
    machine.agent(&["redo", "ops"]).exits(1);
    assert_eq!(machine.row("ops")["attempt"], 2);
    fs::write(machine.path("good"), "").unwrap();
    machine.agent(&["redo", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn rollback_goes_back_runs_the_scripts_and_stays_until_unhold() {
    let machine = machine();
    let all = revisions(&machine, 1);
    let said = machine.agent(&["rollback", "ops"]).ok().stdout;
    assert!(said.contains(&all[0][..7]) && said.contains("agent unhold ops"), "{said}");
    assert_eq!(machine.head("ops"), all[0]);
    assert_eq!(machine.lastaction("ops"), Some(all[0].clone()));
    assert_eq!(fs::read_to_string(machine.clone_of("ops").join("page")).unwrap(), "0\n");
    assert_eq!(ended(&machine).last(), Some(&all[0]));
    assert_eq!(machine.state("ops"), "pinned");

    let newest = machine.push("ops", &[("page", "9\n")]);
    machine.tick().ok();
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.head("ops"), all[0]);

    let said = machine.agent(&["unhold", "ops"]).ok().stdout;
    assert!(said.contains("pin"), "{said}");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(newest));
    assert_eq!(machine.state("ops"), "current");
    let saved = machine.git(
        &machine.clone_of("ops"),
        &["for-each-ref", "--format=%(objectname)", "refs/pmpy/saved/"],
    );
    assert_eq!(saved, all[1], "what was rolled back is kept");
}

#[test]
fn going_back_twice_goes_further_back() {
    let machine = machine();
    let all = revisions(&machine, 3);
    for expected in [&all[2], &all[1], &all[0]] {
        machine.agent(&["rollback", "ops"]).ok();
        assert_eq!(machine.head("ops"), *expected);
    }
    let refused = machine.agent(&["rollback", "ops"]).exits(1);
    assert!(refused.stderr.contains("no earlier success"), "{refused}");
    assert_eq!(machine.head("ops"), all[0]);
}

#[test]
fn a_rollback_passes_over_what_failed() {
    let machine = machine();
    let good = machine.head("ops");
    machine.push("ops", &[("work.sh", "exit 1\n")]);
    machine.tick().exits(1);
    machine.push("ops", &[("work.sh", "exit 2\n")]);
    machine.tick().exits(1);
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), good);
    assert_eq!(machine.state("ops"), "pinned");
}

#[test]
fn a_rollback_may_name_its_revision_and_needs_no_network() {
    let machine = machine();
    let all = revisions(&machine, 2);
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    machine.agent(&["rollback", "ops", &all[0][..10]]).ok();
    assert_eq!(machine.head("ops"), all[0]);
    machine.agent(&["rollback", "ops", "HEAD@{1}"]);
    let unknown = machine.agent(&["rollback", "ops", "0123456"]).exits(1);
    assert!(unknown.stderr.contains("0123456"), "{unknown}");
    let none = machine.agent(&["rollback", "ops", "$(id)"]).exits(1);
    assert!(none.stderr.contains("$(id)"), "{none}");
}

#[test]
fn a_rollback_whose_script_fails_reports_it() {
    let script = "[ ! -e \"$AGENT_ROOT/../bad\" ]\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.tick().ok();
    machine.push("ops", &[("page", "1\n")]);
    machine.tick().ok();
    fs::write(machine.path("bad"), "").unwrap();
    machine.agent(&["rollback", "ops"]);
    let row = machine.row("ops");
    assert_eq!(row["state"], "pinned", "the first of the table that applies");
    assert!(row["conditions"].to_string().contains("failing"), "{row:#}");
}

#[test]
fn a_rollback_over_local_changes_writes_over_none_of_them() {
    let machine = machine();
    revisions(&machine, 1);
    let page = machine.clone_of("ops").join("page");
    fs::write(&page, "mine\n").unwrap();
    machine.agent(&["rollback", "ops"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine\n");
    assert!(machine.row("ops")["conditions"].to_string().contains("dirty"));
}

#[test]
fn history_lists_each_run_newest_first_and_folds_repeated_successes() {
    let machine = machine();
    let first = machine.head("ops");
    machine.agent(&["redo", "ops"]).ok();
    let bad = machine.push("ops", &[("work.sh", "exit 7\n")]);
    machine.tick().exits(1);
    let good = machine.push("ops", &[("work.sh", "true\n")]);
    machine.tick().ok();

    let text = machine.agent(&["history", "ops"]).ok().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    for (line, parts) in lines.iter().zip([
        [&good[..7], "succeeded", "cron"],
        [&bad[..7], "exited 7", "cron"],
        [&first[..7], "succeeded", "redo"],
        ["redo", "person", "by root"],
        [&first[..7], "succeeded", "cron"],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part} is missing in: {line}");
        }
    }
    let json = machine.agent(&["history", "--json"]).ok().stdout;
    let runs: Value = serde_json::from_str(&json).unwrap();
    let reported: Vec<_> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["repository"].as_str().unwrap(), run["revision"].as_str().unwrap()))
        .collect();
    assert_eq!(
        reported,
        [&good, &bad, &first, &first, &first].map(|revision| ("ops", revision.as_str())),
        "each run, and the redo of a person"
    );
    assert_eq!(machine.agent(&["history", "-n", "1"]).ok().stdout.lines().count(), 1);
}

#[test]
fn log_shows_the_last_actions_newest_last() {
    let machine = Sandbox::with("ops", &[("work.sh", "echo one\n")]);
    let nothing = machine.agent(&["log", "ops"]).exits(1);
    assert!(nothing.stderr.contains("agent explain ops"), "{nothing}");
    machine.tick().ok();
    machine.push("ops", &[("work.sh", "echo two; printf '\\033[31mred\\033[0m\\007\\n'\n")]);
    machine.tick().ok();
    let last = machine.agent(&["log", "ops"]).ok().stdout;
    assert!(last.contains("two") && !last.contains("one"), "{last}");
    assert!(last.contains("red") && !last.contains(['\u{1b}', '\u{7}']), "{last:?}");
    let both = machine.agent(&["log", "ops", "-n", "2"]).ok().stdout;
    assert!(both.find("one") < both.find("two"), "{both}");
    let followed = machine.agent(&["log", "ops", "-f"]).ok().stdout;
    assert!(followed.contains("Finish "), "the action has ended, and so does this");
}

#[test]
fn explain_places_a_revision() {
    let machine = machine();
    let all = revisions(&machine, 1);
    for (revision, reported) in [
        (all[0].as_str(), "is here and was applied"),
        ("main", "is here and was applied"),
        (&"0".repeat(40), "is not here"),
    ] {
        let said = machine.agent(&["explain", "ops", revision]).ok().stdout;
        assert!(said.contains(reported), "{revision}: {said}");
    }
    machine.agent(&["explain", "ops", "no-such"]).exits(1);
}

#[test]
fn status_has_a_form_for_everybody() {
    let machine = machine();
    let head = machine.head("ops");
    let text = machine.agent(&["status"]).ok().stdout;
    assert!(
        text.contains("ops") && text.contains("current") && text.contains(&head[..7]),
        "{text}"
    );
    let full = machine.agent(&["status", "-v"]).ok().stdout;
    assert!(full.contains(&head), "{full}");
    let line = machine.agent(&["status", "--oneline"]).ok().stdout;
    assert_eq!(line.lines().count(), 1, "{line}");
    let nagios = machine.agent(&["status", "--nagios"]).ok().stdout;
    assert!(nagios.starts_with("PMPY OK") && nagios.contains('|'), "{nagios}");
    let unknown = machine.agent(&["status", "opps"]).exits(2);
    assert!(unknown.stderr.contains("hint: there are: ops"), "{unknown}");
}

#[test]
fn what_a_person_asks_for_is_reported_on_the_spot() {
    let machine = machine();
    let revision = machine.push("ops", &[("page", "1\n")]);
    let said = machine.agent(&["-v", "tick"]).ok().stdout;
    assert!(said.contains(&format!("ops: applied {}", &revision[..7])), "{said}");
    let said = machine.agent(&["-v", "tick"]).ok().stdout;
    assert!(said.contains("1 repository up to date"), "{said}");
}

#[test]
fn two_people_at_once_act_once() {
    let machine = machine();
    machine.push("ops", &[("page", "1\n")]);
    let children: Vec<_> =
        (0..8).map(|_| machine.agent_command(&["tick"]).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    Ran::of(&mut machine.agent_command(&["tick", "--wait"])).ok();
    assert_eq!(ended(&machine).len(), 2);
}
