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
    wanted.extend(shown.map(|command| format!("agent-{}.1", command.get_name())));
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
fn without_the_directory_nothing_is_written_and_the_error_names_it() {
    let sandbox = Sandbox::new();
    let ran = sandbox.agent(&["man", "/nowhere/at/all"]).exits(1);
    assert!(ran.stderr.contains("/nowhere/at/all"), "{ran}");
}
