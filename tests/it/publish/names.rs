//! Which ref appears under which name, with real refs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::{NAME, Publisher, branch};
use crate::sandbox::Ran;

#[test]
fn names_from_hell_are_one_plain_directory_each() {
    let site = Publisher::new("branches", "");
    let long = "x".repeat(240);
    let names = [
        ("$(id)", "%24%28id%29"),
        ("`id`", "%60id%60"),
        ("a\"b", "a%22b"),
        ("a'b", "a%27b"),
        ("a|b&c;d", "a%7Cb%26c%3Bd"),
        ("-rf", "%2Drf"),
        ("100%", "100%25"),
        ("über", "%C3%BCber"),
        ("deep/er/name", "deep%2Fer%2Fname"),
        (&long, &long),
    ];
    for (name, _) in names {
        site.push(name, name);
    }
    site.machine.tick().ok();
    let mut expected: Vec<&str> = names.iter().map(|(_, directory)| *directory).collect();
    expected.push("main");
    expected.sort_unstable();
    assert_eq!(site.directories(), expected);
    for (name, directory) in names {
        assert_eq!(site.page(directory).as_deref(), Some(name));
    }
    let beside: Vec<_> = fs::read_dir(site.machine.path("targets")).unwrap().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    for (name, _) in names {
        site.delete(&branch(name));
    }
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main"]);
}

#[test]
fn a_branch_and_one_below_it_change_places() {
    let site = Publisher::new("branches", "");
    site.push("a", "flat");
    site.machine.tick().ok();
    site.delete(&branch("a"));
    site.push("a/b", "deep");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["a%2Fb", "main"]);
    site.delete(&branch("a/b"));
    site.push("a", "flat again");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["a", "main"]);
    assert_eq!(site.page("a").as_deref(), Some("flat again"));
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_name_that_is_too_long_is_reported_and_stops_no_other() {
    let site = Publisher::new("branches", "");
    let long = format!("{}/{}", "ü".repeat(60), "é".repeat(60));
    site.push(&long, "long");
    site.push("topic", "topic");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic"]);
    site.is(&branch(&long), "inactive", "a shorter one can be given under rename");
}

#[test]
fn a_name_that_is_no_text_is_reported_and_stops_no_other() {
    let site = Publisher::new("branches", "");
    let server = site.machine.server(NAME);
    let name = OsStr::from_bytes(b"refs/heads/caf\xe9");
    let mut git = site.machine.command("git");
    git.current_dir(&server).args(["update-ref".as_ref(), name, "refs/heads/main".as_ref()]);
    Ran::of(&mut git).ok();
    site.push("topic", "topic");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic"]);
    site.is("refs/heads/caf\\xE9", "inactive", "none that can be stored here");
    assert_eq!(site.machine.state(NAME), "current");
    let status = site.machine.agent(&["status", "-v"]).ok().stdout;
    assert!(status.contains("xE9") && status.contains("inactive"), "{status}");
    site.machine.tick().ok();
    assert_eq!(site.published().len(), 3);
}

#[test]
fn puppet_environments_are_renamed_chosen_and_never_disturbed() {
    let keys =
        "names = \"puppet\"\nrename = { main = \"production\" }\nmatch = [\"**\", \"!wip/**\"]";
    let site = Publisher::new("branches", keys);
    site.push("a-b", "with a dash");
    site.push("wip/x", "not yet");
    site.push("master", "reserved");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["a_b", "production"]);
    assert_eq!(site.page("production").as_deref(), Some("one"));
    site.is(&branch("master"), "inactive", "no environment called \"master\"");

    // Called exactly so, and first by name: the one that is there stays nonetheless.
    site.push("a_b", "with a line");
    site.push("a.b", "with a dot");
    site.machine.tick().ok();
    assert_eq!(site.page("a_b").as_deref(), Some("with a dash"));
    site.is(&branch("a_b"), "inactive", "\"a_b\" is the directory of refs/heads/a-b");

    site.delete(&branch("a-b"));
    site.machine.tick().ok();
    assert_eq!(site.page("a_b").as_deref(), Some("with a line"));
    site.is(&branch("a.b"), "inactive", "\"a_b\" is the directory of refs/heads/a_b");
    assert!(site.published().iter().all(|entry| entry["ref"] != branch("wip/x")));
}

#[test]
fn a_rename_that_is_configured_later_moves_the_tree() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic");
    site.machine.tick().ok();
    site.configure("branches", "rename = { main = \"topic\", topic = \"main\" }");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic"]);
    assert_eq!(site.page("topic").as_deref(), Some("one"));
    assert_eq!(site.page("main").as_deref(), Some("topic"));
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_branch_keeps_its_old_directory_until_it_is_seen_in_the_new_one() {
    let before = "before = [\"gate\"]";
    let site = Publisher::new("branches", before);
    let gate = |exit: &str| format!("#!/bin/sh\nexit {exit}\n");
    let push = |page: &str, exit: &str| {
        site.push_files("topic", &[("page", &format!("{page}\n")), ("gate", &gate(exit))])
    };
    site.push_files("main", &[("gate", &gate("0"))]);
    let good = push("good", "0");
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), good);

    // Another directory, and the tree that is to appear there does not pass.
    push("bad", "1");
    site.configure("branches", &format!("{before}\nrename = {{ topic = \"release\" }}"));
    for _ in 0..2 {
        site.machine.tick();
        assert_eq!(site.directories(), ["main", "topic"]);
        assert_eq!(site.shown("topic"), good);
        site.is(&branch("topic"), "refused", "");
    }
    // Not even when the record of it is lost.
    fs::remove_file(site.machine.private(NAME, "published")).unwrap();
    site.machine.tick();
    assert_eq!(site.shown("topic"), good);
    let better = push("better", "0");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "release"]);
    assert_eq!(site.shown("release"), better);
    assert!(!site.at(".pmpy/topic").exists());

    // There and back again, before it was seen anywhere else.
    push("worse", "1");
    site.configure("branches", &format!("{before}\nrename = {{ topic = \"third\" }}"));
    site.machine.tick();
    assert_eq!(site.shown("release"), better);
    let best = push("best", "0");
    site.configure("branches", &format!("{before}\nrename = {{ topic = \"release\" }}"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "release"]);
    assert_eq!(site.shown("release"), best);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_directory_that_another_branch_needs_is_free_at_once() {
    let before = "before = [\"gate\"]";
    let site = Publisher::new("branches", before);
    site.push_files("main", &[("gate", "#!/bin/sh\n")]);
    site.push("other", "other");
    site.push("topic", "topic");
    site.machine.tick().ok();
    site.push_files("topic", &[("gate", "#!/bin/sh\nexit 1\n")]);
    site.configure(
        "branches",
        &format!("{before}\nrename = {{ topic = \"third\", other = \"topic\" }}"),
    );
    site.machine.tick();
    assert_eq!(site.directories(), ["main", "topic"]);
    assert_eq!(site.page("topic").as_deref(), Some("other"));
    let topic = site.push_files("topic", &[("gate", "#!/bin/sh\n")]);
    site.machine.tick().ok();
    assert_eq!(site.shown("third"), topic);
    assert_eq!(site.directories(), ["main", "third", "topic"]);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn next_to_the_target_every_branch_has_a_name_that_begins_with_it() {
    let site = Publisher::new("puppetmaster", "");
    site.push("feature/x", "x");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["feature%2Fx", "main"]);

    let site = Publisher::new("atomic", "");
    site.push("feature/x", "x");
    site.machine.tick().ok();
    let seen = |name: &str| fs::read_to_string(site.machine.path(name).join("page")).unwrap();
    assert_eq!(seen("targets/site_feature%2Fx"), "x\n");
    assert_eq!(seen("targets/site_main"), "one\n");
    site.delete(&branch("feature/x"));
    site.machine.tick().ok();
    assert!(!site.machine.path("targets/site_feature%2Fx").exists());
}
