//! The rules of the house that neither the compiler nor clippy keeps: who may import whom, what the
//! domain must not touch, who prints, and what no file may hold. Each finding says where it is and
//! which rule it breaks. It reads text, not syntax: a comment line and what follows the line
//! `#[cfg(test)]` of a file's test module do not count as code.

use std::fmt::Write;
use std::fs;
use std::path::Path;

mod rooms;
mod words;

/// The most lines of a file. From 500 on it is worth a look whether it holds two themes.
const MOST_LINES: usize = 600;

/// Files with more, each with the reason why it is better whole.
const LONG_FILES: [(&str, &str); 1] =
    [("src/domain/repository/decision/tests.rs", "one table: the rows of one function")];

/// Doors that another door may use, beside those that every door may.
const DOORS_TO_DOORS: [(&str, &str); 26] = [
    ("fleet_cache", "agent_state"),
    ("lock", "repo_state"),
    ("lock::journal", "repo_state"),
    ("schedule", "process"),
    ("users::getent", "process"),
    ("remote::ssh", "process"),
    ("remote::relay", "process"),
    ("process::gated_script", "privilege"),
    ("remote", "git"),
    ("remote::intake", "git"),
    ("remote::intake", "process"),
    ("remote::local", "git"),
    ("remote::local", "process"),
    ("remote::local_push", "git"),
    ("remote::haves", "git"),
    ("remote::receive", "git"),
    ("remote::duplex_stream", "git"),
    ("remote::git_daemon", "git"),
    ("remote::git_daemon", "tcp"),
    ("remote::ssh", "git"),
    ("remote::http", "git"),
    ("remote::http::tls", "tls"),
    ("remote::http::errors", "tls"),
    ("stale_files", "git"),
    ("stomp::stream", "tcp"),
    ("stomp::stream", "tls"),
];

/// Doors that every door may use: those that only read, and the safe way to write.
const COMMON_DOORS: [&str; 10] =
    ["clock", "files", "ffi", "frames", "host", "packages", "pid", "trust", "users", "watchdog"];

/// One source file: where it is in the repository, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines that are code and no test, each with its number from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let all: Vec<&str> = self.text.lines().collect();
        let end = all
            .windows(2)
            .position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].contains("mod "))
            .unwrap_or(if self.path.ends_with("/tests.rs") { 0 } else { all.len() });
        all.into_iter()
            .take(end)
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }

    /// Its module: `src/system/git/mod.rs` is `["system", "git"]`.
    fn module(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).collect()
    }

    /// Whether it belongs to a layer, such as `domain`.
    fn is_in(&self, layer: &str) -> bool {
        self.module().first() == Some(&layer)
    }

    /// Every module path of ours that its code names, in full, with the line where it begins.
    fn named_modules(&self) -> Vec<(usize, Vec<String>)> {
        let mut code = String::new();
        let mut starts = Vec::new();
        for (number, line) in self.code() {
            starts.push((code.len(), number));
            code.push_str(line);
            code.push('\n');
        }
        let line_at = |offset: usize| {
            starts.iter().rev().find(|(start, _)| *start <= offset).map_or(0, |(_, line)| *line)
        };
        let mut found = Vec::new();
        for anchor in ["crate::", "super::"] {
            for (offset, _) in code.match_indices(anchor) {
                let before = code[..offset].chars().next_back().unwrap_or(' ');
                if before.is_alphanumeric() || before == '_' || before == ':' {
                    continue;
                }
                let mut base: Vec<String> = match anchor {
                    "crate::" => Vec::new(),
                    _ => self.module().iter().map(|&part| part.to_owned()).collect(),
                };
                let mut rest = &code[offset..];
                rest = rest.strip_prefix("crate::").unwrap_or(rest);
                while let Some(inner) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = inner;
                }
                for path in expand(rest) {
                    found.push((line_at(offset), [base.clone(), path].concat()));
                }
            }
        }
        found
    }
}

/// The paths in `a::{b, c::d}` and the like at the beginning of `text`.
fn expand(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 0;
        let mut paths = Vec::new();
        let mut start = 0;
        for (offset, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    paths.extend(expand(&group[start..offset]));
                    start = offset + 1;
                }
                '}' if depth == 0 => {
                    paths.extend(expand(&group[start..offset]));
                    break;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return paths;
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.is_empty() {
        return Vec::new();
    }
    match rest.strip_prefix("::").map(expand) {
        Some(paths) if !paths.is_empty() => {
            paths.into_iter().map(|path| [vec![word.to_owned()], path].concat()).collect()
        }
        _ => vec![vec![word.to_owned()]],
    }
}

/// Every Rust file below `directories` of the repository.
fn sources(dirs: &[&str]) -> Vec<Source> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs: Vec<_> = dirs.iter().map(|dir| repository.join(dir)).collect();
    let mut sources = Vec::new();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(repository).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(!sources.is_empty(), "no source was found: the rules were not checked");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Every line of code of `sources` that holds one of `words`, as `file:line: rule (word)`.
fn lines_with(
    sources: &[Source],
    words: &[&str],
    rule: &str,
    allowed: impl Fn(&Source) -> bool,
) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !allowed(source)) {
        for (number, line) in source.code() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                findings.push(format!("{}:{number}: {rule} ({word})", source.path));
            }
        }
    }
    findings
}

/// Whether `line` holds `word`, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(offset, _)| {
        let before = line[..offset].chars().next_back();
        let after = line[offset + word.len()..].chars().next();
        let begins = !word.starts_with(in_name) || !before.is_some_and(in_name);
        let ends = !word.ends_with(in_name) || !after.is_some_and(in_name);
        begins && ends
    })
}

#[track_caller]
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn the_domain_touches_nothing_outside() {
    let words = [
        "std::fs",
        "std::process",
        "std::net",
        "std::env",
        "std::thread",
        "git2",
        "rustix",
        "SystemTime",
        "Instant::now",
        "Utc::now",
        "Local::now",
    ];
    let rule = "the domain is pure: no files, processes, network, environment, git or clock";
    assert_none(&lines_with(&sources(&["src/domain"]), &words, rule, |_| false));
}

#[test]
fn each_layer_uses_only_the_layers_below_it() {
    let mut findings = Vec::new();
    for source in sources(&["src"]) {
        let module = source.module();
        let Some(&layer) = module.first() else { continue };
        let below: &[&str] = match layer {
            "domain" => &["domain"],
            "config" => &["config", "domain"],
            "system" => &["system", "domain"],
            "engine" => &["engine", "system", "config", "domain"],
            _ => continue,
        };
        for (line, path) in source.named_modules() {
            let Some(used) = path.first() else { continue };
            if !below.contains(&used.as_str()) {
                let path = path.join("::");
                findings.push(format!(
                    "{}:{line}: {layer} may use only {} ({path})",
                    source.path,
                    below.join(", ")
                ));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn no_door_uses_another_but_the_few_that_may() {
    let mut findings = Vec::new();
    for source in sources(&["src/system"]) {
        let module = source.module();
        let Some(&door) = module.get(1) else { continue };
        let whole = module[1..].join("::");
        for (line, path) in source.named_modules() {
            let [layer, used, ..] = path.as_slice() else { continue };
            let allowed = layer != "system"
                || used == door
                || COMMON_DOORS.contains(&used.as_str())
                || DOORS_TO_DOORS.contains(&(whole.as_str(), used.as_str()));
            if !allowed {
                findings.push(format!(
                    "{}:{line}: the door {whole} may not use the door {used}",
                    source.path
                ));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn only_the_system_layer_knows_libraries_of_the_outside() {
    let all = sources(&["src"]);
    let rule = "only src/system knows this library";
    let mut findings =
        lines_with(&all, &["git2", "libgit2_sys"], rule, |source| source.is_in("system"));
    // The configuration opens its own files: it stands below the doors and cannot ask one.
    findings.extend(lines_with(&all, &["rustix"], rule, |source| {
        source.is_in("system") || source.is_in("config")
    }));
    assert_none(&findings);
}

#[test]
fn an_id_comes_into_libgit2_through_the_one_door_that_compares_formats() {
    // Some of these clippy knows as well; it has no word for the others.
    let words = ["Oid::from", "Oid::zero", "Oid::ZERO_SHA1", "Oid::ZERO_SHA256", "parse::<Oid>"];
    let words = [&words[..], &["Oid::from_bytes", "Oid::from_str", "Oid::from_str_ext"]].concat();
    let rule = "an id of the wrong length overflows libgit2's heap: take Git::oid or oid_in";
    let sources = sources(&["src", "benches"]);
    let door = |source: &Source| source.path == "src/system/git/format.rs";
    assert_none(&lines_with(&sources, &words, rule, door));
    assert_eq!(lines_with(&sources, &words, rule, |source| !door(source)).len(), 1);
}

#[test]
fn only_commands_and_the_exit_print() {
    let words = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let rule = "only src/cmd, src/main.rs and src/exit.rs print";
    let findings = lines_with(&sources(&["src"]), &words, rule, |source| {
        source.is_in("cmd") || source.is_in("exit") || source.path == "src/main.rs"
    });
    assert_none(&findings);
}

#[test]
fn unsafe_code_is_in_one_file() {
    let rule = "unsafe code belongs into src/system/ffi.rs";
    let findings =
        lines_with(&sources(&["src", "tests", "benches"]), &["unsafe"], rule, |source| {
            source.path == "src/system/ffi.rs" || source.path == file!()
        });
    assert_none(&findings);
}

#[test]
fn no_code_can_panic_on_what_it_was_given() {
    let words = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!"];
    let rule = "an error is returned, with its sentence";
    assert_none(&lines_with(&sources(&["src"]), &words, rule, |_| false));
}

#[test]
fn every_file_says_first_what_it_knows() {
    let silent = |source: &&Source| !source.text.starts_with("//! ");
    let findings: Vec<String> = sources(&["src", "tests", "benches"])
        .iter()
        .filter(silent)
        .map(|source| format!("{}:1: a file begins with //! and what it knows", source.path))
        .collect();
    assert_none(&findings);
}

#[test]
fn no_file_grows_beyond_what_one_can_keep_in_mind() {
    let mut findings = String::new();
    for source in sources(&["src", "tests"]) {
        let lines = source.text.lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > MOST_LINES && !excused {
            let _ = writeln!(
                findings,
                "{}:{MOST_LINES}: {lines} lines: does it hold two themes?",
                source.path
            );
        }
        if lines <= MOST_LINES && excused {
            let _ = writeln!(findings, "{}:1: no longer long: strike its excuse", source.path);
        }
    }
    assert!(findings.is_empty(), "{findings}");
}

#[test]
fn nothing_is_put_off_and_no_test_is_left_out() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        for (index, line) in source.text.lines().enumerate() {
            let put_off = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[", "ignore")];
            for word in put_off.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("{}:{}: do it now ({word})", source.path, index + 1));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn the_reader_of_imports_sees_through_groups_and_relative_paths() {
    let source = Source {
        path: "src/system/remote/ssh.rs".to_owned(),
        text: "use crate::{domain::git, config};\nuse super::super::{process::Run, files};\n\
               // use crate::engine;\nfn f() { super::http::g() }\n"
            .to_owned(),
    };
    let named: Vec<(usize, String)> =
        source.named_modules().into_iter().map(|(line, path)| (line, path.join("::"))).collect();
    let expected = [
        (1, "domain::git"),
        (1, "config"),
        (2, "system::process::Run"),
        (2, "system::files"),
        (4, "system::remote::http::g"),
    ];
    assert_eq!(named, expected.map(|(line, path)| (line, path.to_owned())));
}
