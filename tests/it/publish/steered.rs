//! What a person does to a repository that publishes, and what its own `.pmpy.toml` does.

use std::fs;

use super::{NAME, Publisher, branch};
use crate::sandbox::text;

const AFTER: &str = "after = [\"sh\", \"-c\", \"echo ran $AGENT_REF >> $AGENT_ROOT/../runs\"]";

#[test]
fn a_hold_stops_all_branches_until_it_is_lifted() {
    let site = Publisher::new("branches", "");
    site.machine.tick().ok();
    site.machine.agent(&["hold", NAME, "a migration"]).ok();
    let two = site.push("main", "two");
    site.push("topic", "topic");
    site.machine.tick().ok();
    assert_eq!(site.machine.state(NAME), "held");
    assert_eq!(site.directories(), ["main"]);
    assert_eq!(site.page("main").as_deref(), Some("one"));
    site.machine.agent(&["unhold", NAME]).ok();
    site.machine.tick().ok();
    assert_eq!(site.shown("main"), two);
    assert_eq!(site.directories(), ["main", "topic"]);
}

#[test]
fn a_hold_while_after_runs_cuts_nothing_off() {
    for mode in ["checkout", "branches", "atomic"] {
        let site = Publisher::new(mode, "");
        let hold = site.machine.agent_line(&["hold", NAME, "enough"]);
        site.configure(mode, &format!("after = {hold:?}"));
        site.machine.tick().ok();
        assert_eq!(site.machine.lastaction(NAME), Some(site.machine.head(NAME)), "{mode}");
        assert_eq!(site.machine.state(NAME), "held", "{mode}");
    }
}

#[test]
fn redo_reports_every_branch_again() {
    let site = Publisher::new("branches", AFTER);
    site.push("topic", "topic");
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), 2);
    site.machine.agent(&["redo", NAME]).ok();
    assert_eq!(site.machine.runs().len(), 4);
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), 4);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn redo_mends_a_tree_that_somebody_changed() {
    for (mode, directory, store) in
        [("branches", "topic", "site/.pmpy/topic"), ("checkout", "", ".site.pmpy")]
    {
        let site = Publisher::new(mode, AFTER);
        if mode == "branches" {
            site.push("topic", "one");
        }
        site.machine.tick().ok();
        let revision = site.shown(directory);
        fs::write(site.at(directory).join("page"), "changed\n").unwrap();
        fs::write(site.at(directory).join("more"), "").unwrap();
        site.machine.tick().ok();
        assert_eq!(site.page(directory).as_deref(), Some("changed"), "it is not looked for");
        let runs = site.machine.runs().len();
        site.machine.agent(&["redo", NAME]).ok();
        assert_eq!(site.page(directory).as_deref(), Some("one"), "{mode}");
        assert_eq!(site.shown(directory), revision);
        assert!(!site.at(directory).join("more").exists());
        assert!(site.machine.runs().len() > runs);
        site.machine.tick().ok();
        let releases = fs::read_dir(site.machine.path("targets").join(store)).unwrap();
        let names = releases.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> =
            names.filter(|name| ![".repository", ".left"].contains(&&**name)).collect();
        assert_eq!(names, [&*revision], "no other release is left");
        assert_eq!(site.left(), [format!("{revision}/more")]);
    }
}

#[test]
fn a_site_is_rolled_back_and_stays_there_until_it_is_let_go() {
    let site = Publisher::new("checkout", AFTER);
    let first = site.tip("main").unwrap();
    site.machine.tick().ok();
    let second = site.push("main", "two");
    site.machine.tick().ok();
    assert_eq!(site.shown(""), second);

    site.machine.agent(&["rollback", NAME]).ok();
    assert_eq!(site.shown(""), first);
    assert_eq!(site.machine.state(NAME), "pinned");
    assert_eq!(site.machine.lastaction(NAME), Some(first.clone()));
    assert_eq!(site.machine.runs().len(), 3);
    let third = site.push("main", "three");
    site.machine.tick().ok();
    assert_eq!(site.shown(""), first, "pinned");
    site.machine.agent(&["unhold", NAME]).ok();
    site.machine.tick().ok();
    assert_eq!(site.shown(""), third);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_site_whose_branch_was_rewritten_waits_for_a_person() {
    let site = Publisher::new("checkout", "");
    let first = site.tip("main").unwrap();
    let second = site.push("main", "two");
    site.machine.tick().ok();
    site.set(&branch("main"), &first);
    site.machine.tick().exits(1);
    assert_eq!(site.shown(""), second);
    assert_eq!(site.machine.state(NAME), "rewritten");
    site.machine.agent(&["accept", NAME, &first]).ok();
    site.machine.tick().ok();
    assert_eq!(site.shown(""), first);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_rollback_of_many_branches_is_refused_with_what_to_do_instead() {
    let site = Publisher::new("branches", "");
    site.machine.tick().ok();
    let two = site.push("main", "two");
    site.machine.tick().ok();
    let ran = site.machine.agent(&["rollback", NAME]).exits(1);
    assert!(ran.stderr.contains("hint: "), "{ran}");
    assert_eq!(site.shown("main"), two);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_site_does_not_show_what_is_of_no_relevance() {
    let site = Publisher::new("checkout", &format!("paths = [\"web/**\"]\n{AFTER}"));
    site.machine.tick().ok();
    let first = site.machine.lastaction(NAME);
    assert_eq!(site.machine.runs().len(), 1);
    let second = site.push("main", "two");
    site.machine.tick().ok();
    for _ in 0..2 {
        assert_eq!(Some(site.shown("")), first, "the gate was not asked about {second}");
        assert_eq!((site.machine.runs().len(), site.machine.lastaction(NAME)), (1, first.clone()));
        let row = site.machine.row(NAME);
        assert_eq!(row["state"], "current", "{row:#}");
        assert!(row["reason"].as_str().unwrap().contains("nothing relevant"), "{row:#}");
        // A person's tick and an idle one find the same.
        site.machine.agent(&["tick", NAME]).ok();
    }
    let third = site.push_files("main", &[("web/page", "three\n")]);
    site.machine.tick().ok();
    assert_eq!(site.machine.runs().len(), 2);
    assert_eq!(site.machine.lastaction(NAME), Some(third));
}

#[test]
fn a_site_whose_revision_is_refused_shows_the_last_good_one() {
    let site = Publisher::new("checkout", "");
    site.machine.tick().ok();
    let good = site.shown("");
    for (text, code, state) in [("nonsense", 1, "refused"), ("hold = \"not yet\"", 0, "held")] {
        site.push_files("main", &[("page", "two\n"), (".pmpy.toml", text)]);
        for _ in 0..2 {
            site.machine.tick().exits(code);
            assert_eq!(site.machine.state(NAME), state);
            assert_eq!(site.shown(""), good);
        }
    }
    let three = site.push_files("main", &[(".pmpy.toml", "")]);
    site.machine.tick().ok();
    assert_eq!(site.shown(""), three);
}

#[test]
fn a_site_may_be_done_at_every_tick() {
    let site = Publisher::new("checkout", &format!("when = \"always\"\n{AFTER}"));
    for _ in 0..3 {
        site.machine.tick().ok();
    }
    assert_eq!(site.machine.runs().len(), 3);
}

#[test]
fn a_brake_or_a_bad_tree_in_one_branch_stops_no_other() {
    let site = Publisher::new("branches", "");
    site.push("held", "held");
    site.push("bad", "bad");
    site.machine.tick().ok();
    let before = [site.shown("held"), site.shown("bad")];
    site.push_files("held", &[("page", "two\n"), (".pmpy.toml", "hold = \"not yet\"\n")]);
    site.push_files("bad", &[("page", "two\n"), (".temp/nodeinfo/currentaction.txt", "x\n")]);
    let main = site.push("main", "two");
    site.machine.tick().exits(1);
    assert_eq!([site.shown("held"), site.shown("bad")], before);
    assert_eq!(site.shown("main"), main);
    site.is(&branch("held"), "held", "not yet");
    site.is(&branch("bad"), "refused", ".temp");
    site.is(&branch("main"), "current", "");

    let held = site.push_files("held", &[(".pmpy.toml", "")]);
    site.set(&branch("bad"), &main);
    site.machine.tick().ok();
    assert_eq!((site.shown("held"), site.shown("bad")), (held, main));
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn every_branch_is_reported_wherever_people_look() {
    let site = Publisher::new("branches", "");
    site.push("a\"b", "quoted");
    fs::create_dir_all(site.at("topic/mine")).unwrap();
    let topic = site.push("topic", "topic");
    site.machine.tick().exits(1);
    let main = site.tip("main").unwrap();

    let entry = site.entry(&branch("main"));
    assert_eq!(entry["revision"], main.as_str());
    assert_eq!(entry["path"], text(&site.at("main")));
    let status = site.machine.agent(&["status", "-v"]).exits(1).stdout;
    let line = format!("refs/heads/main current {} at {}", &main[..7], text(&site.at("main")));
    assert!(status.contains(&line), "{status}");
    assert!(status.contains("refs/heads/topic broken - at "), "{status}");
    let brief = site.machine.agent(&["status"]).exits(1).stdout;
    assert!(!brief.contains("refs/heads/main") && brief.contains("refs/heads/topic"), "{brief}");

    let explained = site.machine.agent(&["explain", NAME]).stdout;
    for word in ["refs/heads/topic", "a directory that is not empty", "move it away"] {
        assert!(explained.contains(word), "{word}\n{explained}");
    }
    let history = site.machine.agent(&["history", NAME]).ok().stdout;
    assert!(history.contains(&main[..7]) && history.contains(&topic[..7]), "{history}");
    let json = site.machine.agent(&["history", NAME, "--json"]).ok().stdout;
    let runs: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let of = |name: &str| runs.iter().filter(|run| run["ref"] == branch(name)).count();
    assert_eq!((of("main"), of("topic"), of("a\"b")), (1, 1, 1), "{json}");
}
