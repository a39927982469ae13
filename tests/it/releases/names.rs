//! Whatever refs are called, what is written for them is in the target and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use pmpy::domain::publish::rules::{NamingRule, directory};

use super::{STORE, Sites, branch, names};
use crate::published_names::Dice;
use crate::worktree::{expected, file, snapshot, tree};

const NAMES: usize = 2_000;

#[test]
fn thousands_of_names_are_written_in_the_target_and_nowhere_else() {
    let page = tree([("page", file("one"))]);
    let sites = Sites::of::<1>([&page]);
    let around = || {
        let mut around = snapshot(&sites.lab.path(""));
        around.retain(|path, _| !path.starts_with("sites/"));
        around
    };
    let before = around();
    let mut dice = Dice(7);
    let made = |_| directory(&dice.name(), NamingRule::Exact, &BTreeMap::new()).ok();
    let directories: BTreeSet<String> = (0..NAMES).filter_map(made).collect();
    assert!(directories.len() > NAMES * 3 / 4, "only {}", directories.len());

    let store = sites.make().unwrap();
    let revision = sites.revisions[0];
    let change = sites.lab.change(None, &revision);
    for directory in &directories {
        let place = branch(directory);
        store.stage(&place, revision, &change, &sites.git).unwrap().publish().unwrap();
        store.show(&place, revision).unwrap();
    }
    let mut all: Vec<&str> = directories.iter().map(String::as_str).collect();
    all.push(STORE);
    all.sort_unstable();
    assert_eq!(names(&sites.dir()), all);
    for directory in &directories {
        assert_eq!(snapshot(&sites.at(directory).join("")), expected(&page), "{directory}");
    }
    assert_eq!(around(), before);

    directories.iter().for_each(|directory| sites.remove(&store, &branch(directory)).unwrap());
    sites.sweep(&store).unwrap();
    assert_eq!(names(&sites.dir()), [STORE]);
    assert_eq!(names(&sites.at(STORE)), [".repository"]);
    assert_eq!(around(), before);
}
