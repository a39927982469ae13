//! `on_change` below `[presence]`: it has to know what to believe.

use super::complaint;

#[test]
fn a_program_for_changes_of_others_needs_to_know_which_of_them_count() {
    for (text, place, what, hint) in [
        (
            "[presence]\nurl = \"/a\"\non_change = [\"/b\"]",
            "3:13",
            "which of them count",
            "own_refs = true",
        ),
        (
            "[presence]\nurl = \"/a\"\non_change = [\"b\"]\nown_refs = true",
            "3:13",
            "\"b\"",
            "the whole path",
        ),
        ("[presence]\nurl = \"/a\"\nrequire = [\"b\"]", "3:11", "is for on_change", "remove"),
        (
            "[presence]\nurl = \"/a\"\non_change = [\"/b\"]\nrequire = [\"App01\"]",
            "4:11",
            "\"App01\" cannot be a host",
            "the name by which",
        ),
        (
            "[presence]\nurl = \"/a\"\non_change = [\"/b\"]\nrequire = [\"b\"]\nown_refs = true",
            "5:12",
            "all do",
            "remove one",
        ),
    ] {
        let error = complaint(text);
        let (message, hints) = error.split_once("\nhint: ").unwrap_or((&error, ""));
        assert!(message.starts_with(&format!("agent.toml:{place}: ")), "{text}\n{error}");
        assert!(message.contains(what) && hints.contains(hint), "{text}\n{error}");
    }
}
