//! Chains as `examples/chain` shows them: a build server tests what is pushed, and the servers behind it
//! run only what passed.

use std::fs;

use super::listen::{announces, applies, configure, settles};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};
use crate::servers::brokers::{Broker, KINDS, Kind, ODD, login_file};

const TEST: &str = "! grep -q broken page\n";
const BY_BRANCH: &str = include_str!("../../../examples/chain/by-branch/build.sh");
const FOLLOW_BRANCH: &str = include_str!("../../../examples/chain/by-branch/servers.toml");
const BY_TOPIC: &str = include_str!("../../../examples/chain/by-topic/build.sh");
const TESTED: &str = include_str!("../../../examples/chain/by-topic/tested.toml");
const FOLLOW_TOPIC: &str = include_str!("../../../examples/chain/by-topic/servers.toml");

/// The build server, with the git server beside it: both have a repository of this name, whose first
/// revision passes.
fn build_server(name: &str, broker: &Broker, script: &str) -> Sandbox {
    let build = Sandbox::with(
        name,
        &[
            ("bin/work/part/build/work.sh", script),
            ("bin/work/part/web/work.sh", NOTES_ITS_RUNS),
            ("test.sh", TEST),
            ("page", "good"),
        ],
    );
    announces(&build, name, &[broker.url()]);
    configure(&build, ODD, &[broker.url()], "[node]\npart = \"build\"\n");
    build.tick().ok();
    build
}

/// A server that takes what the build server lets through.
fn server(build: &Sandbox, name: &str, broker: &Broker, settings: &str) -> Sandbox {
    let server = Sandbox::new();
    let (from, to) = (build.server(name), server.clone_of(name));
    server.git(&server.path(""), &["clone", "--quiet", text(&from), text(&to)]);
    let settings = settings.replace("[repo.spog]", &format!("[repo.{name}]"));
    let settings = format!("[node]\npart = \"web\"\n{settings}");
    configure(&server, ODD, &[broker.url()], &settings);
    server.tick().ok();
    server
}

/// What is pushed goes over the build server to the server, unless it is broken.
fn only_what_passes_gets_through(name: &str, build: &Sandbox, server: &Sandbox) {
    let (builds, serves) = (Listener::start(build), Listener::start(server));
    settles(build, &builds);
    settles(server, &serves);
    let good = build.push(name, &[("page", "better")]);
    applies(server, name, &good);
    let broken = build.push(name, &[("page", "broken")]);
    wait_until("the test fails", || build.state(name) == "failing");
    settles(server, &serves);
    assert_eq!(server.lastaction(name), Some(good));
    let best = build.push(name, &[("page", "best")]);
    applies(server, name, &best);
    let runs = server.runs();
    assert!(runs.iter().all(|run| !run.contains(&broken)), "{runs:?}");
}

#[test]
fn servers_that_follow_the_branch_of_a_build_server_run_only_what_it_tested() {
    for kind in KINDS {
        let (broker, name) = (Broker::shared(kind), format!("branch-{kind:?}"));
        let build = build_server(&name, broker, BY_BRANCH);
        let server = server(&build, &name, broker, FOLLOW_BRANCH);
        only_what_passes_gets_through(&name, &build, &server);
        let tip = |branch: &str| build.git(&build.server(&name), &["rev-parse", branch]);
        assert_eq!(tip("tested"), tip("main"));
    }
}

#[test]
fn servers_that_listen_to_a_build_server_look_only_when_it_says_so() {
    for kind in KINDS {
        let (broker, name) = (Broker::shared(kind), format!("topic-{kind:?}"));
        let dir = tempfile::tempdir().unwrap();
        let build = build_server(&name, broker, &by_topic(kind, broker, dir.path()));
        let topic = format!("future.git.tested.{kind:?}");
        let settings = FOLLOW_TOPIC.replace("future.git.tested", &topic);
        let server = server(&build, &name, broker, &settings);
        // Neither a tick nor a bus that is back says that anything was tested.
        let untested = build.push(&name, &[("page", "broken too")]);
        server.tick().ok();
        let listener = Listener::start(&server);
        settles(&server, &listener);
        drop(listener);
        assert_ne!(server.lastaction(&name), Some(untested));
        only_what_passes_gets_through(&name, &build, &server);
    }
}

/// The script of the example with a configuration and a program of the test's.
fn by_topic(kind: Kind, broker: &Broker, dir: &std::path::Path) -> String {
    let file = dir.join("tested.toml");
    let (before, after) = TESTED.split_once("brokers").unwrap();
    let (_, after) = after.split_once("login_file").unwrap();
    let (_, topic) = after.split_once('\n').unwrap();
    let topic = topic.replace("future.git.tested", &format!("future.git.tested.{kind:?}"));
    let (url, login) = (broker.url(), login_file(dir, ODD));
    let tested = format!("{before}brokers = {url:?}\nlogin_file = {login:?}\n{topic}");
    fs::write(&file, tested).unwrap();
    BY_TOPIC
        .replace("/usr/local/bin/agent", env!("CARGO_BIN_EXE_agent"))
        .replace("/etc/pmpy/tested.toml", text(&file))
}
