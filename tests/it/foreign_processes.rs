//! What others on the machine may do: a repository that breaks its worker, processes that only look
//! like ours, disks of other machines, programs in a clone's configuration.

use std::fs;
use std::process::{Command, Stdio};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, install_agent, set_mode, text, wait_until};
use crate::users::open_files::{assert_plain, listing};

fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    machine
}

#[test]
fn a_repository_whose_worker_dies_each_time_stops_no_other() {
    let machine = Sandbox::new();
    let murderous = format!("kill -KILL $PPID\n{NOTES_ITS_RUNS}");
    for name in ["dns", "ops", "web"] {
        let script = if name == "ops" { &murderous } else { NOTES_ITS_RUNS };
        machine.serve(name, &[("work.sh", script)]);
        machine.clone_to_root(name);
    }
    machine.tick().exits(1);
    for name in ["dns", "web"] {
        assert_eq!(machine.lastaction(name), Some(machine.head(name)));
    }
    wait_until("the next ticks have counted what was cut off", || {
        machine.tick();
        machine.row("ops")["attempt"] == 2
    });
    assert_eq!(machine.state("ops"), "failing");
    // It waits its minutes like any script that fails.
    let runs = machine.runs().len();
    machine.tick().exits(1);
    assert_eq!(machine.runs().len(), runs);
    let revision = machine.push("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn a_process_that_only_has_a_journals_number_is_neither_waited_for_nor_ended() {
    let machine = machine();
    let mut innocent = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let process = serde_json::json!({"pid": innocent.id(), "start": 1});
    let journal = serde_json::json!({
        "format": 1, "id": "x", "phase": "run", "trigger": "cron",
        "since": "2026-11-22T09:00:00Z", "boot_id": boot_id.trim(), "worker": process,
        "step": {
            "branch": "main", "head": null, "target": machine.head("ops"), "previous": null,
            "attempt": 1, "resumed": false, "current": null, "log": null, "ended": null,
            "script": {"process": process, "deadline": {"secs": 1, "nanos": 0}},
        },
    });
    fs::write(machine.private("ops", "journal"), journal.to_string()).unwrap();
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(innocent.try_wait().unwrap(), None, "it was ended");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn a_rewind_is_refused_whatever_of_the_agents_state_is_lost() {
    let machine = machine();
    let old = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let newest = machine.push("ops", &[("page", "three\n")]);
    machine.tick().ok();
    machine.git(
        &machine.desk("ops"),
        &["push", "--quiet", "--force", "origin", &format!("{old}:main")],
    );
    let refused = |what: &str| {
        // Whatever is lost, it is doubted, and refused once it is believed.
        machine.tick();
        assert_eq!(machine.head("ops"), newest, "{what}");
        machine.answered_twice("ops", "refs/heads/main");
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "rewritten", "{what}");
        assert_eq!(machine.head("ops"), newest, "{what}");
    };
    refused("nothing");
    for file in ["state", "poll", "journal", "history"] {
        fs::write(machine.private("ops", file), "").unwrap();
    }
    refused("empty files");
    fs::remove_dir_all(machine.clone_of("ops").join(".git/pmpy")).unwrap();
    refused("the directory");
    fs::write(machine.clone_of("ops").join(".git/refs/pmpy/seen/main"), "").unwrap();
    refused("the high-water mark");
    fs::remove_file(machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt")).unwrap();
    refused("the record");
}

#[test]
fn a_script_gets_no_descriptor_of_the_agents() {
    let machine = machine();
    machine.push("ops", &[("work.sh", &listing("work"))]);
    machine.tick().ok();
    assert_plain(&machine, &["work"]);
}

#[test]
fn a_clone_on_a_network_disk_is_reported() {
    let machine = machine();
    let fine = machine.agent(&["check", "--offline"]).ok().stdout;
    assert!(!fine.contains("NFS"), "{fine}");
    // What statfs(2) says of a mounted export.
    let nfs = "inject=?statfs,?fstatfs:poke_exit=@arg2=6969000000000000";
    let mut strace = machine.command("strace");
    strace
        .args(["-f", "-o", "/dev/null", "-e", nfs])
        .args(machine.agent_line(&["check", "--offline"]));
    let reported = Ran::of(&mut strace).ok().stdout;
    assert!(
        reported.contains("is on NFS: a lock there is lost when its server restarts"),
        "{reported}"
    );
    assert!(
        reported.contains("hint: give each machine a clone on a disk of its own"),
        "{reported}"
    );
}

#[test]
fn a_program_that_others_can_replace_is_reported() {
    let machine = machine();
    let agent = machine.path("agent");
    install_agent(&agent);
    for (mode, open) in [(0o755, false), (0o757, true)] {
        set_mode(&agent, mode);
        let mut check = machine.command(text(&agent));
        check.args(["--root", text(&machine.root()), "check", "--offline"]);
        let reported = Ran::of(&mut check).ok().stdout;
        assert_eq!(reported.contains("can replace"), open, "{reported}");
    }
}

#[test]
fn one_unreadable_repository_of_many_is_reported_and_all_others_are_done() {
    let many = if std::env::var_os("PMPY_LONG").is_some() { 1_000 } else { 60 };
    let machine = machine();
    for number in 1..many {
        let copy = machine.clone_of(&format!("copy-{number:04}"));
        Ran::of(machine.command("cp").args(["-a", text(&machine.clone_of("ops")), text(&copy)]))
            .ok();
    }
    let broken = machine.clone_of("copy-0007").join(".git/config");
    fs::write(&broken, "[core\n").unwrap();
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick().exits(1);
    let status = machine.status();
    let rows = status["repositories"].as_array().unwrap();
    assert_eq!(rows.len(), many);
    for row in rows {
        match row["name"] == "copy-0007" {
            true => assert_eq!(row["state"], "broken", "{row:#}"),
            false => assert_eq!(row["acted"]["revision"], revision.as_str(), "{row:#}"),
        }
    }
}
