//! What stands where a tree is to appear: told of that ref alone, untouched, and the others go on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{NAME, Publisher, branch};
use crate::disk::Mounted;
use crate::sandbox::set_mode;

/// A machine whose branches `main` and `topic` are to appear, and something of `make`'s stands where
/// `topic` is to.
fn with_obstacle(make: impl FnOnce(&Publisher)) -> Publisher {
    let site = Publisher::new("branches", "");
    fs::create_dir(site.at("")).unwrap();
    make(&site);
    site.push("topic", "topic");
    site.machine.tick().exits(1);
    site
}

#[test]
fn what_somebody_else_made_stays_and_is_reported_for_that_branch_alone() {
    type Make = fn(&Publisher);
    let makes: [(Make, &str); 3] = [
        (|site| fs::write(site.at("topic"), "mine\n").unwrap(), "a file"),
        (
            |site| {
                fs::create_dir(site.at("topic")).unwrap();
                fs::write(site.at("topic/page"), "mine\n").unwrap();
            },
            "a directory that is not empty",
        ),
        (|site| symlink("/etc", site.at("topic")).unwrap(), "a symbolic link to \"/etc\""),
    ];
    for (make, words) in makes {
        let site = with_obstacle(make);
        let before = site.snapshot(&site.at(""));
        assert_eq!(site.page("main").as_deref(), Some("one"), "{words}");
        site.is(&branch("topic"), "broken", words);
        site.is(&branch("main"), "current", "");
        assert_eq!(site.machine.state(NAME), "broken");
        let said = site.machine.agent(&["status"]).exits(1).stdout;
        assert!(said.contains("move it away"), "{said}");

        // It stays, and nobody is told again.
        let ran = site.machine.tick();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        assert_eq!(site.snapshot(&site.at("")), before);
        let two = site.push("main", "two");
        site.machine.tick();
        assert_eq!(site.shown("main"), two);
        site.delete(&branch("topic"));
        site.machine.tick().ok();
        assert!(site.at("topic").symlink_metadata().is_ok(), "{words} is not ours to remove");

        site.set(&branch("topic"), &two);
        fs::rename(site.at("topic"), site.machine.path("away")).unwrap();
        site.machine.tick().ok();
        assert_eq!(site.shown("topic"), two);
        assert_eq!(site.machine.state(NAME), "current");
    }
}

#[test]
fn a_link_that_somebody_bent_is_reported_and_not_followed() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic");
    site.machine.tick().ok();
    fs::create_dir(site.machine.path("outside")).unwrap();
    fs::write(site.machine.path("outside/page"), "theirs\n").unwrap();
    fs::remove_file(site.at("topic")).unwrap();
    symlink(site.machine.path("outside"), site.at("topic")).unwrap();
    let second = site.push("topic", "two");
    site.machine.tick().exits(1);
    site.is(&branch("topic"), "broken", "a symbolic link to");
    assert_eq!(fs::read_to_string(site.machine.path("outside/page")).unwrap(), "theirs\n");
    fs::remove_file(site.at("topic")).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), second);
}

#[test]
fn a_target_that_is_no_directory_of_ours_is_reported_with_the_remedy_and_not_used() {
    type Make = fn(&Publisher);
    let makes: [(Make, &str, &str); 4] = [
        (
            |site| {
                fs::create_dir(site.machine.path("elsewhere")).unwrap();
                symlink(site.machine.path("elsewhere"), site.at("")).unwrap();
            },
            "is a symbolic link to",
            "remove the link",
        ),
        (
            |site| symlink("/nowhere/at/all", site.at("")).unwrap(),
            "is a symbolic link to \"/nowhere/at/all\"",
            "remove the link",
        ),
        (|site| fs::write(site.at(""), "mine\n").unwrap(), "is not a directory", "move it away"),
        (
            |site| {
                fs::create_dir(site.at("")).unwrap();
                set_mode(&site.at(""), 0o777);
                std::os::unix::fs::lchown(site.at(""), Some(65_534), None).unwrap();
            },
            "belongs to nobody",
            "chown root ",
        ),
    ];
    for (make, words, remedy) in makes {
        if words.contains("nobody") && !rustix::process::geteuid().is_root() {
            eprintln!("left out: this user cannot give directories away");
            continue;
        }
        for mode in ["branches", "tags"] {
            let site = Publisher::new(mode, "");
            site.set("refs/tags/v1", &site.tip("main").unwrap());
            make(&site);
            let targets = site.machine.path("targets");
            let before = site.machine.files_below(&targets);
            site.machine.tick().exits(1);
            let row = site.machine.row(NAME);
            let reason = row["reason"].as_str().unwrap();
            assert_eq!(row["state"], "broken", "{row:#}");
            assert!(reason.contains(words) && reason.contains(remedy), "{row:#}");
            assert_eq!(site.machine.files_below(&targets), before);
            let elsewhere = fs::read_dir(site.machine.path("elsewhere"));
            assert_eq!(elsewhere.into_iter().flatten().count(), 0, "nothing goes through a link");
            let check = site.machine.agent(&["check", "--offline"]).exits(1).stdout;
            let check = check.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(check.contains(words) && check.contains(remedy), "{check}");

            fs::rename(site.at(""), site.machine.path("away")).unwrap();
            site.machine.tick().ok();
            let directory = if mode == "tags" { "v1" } else { "main" };
            assert_eq!(site.directories(), [directory]);
        }
    }
}

#[test]
fn a_site_s_link_is_no_directory_for_branches() {
    let site = Publisher::new("checkout", "");
    site.machine.tick().ok();
    let before = site.snapshot(&site.machine.path("targets"));
    site.configure("branches", "");
    site.machine.tick().exits(1);
    assert_eq!(site.snapshot(&site.machine.path("targets")), before, "nothing is in the release");
    fs::remove_file(site.at("")).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main"]);
}

#[test]
fn a_mount_point_where_a_branch_is_to_appear_stays() {
    let site = Publisher::new("branches", "");
    fs::create_dir_all(site.at("topic")).unwrap();
    site.push("topic", "topic");
    let mounted = Mounted::tmpfs(&site.at("topic"), "size=1m");
    site.machine.tick().exits(1);
    site.is(&branch("topic"), "broken", "is a mount point");
    assert_eq!(site.page("main").as_deref(), Some("one"));
    drop(mounted);
    site.machine.tick().ok();
    assert_eq!(site.page("topic").as_deref(), Some("topic"));
}

#[test]
fn a_target_on_a_file_system_of_its_own_is_as_good_as_any() {
    let site = Publisher::new("branches", "");
    fs::create_dir(site.at("")).unwrap();
    let _mounted = Mounted::tmpfs(&site.at(""), "size=1m,mode=755");
    site.push("topic", "topic");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic"]);
}

#[test]
fn a_read_only_target_is_reported_and_done_once_it_is_writable() {
    let site = Publisher::new("branches", "");
    fs::create_dir(site.at("")).unwrap();
    let mounted = Mounted::tmpfs(&site.at(""), "size=1m,mode=755");
    site.machine.tick().ok();
    mounted.remount("ro");
    let second = site.push("main", "two");
    site.machine.tick().exits(1);
    assert_eq!(site.page("main").as_deref(), Some("one"));
    let row = site.machine.row(NAME);
    assert_eq!(row["state"], "failing", "{row:#}");
    assert!(row["reason"].as_str().unwrap().to_lowercase().contains("read-only"), "{row:#}");
    assert!(!site.machine.currentaction(NAME).exists());
    mounted.remount("rw");
    site.machine.agent(&["tick", NAME]).ok();
    assert_eq!(site.shown("main"), second);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_the_others_and_is_finished_with_once_there_is_room() {
    let site = Publisher::new("branches", "");
    fs::create_dir(site.at("")).unwrap();
    let mounted = Mounted::tmpfs(&site.at(""), "size=1m,mode=755");
    site.machine.tick().ok();
    let small = site.push("small", "small");
    let big = "x".repeat(2 << 20);
    let large = site.push_files("large", &[("page", "large\n"), ("big", &big)]);
    let two = site.push("main", "two");
    site.machine.tick().exits(1);
    assert_eq!((site.shown("small"), site.shown("main")), (small, two));
    assert_eq!(site.directories(), ["main", "small"]);
    site.is(&branch("large"), "failing", "inodes are free");
    assert_eq!(site.machine.state(NAME), "failing");
    assert!(!site.at(".pmpy/large").join(&large).exists());

    mounted.remount("size=8m");
    site.machine.agent(&["tick", NAME]).ok();
    assert_eq!(site.shown("large"), large);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn of_two_trees_that_fit_alone_and_not_together_one_appears_and_the_other_says_so() {
    let site = Publisher::new("branches", "");
    fs::create_dir(site.at("")).unwrap();
    let mounted = Mounted::tmpfs(&site.at(""), "size=1m,mode=755");
    site.machine.tick().ok();
    let tree = |name: &str| {
        // Many files, so that both are in the middle of it when the disk is full.
        let files: Vec<(String, String)> =
            (0..150).map(|number| (format!("d/{number}"), name.repeat(1 << 10))).collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
        site.push_files(name, &files)
    };
    let revisions = [("one", tree("one")), ("two", tree("two"))];
    site.machine.tick().exits(1);
    let directories = site.directories();
    assert_eq!(directories.len(), 2, "main and one of them: {directories:?}");
    let (here, missing) = if directories.contains(&"one".to_owned()) { (0, 1) } else { (1, 0) };
    assert_eq!(site.shown(revisions[here].0), revisions[here].1);
    site.is(&branch(revisions[here].0), "current", "");
    site.is(&branch(revisions[missing].0), "failing", "are free");
    let files = site.machine.files_below(&site.at(".pmpy"));
    assert!(files.iter().all(|file| !is_debris(file)), "{files:?}");

    mounted.remount("size=8m");
    site.machine.agent(&["tick", NAME]).ok();
    for (name, revision) in &revisions {
        assert_eq!(site.shown(name), *revision);
        assert_eq!(fs::read(site.at(name).join("d/149")).unwrap().len(), 3 << 10);
    }
    assert_eq!(site.machine.state(NAME), "current");
}

fn is_debris(file: &Path) -> bool {
    file.to_string_lossy().contains(".pmpy-tmp-")
}

#[test]
fn a_store_that_others_may_write_is_reported_with_the_remedy_and_not_used() {
    let site = Publisher::new("branches", "");
    site.machine.tick().ok();
    set_mode(&site.at(".pmpy"), 0o777);
    site.push("main", "two");
    site.machine.tick().exits(1);
    assert_eq!(site.page("main").as_deref(), Some("one"));
    let row = site.machine.row(NAME);
    assert!(row["reason"].as_str().unwrap().contains("others may write"), "{row:#}");
    set_mode(&site.at(".pmpy"), 0o755);
    site.machine.tick().ok();
    assert_eq!(site.page("main").as_deref(), Some("two"));
}

#[test]
fn a_place_for_releases_that_is_no_directory_stops_its_branch_and_no_other() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic");
    site.machine.tick().ok();
    fs::remove_dir_all(site.at(".pmpy/topic")).unwrap();
    symlink("/etc", site.at(".pmpy/topic")).unwrap();
    site.push("topic", "two");
    let two = site.push("main", "two");
    site.machine.tick().exits(1);
    site.is(&branch("topic"), "broken", "a symbolic link to one");
    assert_eq!(site.shown("main"), two);
    fs::remove_file(site.at(".pmpy/topic")).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.page("topic").as_deref(), Some("two"));
}

#[test]
fn a_place_for_releases_that_is_no_directory_delays_no_other_when_its_branch_goes() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic");
    site.machine.tick().ok();
    fs::rename(site.at(".pmpy/topic"), site.machine.path("aside")).unwrap();
    symlink("/etc", site.at(".pmpy/topic")).unwrap();
    site.delete(&branch("topic"));
    let two = site.push("main", "two");
    site.push("new", "new");
    site.machine.tick().exits(1);
    assert_eq!((site.shown("main"), site.page("new").as_deref()), (two, Some("new")));
    site.is(&branch("main"), "current", "");
    site.is(&branch("topic"), "failing", "a symbolic link to one");
    assert!(site.entry(&branch("topic"))["path"].as_str().unwrap().ends_with("/topic"));
    let history = site.machine.agent(&["history", NAME, "--json"]).ok().stdout;
    assert!(history.contains("refs/heads/new"), "{history}");
    // Nobody is told again while it waits.
    let ran = site.machine.tick();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));

    fs::remove_file(site.at(".pmpy/topic")).unwrap();
    fs::rename(site.machine.path("aside"), site.at(".pmpy/topic")).unwrap();
    site.machine.agent(&["tick", NAME]).ok();
    assert_eq!(site.directories(), ["main", "new"]);
    assert!(!site.at(".pmpy/topic").exists());
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn the_one_target_of_a_branch_stays_what_somebody_else_made() {
    let site = Publisher::new("checkout", "");
    fs::create_dir(site.at("")).unwrap();
    fs::write(site.at("page"), "mine\n").unwrap();
    site.machine.tick().exits(1);
    assert_eq!(site.page("").as_deref(), Some("mine"));
    let row = site.machine.row(NAME);
    assert_eq!(row["state"], "broken", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("move it away"), "{row:#}");
    fs::rename(site.at(""), site.machine.path("away")).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.page("").as_deref(), Some("one"));
    assert_eq!(site.machine.state(NAME), "current");
}
