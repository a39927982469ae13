//! The alerts for Prometheus, by Prometheus' own tool: a series for each state, and which alerts it sets off.

use std::fmt::Write as _;
use std::fs;

use chrono::{TimeDelta, Utc};
use pmpy::domain::repository::state::{Condition, Severity, State};

use crate::sandbox::{Ran, Sandbox, text};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bootstrap/monitoring/alerts.yml");
const STATES: &str = include_str!("../../docs/states.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Each state, the alert that it sets off, and the minutes after which it is on.
const ALERTS: [(&str, Option<(&str, u32)>); 19] = [
    ("acting", None),
    ("broken", Some(("PmpyStuck", 15))),
    ("held", Some(("PmpyHeld", 24 * 60))),
    ("pinned", Some(("PmpyHeld", 24 * 60))),
    ("rolled-back", Some(("PmpyRolledBack", 1))),
    ("failing", Some(("PmpyStuck", 15))),
    ("waiting", Some(("PmpyWaiting", 6 * 60))),
    ("refused", Some(("PmpyStuck", 15))),
    ("rewritten", Some(("PmpyStuck", 15))),
    ("diverged", Some(("PmpyStuck", 15))),
    ("dirty", Some(("PmpyStuck", 15))),
    ("no-ref", Some(("PmpyNoRef", 5))),
    ("denied", Some(("PmpyDenied", 5))),
    ("unreachable", Some(("PmpyUnreachable", 15))),
    ("behind", Some(("PmpyBehind", 8 * 24 * 60))),
    ("new", None),
    ("ahead", None),
    ("current", None),
    ("inactive", None),
];

/// The names of all alerts of the rules.
fn names(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// Runs promtool over the rules with these `tests`.
fn check(tests: &str) {
    let machine = Sandbox::new();
    let file = machine.path("alerts-test.yml");
    fs::write(&file, format!("rule_files: [{RULES:?}]\nevaluation_interval: 1m\ntests:\n{tests}"))
        .unwrap();
    Ran::of(machine.command("promtool").args(["test", "rules", text(&file)])).ok();
}

/// The test that of `alerts` only `expected` is on after `minutes`, for `series`: names and values.
fn expects(
    series: &[(String, String)],
    minutes: u32,
    alerts: &[&str],
    expected: Option<&str>,
) -> String {
    let mut test = "  - interval: 1m\n    input_series:\n".to_owned();
    for (name, values) in series {
        writeln!(test, "      - series: '{name}'\n        values: '{values}'").unwrap();
    }
    test += "    promql_expr_test:\n";
    for alert in alerts {
        let count = usize::from(expected == Some(*alert));
        writeln!(
            test,
            "      - expr: count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}) or vector(0)\n        \
             eval_time: {minutes}m\n        exp_samples:\n          - labels: '{{}}'\n            \
             value: {count}"
        )
        .unwrap();
    }
    test
}

#[test]
fn each_state_sets_off_its_alert_in_time_and_no_other() {
    let rules = fs::read_to_string(RULES).unwrap();
    let alerts: Vec<&str> = names(&rules)
        .into_iter()
        .filter(|it| !["PmpySilent", "PmpyUnhealthy", "PmpyUnpublished"].contains(it))
        .collect();
    let mut tests = String::new();
    for (state, alert) in ALERTS {
        assert!(STATES.contains(&format!("\n| `{state}` |")), "{state} is no state");
        let series = format!("pmpy_repository_state{{repository=\"ops\",state=\"{state}\"}}");
        let (name, after) = alert.unzip();
        // Each minute is evaluated.
        let end = after.map_or(1500, |after| after + 1);
        let series = [(series, format!("1x{end}"))];
        if let Some(after) = after {
            tests += &expects(&series, after - 1, &alerts, None);
        }
        tests += &expects(&series, end, &alerts, name);
    }
    let now = Utc::now();
    for (state, (word, alert)) in State::ALL.into_iter().zip(ALERTS) {
        assert_eq!(state.as_str(), word);
        let since = now - TimeDelta::days(30);
        let (attempt, since, reason, next_try) = (3, Some(since), None, None);
        let lasting = Condition { state, reason, since, attempt, next_try, gate: None };
        let watched = lasting.severity(now - TimeDelta::days(30), now);
        assert_eq!(watched != Severity::Ok, alert.is_some(), "--nagios and the alerts on {state}");
    }
    let states = STATES.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(states, ALERTS.len(), "a state of docs/states.md has no row here");
    check(&tests);
}

#[test]
fn a_machine_that_is_silent_or_not_healthy_is_reported() {
    let alerts = ["PmpySilent", "PmpyUnhealthy"];
    let series = |healthy: &str, last_tick: &str| {
        [
            ("pmpy_healthy".to_owned(), healthy.to_owned()),
            ("pmpy_last_tick_timestamp_seconds".to_owned(), last_tick.to_owned()),
        ]
    };
    let tests = [
        expects(&series("1x60", "0+60x60"), 50, &alerts, None),
        expects(&series("1x60", "0x60"), 4, &alerts, None),
        expects(&series("1x60", "0x60"), 7, &alerts, Some("PmpySilent")),
        expects(&series("0x60", "0+60x60"), 29, &alerts, None),
        expects(&series("0x60", "0+60x60"), 31, &alerts, Some("PmpyUnhealthy")),
    ];
    check(&tests.concat());
}

#[test]
fn files_that_differ_for_a_day_are_reported() {
    let alerts = ["PmpyDrifted", "PmpyUnhealthy"];
    let series =
        |values: &str| [("pmpy_drifted_files{repository=\"ops\"}".to_owned(), values.to_owned())];
    let day = 24 * 60;
    let tests = [
        expects(&series("3x1500"), day - 1, &alerts, None),
        expects(&series("3x1500"), day + 1, &alerts, Some("PmpyDrifted")),
        expects(&series("0x1500"), day + 1, &alerts, None),
    ];
    check(&tests.concat());
}

#[test]
fn presence_that_is_not_published_for_nine_hours_is_reported() {
    let alerts = ["PmpyUnpublished"];
    let metric = "pmpy_presence_last_success_timestamp_seconds".to_owned();
    let series = [(metric, "0x600".to_owned())];
    check(
        &[
            expects(&series, 9 * 60, &alerts, None),
            expects(&series, 9 * 60 + 1, &alerts, Some("PmpyUnpublished")),
        ]
        .concat(),
    );
}

#[test]
fn the_documentation_names_each_alert() {
    let rules = fs::read_to_string(RULES).unwrap();
    for name in names(&rules) {
        assert!(OPERATIONS.contains(&format!("`{name}`")), "docs/operations.md lacks {name}");
    }
}
