//! What polls and fetches cost over a real line: the agent against the loop of `git pull` that it
//! replaces, and against git2's own transport, on the same server, in turns, so that whatever else
//! the machine does meets all of them.
//!
//! `cargo bench --features servers --bench wire [-- ROUNDS [WHAT…]]`, where WHAT is a part of the
//! name of a row; all rows without. Needs nginx, fcgiwrap, sshd, GNU time, and root. `AGENT_BEFORE=PATH`
//! measures an older build of the agent beside this one. `changed` measures what a change costs.
//!
//! Prints a Markdown table of medians; the memory is that of the largest process. Bytes, connections
//! and turns are the proxy's count, TLS and ssh included; the proxy also makes the round trip. git2's own
//! transport is built here without https and ssh: it is a candidate where all use http without TLS.

#![allow(clippy::disallowed_methods, reason = "it starts programs and reads the clock")]

mod figures;
#[allow(dead_code, reason = "the other measurements use the rest")]
mod line;
#[path = "../tests/it/sandbox.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sandbox;
#[path = "../tests/it/servers/mod.rs"]
mod servers;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use line::{
    Account, Bench, Candidate, Cost, FAR, agent_before, authority, machine_for_ssh, machine_with,
    middle, over_https, over_plain_http, over_ssh, peak, point, trusting,
};
use sandbox::{Ran, Sandbox, text};
use servers::{Face, Https, Proxy};

/// The word that makes this program the candidate [`list_by_git2`].
const LIST: &str = "list-by-git2";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [LIST, dir] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return list_by_git2(Path::new(dir));
    }
    let rounds = words.first().and_then(|word| word.parse().ok()).unwrap_or(5);
    let wanted: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    println!("{rounds} rounds; ratio: to the agent, and what it should be at least\n");
    println!("| | wall ms | client CPU ms | server CPU ms | connections | turns | KB | peak MB |");
    println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
    for (name, row) in rows() {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            row(&name, rounds);
        }
    }
}

/// Measures so many rounds of a row of this name and prints it.
type Row = Box<dyn Fn(&str, usize)>;

/// Every row of the table.
fn rows() -> Vec<(String, Row)> {
    let mut rows: Vec<(String, Row)> = Vec::new();
    for count in [1, 10, 100] {
        for round_trip in [Duration::ZERO, FAR] {
            let name = format!("{count} over https, {} ms", round_trip.as_millis());
            let row = move |name: &str, rounds| https(name, rounds, count, round_trip);
            rows.push((name, Box::new(row)));
        }
    }
    for round_trip in [Duration::ZERO, FAR] {
        let name = format!("100 over http, {} ms", round_trip.as_millis());
        rows.push((name, Box::new(move |name: &str, rounds| http(name, rounds, round_trip))));
    }
    rows.push(("1 with 50,000 refs, 0 ms".to_owned(), Box::new(many_refs)));
    for round_trip in [Duration::ZERO, FAR] {
        let name = format!("10 over ssh, warm, {} ms", round_trip.as_millis());
        let row = move |name: &str, rounds| ssh(name, rounds, round_trip);
        rows.push((name, Box::new(row)));
    }
    rows.push(("1,000 on 10 servers, 20 ms".to_owned(), Box::new(thousand)));
    rows
}

/// This program as the candidate of git2's own transport.
fn git2_list(machine: &Sandbox) -> Command {
    let mut command = machine.command(text(&std::env::current_exe().unwrap()));
    command.arg(LIST).arg(machine.path("loop"));
    command
}

/// The agent and the loop in turns.
fn row(bench: &Bench, name: &str, rounds: usize, lines: &[&Proxy], target: &str) {
    let others: [Candidate; 1] = [("`git pull` loop", &|| bench.pull_loop())];
    compare(bench, name, rounds, lines, target, &others);
}

/// The agent, its older build if there is one, and `others` in turns.
fn compare(
    bench: &Bench,
    name: &str,
    rounds: usize,
    lines: &[&Proxy],
    target: &str,
    others: &[Candidate],
) {
    let (ours, tick) = (format!("{name}: agent"), || bench.tick());
    let before = agent_before();
    let old = || bench.tick_of(before.as_deref().unwrap(), &bench.machine.root());
    let mut all: Vec<Candidate> = vec![(ours.as_str(), &tick)];
    if before.is_some() {
        all.push(("agent before", &old));
    }
    all.extend(others);
    let peaks: Vec<f64> = all.iter().map(|(_, command)| peak(bench, &command())).collect();
    let costs = bench.medians(rounds, lines, &all, || ());
    for (((name, _), cost), peak) in all.iter().zip(&costs).zip(peaks) {
        print_costs(name, cost, peak);
    }
    for theirs in &costs[1..] {
        print_ratios(target, &costs[0], theirs);
    }
}

fn print_costs(name: &str, cost: &Cost, peak: f64) {
    let Cost { wall, client, server, connections, turns, kilobytes } = cost;
    println!(
        "| {name} | {wall:.0} | {client:.1} | {server:.1} | {connections:.0} | {turns:.0} | \
         {kilobytes:.1} | {peak:.1} |"
    );
}

fn print_ratios(target: &str, ours: &Cost, theirs: &Cost) {
    let ratio = |part: fn(&Cost) -> f64| match part(ours) {
        0.0 => "–".to_owned(),
        own => format!("{:.1}", part(theirs) / own),
    };
    println!(
        "| *ratio* ({target}) | {} | {} | {} | {} | {} | {} | |",
        ratio(|cost| cost.wall),
        ratio(|cost| cost.client),
        ratio(|cost| cost.server),
        ratio(|cost| cost.connections),
        ratio(|cost| cost.turns),
        ratio(|cost| cost.kilobytes)
    );
}

/// What an agent would do that left the line to git2: asks the remote of each clone in `directory` for its
/// refs, one after the other, and compares.
#[allow(clippy::disallowed_types, reason = "it stands for a program that uses the library alone")]
fn list_by_git2(dir: &Path) {
    for clone in fs::read_dir(dir).unwrap() {
        let repository = git2::Repository::open(clone.unwrap().path()).unwrap();
        let mut remote = repository.find_remote("origin").unwrap();
        remote.connect(git2::Direction::Fetch).unwrap();
        let here = repository.refname_to_id("refs/remotes/origin/main").unwrap();
        let there = remote.list().unwrap().iter().find(|it| it.name() == "refs/heads/main");
        assert_eq!(there.unwrap().oid(), here, "nothing is new");
        remote.disconnect().unwrap();
    }
}

/// Over HTTP without TLS, which git2's own transport can as well.
fn http(name: &str, rounds: usize, round_trip: Duration) {
    let count = 100;
    let account = Account::open();
    let (machine, _server, line) = over_plain_http(&account, count, round_trip);
    let bench = Bench { machine: &machine, servers: &account, environment: Vec::new() };
    let others: [Candidate; 2] = [
        ("git2's own transport", &|| git2_list(&machine)),
        ("`git pull` loop", &|| bench.pull_loop()),
    ];
    compare(&bench, name, rounds, &[&line], "–", &others);
}

fn https(name: &str, rounds: usize, count: usize, round_trip: Duration) {
    let target = match (count, round_trip.is_zero()) {
        (1, _) => "client 10",
        (100, false) => "client 100, wall 25, server 2, 16 connections, 110 KB, 15 MB",
        (100, true) => "client 100, server 2, 16 connections, 110 KB, 15 MB",
        _ => "–",
    };
    let account = Account::open();
    let (machine, server, line) = over_https(&account, count, round_trip);
    let bench = Bench { machine: &machine, servers: &account, environment: trusting(&server) };
    row(&bench, name, rounds, &[&line], target);
}

fn many_refs(name: &str, rounds: usize) {
    let account = Account::open();
    let (machine, server, line) = over_https(&account, 1, Duration::ZERO);
    let revision = machine.head("r0");
    let refs: String =
        (0..50_000).map(|number| format!("create refs/tags/t{number} {revision}\n")).collect();
    let file = machine.path("refs");
    fs::write(&file, refs).unwrap();
    let mut update = machine.command("sh");
    let script = "git update-ref --stdin < \"$1\" && git pack-refs --all";
    update.args(["-c", script, "sh", text(&file)]).current_dir(machine.server("r0"));
    Ran::of(&mut update).ok();
    let bench = Bench { machine: &machine, servers: &account, environment: trusting(&server) };
    row(&bench, name, rounds, &[&line], "client 60, 3 KB");
}

fn ssh(name: &str, rounds: usize, round_trip: Duration) {
    let account = Account::open();
    let machine = machine_for_ssh(10);
    let (server, line) = over_ssh(&account, &machine, 10, round_trip);
    let environment = vec![("GIT_SSH_COMMAND", server.ssh_command())];
    let bench = Bench { machine: &machine, servers: &account, environment };
    row(&bench, name, rounds, &[&line], "wall 15");
}

/// No loop beside it: it would take minutes.
fn thousand(name: &str, rounds: usize) {
    let (count, servers) = (1_000, 10);
    let account = Account::open();
    let machine = machine_with(count, |machine| format!("ca_file = {:?}\n", authority(machine)));
    let servers: Vec<Https> = (0..servers).map(|_| Https::of(&machine)).collect();
    servers.iter().for_each(|server| account.take(&server.processes()));
    fs::copy(servers[0].ca_file(), authority(&machine)).unwrap();
    let lines: Vec<Proxy> =
        servers.iter().map(|server| Proxy::with_round_trip(server.port(Face::Good), FAR)).collect();
    point(&machine, count, |number, name| {
        let at = number % servers.len();
        lines[at].url_of(&servers[at].url(name))
    });
    let bench = Bench { machine: &machine, servers: &account, environment: Vec::new() };
    let peak = peak(&bench, &bench.tick());
    let lines: Vec<&Proxy> = lines.iter().collect();
    let costs: Vec<Cost> = (0..rounds).map(|_| bench.measure(&lines, bench.tick())).collect();
    print_costs(&format!("{name}: agent (wall 5,000)"), &middle(&costs), peak);
}
