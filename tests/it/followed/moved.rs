//! A tag that moved, or that went while it was the newest.

use super::{follow, machine, move_tag, reason, release, remove, runs};

#[test]
fn a_tag_that_moved_is_rewritten_and_the_machine_stays() {
    let machine = machine("tag = \"v1.*\"");
    let old = release(&machine, "v1.10");
    machine.tick().ok();
    let moved = move_tag(&machine, "v1.10");
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("rewritten", old.clone()));
    let why = format!("upstream moved the tag v1.10 from {} to {}", &old[..7], &moved[..7]);
    assert!(reason(&machine).contains(&why), "{}", reason(&machine));
    // It stays so, and is not fetched again.
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten");
    assert_eq!(machine.lastaction("ops"), Some(old));
}

#[test]
fn accept_takes_the_tag_that_moved() {
    let machine = machine("tag = \"v1.*\"");
    release(&machine, "v1.10");
    machine.tick().ok();
    let moved = move_tag(&machine, "v1.10");
    machine.tick().exits(1);
    machine.agent(&["accept", "ops", &moved]).ok();
    assert_eq!(machine.lastaction("ops"), Some(moved.clone()));
    machine.tick().ok();
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("current", moved));
}

#[test]
fn a_newest_tag_that_went_is_rewritten_and_comes_back_by_itself() {
    let machine = machine("tag = \"v1.*\"");
    let older = release(&machine, "v1.9");
    let newest = release(&machine, "v1.10");
    machine.tick().ok();
    machine.tick().ok();
    remove(&machine, "v1.10");
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("rewritten", newest.clone()));
    let why = format!("no longer has the tag v1.10 ({}), and its newest is v1.9", &newest[..7]);
    assert!(reason(&machine).contains(&why), "{}", reason(&machine));
    assert!(
        reason(&machine).contains(&format!("agent accept ops {older}")),
        "{}",
        reason(&machine)
    );
    super::push_tag(&machine, &["tag", "v1.10", &newest]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(runs(&machine), 1);
}

#[test]
fn an_answer_without_the_newest_tag_is_believed_only_when_it_is_repeated() {
    let machine = machine("tag = \"v1.*\"");
    release(&machine, "v1.9");
    release(&machine, "v1.10");
    machine.tick().ok();
    machine.git(&machine.server("ops"), &["tag", "-d", "v1.10"]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert!(reason(&machine).contains("answers without v1.10"), "{}", reason(&machine));
}

#[test]
fn a_newer_tag_that_was_not_seen_before_heals_without_accept() {
    let heal: [fn(&crate::sandbox::Sandbox); 2] = [
        |machine| {
            move_tag(machine, "v1.10");
        },
        |machine| remove(machine, "v1.10"),
    ];
    for (number, spoil) in heal.iter().enumerate() {
        // Newer than the rest: than the tag that went, or than those that are left.
        for next in ["v1.11", "v1.9.1"] {
            let machine = machine("tag = \"v1.*\"");
            release(&machine, "v1.9");
            release(&machine, "v1.10");
            machine.tick().ok();
            machine.tick().ok();
            spoil(&machine);
            machine.tick().exits(1);
            assert_eq!(machine.state("ops"), "rewritten");
            let newer = release(&machine, next);
            machine.agent(&["tick", "--trigger", "cron"]);
            let heals = next == "v1.11" || number == 1;
            let expected = if heals { "current" } else { "rewritten" };
            assert_eq!(machine.state("ops"), expected, "{number} {next}: {:#}", machine.row("ops"));
            if heals {
                assert_eq!(machine.lastaction("ops"), Some(newer));
                machine.tick().ok();
                assert_eq!(machine.state("ops"), "current", "and it stays so");
            }
        }
    }
}

#[test]
fn a_tag_that_was_seen_before_does_not_heal() {
    let machine = machine("tag = \"v1.*\"");
    for tag in ["v1.8", "v1.9", "v1.10"] {
        release(&machine, tag);
    }
    machine.tick().ok();
    machine.tick().ok();
    for tag in ["v1.10", "v1.9"] {
        remove(&machine, tag);
        machine.tick();
        assert_eq!(machine.state("ops"), "rewritten");
    }
    release(&machine, "v1.9");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
}

#[test]
fn with_follow_a_moved_tag_is_followed() {
    let machine = machine("tag = \"v1.*\"\nrewritten = \"follow\"");
    release(&machine, "v1.9");
    release(&machine, "v1.10");
    machine.tick().ok();
    let moved = move_tag(&machine, "v1.10");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(moved));
    remove(&machine, "v1.10");
    machine.tick().ok();
    let older = machine.git(&machine.desk("ops"), &["rev-parse", "v1.9"]);
    assert_eq!(machine.lastaction("ops"), Some(older));
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn another_pattern_is_no_rewrite() {
    let machine = machine("tag = \"v2.*\"");
    let one = release(&machine, "v1.0");
    release(&machine, "v2.0");
    machine.tick().ok();
    follow(&machine, "tag = \"v1.*\"");
    machine.tick().ok();
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("current", one));
}

#[test]
fn a_rollback_leads_back_and_unhold_forward_again() {
    let machine = machine("tag = \"v1.*\"");
    let old = release(&machine, "v1.9");
    machine.tick().ok();
    let new = release(&machine, "v1.10");
    machine.tick().ok();
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("pinned", old));
    assert_eq!(machine.row("ops")["acted"]["tag"], "v1.9");
    machine.agent(&["unhold", "ops"]).ok();
    machine.tick().ok();
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("current", new));
}
