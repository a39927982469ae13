//! `pmpy_actions_total`: what it counts, and that nothing that is cut or dies makes it count less.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::sandbox::{Ran, Sandbox, text};

const FLEET: &str = include_str!("../../docs/fleet.md");

/// The counts of `ops` that the metrics file has, those above zero.
fn counts(machine: &Sandbox) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(machine.path("pmpy.prom")).unwrap();
    let lines = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("pmpy_actions_total{repository=\"ops\",outcome=\"")?;
        let (word, count) = rest.split_once("\"} ")?;
        Some((word.to_owned(), count.parse().unwrap()))
    });
    lines.filter(|(_, count)| *count > 0).collect()
}

fn expected(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
    all.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

#[test]
fn actions_are_counted_by_outcome_and_stay_counted_when_the_history_is_cut() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 0\n")]);
    machine.configure(&format!("metrics_file = {:?}\n", machine.path("pmpy.prom")));
    machine.tick().ok();
    machine.agent(&["redo", "ops"]).ok();
    machine.tick().ok();
    assert_eq!(counts(&machine), expected(&[("succeeded", 2)]));
    machine.push("ops", &[("work.sh", "exit 3\n")]);
    machine.tick().exits(1);
    assert_eq!(counts(&machine), expected(&[("failed", 1), ("succeeded", 2)]));
    // As after 400 days, or with a full history.
    let records = machine.clone_of("ops").join(".git/pmpy");
    fs::write(records.join("history"), "").unwrap();
    machine.agent(&["redo", "ops"]).exits(1);
    machine.tick();
    assert_eq!(counts(&machine), expected(&[("failed", 2), ("succeeded", 2)]));
    // Where an older version counted none, what its history has is the beginning.
    let state = records.join("state");
    let mut memory: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    memory.as_object_mut().unwrap().remove("actions").unwrap();
    fs::write(&state, memory.to_string()).unwrap();
    machine.tick();
    assert_eq!(
        counts(&machine),
        expected(&[]),
        "a count that jumps later would be worse than none"
    );
    machine.push("ops", &[("work.sh", "exit 0\n")]);
    machine.tick().ok();
    assert_eq!(counts(&machine), expected(&[("failed", 1), ("succeeded", 1)]));
}

#[test]
fn the_recipe_for_ssh_and_jq_shows_each_repository_of_each_machine() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 3\n")]);
    machine.tick().exits(1);
    let section = FLEET.split("### Over ssh").nth(1).unwrap();
    let recipe = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let bin = machine.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let agent = machine.agent_line(&["status", "--json"]).join(" ");
    let ssh =
        format!("#!/bin/sh\n[ \"$2 $3 $4\" = 'agent status --json' ] || exit 9\n{agent} || true\n");
    fs::write(bin.join("ssh"), ssh).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut shell = machine.command("sh");
    let path = format!("PATH={}:$PATH\n", text(&bin));
    let shown = Ran::of(shell.args(["-ec", &(path + recipe)])).ok().stdout;
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    let hosts: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(hosts, ["web01", "web02", "db01"], "{shown}");
    assert_eq!(rows[0][1..4], ["ops", "failing", "-"], "{shown}");
    assert!(rows[0][4].contains("exited 3"), "{shown}");
}
