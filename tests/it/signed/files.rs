//! The file of the signers: what is wrong with it, and what happens when it changes.

use std::fs;

use super::{assert_applied, assert_refused, list, machine, push, set, sign_with, signers_file};
use crate::idle::{calls_of_a_tick, writes};
use crate::sandbox::{Sandbox, set_mode, text};

/// The repository is broken for this reason, and the newest revision is not applied.
#[track_caller]
fn assert_broken(machine: &Sandbox, reason: &str) {
    let before = machine.lastaction("ops");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains(reason), "{row:#}");
    assert_eq!(machine.lastaction("ops"), before);
}

#[test]
fn a_file_that_is_missing_wrong_or_in_foreign_hands_breaks_the_repository() {
    let machine = machine(&["ann"]);
    let file = signers_file(&machine);
    push(&machine, Some("ann"), "1");
    let good = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert_broken(&machine, "signers is missing");
    fs::create_dir(&file).unwrap();
    assert_broken(&machine, text(&file));
    fs::remove_dir(&file).unwrap();
    let wrong: [(Vec<u8>, &str); 6] = [
        (b"ann@example.org ssh-ed25519\n".to_vec(), "line 1, column 28: the key is missing"),
        (b"# a comment\nann@example.org ssh-ed25519 AAAA\n".to_vec(), "line 2, column 29"),
        (b"ann@example.org cert-authority ssh-ed25519 AAAA\n".to_vec(), "cert-authority"),
        (b"ann@example.org no-touch-required ssh-ed25519 AAAA\n".to_vec(), "line 1, column 17"),
        (b"\x7fELF\x00\xff\xfe\n".to_vec(), "it is not text in UTF-8"),
        (vec![b'#'; 2 << 20], text(&file)),
    ];
    for (content, reason) in wrong {
        fs::write(&file, content).unwrap();
        assert_broken(&machine, reason);
    }
    fs::write(&file, &good).unwrap();
    set_mode(&file, 0o666);
    assert_broken(&machine, "allowed_signers: ");
    set_mode(&file, 0o644);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn with_an_empty_file_no_commit_is_signed() {
    let machine = machine(&[]);
    push(&machine, Some("ann"), "1");
    assert_refused(&machine, "which ");
    fs::write(signers_file(&machine), "# nobody yet\n\n").unwrap();
    assert_refused(&machine, "does not list");
}

#[test]
fn a_refused_revision_is_looked_at_again_when_the_file_changes() {
    let machine = machine(&["ann"]);
    let revision = push(&machine, Some("bob"), "1");
    assert_refused(&machine, "does not list");
    list(&machine, &["ann", "bob"]);
    assert_applied(&machine, &revision);
}

#[test]
fn a_key_that_is_removed_stops_what_waits_and_what_is_tried_again() {
    let machine = machine(&["ann", "bob"]);
    set(&machine, "window = [\"2001-01-01\"]");
    let revision = push(&machine, Some("bob"), "1");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "behind");
    list(&machine, &["ann"]);
    assert_refused(&machine, "does not list");
    // Removed and added again.
    list(&machine, &["ann", "bob"]);
    set(&machine, "");
    assert_applied(&machine, &revision);

    sign_with(&machine, Some("bob"));
    machine.push("ops", &[("work.sh", "exit 3\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing");
    list(&machine, &["ann"]);
    machine.wait_is_over("ops");
    let runs = machine.row("ops")["attempt"].clone();
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["attempt"], runs, "{row:#}");
    let states = row["conditions"].to_string();
    assert!(states.contains("refused"), "{row:#}");
}

#[test]
fn what_was_applied_stays_when_its_key_goes_and_is_run_again() {
    let machine = machine(&["ann", "bob"]);
    let revision = push(&machine, Some("bob"), "1");
    assert_applied(&machine, &revision);
    list(&machine, &["ann"]);
    assert_applied(&machine, &revision);
    let runs = machine.runs().len();
    machine.agent(&["redo", "ops"]).ok();
    assert!(machine.runs().len() > runs);
    assert_applied(&machine, &push(&machine, Some("ann"), "2"));
}

#[test]
fn a_shallow_clone_cannot_be_judged() {
    let machine = machine(&["ann"]);
    set(&machine, "depth = 1");
    let shown = machine.agent(&["check", "--offline"]).exits(2);
    let text = format!("{}{}", shown.stdout, shown.stderr);
    assert!(text.contains("\"depth\" and \"allowed_signers\" contradict each other"), "{text}");
    machine.configure("[repo.ops]\nsigned_since = \"0123456789012345678901234567890123456789\"\n");
    let shown = machine.agent(&["check", "--offline"]).exits(2);
    let text = format!("{}{}", shown.stdout, shown.stderr);
    assert!(text.contains("\"signed_since\" does nothing without \"allowed_signers\""), "{text}");
}

#[test]
fn check_counts_the_keys_and_warns_of_one_and_of_ends() {
    let machine = machine(&["ann"]);
    let check = || machine.agent(&["check", "--offline"]).stdout;
    assert!(check().contains("has one key that may sign"), "{}", check());
    list(&machine, &["ann", "bob", "eve namespaces=\"file\""]);
    assert!(check().contains("has 2 keys that may sign"), "{}", check());
    let soon = chrono::Utc::now() + chrono::TimeDelta::days(30);
    let soon = format!("ann valid-before=\"{}Z\"", soon.format("%Y%m%d"));
    list(&machine, &[&soon, "bob"]);
    let shown = check();
    assert!(shown.contains("the key of ann@example.org in line 1 of "), "{shown}");
    list(&machine, &[]);
    assert!(check().contains("has no key that may sign"), "{}", check());
}

#[test]
fn an_idle_tick_reads_the_file_once_for_all_repositories_and_writes_nothing() {
    let machine = machine(&["ann"]);
    machine.git(
        &machine.path(""),
        &["clone", "-q", text(&machine.server("ops")), text(&machine.clone_of("web"))],
    );
    machine.configure("");
    machine.tick().ok();
    let file = signers_file(&machine);
    machine.configure(&format!("[defaults]\nallowed_signers = {:?}\n", text(&file)));
    machine.tick().ok();
    machine.tick().ok();
    let calls = calls_of_a_tick(&machine);
    let reads =
        calls.iter().filter(|call| call.contains("open") && call.contains("/signers\"")).count();
    assert_eq!(reads, 1, "{calls:#?}");
    let starts = calls.iter().filter(|call| call.starts_with("execve")).count();
    assert_eq!(starts, 1, "{calls:#?}");
    let written: Vec<_> = calls.iter().filter(|call| writes(call)).collect();
    assert!(written.iter().all(|call| call.contains("last-tick")), "{written:#?}");
}
