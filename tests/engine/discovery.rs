//! Which repositories this machine has, and what is wrong with those that it cannot work in.

use std::fs;
use std::os::unix::fs::symlink;

use pmpy::engine::discovery::{self, CloneState, RepoEntry};

use crate::machine::{Machine, NAME, says};
use crate::sandbox::text;

tests![
    every_clone_below_the_root_is_a_repository_and_no_other_directory_is,
    a_configured_repository_is_missing_until_it_is_cloned,
    a_clone_elsewhere_is_found_by_its_path,
    a_clone_with_two_names_is_listed_once,
    a_bare_repository_and_a_linked_worktree_say_why_they_are_left_alone,
    a_place_that_is_not_empty_is_never_cloned_over,
    an_unknown_name_is_an_error_that_lists_the_known_ones,
    a_branch_with_a_placeholder_needs_what_it_names,
];

fn found(machine: &Machine) -> Vec<RepoEntry> {
    discovery::repositories(&machine.context()).unwrap()
}

fn names(machine: &Machine) -> Vec<String> {
    found(machine).into_iter().map(|repo| repo.name).collect()
}

fn unfit(machine: &Machine, name: &str) -> String {
    let repo = found(machine).into_iter().find(|repo| repo.name == name).unwrap();
    match repo.found {
        CloneState::Unfit(reason) => reason,
        other => panic!("{name}: {other:?}"),
    }
}

fn every_clone_below_the_root_is_a_repository_and_no_other_directory_is() {
    let machine = Machine::with(&[("page", "one")]);
    machine.serve("web", &[("page", "one")]);
    machine.clone_to_root("web");
    for dir in ["notes", ".pmpy"] {
        fs::create_dir_all(machine.root().join(dir)).unwrap();
    }
    assert_eq!(names(&machine), [NAME, "web"]);
}

fn a_configured_repository_is_missing_until_it_is_cloned() {
    let machine = Machine::new();
    machine.serve(NAME, &[("page", "one")]);
    machine.set(&format!("url = \"{}\"", text(&machine.server(NAME))));
    assert_eq!(machine.entry().found, CloneState::Missing);
    machine.clone_to_root(NAME);
    assert_eq!(machine.entry().found, CloneState::Clone);
}

fn a_clone_elsewhere_is_found_by_its_path() {
    let machine = Machine::with(&[("page", "one")]);
    let elsewhere = machine.path("elsewhere");
    fs::rename(machine.clone_of(NAME), &elsewhere).unwrap();
    assert!(names(&machine).is_empty());
    machine.set(&format!("path = \"{}\"", text(&elsewhere)));
    let entry = machine.entry();
    assert_eq!((entry.path, entry.found), (elsewhere, CloneState::Clone));
}

fn a_clone_with_two_names_is_listed_once() {
    let machine = Machine::with(&[("page", "one")]);
    symlink(machine.clone_of(NAME), machine.root().join("zz")).unwrap();
    assert_eq!(names(&machine), [NAME]);
}

fn a_bare_repository_and_a_linked_worktree_say_why_they_are_left_alone() {
    let machine = Machine::with(&[("page", "one")]);
    let (bare, linked) = (machine.root().join("bare"), machine.root().join("linked"));
    machine.git(&machine.root(), &["clone", "--quiet", "--bare", NAME, text(&bare)]);
    machine
        .git(&machine.clone_of(NAME), &["worktree", "add", "--quiet", "-b", "side", text(&linked)]);
    assert_eq!(names(&machine), ["bare", "linked", NAME]);
    says(&unfit(&machine, "bare"), &["bare", "worktree"]);
    says(&unfit(&machine, "linked"), &["linked worktree"]);
}

fn a_place_that_is_not_empty_is_never_cloned_over() {
    let machine = Machine::new();
    machine.set("url = \"https://git.example.org/ops.git\"");
    fs::create_dir(machine.clone_of(NAME)).unwrap();
    assert_eq!(machine.entry().found, CloneState::Missing, "an empty directory is no obstacle");
    fs::write(machine.clone_of(NAME).join("mine"), "precious").unwrap();
    says(&unfit(&machine, NAME), &["not empty"]);
}

fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
    let machine = Machine::with(&[("page", "one")]);
    let error = discovery::one(&machine.context(), "op").unwrap_err().to_string();
    says(&error, &["\"op\"", "hint: ", NAME]);
    let error = discovery::one(&Machine::new().context(), "op").unwrap_err().to_string();
    says(&error, &["agent init"]);
}

fn a_branch_with_a_placeholder_needs_what_it_names() {
    let machine = Machine::with(&[("page", "one")]);
    machine.set("branch = \"{part}-{host}\"");
    let (kind, reason) = machine.fault();
    assert_eq!(kind, "broken");
    says(&reason, &["part", "nodeinfo"]);
    let nodeinfo = machine.settings().world.nodeinfo;
    fs::create_dir_all(&nodeinfo).unwrap();
    fs::write(nodeinfo.join("nodepart.txt"), "web\n").unwrap();
    let context = machine.context();
    let branch = machine.entry().branch(&context).unwrap().unwrap();
    assert_eq!(branch.as_str(), format!("web-{}", context.node.host));
}
