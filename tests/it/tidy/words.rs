//! Words: no type name twice in a layer, and no name of a dialect that the code gave up. What the terms
//! are is in `docs/glossary.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Source, assert_none, has_word, lines_with, sources};

/// Names that were replaced by the field's terms. They must not come back, as names or in comments.
const FORBIDDEN: [&str; 29] = [
    "abreast",
    "ask_again",
    "asked_again",
    "crew",
    "curious",
    "errand",
    "hasten",
    "hindrance",
    "in_vain",
    "lane",
    "lanes",
    "let_go",
    "meddler",
    "nobodys",
    "no_locks",
    "outlast",
    "outlasts",
    "parcel",
    "rival",
    "rivals",
    "roster",
    "rung",
    "rungs",
    "shelf",
    "step_back",
    "throwaway",
    "whoever",
    "whom",
    "whose_turn",
];

/// What defines a type.
const KINDS: [&str; 4] = ["struct", "enum", "trait", "type"];

/// The types that a file defines at its top level, outside of its tests, with their lines.
fn types(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in source.code() {
        let visible = match (line.strip_prefix("pub("), line.strip_prefix("pub ")) {
            (Some(within), _) => within.split_once(") ").map_or("", |(_, item)| item),
            (_, Some(item)) => item,
            _ => line,
        };
        let Some((kind, rest)) = visible.split_once(' ') else { continue };
        if KINDS.contains(&kind) {
            let end = rest.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(rest.len());
            found.push((number, rest[..end].to_owned()));
        }
    }
    found
}

/// The types whose name another type of the same layer has.
fn names_twice(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for source in sources {
        let layer = source.module().first().map_or_else(String::new, |layer| (*layer).to_owned());
        for (line, name) in types(source) {
            let place = format!("{}:{line}", source.path);
            places.entry((layer.clone(), name)).or_default().push(place);
        }
    }
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    twice.map(|((_, name), places)| format!("{name}: {}", places.join(", "))).collect()
}

#[test]
fn no_type_name_is_defined_twice_in_a_layer() {
    let sources = sources(&["src"]);
    assert!(sources.iter().map(|source| types(source).len()).sum::<usize>() > 450);
    assert_none(&names_twice(&sources));
}

#[test]
fn a_type_name_that_is_defined_twice_is_found() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let planted = [
        file("src/system/a.rs", "pub struct Entry<T> {\n    x: T,\n}\n"),
        file("src/system/b/c.rs", "pub(in crate::system) enum Entry {}\n"),
        file("src/system/d.rs", "type Other = u8;\npub(super) struct Entry(u8);\n"),
        file("src/engine/a.rs", "struct Entry;\nimpl Entry {}\n// struct Other\n"),
    ];
    let found = names_twice(&planted);
    let all = "Entry: src/system/a.rs:1, src/system/b/c.rs:1, src/system/d.rs:2";
    assert_eq!(found, [all]);
}

#[test]
fn the_code_uses_the_terms_of_the_glossary() {
    let rule = "the code gave this word up: docs/glossary.md has the project's terms";
    assert_none(&lines_with(&sources(&["src", "benches"]), &FORBIDDEN, rule, |_| false));
}

/// Words that no message, help text or page uses: docs/design/words.md.
const SENTENCES: [&str; 12] = [
    "act upon",
    "acted upon",
    "acting upon",
    "acts upon",
    "beside",
    "folder",
    "goes on",
    "likewise",
    "nobody",
    "stands",
    "told",
    "whoever",
];

/// Pages that may hold such a word, each with the reason.
const PAGES_WITH_WORDS: [(&str, &str); 2] = [
    ("docs/design/words.md", "lists them"),
    ("examples/parts-and-stacks/bin/work/stack/staging/work.sh", "the user nobody"),
];

/// The lines of `source` that a user may read: of code, those with a text that is no test's, and of the
/// command line also the comments, which are its help. Of a page, all.
fn lines_for_users(source: &Source) -> Vec<(usize, &str)> {
    if !source.path.ends_with(".rs") {
        return source.text.lines().enumerate().map(|(at, line)| (at + 1, line)).collect();
    }
    let is_help = source.path.starts_with("src/cli");
    let help = source.text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let help = help.filter(|(_, line)| is_help && line.trim_start().starts_with("///"));
    source.code().chain(help).collect()
}

/// Every word of [`SENTENCES`] in such a line, as `file:line: word`.
fn words_for_users(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in lines_for_users(source) {
            let line = line.to_lowercase();
            let words = SENTENCES.iter().filter(|word| has_word(&line, word));
            found.extend(words.map(|word| format!("{}:{number}: {word}", source.path)));
        }
    }
    found
}

/// The files below the directory or at the path `from` that are text.
fn pages(from: &Path, top: &Path, found: &mut Vec<Source>) {
    if from.is_dir() {
        for entry in fs::read_dir(from).unwrap() {
            pages(&entry.unwrap().path(), top, found);
        }
    } else if let Ok(text) = fs::read_to_string(from) {
        let path = from.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
        if !PAGES_WITH_WORDS.iter().any(|(page, _)| *page == path) {
            found.push(Source { path, text });
        }
    }
}

#[test]
fn messages_help_and_pages_use_the_words_of_the_field() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = sources(&["src"]);
    for place in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Cargo.toml"] {
        pages(&top.join(place), top, &mut all);
    }
    for place in ["docs", "bootstrap", "examples"] {
        pages(&top.join(place), top, &mut all);
    }
    assert!(all.len() > 250, "only {} files were read", all.len());
    assert_none(&words_for_users(&all));
}

#[test]
fn a_word_that_is_given_up_is_found_in_a_message_a_page_and_a_help_text() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let planted = [
        file("src/cmd/a.rs", "// told to nobody\nlet text = \"Nobody is \\\n  told\";\n"),
        file("src/cli.rs", "/// Tick beside cron\n"),
        file("README.md", "A revision is acted upon.\nSee `a::b_is_told`, besides standing.\n"),
    ];
    let all = [
        "src/cmd/a.rs:2: nobody",
        "src/cmd/a.rs:3: told",
        "src/cli.rs:1: beside",
        "README.md:1: acted upon",
    ];
    assert_eq!(words_for_users(&planted), all);
}
