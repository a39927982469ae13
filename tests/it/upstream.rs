//! Which branch of which remote a clone follows that git made: what `git pull` would take there.

use std::fs;
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

mod family;

/// A machine with `ops`, whose server has `main` and `production`, one commit apart. Nothing has ticked.
fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let desk = machine.desk("ops");
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/production"]);
    push(&machine, "main", "unreleased");
    machine.git(&machine.clone_of("ops"), &["fetch", "--quiet"]);
    machine
}

/// Pushes a commit to `branch` of `ops`, on top of what that has; its revision.
fn push(machine: &Sandbox, branch: &str, page: &str) -> String {
    let (desk, server) = (machine.desk("ops"), machine.server("ops"));
    let tip = machine.git(&server, &["rev-parse", &format!("refs/heads/{branch}")]);
    machine.git(&desk, &["checkout", "--quiet", "--detach", &tip]);
    fs::write(desk.join(page), "new\n").unwrap();
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "--message", page]);
    machine.git(&desk, &["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]);
    machine.git(&desk, &["rev-parse", "HEAD"])
}

/// What HEAD of the clone names.
fn checked_out(machine: &Sandbox) -> String {
    machine.git(&machine.clone_of("ops"), &["symbolic-ref", "--short", "HEAD"])
}

fn reason(machine: &Sandbox) -> String {
    machine.row("ops")["reason"].as_str().unwrap_or_default().to_owned()
}

/// Deletes a branch at the server.
fn delete(machine: &Sandbox, branch: &str) {
    machine.git(&machine.server("ops"), &["update-ref", "-d", &format!("refs/heads/{branch}")]);
}

#[test]
fn a_branch_that_tracks_another_name_follows_that_one_and_keeps_its_own() {
    let machine = machine();
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["checkout", "--quiet", "-b", "live", "--track", "origin/production"]);
    machine.git(&clone, &["branch", "--quiet", "-D", "main"]);
    machine.tick().ok();
    for page in ["first", "second"] {
        let revision = push(&machine, "production", page);
        push(&machine, "main", page);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision));
        assert_eq!(checked_out(&machine), "live");
        assert_eq!(machine.row("ops")["branch"], "production");
        assert!(!clone.join("unreleased").exists());
        assert_eq!(
            machine.git(&clone, &["status", "--short", "--branch"]),
            "## live...origin/production"
        );
    }
}

#[test]
fn a_branch_that_tracks_another_remote_follows_that_one() {
    let machine = machine();
    let (clone, backup) = (machine.clone_of("ops"), machine.path("server/backup.git"));
    let server = machine.server("ops");
    machine.git(&clone, &["clone", "--quiet", "--bare", text(&server), text(&backup)]);
    machine.git(&clone, &["remote", "add", "backup", text(&backup)]);
    machine.git(&clone, &["fetch", "--quiet", "backup"]);
    machine.git(&clone, &["checkout", "--quiet", "-b", "live", "--track", "backup/production"]);
    machine.tick().ok();
    let origin = machine.git(&clone, &["rev-parse", "origin/production"]);
    push(&machine, "production", "only at origin");
    let tree = machine.git(&backup, &["rev-parse", "production^{tree}"]);
    let next = machine.git(&backup, &["commit-tree", &tree, "-p", "production", "-m", "x"]);
    machine.git(&backup, &["update-ref", "refs/heads/production", &next]);
    machine.tick().ok();
    assert_eq!(machine.head("ops"), next);
    assert_eq!(machine.git(&clone, &["rev-parse", "origin/production"]), origin);
    assert_eq!(machine.git(&clone, &["rev-parse", "backup/production"]), next);
}

#[test]
fn a_local_branch_without_an_upstream_is_broken_until_it_has_one() {
    let machine = machine();
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["checkout", "--quiet", "-b", "mine", "origin/production", "--no-track"]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "broken");
    assert!(
        reason(&machine).contains("the branch mine has no upstream here"),
        "{}",
        reason(&machine)
    );
    assert!(reason(&machine).contains("branch --set-upstream-to=origin/"), "{}", reason(&machine));
    assert_eq!(checked_out(&machine), "mine");
    machine.git(&clone, &["branch", "--quiet", "--set-upstream-to=origin/production"]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_branch_of_the_same_name_is_followed_where_no_upstream_is_set_and_explain_says_so() {
    let machine = machine();
    let clone = machine.clone_of("ops");
    machine.git(
        &clone,
        &["checkout", "--quiet", "-b", "production", "origin/production", "--no-track"],
    );
    let revision = push(&machine, "production", "new");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    assert!(explained.contains("names no upstream for production"), "{explained}");
}

#[test]
fn an_upstream_that_is_no_branch_of_a_remote_is_broken_and_nothing_moves() {
    for (key, value, words) in [
        ("branch.main.remote", ".", "another branch of this same clone"),
        ("branch.main.merge", "refs/tags/v1", "refs/tags/v1, which is no branch"),
    ] {
        let machine = machine();
        let head = machine.head("ops");
        machine.git(&machine.clone_of("ops"), &["config", key, value]);
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "broken");
        assert!(reason(&machine).contains(words), "{}", reason(&machine));
        assert_eq!(machine.head("ops"), head);
    }
}

#[test]
fn a_production_branch_that_goes_upstream_never_leads_to_the_default_branch() {
    for configuration in ["", "[repo.ops]\nbranch = \"production\"\n"] {
        let machine = machine();
        let clone = machine.clone_of("ops");
        machine.git(&clone, &["checkout", "--quiet", "-b", "production", "origin/production"]);
        machine.configure(configuration);
        machine.tick().ok();
        let good = machine.head("ops");
        delete(&machine, "production");
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
        assert!(reason(&machine).contains("answers without production; asked again"));
        machine.tick().ok();
        machine.answered_twice("ops", "refs/heads/production");
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "no-ref");
        assert!(reason(&machine).contains("has no branch production; it has main"));
        assert_eq!(machine.head("ops"), good);
        assert_eq!(checked_out(&machine), "production");
        assert_eq!(machine.lastaction("ops").as_ref(), Some(&good));
        machine.git(&machine.server("ops"), &["update-ref", "refs/heads/production", &good]);
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
    }
}

#[test]
fn three_answers_within_two_minutes_are_not_enough_and_a_named_tick_is() {
    let machine = machine();
    machine.tick().ok();
    let (head, server) = (machine.head("ops"), machine.server("ops"));
    machine.git(&server, &["update-ref", "refs/heads/main", "refs/heads/production"]);
    for _ in 0..4 {
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
        assert!(reason(&machine).contains("answers with an older main; asked again"));
    }
    machine.agent(&["tick", "--trigger", "cron", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current");
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    assert!(reason(&machine).contains("to go back to the older one: agent accept"));
    assert_eq!(machine.head("ops"), head);
}

#[test]
fn a_lagging_backend_moves_nothing_and_takes_nothing_away() {
    let machine = machine();
    let (server, target) = (machine.server("ops"), machine.path("published"));
    fs::create_dir(&target).unwrap();
    machine.configure(&format!(
        "[repo.site]\nurl = {0:?}\nmode = \"branches\"\ntarget = {1:?}\n[repo.other]\nurl = {0:?}\n",
        text(&server),
        text(&target)
    ));
    machine.tick().ok();
    let (newer, older) = (machine.path("server/newer"), machine.path("server/older"));
    machine.git(&target, &["clone", "--quiet", "--bare", text(&server), text(&older)]);
    let revision = push(&machine, "main", "new");
    machine.git(&server, &["branch", "topic", "main"]);
    machine.tick().ok();
    fs::rename(&server, &newer).unwrap();
    for round in 0..8 {
        let _ = fs::remove_file(&server);
        let backend = if round % 3 == 2 { &newer } else { &older };
        std::os::unix::fs::symlink(backend, &server).unwrap();
        let ran = machine.tick().ok();
        assert_eq!(ran.stdout + &ran.stderr, "");
        for name in ["ops", "site", "other"] {
            assert_eq!(machine.lastaction(name).as_ref(), Some(&revision), "{name}");
            assert_eq!(machine.state(name), "current");
        }
        assert!(target.join("main/new").exists() && target.join("topic/new").exists());
    }
    assert!(reason(&machine).contains("asked again"));
}

#[test]
fn a_default_branch_whose_new_name_is_below_the_old_one_is_followed() {
    for (before, after) in [("main", "main/v2"), ("main/v1", "main")] {
        let machine = machine();
        let (server, clone) = (machine.server("ops"), machine.clone_of("ops"));
        if before != "main" {
            machine.git(&server, &["branch", "--move", "main", before]);
            machine.git(&clone, &["remote", "prune", "origin"]);
            machine.git(&clone, &["branch", "--move", "main", before]);
            machine.git(&clone, &["fetch", "--quiet"]);
            let merge = format!("branch.{before}.merge");
            machine.git(&clone, &["config", &merge, &format!("refs/heads/{before}")]);
        }
        machine.tick().ok();
        machine.git(&server, &["branch", "--move", before, after]);
        machine.answered_twice("ops", &format!("refs/heads/{before}"));
        machine.tick().ok();
        let revision = push(&machine, after, "under its new name");
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
        assert_eq!(checked_out(&machine), after);
        assert_eq!(machine.row("ops")["branch"], after);
        assert_eq!(machine.differences("ops"), "");
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
    }
}

#[test]
fn another_head_of_the_remote_moves_no_machine() {
    let machine = machine();
    machine.tick().ok();
    machine.git(&machine.server("ops"), &["symbolic-ref", "HEAD", "refs/heads/production"]);
    let revision = push(&machine, "main", "new");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    // Deleted now, it was not the default branch when it was last seen.
    delete(&machine, "main");
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    assert_eq!((machine.state("ops").as_str(), checked_out(&machine).as_str()), ("no-ref", "main"));
}

#[test]
fn a_head_of_the_remote_that_names_nothing_or_is_detached_is_no_ref() {
    for is_detached in [false, true] {
        let machine = machine();
        let server = machine.server("ops");
        fs::remove_dir_all(machine.clone_of("ops")).unwrap();
        match is_detached {
            true => drop(machine.git(&server, &["update-ref", "--no-deref", "HEAD", "HEAD"])),
            false => drop(machine.git(&server, &["symbolic-ref", "HEAD", "refs/heads/master"])),
        }
        if is_detached {
            let head = machine.git(&server, &["rev-parse", "main"]);
            fs::write(server.join("HEAD"), format!("{head}\n")).unwrap();
        }
        machine.configure(&format!("[repo.ops]\nurl = {:?}\n", text(&server)));
        for _ in 0..2 {
            machine.tick().exits(1);
            assert_eq!(machine.state("ops"), "no-ref");
            assert!(reason(&machine).contains("it has main, production"), "{}", reason(&machine));
        }
        let checked = machine.agent(&["check"]).stdout;
        assert!(checked.contains("names no branch that is there; it has main"), "{checked}");
        assert!(!machine.clone_of("ops").exists());
        machine.agent(&["explain", "ops"]).ok();
        machine.git(&server, &["symbolic-ref", "HEAD", "refs/heads/main"]);
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
    }
}

#[test]
fn several_urls_of_a_remote_are_asked_in_their_order_and_a_relative_one_counts_from_the_clone() {
    let machine = machine();
    let (clone, second) = (machine.clone_of("ops"), machine.path("server/second.git"));
    machine
        .git(&clone, &["clone", "--quiet", "--bare", text(&machine.server("ops")), text(&second)]);
    machine.git(&clone, &["remote", "set-url", "origin", "../../server/ops.git"]);
    machine.git(&clone, &["remote", "set-url", "--add", "origin", text(&second)]);
    let revision = push(&machine, "main", "new");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn what_is_not_used_of_the_configuration_is_named() {
    let machine = machine();
    let clone = machine.clone_of("ops");
    for (key, value) in [
        ("core.sshCommand", "ssh -p 2222"),
        ("credential.helper", "store"),
        ("http.proxy", "http://proxy.example.org"),
        ("url.https://user:secret@example.org/.insteadOf", "https://example.org/"),
    ] {
        machine.git(&clone, &["config", key, value]);
    }
    fs::create_dir_all(clone.join(".git/hooks")).unwrap();
    fs::write(clone.join(".git/hooks/post-merge"), "#!/bin/sh\n").unwrap();
    crate::sandbox::set_mode(&clone.join(".git/hooks/post-merge"), 0o755);
    machine.tick().ok();
    for said in [machine.agent(&["check"]).stdout, machine.agent(&["explain", "ops"]).ok().stdout] {
        let words =
            "core.sshcommand, credential.helper, http.proxy, the hook post-merge, url.*.insteadof";
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    machine.tick();
    assert_eq!(machine.state("ops"), "unreachable");
    assert!(reason(&machine).contains("url.*.insteadof"), "{}", reason(&machine));
}
