//! Which trees are refused: a corpus of raw tree objects, most of which git itself would not write.

use std::os::unix::ffi::OsStrExt;

use pmpy::domain::git::ObjectId;
use pmpy::domain::repository::change::{ChangeError, EntryMode, MAX_ENTRIES, TreeChange};

use super::Lab;

/// Why `tree` is refused as an update of nothing.
#[track_caller]
fn refused(lab: &Lab, tree: ObjectId) -> String {
    match TreeChange::between(None, tree, &lab.open()) {
        Err(ChangeError::Refused(refusal)) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[track_caller]
fn accepted(lab: &Lab, tree: ObjectId) -> TreeChange {
    TreeChange::between(None, tree, &lab.open()).unwrap()
}

#[test]
fn only_the_five_modes_of_git_are_taken() {
    let lab = Lab::new();
    let blob = lab.blob(b"x");
    for mode in ["100644", "100755", "120000", "160000"] {
        assert_eq!(accepted(&lab, lab.raw_tree(&[(mode, b"f", blob)])).ops.len(), 1, "{mode}");
    }
    for mode in [
        "104755", "102755", "101644", "106755", "100777", "100600", "100664", "0100644", "10644",
        "140644", "020644", "060644", "010644", "160755", "120777", "0", "", "-100644", "100644x",
    ] {
        let reason = refused(&lab, lab.raw_tree(&[(mode, b"f", blob)]));
        assert!(reason.starts_with("\"f\" has mode"), "{mode}: {reason}");
    }
    let reason = refused(&lab, lab.raw_tree(&[("100664", b"f", blob)]));
    assert!(reason.contains("commit the file once more"), "{reason}");
    let empty = lab.raw_tree(&[]);
    let reason = refused(&lab, lab.raw_tree(&[("040000", b"d", empty)]));
    assert!(reason.contains("040000"), "{reason}");
}

#[test]
fn a_name_that_leads_elsewhere_or_hides_something_is_refused() {
    let lab = Lab::new();
    let blob = lab.blob(b"x");
    let zero_width = ".git\u{200c}".as_bytes();
    let inside = ".g\u{feff}it".as_bytes();
    let next_line = "a\u{85}b".as_bytes();
    let names: &[&[u8]] = &[
        b"",
        b".",
        b"..",
        b"a/b",
        b"/etc",
        b".git\\x",
        b"a\\.GIT",
        b"a\\git~1\\b",
        b"a\nb",
        b"a\rb",
        b"\x1b[2J",
        b"a\x7f",
        next_line,
        b".git",
        b".GIT",
        b".Git",
        b".git ",
        b".git.",
        b".git. .",
        b".git:",
        b".git::$INDEX_ALLOCATION",
        b".git:stream",
        b"git~1",
        b"GIT~1",
        b"git~1.",
        zero_width,
        inside,
        b".pmpy-tmp-00000000",
        b".pmpy-tmp-",
        &[b'n'; 256],
    ];
    for name in names {
        let tree = lab.raw_tree(&[("100644", name, blob)]);
        let reason = refused(&lab, tree);
        assert!(!reason.contains(|c: char| c.is_control()), "{reason:?}");
        let below = lab.raw_tree(&[("40000", b"d", tree)]);
        refused(&lab, below);
    }
    for name in [
        b"...".as_slice(),
        b".gitignore",
        b".gitmodules",
        b".gitattributes",
        b".github",
        b"git",
        b"git~2",
        b"a b",
        b" ",
        b"-rf",
        b"$(id)",
        b"\xff\xfe",
        "\u{fc}".as_bytes(),
        &[b'n'; 255],
        b"a.git",
        b".pmpy.toml",
        b"srv-my\\x2ddata.mount",
        b"..\\..\\x",
        b"\\",
        b"a\\.gitignore",
        b".temp\\x",
    ] {
        let change = accepted(&lab, lab.raw_tree(&[("100644", name, blob)]));
        assert_eq!(change.ops[0].path.as_bytes(), name);
    }
}

#[test]
fn the_directory_of_the_agents_records_is_refused_at_the_top_only() {
    let lab = Lab::new();
    let blob = lab.blob(b"x");
    let inner = lab.raw_tree(&[("100644", b"f", blob)]);
    for name in [b".temp".as_slice(), b".TEMP", b".Temp", b".temp ", ".te\u{200d}mp".as_bytes()] {
        for (mode, id) in [("100644", blob), ("120000", blob), ("40000", inner)] {
            let reason = refused(&lab, lab.raw_tree(&[(mode, name, id)]));
            assert!(reason.contains("may not be committed"), "{reason}");
        }
    }
    let deeper = lab.raw_tree(&[("100644", b".temp", blob)]);
    accepted(&lab, lab.raw_tree(&[("40000", b"d", deeper)]));
}

#[test]
fn the_top_directory_is_held_to_the_rules_also_when_nothing_differs() {
    let lab = Lab::new();
    let tree = lab.raw_tree(&[("100644", b".temp", lab.blob(b"x"))]);
    let same = TreeChange::between(Some(tree), tree, &lab.open());
    assert!(matches!(same, Err(ChangeError::Refused(_))), "{same:?}");
}

#[test]
fn names_that_stand_twice_or_out_of_order_are_refused() {
    let lab = Lab::new();
    let blob = lab.blob(b"x");
    let dir = lab.raw_tree(&[("100644", b"f", blob)]);
    for (entries, part) in [
        (vec![("100644", b"a".as_slice(), blob), ("100644", b"a", blob)], "wrong order or twice"),
        (vec![("100644", b"b", blob), ("100644", b"a", blob)], "wrong order"),
        (vec![("40000", b"a", dir), ("100644", b"a-", blob)], "wrong order"),
        (vec![("100644", b"a", blob), ("40000", b"a", dir)], "both a file and a directory"),
        (
            vec![("100644", b"a", blob), ("100644", b"a-", blob), ("40000", b"a", dir)],
            "both a file and a directory",
        ),
    ] {
        let reason = refused(&lab, lab.raw_tree(&entries));
        assert!(reason.contains(part), "{reason}");
    }
    accepted(&lab, lab.raw_tree(&[("100644", b"a-", blob), ("40000", b"a", dir)]));
}

#[test]
fn a_tree_object_that_is_cut_short_or_garbled_is_refused() {
    let lab = Lab::new();
    for raw in [b"100644".as_slice(), b"100644 f", b"100644 f\0short", b"\0\0\0", b"\n"] {
        let reason = refused(&lab, lab.raw_object("tree", raw));
        assert!(reason.contains("cut short or garbled"), "{raw:?}: {reason}");
    }
}

#[test]
fn an_entry_whose_object_is_of_another_kind_is_refused() {
    let lab = Lab::new();
    let blob = lab.blob(b"x");
    let dir = lab.raw_tree(&[("100644", b"f", blob)]);
    let reason = refused(&lab, lab.raw_tree(&[("40000", b"d", blob)]));
    assert!(reason.contains("no tree"), "{reason}");
    let reason = refused(&lab, lab.raw_tree(&[("100644", b"f", dir)]));
    assert!(reason.contains("something else"), "{reason}");
}

#[test]
fn a_missing_object_is_no_fault_of_the_revision() {
    let lab = Lab::new();
    let nowhere: ObjectId = "11".repeat(20).parse().unwrap();
    for (mode, name) in [("100644", b"f"), ("40000", b"d"), ("120000", b"l")] {
        let tree = lab.raw_tree(&[(mode, name, nowhere)]);
        let error = TreeChange::between(None, tree, &lab.open()).unwrap_err();
        assert!(matches!(error, ChangeError::Unreadable(_)), "{error:?}");
        assert!(error.to_string().contains(&nowhere.to_string()), "{error}");
    }
}

#[test]
fn a_link_that_the_kernel_could_not_make_is_refused() {
    let lab = Lab::new();
    for target in [b"".to_vec(), vec![b'a'; 4096], b"a\0b".to_vec()] {
        let blob = lab.blob(&target);
        let reason = refused(&lab, lab.raw_tree(&[("120000", b"l", blob)]));
        assert!(reason.contains("symbolic link"), "{reason}");
    }
    let longest = lab.blob(&[b'a'; 4095]);
    accepted(&lab, lab.raw_tree(&[("120000", b"l", longest)]));
}

#[test]
fn five_thousand_directories_in_one_another_are_refused_at_once() {
    let lab = Lab::new();
    // The 65 uppermost are enough to be refused; what is below them is never read.
    let mut tree = "22".repeat(20).parse().unwrap();
    for _ in 0..65 {
        tree = lab.raw_tree(&[("40000", b"d", tree)]);
    }
    let reason = refused(&lab, tree);
    assert!(reason.contains("64 directories deep"), "{reason}");

    let mut tree = lab.raw_tree(&[("100644", b"f", lab.blob(b"x"))]);
    for _ in 0..64 {
        tree = lab.raw_tree(&[("40000", b"d", tree)]);
    }
    let change = accepted(&lab, tree);
    assert_eq!(change.ops[0].path.dirs().count(), 64);
}

#[test]
fn ten_thousand_million_paths_are_refused_before_they_are_counted() {
    let lab = Lab::new();
    let names: Vec<[u8; 1]> = (b'a'..=b'j').map(|name| [name]).collect();
    let blob = lab.blob(b"x");
    let level = |mode, id| {
        let entries: Vec<_> = names.iter().map(|name| (mode, name.as_slice(), id)).collect();
        lab.raw_tree(&entries)
    };
    let mut tree = level("100644", blob);
    for _ in 0..9 {
        tree = level("40000", tree);
    }
    let reason = refused(&lab, tree);
    assert!(reason.contains(&MAX_ENTRIES.to_string()), "{reason}");
}

#[test]
fn what_is_in_a_directory_that_does_not_change_does_not_matter() {
    let lab = Lab::new();
    let (one, two) = (lab.blob(b"one"), lab.blob(b"two"));
    let bad = lab.raw_tree(&[("104755", b"setuid", one), ("100644", b"x\ny", one)]);
    let from = lab.raw_tree(&[("100644", b"f", one), ("40000", b"old", bad)]);
    let to = lab.raw_tree(&[("100644", b"f", two), ("40000", b"old", bad)]);
    let change = TreeChange::between(Some(from), to, &lab.open()).unwrap();
    assert_eq!(change.ops.len(), 1);
    refused(&lab, to);
}

#[test]
fn leaving_a_bad_tree_behind_removes_only_what_the_rules_allow() {
    let lab = Lab::new();
    let blob = lab.blob(b"x");
    let records = lab.raw_tree(&[("100644", b"lastaction.txt", blob)]);
    let from = lab.raw_tree(&[
        ("40000", b".git", records),
        ("40000", b".temp", records),
        ("100644", b"a\nb", blob),
        ("100664", b"old", blob),
        ("104755", b"setuid", blob),
    ]);
    let to = lab.raw_tree(&[("100644", b"f", blob)]);
    let change = TreeChange::between(Some(from), to, &lab.open()).unwrap();
    let ops: Vec<_> = change
        .ops
        .iter()
        .map(|op| (super::os(op.path.as_bytes()), op.old.map(|old| old.mode), op.new.is_some()))
        .collect();
    assert_eq!(
        ops.iter().map(|(path, old, new)| (path.as_bytes(), *old, *new)).collect::<Vec<_>>(),
        [
            (b"f".as_slice(), None, true),
            (b"old", Some(EntryMode::File), false),
            (b"setuid", Some(EntryMode::Executable), false),
        ]
    );
}
