//! What a newcomer reads is held to what there is: each test, file, link, command and state that
//! README.md and docs/ name. It reads Markdown line by line, as far as our own pages use it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use pmpy::cli::Cli;
use pmpy::config::{AgentDirs, ConfigLocations, ConfigTexts, Settings};
use pmpy::domain::repository::state::State;

use crate::sandbox::{Ran, Sandbox};

/// One page: its path from the top of the repository, and its text.
struct Page {
    path: String,
    text: String,
}

impl Page {
    /// The lines outside fenced blocks, each with its number from 1.
    fn prose(&self) -> Vec<(usize, &str)> {
        self.lines().into_iter().filter(|(_, fenced, _)| !fenced).map(|(n, _, l)| (n, l)).collect()
    }

    /// The lines inside fenced blocks.
    fn fenced(&self) -> Vec<(usize, &str)> {
        self.lines().into_iter().filter(|(_, fenced, _)| *fenced).map(|(n, _, l)| (n, l)).collect()
    }

    fn lines(&self) -> Vec<(usize, bool, &str)> {
        let mut fenced = false;
        let mut all = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else {
                all.push((index + 1, fenced, line));
            }
        }
        assert!(!fenced, "{}: a fenced block does not end", self.path);
        all
    }

    /// The fenced blocks in `language`, each with the number of its first line.
    fn blocks(&self, language: &str) -> Vec<(usize, String)> {
        let mut lines = self.text.lines().zip(1..);
        let mut all = Vec::new();
        while let Some((line, number)) = lines.next() {
            if line.strip_prefix("```") == Some(language) {
                let block = lines.by_ref().take_while(|(line, _)| !line.starts_with("```"));
                all.push((number + 1, block.map(|(line, _)| format!("{line}\n")).collect()));
            }
        }
        all
    }

    /// What stands in single backticks.
    fn spans(&self) -> Vec<(usize, &str)> {
        self.prose()
            .into_iter()
            .flat_map(|(n, line)| line.split('`').skip(1).step_by(2).map(move |span| (n, span)))
            .collect()
    }

    /// The targets of `[text](target)`.
    fn links(&self) -> Vec<(usize, &str)> {
        self.prose()
            .into_iter()
            .flat_map(|(n, line)| {
                line.split("](").skip(1).filter_map(move |rest| Some((n, rest.split_once(')')?.0)))
            })
            .collect()
    }

    /// Its headings as the anchors that they become.
    fn anchors(&self) -> BTreeSet<String> {
        self.prose().into_iter().filter_map(|(_, line)| heading(line)).map(anchor).collect()
    }
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len()).then(|| text.strip_prefix(' ')).flatten()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> Page {
    Page { path: path.to_owned(), text: fs::read_to_string(top().join(path)).unwrap() }
}

/// README.md, CHANGELOG.md, everything in docs/ and what explains an example.
fn pages() -> Vec<Page> {
    let names = |dir: &str| {
        let entries = fs::read_dir(top().join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut paths = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    paths.extend(names("docs").iter().map(|name| format!("docs/{name}")));
    paths.extend(names("examples").iter().map(|name| format!("examples/{name}/README.md")));
    paths.retain(|path| path.ends_with(".md") && top().join(path).exists());
    paths.iter().map(|path| page(path)).collect()
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Whether `span` is the path of a test as cargo prints it: `module::name_of_the_test`.
fn names_a_test(span: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    span.contains("::") && span.split("::").all(word)
}

/// Whether the sources have the test `path`.
fn is_a_test(path: &str) -> bool {
    let Some((modules, name)) = path.rsplit_once("::") else { return false };
    let dir = modules.replace("::", "/");
    let files = [
        format!("tests/it/{dir}.rs"),
        format!("src/{dir}.rs"),
        format!("src/{}.rs", dir.trim_end_matches("/tests")),
        format!("src/{}/mod.rs", dir.trim_end_matches("/tests")),
    ];
    let marked = format!("fn {name}(");
    files.iter().filter_map(|file| fs::read_to_string(top().join(file)).ok()).any(|text| {
        text.match_indices(&marked).any(|(at, _)| {
            let before = text[..at].trim_end().lines().rev();
            before
                .take_while(|line| line.trim_start().starts_with('#'))
                .any(|l| l.contains("#[test]"))
        })
    })
}

/// What is typed after `agent` on a line, if the line calls it: behind a prompt, sudo, or the times
/// and the user of a crontab.
fn call(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let at = words.iter().position(|word| word == "agent" || word.ends_with("/agent"))?;
    let before = ["$", "#", "*", "root", "sudo"];
    if !words[..at].iter().all(|word| before.contains(&word.as_str())) {
        return None;
    }
    let same = |word: &&String| !["#", "|", "&&", "||", "&", ";", ">"].contains(&word.as_str());
    let arguments: Vec<String> = words[at + 1..].iter().take_while(same).cloned().collect();
    // The program's name alone is a word like any other.
    (!arguments.is_empty()).then_some(arguments)
}

/// The words of a line as a shell takes them apart, in some directory.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.replace("$PWD", "/directory").chars() {
        match (c, quote) {
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_test_that_is_named_exists() {
    let mut named = 0;
    let mut missing = Vec::new();
    for page in pages() {
        for (line, span) in page.spans().into_iter().filter(|(_, span)| names_a_test(span)) {
            named += 1;
            if !is_a_test(span) {
                missing.push(format!("{}:{line}: there is no test {span}", page.path));
            }
        }
    }
    assert!(named > 20, "only {named} tests were found: are they still named as cargo does?");
    assert_none(&missing);
}

#[test]
fn every_promise_names_a_test() {
    let readme = page("README.md");
    let rows = readme
        .prose()
        .into_iter()
        .skip_while(|(_, line)| !line.starts_with("| it promises"))
        .skip(2)
        .take_while(|(_, line)| line.starts_with('|'));
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 10, "the table of promises was not found");
    let unproved: Vec<_> = rows
        .iter()
        .filter(|(_, row)| !row.split('`').any(names_a_test))
        .map(|(line, row)| format!("README.md:{line}: a promise without a test: {row}"))
        .collect();
    assert_none(&unproved);
}

#[test]
fn every_link_and_every_file_that_is_named_exists() {
    let mut broken = Vec::new();
    for page in pages() {
        let dir = top().join(&page.path).parent().unwrap().to_owned();
        for (line, link) in page.links() {
            if link.contains("://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { top().join(&page.path) } else { dir.join(file) };
            let there = target.exists()
                && (fragment.is_empty() || {
                    let text = fs::read_to_string(&target).unwrap();
                    Page { path: link.to_owned(), text }.anchors().contains(fragment)
                });
            if !there {
                broken.push(format!("{}:{line}: {link} leads nowhere", page.path));
            }
        }
        let ours = ["src/", "tests/", "docs/", "examples/", "benches/"];
        for (line, span) in page.spans() {
            let path = span.split(' ').next().unwrap_or_default();
            let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if ours.iter().any(|start| path.starts_with(start))
                && plain
                && !top().join(path).exists()
            {
                broken.push(format!("{}:{line}: there is no {path}", page.path));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn every_command_that_is_shown_is_understood() {
    let mut shown = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let typed = page.fenced().into_iter().map(|(line, text)| (line, text, false));
        let named = page.spans().into_iter().map(|(line, text)| (line, text, true));
        for (line, text, inline) in typed.chain(named) {
            let Some(arguments) = call(text) else { continue };
            shown += 1;
            // A sentence may name a command without its arguments.
            if let (true, [name]) = (inline, arguments.as_slice())
                && Cli::command().find_subcommand(name).is_some()
            {
                continue;
            }
            // The reader's own address.
            let url = |word| if word == "URL" { "/srv/git/ops.git".to_owned() } else { word };
            let whole = std::iter::once("agent".to_owned()).chain(arguments.into_iter().map(url));
            if let Err(error) = Cli::try_parse_from(whole)
                && error.exit_code() != 0
            {
                wrong.push(format!("{}:{line}: {text}\n{error}", page.path));
            }
        }
    }
    assert!(shown > 50, "only {shown} commands were found");
    assert_none(&wrong);
}

#[test]
fn every_configuration_that_is_shown_is_taken() {
    let mut shown = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for (line, block) in page.blocks("toml") {
            shown += 1;
            let mut source = ConfigTexts::default();
            source.add(&page.path, &block);
            let root =
                AgentDirs::of(&ConfigLocations { is_root: true, ..ConfigLocations::default() })
                    .unwrap();
            match Settings::parse(root, &source) {
                Err(error) => wrong.push(format!("the block at {}:{line}: {error}", page.path)),
                Ok(settings) => wrong.extend(settings.faults.values().map(ToString::to_string)),
            }
        }
    }
    assert!(shown > 3, "only {shown} configurations were found");
    assert_none(&wrong);
}

#[test]
fn every_line_for_a_shell_is_one() {
    let mut wrong = Vec::new();
    for page in pages() {
        for (line, block) in page.blocks("sh") {
            let ran = Ran::of(Sandbox::new().command("bash").args(["-n", "-c", &block]));
            if ran.code != Some(0) {
                wrong.push(format!("the block at {}:{line}: {}", page.path, ran.stderr));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_readme_and_the_index_lead_to_every_page() {
    let all: BTreeSet<String> = pages()
        .into_iter()
        .filter_map(|page| Some(page.path.strip_prefix("docs/")?.into()))
        .collect();
    for (index, dir) in [("README.md", "docs/"), ("docs/README.md", "")] {
        let text = page(index).text;
        let leads = |name: &&String| text.contains(&format!("]({dir}{name})"));
        let forgotten: Vec<_> =
            all.iter().filter(|name| *name != "README.md" && !leads(name)).cloned().collect();
        assert_none(&forgotten);
    }
}

#[test]
fn a_picture_is_small_text_and_readable_in_the_dark() {
    for entry in fs::read_dir(top().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "svg") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.len() < 20_000, "{}", path.display());
            for needed in ["<title", "<desc", "<text", "prefers-color-scheme: dark"] {
                assert!(text.contains(needed), "{}: {needed}", path.display());
            }
        }
    }
}

#[test]
fn the_readme_shows_every_command() {
    let readme = page("README.md");
    let commands = Cli::command();
    let forgotten: Vec<_> = commands
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| format!("agent {}", command.get_name()))
        .filter(|command| !readme.text.contains(command))
        .collect();
    assert_none(&forgotten);
}

#[test]
fn the_table_of_states_has_each_state_in_its_order() {
    let states = page("docs/states.md");
    let reported: Vec<_> = states
        .prose()
        .into_iter()
        .filter_map(|(_, line)| line.strip_prefix("| `")?.split_once('`').map(|(word, _)| word))
        .collect();
    assert_eq!(reported, State::ALL.map(State::as_str));
    let operations = page("docs/operations.md");
    let unexplained: Vec<_> = State::ALL
        .iter()
        .map(|state| format!("`{state}`"))
        .filter(|word| !operations.text.contains(word))
        .collect();
    assert_none(&unexplained);
}

#[test]
fn the_reader_of_commands_knows_a_call_from_a_word() {
    let called = |line: &str| call(line).map(|words| words.join("|"));
    assert_eq!(called("$ sudo agent hold ops \"db work\" # why"), Some("hold|ops|db work".into()));
    assert_eq!(
        called("* * * * * root /usr/local/bin/agent tick --splay 20s"),
        Some("tick|--splay|20s".into())
    );
    assert_eq!(called("an agent that pulls"), None);
    assert_eq!(called("agent: spog: held"), None);
}
