//! What the keys `branch`, `tag` and `revision` may say, and what is said where they say something else.

use super::{follow, machine, reason, release};
use crate::sandbox::Sandbox;

/// Why `ops` is broken with these keys.
fn fault(keys: &str) -> String {
    let machine = machine("");
    follow(&machine, keys);
    machine.tick();
    assert_eq!(machine.state("ops"), "broken", "{keys}");
    reason(&machine)
}

#[test]
fn one_of_branch_tag_and_revision_is_followed_else_an_error_names_both_lines() {
    let id = "a".repeat(40);
    for (keys, first, second) in [
        ("branch = \"main\"\ntag = \"v1.*\"", "branch", "tag"),
        (&format!("tag = \"v1.*\"\nrevision = {id:?}"), "tag", "revision"),
        (&format!("revision = {id:?}\nbranch = \"main\""), "revision", "branch"),
    ] {
        let why = fault(keys);
        let expected = format!("\"{second}\" and \"{first}\" both say what is followed");
        assert!(why.contains(&expected), "{why}");
        assert!(why.contains("agent.toml:4:") && why.contains("agent.toml:3:"), "{why}");
    }
}

#[test]
fn an_own_key_replaces_one_of_another_kind_in_defaults() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("page", "start\n")]);
    let released = release(&machine, "v1.0");
    let tip = machine.push("ops", &[("page", "unreleased\n")]);
    let url = machine.server("ops");
    for (defaults, own, expected) in [
        ("tag = \"v1.*\"", "", &released),
        ("tag = \"v1.*\"", "branch = \"main\"", &tip),
        ("branch = \"other\"", "tag = \"v1.*\"", &released),
        ("branch = \"other\"", &format!("revision = {tip:?}"), &tip),
        ("tag = \"v1.*\"\nrewritten = \"follow\"", "", &released),
    ] {
        let toml = format!("[defaults]\n{defaults}\n[repo.ops]\nurl = {url:?}\n{own}\n");
        machine.configure(&toml);
        machine.tick();
        let seen = (machine.lastaction("ops").unwrap_or_default(), machine.state("ops"));
        assert_eq!(seen, (expected.clone(), "current".to_owned()), "{defaults} {own}");
    }
    // In the modes with many refs, a default tag is for other repositories.
    let target = machine.path("target");
    machine.configure(&format!(
        "[defaults]\ntag = \"v1.*\"\n[repo.ops]\nurl = {url:?}\nmode = \"branches\"\ntarget = {target:?}\n"
    ));
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(tip));
}

#[test]
fn a_branch_that_is_a_full_ref_or_an_id_is_an_error_that_names_the_key_to_use() {
    let id = "b".repeat(40);
    for (keys, hint) in [
        ("branch = \"refs/tags/v1.0\"", "hint: to follow it: tag = \"v1.0\""),
        ("branch = \"refs/heads/main\"", "hint: write branch = \"main\""),
        (
            "branch = \"refs/notes/x\"",
            "only branches can be followed, with branch, and tags, with tag",
        ),
        (&format!("branch = {id:?}"), &format!("hint: to stay at it: revision = {id:?}")),
        (&format!("tag = {id:?}"), &format!("hint: to stay at it: revision = {id:?}")),
        ("tag = \"refs/tags/v1\"", "without refs/tags/, such as \"v1.*\""),
        ("tag = \"v{1,2}\"", "only {part}, {stack} and {host}"),
        ("revision = \"abc1234\"", "write the whole id"),
        ("tag = \"v1.*\"\nupdate = \"merge\"", "\"update\" does nothing with \"tag\""),
        (
            "tag = \"v1.*\"\nmode = \"branches\"\ntarget = \"/srv/x\"",
            "\"tag\" does nothing in mode \"branches\"",
        ),
    ] {
        let why = fault(keys);
        assert!(why.contains(hint), "{keys}: {why}");
    }
}

#[test]
fn a_branch_that_is_the_name_of_a_tag_is_no_ref_with_the_key_to_use() {
    let machine = machine("branch = \"v1.0\"");
    release(&machine, "v1.0");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "no-ref");
    let why = reason(&machine);
    assert!(why.contains("has no branch v1.0, but a tag of that name"), "{why}");
    assert!(why.contains("set tag = \"v1.0\" in place of branch"), "{why}");
}

#[test]
fn the_placeholders_of_a_tag_are_filled_in() {
    let machine = machine("tag = \"{part}-1.*\"");
    let toml = std::fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    machine.configure(&format!("[node]\npart = \"web\"\n{toml}"));
    let released = release(&machine, "web-1.0");
    release(&machine, "db-1.5");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(released));
}
