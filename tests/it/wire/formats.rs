//! Servers of both object formats, by each way and protocol version: cloned from, followed, and told where
//! what they have was made anew with the other hash.

use crate::ids::{FORMATS, by_itself, called, other, serve_in};
use crate::sandbox::Sandbox;
use crate::servers::{Daemon, Https, Sshd};

use super::{converges, mitm_proxy, news, pull_from, reason, trusting};

/// One way to a server, with the settings that let the machine in.
type Way = (String, String);

#[track_caller]
fn is_followed_and_reported_when_it_changes(machine: &Sandbox, format: &str, (settings, url): Way) {
    let first = serve_in(machine, format, "ops", "one");
    let beside = machine.server("zgood").display().to_string();
    pull_from(machine, &settings, &[("ops", url), ("zgood", beside)]);
    converges(machine, "ops", &first);
    let second = news(machine, "ops", "two");
    converges(machine, "ops", &second);
    serve_in(machine, other(format), "ops", "three");
    let neighbour = news(machine, "zgood", "more");
    by_itself(machine.tick()).exits(1);
    assert_eq!(machine.lastaction("zgood"), Some(neighbour));
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
    let why = reason(machine, "ops");
    let named = format!("by {}, and the clone by {}", called(other(format)), called(format));
    assert!(why.contains(&named) && why.contains("mv "), "{why}");
    for line in
        [&["check"][..], &["explain", "ops"], &["tick", "ops"], &["redo", "ops"], &["status"]]
    {
        by_itself(machine.agent(line));
    }
    assert_eq!((machine.lastaction("ops"), machine.head("ops")), (Some(second.clone()), second));
}

fn machine() -> Sandbox {
    let machine = Sandbox::new();
    serve_in(&machine, "sha1", "ops", "none");
    serve_in(&machine, "sha1", "zgood", "one");
    machine
}

#[test]
fn over_https_in_both_versions() {
    for format in FORMATS {
        for old in [false, true] {
            let machine = machine();
            let server = Https::of(&machine);
            let script = "unset HTTP_GIT_PROTOCOL GIT_PROTOCOL\npass_on\n";
            let way = if old { mitm_proxy::meddle(&server, "old", script) } else { String::new() };
            let way = (trusting(&server), server.url_at(&way, "ops"));
            is_followed_and_reported_when_it_changes(&machine, format, way);
        }
    }
}

#[test]
fn over_ssh_in_both_versions() {
    for format in FORMATS {
        for protocol in ["version=2", "version=0"] {
            let machine = machine();
            let mut server = Sshd::of(&machine);
            server.restart_with(&format!("SetEnv GIT_PROTOCOL={protocol}\n"));
            let way = (super::ssh::let_in(&server), server.url("ops"));
            is_followed_and_reported_when_it_changes(&machine, format, way);
        }
    }
}

#[test]
fn over_gits_own_protocol() {
    for format in FORMATS {
        let machine = machine();
        let server = Daemon::of(&machine);
        let way = ("insecure = true\n".to_owned(), server.url("ops"));
        is_followed_and_reported_when_it_changes(&machine, format, way);
    }
}
