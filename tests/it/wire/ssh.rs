//! Remotes over ssh, on a real sshd: what is shared, what is refused and how that is told.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, set_mode, text, wait_until, write_program};
use crate::servers::{Behaviour, Counts, PASSWORDS_ONLY, Proxy, Running, Sshd, over_ipv6};

use super::{acted, converges, news, pull_from, reason, timed_tick, with_little_time};

/// The lines that let the machine in.
pub fn let_in(server: &Sshd) -> String {
    format!("key_file = {:?}\nknown_hosts = {:?}\n", server.client_key(), server.known_hosts())
}

/// A machine that has acted upon `ops` and from now on pulls it over ssh.
fn over_ssh(machine: &Sandbox) -> Sshd<'_> {
    let server = Sshd::of(machine);
    pull_from(machine, &let_in(&server), &[("ops", server.url("ops"))]);
    server
}

/// Ticks; `ops` is `denied`, and each of `words` is in the reason.
#[track_caller]
fn refused(machine: &Sandbox, words: &[&str]) {
    has_reason(machine, "denied", words);
}

/// Ticks; `ops` is in `state`, and each of `words` is in the reason.
#[track_caller]
fn has_reason(machine: &Sandbox, state: &str, words: &[&str]) {
    machine.tick();
    assert_eq!(machine.state("ops"), state, "{:#}", machine.row("ops"));
    let reason = reason(machine, "ops");
    for word in words {
        assert!(reason.contains(word), "{word:?} is not in: {reason}");
    }
}

/// The command lines of all processes that name `port`, those of the server left out.
fn clients_of(port: u16) -> Vec<String> {
    let mark = format!("Port={port}");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.starts_with("ssh ") && line.contains(&mark)).collect()
}

/// The processes that keep this machine's connections open.
fn masters_of(machine: &Sandbox) -> Vec<Pid> {
    let dir = machine.root().join(".pmpy/ssh");
    let mark = format!("ssh: {}", text(&dir));
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of_this = |id: &i32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.starts_with(mark.as_bytes())
    };
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(of_this).filter_map(Pid::from_raw).collect()
}

#[test]
fn a_repository_is_cloned_and_followed_over_one_connection() {
    let machine = Sandbox::new();
    let first = machine.serve("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    let server = over_ssh(&machine);
    converges(&machine, "ops", &first);
    let second = news(&machine, "ops", "new");
    converges(&machine, "ops", &second);
    machine.tick().ok();
    assert_eq!(server.logins(), 1, "each tick finds the connection of the one before");
    let path = machine.server("ops");
    let expected = format!("version=2\tgit-upload-pack '{}'", path.display());
    assert!(server.commands().iter().all(|command| *command == expected));
}

#[test]
fn a_tick_that_finds_nothing_new_asks_once() {
    let machine = acted(&["ops"]);
    let server = over_ssh(&machine);
    machine.tick().ok();
    let before = server.commands().len();
    machine.tick().ok();
    assert_eq!(server.commands().len(), before + 1);
}

#[test]
fn ten_repositories_share_one_connection_and_none_is_opened_twice() {
    let names: Vec<String> = (0..10).map(|number| format!("r{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let machine = acted(&names);
    let server = Sshd::of(&machine);
    let urls: Vec<_> = names.iter().map(|name| (*name, server.url(name))).collect();
    pull_from(&machine, &let_in(&server), &urls);
    machine.tick().ok();
    assert_eq!((server.logins(), server.commands().len()), (1, 10));
    for name in &names {
        news(&machine, name, "new");
    }
    machine.tick().ok();
    for name in names {
        assert_eq!(
            machine.lastaction(name),
            Some(machine.git(&machine.desk(name), &["rev-parse", "HEAD"]))
        );
    }
}

#[test]
fn workers_that_clone_side_by_side_open_one_connection() {
    let machine = Sandbox::new();
    let names = ["one", "two", "three", "four", "five", "six"];
    let server = Sshd::of(&machine);
    let urls: Vec<_> = names.iter().map(|name| (*name, server.url(name))).collect();
    for name in names {
        machine.serve(name, &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    }
    pull_from(&machine, &let_in(&server), &urls);
    machine.tick().ok();
    for name in names {
        assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
    }
    assert_eq!(server.logins(), 1);
}

#[test]
fn a_server_that_lets_no_two_sessions_share_a_connection_serves_all_the_same() {
    let names = ["one", "two", "three", "four"];
    let machine = acted(&names);
    let mut server = Sshd::of(&machine);
    server.restart_with("MaxSessions 1\n");
    let urls: Vec<_> = names.iter().map(|name| (*name, server.url(name))).collect();
    pull_from(&machine, &let_in(&server), &urls);
    for name in names {
        news(&machine, name, "new");
    }
    machine.tick().ok();
    for name in names {
        assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
    }
}

#[test]
fn an_old_server_is_polled_and_fetched_from() {
    let machine = acted(&["ops"]);
    let mut server = over_ssh(&machine);
    server.restart_with("SetEnv GIT_PROTOCOL=version=0\n");
    for word in ["new", "newer"] {
        let revision = news(&machine, "ops", word);
        converges(&machine, "ops", &revision);
    }
    assert!(server.commands().iter().all(|command| command.starts_with("version=0\t")));
    assert_eq!(machine.tick().ok().stdout, "");
}

#[test]
fn a_clone_with_depth_stays_shallow_and_follows() {
    for protocol in ["version=2", "version=0"] {
        let machine = Sandbox::new();
        machine.serve("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
        news(&machine, "ops", "second");
        let third = news(&machine, "ops", "third");
        let mut server = Sshd::of(&machine);
        server.restart_with(&format!("SetEnv GIT_PROTOCOL={protocol}\n"));
        let settings = format!("{}depth = 2\n", let_in(&server));
        pull_from(&machine, &settings, &[("ops", server.url("ops"))]);
        converges(&machine, "ops", &third);
        let count = || machine.git(&machine.clone_of("ops"), &["rev-list", "--count", "HEAD"]);
        assert_eq!(count(), "2", "{protocol}");
        let fourth = news(&machine, "ops", "fourth");
        converges(&machine, "ops", &fourth);
        assert_eq!(count(), "3", "{protocol}");
    }
}

#[test]
fn a_repository_of_sha_256_is_cloned_and_followed() {
    let machine = Sandbox::new();
    let (bare, desk, dir) = (machine.server("ops"), machine.desk("ops"), machine.path(""));
    let format = "--object-format=sha256";
    let branch = "--initial-branch=main";
    machine.git(&dir, &["init", "--quiet", "--bare", format, branch, text(&bare)]);
    machine.git(&dir, &["init", "--quiet", format, branch, text(&desk)]);
    machine.git(&desk, &["remote", "add", "origin", text(&bare)]);
    let first = machine.push("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    let server = over_ssh(&machine);
    converges(&machine, "ops", &first);
    let second = news(&machine, "ops", "new");
    converges(&machine, "ops", &second);
    let before = server.commands().len();
    machine.tick().ok();
    assert_eq!(server.commands().len(), before + 1, "the format is known by now");
}

#[test]
fn a_path_with_spaces_and_quotes_is_one_path() {
    let machine = Sandbox::new();
    let name = "it's; touch $HOME/gone \"here\"";
    let revision = machine.serve(name, &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    let server = Sshd::of(&machine);
    let url = server.url(name).replace(' ', "%20");
    pull_from(&machine, &let_in(&server), &[("ops", url)]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert!(!machine.path("home/gone").exists());
}

#[test]
fn a_branch_that_moves_back_and_forth_is_fetched_as_it_is() {
    let machine = acted(&["ops"]);
    let _server = over_ssh(&machine);
    let old = machine.head("ops");
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", &old]);
    news(&machine, "ops", "another way");
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
}

#[test]
fn a_connection_that_has_ended_is_opened_anew() {
    let machine = acted(&["ops"]);
    let mut server = over_ssh(&machine);
    machine.tick().ok();
    server.restart_with("");
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    assert_eq!(server.logins(), 2);
}

#[test]
fn a_socket_without_a_listener_is_replaced() {
    let machine = acted(&["ops"]);
    let server = over_ssh(&machine);
    machine.tick().ok();
    let masters = masters_of(&machine);
    assert_eq!(masters.len(), 1);
    for master in masters {
        kill_process(master, Signal::KILL).unwrap();
        wait_until("it is gone", || test_kill_process(master).is_err());
    }
    let revision = news(&machine, "ops", "new");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(server.logins(), 2);
}

#[test]
fn a_changed_host_key_is_refused_and_reported() {
    let machine = acted(&["ops"]);
    let mut server = over_ssh(&machine);
    machine.tick().ok();
    server.change_host_key();
    let known = server.known_hosts();
    refused(&machine, &["has changed (SHA256:", "ssh-keygen -f", text(&known)]);
    assert_eq!(server.logins(), 1);
}

#[test]
fn an_unknown_host_key_is_never_accepted() {
    let machine = acted(&["ops"]);
    let server = over_ssh(&machine);
    fs::write(server.known_hosts(), "").unwrap();
    refused(&machine, &["not known here", "ssh-keyscan -p", text(&server.known_hosts())]);
    assert_eq!(fs::read(server.known_hosts()).unwrap(), b"");
    assert_eq!(server.logins(), 0);
}

#[test]
fn a_server_that_wants_a_password_or_another_key_is_distinguished() {
    let machine = acted(&["ops"]);
    let mut server = over_ssh(&machine);
    server.restart_with(PASSWORDS_ONLY);
    refused(&machine, &["asks for a password", "key_file"]);
    server.restart_with("AuthorizedKeysFile none\n");
    machine.agent(&["tick", "ops"]);
    let key = server.client_key();
    assert!(
        reason(&machine, "ops").contains(&format!("does not accept the key {}", key.display()))
    );
}

#[test]
fn a_key_that_others_can_read_or_that_is_not_there_is_reported_before_anything_is_asked() {
    let machine = acted(&["ops"]);
    let server = over_ssh(&machine);
    set_mode(&server.client_key(), 0o644);
    refused(&machine, &["can be read by others", "chmod 600"]);
    fs::remove_file(server.client_key()).unwrap();
    machine.agent(&["tick", "ops"]);
    assert!(reason(&machine, "ops").contains("cannot be read: No such file"));
    assert_eq!(server.logins(), 0);
}

#[test]
fn a_repository_that_is_not_there_is_reported_in_the_servers_words() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    pull_from(&machine, &let_in(&server), &[("ops", server.url("gone"))]);
    refused(&machine, &["says: fatal: ", "gone.git", "does not appear to be a git repository"]);
}

#[test]
fn an_unknown_host_name_and_a_closed_port_are_reported() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    for (url, words) in [
        ("ssh://git.invalid/ops", ["git.invalid does not answer", "resolve"]),
        ("git@localhost.invalid:ops", ["localhost.invalid does not answer", "resolve"]),
        ("ssh://127.0.0.1:1/ops", ["127.0.0.1:1 does not answer", "refused"]),
    ] {
        pull_from(&machine, &let_in(&server), &[("ops", url.to_owned())]);
        has_reason(&machine, "unreachable", &words);
    }
}

#[test]
fn another_key_never_uses_the_connection_of_the_first() {
    let machine = acted(&["ops", "other"]);
    let server = Sshd::of(&machine);
    let key = machine.path("stranger");
    let arguments = ["-q", "-t", "ed25519", "-N", "", "-f", text(&key)];
    Ran::of(machine.command("ssh-keygen").args(arguments)).ok();
    machine.configure(&format!(
        "[defaults]\n{}[repo.ops]\nurl = {:?}\n[repo.other]\nurl = {:?}\nkey_file = {key:?}\n",
        let_in(&server),
        server.url("ops"),
        server.url("other")
    ));
    machine.tick();
    machine.tick();
    assert_eq!((machine.state("ops"), machine.state("other")), ("current".into(), "denied".into()));
    fs::copy(&key, server.client_key()).unwrap();
    machine.tick();
    assert_eq!(machine.state("ops"), "denied", "the key that let us in has been replaced");
}

#[test]
fn a_line_that_falls_silent_is_given_up_and_leaves_no_process() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    let line = Proxy::to(server.port());
    server.know_as(line.port());
    let url = server.url("ops").replace(&server.port().to_string(), &line.port().to_string());
    pull_from(&machine, &let_in(&server), &[("ops", url)]);
    for behaviour in [Behaviour::BlackHole, Behaviour::CloseAfter(3000)] {
        line.behave(behaviour.clone());
        let (_, took) = with_little_time(&machine, || timed_tick(&machine));
        assert_eq!(machine.state("ops"), "unreachable", "{behaviour:?}: {:#}", machine.row("ops"));
        assert!(reason(&machine, "ops").contains("127.0.0.1"), "{}", reason(&machine, "ops"));
        assert!(took < Duration::from_secs(8), "{took:?}");
        wait_until("ssh is gone", || clients_of(line.port()).is_empty());
    }
    line.behave(Behaviour::Faithful);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
}

#[test]
fn a_warm_poll_is_one_turn() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    let line = Proxy::with_round_trip(server.port(), Duration::from_millis(20));
    server.know_as(line.port());
    let url = server.url("ops").replace(&server.port().to_string(), &line.port().to_string());
    pull_from(&machine, &let_in(&server), &[("ops", url)]);
    machine.tick().ok();
    // On a busy machine, the end of one poll's channel may pass when the next is counted.
    let polls: Vec<Counts> = (0..5)
        .map(|_| {
            line.forget_counts();
            machine.tick().ok();
            line.counts()
        })
        .collect();
    assert!(polls.iter().all(|counts| counts.connections == 0), "{polls:?}");
    let is_one_turn = |counts: &Counts| counts.turns <= 4 && counts.up + counts.down < 4000;
    assert!(polls.iter().any(is_one_turn), "{polls:?}");
}

#[test]
fn an_ssh_command_and_shared_connections_of_the_users_own_are_kept() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    pull_from(&machine, "", &[("ops", server.url("ops"))]);
    let (config, socket) = (machine.path("ssh_config"), machine.path("own"));
    let settings =
        format!("ControlMaster auto\nControlPersist 60\nControlPath {}\n", text(&socket));
    fs::write(&config, settings).unwrap();
    let own = server.ssh_command().replace("-F none", &format!("-F {}", text(&config)));
    let tick = || Ran::of(machine.agent_command(&["tick", "-v"]).env("GIT_SSH_COMMAND", &own)).ok();
    tick();
    assert!(socket.exists());
    let revision = news(&machine, "ops", "new");
    tick();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(server.logins(), 1);
}

#[test]
fn what_replaces_ssh_is_run_as_git_would() {
    let machine = acted(&["ops"]);
    pull_from(&machine, "", &[("ops", format!("anywhere:{}", text(&machine.server("ops"))))]);
    let stand_in = machine.path("stand-in");
    write_program(&stand_in, "#!/bin/sh\n[ \"$1\" = anywhere ] && exec sh -c \"$2\"\n");
    let revision = news(&machine, "ops", "new");
    let mut tick = machine.agent_command(&["tick"]);
    Ran::of(tick.env("GIT_SSH_COMMAND", text(&stand_in))).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
}

#[test]
fn a_check_names_what_is_missing_without_asking_the_server() {
    let machine = acted(&["ops"]);
    let server = over_ssh(&machine);
    let check = |arguments: &[&str]| machine.agent(&[&["check"], arguments].concat()).stdout;
    assert!(!check(&["--offline"]).contains("bad"), "{}", check(&["--offline"]));
    let known = fs::read(server.known_hosts()).unwrap();
    fs::write(server.known_hosts(), "").unwrap();
    assert!(check(&["--offline"]).contains("is not known here"));
    fs::write(server.known_hosts(), known).unwrap();
    set_mode(&server.client_key(), 0o604);
    for arguments in [&["--offline"][..], &[]] {
        assert!(check(arguments).contains("can be read by others"));
    }
    assert_eq!(server.logins(), 0);
    set_mode(&server.client_key(), 0o600);
    assert!(check(&[]).contains("has main at"));
}

#[test]
fn a_server_with_an_ipv6_address_is_pulled_from() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    pull_from(&machine, &let_in(&server), &[("ops", over_ipv6(&server.url("ops")))]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    assert!(server.logins() > 0);
}

#[test]
fn a_key_in_an_agent_opens_the_door() {
    let machine = acted(&["ops"]);
    let server = Sshd::of(&machine);
    let settings = format!("known_hosts = {:?}\n", server.known_hosts());
    pull_from(&machine, &settings, &[("ops", server.url("ops"))]);
    let revision = news(&machine, "ops", "new");
    refused(&machine, &["accepts none of the keys"]);

    let socket = machine.path("agent.socket");
    let log = machine.path("ssh-agent.log");
    let _agent = Running::start(&machine, "ssh-agent", &["-D", "-a", text(&socket)], &log);
    wait_until("the ssh agent listens", || socket.exists());
    let mut add = machine.command("ssh-add");
    Ran::of(add.arg(server.client_key()).env("SSH_AUTH_SOCK", &socket)).ok();
    let mut tick = machine.agent_command(&["tick", "ops"]);
    Ran::of(tick.env("SSH_AUTH_SOCK", &socket)).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
    assert!(server.logins() > 0);
}
