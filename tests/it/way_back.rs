//! Going back: to the last good tree before this one, never forward, and who did what in the history.

use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, text};

/// A machine on which releases 1 to `count` succeeded one after the other; returns their revisions.
fn releases(settings: &str, count: usize) -> (Sandbox, Vec<String>) {
    let machine = Sandbox::new();
    let mut all = vec![machine.serve("ops", &[("f", "1\n"), ("work.sh", "true\n")])];
    let url = text(&machine.server("ops")).to_owned();
    machine.configure(&format!("[repo.ops]\nurl = \"{url}\"\n{settings}"));
    machine.tick().ok();
    for number in 2..=count {
        all.push(machine.push("ops", &[("f", &format!("{number}\n"))]));
        machine.tick().ok();
    }
    (machine, all)
}

fn history(machine: &Sandbox) -> Vec<Value> {
    let said = machine.agent(&["history", "ops", "-n", "100", "--json"]).ok().stdout;
    serde_json::from_str::<Value>(&said).unwrap().as_array().unwrap().clone()
}

/// The acts of people, newest first.
fn acts(machine: &Sandbox) -> Vec<String> {
    let act = |entry: &Value| entry["act"].as_str().map(str::to_owned);
    history(machine).iter().filter_map(act).collect()
}

#[test]
fn after_a_redo_and_periodic_runs_a_second_rollback_goes_further_back() {
    let (machine, all) = releases("when = \"always\"\n", 3);
    let said = machine.agent(&["rollback", "ops"]).ok().stdout;
    assert!(said.contains(&format!("going back to {} ", &all[1][..7])), "{said}");
    assert!(said.contains("committed "), "{said}");
    machine.agent(&["redo", "ops"]).ok();
    machine.tick().ok();
    machine.tick().ok();
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), all[0]);
    machine.agent(&["rollback", "ops"]).exits(1);
    assert_eq!(machine.head("ops"), all[0]);
}

#[test]
fn from_a_pushed_revert_a_rollback_does_not_lead_to_what_was_reverted() {
    let (machine, all) = releases("", 3);
    let revert = machine.push("ops", &[("f", "2\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revert));
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), all[0]);
}

#[test]
fn a_rollback_from_what_failed_leads_to_the_last_success_without_the_network() {
    let (machine, all) = releases("", 2);
    machine.push("ops", &[("work.sh", "exit 3\n")]);
    machine.tick().exits(1);
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), all[1]);
    assert_eq!(machine.state("ops"), "pinned");
}

#[test]
fn a_published_branch_goes_back_in_the_same_way() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("f", "1\n")]);
    fs::create_dir(machine.path("data")).unwrap();
    let target = machine.path("data/site");
    let (url, shown) = (text(&machine.server("ops")).to_owned(), target.display());
    machine.configure(&format!(
        "[repo.ops]\nurl = \"{url}\"\nmode = \"checkout\"\ntarget = \"{shown}\"\n"
    ));
    machine.tick().ok();
    for number in ["2", "3", "2"] {
        machine.push("ops", &[("f", number)]);
        machine.tick().ok();
    }
    let seen = || fs::read_to_string(target.join("f")).unwrap();
    machine.agent(&["redo", "ops"]).ok();
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(seen(), "1\n");
    machine.agent(&["rollback", "ops"]).exits(1);
}

#[test]
fn the_history_has_what_people_did_with_name_and_reason() {
    let (machine, _) = releases("", 2);
    machine.agent_as("ann", &["hold", "ops", "db", "restore", "--until", "2h"]).ok();
    machine.agent_as("bob", &["unhold", "ops"]).ok();
    machine.agent_as("ann", &["unhold", "ops"]).ok();
    machine.agent_as("ann", &["redo", "ops"]).ok();
    machine.agent_as("ann", &["rollback", "ops"]).ok();
    assert_eq!(acts(&machine), ["rollback", "redo", "unhold", "hold"]);
    let all = history(&machine);
    let hold = all.iter().find(|entry| entry["act"] == "hold").unwrap();
    assert_eq!((&hold["who"]["name"], &hold["reason"]), (&"ann".into(), &"db restore".into()));
    assert!(hold["until"].is_string(), "{hold:#}");
    let unhold = all.iter().find(|entry| entry["act"] == "unhold").unwrap();
    assert_eq!(unhold["reason"], "by ann: db restore");
    let said = machine.agent(&["history", "ops"]).ok().stdout;
    assert!(said.contains("by ann") && said.contains("    db restore, ends in"), "{said}");
}

#[test]
fn an_accepted_revision_is_in_the_history_with_its_reason() {
    let (machine, _) = releases("", 2);
    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", "HEAD~1"]);
    fs::write(machine.desk("ops").join("f"), "other\n").unwrap();
    machine.git(&machine.desk("ops"), &["commit", "--quiet", "--all", "--message", "other"]);
    machine.git(&machine.desk("ops"), &["push", "--quiet", "--force", "origin", "HEAD:main"]);
    let tip = machine.git(&machine.desk("ops"), &["rev-parse", "HEAD"]);
    machine.tick().exits(1);
    machine.agent_as("ann", &["accept", "ops", &tip, "the", "key", "leaked"]).ok();
    assert_eq!(machine.head("ops"), tip);
    let all = history(&machine);
    let act = all.iter().find(|entry| entry["act"] == "accept").unwrap();
    assert_eq!((&act["revision"], &act["reason"]), (&tip.into(), &"the key leaked".into()));
}

#[test]
fn two_thousand_periodic_runs_are_one_entry_and_hide_no_way_back() {
    let (machine, all) = releases("", 2);
    let file = machine.private("ops", "history");
    let before = fs::read_to_string(&file).unwrap();
    let last = before.lines().last().unwrap().to_owned();
    let id = serde_json::from_str::<Value>(&last).unwrap()["id"].as_str().unwrap().to_owned();
    let more: String =
        (0..2000).map(|number| last.replace(&id, &format!("{id}-{number}")) + "\n").collect();
    fs::write(&file, before + &more).unwrap();
    let runs = history(&machine);
    assert_eq!((runs.len(), &runs[0]["count"]), (2, &2001.into()));
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), all[0]);
    assert!(fs::read_to_string(&file).unwrap().lines().count() < 100, "it is folded when written");
}

#[test]
fn a_damaged_line_of_the_history_loses_only_itself() {
    let (machine, all) = releases("", 3);
    let file = machine.private("ops", "history");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().filter(|line| !line.is_empty()).collect();
    let damaged = format!("{}\n{}\n\0\0{}", lines[0], &lines[1][..30], lines[2]);
    fs::write(&file, damaged).unwrap();
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), all[0]);
}
