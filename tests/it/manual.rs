//! The manual pages, as the package gets them: there is one for each command and one for the
//! configuration, groff finds no fault in them, and they say what their sources say.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use pmpy::cli::Cli;
use pmpy::config::known_keys;

use crate::sandbox::{Ran, Sandbox, text};

fn pages(sandbox: &Sandbox) -> BTreeSet<String> {
    sandbox.agent(&["man", text(&sandbox.path("desk"))]).ok();
    sandbox.files_below(&sandbox.path("desk")).iter().map(|page| text(page).to_owned()).collect()
}

/// The page as it is read, without bold and underlining.
fn read(sandbox: &Sandbox, page: &Path) -> String {
    let mut groff = sandbox.command("groff");
    groff.args(["-ww", "-man", "-Tutf8", "-Kutf8", "-P-cbou", "-rLL=200n", text(page)]);
    let ran = Ran::of(&mut groff).ok();
    assert_eq!(ran.stderr, "", "{}", page.display());
    ran.stdout
}

#[test]
fn each_command_has_a_page_and_so_has_the_configuration() {
    let sandbox = Sandbox::new();
    let mut wanted = BTreeSet::from(["agent.1".to_owned(), "agent.toml.5".to_owned()]);
    let commands = Cli::command();
    let shown = commands.get_subcommands().filter(|command| !command.is_hide_set());
    for command in shown {
        let name = command.get_name();
        wanted.insert(format!("agent-{name}.1"));
        let inner = command.get_subcommands();
        wanted.extend(inner.map(|inner| format!("agent-{name}-{}.1", inner.get_name())));
    }
    assert_eq!(pages(&sandbox), wanted);
}

#[test]
fn groff_finds_no_fault_in_any_page() {
    let sandbox = Sandbox::new();
    for page in pages(&sandbox) {
        let reported = read(&sandbox, &sandbox.path("desk").join(&page));
        assert!(reported.starts_with("agent"), "{page}: {reported}");
    }
}

#[test]
fn the_page_of_the_configuration_lists_every_key_and_holds_no_markup() {
    let sandbox = Sandbox::new();
    pages(&sandbox);
    let reported = read(&sandbox, &sandbox.path("desk/agent.toml.5"));
    for (title, keys) in known_keys() {
        assert!(reported.contains(title), "{title}");
        let words: BTreeSet<&str> =
            reported.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for key in keys.iter().filter(|key| !reported.contains(&format!("[{key}"))) {
            assert!(words.contains(key), "{key}");
        }
    }
    for line in reported.lines() {
        let markup = line.contains('`') || line.contains("](") || line.contains("| ");
        assert!(!markup, "{line}");
    }
}

#[test]
fn the_page_of_the_program_has_its_sections_and_examples_keep_their_lines() {
    let sandbox = Sandbox::new();
    for page in pages(&sandbox) {
        let path = sandbox.path("desk").join(&page);
        let mut groff = sandbox.command("groff");
        groff.args(["-man", "-Tutf8", "-Kutf8", "-P-cbou", "-rLL=80n", text(&path)]);
        let shown = Ran::of(&mut groff).ok().stdout;
        let examples = shown.split("\nEXAMPLES\n").nth(1).unwrap_or_default();
        let examples: Vec<_> = examples.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(examples.is_empty(), page == "agent.toml.5", "{page}: {shown}");
        assert!(examples.iter().all(|line| line.chars().count() <= 80), "{page}: {examples:#?}");
        let starts = |line: &&&str| line.trim_start().starts_with("agent ");
        let lines = if page == "agent.1" { 6 } else { examples.len().min(1) };
        assert!(examples.iter().filter(starts).count() >= lines, "{page}: {examples:#?}");
    }
    let shown = read(&sandbox, &sandbox.path("desk/agent.1"));
    let mut rest = shown.as_str();
    for title in ["EXAMPLES", "FILES", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"] {
        let at = rest.find(&format!("\n{title}\n")).unwrap_or_else(|| panic!("{title}: {shown}"));
        rest = &rest[at..];
    }
}

#[test]
fn without_the_directory_nothing_is_written_and_the_error_names_it() {
    let sandbox = Sandbox::new();
    let ran = sandbox.agent(&["man", "/nowhere/at/all"]).exits(1);
    assert!(ran.stderr.contains("/nowhere/at/all"), "{ran}");
}
