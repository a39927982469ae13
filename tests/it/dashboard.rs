//! The dashboard for Grafana: each question is one that Prometheus understands, about a metric that the agent writes.

use std::collections::BTreeSet;
use std::fs;

use chrono::Utc;
use pmpy::domain::report::metrics::{self, BusSession, ListenerCounters};
use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, text};

const DASHBOARD: &str = include_str!("../../bootstrap/monitoring/grafana.json");
const RULES: &str = include_str!("../../bootstrap/monitoring/alerts.yml");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The names of the families in `text`, which is as Prometheus reads it.
fn families(text: &str) -> BTreeSet<String> {
    let named = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    named.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The metrics that `text` names.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let words = text.split(|letter| !is_part(letter));
    words.filter(|word| word.starts_with("pmpy_")).map(str::to_owned).collect()
}

/// Every metric that the agent writes: the file of a tick, and what `agent listen` adds.
fn written() -> BTreeSet<String> {
    let machine = Sandbox::with("ops", &[("work.sh", "true\n")]);
    let file = machine.path("pmpy.prom");
    machine.configure(&format!(
        "metrics_file = {file:?}\n[node]\nname = \"web01\"\n[presence]\nurl = {:?}\n",
        machine.path("nowhere.git")
    ));
    machine.tick().ok();
    crate::presence::settles(&machine);
    let session = Some(BusSession { broker: None, since: Utc::now(), sent: 0, dropped: 0 });
    let listens = metrics::staying(&ListenerCounters { session, ..ListenerCounters::default() });
    &families(&fs::read_to_string(file).unwrap()) | &families(&listens)
}

#[test]
fn the_dashboard_asks_for_what_the_agent_writes_and_the_documentation_names_all_of_it() {
    let board: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(asked.len() >= panels.len() && !panels.is_empty());
    let rule =
        |(number, expr): (usize, &&str)| format!("  - record: r{number}\n    expr: {expr:?}\n");
    let rules: String = asked.iter().enumerate().map(rule).collect();
    let machine = Sandbox::new();
    let file = machine.path("dashboard.yml");
    fs::write(&file, format!("groups:\n- name: dashboard\n  rules:\n{rules}")).unwrap();
    Ran::of(machine.command("promtool").args(["check", "rules", text(&file)])).ok();

    let written = written();
    let asked = named(&asked.concat());
    assert!(asked.is_subset(&written), "{:?}", &asked - &written);
    let rules = named(RULES);
    assert!(rules.is_subset(&written), "{:?}", &rules - &written);
    let rows = OPERATIONS.lines().filter_map(|line| line.strip_prefix("| `pmpy_"));
    let name = |row: &str| format!("pmpy_{}", row.split(['{', '`']).next().unwrap());
    let rows: BTreeSet<String> = rows.map(name).collect();
    assert_eq!(rows, written, "docs/operations.md has a row for each, and for no other");
}
