//! The way back from a bad release, in each mode, and what follows it.

use std::fs;

use super::{assert_live, assert_rolled_back, lines, machine, marks, set};
use crate::sandbox::{text, write_program};

#[test]
fn a_bad_release_goes_back_in_the_same_tick_and_is_not_applied_again() {
    for mode in ["work", "checkout"] {
        let (machine, first) = machine(mode, "");
        let bad = machine.push("ops", &[("page", "bad\n")]);
        machine.tick().exits(1);
        let row = assert_rolled_back(&machine, &bad, &first);
        assert!(row["reason"].as_str().unwrap().contains("failed its health check"), "{row:#}");
        assert_live(&machine, "one");
        let runs = lines(&machine, "runs");
        assert_eq!(runs.len(), 3, "{mode}: {runs:?}");
        assert_eq!(runs[1], format!("cron {bad} none page "), "{mode}");
        // Its scripts are told what was tried.
        assert_eq!(runs[2], format!("rollback {first} {bad} page "), "{mode}");
        let checks = lines(&machine, "checks");
        let last = checks.last().unwrap();
        assert!(last.starts_with(&format!("rollback {first}")), "{mode}: its health once: {last}");
        for _ in 0..2 {
            machine.tick().exits(1);
        }
        assert_eq!(lines(&machine, "runs").len(), 3, "{mode}: the bad one never again");
        assert_rolled_back(&machine, &bad, &first);
        machine.agent(&["status", "--nagios"]).exits(2);
    }
}

#[test]
fn in_place_goes_back_without_scripts() {
    let (machine, first) = machine("in-place", "");
    // Nothing puts the page live but the worktree itself.
    write_program(&machine.path("is-well"), "#!/bin/sh\n! grep -q bad \"$AGENT_ROOT/ops/page\"\n");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(
        (&row["state"], &row["bad"]),
        (&"rolled-back".into(), &bad.clone().into()),
        "{row:#}"
    );
    assert_eq!(machine.head("ops"), first);
    assert_eq!(machine.differences("ops"), "");
}

#[test]
fn a_newer_revision_is_applied_like_any_other() {
    for mode in ["work", "checkout"] {
        let (machine, _) = machine(mode, "");
        machine.push("ops", &[("page", "bad\n")]);
        machine.tick().exits(1);
        let fix = machine.push("ops", &[("page", "two\n")]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(fix));
        assert_eq!(machine.state("ops"), "current");
        assert_live(&machine, "two");
        assert_eq!(machine.row("ops")["bad"], serde_json::Value::Null);
    }
}

#[test]
fn a_machine_that_went_back_waits_for_the_gates_with_a_new_revision_and_not_with_a_revert() {
    let (machine, first) = machine("work", "");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    assert_rolled_back(&machine, &bad, &first);
    set(&machine, "work", "min_age = \"30m\"\n");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "behind", "{:#}", machine.row("ops"));
    assert_live(&machine, "one");
    // Upstream back at the same tree: applied as a revert, then current.
    let revert = machine.push("ops", &[("page", "one\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revert));
    assert_eq!(machine.state("ops"), "current");
    assert_live(&machine, "one");
}

#[test]
fn bad_and_fix_in_the_same_minute_and_bad_fix_bad_again() {
    let (machine, _) = machine("work", "");
    machine.push("ops", &[("page", "bad\n")]);
    let fix = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops").as_ref(), Some(&fix));
    assert_eq!(marks(&machine), [""; 0], "what was never tried is not bad");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    assert_rolled_back(&machine, &bad, &fix);
    assert_live(&machine, "two");
    let fix = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    let again = machine.push("ops", &[("page", "bad\n"), ("note", "again\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.lastaction("ops").as_ref(), Some(&fix));
    assert_eq!(machine.row("ops")["bad"], again);
    assert_live(&machine, "three");
    assert_eq!(marks(&machine).len(), 2);
}

#[test]
fn accept_alone_passes_the_mark_and_a_success_removes_it() {
    let (machine, first) = machine("work", "");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    for order in [&["tick", "ops"][..], &["redo", "ops"], &["tick", "ops", "--override", "now"]] {
        machine.agent(order);
        assert_rolled_back(&machine, &bad, &first);
        assert_live(&machine, "one");
    }
    // Redo means what is checked out.
    assert!(lines(&machine, "runs").last().unwrap().starts_with(&format!("redo {first}")));
    machine.agent(&["accept", "ops", &bad]).exits(1);
    assert_rolled_back(&machine, &bad, &first);
    assert_live(&machine, "one");
    write_program(&machine.path("is-well"), "#!/bin/sh\n");
    machine.agent(&["accept", "ops", &bad]).ok();
    assert_eq!(machine.lastaction("ops").as_ref(), Some(&bad));
    assert_eq!(machine.state("ops"), "current");
    assert_live(&machine, "bad");
    assert_eq!(marks(&machine), [""; 0]);
}

#[test]
fn the_way_back_that_fails_too_is_failing_and_is_tried_again() {
    let (machine, first) = machine("work", "");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    write_program(&machine.path("is-well"), "#!/bin/sh\nexit 1\n");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    let said = format!("{} failed, and so did going back to {}", &bad[..7], &first[..7]);
    assert!(row["reason"].as_str().unwrap().starts_with(&said), "{row:#}");
    assert_live(&machine, "one");
    let runs = lines(&machine, "runs").len();
    machine.tick().exits(1);
    assert_eq!(lines(&machine, "runs").len(), runs, "it waits as after any failure");
    machine.wait_is_over("ops");
    machine.tick().exits(1);
    let last = lines(&machine, "runs").last().unwrap().clone();
    assert!(
        last.starts_with(&format!("rollback {first} {bad} ")),
        "retries of the good one: {last}"
    );
    // A newer revision need not wait until that works.
    write_program(&machine.path("is-well"), super::IS_WELL);
    let fix = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(fix));
    assert_live(&machine, "two");
}

#[test]
fn local_changes_in_the_way_back_are_kept_and_named() {
    let (machine, first) = machine("work", "");
    let work = format!("{}echo mine > \"$AGENT_ROOT/ops/page\"\n", super::WORK);
    let bad = machine.push("ops", &[("page", "bad\n"), ("work.sh", &work)]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    let said = format!(
        "{} failed its health check, and cannot go back to {}: local changes in the way: page",
        &bad[..7],
        &first[..7]
    );
    assert!(row["reason"].as_str().unwrap().starts_with(&said), "{row:#}");
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "--", "page"]);
    machine.tick().exits(1);
    assert_rolled_back(&machine, &bad, &first);
    assert_live(&machine, "one");
}

#[test]
fn a_rewritten_upstream_is_rewritten_also_while_it_is_rolled_back() {
    let (machine, first) = machine("work", "");
    machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    let desk = machine.desk("ops");
    machine.git(&desk, &["reset", "--quiet", "--hard", &first]);
    fs::write(desk.join("page"), "other\n").unwrap();
    machine.git(&desk, &["commit", "--quiet", "--all", "--message", "Other"]);
    machine.git(&desk, &["push", "--quiet", "--force", "origin", "main"]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    assert_live(&machine, "one");
    let tip = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.agent(&["accept", "ops", tip.trim()]).ok();
    assert_live(&machine, "other");
}

#[test]
fn a_pin_and_a_hold_count_while_it_is_rolled_back() {
    let (machine, first) = machine("work", "");
    let second = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    machine.agent(&["hold", "ops", "look"]).ok();
    machine.tick();
    let row = machine.row("ops");
    assert_eq!(row["state"], "held");
    assert!(row["conditions"].as_array().unwrap().contains(&"rolled-back".into()), "{row:#}");
    machine.agent(&["unhold", "ops"]).ok();
    machine.agent(&["rollback", "ops", &first]).ok();
    assert_eq!(machine.state("ops"), "pinned");
    assert_live(&machine, "one");
    machine.agent(&["unhold", "ops"]).ok();
    machine.tick();
    assert_eq!(machine.head("ops"), first, "{:#}", machine.row("ops"));
    assert_ne!(machine.head("ops"), bad);
    let fix = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(fix));
    assert_ne!(machine.lastaction("ops"), Some(second));
}

#[test]
fn on_failure_stay_in_the_revision_keeps_the_machine_there() {
    let (machine, first) = machine("work", "");
    let bad = machine.push("ops", &[("page", "bad\n"), (".pmpy.toml", "on_failure = \"stay\"\n")]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("failed its health check"), "{row:#}");
    assert_live(&machine, "bad");
    assert_eq!(machine.lastaction("ops"), Some(first));
    assert_eq!(machine.head("ops"), bad);
    assert_eq!(marks(&machine), [""; 0]);
    let wrong = "on_failure = \"rollback\"\n";
    machine.push("ops", &[(".pmpy.toml", wrong)]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "refused");
}

#[test]
fn the_first_revision_and_a_tree_that_succeeded_before_stay_and_are_failing() {
    let machine = crate::sandbox::Sandbox::new();
    machine.serve("ops", &[("page", "bad\n"), ("work.sh", super::WORK)]);
    set(&machine, "work", "");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing");
    assert_live(&machine, "bad");
    machine.push("ops", &[("page", "one\n")]);
    machine.tick().ok();
    let second = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    // The way back from a revert would lead to what was reverted.
    let revert = machine.push("ops", &[("page", "one\n")]);
    write_program(&machine.path("is-well"), "#!/bin/sh\nexit 1\n");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing", "{:#}", machine.row("ops"));
    assert_eq!(machine.head("ops"), revert);
    assert_eq!(machine.lastaction("ops"), Some(second));
    assert_eq!(marks(&machine), [""; 0]);
}

#[test]
fn local_commits_are_never_dropped() {
    let (machine, _) = machine("work", "");
    let clone = machine.clone_of("ops");
    fs::write(clone.join("page"), "bad local\n").unwrap();
    machine.git(&clone, &["commit", "--quiet", "--all", "--message", "Local"]);
    let local = machine.head("ops");
    machine.tick();
    assert_eq!(machine.state("ops"), "failing", "{:#}", machine.row("ops"));
    assert_eq!(machine.head("ops"), local);
    assert_live(&machine, "bad local");
}

#[test]
fn runs_at_the_applied_revision_fail_as_before_and_are_no_bad_release() {
    let (machine, first) = machine("work", "when = \"always\"\n");
    write_program(&machine.path("is-well"), "#!/bin/sh\nexit 1\n");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    assert_eq!(machine.head("ops"), first);
    assert_eq!(marks(&machine), [""; 0]);
    machine.agent(&["redo", "ops"]).exits(1);
    assert_eq!(marks(&machine), [""; 0]);
}

#[test]
fn lost_records_do_not_bring_a_bad_release_back() {
    let (machine, first) = machine("work", "");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    fs::remove_file(machine.private("ops", "state")).unwrap();
    machine.tick().exits(1);
    let row = assert_rolled_back(&machine, &bad, &first);
    assert!(row["reason"].as_str().unwrap().contains("was found bad here"), "{row:#}");
    assert_live(&machine, "one");
}

#[test]
fn a_mark_that_cannot_be_written_leaves_a_run_that_is_recovered() {
    let (machine, first) = machine("work", "");
    // As on a full disk: the check itself puts a lock file there, once.
    let check = super::IS_WELL.replace(
        "exit 1\n",
        "bad=\"$AGENT_ROOT/ops/.git/refs/pmpy/bad\"\n\
         [ -d \"$bad\" ] || { mkdir \"$bad\"; : > \"$bad/$AGENT_REVISION.lock\"; }\nexit 1\n",
    );
    write_program(&machine.path("is-well"), check);
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    machine.tick().exits(1);
    assert_rolled_back(&machine, &bad, &first);
    assert_live(&machine, "one");
}

#[test]
fn a_window_that_is_shut_does_not_hold_the_way_back() {
    for mode in ["work", "checkout"] {
        let (machine, first) = machine(mode, "");
        set(&machine, mode, "window = [\"2001-01-01\"]\n");
        let bad = machine.push("ops", &[("page", "bad\n")]);
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "behind", "{mode}");
        machine.agent(&["tick", "ops", "--override", "now"]).exits(1);
        assert_rolled_back(&machine, &bad, &first);
        assert_live(&machine, "one");
    }
}

#[test]
fn a_rewritten_upstream_while_the_health_is_checked_gets_no_verdict_of_its_own() {
    let (machine, first) = machine("work", "");
    let bad = machine.push("ops", &[("page", "bad\n")]);
    // Upstream is rewound to another revision while the bad one is checked.
    let server = machine.server("ops");
    let desk = machine.desk("ops");
    machine.git(&desk, &["checkout", "--quiet", "--detach", &first]);
    fs::write(desk.join("page"), "other\n").unwrap();
    machine.git(&desk, &["commit", "--quiet", "--all", "--message", "Another"]);
    let other = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.git(&desk, &["push", "--quiet", text(&server), "HEAD:refs/heads/other"]);
    let script = super::IS_WELL.replace(
        "exit 1\n",
        &format!("git -C {} update-ref refs/heads/main {other}\nexit 1\n", text(&server)),
    );
    write_program(&machine.path("is-well"), script);
    machine.tick().exits(1);
    let marked = marks(&machine);
    assert_eq!(marked.len(), 1, "{marked:?}");
    assert!(marked[0].contains(&bad), "{marked:?}");
    assert_live(&machine, "one");
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
    assert_eq!(machine.head("ops"), first);
}
