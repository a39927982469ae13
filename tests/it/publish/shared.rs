//! Directories that all releases of a place share.

use std::fs;
use std::path::PathBuf;

use super::{NAME, Publisher, branch};

const SHARED: &str = "shared = [\"uploads\", \"var/cache\"]\nkeep = 0";

#[test]
fn a_shared_directory_outlives_releases_and_moves_with_its_store() {
    for (mode, directory, link) in [
        ("checkout", "", "../.shared/uploads"),
        ("branches", "main", "../../.shared/main/uploads"),
        ("atomic", "main", "../../.shared/main/uploads"),
    ] {
        let site = Publisher::new(mode, SHARED);
        site.machine.tick().ok();
        let shown = match mode {
            "atomic" => site.machine.path("targets/site_main"),
            _ => site.at(directory),
        };
        assert_eq!(fs::read_link(shown.join("uploads")).unwrap(), PathBuf::from(link));
        fs::write(shown.join("uploads/photo"), "photo").unwrap();
        fs::write(shown.join("var/cache/entry"), "entry").unwrap();
        site.push("main", "two");
        site.machine.tick().ok();
        site.machine.agent(&["redo", NAME]).ok();
        assert_eq!(fs::read_to_string(shown.join("page")).unwrap(), "two\n");
        assert_eq!(fs::read_to_string(shown.join("uploads/photo")).unwrap(), "photo", "{mode}");
        assert_eq!(fs::read_to_string(shown.join("var/cache/entry")).unwrap(), "entry", "{mode}");
        assert!(site.left().is_empty(), "{:?}", site.left());
        fs::rename(site.machine.path("targets"), site.machine.path("moved")).unwrap();
        let moved = site
            .machine
            .path("moved")
            .join(shown.strip_prefix(site.machine.path("targets")).unwrap());
        assert_eq!(fs::read_to_string(moved.join("uploads/photo")).unwrap(), "photo");
    }
}

#[test]
fn a_release_with_its_links_is_shown_again_as_it_is() {
    let site = Publisher::new("checkout", "shared = [\"var/cache\"]");
    site.machine.tick().ok();
    let first = site.shown("");
    site.push("main", "two");
    site.machine.tick().ok();
    let page = site.store().join(&first).join("page");
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&page).unwrap());
    let before = inode();
    site.machine.agent(&["rollback", NAME]).ok();
    assert_eq!((site.shown(""), inode()), (first, before), "it was written anew");
}

#[test]
fn a_tree_with_a_shared_path_is_refused_until_one_of_them_changes() {
    for mode in ["checkout", "branches"] {
        let directory = if mode == "checkout" { "" } else { "main" };
        let site = Publisher::new(mode, "shared = [\"var/cache\"]");
        site.machine.tick().ok();
        site.push_files("main", &[("page", "two\n"), ("var", "a file\n")]);
        site.machine.tick();
        site.is(&branch("main"), "refused", "\"var/cache\" is a shared directory here");
        assert_eq!(site.page(directory).as_deref(), Some("one"));
        site.configure(mode, "");
        site.machine.tick().ok();
        site.is(&branch("main"), "current", "");
        assert_eq!(site.page(directory).as_deref(), Some("two"));
    }
}

#[test]
fn a_shared_directory_stays_when_its_branch_goes_and_serves_it_again() {
    let site = Publisher::new("branches", SHARED);
    site.push("topic", "topic");
    site.machine.tick().ok();
    fs::write(site.at("topic/uploads/photo"), "photo").unwrap();
    site.delete(&branch("topic"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main"]);
    assert!(site.store().join(".shared/topic/uploads/photo").exists());
    site.push("topic", "again");
    site.machine.tick().ok();
    assert!(site.at("topic/uploads/photo").exists());
}

#[test]
fn what_was_in_a_release_before_its_directory_was_shared_is_kept() {
    let site = Publisher::new("checkout", "keep = 0");
    site.machine.tick().ok();
    let first = site.shown("");
    fs::create_dir(site.at("uploads")).unwrap();
    fs::write(site.at("uploads/photo"), "photo").unwrap();
    site.configure("checkout", "shared = [\"uploads\"]\nkeep = 0");
    site.push("main", "two");
    site.machine.tick().ok();
    assert_eq!(site.left(), [format!("{first}/uploads/photo")]);
    assert!(site.at("uploads").is_dir());
}
