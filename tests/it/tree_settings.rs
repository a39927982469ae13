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
fn an_invalid_file_is_refused_with_its_place() {
    for (tree, reported) in [
        ("when = \"sometimes\"\n", "1:8"),
        ("sripts = [\"a.sh\"]\n", "sripts"),
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
