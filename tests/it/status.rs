//! `agent status` for people: what it selects, quotes and shows again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::sandbox::NOTES_ITS_RUNS;
use crate::states::{NEIGHBOUR, machine};

#[test]
fn a_pattern_selects_and_one_that_selects_nothing_is_an_error() {
    let machine = machine(NOTES_ITS_RUNS);
    let shown = machine.agent(&["status", "op*"]).ok().stdout;
    assert!(shown.contains("\nops ") && !shown.contains(NEIGHBOUR), "{shown}");
    let wrong = machine.agent(&["status", "web*"]).exits(2);
    assert!(wrong.stderr.contains("web*") && wrong.stderr.contains("there are: "), "{wrong}");
    let before = machine.runs().len();
    machine.push("ops", &[("page", "two\n")]);
    machine.agent(&["tick", "n*", "op?"]).ok();
    assert_eq!(machine.runs().len(), before + 2, "one run, with its begin and end");
    machine.agent(&["tick", "web*"]).exits(2);
}

#[test]
fn the_output_of_a_failing_script_is_for_people_and_in_no_file() {
    let machine =
        machine("for word in one two three four; do echo \"secret $word\"; done\nexit 3\n");
    let shown = machine.agent(&["status"]).exits(1).stdout;
    assert!(shown.contains("| secret four") && !shown.contains("secret one"), "{shown}");
    for form in ["--json", "--oneline", "--nagios"] {
        assert!(!machine.agent(&["status", form]).stdout.contains("secret"), "{form}");
    }
    let file = fs::read_to_string(machine.root().join(".pmpy/status.json")).unwrap();
    assert!(!file.contains("secret"), "{file}");
}

#[test]
fn a_watched_status_is_shown_again_and_again() {
    let machine = machine(NOTES_ITS_RUNS);
    let mut watch = machine.agent_command(&["status", "--watch"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let seen = lines.map_while(Result::ok).filter(|line| line.starts_with("ops ")).take(2).count();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(seen, 2);
}
