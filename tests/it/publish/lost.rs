//! Records that were lost, and lists that prove nothing: nothing is taken away that upstream may have
//! still, and nothing moves back that may not.

use std::fs;

use super::{NAME, Publisher, branch};
use crate::sandbox::text;

/// The list of what upstream had, as it may be after an accident.
#[derive(Clone, Copy, Debug)]
enum List {
    Missing,
    Empty,
    CutOff,
}

const LISTS: [List; 3] = [List::Missing, List::Empty, List::CutOff];

impl List {
    fn happen(self, site: &Publisher) {
        let file = site.machine.private(NAME, "refs");
        let known = fs::read_to_string(&file).unwrap();
        match self {
            Self::Missing => fs::remove_file(file).unwrap(),
            Self::Empty => fs::write(file, "").unwrap(),
            Self::CutOff => {
                let first = known.lines().next().unwrap();
                assert!(first.ends_with("refs/heads/main") && known.lines().count() > 1, "{known}");
                fs::write(file, format!("{first}\n")).unwrap();
            }
        }
    }
}

/// `main` and `topic` are published, each with a release that is kept.
fn published(keys: &str) -> Publisher {
    let site = Publisher::new("branches", keys);
    site.push("topic", "topic");
    site.machine.tick().ok();
    site.push("topic", "topic two");
    site.push("main", "two");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic"]);
    site
}

#[test]
fn without_its_list_and_its_server_nothing_is_removed_and_what_went_meanwhile_goes_later() {
    for list in LISTS {
        let site = published("");
        let before = site.snapshot(&site.at(""));
        let (server, aside) = (site.machine.server(NAME), site.machine.path("aside.git"));
        fs::rename(&server, &aside).unwrap();
        list.happen(&site);
        for _ in 0..2 {
            site.machine.tick();
            assert_eq!(site.snapshot(&site.at("")), before, "{list:?}");
        }
        site.is(&branch("topic"), "behind", "it stays until");

        fs::rename(&aside, &server).unwrap();
        site.delete(&branch("topic"));
        site.machine.tick().ok();
        assert_eq!(site.directories(), ["main"], "{list:?}");
        assert!(!site.at(".pmpy/topic").exists(), "{list:?}");
        assert_eq!(site.machine.state(NAME), "current");
    }
}

#[test]
fn without_its_list_nothing_is_removed_for_a_server_that_was_set_up_anew() {
    for list in LISTS {
        let site = published("");
        let before = site.snapshot(&site.at(""));
        let (server, machine) = (site.machine.server(NAME), &site.machine);
        fs::remove_dir_all(&server).unwrap();
        machine.git(&machine.path("server"), &["init", "--quiet", "--bare", text(&server)]);
        list.happen(&site);
        for _ in 0..2 {
            site.machine.tick();
            assert_eq!(site.snapshot(&site.at("")), before, "{list:?}");
        }
    }
}

#[test]
fn without_its_list_a_mirror_that_lags_takes_nothing_away() {
    for list in LISTS {
        let site = published("");
        let (server, mirror) = (site.machine.server(NAME), site.machine.path("server/mirror.git"));
        let urls = format!("url = [\"{}\", \"{}\"]", text(&server), text(&mirror));
        site.configure("branches", &urls);
        let dir = site.machine.path("server");
        site.machine.git(&dir, &["clone", "--quiet", "--mirror", text(&server), text(&mirror)]);
        site.machine.git(&mirror, &["update-ref", "-d", "refs/heads/topic"]);
        fs::rename(&server, dir.join("aside")).unwrap();
        let before = site.snapshot(&site.at(""));
        list.happen(&site);
        for _ in 0..2 {
            site.machine.tick();
            assert_eq!(site.snapshot(&site.at("")), before, "{list:?}");
        }
        fs::rename(dir.join("aside"), &server).unwrap();
        site.machine.tick().ok();
        assert_eq!(site.snapshot(&site.at("")), before, "{list:?}");
        site.is(&branch("topic"), "current", "");
        site.delete(&branch("topic"));
        site.machine.tick().ok();
        assert_eq!(site.directories(), ["main"], "{list:?}");
    }
}

#[test]
fn without_its_list_what_is_there_is_found_again() {
    for list in LISTS {
        let site = published("");
        list.happen(&site);
        let topic = site.push("topic", "three");
        site.machine.tick().ok();
        assert_eq!(
            (site.directories(), site.shown("topic")),
            (vec!["main".into(), "topic".into()], topic)
        );
        let row = site.machine.row(NAME);
        assert_eq!(row["state"], "current", "{list:?} {row:#}");
    }
}

#[test]
fn without_its_list_a_branch_that_went_stops_nothing() {
    let site = published("");
    List::Missing.happen(&site);
    site.delete(&branch("topic"));
    site.push("topic/b", "deep");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic%2Fb"]);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn the_last_tag_may_go() {
    let site = Publisher::new("tags", "");
    site.set("refs/tags/v1", &site.tip("main").unwrap());
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["v1"]);
    site.delete("refs/tags/v1");
    site.machine.tick().ok();
    assert_eq!(site.directories(), [""; 0]);
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn without_the_record_of_what_is_published_it_is_found_by_its_links() {
    let site = published("");
    site.push("a/b", "deep");
    site.machine.tick().ok();
    let before = site.snapshot(&site.at(""));
    let record = site.machine.private(NAME, "published");
    fs::remove_file(&record).unwrap();
    let (server, aside) = (site.machine.server(NAME), site.machine.path("aside.git"));
    fs::rename(&server, &aside).unwrap();
    site.machine.tick();
    assert_eq!(site.snapshot(&site.at("")), before);
    assert_eq!(site.entry(&branch("topic"))["revision"], site.shown("topic").as_str());
    fs::rename(&aside, &server).unwrap();

    // What goes while it is lost leaves nothing behind.
    let _ = fs::remove_file(&record);
    site.delete(&branch("topic"));
    site.delete(&branch("a/b"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main"]);
    assert!(!site.at(".pmpy/topic").exists() && !site.at(".pmpy/a%2Fb").exists());
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn without_the_record_what_is_under_another_name_is_not_orphaned_either() {
    let keys = "names = \"puppet\"\nrename = { main = \"production\" }";
    let site = Publisher::new("branches", keys);
    site.push("a-b", "with a dash");
    site.machine.tick().ok();
    fs::remove_file(site.machine.private(NAME, "published")).unwrap();
    site.delete(&branch("a-b"));
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["production"]);
    site.is(&branch("main"), "current", "");
    assert_eq!(site.machine.state(NAME), "current");
}

#[test]
fn a_branch_that_may_not_be_rewritten_waits_also_without_the_record_of_what_is_published() {
    let site = Publisher::new("branches", "rewritten = \"refuse\"");
    let first = site.push("topic", "one");
    let second = site.push("topic", "two");
    site.machine.tick().ok();
    site.set(&branch("topic"), &first);
    fs::remove_file(site.machine.private(NAME, "published")).unwrap();
    site.machine.tick().exits(1);
    assert_eq!(site.shown("topic"), second);
    site.is(&branch("topic"), "rewritten", &format!("agent accept {NAME} {first}"));
}

#[test]
fn a_branch_that_may_not_be_rewritten_does_not_come_again_as_an_older_one() {
    let site = Publisher::new("branches", "rewritten = \"refuse\"");
    let first = site.push("topic", "one");
    let second = site.push("topic", "two");
    site.machine.tick().ok();
    site.delete(&branch("topic"));
    // A directory of refs may take its name meanwhile.
    site.push("topic/b", "below");
    site.machine.tick().ok();
    assert_eq!(site.directories(), ["main", "topic%2Fb"]);
    site.delete(&branch("topic/b"));
    site.set(&branch("topic"), &first);
    site.machine.tick().exits(1);
    assert_eq!(site.directories(), ["main"]);
    site.is(&branch("topic"), "rewritten", &format!("no longer contains {}", &second[..7]));

    site.machine.agent(&["accept", NAME, &first]).ok();
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), first);
    let third = site.push("topic", "three");
    site.machine.tick().ok();
    assert_eq!(site.shown("topic"), third);
    assert_eq!(site.machine.state(NAME), "current");
}
