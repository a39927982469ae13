//! `agent init` over each protocol of the wire, from real servers, and with a key that comes late.

use std::fs;

use crate::sandbox::{Ran, Sandbox, set_mode, text};
use crate::servers::{Daemon, Https, Sshd};

/// A machine, and a repository whose scripts note that they ran.
fn machine() -> Sandbox {
    let machine = Sandbox::new();
    let notes = |what: &str| format!("echo {what} >> \"$AGENT_ROOT/../runs\"\n");
    let (init, work) = (notes("init"), notes("work"));
    let files = [("bin/init/common/init.sh", init.as_str()), ("work.sh", work.as_str())];
    machine.serve("ops", &files);
    machine
}

fn init(machine: &Sandbox, url: &str, more: &[&str]) -> Ran {
    machine.agent(&[&["init", url, "--schedule", "none"], more].concat())
}

/// Settings for every repository of the machine.
fn defaults(machine: &Sandbox, lines: &str) {
    let dir = machine.root().join(".pmpy");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("agent.toml"), format!("[defaults]\n{lines}")).unwrap();
}

#[track_caller]
fn is_live(machine: &Sandbox, protocol: &str) {
    assert_eq!(machine.state("ops"), "current", "{protocol}");
    assert_eq!(machine.runs(), ["init", "work"], "{protocol}");
}

#[test]
fn it_makes_a_machine_live_over_every_protocol() {
    let machine = machine();
    let server = Sshd::of(&machine);
    let (key, hosts) = (server.client_key(), server.known_hosts());
    let keys = ["--key", text(&key), "--known-hosts", text(&hosts)];
    init(&machine, &server.url("ops"), &keys).ok();
    is_live(&machine, "ssh");

    let machine = self::machine();
    let server = Https::of(&machine);
    defaults(&machine, &format!("ca_file = {:?}\n", server.ca_file()));
    init(&machine, &server.url("ops"), &[]).ok();
    is_live(&machine, "https");

    let machine = self::machine();
    let server = Daemon::of(&machine);
    defaults(&machine, "insecure = true\n");
    init(&machine, &server.url("ops"), &[]).ok();
    is_live(&machine, "git");
}

#[test]
fn a_key_that_comes_late_lets_the_next_tick_finish_what_init_began() {
    let machine = machine();
    let server = Sshd::of(&machine);
    let (key, hosts) = (machine.path("late.key"), machine.path("late.hosts"));
    let keys = ["--key", text(&key), "--known-hosts", text(&hosts)];
    let ran = init(&machine, &server.url("ops"), &keys).exits(1);
    assert!(ran.stdout.contains("Not ready yet: ops. The next tick retries"), "{ran}");
    assert_eq!(machine.state("ops"), "denied", "{ran}");
    assert!(machine.runs().is_empty());
    fs::copy(server.known_hosts(), &hosts).unwrap();
    fs::copy(server.client_key(), &key).unwrap();
    set_mode(&key, 0o600);
    machine.tick().ok();
    is_live(&machine, "ssh");
    machine.tick().ok();
    is_live(&machine, "init.sh ran once");
}
