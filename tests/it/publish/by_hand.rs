//! `agent checkout`: what a person puts into a target.

use std::fs;
use std::os::unix::fs::symlink;

use super::{NAME, Publisher};
use crate::sandbox::{Ran, text};

/// Fetched, with a tag and two branches; the server is away by now.
fn fetched(mode: &str) -> (Publisher, String, String) {
    let site = Publisher::new(mode, "");
    let first = site.tip("main").unwrap();
    site.set("refs/tags/v1", &first);
    let second = site.push("feature/x", "two");
    site.machine.tick().ok();
    fs::rename(site.machine.server(NAME), site.machine.path("away")).unwrap();
    (site, first, second)
}

fn checkout(site: &Publisher, arguments: &[&str]) -> Ran {
    site.machine.agent(&[&["checkout", NAME], arguments].concat())
}

#[test]
fn a_tag_a_branch_or_a_revision_goes_to_the_target_without_the_network() {
    let (site, first, second) = fetched("fetch");
    checkout(&site, &["v1"]).ok();
    assert_eq!((site.page(""), site.shown("")), (Some("one".to_owned()), first.clone()));
    checkout(&site, &["feature/x"]).ok();
    assert_eq!((site.page(""), site.shown("")), (Some("two".to_owned()), second));
    checkout(&site, &[&first[..10]]).ok();
    assert_eq!(site.shown(""), first);
    // Nobody moves it but a person.
    site.machine.tick();
    assert_eq!(site.shown(""), first);
    let entry = site.entry(&first);
    assert_eq!(
        (entry["state"].as_str(), entry["path"].as_str()),
        (Some("current"), Some(text(&site.at(""))))
    );
    // What readers see is what is recorded, whatever upstream has by now.
    site.machine.agent(&["checkout", NAME, "feature/x"]).ok();
    site.machine.tick();
    let row = site.machine.row(NAME);
    assert_eq!(row["acted"]["revision"].as_str(), Some(&*site.shown("")), "{row:#}");
    assert_eq!(site.machine.lastaction(NAME), Some(site.shown("")));
}

#[test]
fn into_a_directory_of_its_own_it_goes_from_any_repository() {
    for mode in ["fetch", "checkout", "branches"] {
        let (site, first, second) = fetched(mode);
        let dir = site.machine.path("targets/by-hand");
        // Where one branch is followed, only that is here.
        let revision = if mode == "checkout" { &first } else { &second };
        checkout(&site, &[revision, "--to", text(&dir)]).ok();
        let page = if mode == "checkout" { "one\n" } else { "two\n" };
        assert_eq!(fs::read_to_string(dir.join("page")).unwrap(), page, "{mode}");
        checkout(&site, &[&first, "--to", text(&dir)]).ok();
        assert_eq!(fs::read_to_string(dir.join("page")).unwrap(), "one\n", "{mode}");
    }
}

#[test]
fn what_was_at_the_one_target_stops_nothing_once_every_branch_has_its_own() {
    let (site, first, second) = fetched("fetch");
    for revision in ["v1", &first] {
        checkout(&site, &[revision]).ok();
    }
    fs::remove_file(site.at("")).unwrap();
    site.configure("branches", "");
    fs::rename(site.machine.path("away"), site.machine.server(NAME)).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["feature%2Fx", "main"]);
    assert_eq!(site.shown("feature%2Fx"), second);
    assert_eq!(site.machine.state(NAME), "current");
    assert_eq!(site.published().len(), 2);
}

#[test]
fn into_a_directory_that_the_agent_has_another_use_for_it_does_not_go() {
    for mode in ["checkout", "branches", "atomic"] {
        let site = Publisher::new(mode, "");
        let first = site.tip("main").unwrap();
        site.machine.tick().ok();
        let targets = site.machine.path("targets");
        symlink(&targets, site.machine.path("by-another-path")).unwrap();
        let before = site.snapshot(&targets);
        let store = if mode == "branches" { "targets/site/.pmpy" } else { "targets/.site.pmpy" };
        let own = if mode == "atomic" { "site_main" } else { "site" };
        for (to, hint) in [
            (format!("targets/{own}"), "without --to"),
            (format!("by-another-path/{own}"), "without --to"),
            (format!("targets/{own}/below"), "without --to"),
            (store.to_owned(), "another directory"),
            (format!("{store}/mine"), "another directory"),
            ("root/mine".to_owned(), "another directory"),
            ("root/site/mine".to_owned(), "another directory"),
            ("root".to_owned(), "another directory"),
        ] {
            let to = site.machine.path(&to);
            let ran = checkout(&site, &[&first, "--to", text(&to)]).exits(1);
            assert!(ran.stderr.contains("hint: ") && ran.stderr.contains(hint), "{mode} {ran}");
            assert_eq!(site.snapshot(&targets), before, "{mode} {}", to.display());
        }
        assert_eq!(site.machine.differences(NAME), "");
    }
}

#[test]
fn what_is_not_here_is_fetched_and_what_is_nowhere_is_reported() {
    let site = Publisher::new("checkout", "");
    site.machine.tick().ok();
    let revision = site.push("late", "late");
    let dir = site.machine.path("targets/by-hand");
    checkout(&site, &["late", "--to", text(&dir)]).ok();
    assert_eq!(fs::read_to_string(dir.join("page")).unwrap(), "late\n");
    assert_eq!(fs::read_link(&dir).unwrap().file_name().unwrap(), revision.as_str());
    let ran = checkout(&site, &["no-such-thing"]).exits(1);
    assert!(ran.stderr.contains("no-such-thing"), "{ran}");
}

#[test]
fn where_a_branch_is_followed_it_is_a_rollback_that_stays() {
    let site = Publisher::new("checkout", "");
    let first = site.tip("main").unwrap();
    site.machine.tick().ok();
    site.push("main", "two");
    site.machine.tick().ok();
    checkout(&site, &[&first]).ok();
    assert_eq!((site.page(""), site.machine.state(NAME)), (Some("one".into()), "pinned".into()));
    site.machine.tick().ok();
    assert_eq!(site.page("").as_deref(), Some("one"));
    site.machine.agent(&["unhold", NAME]).ok();
    site.machine.tick().ok();
    assert_eq!(site.page("").as_deref(), Some("two"));
}

#[test]
fn where_every_branch_has_its_place_it_is_put_there_again() {
    let (site, _, second) = fetched("branches");
    let link = site.at("feature%2Fx");
    fs::remove_file(&link).unwrap();
    checkout(&site, &["feature/x"]).ok();
    assert_eq!(site.shown("feature%2Fx"), second);
    checkout(&site, &["v1"]).exits(1);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (site, first, _) = fetched("fetch");
    fs::create_dir(site.at("")).unwrap();
    fs::write(site.at("mine"), "mine").unwrap();
    let ran = checkout(&site, &["v1"]).exits(1);
    assert!(ran.stderr.contains("was not made by the agent"), "{ran}");
    let clone = site.machine.clone_of(NAME);
    checkout(&site, &["v1", "--to", text(&clone.join("inside"))]).exits(1);
    site.machine.agent(&["hold", NAME, "a reason"]).ok();
    let ran = checkout(&site, &["v1", "--to", text(&site.machine.path("held"))]).exits(1);
    assert!(ran.stderr.contains("a reason"), "{ran}");
    assert!(!site.machine.path("held").exists());
    assert_eq!(fs::read_to_string(site.at("mine")).unwrap(), "mine");

    site.machine.agent(&["unhold", NAME]).ok();
    site.machine.configure("");
    let ran = checkout(&site, &[&first]).exits(1);
    assert!(ran.stderr.contains("--to DIR"), "{ran}");
}
