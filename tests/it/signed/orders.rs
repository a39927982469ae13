//! What people order while signatures count: they go only to what was accepted here, and `accept` alone passes.

use std::fs;

use super::{
    assert_applied, assert_refused, commit, fingerprint, list, machine, push, push_head, set,
};
use crate::sandbox::{Sandbox, text};

#[test]
fn accept_takes_what_is_not_signed_and_is_recorded_with_its_reason() {
    let machine = machine(&["ann"]);
    let bare = push(&machine, None, "1");
    assert_refused(&machine, &format!("agent accept ops {bare} REASON"));
    machine.agent(&["tick", "ops", "--override", "now"]).exits(1);
    assert_eq!(machine.state("ops"), "refused");
    machine.agent(&["accept", "ops", &bare, "looked", "at", "it"]).ok();
    assert_eq!((machine.state("ops").as_str(), machine.lastaction("ops")), ("current", Some(bare)));
    let history = machine.agent(&["history", "ops"]).ok().stdout;
    assert!(history.contains("accept") && history.contains("looked at it"), "{history}");
    // It is where the next way begins.
    assert_applied(&machine, &push(&machine, Some("ann"), "2"));
    push(&machine, None, "3");
    assert_refused(&machine, "Release 3 is not signed");
}

#[test]
fn rollback_and_redo_lead_only_to_what_was_accepted_here() {
    let machine = machine(&["ann"]);
    let clone = machine.clone_of("ops");
    let (first, start) = (push(&machine, Some("ann"), "1"), machine.head("ops"));
    assert_applied(&machine, &first);
    assert_applied(&machine, &push(&machine, Some("ann"), "2"));
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), first);
    machine.agent(&["rollback", "ops", &start]).ok();
    assert_eq!(machine.head("ops"), start);
    machine.agent(&["unhold", "ops"]).ok();
    machine.tick().ok();
    let bare = push(&machine, None, "3");
    machine.tick().exits(1);
    let before = machine.head("ops");
    let refused = machine.agent(&["rollback", "ops", &bare]).exits(1);
    let reason = format!("{} Release 3 was never accepted here", &bare[..7]);
    assert!(refused.stderr.contains(&reason), "{refused}");
    assert_eq!(machine.head("ops"), before);
    // Moved there by hand.
    machine.git(&clone, &["reset", "--quiet", "--hard", &bare]);
    let runs = machine.runs();
    let refused = machine.agent(&["redo", "ops"]).exits(1);
    assert!(refused.stderr.contains("was never accepted here"), "{refused}");
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), machine.runs()), ("refused", runs.clone()));
    fs::remove_file(clone.join(".temp/nodeinfo/lastaction.txt")).unwrap();
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), machine.runs()), ("refused", runs));
}

#[test]
fn checkout_leads_only_to_what_was_accepted_here() {
    let machine = machine(&["ann"]);
    let target = machine.path("site");
    let page = |page: &str| target.join(page).exists();
    set(&machine, &format!("mode = \"checkout\"\ntarget = {:?}", text(&target)));
    let good = push(&machine, Some("ann"), "1");
    assert_applied(&machine, &good);
    assert_applied(&machine, &push(&machine, Some("ann"), "2"));
    commit(&machine, None, "other");
    push_head(&machine, "other");
    let refused = machine.agent(&["checkout", "ops", "other"]).exits(1);
    assert!(refused.stderr.contains("Release other was never accepted here"), "{refused}");
    let elsewhere = machine.path("elsewhere");
    let refused = machine.agent(&["checkout", "ops", "other", "--to", text(&elsewhere)]).exits(1);
    assert!(refused.stderr.contains("was never accepted here"), "{refused}");
    assert!(page("2") && !page("other") && !elsewhere.exists());
    machine.agent(&["checkout", "ops", &good]).ok();
    assert!(page("1") && !page("2"));
}

#[test]
fn status_history_and_explain_tell_who_signed() {
    let machine = machine(&["ann", "bob"]);
    let ann = format!("ann@example.org ({})", fingerprint(&machine, "ann"));
    push(&machine, Some("bob"), "1");
    let revision = push(&machine, Some("ann"), "2");
    set(&machine, "window = [\"2001-01-01\"]");
    machine.tick().ok();
    let explained = machine.agent(&["explain", "ops"]).stdout;
    let line = format!("allowed_signers is signed by {ann}, and 1 commits before it are signed");
    assert!(explained.contains(&line), "{explained}");
    set(&machine, "");
    assert_applied(&machine, &revision);
    let status = machine.agent(&["status", "-v"]).ok().stdout;
    assert!(status.contains(&ann), "{status}");
    let history = machine.agent(&["history", "ops", "--json"]).ok().stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history[0]["signer"]["principals"], "ann@example.org", "{history:#}");
    push(&machine, None, "3");
    machine.tick().exits(1);
    let explained = machine.agent(&["explain", "ops"]).stdout;
    assert!(explained.contains("is not signed"), "{explained}");
    assert_hints(&machine, &explained);
    list(&machine, &["ann"]);
}

/// What is printed says how to go on.
#[track_caller]
fn assert_hints(machine: &Sandbox, explained: &str) {
    let status = machine.agent(&["status"]).stdout;
    assert!(status.contains("sign it and push it again"), "{status}");
    assert!(explained.contains("agent accept ops"), "{explained}");
}
