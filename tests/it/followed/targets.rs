//! A followed tag in the modes that work on no worktree, or run no scripts.

use std::fs;

use super::{beside, follow, machine, move_tag, reason, release, remove, runs};
use crate::sandbox::{Sandbox, text};

/// `ops` in the mode `checkout`, with a target that follows `v1.*`.
fn site(machine: &Sandbox) -> std::path::PathBuf {
    let target = machine.path("site");
    let after = "after = [\"sh\", \"-c\", \"echo $AGENT_REF >>$AGENT_ROOT/.pmpy/refs\"]";
    let keys =
        format!("mode = \"checkout\"\ntarget = {:?}\n{after}\ntag = \"v1.*\"", text(&target));
    follow(machine, &keys);
    target
}

#[test]
fn a_target_shows_the_newest_tag() {
    let machine = machine("");
    let target = site(&machine);
    for tag in ["v1.9", "v1.10"] {
        release(&machine, tag);
        machine.tick().ok();
        assert_eq!(fs::read_to_string(target.join("page")).unwrap(), tag);
        assert_eq!(machine.row("ops")["acted"]["tag"], tag);
    }
    let seen = fs::read_to_string(machine.path("root/.pmpy/refs")).unwrap();
    assert_eq!(seen, "refs/tags/v1.9\nrefs/tags/v1.10\n");
    let next = beside(&machine, "v1.11");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(next.clone()));
    move_tag(&machine, "v1.11");
    machine.tick().exits(1);
    assert_eq!(
        (machine.state("ops").as_str(), machine.lastaction("ops")),
        ("rewritten", Some(next))
    );
    let moved = machine.git(&machine.desk("ops"), &["rev-parse", "v1.11"]);
    machine.agent(&["accept", "ops", &moved]).ok();
    machine.tick().ok();
    assert_eq!(
        (machine.state("ops").as_str(), machine.lastaction("ops")),
        ("current", Some(moved))
    );
}

#[test]
fn a_worktree_in_place_is_at_the_newest_tag() {
    let machine = machine("mode = \"in-place\"\ntag = \"v1.*\"");
    release(&machine, "v1.9");
    machine.tick().ok();
    let newest = release(&machine, "v1.10");
    machine.tick().ok();
    assert_eq!((machine.head("ops"), runs(&machine)), (newest, 0));
    assert_eq!(fs::read_to_string(machine.clone_of("ops").join("page")).unwrap(), "v1.10");
}

#[test]
fn with_a_tag_a_rewrite_is_refused_in_fetch_too() {
    let machine = machine("mode = \"fetch\"\ntag = \"v1.*\"");
    release(&machine, "v1.9");
    let newest = release(&machine, "v1.10");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(newest.clone()));
    assert_eq!(machine.row("ops")["acted"]["tag"], "v1.10");
    machine.tick().ok();
    let moved = move_tag(&machine, "v1.10");
    machine.tick();
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
    assert!(reason(&machine).contains("upstream moved the tag v1.10"), "{}", reason(&machine));
    assert_eq!(machine.lastaction("ops"), Some(newest));
    machine.agent(&["accept", "ops", &moved]).ok();
    assert_eq!(machine.lastaction("ops"), Some(moved));
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    let next = release(&machine, "v1.11");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(next));
}

#[test]
fn in_fetch_a_newest_tag_that_went_leaves_the_recorded_revision() {
    let machine = machine("mode = \"fetch\"\ntag = \"v1.*\"");
    release(&machine, "v1.9");
    let newest = release(&machine, "v1.10");
    machine.tick().ok();
    machine.tick().ok();
    remove(&machine, "v1.10");
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
    assert_eq!(machine.lastaction("ops"), Some(newest));
}

#[test]
fn a_clone_of_another_user_follows_tags_as_that_user() {
    const NOBODY: u32 = 65_534;
    let machine = crate::users::machine("id -u >>.temp/users\n");
    follow(&machine, "tag = \"v1.*\"");
    let push = |tag: &str| {
        let revision = super::annotated(&machine, tag);
        crate::users::give_all(&machine.server("ops"), NOBODY);
        revision
    };
    for tag in ["v1.9", "v1.10"] {
        let revision = push(tag);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision));
        assert_eq!(machine.row("ops")["acted"]["tag"], tag);
    }
    let users = fs::read_to_string(machine.clone_of("ops").join(".temp/users")).unwrap();
    assert_eq!(users, "65534\n65534\n");
    let oneline = machine.agent(&["status", "--oneline"]).stdout;
    assert!(oneline.contains("v1.10 ("), "{oneline}");
}
