//! What the wire costs, counted: connections, turns, bytes, processes. Times and processor are
//! measured by the benchmark.

use std::fs;
use std::time::Duration;

use crate::sandbox::{Ran, Sandbox, text};
use crate::servers::{Counts, Face, Https, Proxy};

use super::{acted, news, pull_from, trusting};

const THREE: [&str; 3] = ["web", "ops", "dns"];

/// A machine with `names` that pulls them over one line, the protocol discovered already.
fn over_a_line(names: &[&str]) -> (Sandbox, Https, Proxy) {
    let machine = acted(names);
    let server = Https::of(&machine);
    let line = Proxy::with_round_trip(server.port(Face::Good), Duration::from_millis(20));
    let urls: Vec<_> = names.iter().map(|name| (*name, line.url_of(&server.url(name)))).collect();
    pull_from(&machine, &trusting(&server), &urls);
    machine.tick().ok();
    for name in names {
        assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
    }
    (machine, server, line)
}

/// What one tick sends over `line`.
fn cost(machine: &Sandbox, line: &Proxy) -> Counts {
    line.forget_counts();
    machine.tick().ok();
    line.counts()
}

#[test]
fn three_repositories_share_one_connection_and_cost_one_small_turn_each() {
    let one = {
        let (machine, _server, line) = over_a_line(&["ops"]);
        cost(&machine, &line)
    };
    assert_eq!((one.connections, one.turns), (1, 2), "TLS and the question: {one:?}");
    let (machine, server, line) = over_a_line(&THREE);
    server.forget_requests();
    let three = cost(&machine, &line);
    assert_eq!((three.connections, three.turns), (1, 4), "{three:?}");
    let more = three.up + three.down - one.up - one.down;
    assert!(more < 2 * 1_000, "a poll costs {} bytes", more / 2);
    let requests = server.requests();
    assert_eq!(requests.len(), 3, "{requests:#?}");
    for request in requests {
        assert_eq!((request.method.as_str(), request.status), ("POST", 200));
        assert_eq!(request.git_protocol, "version=2");
    }
}

#[test]
fn an_idle_tick_over_https_starts_no_process() {
    let (machine, _server, line) = over_a_line(&THREE);
    line.forget_counts();
    let trace = machine.path("trace");
    let agent = machine.agent_line(&["tick", "--trigger", "cron"]);
    let mut strace = machine.command("strace");
    strace.args(["-f", "-e", "trace=process", "-o", text(&trace)]).args(agent);
    Ran::of(&mut strace).ok();
    let calls = fs::read_to_string(trace).unwrap();
    let started: Vec<&str> = calls
        .lines()
        .filter(|call| {
            let starts = ["clone(", "clone3(", "fork(", "vfork("];
            let process = starts.iter().any(|name| call.contains(name));
            (process && !call.contains("CLONE_THREAD")) || call.contains(" execve(")
        })
        .collect();
    assert_eq!(started.len(), 1, "only the agent itself is started: {started:#?}");
    assert_eq!(line.counts().connections, 1);
}

#[test]
fn news_cost_four_turns() {
    let (machine, server, line) = over_a_line(&["ops"]);
    let revision = news(&machine, "ops", "new");
    server.forget_requests();
    let counts = cost(&machine, &line);
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert!(counts.turns <= 4, "{counts:?} {:#?}", server.requests());
}

#[test]
fn fifty_thousand_refs_cost_no_more_than_one() {
    let (machine, server, line) = over_a_line(&["ops"]);
    let few = cost(&machine, &line);
    let revision = machine.head("ops");
    let refs: String =
        (0..50_000).map(|number| format!("create refs/tags/t{number} {revision}\n")).collect();
    let file = machine.path("refs");
    fs::write(&file, refs).unwrap();
    let update = "git update-ref --stdin < \"$1\" && git pack-refs --all";
    let mut shell = machine.command("sh");
    shell.current_dir(machine.server("ops")).args(["-c", update, "sh", text(&file)]);
    Ran::of(&mut shell).ok();
    let many = cost(&machine, &line);
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(many.turns, few.turns);
    assert!(many.down < few.down + 500, "{few:?} became {many:?}");
    drop(server);
}

#[test]
fn a_hundred_repositories_open_no_more_than_sixteen_connections() {
    let names: Vec<String> = (0..100).map(|number| format!("site{number}")).collect();
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let url = line.url_of(&server.url("ops"));
    for name in &names {
        let copy = machine.clone_of(name);
        Ran::of(machine.command("cp").args(["-a", text(&machine.clone_of("ops")), text(&copy)]))
            .ok();
    }
    let urls: Vec<_> = names.iter().map(|name| (name.as_str(), url.clone())).collect();
    pull_from(&machine, &trusting(&server), &urls);
    machine.tick().ok();
    let counts = cost(&machine, &line);
    assert!(counts.connections <= 16, "{counts:?}");
    assert!(counts.up + counts.down < 115_000, "{counts:?}");
    for row in machine.status()["repositories"].as_array().unwrap() {
        assert_eq!(row["state"], "current", "{row:#}");
    }
}
