//! Logs of root's clones and of other users' lie in one directory: each user gets to his own, and to no
//! other's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::{DAEMON, NOBODY, give, machine};
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, owner, set_mode, text};

fn log_directory(machine: &Sandbox, name: &str) -> PathBuf {
    machine.root().join(".pmpy/log").join(name)
}

/// The one log of `name`.
fn log_of(machine: &Sandbox, name: &str) -> PathBuf {
    let directory = log_directory(machine, name);
    let logs: Vec<_> = fs::read_dir(&directory).unwrap().map(|log| log.unwrap().path()).collect();
    let [log] = logs.as_slice() else { panic!("one log was expected: {logs:?}") };
    log.clone()
}

/// Whether user `uid` can read `file`.
fn can_read(machine: &Sandbox, uid: u32, file: &std::path::Path) -> bool {
    let mut reader = machine.command("setpriv");
    reader.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "cat"]);
    Ran::of(reader.arg(file)).code == Some(0)
}

/// The clone `own`, which is root's.
fn add_roots_clone(machine: &Sandbox) {
    machine.serve("own", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.clone_to_root("own");
}

fn assert_everybody_has_his_own(machine: &Sandbox) {
    for (name, user, stranger) in [("own", 0, NOBODY), ("ops", NOBODY, DAEMON)] {
        assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
        let log = log_of(machine, name);
        assert_eq!((owner(&log), owner(log.parent().unwrap())), (user, user));
        assert!(!can_read(machine, stranger, &log), "{name}");
    }
    assert!(can_read(machine, NOBODY, &log_of(machine, "ops")));
}

#[test]
fn logs_are_written_in_any_order_of_users_and_others_cannot_read_them() {
    for roots_first in [true, false] {
        let machine = machine("echo said\n");
        if roots_first {
            // Until the second tick, only root's own clone is there.
            fs::rename(machine.clone_of("ops"), machine.path("ops")).unwrap();
            add_roots_clone(&machine);
            machine.tick().ok();
            fs::rename(machine.path("ops"), machine.clone_of("ops")).unwrap();
        } else {
            machine.tick().ok();
            add_roots_clone(&machine);
        }
        machine.tick().ok();
        assert_everybody_has_his_own(&machine);
    }
}

#[test]
fn a_directory_that_an_older_agent_closed_to_other_users_is_opened() {
    let machine = machine("echo said\n");
    let logs = machine.root().join(".pmpy/log");
    fs::create_dir_all(&logs).unwrap();
    set_mode(&logs, 0o750);
    add_roots_clone(&machine);
    machine.tick().ok();
    assert_everybody_has_his_own(&machine);
}

#[test]
fn under_a_default_access_list_logs_are_as_private() {
    let machine = machine("echo said\n");
    let logs = machine.root().join(".pmpy/log");
    fs::create_dir_all(logs.join("own")).unwrap();
    let mut setfacl = machine.command("setfacl");
    setfacl.args(["-R", "-m", "d:u:daemon:rwx,u:daemon:rx,d:u:nobody:rwx", text(&logs)]);
    Ran::of(&mut setfacl).ok();
    add_roots_clone(&machine);
    machine.tick().ok();
    assert_everybody_has_his_own(&machine);
}

#[test]
fn where_others_can_move_things_nothing_is_given_away() {
    let machine = machine("echo said\n");
    let logs = machine.root().join(".pmpy/log");
    let precious = logs.join("ops");
    fs::create_dir_all(&precious).unwrap();
    set_mode(&precious, 0o700);
    set_mode(&logs, 0o777);
    machine.tick().exits(1);
    assert_eq!((machine.state("ops"), owner(&precious)), ("broken".into(), 0));
    let checked = machine.agent(&["check", "--offline"]).exits(1).stdout;
    assert!(checked.contains(text(&logs)) && checked.contains("chmod"), "{checked}");
    set_mode(&logs, 0o755);
    machine.tick().ok();
    assert_eq!((machine.state("ops"), owner(&precious)), ("current".into(), NOBODY));
}

#[test]
fn a_name_of_255_bytes_has_its_log_in_any_alphabet() {
    for long in ["n".repeat(255), "ö".repeat(127) + "x", "日".repeat(85), " ".repeat(255)] {
        let machine = Sandbox::new();
        machine.serve("ops", &[("work.sh", "echo said\n")]);
        let clone = machine.clone_of(&long);
        machine.git(
            &machine.root(),
            &["clone", "--quiet", text(&machine.server("ops")), text(&clone)],
        );
        machine.tick().ok();
        assert_eq!(machine.state(&long), "current", "{:#}", machine.row(&long));
        assert!(machine.agent(&["log", &long]).ok().stdout.contains("said"));
    }
}

#[test]
fn a_log_directory_that_is_something_else_hinders_its_own_repository_alone() {
    let machine = machine("echo said\n");
    machine.serve("web", &[("work.sh", "echo said\n")]);
    machine.clone_to_root("web");
    give(&machine, "web", NOBODY);
    let victim = machine.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::create_dir_all(machine.root().join(".pmpy/log")).unwrap();
    let directory = log_directory(&machine, "ops");
    symlink(&victim, &directory).unwrap();
    let printed = machine.tick().exits(1).stdout;
    assert!(printed.contains(text(&directory)), "{printed}");
    assert_eq!((machine.state("ops"), machine.state("web")), ("failing".into(), "current".into()));
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    let checked = machine.agent(&["check", "--offline"]).exits(1).stdout;
    assert!(checked.contains(text(&directory)), "{checked}");

    fs::remove_file(&directory).unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

#[test]
fn root_reads_no_log_that_leads_to_what_only_root_may_read() {
    let machine = machine("echo said; exit 1\n");
    let secret = machine.path("secret");
    fs::write(&secret, "canary\n").unwrap();
    set_mode(&secret, 0o600);
    machine.tick().exits(1);
    let log = log_of(&machine, "ops");
    for plant in [symlink::<&PathBuf, &PathBuf>, fs::hard_link::<&PathBuf, &PathBuf>] {
        fs::remove_file(&log).unwrap();
        plant(&secret, &log).unwrap();
        // Tells the failure anew, with the end of its log.
        let _ = fs::remove_file(machine.root().join(".pmpy/reported.json"));
        for ran in [
            machine.agent(&["tick", "-v"]),
            machine.agent(&["log", "ops"]),
            machine.agent(&["redo", "ops"]),
        ] {
            assert!(!format!("{ran}").contains("canary"), "{ran}");
        }
    }
}
