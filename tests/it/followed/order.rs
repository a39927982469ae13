//! The order of tags, held against git's own.

use pmpy::domain::versions::TagPattern;
use proptest::prelude::*;

use crate::sandbox::Sandbox;

/// Names as they are released: numbers without a zero before them, and two kinds of pre-releases.
fn released() -> impl Strategy<Value = Vec<String>> {
    let name =
        (proptest::collection::vec(0u32..30, 3), proptest::option::of((0usize..2, 1u32..20)));
    let name = name.prop_map(|(fields, pre_release)| {
        let fields: Vec<String> = fields.iter().map(u32::to_string).collect();
        let words = ["beta", "rc"];
        let pre_release = pre_release.map(|(word, number)| format!("-{}{number}", words[word]));
        format!("v{}{}", fields.join("."), pre_release.unwrap_or_default())
    });
    proptest::collection::hash_set(name, 2..40).prop_map(|names| names.into_iter().collect())
}

#[test]
fn the_newest_tag_is_the_one_that_git_sorts_last() {
    let machine = Sandbox::new();
    let revision = machine.serve("ops", &[("page", "x\n")]);
    let config =
        ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    let server = machine.server("ops");
    proptest!(config, |(names in released())| {
        let known = machine.git(&server, &["tag", "--list"]);
        for name in known.lines() {
            std::fs::remove_file(server.join("refs/tags").join(name)).unwrap();
        }
        for name in &names {
            machine.git(&server, &["update-ref", &format!("refs/tags/{name}"), &revision]);
        }
        // Pre-releases by themselves, and releases by themselves: one pattern never has both.
        for (pattern, is_wanted) in [("v*-*", true), ("v*", false)] {
            let sorted = ["-c", "versionsort.suffix=-", "tag", "--sort=-v:refname", "--list"];
            let sorted = machine.git(&server, &sorted);
            let expected: Vec<&str> =
                sorted.lines().filter(|name| name.contains('-') == is_wanted).collect();
            let pattern: TagPattern = pattern.parse().unwrap();
            let ours = pattern.newest_first(names.iter().map(String::as_str));
            prop_assert_eq!(ours, expected);
        }
    });
}
