//! What polls and fetches cost over a real line: the agent against the loop of `git pull` that it
//! replaces, and against git2's own transport, on the same server, in turns, so that whatever else
//! the machine does meets all of them.
//!
//! `cargo bench --features servers --bench wire [-- ROUNDS [WHAT…]]`, where WHAT is a part of the
//! name of a row; all rows without. Needs nginx, fcgiwrap, sshd, GNU time, and root.
//!
//! Prints a Markdown table of medians; the memory is that of the largest process. Bytes, connections
//! and turns are the proxy's count, TLS and ssh included; the proxy also makes the round trip. git2's own
//! transport is built here without https and ssh: it is a candidate where all use http without TLS.

#![allow(clippy::disallowed_methods, reason = "it starts programs and reads the clock")]

mod figures;
#[path = "../tests/it/sandbox.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sandbox;
#[path = "../tests/it/servers/mod.rs"]
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use figures::{median, processor_of_children};
use sandbox::{Ran, Sandbox, text};
use servers::{Counts, Face, Https, Proxy, Sshd};

/// The round trip of the slow rows.
const FAR: Duration = Duration::from_millis(20);

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
    rows.push(("1 changed over https, 20 ms".to_owned(), Box::new(changed)));
    rows.push(("1,000 on 10 servers, 20 ms".to_owned(), Box::new(thousand)));
    rows
}

/// What one run cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    client: f64,
    server: f64,
    connections: f64,
    turns: f64,
    kilobytes: f64,
}

/// Repositories on a server, the agent's clones of them and the loop's.
struct Bench<'a> {
    machine: &'a Sandbox,
    servers: &'a Account,
    environment: Vec<(&'static str, String)>,
}

impl Bench<'_> {
    /// One command, measured from start to end.
    fn measure(&self, lines: &[&Proxy], mut command: Command) -> Cost {
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        lines.iter().for_each(|line| line.forget_counts());
        let clients = || processor_of_children() + used_by_masters(self.machine);
        let (server, client) = (self.servers.used(), clients());
        let start = Instant::now();
        Ran::of(&mut command).ok();
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let client = clients() - client;
        let server = self.servers.used() - server;
        let counts: Vec<Counts> = lines.iter().map(|line| line.counts()).collect();
        let sum = |part: fn(&Counts) -> u64| counts.iter().map(part).sum::<u64>() as f64;
        Cost {
            wall,
            client,
            server,
            connections: sum(|counts| counts.connections),
            turns: sum(|counts| counts.turns),
            kilobytes: sum(|counts| counts.up + counts.down) / 1e3,
        }
    }

    /// The size in MB that the largest process of `command` had.
    fn peak(&self, command: &Command) -> f64 {
        let mut timed = self.machine.command("/usr/bin/time");
        timed.args(["-f", "%M"]).arg(command.get_program()).args(command.get_args());
        timed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        timed.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let ran = Ran::of(&mut timed).ok();
        let last = ran.stderr.lines().last().and_then(|line| line.parse::<f64>().ok());
        last.expect("GNU time tells the size") / 1024.0
    }

    fn tick(&self) -> Command {
        self.machine.agent_command(&["tick", "--trigger", "cron"])
    }

    /// The loop as it stands in many a crontab.
    fn pull_loop(&self) -> Command {
        let mut command = self.machine.command("bash");
        let script = "for repository in \"$1\"/*/; do cd \"$repository\" && git pull --quiet; done";
        command.args(["-c", script, "bash", text(&self.machine.path("loop"))]);
        command
    }

    /// This program as the candidate of git2's own transport.
    fn git2_list(&self) -> Command {
        let mut command = self.machine.command(text(&std::env::current_exe().unwrap()));
        command.arg(LIST).arg(self.machine.path("loop"));
        command
    }

    /// The agent and the loop in turns, and what is to be done before each round.
    fn row(&self, name: &str, rounds: usize, lines: &[&Proxy], target: &str, before: impl Fn()) {
        let others: [Candidate; 1] = [("`git pull` loop", &|| self.pull_loop())];
        self.compare(name, rounds, lines, target, &others, before);
    }

    /// The agent and `others` in turns, and what is to be done before each round.
    fn compare(
        &self,
        name: &str,
        rounds: usize,
        lines: &[&Proxy],
        target: &str,
        others: &[Candidate],
        before: impl Fn(),
    ) {
        let (ours, tick) = (format!("{name}: agent"), || self.tick());
        let mut all: Vec<Candidate> = vec![(ours.as_str(), &tick)];
        all.extend(others);
        before();
        let peaks: Vec<f64> = all.iter().map(|(_, command)| self.peak(&command())).collect();
        let mut costs: Vec<Vec<Cost>> = all.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            before();
            // Another one begins each time.
            for turn in 0..all.len() {
                let at = (round + turn) % all.len();
                costs[at].push(self.measure(lines, all[at].1()));
            }
        }
        let costs: Vec<Cost> = costs.iter().map(|costs| middle(costs)).collect();
        for (((name, _), cost), peak) in all.iter().zip(&costs).zip(peaks) {
            print_costs(name, cost, peak);
        }
        for theirs in &costs[1..] {
            print_ratios(target, &costs[0], theirs);
        }
    }
}

/// A name, and how it is started.
type Candidate<'a> = (&'a str, &'a dyn Fn() -> Command);

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

/// Milliseconds of processor time of the shared connections of `machine` that ssh keeps: they outlive the
/// tick that made them, and so are nobody's children.
fn used_by_masters(machine: &Sandbox) -> f64 {
    let dir = machine.path("");
    let (mut nanoseconds, dir) = (0.0, text(&dir).as_bytes());
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let of = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        if of("comm") == b"ssh\n" && of("cmdline").windows(dir.len()).any(|it| it == dir) {
            let used = String::from_utf8(of("schedstat")).unwrap();
            nanoseconds += used.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0);
        }
    }
    nanoseconds / 1e6
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

/// Medians.
fn middle(costs: &[Cost]) -> Cost {
    let median = |part: fn(&Cost) -> f64| median(costs.iter().map(part).collect());
    Cost {
        wall: median(|cost| cost.wall),
        client: median(|cost| cost.client),
        server: median(|cost| cost.server),
        connections: median(|cost| cost.connections),
        turns: median(|cost| cost.turns),
        kilobytes: median(|cost| cost.kilobytes),
    }
}

/// The processor time of servers and of all that they start: a control group of their own, because
/// fcgiwrap does not wait for its children and so their time is nobody's else. Needs root.
struct Account {
    dir: PathBuf,
    /// The file with the time, the word before it, and how many of its units are a millisecond.
    usage: (&'static str, &'static str, f64),
}

impl Account {
    /// In the second version of control groups, or else in the first.
    fn open() -> Self {
        let group = |tree: &str| Path::new(tree).join(format!("pmpy-bench-{}", std::process::id()));
        for (tree, usage) in [
            ("/sys/fs/cgroup/cpuacct", ("cpuacct.usage", "", 1e6)),
            ("/sys/fs/cgroup", ("cpu.stat", "usage_usec ", 1e3)),
        ] {
            let dir = group(tree);
            if Path::new(tree).is_dir() && fs::create_dir(&dir).is_ok() {
                return Self { dir, usage };
            }
        }
        panic!("no control group can be made in /sys/fs/cgroup: run this as root");
    }

    /// From now on, it has the time of `processes`.
    fn take(&self, processes: &[Pid]) {
        for process in processes {
            let id = process.as_raw_pid().to_string();
            fs::write(self.dir.join("cgroup.procs"), id).unwrap();
        }
    }

    /// Milliseconds so far.
    fn used(&self) -> f64 {
        let (file, word, unit) = self.usage;
        let text = fs::read_to_string(self.dir.join(file)).unwrap();
        let number = text.lines().find_map(|line| line.strip_prefix(word)?.parse::<f64>().ok());
        number.expect("the kernel tells the time") / unit
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Whoever measured dropped its servers before; the kernel needs a moment to see it.
        sandbox::wait_until("the control group is empty", || fs::remove_dir(&self.dir).is_ok());
    }
}

/// A machine with `count` repositories on the server, a clone of each that was acted upon, and one
/// for the loop.
fn machine_with(count: usize, defaults: impl FnOnce(&Sandbox) -> String) -> Sandbox {
    let machine = Sandbox::with("r0", &[("bin/work/common/work.sh", "true\n"), ("page", "old")]);
    machine.configure(&format!("[defaults]\n{}", defaults(&machine)));
    machine.agent(&["tick", "--trigger", "cron"]).ok();
    fs::create_dir(machine.path("loop")).unwrap();
    for number in (0..count).rev() {
        let name = format!("r{number}");
        for (from, to) in [
            (machine.clone_of("r0"), machine.path("loop").join(&name)),
            (machine.clone_of("r0"), machine.clone_of(&name)),
            (machine.server("r0"), machine.server(&name)),
        ] {
            if !to.exists() {
                Ran::of(machine.command("cp").args(["-a", text(&from), text(&to)])).ok();
            }
        }
    }
    machine
}

/// Gives each clone, the agent's and the loop's, its URL.
fn point(machine: &Sandbox, count: usize, url: impl Fn(usize, &str) -> String) {
    for number in 0..count {
        let name = format!("r{number}");
        for clone in [machine.clone_of(&name), machine.path("loop").join(&name)] {
            machine.git(&clone, &["remote", "set-url", "origin", &url(number, &name)]);
        }
    }
}

/// A machine with `count` repositories on one TLS server behind a line.
fn over_https(account: &Account, count: usize, round_trip: Duration) -> (Sandbox, Https, Proxy) {
    let machine = machine_with(count, |machine| format!("ca_file = {:?}\n", authority(machine)));
    let server = Https::of(&machine);
    account.take(&server.processes());
    fs::copy(server.ca_file(), authority(&machine)).unwrap();
    let line = Proxy::with_round_trip(server.port(Face::Good), round_trip);
    point(&machine, count, |_, name| line.url_of(&server.url(name)));
    (machine, server, line)
}

/// Over HTTP without TLS, which git2's own transport can as well.
fn http(name: &str, rounds: usize, round_trip: Duration) {
    let count = 100;
    let account = Account::open();
    let machine = machine_with(count, |_| "insecure = true\n".to_owned());
    let server = Https::of(&machine);
    account.take(&server.processes());
    let line = Proxy::with_round_trip(server.port(Face::Plain), round_trip);
    point(&machine, count, |_, name| line.url_of(&server.url_on(Face::Plain, name)));
    let bench = Bench { machine: &machine, servers: &account, environment: Vec::new() };
    let others: [Candidate; 2] = [
        ("git2's own transport", &|| bench.git2_list()),
        ("`git pull` loop", &|| bench.pull_loop()),
    ];
    bench.compare(name, rounds, &[&line], "–", &others, || ());
}

/// A git that trusts `server`.
fn trusting(server: &Https) -> Vec<(&'static str, String)> {
    vec![("GIT_SSL_CAINFO", text(&server.ca_file()).to_owned())]
}

/// Where the agent finds the tests' authority.
fn authority(machine: &Sandbox) -> PathBuf {
    machine.path("ca.pem")
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
    bench.row(name, rounds, &[&line], target, || ());
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
    bench.row(name, rounds, &[&line], "client 60, 3 KB", || ());
}

fn ssh(name: &str, rounds: usize, round_trip: Duration) {
    let count = 10;
    let account = Account::open();
    let machine = machine_with(count, |machine| {
        let (key, known) = (machine.path("key"), machine.path("known_hosts"));
        format!("key_file = {key:?}\nknown_hosts = {known:?}\n")
    });
    let server = Sshd::of(&machine);
    account.take(&server.processes());
    let line = Proxy::with_round_trip(server.port(), round_trip);
    server.know_as(line.port());
    for (from, to) in [(server.client_key(), "key"), (server.known_hosts(), "known_hosts")] {
        Ran::of(machine.command("cp").arg("-p").arg(from).arg(machine.path(to))).ok();
    }
    let (here, there) = (format!(":{}/", server.port()), format!(":{}/", line.port()));
    point(&machine, count, |_, name| server.url(name).replacen(&here, &there, 1));
    let bench = Bench {
        machine: &machine,
        servers: &account,
        environment: vec![("GIT_SSH_COMMAND", server.ssh_command())],
    };
    bench.row(name, rounds, &[&line], "wall 15", || ());
}

fn changed(name: &str, rounds: usize) {
    let account = Account::open();
    let (machine, server, line) = over_https(&account, 1, FAR);
    let bench = Bench { machine: &machine, servers: &account, environment: trusting(&server) };
    let change = || drop(machine.push("r0", &[("page", &format!("{:?}", Instant::now()))]));
    bench.row(name, rounds, &[&line], "4 turns", change);
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
    let peak = bench.peak(&bench.tick());
    let lines: Vec<&Proxy> = lines.iter().collect();
    let costs: Vec<Cost> = (0..rounds).map(|_| bench.measure(&lines, bench.tick())).collect();
    print_costs(&format!("{name}: agent (wall 5,000)"), &middle(&costs), peak);
}
