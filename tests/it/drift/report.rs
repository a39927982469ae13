//! `drift = "report"`, which is the default: what is compared, when, and what is said.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn the_state_stays_what_it_is_and_the_reason_says_what_differs() {
    let machine = machine("");
    assert_eq!(machine.row("ops")["drifted"], Value::Null, "not compared yet");
    write(&machine, "etc/nginx.conf", "listen 81\n");
    fs::remove_file(file(&machine, "etc/ssl/key")).unwrap();
    fs::set_permissions(file(&machine, "version.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    write(&machine, "etc/own.conf", "untracked files are no drift\n");
    later(&machine);
    let short = machine.head("ops")[..7].to_owned();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(reason(&machine), format!("3 files differ from {short}: etc/nginx.conf …"));
    assert_eq!(drifted(&machine), 3);
    machine.agent(&["status"]).exits(0);
    let verbose = machine.agent(&["status", "-v"]).ok().stdout;
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    for line in ["etc/nginx.conf (changed)", "etc/ssl/key (deleted)", "version.txt (other mode)"] {
        assert!(verbose.contains(line), "{verbose}");
        assert!(explained.contains(line), "{explained}");
    }
    assert!(explained.contains("agent diff ops"), "{explained}");
    assert_eq!(machine.runs().len(), 1, "nothing runs");
    assert_eq!(read(&machine, "etc/nginx.conf"), "listen 81\n", "nothing is written");
}

#[test]
fn at_most_once_in_drift_every_and_an_action_counts_as_a_look() {
    let machine = machine("");
    write(&machine, "etc/nginx.conf", "listen 81\n");
    machine.tick().ok();
    assert_eq!(machine.row("ops")["drifted"], Value::Null, "the action was just now");
    later(&machine);
    assert_eq!(drifted(&machine), 1);
    write(&machine, "version.txt", "2\n");
    machine.tick().ok();
    assert_eq!(drifted(&machine), 1, "the look was just now");
    later(&machine);
    assert_eq!(drifted(&machine), 2);
    machine.git(&machine.clone_of("ops"), &["checkout", "--", "."]);
    later(&machine);
    assert_eq!((drifted(&machine), reason(&machine).as_str()), (0, ""));
}

#[test]
fn what_differed_before_an_action_is_compared_with_the_new_revision() {
    let machine = machine("");
    write(&machine, "etc/nginx.conf", "listen 81\n");
    later(&machine);
    machine.push("ops", &[("version.txt", "2\n")]);
    machine.tick().ok();
    machine.tick().ok();
    let short = machine.head("ops")[..7].to_owned();
    assert_eq!(reason(&machine), format!("1 file differs from {short}: etc/nginx.conf"));
}

#[test]
fn ignore_looks_at_nothing_and_drift_ignore_at_all_but_some() {
    let machine = machine("drift = \"ignore\"\n");
    write(&machine, "version.txt", "2\n");
    write(&machine, "etc/nginx.conf", "listen 81\n");
    later(&machine);
    assert_eq!(machine.row("ops")["drifted"], Value::Null);
    set(&machine, "drift_ignore = [\"version.txt\", \"etc/**\", \"!etc/nginx.conf\"]\n");
    fs::remove_file(file(&machine, "etc/ssl/key")).unwrap();
    later(&machine);
    assert!(reason(&machine).ends_with(": etc/nginx.conf"), "{}", reason(&machine));
}

#[test]
fn files_that_git_holds_for_unchanged_are_no_drift() {
    let machine = machine("");
    let clone = machine.clone_of("ops");
    for (flag, path) in [("--assume-unchanged", "version.txt"), ("--skip-worktree", "etc/ssl/key")]
    {
        machine.git(&clone, &["update-index", flag, path]);
    }
    write(&machine, "version.txt", "2\n");
    fs::remove_file(file(&machine, "etc/ssl/key")).unwrap();
    machine.git(&clone, &["config", "core.fileMode", "false"]);
    let conf = file(&machine, "etc/nginx.conf");
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o755)).unwrap();
    // Touched, with the same content.
    fs::write(&conf, "listen 80\n").unwrap();
    later(&machine);
    assert_eq!(machine.git(&clone, &["status", "--porcelain"]), "");
    assert_eq!(drifted(&machine), 0);
}

#[test]
fn links_and_directories_in_the_place_of_files_are_drift_and_not_followed() {
    let machine = machine("");
    let elsewhere = machine.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("key"), "key\n").unwrap();
    fs::remove_dir_all(file(&machine, "etc/ssl")).unwrap();
    symlink(&elsewhere, file(&machine, "etc/ssl")).unwrap();
    fs::remove_file(file(&machine, "version.txt")).unwrap();
    fs::create_dir(file(&machine, "version.txt")).unwrap();
    let conf = file(&machine, "etc/nginx.conf");
    fs::remove_file(&conf).unwrap();
    Ran::of(machine.command("mkfifo").arg(&conf)).ok();
    later(&machine);
    let verbose = machine.agent(&["status", "-v"]).ok().stdout;
    for line in ["etc/nginx.conf (other kind)", "etc/ssl/key (deleted)", "version.txt (other kind)"]
    {
        assert!(verbose.contains(line), "{verbose}");
    }
}

#[test]
fn local_changes_in_the_way_are_compared_too() {
    let machine = machine("");
    write(&machine, "etc/nginx.conf", "listen 81\n");
    machine.push("ops", &[("etc/nginx.conf", "listen 82\n")]);
    machine.tick();
    assert_eq!(machine.state("ops"), "dirty");
    let_hours_pass(&machine);
    machine.tick();
    assert_eq!((machine.state("ops").as_str(), drifted(&machine)), ("dirty", 1));
}

#[test]
fn a_dry_run_says_that_it_would_compare_and_the_metrics_count() {
    let metrics = |machine: &Sandbox| fs::read_to_string(machine.path("metrics")).unwrap();
    let machine = machine("");
    let text = fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    machine.configure(&format!("metrics_file = {:?}\n{text}", machine.path("metrics")));
    write(&machine, "etc/nginx.conf", "listen 81\n");
    let_hours_pass(&machine);
    let dry = machine.agent(&["tick", "--dry-run"]).ok().stdout;
    assert!(dry.contains("ops: would compare its files with the applied revision"), "{dry}");
    assert!(!metrics_exist(&machine) || !metrics(&machine).contains("pmpy_drifted_files{"));
    machine.tick().ok();
    let text = metrics(&machine);
    assert!(text.contains("pmpy_drifted_files{repository=\"ops\"} 1\n"), "{text}");
}

fn metrics_exist(machine: &Sandbox) -> bool {
    machine.path("metrics").exists()
}

#[test]
fn published_releases_are_compared_with_their_seal() {
    for (mode, directory) in [("checkout", ""), ("branches", "main/"), ("atomic", "main/")] {
        let machine = Sandbox::new();
        machine.serve("ops", &FILES);
        let keys = format!("mode = {mode:?}\ntarget = {:?}\n", machine.path("site"));
        set(&machine, &keys);
        machine.tick().ok();
        let shown = match mode {
            "checkout" => machine.path("site"),
            "branches" => machine.path("site/main"),
            _ => machine.path("site_main"),
        };
        later(&machine);
        assert_eq!(drifted(&machine), 0, "{mode}");
        fs::write(shown.join("etc/nginx.conf"), "listen 81\n").unwrap();
        fs::write(shown.join("etc/upload"), "untracked\n").unwrap();
        later(&machine);
        assert_eq!(drifted(&machine), 1, "{mode}");
        let reason = reason(&machine);
        assert!(reason.ends_with(&format!(": {directory}etc/nginx.conf")), "{mode}: {reason}");
        fs::write(shown.join("etc/nginx.conf"), "listen 80\n").unwrap();
        later(&machine);
        assert_eq!(drifted(&machine), 0, "{mode}");
    }
}

#[test]
fn where_nothing_is_written_there_is_nothing_to_compare() {
    let machine = Sandbox::new();
    machine.serve("ops", &FILES);
    set(&machine, "mode = \"fetch\"\n");
    machine.tick().ok();
    later(&machine);
    assert_eq!(machine.row("ops")["drifted"], Value::Null);
}

#[test]
fn a_repository_that_runs_all_the_time_is_compared_as_well() {
    let machine = machine("when = \"always\"\n");
    write(&machine, "etc/nginx.conf", "listen 81\n");
    let_hours_pass(&machine);
    // The action just before: it wrote no file.
    machine.tick().ok();
    machine.tick().ok();
    assert!(machine.runs().len() > 2, "it runs with each tick: {:?}", machine.runs());
    assert_eq!(drifted(&machine), 1);
}

#[test]
fn of_what_the_index_proves_no_content_is_read() {
    let machine = machine("");
    for path in ["etc/nginx.conf", "etc/ssl/key", "version.txt", "work.sh"] {
        Ran::of(machine.command("touch").args(["-d", "yesterday", text(&file(&machine, path))]))
            .ok();
    }
    machine.git(&machine.clone_of("ops"), &["update-index", "-q", "--really-refresh"]);
    write(&machine, "version.txt", "2\n");
    let_hours_pass(&machine);
    let trace = machine.path("trace");
    let mut strace = machine.command("strace");
    strace.args(["-f", "-o", text(&trace), "-e", "trace=open,openat,openat2", "--"]);
    Ran::of(strace.args(machine.agent_line(&["worker", "ops", "--trigger", "cron"]))).ok();
    let opened = fs::read_to_string(&trace).unwrap();
    let has = |name: &str| opened.contains(&format!("\"{name}\""));
    assert!(has("version.txt"), "{opened}");
    assert!(!has("nginx.conf") && !has("key"), "{opened}");
    machine.tick().ok();
    assert_eq!(drifted(&machine), 1);
}
