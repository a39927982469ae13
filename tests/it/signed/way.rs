//! Which commits have to be signed.

use std::fs;

use super::{
    assert_applied, assert_refused, commit, fingerprint, list, machine, make_key, push, push_head,
    set, sign_with, signers_file,
};
use crate::sandbox::{Ran, Sandbox, text};

#[test]
fn what_a_listed_key_signed_is_applied_and_what_is_not_signed_is_refused() {
    let machine = machine(&["ann", "bob"]);
    let signed = push(&machine, Some("ann"), "1");
    assert_applied(&machine, &signed);
    let bare = push(&machine, None, "2");
    assert_refused(&machine, &format!("{} Release 2 is not signed", &bare[..7]));
    let more = push(&machine, Some("ann"), "3");
    assert_refused(&machine, &format!("{} Release 2 is not signed", &bare[..7]));
    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", &signed]);
    let mended = push(&machine, Some("bob"), "4");
    assert_ne!(mended, more);
    assert_applied(&machine, &mended);
}

#[test]
fn a_stranger_and_a_changed_commit_are_refused_by_name() {
    let machine = machine(&["ann"]);
    let strange = push(&machine, Some("eve"), "1");
    let reason = format!(
        "{} Release 1 is signed by {}, which {} does not list",
        &strange[..7],
        fingerprint(&machine, "eve"),
        text(&signers_file(&machine))
    );
    assert_refused(&machine, &reason);
    let desk = machine.desk("ops");
    machine.git(&desk, &["reset", "--quiet", "--hard", "HEAD^"]);
    let signed = commit(&machine, Some("ann"), "2");
    // The same commit and signature, with another message.
    let object = machine.git(&desk, &["cat-file", "commit", &signed]);
    fs::write(machine.path("object"), object.replace("Release 2", "Release 9") + "\n").unwrap();
    let file = machine.path("object");
    let changed = machine.git(&desk, &["hash-object", "-t", "commit", "-w", text(&file)]);
    machine.git(&desk, &["reset", "--quiet", "--hard", &changed]);
    push_head(&machine, "main");
    assert_refused(&machine, "Release 9 has a wrong signature by SHA256:");
}

#[test]
fn keys_of_each_kind_that_git_signs_with_count() {
    let machine = machine(&[]);
    let kinds: [(&str, &[&str]); 4] = [
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("rsa2048", &["-t", "rsa", "-b", "2048"]),
        ("rsa4096", &["-t", "rsa", "-b", "4096"]),
    ];
    for (name, kind) in kinds {
        make_key(&machine, name, kind);
    }
    list(&machine, &kinds.map(|(name, _)| name));
    for (name, _) in kinds {
        let revision = push(&machine, Some(name), name);
        assert_applied(&machine, &revision);
    }
}

#[test]
fn a_signed_merge_vouches_for_what_is_below_it() {
    let machine = machine(&["ann"]);
    let desk = machine.desk("ops");
    assert_applied(&machine, &push(&machine, Some("ann"), "1"));
    machine.git(&desk, &["switch", "--quiet", "-c", "topic"]);
    commit(&machine, None, "topic");
    machine.git(&desk, &["switch", "--quiet", "main"]);
    sign_with(&machine, Some("ann"));
    machine.git(&desk, &["merge", "--quiet", "--no-ff", "-m", "Merge topic", "topic"]);
    push_head(&machine, "main");
    let merge = machine.git(&desk, &["rev-parse", "HEAD"]);
    assert_applied(&machine, &merge);
    // Nothing vouches for the merged commit as a revision of its own.
    machine.git(&desk, &["push", "--quiet", "origin", "topic"]);
    machine.git(&machine.server("ops"), &["update-ref", "refs/heads/main", "refs/heads/topic"]);
    set(&machine, "rewritten = \"follow\"");
    machine.answered_twice("ops", "refs/heads/main");
    assert_refused(&machine, "Release topic is not signed");
}

#[test]
fn where_first_parents_do_not_lead_there_every_commit_between_counts() {
    let machine = machine(&["ann"]);
    let desk = machine.desk("ops");
    assert_applied(&machine, &push(&machine, Some("ann"), "1"));
    // A merge whose first parent is somebody's own line, which is not signed.
    machine.git(&desk, &["switch", "--quiet", "-c", "own", "HEAD^"]);
    let own = commit(&machine, None, "own");
    sign_with(&machine, Some("ann"));
    machine.git(&desk, &["merge", "--quiet", "--no-ff", "-m", "Foxtrot", "main"]);
    push_head(&machine, "main");
    assert_refused(&machine, &format!("{} Release own is not signed", &own[..7]));
    // All of it signed.
    machine.git(&desk, &["switch", "--quiet", "-C", "own", "main^"]);
    commit(&machine, Some("ann"), "own");
    machine.git(&desk, &["merge", "--quiet", "--no-ff", "-m", "Foxtrot", "main"]);
    push_head(&machine, "main");
    assert_applied(&machine, &machine.git(&desk, &["rev-parse", "HEAD"]));
}

#[test]
fn a_first_clone_takes_the_tip_alone_and_since_a_commit_all_after_it() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("work.sh", "true\n")]);
    let desk = machine.desk("ops");
    make_key(&machine, "ann", &["-t", "ed25519"]);
    list(&machine, &["ann"]);
    let first = commit(&machine, Some("ann"), "1");
    commit(&machine, None, "2");
    let tip = push(&machine, Some("ann"), "3");
    let signers = signers_file(&machine);
    let init = |name: &str, since: &str| {
        let address = format!("{name}={}", text(&machine.server("ops")));
        let arguments =
            ["init", &address, "--schedule", "none", "--allowed-signers", text(&signers)];
        machine.agent(
            &[&arguments[..], &["--since", since][..if since.is_empty() { 0 } else { 2 }]].concat(),
        )
    };
    init("plain", "").ok();
    assert_eq!(machine.lastaction("plain"), Some(tip.clone()));
    // The second commit is not signed.
    init("since", &first).exits(1);
    let row = machine.row("since");
    assert!(row["reason"].as_str().unwrap().contains("Release 2 is not signed"), "{row:#}");
    // One that the tip does not descend from.
    let tree = machine.git(&desk, &["rev-parse", "HEAD^{tree}"]);
    let other = machine.git(&desk, &["commit-tree", &tree, "-m", "Other"]);
    init("other", &other).exits(1);
    let row = machine.row("other");
    let reason = format!("{} Release 3 does not descend from {}", &tip[..7], &other[..7]);
    assert!(row["reason"].as_str().unwrap().contains(&reason), "{row:#}");
    init("tip", &tip).ok();
    assert_eq!(machine.lastaction("tip"), Some(tip));
}

#[test]
fn lost_state_cannot_be_used_to_go_back() {
    let machine = machine(&["ann"]);
    let old = push(&machine, Some("ann"), "1");
    assert_applied(&machine, &old);
    assert_applied(&machine, &push(&machine, Some("ann"), "2"));
    for file in ["state", "poll", "history"] {
        fs::remove_file(machine.private("ops", file)).unwrap();
    }
    fs::remove_file(machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt")).unwrap();
    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", &old]);
    push_head(&machine, "main");
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
}

#[test]
fn an_expired_key_that_backdates_is_refused_and_a_late_machine_still_comes_forward() {
    let machine = machine(&["ann", "bob valid-before=\"20260101Z\""]);
    let desk = machine.desk("ops");
    let dated = |key: &str, page: &str, at: &str| {
        sign_with(&machine, Some(key));
        fs::write(desk.join(page), page).unwrap();
        machine.git(&desk, &["add", "--all"]);
        let mut git = machine.command("git");
        git.current_dir(&desk).env("GIT_COMMITTER_DATE", at).env("GIT_AUTHOR_DATE", at);
        Ran::of(git.args(["commit", "--quiet", "-m", &format!("Release {page}")])).ok();
        push_head(&machine, "main");
        machine.git(&desk, &["rev-parse", "HEAD"])
    };
    // The machine is late: what it accepted last is older than the end of the key.
    machine.git(&desk, &["checkout", "--quiet", "--orphan", "late"]);
    let base = dated("ann", "base", "2025-06-01T00:00:00Z");
    machine.agent(&["accept", "ops", &base]).exits(1);
    machine.tick().exits(1);
    machine.agent(&["accept", "ops", &base, "a new line"]).ok();
    let while_valid = dated("bob", "1", "2025-12-01T00:00:00Z");
    assert_applied(&machine, &while_valid);
    assert_applied(&machine, &dated("ann", "2", "2026-02-01T00:00:00Z"));
    dated("bob", "3", "2025-12-02T00:00:00Z");
    assert_refused(&machine, "lists until 2026-01-01 00:00 UTC");
}

#[test]
fn grafts_shallow_and_replace_refs_change_nothing() {
    let machine = machine(&["ann"]);
    let clone = machine.clone_of("ops");
    let good = push(&machine, Some("ann"), "1");
    assert_applied(&machine, &good);
    let bare = commit(&machine, None, "2");
    let tip = push(&machine, Some("ann"), "3");
    machine.git(&clone, &["fetch", "--quiet", "origin"]);
    // Each would hide the commit that is not signed from a reader who believes it.
    machine.git(&clone, &["replace", &bare, &good]);
    fs::create_dir_all(clone.join(".git/info")).unwrap();
    fs::write(clone.join(".git/info/grafts"), format!("{tip} {good}\n")).unwrap();
    assert_refused(&machine, &format!("{} Release 2 is not signed", &bare[..7]));
}

#[test]
fn what_is_found_before_anything_of_the_tree_is_read_is_its_signature() {
    let machine = machine(&["ann"]);
    sign_with(&machine, None);
    // A file that cannot be understood, for which the revision would be refused as well.
    machine.push_with("ops", |desk| {
        fs::write(desk.join(".pmpy.toml"), "when = 7\n").unwrap();
    });
    assert_refused(&machine, "is not signed");
}

#[test]
fn local_commits_and_merges_of_our_own_are_judged_by_upstreams_tip_below_them() {
    let machine = machine(&["ann"]);
    let clone = machine.clone_of("ops");
    set(&machine, "update = \"merge\"");
    fs::write(clone.join("local"), "").unwrap();
    machine.git(&clone, &["add", "local"]);
    machine.git(&clone, &["commit", "--quiet", "-m", "Of this machine"]);
    machine.tick().ok();
    let signed = push(&machine, Some("ann"), "1");
    machine.tick().ok();
    assert!(clone.join("1").exists() && clone.join("local").exists());
    let merge = machine.head("ops");
    assert_ne!(merge, signed);
    machine.agent(&["redo", "ops"]).ok();
    push(&machine, None, "2");
    assert_refused(&machine, "Release 2 is not signed");
    assert_eq!(machine.head("ops"), merge);
}
