//! What people read, as snapshots below `snapshots/`: one file for each kind of text, rendered from values.
//! Nothing is started and nothing outside is read. CONTRIBUTING.md says how a changed text is accepted.

use std::fmt::Write as _;

use anstream::adapter::strip_str;
use chrono::{DateTime, Utc};
use pmpy::domain::git::Commit;

#[path = "../../build/agent_toml.rs"]
mod agent_toml;
mod check;
mod configuration;
mod errors;
mod explain;
mod help;
mod history;
mod status;

/// Every snapshot. One that no test compares any more would be read as true.
const SNAPSHOTS: [&str; 16] = [
    "check",
    "configuration",
    "errors",
    "explain",
    "explain-revision",
    "help",
    "history",
    "notices",
    "status",
    "status-colours",
    "status-lines",
    "status-problems",
    "status-verbose",
    "status-widths",
    "status-without",
    "tree-settings",
];

/// The time of every text.
fn now() -> DateTime<Utc> {
    "2026-11-22T09:00:00Z".parse().unwrap()
}

/// A commit whose id is one digit, repeated.
fn commit(digit: char) -> Commit {
    digit.to_string().repeat(40).parse().unwrap()
}

/// Some texts as one, each under its title.
#[derive(Default)]
struct Sheet(String);

impl Sheet {
    fn add(&mut self, title: &str, text: &str) {
        let _ = writeln!(self.0, "== {title}\n{}\n", text.trim_end());
    }

    /// Fails unless this is what `snapshots/NAME.snap` holds.
    fn same(&self, name: &str) {
        same(name, &self.0);
    }
}

/// Fails unless `text` is what `snapshots/NAME.snap` holds.
fn same(name: &str, text: &str) {
    assert!(SNAPSHOTS.contains(&name), "{name} is not in SNAPSHOTS");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// `text` without colours, and with the local times masked: they depend on the reader's time zone. The
/// mask is as wide as what it hides, so that columns stay in place.
fn plain(text: &str) -> String {
    let mut text: Vec<char> = strip_str(text).to_string().chars().collect();
    for (shape, mask) in
        [("0000-00-00 00:00 +0000", "YYYY-MM-DD HH:MM +ZZZZ"), ("00:00 +0000", "HH:MM +ZZZZ")]
    {
        let shape: Vec<char> = shape.chars().collect();
        let mask: Vec<char> = mask.chars().collect();
        let fits = |part: &[char]| {
            part.iter().zip(&shape).all(|(&found, &wanted)| match wanted {
                '0' => found.is_ascii_digit(),
                '+' => found == '+' || found == '-',
                _ => found == wanted,
            })
        };
        for at in 0..text.len().saturating_sub(shape.len() - 1) {
            if fits(&text[at..at + shape.len()]) {
                text.splice(at..at + shape.len(), mask.iter().copied());
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn local_times_are_masked_and_nothing_else() {
    let text = "3 min ago, 03:12 +0100; 2026-11-20 23:00 -0930; 12:30";
    assert_eq!(plain(text), "3 min ago, HH:MM +ZZZZ; YYYY-MM-DD HH:MM +ZZZZ; 12:30");
}

#[test]
fn no_snapshot_is_left_over() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/texts/snapshots");
    let mut found: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| Some(file.strip_suffix(".snap")?.to_owned()))
        .collect();
    found.sort();
    assert_eq!(found, SNAPSHOTS);
}
