//! Tests of the order of tags: a table, and properties held against the semver crate.

use proptest::prelude::*;

use super::*;

fn order<'n>(pattern: &str, names: &[&'n str]) -> Vec<&'n str> {
    pattern.parse::<TagPattern>().unwrap().newest_first(names.iter().copied())
}

#[test]
fn the_newest_version_is_the_first_and_what_does_not_count_is_left_out() {
    for (pattern, names, expected) in [
        // Numeric fields by number.
        ("v1.*", "v1.9 v1.10 v2.0 v1.2", "v1.10 v1.9 v1.2"),
        ("*", "1.0 1.0.1 0.99", "1.0.1 1.0 0.99"),
        // The leading letters that all share are left off.
        ("release-*", "release-2 release-10", "release-10 release-2"),
        ("app/v*", "app/v1.2 app/v1.10 lib/v9", "app/v1.10 app/v1.2"),
        ("k8s/v*", "k8s/v1.2 k8s/v1.10", "k8s/v1.10 k8s/v1.2"),
        ("*", "1.5 v2.0 1.4", "v2.0 1.5 1.4"),
        ("*", "build9 v2.0 v1.0", "v2.0 v1.0 build9"),
        // A pre-release is older than its release, and counts only where the pattern names one.
        ("v*", "v1.0-rc1 v0.9", "v0.9"),
        ("v*-*", "v1.0-rc2 v1.0-rc10 v0.9 v0.9-rc1", "v1.0-rc10 v1.0-rc2 v0.9-rc1"),
        ("v2.0-rc1", "v2.0-rc1 v2.0", "v2.0-rc1"),
        ("v[0-9]*", "v1.0-rc1 v0.9", "v0.9"),
        (
            "*-*",
            "1.0-1 1.0-alpha.2 1.0-alpha.10 1.0-alpha",
            "1.0-alpha.10 1.0-alpha.2 1.0-alpha 1.0-1",
        ),
        // No version never wins against one.
        ("*", "latest v1.0 zz9 v1.1", "v1.1 v1.0 zz9 latest"),
        ("stable-*", "stable-b9 stable-b10", "stable-b10 stable-b9"),
        // Whatever the length of a number.
        (
            "*",
            "99999999999999999999999 100000000000000000000000",
            "100000000000000000000000 99999999999999999999999",
        ),
        ("20*", "2026.01.15 2026.1.9", "2026.01.15 2026.1.9"),
        // A wildcard matches no slash.
        ("v*", "v1/2 v1.0", "v1.0"),
        ("v1.0", "v1.0 v1.0.1", "v1.0"),
        ("v3", "v1 v2", ""),
    ] {
        let names: Vec<&str> = names.split(' ').collect();
        assert_eq!(order(pattern, &names).join(" "), expected, "{pattern}: {names:?}");
    }
}

#[test]
fn a_pattern_that_never_matches_is_no_pattern() {
    for text in ["", "refs/tags/v1", "/v1", "v{1,2}", "v[1", "a..b", "v 1", "x\\*"] {
        assert!(text.parse::<TagPattern>().is_err(), "{text}");
    }
    for (text, literal) in [("v1.*", "v1."), ("v1.0", "v1.0"), ("*", ""), ("v[12].?", "v")] {
        assert_eq!(text.parse::<TagPattern>().unwrap().literal(), literal);
    }
}

fn version() -> impl Strategy<Value = String> {
    let core = proptest::collection::vec(0u32..20, 3);
    // A number within a word counts as such here, and not in semver: of one digit both order it the same.
    let word = prop_oneof!["[a-c]{1,2}", "(rc|beta)[1-9]", "[1-9]?[0-9]".prop_map(no_zero)];
    let pre_release = proptest::option::of(proptest::collection::vec(word, 1..3));
    (core, pre_release).prop_map(|(core, pre_release)| {
        let core: Vec<String> = core.iter().map(u32::to_string).collect();
        let pre_release =
            pre_release.map_or(String::new(), |words| format!("-{}", words.join(".")));
        format!("v{}{pre_release}", core.join("."))
    })
}

/// Semver allows no number with a zero before it.
fn no_zero(number: String) -> String {
    number.parse::<u32>().map_or(number, |number| number.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_are_ordered_as_by_semver(one in version(), other in version()) {
        let semver = |name: &str| semver::Version::parse(&name[1..]).unwrap();
        let ours = |name: &'_ str| name[1..].to_owned();
        let (one_text, other_text) = (ours(&one), ours(&other));
        let (a, b) = (Version::parse(&one_text).unwrap(), Version::parse(&other_text).unwrap());
        prop_assert_eq!(a.cmp(&b), semver(&one).cmp(&semver(&other)));
    }

    #[test]
    fn the_order_does_not_depend_on_how_the_tags_are_listed(
        names in proptest::collection::hash_set("[v]?[0-9]{1,2}([.][0-9]{1,2}){0,2}(-[a-c0-9]{1,2})?|[a-z]{1,3}", 0..12),
        seed in any::<u64>(),
    ) {
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        let sorted = order("*", &names);
        let at = seed as usize % names.len().max(1);
        names.rotate_left(at);
        prop_assert_eq!(order("*", &names), sorted);
    }
}
