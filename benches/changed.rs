//! What it costs to deploy a change of 1, 10 and 100 repositories: a tick of the agent against the loop of
//! `git pull` and `bash` that it replaces, in turns, so that whatever else the machine does meets both.
//!
//! `cargo bench --features servers --bench changed [-- ROUNDS [WHAT…]]`, where WHAT is a part of the name of a
//! row; all rows without. Needs nginx, fcgiwrap, sshd, strace, and root. `AGENT_BEFORE=PATH` measures an
//! older build of the agent beside this one, with clones of its own.
//!
//! Prints a Markdown table of medians. Connections, turns and bytes are the proxy's count, which also makes
//! the round trip; a path has no line. Processes and syncs are those of one more run under strace: every
//! process but the first, and calls of `fsync`, `fdatasync`, `syncfs` and `sync`.

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
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use line::{
    Account, Bench, Candidate, Cost, FAR, agent_before, machine_for_ssh, machine_with, over_https,
    over_plain_http, over_ssh, trusting,
};
use sandbox::{Ran, Sandbox, text};
use servers::Proxy;

const PATH: &str = "a path";
const SCRIPT: &str = "bin/work/common/work.sh";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let rounds = words.first().and_then(|word| word.parse().ok()).unwrap_or(5);
    let wanted: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    println!("{rounds} rounds; ratio: this build to the loop\n");
    println!(
        "| | wall ms | client CPU ms | server CPU ms | connections | turns | KB | processes | syncs |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: | --: |");
    for count in [1, 10, 100] {
        for (way, round_trip, row) in WAYS {
            let name = match way == PATH {
                true => format!("{count} over {way}"),
                false => format!("{count} over {way}, {} ms", round_trip.as_millis()),
            };
            if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
                row(&name, rounds, count, round_trip);
            }
        }
    }
}

/// Measures so many rounds with so many repositories over a line with this round trip.
type Row = fn(&str, usize, usize, Duration);

const WAYS: [(&str, Duration, Row); 7] = [
    (PATH, Duration::ZERO, path),
    ("http", Duration::ZERO, http),
    ("http", FAR, http),
    ("https", Duration::ZERO, https),
    ("https", FAR, https),
    ("ssh, warm", Duration::ZERO, ssh),
    ("ssh, warm", FAR, ssh),
];

fn path(name: &str, rounds: usize, count: usize, _: Duration) {
    let account = Account::open();
    let machine = machine_with(count, |_| String::new());
    line::point(&machine, count, |_, name| text(&machine.server(name)).to_owned());
    let bench = Bench { machine: &machine, servers: &account, environment: Vec::new() };
    row(&bench, name, rounds, count, &[]);
}

fn http(name: &str, rounds: usize, count: usize, round_trip: Duration) {
    let account = Account::open();
    let (machine, _server, line) = over_plain_http(&account, count, round_trip);
    let bench = Bench { machine: &machine, servers: &account, environment: Vec::new() };
    row(&bench, name, rounds, count, &[&line]);
}

fn https(name: &str, rounds: usize, count: usize, round_trip: Duration) {
    let account = Account::open();
    let (machine, server, line) = over_https(&account, count, round_trip);
    let bench = Bench { machine: &machine, servers: &account, environment: trusting(&server) };
    row(&bench, name, rounds, count, &[&line]);
}

fn ssh(name: &str, rounds: usize, count: usize, round_trip: Duration) {
    let account = Account::open();
    let machine = machine_for_ssh(count);
    let (server, line) = over_ssh(&account, &machine, count, round_trip);
    let environment = vec![("GIT_SSH_COMMAND", server.ssh_command())];
    let bench = Bench { machine: &machine, servers: &account, environment };
    row(&bench, name, rounds, count, &[&line]);
}

/// Pushes a change to each repository.
fn push(machine: &Sandbox, count: usize) -> String {
    let number = machine.git(&machine.desk("r0"), &["rev-list", "--count", "HEAD"]);
    let revision = machine.push("r0", &[("page", &number)]);
    for number in 1..count {
        let server = machine.server(&format!("r{number}"));
        machine
            .git(&machine.desk("r0"), &["push", "--quiet", "--force", text(&server), "HEAD:main"]);
    }
    revision
}

/// The loop as it stands in many a crontab, with the script.
fn pull_and_run(machine: &Sandbox) -> Command {
    let mut command = machine.command("bash");
    let script = format!(
        "for repository in \"$1\"/*/; do cd \"$repository\" && git pull --quiet && bash {SCRIPT}; done"
    );
    command.args(["-c", &script, "bash", text(&machine.path("loop"))]);
    command
}

/// The agent, its older build if there is one, and the loop in turns, each after a push to every repository.
fn row(bench: &Bench, name: &str, rounds: usize, count: usize, lines: &[&Proxy]) {
    let machine = bench.machine;
    let (older, root) = (agent_before(), machine.path("before"));
    Ran::of(machine.command("cp").args(["-a", text(&machine.root()), text(&root)])).ok();
    let (ours, tick) = (format!("{name}: agent"), || bench.tick());
    let before = || bench.tick_of(older.as_deref().unwrap(), &root);
    let pull = || pull_and_run(machine);
    let mut all: Vec<Candidate> = vec![(ours.as_str(), &tick)];
    let mut clones = vec![machine.root()];
    if older.is_some() {
        all.push(("agent before", &before));
        clones.push(root.clone());
    }
    all.push(("`git pull` and `bash`", &pull));
    clones.push(machine.path("loop"));

    // The first time, connections are opened, and it is learnt how a server answers.
    push(machine, count);
    all.iter().for_each(|(_, command)| drop(run(bench, command())));
    let revision = push(machine, count);
    let traced: Vec<Traced> = all.iter().map(|(_, command)| trace(bench, command())).collect();
    each_has(machine, &clones, count, &revision);
    let costs = bench.medians(rounds, lines, &all, || drop(push(machine, count)));
    each_has(machine, &clones, count, &machine.git(&machine.desk("r0"), &["rev-parse", "HEAD"]));
    for (((name, _), cost), traced) in all.iter().zip(&costs).zip(&traced) {
        print_costs(name, cost, traced);
    }
    let (first, last) = (costs[0], costs[costs.len() - 1]);
    let ratio = |part: fn(&Cost) -> f64| match part(&last) {
        0.0 => "–".to_owned(),
        theirs => format!("{:.2}", part(&first) / theirs),
    };
    println!(
        "| *ratio* | {} | {} | {} | | | | | |",
        ratio(|cost| cost.wall),
        ratio(|cost| cost.client),
        ratio(|cost| cost.server)
    );
}

/// Fails unless each clone in each of `directories` has `revision`: then something else was measured.
fn each_has(machine: &Sandbox, directories: &[PathBuf], count: usize, revision: &str) {
    for directory in directories {
        for number in 0..count {
            let clone = directory.join(format!("r{number}"));
            assert_eq!(
                machine.git(&clone, &["rev-parse", "HEAD"]),
                revision,
                "{}",
                clone.display()
            );
        }
    }
}

fn run(bench: &Bench, mut command: Command) -> Ran {
    Ran::of(command.envs(bench.environment.iter().map(|(name, value)| (name, value)))).ok()
}

/// What strace counted.
struct Traced {
    processes: usize,
    syncs: usize,
}

fn trace(bench: &Bench, command: Command) -> Traced {
    let log = bench.machine.path("trace");
    let mut traced = bench.machine.command("strace");
    let calls = "trace=fork,vfork,clone,clone3,fsync,fdatasync,syncfs,sync";
    traced.args(["-f", "-qq", "-e", "signal=none", "-e", calls, "-o", text(&log), "--"]);
    traced.arg(command.get_program()).args(command.get_args());
    traced.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(bench, traced);
    let calls = fs::read_to_string(&log).unwrap();
    let mut found = Traced { processes: 0, syncs: 0 };
    for line in calls.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
        let is_one_of =
            |names: &[&str]| names.iter().any(|name| call.starts_with(&format!("{name}(")));
        // A call of which other threads interrupted the line counts where it begins.
        if is_one_of(&["fsync", "fdatasync", "syncfs", "sync"]) {
            found.syncs += 1;
        } else if is_one_of(&["fork", "vfork", "clone", "clone3"]) && !call.contains("CLONE_THREAD")
        {
            found.processes += 1;
        }
    }
    found
}

fn print_costs(name: &str, cost: &Cost, traced: &Traced) {
    let Cost { wall, client, server, connections, turns, kilobytes } = cost;
    let Traced { processes, syncs } = traced;
    println!(
        "| {name} | {wall:.0} | {client:.1} | {server:.1} | {connections:.0} | {turns:.0} | \
         {kilobytes:.1} | {processes} | {syncs} |"
    );
}
