//! `before` and `after`: the gate that a tree passes, and the program that hears of it.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::{NAME, Publisher, branch, tag};
use crate::sandbox::{text, wait_until, write_program};

/// A gate that notes what it saw, and goes by the file `verdict` of the tree.
const GATE: &str = "\
echo \"before $AGENT_REF $(cat page) $AGENT_ATTEMPT\" >> \"$AGENT_ROOT/../runs\"
[ ! -e verdict ] || exit \"$(cat verdict)\"
";

/// What an `after` begins with.
const NOTES: &str = "#!/bin/sh\n\
echo \"after $AGENT_REF $AGENT_REVISION $AGENT_TARGET $(cat \"$AGENT_TARGET/page\")\" >> \
\"$AGENT_ROOT/../runs\"\n";

const KEYS: &str = "before = [\"bin/validate\"]";

/// A machine that publishes branches through a gate.
fn gated() -> Publisher {
    let site = Publisher::new("branches", KEYS);
    site.push_files("main", &[("bin/validate", GATE)]);
    site
}

/// A machine whose branches are told of by a program that does `more`.
fn reporting(mode: &str, more: &str) -> Publisher {
    let site = Publisher::new(mode, "");
    let program = site.machine.path("told");
    write_program(&program, format!("{NOTES}{more}"));
    site.configure(
        mode,
        &format!("after = [\"{}\", \"an argument; and $(more)\"]", text(&program)),
    );
    site
}

fn reported(site: &Publisher, short: &str, revision: &str, page: &str) -> String {
    format!("after {} {revision} {} {page}", branch(short), text(&site.at(short)))
}

#[test]
fn a_gate_that_refuses_leaves_the_target_as_it_was_and_is_asked_again_after_a_while() {
    let site = gated();
    site.push("topic", "good");
    site.machine.tick().ok();
    let good = site.shown("topic");

    site.push_files("topic", &[("page", "bad\n"), ("verdict", "3\n")]);
    let main = site.push("main", "two");
    let ran = site.machine.tick().exits(1);
    assert!(ran.stdout.contains("refused"), "{ran}");
    assert_eq!((site.shown("topic"), site.page("topic").as_deref()), (good.clone(), Some("good")));
    assert_eq!(site.shown("main"), main, "one bad branch stops no other");
    site.is(&branch("topic"), "refused", "exited 3");
    let row = site.machine.row(NAME);
    assert_eq!((row["state"].as_str(), row["attempt"].as_u64()), (Some("refused"), Some(1)));
    assert!(row["next_try"].is_string(), "{row:#}");

    let asked = site.machine.runs().len();
    site.machine.tick();
    assert_eq!(site.machine.runs().len(), asked, "it waits for its turn");
    site.wait_is_over(&branch("topic"));
    site.machine.tick();
    assert_eq!(site.machine.runs().last().unwrap(), "before refs/heads/topic bad 2");
    let left = fs::read_dir(site.at(".pmpy/topic")).unwrap().count();
    assert_eq!(left, 1, "what was refused is not kept");

    fs::remove_file(site.machine.desk(NAME).join("verdict")).ok();
    let better = site.push_files("topic", &[("page", "better\n"), ("verdict", "0\n")]);
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), better);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_gate_that_says_not_now_is_waiting_and_no_failure() {
    let site = gated();
    site.push_files("topic", &[("verdict", "75\n")]);
    site.machine.tick().ok();
    site.is(&branch("topic"), "waiting", "");
    assert_eq!(site.directories(), ["main"]);
    let asked = site.machine.runs().len();
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), asked + 1, "asked at each tick");
}

#[test]
fn a_gate_that_a_branch_does_not_have_stops_that_branch_alone() {
    let site = gated();
    let desk = site.machine.desk(NAME);
    site.machine.git(&desk, &["checkout", "--quiet", "--orphan", "bare"]);
    site.machine.git(&desk, &["rm", "--quiet", "-rf", "."]);
    site.machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "Bare"]);
    site.set(&branch("bare"), "HEAD");
    site.push("topic", "topic");
    site.machine.tick().exits(1);
    assert_eq!(site.directories(), ["main", "topic"]);
    site.is(&branch("bare"), "refused", "bin/validate");
}

#[test]
fn what_is_run_once_it_has_appeared_is_passed_what_and_where() {
    let site = reporting("branches", "[ \"$1\" = 'an argument; and $(more)' ] || exit 1\n");
    let topic = site.push("topic", "topic");
    site.machine.tick().ok();
    let main = site.tip("main").unwrap();
    let mut runs = site.machine.runs();
    runs.sort();
    assert_eq!(
        runs,
        [reported(&site, "main", &main, "one"), reported(&site, "topic", &topic, "topic")]
    );
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), 2, "once");

    let moved = site.push("topic", "moved");
    site.machine.tick().ok();
    assert_eq!(site.machine.runs()[2..], [reported(&site, "topic", &moved, "moved")]);
    site.delete(&branch("topic"));
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), 3);
}

#[test]
fn a_failure_behind_it_is_tried_again_and_the_tree_stays() {
    let site = reporting("branches", "[ -e \"$AGENT_ROOT/../well\" ] || exit 4\n");
    site.machine.tick().exits(1);
    assert_eq!(site.page("main").as_deref(), Some("one"));
    site.is(&branch("main"), "failing", "exited 4");
    assert_eq!(site.machine.lastaction(NAME), None, "not everything succeeded");
    site.machine.tick();
    assert_eq!(site.machine.runs().len(), 1);
    fs::write(site.machine.path("well"), "").unwrap();
    site.wait_is_over(&branch("main"));
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), 2);
    assert_eq!(site.machine.lastaction(NAME), site.tip("main"));
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn one_that_was_cut_off_is_run_again_and_no_other() {
    let more = "[ \"$AGENT_REF\" = refs/heads/main ] || touch \"$AGENT_ROOT/../begun\"\n\
        [ \"$AGENT_REF\" = refs/heads/main ] || [ -e \"$AGENT_ROOT/../go\" ] || kill -9 $PPID\n\
        echo \"resumed=$AGENT_RESUMED\" >> \"$AGENT_ROOT/../runs\"\n";
    let site = reporting("branches", more);
    let topic = site.push("topic", "topic");
    site.machine.agent(&["worker", NAME, "--trigger", "cron"]);
    assert!(site.machine.path("begun").exists());
    fs::write(site.machine.path("go"), "").unwrap();
    wait_until("it was run again", || {
        site.machine.agent(&["tick", NAME]);
        site.machine.state(NAME) == "current"
    });
    let runs = site.machine.runs();
    let again = reported(&site, "topic", &topic, "topic");
    assert_eq!(runs.iter().filter(|run| **run == again).count(), 2, "{runs:?}");
    assert_eq!(runs.last().map(String::as_str), Some("resumed=1"));
    let main = reported(&site, "main", &site.tip("main").unwrap(), "one");
    assert_eq!(runs.iter().filter(|run| **run == main).count(), 1, "{runs:?}");
}

#[test]
fn a_worker_that_dies_behind_a_success_runs_nothing_twice() {
    let more = "[ \"$AGENT_REF\" != refs/heads/topic ] ||\
        until [ -e \"$AGENT_ROOT/../go\" ] || [ ! -d \"$AGENT_ROOT\" ]; do sleep 0.05; done\n";
    let site = reporting("branches", more);
    site.push("topic", "topic");
    let mut worker = site.machine.agent_command(&["worker", NAME, "--trigger", "cron"]);
    let mut worker = worker.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the last of them began", || site.machine.runs().len() == 2);
    kill_process(Pid::from_child(&worker), Signal::KILL).unwrap();
    worker.wait().unwrap();
    fs::write(site.machine.path("go"), "").unwrap();
    site.machine.agent(&["tick", NAME, "--wait"]).ok();
    let main = reported(&site, "main", &site.tip("main").unwrap(), "one");
    let runs = site.machine.runs();
    assert_eq!(runs.iter().filter(|run| **run == main).count(), 1, "{runs:?}");
}

#[test]
fn the_one_target_of_a_branch_has_its_gate_and_its_program_as_well() {
    let site = reporting("checkout", "");
    let keys = format!("after = [\"{}\"]\n{KEYS}", text(&site.machine.path("told")));
    site.configure("checkout", &keys);
    let first = site.push_files("main", &[("bin/validate", GATE)]);
    site.machine.tick().ok();
    let reported = |revision: &str, page: &str| {
        format!("after refs/heads/main {revision} {} {page}", text(&site.at("")))
    };
    assert_eq!(
        site.machine.runs(),
        ["before refs/heads/main one 1".into(), reported(&first, "one")]
    );
    let bad = site.push_files("main", &[("page", "bad\n"), ("verdict", "3\n")]);
    site.machine.tick().exits(1);
    assert_eq!(site.shown(""), first);
    assert_eq!(site.machine.state(NAME), "refused");
    assert_eq!(site.machine.lastaction(NAME), Some(first));
    let log = site.machine.agent(&["log", NAME]).ok().stdout;
    assert!(log.contains(&bad[..7]), "{log}");
    let good = site.push_files("main", &[("page", "good\n"), ("verdict", "0\n")]);
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().last(), Some(&reported(&good, "good")));
    assert_eq!(site.machine.lastaction(NAME), Some(good));
}

#[test]
fn a_tag_is_passed_by_its_full_name() {
    let site = reporting("tags", "");
    site.set(&tag("v1"), &site.tip("main").unwrap());
    site.machine.tick().ok();
    assert!(site.machine.runs()[0].starts_with("after refs/tags/v1 "), "{:?}", site.machine.runs());
}

#[test]
fn a_gate_that_an_editor_spoiled_stops_its_branch_alone_and_nothing_of_it_runs() {
    let site = gated();
    let main = site.push("main", "two");
    site.push_files("topic", &[("bin/validate", &GATE.replace('\n', "\r\n"))]);
    site.machine.tick().exits(1);
    assert_eq!(site.shown("main"), main);
    assert_eq!(site.directories(), ["main"]);
    site.is(&branch("topic"), "refused", "carriage return");
    let about_topic = site.machine.runs().iter().filter(|line| line.contains("topic")).count();
    assert_eq!(about_topic, 0);
}

#[test]
fn a_program_behind_that_an_editor_spoiled_is_failing_and_does_not_run() {
    let site = reporting("checkout", "");
    let program = site.machine.path("told");
    let good = fs::read_to_string(&program).unwrap();
    for spoiled in [good.replacen('\n', "\r\n", 1), format!("\u{feff}{good}")] {
        fs::write(&program, spoiled).unwrap();
        site.push("main", "two");
        site.machine.tick().exits(1);
        assert_eq!(site.machine.state(NAME), "failing");
        assert_eq!(site.machine.runs(), [""; 0]);
        let found = site.machine.agent(&["check", "--offline"]).exits(1);
        assert!(found.stdout.contains("bad  site"), "{found}");
    }
}
