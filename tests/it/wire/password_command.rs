//! `password_command`: its first line is the password. It runs once for each program and server while the password
//! is good, once after each refusal, and what it prints is found nowhere else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::sandbox::{Ran, Sandbox, set_mode, text, write_program};
use crate::servers::{Https, PASSWORD, USER};

use super::{acted, news, pull_from, reason, trusting};

/// A machine with these repositories on a server that wants a password, and a program that notes each run and does
/// what `program` says.
fn machine(names: &[&str], program: &str, keys: &str) -> (Sandbox, Https) {
    let machine = acted(names);
    let server = Https::of(&machine);
    prints(&machine, program);
    let keys = format!(
        "{}username = {USER:?}\npassword_command = [{:?}, \"ops\"]\n{keys}",
        trusting(&server),
        text(&machine.path("token"))
    );
    let urls: Vec<_> = names.iter().map(|name| (*name, server.url_at("auth/", name))).collect();
    pull_from(&machine, &keys, &urls);
    (machine, server)
}

fn prints(machine: &Sandbox, program: &str) {
    let file = machine.path("token");
    let runs = machine.path("asked");
    write_program(&file, format!("#!/bin/sh\necho \"$1\" >> {}\n{program}\n", text(&runs)));
}

fn runs(machine: &Sandbox) -> usize {
    fs::read_to_string(machine.path("asked")).unwrap_or_default().lines().count()
}

/// The files that keep passwords.
fn kept(machine: &Sandbox) -> Vec<PathBuf> {
    let dir = machine.root().join(".pmpy/passwords");
    let files = if dir.exists() { machine.files_below(&dir) } else { Vec::new() };
    let files = files.into_iter().filter(|file| file.extension().is_none());
    files.map(|file| dir.join(file)).collect()
}

#[test]
fn a_program_runs_once_for_all_repositories_of_a_server_until_the_time_is_over() {
    let (machine, _server) = machine(&["ops", "web"], &format!("echo {PASSWORD}; echo more"), "");
    machine.agent(&["tick", "ops", "web"]).ok();
    for _ in 0..3 {
        machine.tick().ok();
    }
    let revision = news(&machine, "web", "new");
    machine.tick().ok();
    assert_eq!((machine.lastaction("web"), runs(&machine)), (Some(revision), 1));
    let [file] = kept(&machine).try_into().expect("one program and one server");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o77, 0);

    let old = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(runs(&machine), 2, "its time was over");
}

#[test]
fn another_port_of_the_host_gets_a_password_of_its_own() {
    let (machine, _server) = machine(&["ops", "web"], &format!("echo {PASSWORD}"), "");
    let other = Https::of(&machine);
    let text = fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    let elsewhere = other.url_at("auth/", "web");
    let ca = format!("[repo.web]\nca_file = {:?}\nurl = {elsewhere:?}\n", other.ca_file());
    let text = text.replace("[repo.web]\n", "[repo.old]\npath = \"/nowhere/x\"\nactive = false\n");
    machine.configure(&(text + &ca));
    machine.tick();
    assert_eq!((runs(&machine), kept(&machine).len()), (2, 2));
}

#[test]
fn a_refusal_costs_one_run_and_the_pause_holds() {
    let (machine, server) = machine(&["ops"], &format!("echo {PASSWORD}"), "");
    machine.agent(&["tick", "ops"]).ok();
    server.change_password("changed");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "denied", "{:#}", machine.row("ops"));
    assert!(kept(&machine).is_empty(), "what was refused is not sent again");
    server.forget_requests();
    prints(&machine, "echo changed");
    machine.tick().exits(1);
    machine.tick().exits(1);
    assert_eq!((runs(&machine), server.requests().len()), (1, 0), "the server is left alone");
    machine.agent(&["tick", "ops"]).ok();
    machine.tick().ok();
    assert_eq!((runs(&machine), machine.state("ops").as_str()), (2, "current"));
}

#[test]
fn a_program_that_fails_is_denied_with_its_reason_and_pauses() {
    let (machine, server) = machine(&["ops"], "exit 1", "");
    for (program, told) in [
        ("echo hush; exit 3", "exited 3"),
        ("kill -9 $$", "was ended by signal 9"),
        ("true", "is no password"),
        ("echo; echo hush", "is no password"),
        ("printf 'a\\001hush\\n'", "is no password"),
        ("printf '\\377hush\\n'", "is no password"),
    ] {
        prints(&machine, program);
        let _ = fs::remove_file(machine.path("asked"));
        kept(&machine).into_iter().for_each(|file| fs::remove_file(file).unwrap());
        server.forget_requests();
        machine.tick().exits(1);
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "denied", "{:#}", machine.row("ops"));
        let why = reason(&machine, "ops");
        assert!(why.contains("password_command failed: ") && why.contains(told), "{why}");
        assert!(why.contains("\nhint: ") && !why.contains("hush"), "{why}");
        assert_eq!((runs(&machine), server.requests().len()), (1, 0), "{program}");
        prints(&machine, &format!("echo {PASSWORD}"));
        machine.agent(&["tick", "ops"]).ok();
        assert_eq!((runs(&machine), machine.state("ops").as_str()), (2, "current"));
    }
}

#[test]
fn a_program_that_another_user_may_exchange_is_not_run() {
    let (machine, _server) = machine(&["ops"], &format!("echo {PASSWORD}"), "");
    chown(machine.path("token"), Some(65534), None).unwrap();
    machine.tick().exits(1);
    let why = reason(&machine, "ops");
    assert!(why.contains("the program of password_command is not run"), "{why}");
    assert_eq!((machine.state("ops").as_str(), runs(&machine)), ("denied", 0));
}

#[test]
fn what_it_prints_is_found_in_no_record_and_no_output() {
    let (machine, server) = machine(&["ops"], &format!("echo {PASSWORD}"), "");
    let mut shown = String::new();
    for command in [
        &["-v", "tick", "ops"][..],
        &["-v", "status"],
        &["status", "--json"],
        &["check"],
        &["explain", "ops"],
        &["history", "ops", "--json"],
        &["log", "ops"],
    ] {
        let ran = machine.agent(command);
        shown += &(ran.stdout + &ran.stderr);
    }
    server.change_password("changed");
    let ran = machine.agent(&["-v", "tick", "ops"]);
    shown += &(ran.stdout + &ran.stderr);
    assert!(!shown.contains(PASSWORD), "{shown}");
    for file in machine.files_below(&machine.root()) {
        let content = fs::read(machine.root().join(&file)).unwrap_or_default();
        let found = content.windows(PASSWORD.len()).any(|it| it == PASSWORD.as_bytes());
        assert!(!found, "{}", file.display());
    }
}

#[test]
fn the_repository_of_another_user_gets_it_from_root() {
    let (machine, server) = machine(&["ops"], &format!("id -u >> users; echo {PASSWORD}"), "");
    // That user reads the certificate itself.
    for dir in server.ca_file().ancestors().skip(1).take(3) {
        set_mode(dir, 0o755);
    }
    set_mode(&server.ca_file(), 0o644);
    set_mode(&machine.path("runs"), 0o666);
    machine.git(&machine.path(""), &["config", "--global", "safe.directory", "*"]);
    let clone = machine.clone_of("ops");
    Ran::of(machine.command("chown").args(["-R", "65534:65534", text(&clone)])).ok();
    let revision = news(&machine, "ops", "new");
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!((machine.lastaction("ops"), runs(&machine)), (Some(revision), 1));
    assert_eq!(fs::read_to_string(machine.path("users")).unwrap(), "0\n");
    machine.tick().ok();
    assert_eq!(runs(&machine), 1);
}
