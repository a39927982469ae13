//! `revision`: exactly this one.

use std::fs;

use super::{follow, machine, push_tag, reason, release, runs};
use crate::sandbox::text;

#[test]
fn a_revision_is_applied_and_stays_whatever_is_pushed() {
    let machine = machine("");
    let wanted = machine.push("ops", &[("page", "wanted\n")]);
    machine.push("ops", &[("page", "newer\n")]);
    follow(&machine, &format!("revision = {wanted:?}"));
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(wanted.clone()));
    machine.push("ops", &[("page", "newest\n")]);
    machine.tick().ok();
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("current", wanted));
    assert_eq!(runs(&machine), 1);
    assert_eq!(super::checked_out(&machine), "main");
}

#[test]
fn another_revision_is_gone_to_whatever_its_ancestry() {
    let machine = machine("");
    let old = machine.push("ops", &[("page", "old\n")]);
    let new = machine.push("ops", &[("page", "new\n")]);
    let beside = super::beside(&machine, "beside");
    for wanted in [&new, &old, &beside, &new] {
        follow(&machine, &format!("revision = {wanted:?}"));
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(wanted.clone()));
        assert_eq!(machine.state("ops"), "current");
    }
}

#[test]
fn a_revision_that_is_here_is_applied_while_no_remote_answers() {
    let machine = machine("");
    let old = machine.push("ops", &[("page", "old\n")]);
    machine.push("ops", &[("page", "new\n")]);
    machine.tick().ok();
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    follow(&machine, &format!("revision = {old:?}"));
    machine.tick();
    assert_eq!(machine.lastaction("ops"), Some(old));
    // That it does not answer is said all the same.
    assert_eq!(machine.state("ops"), "unreachable");
}

#[test]
fn a_revision_that_no_remote_has_is_no_ref_until_it_is_pushed() {
    let machine = machine("");
    machine.tick().ok();
    let acted = machine.lastaction("ops");
    let desk = machine.desk("ops");
    let tree = machine.git(&desk, &["rev-parse", "HEAD^{tree}"]);
    let wanted = machine.git(&desk, &["commit-tree", &tree, "-m", "later"]);
    follow(&machine, &format!("revision = {wanted:?}"));
    for _ in 0..3 {
        machine.tick();
        assert_eq!(machine.state("ops"), "no-ref", "{:#}", machine.row("ops"));
        assert_eq!(machine.lastaction("ops"), acted);
    }
    let why = format!("has no revision {wanted}");
    assert!(reason(&machine).contains(&why), "{}", reason(&machine));
    machine.git(&desk, &["push", "--quiet", "origin", &format!("{wanted}:refs/heads/later")]);
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(wanted));
}

#[test]
fn a_revision_that_is_a_tag_is_no_ref_with_the_commit_behind_it() {
    let machine = machine("");
    let released = release(&machine, "v1.0");
    push_tag(&machine, &["tag", "-a", "-m", "x", "v1.1"]);
    let tag = machine.git(&machine.desk("ops"), &["rev-parse", "refs/tags/v1.1"]);
    follow(&machine, &format!("revision = {tag:?}"));
    machine.tick();
    machine.tick();
    assert_eq!(machine.state("ops"), "no-ref", "{:#}", machine.row("ops"));
    assert!(
        reason(&machine).contains(&format!("revision = \"{released}\"")),
        "{}",
        reason(&machine)
    );
}

#[test]
fn a_target_shows_the_revision() {
    let machine = machine("");
    let wanted = machine.push("ops", &[("page", "wanted\n")]);
    machine.push("ops", &[("page", "newer\n")]);
    let target = machine.path("site");
    let keys = format!("mode = \"checkout\"\ntarget = {:?}\nrevision = {wanted:?}", text(&target));
    follow(&machine, &keys);
    machine.tick().ok();
    assert_eq!(fs::read_to_string(target.join("page")).unwrap(), "wanted\n");
    let keys = format!("mode = \"fetch\"\nrevision = {wanted:?}");
    follow(&machine, &keys);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(wanted));
}
