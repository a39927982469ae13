//! The life of a branch or tag: it comes, moves, is forced back, goes, comes again.

use std::fs;

use super::{NAME, Publisher, branch, tag};
use crate::sandbox::text;

#[test]
fn a_branch_comes_moves_goes_and_comes_again() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic one");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic"]);
    assert_eq!(site.page("topic").as_deref(), Some("topic one"));
    assert_eq!(site.machine.state(NAME), "current");
    assert_eq!(site.machine.lastaction(NAME), site.tip("main"));

    let second = site.push("topic", "topic two");
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), second);
    assert_eq!(site.page("topic").as_deref(), Some("topic two"));

    site.delete(&branch("topic"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main"]);
    assert!(!site.at(".pmpy/topic").exists(), "its releases go with it");
    assert_eq!(site.published().len(), 1);

    site.push("topic", "topic three");
    site.machine.tick().ok();
    assert_eq!(site.page("topic").as_deref(), Some("topic three"));
    assert_eq!(site.page("main").as_deref(), Some("one"));
    // HEAD and the files of the clone are nobody's business.
    assert_eq!(site.machine.differences(NAME), "");
}

#[test]
fn a_branch_that_is_renamed_appears_under_its_new_name_only() {
    let site = Publisher::new("branches", "");
    let topic = site.push("topic", "topic");
    site.machine.tick().ok();
    site.delete(&branch("topic"));
    site.set(&branch("renamed"), &topic);
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "renamed"]);
    assert_eq!(site.shown("renamed"), topic);
}

#[test]
fn a_branch_that_is_forced_back_is_followed() {
    let site = Publisher::new("branches", "");
    let first = site.push("topic", "one");
    site.push("topic", "two");
    site.machine.tick().ok();
    site.set(&branch("topic"), &first);
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), first);
    site.is(&branch("topic"), "current", "");
}

#[test]
fn a_branch_that_may_not_be_rewritten_waits_for_a_person_and_stops_no_other() {
    let site = Publisher::new("branches", "rewritten = \"refuse\"");
    let first = site.push("topic", "one");
    let second = site.push("topic", "two");
    site.machine.tick().ok();
    site.set(&branch("topic"), &first);
    site.push("other", "other");
    site.machine.tick().exits(1);
    assert_eq!(site.shown("topic"), second);
    assert_eq!(site.page("other").as_deref(), Some("other"));
    let command = format!("agent accept {NAME} {first}");
    site.is(&branch("topic"), "rewritten", &command);
    assert_eq!(site.machine.state(NAME), "rewritten");

    site.machine.agent(&["accept", NAME, &first]).ok();
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), first);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_rewritten_branch_heals_when_upstream_contains_the_old_revision_again() {
    let site = Publisher::new("branches", "rewritten = \"refuse\"");
    let first = site.push("topic", "one");
    let second = site.push("topic", "two");
    site.machine.tick().ok();
    site.set(&branch("topic"), &first);
    site.machine.tick().exits(1);
    site.set(&branch("topic"), &second);
    site.machine.tick().ok();
    site.is(&branch("topic"), "current", "");
    assert_eq!(site.shown("topic"), second);
}

#[test]
fn lastaction_holds_the_tip_of_the_followed_branch() {
    let site = Publisher::new("branches", "branch = \"production\"");
    site.push("production", "production");
    site.machine.tick().ok();
    assert_eq!(site.machine.lastaction(NAME), site.tip("production"));
    site.push("main", "two");
    site.machine.tick().ok();
    assert_eq!(site.machine.lastaction(NAME), site.tip("production"));
    assert_eq!(site.shown("main"), site.tip("main").unwrap());
}

#[test]
fn nothing_is_removed_because_of_a_remote_that_lists_nothing_or_fails() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic");
    site.machine.tick().ok();
    let before = site.snapshot(&site.at(""));
    let (server, aside) = (site.machine.server(NAME), site.machine.path("server/aside.git"));
    fs::rename(&server, &aside).unwrap();
    site.machine.tick();
    assert_eq!(site.snapshot(&site.at("")), before);

    // A server that was set up anew and has nothing yet.
    let machine = &site.machine;
    machine.git(&machine.path("server"), &["init", "--quiet", "--bare", text(&server)]);
    site.machine.tick();
    assert_eq!(site.snapshot(&site.at("")), before);
    let row = site.machine.row(NAME);
    assert!(row["reason"].as_str().unwrap_or_default().contains("answers without main"), "{row:#}");

    fs::remove_dir_all(&server).unwrap();
    fs::rename(&aside, &server).unwrap();
    site.delete(&branch("topic"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main"]);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_mirror_that_lags_takes_nothing_away_and_what_is_new_on_it_appears() {
    let site = Publisher::new("branches", "");
    let (server, mirror) = (site.machine.server(NAME), site.machine.path("server/mirror.git"));
    let urls = format!("url = [\"{}\", \"{}\"]", text(&server), text(&mirror));
    site.configure("branches", &urls);
    site.push("gone", "gone");
    site.machine.tick().ok();
    let dir = site.machine.path("server");
    site.machine.git(&dir, &["clone", "--quiet", "--mirror", text(&server), text(&mirror)]);
    site.delete(&branch("gone"));
    site.push("topic", "topic");
    site.push("main", "two");
    site.machine.tick().ok();
    let before = site.snapshot(&site.at(""));

    fs::rename(&server, dir.join("aside")).unwrap();
    for _ in 0..2 {
        site.machine.tick().ok();
        assert_eq!(site.snapshot(&site.at("")), before);
        assert_eq!(site.machine.state(NAME), "current");
    }
    let desk = site.machine.desk(NAME);
    site.machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "Three"]);
    site.machine.git(&desk, &["push", "--quiet", text(&mirror), "HEAD:refs/heads/new"]);
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "new", "topic"]);

    fs::rename(dir.join("aside"), &server).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "new", "topic"]);
    site.machine.agent(&["tick", NAME]).ok();
    assert_eq!(site.directories(), ["main", "topic"]);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_target_that_somebody_removed_is_put_back() {
    let site = Publisher::new("branches", "");
    site.push("topic", "topic");
    site.machine.tick().ok();
    let before = site.snapshot(&site.at(""));
    fs::remove_file(site.at("topic")).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.snapshot(&site.at("")), before);

    fs::remove_dir_all(site.at("")).unwrap();
    site.machine.tick().ok();
    assert_eq!(site.snapshot(&site.at("")), before);
}

#[test]
fn older_releases_are_kept_as_many_as_configured() {
    let site = Publisher::new("branches", "keep = 1");
    let mut revisions = Vec::new();
    for number in 0..4 {
        revisions.push(site.push("topic", &number.to_string()));
        site.machine.tick().ok();
    }
    let kept = |revision: &String| site.at(".pmpy/topic").join(revision).exists();
    let kept: Vec<bool> = revisions.iter().map(kept).collect();
    assert_eq!(kept, [false, false, true, true]);
}

#[test]
fn tags_appear_and_follow_when_they_are_moved_by_force() {
    let site = Publisher::new("tags", "match = [\"v*\"]");
    let desk = site.machine.desk(NAME);
    let first = site.push("main", "first");
    site.set(&tag("v1"), &first);
    site.set(&tag("other"), &first);
    let git = ["tag", "--annotate", "--message", "Two", "v2", &first];
    site.machine.git(&desk, &git);
    site.set(&tag("v2"), "refs/tags/v2");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["v1", "v2"]);
    assert_eq!((site.shown("v1"), site.shown("v2")), (first.clone(), first));

    let second = site.push("main", "second");
    site.set(&tag("v1"), &second);
    site.machine.tick().ok();
    assert_eq!(site.shown("v1"), second);
    assert_eq!(site.machine.lastaction(NAME), Some(second));
    site.delete(&tag("v2"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["v1"]);
}

#[test]
fn a_tag_made_here_by_hand_stays_and_what_was_published_stays_as_well() {
    let site = Publisher::new("tags", "");
    let clone = site.machine.clone_of(NAME);
    let first = site.tip("main").unwrap();
    site.machine.git(&clone, &["tag", "v1", &first]);
    site.set(&tag("v2"), &first);
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["v2"], "what is here alone is not upstream's");

    // Both upstream's now, with another meaning here.
    let second = site.push("main", "second");
    site.set(&tag("v1"), &second);
    site.machine.git(&clone, &["commit", "--quiet", "--allow-empty", "--message", "Mine"]);
    site.machine.git(&clone, &["tag", "--force", "v2", "HEAD"]);
    site.set(&tag("v3"), &second);
    site.machine.tick();
    assert_eq!(site.directories(), ["v2", "v3"]);
    assert_eq!(site.shown("v2"), first);
    for name in ["v1", "v2"] {
        let (state, reason) = site.stands(&tag(name));
        assert!(state != "current" && reason.contains("by hand"), "{name} {state}: {reason}");
    }
    assert_eq!(site.machine.git(&clone, &["rev-parse", "v1"]), first);

    site.machine.git(&clone, &["tag", "--delete", "v1", "v2"]);
    site.machine.tick().ok();
    assert_eq!((site.shown("v1"), site.shown("v2")), (second, first));
    assert_eq!(site.machine.state(NAME), "current");
}
