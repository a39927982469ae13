//! Files that an application wrote into a release: they are not lost with it.

use std::fs;
use std::os::unix::fs::symlink;

use super::{NAME, Publisher, branch};
use crate::sandbox::text;

#[test]
fn what_an_application_wrote_is_kept_when_its_release_goes() {
    for (mode, directory) in [("checkout", ""), ("branches", "main"), ("atomic", "main")] {
        let site = Publisher::new(mode, "keep = 0");
        let first = site.push_files("main", &[("web/page", "one\n")]);
        site.machine.tick().ok();
        let shown = match mode {
            "atomic" => site.machine.path("targets/site_main"),
            _ => site.at(directory),
        };
        fs::create_dir(shown.join("web/uploads")).unwrap();
        fs::write(shown.join("web/uploads/photo.jpg"), "photo").unwrap();
        fs::write(shown.join("log"), "line").unwrap();
        fs::create_dir(shown.join("empty")).unwrap();
        fs::write(shown.join("web/page"), "changed").unwrap();
        site.push("main", "two");
        site.machine.tick().ok();
        let left = [format!("{first}/log"), format!("{first}/web/uploads/photo.jpg")];
        assert_eq!(site.left(), left, "{mode}");
        let status = site.machine.agent(&["status", "-v", NAME]).ok().stdout;
        assert!(status.contains("2 files (9 bytes)"), "{status}");
        assert!(status.contains(text(&site.store().join(".left"))), "{status}");
        let row = site.machine.row(NAME);
        assert_eq!(
            (row["left"]["files"].as_u64(), row["left"]["bytes"].as_u64()),
            (Some(2), Some(9))
        );
    }
}

#[test]
fn a_branch_or_tag_that_goes_leaves_what_was_written_into_its_tree() {
    for (mode, name) in [("branches", branch("topic")), ("tags", "refs/tags/topic".to_owned())] {
        let site = Publisher::new(mode, "");
        let topic = site.push("topic", "topic");
        site.set("refs/tags/topic", &topic);
        site.set("refs/tags/other", &topic);
        site.machine.tick().ok();
        fs::write(site.at("topic/data"), "data").unwrap();
        site.delete(&name);
        site.machine.tick().ok();
        assert!(!site.directories().contains(&"topic".to_owned()));
        assert_eq!(site.left(), [format!("{topic}/data")], "{mode}");
        assert!(!site.at(".pmpy/topic").exists());
    }
}

#[test]
fn two_trees_of_one_revision_keep_their_files_apart() {
    let site = Publisher::new("branches", "");
    let main = site.tip("main").unwrap();
    for name in ["a", "b"] {
        site.set(&branch(name), &main);
    }
    site.machine.tick().ok();
    fs::write(site.at("a/data"), "a").unwrap();
    fs::write(site.at("b/data"), "b").unwrap();
    for name in ["a", "b"] {
        site.delete(&branch(name));
    }
    site.machine.tick().ok();
    assert_eq!(site.left(), [format!("{main}-1/data"), format!("{main}/data")]);
}

#[test]
fn what_leads_outside_is_moved_and_not_followed() {
    let site = Publisher::new("checkout", "keep = 0");
    let first = site.push_files("main", &[("d/page", "one\n")]);
    site.machine.tick().ok();
    let victim = site.machine.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("precious"), "precious").unwrap();
    // A directory of the revision that became a link.
    fs::rename(site.at("d"), site.machine.path("aside")).unwrap();
    symlink(&victim, site.at("d")).unwrap();
    symlink("../../../..", site.at("up")).unwrap();
    site.push("main", "two");
    site.machine.tick().ok();
    assert_eq!(fs::read_to_string(victim.join("precious")).unwrap(), "precious");
    assert_eq!(site.left(), [format!("{first}/d"), format!("{first}/up")]);
    assert_eq!(site.page("").as_deref(), Some("two"));
}

#[test]
fn more_files_than_are_moved_one_by_one_are_kept_with_their_release() {
    let site = Publisher::new("checkout", "keep = 0");
    let first = site.tip("main").unwrap();
    site.machine.tick().ok();
    for number in 0..10_050 {
        fs::write(site.at(&format!("f{number}")), "").unwrap();
    }
    site.push("main", "two");
    site.machine.tick().ok();
    let kept = site.store().join(".left").join(first);
    assert!(kept.join("f10049").exists() && kept.join("page").exists());
}
