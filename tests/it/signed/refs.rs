//! Many refs: each has its own accepted tip, and is refused by itself.

use std::fs;

use super::{commit, machine, push, push_head, set, sign_with};
use crate::sandbox::{Sandbox, text};

/// `ops` in this mode, with a target; what is shown of a ref.
fn site(machine: &Sandbox, mode: &str) -> std::path::PathBuf {
    let target = machine.path("site");
    set(machine, &format!("mode = \"{mode}\"\ntarget = {:?}", text(&target)));
    target
}

/// Where a branch is shown.
pub fn shown(machine: &Sandbox, branch: &str) -> Option<std::path::PathBuf> {
    let row = machine.row("ops");
    let name = format!("refs/heads/{branch}");
    let refs = row["published"].as_array()?;
    let found = refs.iter().find(|it| it["ref"] == name.as_str())?;
    Some(found["path"].as_str()?.into())
}

#[track_caller]
pub fn assert_ref(machine: &Sandbox, name: &str, state: &str, reason: &str) {
    let row = machine.row("ops");
    let refs = row["published"].as_array().unwrap();
    let found = refs.iter().find(|it| it["ref"] == name).unwrap_or_else(|| panic!("{row:#}"));
    assert_eq!(found["state"], state, "{row:#}");
    assert!(reason.is_empty() || found["reason"].as_str().unwrap().contains(reason), "{row:#}");
}

#[test]
fn each_branch_has_its_own_accepted_tip_and_is_refused_by_itself() {
    for mode in ["branches", "atomic"] {
        let machine = machine(&["ann"]);
        site(&machine, mode);
        push(&machine, Some("ann"), "1");
        machine.tick().ok();
        let desk = machine.desk("ops");
        machine.git(&desk, &["switch", "--quiet", "-c", "topic"]);
        commit(&machine, Some("ann"), "topic");
        push_head(&machine, "topic");
        commit(&machine, None, "bare");
        push_head(&machine, "bare");
        machine.tick().exits(1);
        let shows = |branch: &str, page: &str| {
            shown(&machine, branch).is_some_and(|it| it.join(page).exists())
        };
        assert!(shows("topic", "topic") && !shows("bare", "bare"), "{mode}");
        assert_ref(&machine, "refs/heads/topic", "current", "");
        assert_ref(&machine, "refs/heads/bare", "refused", "Release bare is not signed");
        assert_ref(&machine, "refs/heads/main", "current", "");
        let bare = machine.git(&desk, &["rev-parse", "HEAD"]);
        machine.agent(&["accept", "ops", &bare, "seen"]).ok();
        assert!(shows("bare", "bare"), "{mode}");
        // A new branch at an old accepted commit passes: no one signs a branch's name.
        machine.git(&desk, &["push", "--quiet", "origin", "main:refs/heads/old"]);
        machine.tick().ok();
        assert!(shows("old", "1"), "{mode}");
    }
}

#[test]
fn of_a_new_branch_every_commit_counts_that_no_accepted_one_contains() {
    let machine = machine(&["ann"]);
    let target = site(&machine, "branches");
    push(&machine, Some("ann"), "1");
    machine.tick().ok();
    machine.git(&machine.desk("ops"), &["switch", "--quiet", "-c", "topic"]);
    commit(&machine, None, "hidden");
    commit(&machine, Some("ann"), "topic");
    push_head(&machine, "topic");
    machine.tick().exits(1);
    assert_ref(&machine, "refs/heads/topic", "refused", "Release hidden is not signed");
    assert!(!target.join("topic").exists());
}

#[test]
fn published_tags_are_signed_under_their_own_names() {
    let machine = machine(&["ann"]);
    let target = site(&machine, "tags");
    let desk = machine.desk("ops");
    push(&machine, None, "1");
    sign_with(&machine, Some("ann"));
    machine.git(&desk, &["tag", "-s", "-m", "A release", "v1"]);
    machine.git(&desk, &["update-ref", "refs/tags/v2", "refs/tags/v1"]);
    machine.git(&desk, &["tag", "light"]);
    machine.git(&desk, &["push", "--quiet", "--tags", "origin"]);
    machine.tick().exits(1);
    assert!(target.join("v1/1").exists());
    assert_ref(&machine, "refs/tags/v2", "refused", "was signed as v1");
    assert_ref(&machine, "refs/tags/light", "refused", "Release 1 is not signed");
    assert!(!target.join("v2").exists() && !target.join("light").exists());
}

#[test]
fn in_fetch_what_is_not_signed_is_fetched_and_not_recorded() {
    let machine = machine(&["ann"]);
    let target = site(&machine, "fetch");
    let good = push(&machine, Some("ann"), "1");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(good.clone()));
    let bare = push(&machine, None, "2");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!((row["state"].as_str(), machine.lastaction("ops")), (Some("refused"), Some(good)));
    let refused = machine.agent(&["checkout", "ops", "main"]).exits(1);
    assert!(refused.stderr.contains("Release 2 is not signed"), "{refused}");
    assert!(!target.exists() || fs::read_dir(&target).unwrap().next().is_none());
    machine.agent(&["accept", "ops", &bare, "seen"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(bare));
    // A branch that is signed may be checked out although another one is followed.
    machine.git(&machine.desk("ops"), &["switch", "--quiet", "-c", "topic"]);
    commit(&machine, Some("ann"), "topic");
    push_head(&machine, "topic");
    machine.tick().ok();
    machine.agent(&["checkout", "ops", "topic"]).ok();
    assert!(target.join("topic").exists());
}

#[test]
fn a_default_branch_with_a_new_name_must_descend_from_what_was_accepted() {
    let machine = machine(&["ann"]);
    let server = machine.server("ops");
    let old = push(&machine, Some("ann"), "1");
    machine.tick().ok();
    push(&machine, Some("ann"), "2");
    machine.tick().ok();
    let before = machine.head("ops");
    machine.git(&server, &["update-ref", "refs/heads/trunk", &old]);
    machine.git(&server, &["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    machine.git(&server, &["update-ref", "-d", "refs/heads/main"]);
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("rewritten", before));
}
