//! What a repository follows where it is no branch: the newest tag that matches, or one revision.

use std::fs;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text};

mod configured;
mod moved;
mod order;
#[cfg(feature = "servers")]
mod over_the_wire;
mod revisions;
mod shown;
mod targets;

/// A machine whose `ops` is cloned by its first tick and follows `followed`, a line such as `tag = "v1.*"`.
/// Nothing has ticked.
fn machine(followed: &str) -> Sandbox {
    let machine = Sandbox::new();
    machine.serve("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS), ("page", "start\n")]);
    follow(&machine, followed);
    machine
}

/// From now on `ops` is configured so.
fn follow(machine: &Sandbox, keys: &str) {
    machine.configure(&format!("[repo.ops]\nurl = {:?}\n{keys}\n", text(&machine.server("ops"))));
}

/// Pushes a light tag at a new commit on `main`; that commit.
fn release(machine: &Sandbox, tag: &str) -> String {
    let revision = machine.push("ops", &[("page", tag)]);
    push_tag(machine, &["tag", tag]);
    revision
}

/// Pushes an annotated tag at a new commit on `main`; that commit.
fn annotated(machine: &Sandbox, tag: &str) -> String {
    let revision = machine.push("ops", &[("page", tag)]);
    push_tag(machine, &["tag", "-a", "-m", "A release", tag]);
    revision
}

/// Pushes a tag at a commit beside all others; that commit.
fn beside(machine: &Sandbox, tag: &str) -> String {
    let desk = machine.desk("ops");
    let tree = machine.git(&desk, &["rev-parse", "HEAD^{tree}"]);
    let commit = machine.git(&desk, &["commit-tree", &tree, "-m", tag]);
    push_tag(machine, &["tag", "-f", tag, &commit]);
    commit
}

/// Makes a tag by this git command, and pushes all tags.
fn push_tag(machine: &Sandbox, command: &[&str]) {
    let desk = machine.desk("ops");
    machine.git(&desk, command);
    machine.git(&desk, &["push", "--quiet", "--force", "--tags", "origin"]);
}

/// Removes a tag at the server and at the desk, and lets that have been said often enough to be believed.
fn remove(machine: &Sandbox, tag: &str) {
    machine.git(&machine.server("ops"), &["tag", "-d", tag]);
    machine.git(&machine.desk("ops"), &["tag", "-d", tag]);
    machine.answered_twice("ops", &format!("refs/tags/{tag}"));
}

/// Moves a tag to another commit; that commit.
fn move_tag(machine: &Sandbox, tag: &str) -> String {
    let revision = machine.push("ops", &[("moved", tag)]);
    push_tag(machine, &["tag", "-f", tag]);
    revision
}

fn reason(machine: &Sandbox) -> String {
    machine.row("ops")["reason"].as_str().unwrap_or_default().to_owned()
}

/// How often the script of `ops` ran; it notes its beginning and its end.
fn runs(machine: &Sandbox) -> usize {
    machine.runs().len() / 2
}

/// The branch that is checked out.
fn checked_out(machine: &Sandbox) -> String {
    machine.git(&machine.clone_of("ops"), &["symbolic-ref", "--short", "HEAD"])
}

#[test]
fn the_newest_tag_that_matches_is_applied_by_version_and_the_branch_stays() {
    let machine = machine("tag = \"v1.*\"");
    for tag in ["v1.2", "v1.10", "v2.0", "latest"] {
        release(&machine, tag);
    }
    machine.tick().ok();
    let newest = machine.git(&machine.desk("ops"), &["rev-parse", "v1.10"]);
    assert_eq!(machine.lastaction("ops"), Some(newest.clone()));
    assert_eq!(machine.head("ops"), newest);
    assert_eq!(
        (machine.state("ops").as_str(), checked_out(&machine).as_str()),
        ("current", "main")
    );
    let next = annotated(&machine, "v1.11");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(next));
    // What is pushed to a branch changes nothing.
    machine.push("ops", &[("page", "unreleased")]);
    machine.tick().ok();
    assert_eq!(runs(&machine), 2);
    assert_eq!(checked_out(&machine), "main");
}

#[test]
fn ancestry_does_not_matter_and_the_old_head_is_kept() {
    let machine = machine("tag = \"v1.*\"");
    let old = release(&machine, "v1.9.5");
    machine.tick().ok();
    let new = beside(&machine, "v1.10");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(new));
    let saved = machine.git(&machine.clone_of("ops"), &["for-each-ref", "refs/pmpy/saved/"]);
    assert!(saved.contains(&old), "{saved}");
}

#[test]
fn local_changes_are_dirty() {
    let machine = machine("tag = \"v1.*\"");
    let old = release(&machine, "v1.9");
    machine.tick().ok();
    fs::write(machine.clone_of("ops").join("page"), "mine\n").unwrap();
    release(&machine, "v1.10");
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("dirty", old));
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "HEAD", "--", "page"]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn head_stays_on_the_branch_that_was_checked_out() {
    let machine = machine("tag = \"v1.*\"");
    machine.clone_to_root("ops");
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "-b", "live"]);
    let released = release(&machine, "v1.0");
    machine.tick().ok();
    assert_eq!((checked_out(&machine).as_str(), machine.head("ops")), ("live", released));
    assert_eq!(machine.row("ops")["branch"], "live");
}

#[test]
fn a_pre_release_counts_only_where_the_pattern_names_one() {
    let machine = machine("tag = \"v*\"");
    let released = release(&machine, "v1.0");
    let candidate = release(&machine, "v1.1-rc1");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(released));
    follow(&machine, "tag = \"v*-*\"");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(candidate));
}

#[test]
fn without_a_wildcard_it_is_that_tag() {
    let machine = machine("tag = \"v1.0\"");
    let first = release(&machine, "v1.0");
    release(&machine, "v1.0.1");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(first));
}

#[test]
fn a_tag_that_names_no_commit_is_no_candidate_and_the_reason_says_so() {
    let machine = machine("tag = \"v*\"");
    let released = release(&machine, "v1.0");
    push_tag(&machine, &["tag", "v9", "HEAD^{tree}"]);
    push_tag(&machine, &["tag", "-a", "-m", "No commit", "v10", "HEAD:page"]);
    for _ in 0..3 {
        machine.agent(&["tick", "--trigger", "cron"]);
    }
    assert_eq!(machine.lastaction("ops"), Some(released));
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(runs(&machine), 1);
    let only = Sandbox::new();
    only.serve("ops", &[("page", "x\n")]);
    follow(&only, "tag = \"v*\"");
    push_tag(&only, &["tag", "v9", "HEAD^{tree}"]);
    for _ in 0..2 {
        only.tick();
    }
    assert_eq!(only.state("ops"), "no-ref", "{:#}", only.row("ops"));
    let why = "has no tag that matches \"v*\" and names a commit: v9 names none";
    assert!(reason(&only).contains(why), "{}", reason(&only));
}

#[test]
fn a_pattern_that_matches_nothing_is_no_ref_with_the_pattern_and_a_hint() {
    let machine = machine("tag = \"v1.*\"");
    release(&machine, "v2.0");
    let ran = machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "no-ref");
    let why =
        "has no tag that matches \"v1.*\"; it has v2.0\nhint: push such a tag, or correct tag";
    assert!(reason(&machine).contains(why), "{} {}", reason(&machine), ran.stderr);
    release(&machine, "v1.0-rc1");
    machine.tick().exits(1);
    assert!(
        reason(&machine).contains("only pre-releases such as v1.0-rc1"),
        "{}",
        reason(&machine)
    );
    let released = release(&machine, "v1.0");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(released));
}

#[test]
fn an_idle_tick_with_a_tag_writes_nothing_and_starts_nothing() {
    for tagged in [release, annotated] {
        let machine = machine("tag = \"v1.*\"");
        release(&machine, "v1.0");
        tagged(&machine, "v1.1");
        machine.tick().ok();
        machine.tick().ok();
        let before = crate::idle::traces(&machine);
        machine.tick().ok();
        assert_eq!(crate::idle::traces(&machine), before);
        let calls = crate::idle::calls_of_a_tick(&machine);
        let started = calls.iter().filter(|call| call.starts_with("execve(")).count();
        assert_eq!(started, 1, "{calls:#?}");
    }
}
