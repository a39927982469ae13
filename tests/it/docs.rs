//! What a newcomer reads is held to what there is: each test, file, link, command and state that
//! README.md and docs/ name, and the book that they are. It reads Markdown line by line, as far as our own
//! pages use it.

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

/// The names in a directory of ours.
fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(top().join(dir)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The pages at the top, everything in docs/ and what explains an example.
fn pages() -> Vec<Page> {
    let mut paths = names("");
    paths.extend(names("docs").iter().map(|name| format!("docs/{name}")));
    paths.extend(names("examples").iter().map(|name| format!("examples/{name}/README.md")));
    paths.retain(|path| path.ends_with(".md") && top().join(path).exists());
    paths.iter().map(|path| page(path)).collect()
}

/// [`pages`], and the decisions of docs/design, which also name what is not built yet.
fn pages_with_links() -> Vec<Page> {
    let mut all = pages();
    let design = names("docs/design");
    all.extend(design.iter().map(|name| page(&format!("docs/design/{name}"))));
    all
}

/// Where a relative link of the page `from` leads, as a path from the top of the repository; `None` for one
/// that leads out of it.
fn target(from: &str, link: &str) -> Option<String> {
    let file = link.split('#').next().unwrap();
    if file.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in file.split('/').filter(|part| *part != ".") {
        match part {
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
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
    let text = page("docs/guarantees.md").text;
    let (_, promised) = text.split_once("\n## Promised, each with its test\n").unwrap();
    let promises: Vec<_> = promised.split("\n- **").skip(1).collect();
    assert!(promises.len() > 50, "only {} promises were found", promises.len());
    let unproved: Vec<_> = promises
        .iter()
        .filter(|promise| !promise.split('`').any(names_a_test))
        .map(|promise| format!("docs/guarantees.md: a promise without a test: {promise}"))
        .collect();
    assert_none(&unproved);
}

#[test]
fn every_link_and_every_file_that_is_named_exists() {
    let mut broken = Vec::new();
    for page in pages_with_links() {
        for (line, link) in page.links() {
            if link.contains("://") {
                continue;
            }
            let there = match target(&page.path, link) {
                Some(file) => {
                    let fragment = link.split_once('#').map(|(_, fragment)| fragment);
                    top().join(&file).exists()
                        && fragment.is_none_or(|it| self::page(&file).anchors().contains(it))
                }
                // Where a service hosts the repository, it has the runs of the workflows.
                None => link.strip_prefix("../../actions/workflows/").is_some_and(|rest| {
                    let workflow = rest.trim_end_matches("/badge.svg");
                    top().join(".github/workflows").join(workflow).exists()
                }),
            };
            if !there {
                broken.push(format!("{}:{line}: {link} leads nowhere", page.path));
            }
        }
        let ours = ["src/", "tests/", "docs/", "examples/", "benches/", "bootstrap/"];
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
            // In the help, what a command does comes two spaces behind it.
            let typed = text.trim().split("  ").next().unwrap().trim_end_matches('\\');
            let Some(arguments) = call(typed) else { continue };
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
fn the_index_and_the_book_lead_to_every_page() {
    let all = pages_with_links();
    let all = all.iter().map(|page| page.path.as_str()).filter(|path| path.contains('/'));
    let all: BTreeSet<&str> = all.collect();
    for (index, below) in [
        ("docs/SUMMARY.md", "docs/"),
        ("docs/SUMMARY.md", "examples/"),
        ("docs/examples.md", "examples/"),
        ("docs/README.md", "docs/"),
    ] {
        let leads: BTreeSet<String> =
            page(index).links().iter().filter_map(|(_, link)| target(index, link)).collect();
        let is_here = |path: &&&str| path.starts_with(below) && !leads.contains(**path);
        // The index of the decisions is enough for the index of all.
        let design = |path: &str| index == "docs/README.md" && path.starts_with("docs/design/");
        let missing = all.iter().filter(is_here).filter(|path| !design(path));
        let missing: Vec<_> =
            missing.filter(|path| !["docs/SUMMARY.md", "docs/README.md"].contains(path)).collect();
        assert!(missing.is_empty(), "{index} does not lead to {missing:?}");
    }
    assert!(page("docs/SUMMARY.md").text.contains("](README.md)"), "the book has the index");
    assert!(page("README.md").text.contains("](docs/README.md"), "README.md leads to the index");
}

#[test]
fn the_book_has_its_groups_and_everything_that_its_pages_lead_to() {
    let summary = page("docs/SUMMARY.md");
    let titles: Vec<_> =
        summary.prose().into_iter().filter_map(|(_, line)| heading(line)).collect();
    let groups = ["Summary", "Tutorial", "How-to", "Reference", "Explanation", "The project"];
    assert_eq!(titles, groups);
    let book: Vec<String> =
        summary.links().iter().filter_map(|(_, link)| target(&summary.path, link)).collect();
    let twice = book.len() - book.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(twice, 0, "a page has one place in the book");
    let script = fs::read_to_string(top().join("bootstrap/book")).unwrap();
    let copied = script.lines().find_map(|line| line.strip_prefix("cp -R ")).unwrap();
    let copied: Vec<_> = copied.split(' ').map(|name| name.trim_end_matches('*')).collect();
    let mut lost = Vec::new();
    for path in &book {
        for (line, link) in page(path).links() {
            let Some(file) = target(path, link).filter(|_| !link.contains("://")) else { continue };
            // mdbook copies every file but pages that the summary does not list.
            let there = match file.ends_with(".md") {
                true => book.contains(&file),
                false => copied.iter().any(|name| file.starts_with(name)),
            };
            if !there {
                lost.push(format!("{path}:{line}: {link} is not in the book"));
            }
        }
    }
    assert_none(&lost);
}

#[test]
fn each_page_begins_with_what_its_reader_has_from_it() {
    let without: Vec<_> = pages()
        .into_iter()
        .filter(|page| page.path.starts_with("docs/"))
        .filter(|page| !["docs/README.md", "docs/SUMMARY.md"].contains(&page.path.as_str()))
        .filter(|page| !page.text.lines().take(4).any(|line| line.contains("his page ")))
        .map(|page| format!("{}: what can its reader do after it?", page.path))
        .collect();
    assert_none(&without);
}

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let text = page("README.md").text;
    assert!(text.lines().count() <= 150, "{} lines", text.lines().count());
    assert!(text.len() <= 9_000, "{} bytes", text.len());
}

#[test]
fn what_the_pages_take_from_the_program_is_as_it_is() {
    let sandbox = Sandbox::new();
    let mut pages = sandbox.command(top().join("bootstrap/pages").to_str().unwrap());
    Ran::of(pages.args(["--check", env!("CARGO_BIN_EXE_agent")])).ok();
}

#[test]
fn every_release_that_is_named_is_the_version_of_this_tree() {
    let version = env!("CARGO_PKG_VERSION");
    let (minor, _) = version.rsplit_once('.').unwrap();
    let digits = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect()
    };
    let (mut named, mut others) = (0, Vec::new());
    let examples = [
        "ansible/playbook.yml",
        "puppet/pmpy.pp",
        "terraform/user_data.tf",
        "upgrade-agent/release",
    ];
    let mut all = pages();
    all.extend(examples.map(|file| page(&format!("examples/{file}"))));
    for page in &all {
        let text = &page.text;
        for (before, expected) in [
            ("push-me-pull-you/", version),
            ("push-me-pull-you:", version),
            ("version=", version),
            ("latest release (", minor),
        ] {
            for found in text.split(before).skip(1).map(digits).filter(|found| !found.is_empty()) {
                named += 1;
                if found != expected {
                    others.push(format!("{}: {before}{found} is not {expected}", page.path));
                }
            }
        }
    }
    assert_none(&others);
    assert_eq!(named, 9, "RELEASING.md names the files that a release changes");
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
fn the_reference_shows_every_command() {
    let reference = page("docs/commands.md");
    let commands = Cli::command();
    let forgotten: Vec<_> = commands
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .flat_map(|command| {
            let name = command.get_name();
            [format!("\n| `agent {name}"), format!("\n## agent {name}\n")]
        })
        .filter(|shown| !reference.text.contains(shown.as_str()))
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
    let explained: Vec<_> = states
        .prose()
        .into_iter()
        .filter_map(|(_, line)| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert_eq!(explained, State::ALL.map(State::as_str));
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
