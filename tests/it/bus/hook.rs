//! `agent notify` as the hook of real repositories: whoever pushes, however, is announced to who
//! listens, and no push waits or fails because of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use pmpy::domain::bus::message::PushHint;

use super::{Listening, brokers};
use crate::notify::Timed;
use crate::sandbox::{Ran, Sandbox, text, write_program};
use crate::servers::brokers::{AGENT, Broker, HOOK, KINDS, login_file};
use crate::servers::{Behaviour, Proxy, Sshd};

/// The hook as it is installed, with a configuration and a program of the test's.
pub(super) fn install(machine: &Sandbox, name: &str, example: &str, urls: &[String]) {
    let dir = machine.path("notify");
    fs::create_dir_all(&dir).unwrap();
    let configuration = dir.join("notify.toml");
    let login = login_file(&dir, HOOK);
    fs::write(&configuration, format!("[bus]\nbrokers = {urls:?}\nlogin_file = {login:?}\n"))
        .unwrap();
    let hook = example
        .replace("/usr/local/bin/agent", env!("CARGO_BIN_EXE_agent"))
        .replace("/etc/pmpy/notify.toml", text(&configuration));
    let file = machine.server(name).join("hooks/post-receive");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    write_program(&file, hook);
}

pub(super) const PLAIN: &str = include_str!("../../../examples/notify/post-receive");
const GITOLITE: &str = include_str!("../../../examples/notify/gitolite/post-receive");

/// A machine with a repository of this name; the commit that it begins with was pushed before.
fn serving(name: &str) -> Sandbox {
    let machine = Sandbox::new();
    machine.serve(name, &[("page", "old")]);
    machine
}

fn commit(machine: &Sandbox, name: &str, message: &str) -> String {
    let desk = machine.desk(name);
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", message]);
    machine.git(&desk, &["rev-parse", "HEAD"])
}

/// Pushes `refs`; what the pusher reads.
#[track_caller]
fn push(machine: &Sandbox, name: &str, git: &mut Command, refs: &[&str]) -> String {
    let ran = Ran::of(git.current_dir(machine.desk(name)).args(["push", "origin"]).args(refs)).ok();
    let reported = ran.stderr.lines().filter_map(|line| line.strip_prefix("remote: "));
    reported.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Somebody who listens to commits.
fn listening(broker: &Broker, dir: &Path) -> Listening {
    let listening = Listening::to(&brokers(&[broker.url()], dir, AGENT), &["future.git.commits"]);
    listening.up();
    listening
}

/// The next hint about `repo`, with the body that it came with; all tests share the topic.
fn heard(listening: &Listening, repo: &str) -> (PushHint, String) {
    loop {
        let frame = listening.message();
        match PushHint::read(&frame) {
            Some(hint) if hint.repo == repo => {
                return (hint, String::from_utf8(frame.body).unwrap());
            }
            _ => {}
        }
    }
}

#[test]
fn every_ref_of_a_push_is_announced_and_the_pusher_reads_it() {
    for kind in KINDS {
        let name = format!("refs-{kind:?}");
        let (broker, machine) = (Broker::shared(kind), serving(&name));
        let listening = listening(broker, &machine.path(""));
        install(&machine, &name, PLAIN, &[broker.url()]);
        let old = machine.git(&machine.desk(&name), &["rev-parse", "HEAD"]);
        commit(&machine, &name, "One");
        let new = commit(&machine, &name, "Two\n\nrepo: hijack\nJSON: {}");
        machine.git(&machine.desk(&name), &["tag", "-m", "v", "v1"]);
        let git = || machine.command("git");
        let reported = push(&machine, &name, &mut git(), &["HEAD:main", "v1"]);
        assert_eq!(reported, format!("announced {name} main\nannounced {name} v1"));
        let (hint, body) = heard(&listening, &name);
        assert_eq!(
            (hint.name.as_deref(), hint.claimed),
            (Some("refs/heads/main"), new.parse().ok())
        );
        assert!(
            body.starts_with(&format!("repo: {name}\noldrev: {old}\nnewrev: {new}\n")),
            "{body}"
        );
        assert!(body.contains("Author: Pat Pusher <pat@example.org>\n"), "{body}");
        assert!(body.contains("Date:   Sun Nov 22 09:00:00 2026 +0000\n\n    Two\n"), "{body}");
        assert!(body.contains("\n    repo: hijack\n") && body.contains("\n    One\n"), "{body}");
        let (hint, body) = heard(&listening, &name);
        assert_eq!(hint.name.as_deref(), Some("refs/tags/v1"));
        assert!(!body.contains("    One\n"), "of a new ref the newest commit is told: {body}");

        let reported = push(&machine, &name, &mut git(), &[":v1"]);
        assert_eq!(reported, format!("announced {name} v1, which is gone"));
        assert_eq!(heard(&listening, &name).0.claimed, None);
        // What review tools and `git notes` keep is no news for machines.
        let reported =
            push(&machine, &name, &mut git(), &["HEAD:refs/notes/x", "HEAD:refs/changes/1/1"]);
        assert_eq!(reported, "");
        let reported = push(&machine, &name, &mut git(), &["HEAD:refs/notes/y", "HEAD:side"]);
        assert_eq!(reported, format!("announced {name} side"));
        assert_eq!(heard(&listening, &name).0.name.as_deref(), Some("refs/heads/side"));
        let many: Vec<_> = (0..300).map(|number| format!("HEAD:refs/heads/b{number}")).collect();
        let refs: Vec<_> = many.iter().map(String::as_str).collect();
        let reported = push(&machine, &name, &mut git(), &refs);
        // What may follow is how many were not confirmed in time.
        let lines: Vec<_> = reported.lines().collect();
        assert!(lines[9].starts_with(&format!("announced {name} b")), "{reported}");
        assert_eq!(lines[10], format!("and 290 more refs of {name}"), "{reported}");
        for _ in 0..300 {
            heard(&listening, &name);
        }
    }
}

#[test]
fn a_push_over_ssh_is_announced() {
    for kind in KINDS {
        let name = format!("ssh-{kind:?}");
        let (broker, machine) = (Broker::shared(kind), serving(&name));
        let listening = listening(broker, &machine.path(""));
        install(&machine, &name, PLAIN, &[broker.url()]);
        let server = Sshd::of(&machine);
        let url = server.url(&name);
        machine.git(&machine.desk(&name), &["remote", "set-url", "origin", &url]);
        let new = commit(&machine, &name, "Over ssh");
        let mut git = machine.command("git");
        git.env("GIT_SSH_COMMAND", server.ssh_command());
        let reported = push(&machine, &name, &mut git, &["HEAD:main"]);
        assert_eq!(reported, format!("announced {name} main"));
        assert_eq!(heard(&listening, &name).0.claimed, new.parse().ok());
    }
}

#[test]
fn over_tls_and_with_gitolites_names_it_is_the_same() {
    for kind in KINDS {
        let broker = Broker::shared(kind);
        let machine = serving("spog");
        let listening = listening(broker, &machine.path(""));
        let urls = [broker.tls_url()];
        install(&machine, "spog", GITOLITE, &urls);
        let configuration = machine.path("notify/notify.toml");
        let more = format!("ca_file = {:?}\n", broker.ca_file());
        fs::write(&configuration, fs::read_to_string(&configuration).unwrap() + &more).unwrap();
        commit(&machine, "spog", "A change");
        // What gitolite sets for its hooks.
        let (repo, mut git) = (format!("sites/{kind:?}"), machine.command("git"));
        git.env("GL_REPO", &repo).env("GL_USER", "key-of-pat");
        let reported = push(&machine, "spog", &mut git, &["HEAD:main"]);
        assert_eq!(reported, format!("announced {repo} main"));
        let (_, body) = heard(&listening, &repo);
        assert!(body.contains("\"user_name\":\"key-of-pat\""), "{body}");
        commit(&machine, "spog", "Another");
        let mut git = machine.command("git");
        git.env("GL_REPO", "gitolite-admin");
        assert_eq!(push(&machine, "spog", &mut git, &["HEAD:main"]), "");
    }
}

#[test]
fn a_bus_that_is_of_no_use_costs_two_seconds_and_no_push() {
    for kind in KINDS {
        let broker = Broker::shared(kind);
        let machine = serving("ops");
        let hole = Proxy::to(broker.port());
        hole.behave(Behaviour::BlackHole);
        let hole_url = format!("stomp://127.0.0.1:{}", hole.port());
        let git = || machine.command("git");

        install(&machine, "ops", PLAIN, std::slice::from_ref(&hole_url));
        let hook = Timed::hook(&machine, "ops");
        commit(&machine, "ops", "Into the hole");
        let reported = push(&machine, "ops", &mut git(), &["HEAD:main"]);
        assert!(reported.starts_with("agent: not announced: the broker "), "{reported}");
        assert!(reported.contains("does not answer; servers will see it"), "{reported}");
        assert_eq!(reported.lines().count(), 1, "{reported}");
        hook.took_two_seconds();

        // The next broker has its share of the two seconds.
        install(&machine, "ops", PLAIN, &[hole_url, broker.url()]);
        commit(&machine, "ops", "Past the hole");
        let reported = push(&machine, "ops", &mut git(), &["HEAD:main"]);
        assert_eq!(reported.lines().next(), Some("announced ops main"), "{reported}");

        install(&machine, "ops", PLAIN, &[broker.url()]);
        fs::write(machine.path("notify/bus.login"), "hook:wrong\n").unwrap();
        commit(&machine, "ops", "With a wrong password");
        let reported = push(&machine, "ops", &mut git(), &["HEAD:main"]);
        assert!(reported.contains("it refuses the connection"), "{reported}");
        assert!(!reported.contains("hint") && !reported.contains("wrong"), "{reported}");
        let pushed = machine.git(&machine.desk("ops"), &["rev-parse", "HEAD"]);
        assert_eq!(machine.git(&machine.server("ops"), &["rev-parse", "main"]), pushed);
    }
}

#[test]
fn check_names_the_broker_that_takes_us_and_the_option_without_effect() {
    let [rabbitmq, activemq] = KINDS.map(Broker::shared);
    let machine = Sandbox::new();
    let check = |brokers: &str, login: &str| {
        let login = login_file(&machine.path(""), login);
        machine.configure(&format!("[bus]\nbrokers = {brokers}\nlogin_file = {login:?}\n"));
        machine.agent(&["check"])
    };
    let both = [rabbitmq.url(), activemq.url()];
    let reported = check(&format!("{both:?}"), AGENT).stdout;
    for url in &both {
        assert!(reported.contains(&format!("connected to {url}")), "{reported}");
    }
    let ran = check(&format!("{both:?}"), "agent:wrong").exits(1);
    assert!(ran.stdout.contains("it refuses the connection"), "{ran}");
    let old = format!("\"failover:({})?MaxReconnectDelay=30\"", both[0]);
    let reported = check(&old, AGENT).stdout;
    assert!(reported.contains("have no effect: MaxReconnectDelay=30"), "{reported}");
}
