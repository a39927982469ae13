//! `.pmpy.toml`: what a revision may say about itself, and who wins over it.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox};

/// A machine whose repository has `tree` as its `.pmpy.toml`, and `agent.toml`. Nothing ran yet.
fn machine(tree: &str, agent: &str) -> Sandbox {
    let files = [("work.sh", NOTES_ITS_RUNS), ("other.sh", NOTES_OTHER), (".pmpy.toml", tree)];
    let machine = Sandbox::with("ops", &files);
    machine.configure(agent);
    machine
}

const NOTES_OTHER: &str = "echo other >> \"$AGENT_ROOT/../runs\"\n";

/// How often `work.sh` ended.
fn ended(machine: &Sandbox) -> usize {
    machine.runs().iter().filter(|run| run.starts_with("end ")).count()
}

#[test]
fn when_wins_over_the_defaults_and_not_over_the_repository() {
    for (agent, runs) in
        [("", 3), ("[defaults]\nwhen = \"changed\"\n", 3), ("[repo.ops]\nwhen = \"changed\"\n", 1)]
    {
        let machine = machine("when = \"always\"\n", agent);
        for _ in 0..3 {
            machine.tick().ok();
        }
        assert_eq!(ended(&machine), runs, "{agent}");
    }
}

#[test]
fn paths_win_over_the_defaults_and_not_over_the_repository() {
    for (agent, runs) in [
        ("", 1),
        ("[defaults]\npaths = [\"docs/**\"]\n", 1),
        ("[repo.ops]\npaths = [\"docs/**\"]\n", 2),
    ] {
        let machine = machine("paths = [\"web/**\"]\n", agent);
        machine.tick().ok();
        machine.push("ops", &[("docs/page", "new")]);
        machine.tick().ok();
        assert_eq!(ended(&machine), runs, "{agent}");
    }
}

#[test]
fn scripts_win_over_the_defaults_and_not_over_the_repository() {
    for (agent, other) in [
        ("", true),
        ("[defaults]\nscripts = [\"work.sh\"]\n", true),
        ("[repo.ops]\nscripts = [\"work.sh\"]\n", false),
    ] {
        let machine = machine("scripts = [\"other.sh\"]\n", agent);
        machine.tick().ok();
        assert_eq!(machine.runs().contains(&"other".to_owned()), other, "{agent}");
    }
}

#[test]
fn a_timeout_goes_down_and_never_up() {
    let slow = "[ -e \"$AGENT_ROOT/../fast\" ] || sleep 30\n";
    let machine = Sandbox::with("ops", &[("work.sh", slow), (".pmpy.toml", "timeout = \"1s\"\n")]);
    machine.tick().exits(1);
    assert!(machine.row("ops")["reason"].to_string().contains("timed out"));
    machine.configure("[repo.ops]\ntimeout = \"1s\"\n");
    machine.push("ops", &[(".pmpy.toml", "timeout = \"10h\"\n")]);
    machine.tick().exits(1);
    assert!(machine.row("ops")["reason"].to_string().contains("timed out"));
}

#[test]
fn a_hold_stops_the_fleet_at_the_revision_before_until_the_next_commit() {
    let machine = machine("", "");
    machine.tick().ok();
    let good = machine.head("ops");
    machine.push("ops", &[(".pmpy.toml", "hold = \"payday\"\n"), ("page", "new")]);
    machine.tick().ok();
    machine.agent(&["tick", "ops"]).exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "held");
    assert_eq!(row["reason"], "by .pmpy.toml: payday");
    assert_eq!(machine.head("ops"), good);
    assert_eq!(ended(&machine), 1);

    let next = machine.push("ops", &[(".pmpy.toml", "")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(next));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_hold_in_the_first_revision_holds_as_well() {
    let machine = machine("hold = \"not yet\"\n", "");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "held");
    assert_eq!(ended(&machine), 0);
}

#[test]
fn a_held_revision_is_applied_where_a_person_accepts_it() {
    let machine = machine("", "[repo.ops]\nwhen = \"changed\"\n");
    machine.tick().ok();
    let held = machine.push("ops", &[(".pmpy.toml", "hold = \"payday\"\n"), ("page", "new")]);
    machine.tick().ok();
    let said = machine.agent(&["explain", "ops"]).ok().stdout;
    assert!(said.contains(&format!("agent accept ops {held}")), "{said}");
    let said = machine.agent(&["unhold", "ops", "--everybody"]).ok().stdout;
    assert!(said.contains("not held") && said.contains("agent accept ops"), "{said}");
    assert_eq!(machine.state("ops"), "held", "only a commit or accept lifts it");
    machine.agent(&["accept", "ops", &held, "it", "is", "the", "test", "machine"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(held.clone()));
    assert_eq!(machine.state("ops"), "current");
    machine.agent(&["redo", "ops"]).ok();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");

    // The next one that says so holds again, and a rollback to an accepted one passes.
    machine.push("ops", &[("page", "newer")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "held");
    machine.agent(&["rollback", "ops"]).ok();
    machine.agent(&["rollback", "ops", &held]).ok();
    assert_eq!((machine.head("ops"), machine.state("ops")), (held, "pinned".to_owned()));
}

#[test]
fn an_accepted_hold_is_merged_where_local_commits_are() {
    let machine = machine("", "[repo.ops]\nupdate = \"merge\"\n");
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    fs::write(clone.join("local"), "mine\n").unwrap();
    machine.git(&clone, &["add", "local"]);
    machine.git(&clone, &["commit", "--quiet", "--message", "mine"]);
    let held = machine.push("ops", &[(".pmpy.toml", "hold = \"payday\"\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "held");
    machine.agent(&["accept", "ops", &held]).ok();
    assert!(clone.join("local").exists(), "the local commit is not dropped");
    assert!(fs::read_to_string(clone.join(".pmpy.toml")).unwrap().contains("payday"));
}

#[test]
fn a_branch_that_holds_itself_is_published_where_a_person_accepts_it() {
    let machine = Sandbox::with("ops", &[("page", "old")]);
    fs::create_dir(machine.path("data")).unwrap();
    let target = machine.path("data/site");
    let mode = format!("mode = \"branches\"\ntarget = \"{}\"\n", target.display());
    machine.configure(&format!("[repo.ops]\n{mode}"));
    machine.tick().ok();
    let held = machine.push("ops", &[(".pmpy.toml", "hold = \"payday\"\n"), ("page", "new")]);
    machine.tick().ok();
    let page = || fs::read_to_string(target.join("main/page")).unwrap();
    assert_eq!(page(), "old");
    machine.agent(&["accept", "ops", &held]).ok();
    assert_eq!(page(), "new");
}

#[test]
fn an_unknown_key_is_ignored_and_named() {
    let machine = machine("", "");
    machine.tick().ok();
    let newer = "scripts = [\"other.sh\"]\nsripts = [\"a.sh\"]\n[later]\nx = 1\n";
    let revision = machine.push("ops", &[(".pmpy.toml", newer)]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.runs().last().map(String::as_str), Some("other"));
    for command in [&["status", "-v"][..], &["explain", "ops"], &["check"]] {
        let said = machine.agent(command).stdout;
        for key in ["sripts", "later"] {
            assert!(said.contains(key) && said.contains("know"), "{command:?}: {said}");
        }
    }
    assert_eq!(machine.row("ops")["ignored_keys"], serde_json::json!(["later", "sripts"]));
    machine.push("ops", &[(".pmpy.toml", "scripts = 1\nlater = 1\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "refused");
}

#[test]
fn an_invalid_file_is_refused_with_its_place() {
    for (tree, reported) in [
        ("when = \"sometimes\"\n", "1:8"),
        ("timeout = \n", ".pmpy.toml"),
        ("scripts = [\"../a.sh\"]\n", "../a.sh"),
    ] {
        let machine = machine("", "");
        machine.tick().ok();
        let good = machine.head("ops");
        machine.push("ops", &[(".pmpy.toml", tree)]);
        machine.tick().exits(1);
        let row = machine.row("ops");
        assert_eq!(row["state"], "refused", "{tree}{row:#}");
        assert!(row["reason"].to_string().contains(reported), "{tree}{row:#}");
        assert_eq!(machine.head("ops"), good);
    }
}

#[test]
fn a_file_that_is_none_or_too_large_is_refused() {
    let machine = machine("", "");
    machine.tick().ok();
    machine.push("ops", &[(".pmpy.toml", &"#".repeat(100_000))]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "refused");
    machine.push_with("ops", |desk| {
        fs::remove_file(desk.join(".pmpy.toml")).unwrap();
        fs::create_dir(desk.join(".pmpy.toml")).unwrap();
        fs::write(desk.join(".pmpy.toml/x"), "").unwrap();
    });
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "refused");
}

#[test]
fn an_hour_in_the_revision_counts_from_the_last_success() {
    let machine = machine("when = \"1h\"\n", "");
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(ended(&machine), 1);
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(record).unwrap().set_modified(hour_ago).unwrap();
    machine.tick().ok();
    assert_eq!(ended(&machine), 2);
}
