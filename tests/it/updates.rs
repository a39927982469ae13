//! How upstream's commits come into the worktree, what is refused, and what people do by hand.

use std::fs;
use std::time::SystemTime;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text, wait_until};

/// A machine with `ops` that has ticked once, under this `agent.toml`.
fn machine(agent: &str) -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.configure(agent);
    machine.tick().ok();
    machine
}

/// Commits `files` in the machine's clone, as an administrator would.
fn commit_locally(machine: &Sandbox, files: &[(&str, &str)]) -> String {
    let clone = machine.clone_of("ops");
    for (path, content) in files {
        fs::write(clone.join(path), content).unwrap();
    }
    machine.git(&clone, &["add", "--all"]);
    machine.git(&clone, &["commit", "--quiet", "--allow-empty", "-m", "local"]);
    machine.head("ops")
}

/// Replaces the last commit at the server by another one with `page` as given.
fn rewrite(machine: &Sandbox, page: &str) -> String {
    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", "HEAD~1"]);
    machine.push("ops", &[("page", page)])
}

/// The refs that keep what left the branch.
fn saved(machine: &Sandbox) -> Vec<String> {
    let list = machine.git(
        &machine.clone_of("ops"),
        &["for-each-ref", "--format=%(objectname)", "refs/pmpy/saved/"],
    );
    list.lines().map(str::to_owned).collect()
}

/// How many actions ended.
fn ended(machine: &Sandbox) -> usize {
    machine.runs().iter().filter(|run| run.starts_with("end ")).count()
}

#[test]
fn a_fast_forward_moves_branch_worktree_and_index_and_leaves_no_trace() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n"), ("dir/new", "x\n")]);
    let revision = machine.push_with("ops", |desk| fs::remove_file(desk.join("page")).unwrap());
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    assert_eq!(machine.head("ops"), revision);
    assert_eq!(machine.git(&clone, &["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(machine.git(&clone, &["rev-parse", "origin/main"]), revision);
    assert_eq!(machine.differences("ops"), "");
    assert!(!clone.join("page").exists());
    machine.git(&clone, &["fsck", "--strict"]);
}

#[test]
fn only_the_last_of_several_revisions_is_applied() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n")]);
    let last = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    assert_eq!(ended(&machine), 2);
    assert_eq!(machine.lastaction("ops"), Some(last));
}

#[test]
fn a_merge_is_a_true_merge_commit_by_the_agent() {
    let machine = machine("[repo.ops]\nupdate = \"merge\"\n");
    let local = commit_locally(&machine, &[("mine", "local\n")]);
    let upstream = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    let show = machine.git(&clone, &["show", "-s", "--format=%P|%an|%ae|%cn", "HEAD"]);
    let host = Ran::of(machine.command("uname").arg("-n")).ok().stdout;
    assert_eq!(show, format!("{local} {upstream}|agent|agent@{}|agent", host.trim()));
    assert_eq!(fs::read_to_string(clone.join("mine")).unwrap(), "local\n");
    assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "two\n");
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    assert_eq!(machine.differences("ops"), "");
    assert_eq!(machine.state("ops"), "ahead");
    machine.tick().ok();
    assert_eq!(ended(&machine), 2, "the merge itself is no news");

    let upstream = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    let parents = machine.git(&clone, &["show", "-s", "--format=%P", "HEAD"]);
    assert!(parents.ends_with(&upstream), "{parents}");
}

#[test]
fn a_conflict_leaves_everything_as_it_was_and_names_the_file() {
    let machine = machine("[repo.ops]\nupdate = \"merge\"\n");
    let local = commit_locally(&machine, &[("page", "mine\n")]);
    machine.tick().ok();
    let runs = machine.runs();
    machine.push("ops", &[("page", "theirs\n")]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "diverged");
    assert_eq!(row["reason"], "the merge has conflicts in page");
    assert_eq!(machine.head("ops"), local);
    assert_eq!(machine.differences("ops"), "");
    assert_eq!(fs::read_to_string(machine.clone_of("ops").join("page")).unwrap(), "mine\n");
    assert_eq!(machine.runs(), runs);

    machine.push("ops", &[("page", "one\n"), ("other", "x\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "ahead", "the next commit without a conflict is merged");
}

#[test]
fn a_conflict_ends_when_reset_is_configured_instead() {
    let machine = machine("[repo.ops]\nupdate = \"merge\"\n");
    let local = commit_locally(&machine, &[("page", "mine\n")]);
    let upstream = machine.push("ops", &[("page", "theirs\n")]);
    machine.tick().exits(1);
    machine.configure("[repo.ops]\nupdate = \"reset\"\n");
    machine.tick().ok();
    assert_eq!(machine.head("ops"), upstream);
    assert_eq!(saved(&machine), [local]);
}

#[test]
fn a_merge_that_local_changes_are_in_the_way_of_makes_no_new_commit_each_minute() {
    let machine = machine("[repo.ops]\nupdate = \"merge\"\n");
    commit_locally(&machine, &[("mine", "local\n")]);
    machine.push("ops", &[("page", "two\n")]);
    fs::write(machine.clone_of("ops").join("page"), "dirty\n").unwrap();
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "dirty");
    let objects = || machine.git(&machine.clone_of("ops"), &["count-objects"]);
    let before = objects();
    let second = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let then = second();
    wait_until("the clock has moved on", || second() > then);
    machine.tick().exits(1);
    assert_eq!(objects(), before);
}

#[test]
fn reset_takes_upstream_and_keeps_the_old_head_as_a_ref() {
    let machine = machine("[repo.ops]\nupdate = \"reset\"\n");
    let local = commit_locally(&machine, &[("page", "mine\n"), ("mine", "x\n")]);
    let upstream = machine.push("ops", &[("page", "theirs\n")]);
    machine.tick().ok();
    assert_eq!(machine.head("ops"), upstream);
    assert_eq!(machine.differences("ops"), "");
    assert!(!machine.clone_of("ops").join("mine").exists());
    assert_eq!(saved(&machine), [local]);
}

#[test]
fn reset_takes_local_commits_back_even_without_news() {
    let machine = machine("[repo.ops]\nupdate = \"reset\"\n");
    let before = machine.head("ops");
    commit_locally(&machine, &[("mine", "x\n")]);
    machine.tick().ok();
    assert_eq!(machine.head("ops"), before);
    assert_eq!(saved(&machine).len(), 1);
}

#[test]
fn reset_still_refuses_to_write_over_changes_that_were_never_committed() {
    let machine = machine("[repo.ops]\nupdate = \"reset\"\n");
    fs::write(machine.clone_of("ops").join("page"), "mine\n").unwrap();
    machine.push("ops", &[("page", "theirs\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "dirty");
}

#[test]
fn a_rewritten_revision_is_refused_until_it_is_accepted() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let old = machine.head("ops");
    let tip = rewrite(&machine, "other\n");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    assert_eq!(machine.head("ops"), old);

    let other = "0".repeat(40);
    let refused = machine.agent(&["accept", "ops", &other]).exits(1);
    assert!(refused.stderr.contains(&tip), "{refused}");
    assert_eq!(machine.head("ops"), old);

    machine.agent(&["accept", "ops", &tip]).ok();
    assert_eq!(machine.head("ops"), tip);
    assert_eq!(machine.lastaction("ops"), Some(tip));
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(saved(&machine), [old]);
    machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn an_accepted_revision_stays_accepted_while_its_script_fails() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", "HEAD~1"]);
    let tip = machine.push("ops", &[("work.sh", "exit 1\n")]);
    machine.tick().exits(1);
    machine.agent(&["accept", "ops", &tip]).exits(1);
    assert_eq!(machine.state("ops"), "failing");
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.row("ops")["attempt"], 2);
    assert_eq!(machine.head("ops"), tip);
}

#[test]
fn a_rewritten_upstream_heals_when_it_contains_the_old_revision_again() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let desk = machine.desk("ops");
    let old = machine.head("ops");
    rewrite(&machine, "other\n");
    machine.tick().exits(1);
    machine.git(&desk, &["reset", "--quiet", "--hard", &old]);
    let next = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.lastaction("ops"), Some(next));
}

#[test]
fn a_rewound_upstream_is_rewritten_and_moves_nothing_back() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let head = machine.head("ops");
    let desk = machine.desk("ops");
    machine.git(&desk, &["reset", "--quiet", "--hard", "HEAD~1"]);
    machine.git(&desk, &["push", "--quiet", "--force", "origin", "HEAD:main"]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    assert!(machine.row("ops")["reason"].as_str().unwrap().contains("an older revision"));
    assert_eq!(machine.head("ops"), head);
    let tip = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.agent(&["accept", "ops", &tip[..10]]).ok();
    assert_eq!(machine.head("ops"), tip);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_rewound_upstream_is_noticed_though_the_agent_never_fetched_it() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let desk = machine.desk("ops");
    let first = machine.head("ops");
    machine.push("ops", &[("page", "two\n")]);
    machine.git(&machine.clone_of("ops"), &["pull", "--quiet"]);
    machine.tick().ok();
    machine.git(&desk, &["push", "--quiet", "--force", "origin", &format!("{first}:main")]);
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
}

#[test]
fn a_lost_state_does_not_lose_the_memory_of_what_upstream_had() {
    let machine = machine("");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let head = machine.head("ops");
    for file in ["state", "poll"] {
        fs::write(machine.private("ops", file), "").unwrap();
    }
    rewrite(&machine, "other\n");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten");
    assert_eq!(machine.head("ops"), head);
}

#[test]
fn follow_takes_what_was_rewritten_and_keeps_the_old_head() {
    let machine = machine("[repo.ops]\nrewritten = \"follow\"\n");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let old = machine.head("ops");
    let tip = rewrite(&machine, "other\n");
    machine.tick().ok();
    assert_eq!(machine.head("ops"), tip);
    assert_eq!(machine.lastaction("ops"), Some(tip));
    assert_eq!(saved(&machine), [old]);
    let next = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(next));
    assert_eq!(saved(&machine).len(), 1, "going forward saves nothing");
}

#[test]
fn writing_another_revision_into_lastaction_makes_the_next_tick_act_again() {
    let machine = machine("");
    let first = machine.head("ops");
    let second = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    fs::write(&record, format!("{first}\n")).unwrap();
    assert_eq!(machine.state("ops"), "behind");
    machine.tick().ok();
    assert_eq!(ended(&machine), 3);
    assert_eq!(machine.lastaction("ops"), Some(second));
    machine.tick().ok();
    assert_eq!(ended(&machine), 3);
}

#[test]
fn lastaction_is_the_full_id_and_a_newline_and_readable() {
    let machine = machine("");
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    assert_eq!(fs::read_to_string(record).unwrap(), format!("{}\n", machine.head("ops")));
    let exclude = fs::read_to_string(machine.clone_of("ops").join(".git/info/exclude")).unwrap();
    assert_eq!(exclude.lines().filter(|line| line.contains(".temp")).count(), 1, "{exclude}");
}

#[test]
fn another_branch_in_the_configuration_is_gone_to() {
    let machine = machine("");
    let desk = machine.desk("ops");
    machine.git(&desk, &["checkout", "--quiet", "-b", "live"]);
    fs::write(desk.join("page"), "live\n").unwrap();
    machine.git(&desk, &["commit", "--quiet", "-am", "Live"]);
    machine.git(&desk, &["push", "--quiet", "origin", "live"]);
    let live = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.configure("[repo.ops]\nbranch = \"live\"\n");
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    assert_eq!(machine.lastaction("ops"), Some(live.clone()));
    assert_eq!(machine.row("ops")["branch"], "live");
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.git(&clone, &["symbolic-ref", "HEAD"]), "refs/heads/live");
    assert_eq!(machine.differences("ops"), "");

    machine.configure("[repo.ops]\nbranch = \"main\"\n");
    machine.tick().ok();
    assert_eq!(machine.git(&clone, &["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "one\n");
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_branch_may_be_named_after_the_part_and_the_stack() {
    let machine = machine("");
    let desk = machine.desk("ops");
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/web/shop"]);
    machine.configure(
        "[node]\npart = \"web\"\nstack = \"shop\"\n[repo.ops]\nbranch = \"{part}/{stack}\"\n",
    );
    machine.tick().ok();
    assert_eq!(machine.row("ops")["branch"], "web/shop");
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn the_log_of_the_acted_ref_keeps_each_revision_from_being_collected() {
    let machine = machine("[repo.ops]\nrewritten = \"follow\"\n");
    let mut revisions = vec![machine.head("ops")];
    for page in ["two\n", "three\n"] {
        revisions.push(machine.push("ops", &[("page", page)]));
        machine.tick().ok();
    }
    revisions.push(rewrite(&machine, "other\n"));
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["gc", "--quiet", "--prune=now"]);
    let log = machine.git(&clone, &["reflog", "show", "--format=%H", "refs/pmpy/acted"]);
    let mut acted: Vec<&str> = log.lines().collect();
    acted.reverse();
    assert_eq!(acted, revisions);
    for revision in &revisions {
        machine.git(&clone, &["cat-file", "-e", revision]);
    }
    machine.push("ops", &[("page", "four\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn what_is_configured_and_missing_is_cloned_once_its_server_answers() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let (server, away) = (machine.server("ops"), machine.path("away"));
    fs::rename(&server, &away).unwrap();
    machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n", text(&server)));
    machine.tick().ok();
    let file = machine.root().join(".pmpy/status.json");
    let row = |()| -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        status["repositories"][0].clone()
    };
    let before = row(());
    assert_eq!(before["state"], "unreachable", "{before:#}");
    machine.tick().ok();
    assert_eq!(row(())["since"], before["since"], "it is the same trouble");
    assert_eq!(machine.state("ops"), "unreachable");

    fs::rename(&away, &server).unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(ended(&machine), 1);
    machine.git(&machine.clone_of("ops"), &["fsck", "--strict"]);
    assert_eq!(machine.differences("ops"), "");
}

#[test]
fn a_clone_comes_from_the_first_remote_that_answers() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let (away, server) = (machine.path("away"), machine.server("ops"));
    machine.configure(&format!("[repo.ops]\nurl = [\"{}\", \"{}\"]\n", text(&away), text(&server)));
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn a_default_branch_that_is_renamed_upstream_is_followed() {
    let machine = machine("");
    let (server, desk) = (machine.server("ops"), machine.desk("ops"));
    machine.git(&server, &["branch", "--move", "main", "trunk"]);
    machine.tick().ok();
    assert_eq!(machine.row("ops")["branch"], "main");
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().ok();
    fs::write(desk.join("page"), "two\n").unwrap();
    machine.git(&desk, &["commit", "--quiet", "-am", "On trunk"]);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:trunk"]);
    machine.tick().ok();
    assert_eq!(machine.row("ops")["branch"], "trunk");
    assert_eq!(machine.lastaction("ops"), Some(machine.git(&desk, &["rev-parse", "HEAD"])));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn packed_refs_and_objects_are_no_obstacle() {
    let machine = machine("");
    let (clone, server) = (machine.clone_of("ops"), machine.server("ops"));
    for dir in [&clone, &server] {
        machine.git(dir, &["pack-refs", "--all"]);
        machine.git(dir, &["gc", "--quiet"]);
    }
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.differences("ops"), "");
    machine.git(&clone, &["fsck", "--strict"]);
    assert_eq!(machine.git(&clone, &["rev-parse", "--abbrev-ref", "@{u}"]), "origin/main");
    assert_eq!(machine.git(&clone, &["remote", "get-url", "origin"]), text(&server));
}
