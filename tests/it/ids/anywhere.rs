//! Ids of both lengths in every file that git or the agent keeps in a clone, several at a time, and in the
//! arguments of every command that takes one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::{FORMATS, by_itself, copied, other, serve_in};
use crate::sandbox::{Sandbox, text};

const MODES: [&str; 4] = ["work", "fetch", "checkout", "branches"];

/// Files of a clone, from its top, and what stands there: `ID` is the id, `ZERO` none of its length, `REST`
/// all but its first two digits. Without a text, each id that stands there already is replaced.
const PLACES: [(&str, Option<&str>); 31] = [
    (".git/HEAD", Some("ID\n")),
    (".git/refs/heads/main", Some("ID\n")),
    (".git/refs/heads/other", Some("ID\n")),
    (".git/refs/remotes/origin/main", Some("ID\n")),
    (".git/refs/tags/odd", Some("ID\n")),
    (".git/refs/pmpy/acted", Some("ID\n")),
    (".git/refs/pmpy/seen/main", Some("ID\n")),
    (
        ".git/packed-refs",
        Some(
            "# pack-refs with: peeled fully-peeled sorted \nID refs/heads/b\nID refs/tags/a\n^ID\n",
        ),
    ),
    (".git/logs/HEAD", Some("ZERO ID A <a@b> 1 +0000\tx\n")),
    (".git/logs/refs/heads/main", Some("ZERO ID A <a@b> 1 +0000\tx\n")),
    (".git/logs/refs/pmpy/acted", Some("ID ID A <a@b> 1 +0000\tx\n")),
    (".git/logs/refs/pmpy/lost", Some("ID ID A <a@b> 1 +0000\tx\n")),
    (".git/ORIG_HEAD", Some("ID\n")),
    (".git/FETCH_HEAD", Some("ID\t\tbranch 'main' of /x\n")),
    (".git/shallow", Some("ID\n")),
    (".git/pmpy/shallow", Some("ID\n")),
    (".git/info/grafts", Some("ID ID\n")),
    (".git/objects/ab/REST", Some("no object")),
    (".git/objects/pack/pack-ID.pack", Some("no pack")),
    (".git/objects/pack/pack-ID.idx", Some("no index")),
    (".git/pmpy/state", None),
    (".git/pmpy/poll", None),
    (".git/pmpy/refs", None),
    (".git/pmpy/published", None),
    (".git/pmpy/history", None),
    (".git/pmpy/heard", Some("ID - refs/heads/main\n")),
    (".git/pmpy/pin", Some(r#"{"revision":"ID","by":"pat","since":"2026-11-22T09:00:00Z"}"#)),
    (
        ".git/pmpy/repair",
        Some(r#"{"at":"2026-11-22T09:00:00Z","symptom":"x","led_to":"sound","lack":["ID","ID"]}"#),
    ),
    (
        ".git/pmpy/journal",
        Some(
            r#"{"format":2,"id":"x","phase":"PHASE","trigger":"cron","since":"2026-11-22T09:00:00Z",
            "boot_id":"","worker":{"pid":1,"start":1},"current":null,"step":{"branch":"main",
            "head":"ID","target":"ID","previous":"ID","attempt":1,"resumed":false,"log":null},
            "ending":{"outcome":{"kind":"timed-out"},"seconds":1.0,"at":"2026-11-22T09:00:00Z"}}"#,
        ),
    ),
    (".temp/nodeinfo/lastaction.txt", Some("ID\n")),
    (".temp/nodeinfo/currentaction.txt", Some("ID\n")),
];

/// What a person may ask; `ID` is the id.
const COMMANDS: [&[&str]; 14] = [
    &["status", "-v"],
    &["check", "--offline"],
    &["check"],
    &["explain", "ops"],
    &["explain", "ops", "ID"],
    &["history", "ops"],
    &["log", "ops"],
    &["redo", "ops"],
    &["rollback", "ops"],
    &["rollback", "ops", "ID"],
    &["accept", "ops", "ID"],
    &["checkout", "ops", "ID", "--to", "TO"],
    &["hold", "ops", "ID"],
    &["tick", "ops"],
];

/// Which id is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// One of the other length that no object has.
    Longer,
    /// The tip of a repository in the other format.
    Elsewhere,
    /// One of the right length that no object has.
    Unknown,
}

#[derive(Clone, Debug)]
struct Case {
    format: &'static str,
    mode: &'static str,
    places: Vec<(&'static str, Option<&'static str>)>,
    planted: Planted,
    phase: &'static str,
    command: &'static [&'static str],
    /// Objects of the other format are lent to the clone.
    borrows: bool,
    /// The index is one of the other format.
    indexed: bool,
    /// The server has the other format by now.
    moved: bool,
}

fn any_case() -> impl Strategy<Value = Case> {
    let planted = prop_oneof![
        2 => Just(Planted::Longer),
        2 => Just(Planted::Elsewhere),
        1 => Just(Planted::Unknown)
    ];
    (
        (select(&FORMATS[..]), select(&MODES[..])),
        proptest::sample::subsequence(&PLACES[..], 1..5),
        planted,
        select(&["fetch", "apply", "run", "done"][..]),
        select(&COMMANDS[..]),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.2)),
    )
        .prop_map(|((format, mode), places, planted, phase, command, odds)| {
            let (borrows, indexed, moved) = odds;
            Case { format, mode, places, planted, phase, command, borrows, indexed, moved }
        })
}

/// A machine whose `ops` has acted, with copies of all that a case changes.
struct WrongIdSetup {
    machine: Sandbox,
    /// The tip of what is on the server in the other format.
    elsewhere: String,
}

impl WrongIdSetup {
    fn new(format: &str, mode: &str) -> Self {
        let machine = Sandbox::new();
        let elsewhere = serve_in(&machine, other(format), "ops", "two");
        copied(&machine, &machine.server("ops"), &machine.path("other.git"));
        copied(&machine, &machine.desk("ops"), &machine.path("other"));
        serve_in(&machine, format, "ops", "one");
        copied(&machine, &machine.server("ops"), &machine.path("ops.git"));
        serve_in(&machine, FORMATS[0], "zgood", "one");
        machine.clone_to_root("zgood");
        let shown = machine.path("shown/ops");
        fs::create_dir_all(if mode == "branches" { &shown } else { shown.parent().unwrap() })
            .unwrap();
        let target = match mode {
            "checkout" | "branches" => format!("target = {shown:?}\n"),
            _ => String::new(),
        };
        let url = machine.server("ops");
        machine.configure(&format!("[repo.ops]\nurl = {url:?}\nmode = \"{mode}\"\n{target}"));
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        copied(&machine, &machine.clone_of("ops"), &machine.path("ops"));
        copied(&machine, &machine.path("shown"), &machine.path("shown.kept"));
        Self { machine, elsewhere }
    }

    /// Puts back what the last case changed, and changes it as `case` says; returns the id.
    fn prepare(&self, case: &Case) -> String {
        let (machine, clone) = (&self.machine, self.machine.clone_of("ops"));
        copied(machine, &machine.path("ops"), &clone);
        copied(machine, &machine.path("shown.kept"), &machine.path("shown"));
        let served = if case.moved { "other.git" } else { "ops.git" };
        copied(machine, &machine.path(served), &machine.server("ops"));
        let (ours, theirs) = if case.format == FORMATS[0] { (20, 32) } else { (32, 20) };
        let id = match case.planted {
            Planted::Longer => "ab".repeat(theirs),
            Planted::Elsewhere => self.elsewhere.clone(),
            Planted::Unknown => "cd".repeat(ours),
        };
        for (place, content) in &case.places {
            let file = clone.join(place.replace("ID", &id).replace("REST", &id[2..]));
            let content = match content {
                Some(content) => content
                    .replace("ID", &id)
                    .replace("ZERO", &"0".repeat(id.len()))
                    .replace("PHASE", case.phase),
                None => match fs::read_to_string(&file) {
                    Ok(before) => with_ids_replaced(&before, 2 * ours, &id),
                    Err(_) => continue,
                },
            };
            put(&file, &content);
        }
        if case.borrows {
            let lender = machine.path("other.git/objects");
            put(&clone.join(".git/objects/info/alternates"), &format!("{}\n", text(&lender)));
        }
        if case.indexed {
            fs::copy(machine.path("other/.git/index"), clone.join(".git/index")).unwrap();
        }
        id
    }

    fn holds(&self, case: &Case) -> Result<(), TestCaseError> {
        let machine = &self.machine;
        let id = self.prepare(case);
        let neighbour = machine.push("zgood", &[("page", "more")]);
        by_itself(machine.tick());
        prop_assert_eq!(machine.lastaction("zgood"), Some(neighbour));
        if !case.moved {
            self.is_true(case)?;
        }
        let to = machine.path("shown/by-hand");
        let words: Vec<String> = case
            .command
            .iter()
            .map(|word| word.replace("ID", &id).replace("TO", text(&to)))
            .collect();
        by_itself(machine.agent(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        // A tick that repairs asks no remote; the next one does.
        by_itself(machine.tick());
        by_itself(machine.tick());
        self.is_true(case)
    }

    /// What stands in the row is of this repository, and `current` is what has what the server has.
    fn is_true(&self, case: &Case) -> Result<(), TestCaseError> {
        let machine = &self.machine;
        let row = machine.row("ops");
        let digits = if case.format == FORMATS[0] { 40 } else { 64 };
        for known in [&row["head"], &row["upstream"], &row["acted"]["revision"]] {
            let id = known.as_str().unwrap_or_default();
            prop_assert!(matches!(id.len(), 0) || id.len() == digits, "{row:#}");
        }
        if row["state"] == "current" {
            prop_assert!(!case.moved, "{row:#}");
            let tip = machine.git(&machine.server("ops"), &["rev-parse", "main"]);
            prop_assert_eq!(row["acted"]["revision"].as_str(), Some(tip.as_str()), "{:#}", row);
        }
        Ok(())
    }
}

/// Each word of `digits` hexadecimal digits in `text` becomes `id`.
fn with_ids_replaced(text: &str, digits: usize, id: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let mut replaced = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_id = word.len() == digits && word.chars().all(|c| c.is_ascii_hexdigit());
        replaced.push_str(if is_id { id } else { word });
        let next = after.find(is_word).unwrap_or(after.len());
        replaced.push_str(&after[..next]);
        rest = &after[next..];
    }
    replaced
}

fn put(file: &Path, content: &str) {
    let _ = fs::remove_file(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

#[test]
fn wherever_an_id_of_the_wrong_length_is_nothing_fails_and_nothing_is_false() {
    let cases = if std::env::var_os("PMPY_LONG").is_some() { 400 } else { 48 };
    let stands: RefCell<BTreeMap<(&str, &str), WrongIdSetup>> = RefCell::default();
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&any_case(), |case| {
        let mut stands = stands.borrow_mut();
        let setup = stands
            .entry((case.format, case.mode))
            .or_insert_with(|| WrongIdSetup::new(case.format, case.mode));
        setup.holds(&case)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn an_id_of_the_wrong_length_in_each_file_by_itself_is_found_and_reported() {
    for format in FORMATS {
        let setup = WrongIdSetup::new(format, "work");
        for place in PLACES {
            let case = Case {
                format,
                mode: "work",
                places: vec![place],
                planted: Planted::Longer,
                phase: "apply",
                command: &["status"],
                borrows: false,
                indexed: false,
                moved: false,
            };
            setup.holds(&case).unwrap_or_else(|error| panic!("{}: {error}", place.0));
        }
    }
}
