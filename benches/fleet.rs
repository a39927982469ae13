//! What presence costs: a look at a large fleet, a publication beside `git push`, a tick whose status server hangs, a
//! thousand machines that publish within a minute, and what their publications weigh after a while.
//!
//! `cargo bench --features servers --bench fleet [-- ROUNDS [WHAT…]]`, where WHAT is `look`, `push`, `hang`, `crowd` or
//! `size`; all without. Needs nginx, fcgiwrap, GNU time, and root. The status server is git's own behind nginx with TLS;
//! the proxy makes the round trip and counts. What is compared runs in turns. Prints Markdown tables of medians.

#![allow(clippy::disallowed_methods, reason = "it starts programs and reads the clock")]

mod figures;
#[path = "git/mod.rs"]
mod git;
#[allow(dead_code, reason = "the other measurements use the rest")]
mod line;
#[path = "../tests/it/sandbox.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sandbox;
#[path = "../tests/it/servers/mod.rs"]
mod servers;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git::git;
use line::{Account, Bench, Cost, FAR, peak, trusting};
use sandbox::{Ran, Sandbox, text, wait_until};
use serde_json::{Value, json};
use servers::{Face, Https, Proxy};

/// The repository that machines publish in.
const STATUS: &str = "status";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let rounds = words.first().and_then(|word| word.parse().ok()).unwrap_or(5);
    let wanted: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    println!("{rounds} rounds; medians");
    let is_wanted = |name| wanted.is_empty() || wanted.iter().any(|word| *word == name);
    for (name, measure) in [
        ("look", look as fn(usize)),
        ("push", push),
        ("hang", hang),
        ("crowd", crowd),
        ("size", size),
    ] {
        if is_wanted(name) {
            println!();
            measure(rounds);
        }
    }
}

/// What the machine of this number publishes at its publication of this number.
fn publication(host: usize, seq: usize) -> String {
    json!({
        "presence": 1, "host": name(host), "user": null, "world": null, "id": format!("{host:064x}"), "seq": seq,
        "at": chrono::Utc::now(), "every": 14_400, "agent": "0.2.0", "part": "web", "stack": "production",
        "repositories": [{
            "name": "ops", "state": "current", "since": chrono::Utc::now(), "branch": "main",
            "upstream": format!("{seq:040x}"),
            "acted": {"revision": format!("{seq:040x}"), "subject": "Release", "at": chrono::Utc::now()},
        }],
    })
    .to_string()
}

fn name(host: usize) -> String {
    format!("web{host:05}")
}

/// Lets these machines publish, with history: all at once, by git itself.
fn publish_all(status: &Path, hosts: impl Iterator<Item = usize>, seq: usize) {
    let mut stream = String::new();
    for host in hosts {
        let (name, content) = (name(host), publication(host, seq));
        let parent = match seq {
            1 => String::new(),
            _ => format!("from refs/heads/{name}/state^0\n"),
        };
        let _ = writeln!(
            stream,
            "commit refs/heads/{name}/state\ncommitter agent <agent@{name}> {} +0000\ndata 9\n1 current\n{parent}\
             M 100644 inline status.json\ndata {}\n{content}",
            1_790_000_000 + seq,
            content.len(),
        );
    }
    git(status, &["fast-import", "--quiet"], stream.as_bytes());
}

/// A machine with a status repository in which so many machines have published, packed.
fn fleet_of(hosts: usize) -> (Sandbox, PathBuf) {
    let machine = Sandbox::new();
    let status = machine.server(STATUS);
    git(&machine.path(""), &["init", "--quiet", "--bare", text(&status)], b"");
    git(&status, &["config", "http.receivepack", "true"], b"");
    publish_all(&status, 0..hosts, 1);
    git(&status, &["gc", "--quiet"], b"");
    (machine, status)
}

/// A fleet's status repository on a server 20 ms away. The control group of the account is removed last.
struct ServedFleet {
    line: Proxy,
    url: String,
    server: Https,
    status: PathBuf,
    machine: Sandbox,
    account: Account,
}

impl ServedFleet {
    fn of(hosts: usize) -> Self {
        let (account, (machine, status)) = (Account::open(), fleet_of(hosts));
        let server = Https::of(&machine);
        account.take(&server.processes());
        let line = Proxy::with_round_trip(server.port(Face::Good), FAR);
        let url = line.url_of(&server.url(STATUS));
        Self { line, url, server, status, machine, account }
    }
}

/// `agent fleet` where nothing moved, and where 500 machines did.
fn look(rounds: usize) {
    println!("| a look, 20 ms away | wall ms | CPU ms | server CPU ms | requests | KB | peak MB |");
    println!("| --- | --: | --: | --: | --: | --: | --: |");
    for hosts in [1_000, 10_000] {
        let ServedFleet { line, url, server, status, machine, account } = &ServedFleet::of(hosts);
        machine.configure(&format!("[defaults]\nca_file = {:?}\n", server.ca_file()));
        let bench = Bench { machine, servers: account, environment: Vec::new() };
        let command = || machine.agent_command(&["fleet", "--url", url]);
        let first = bench.measure(&[line], command());
        print_look(&format!("{hosts} machines, the first"), &[first], server.requests().len(), 0.0);
        let moving = || (0..500).map(|host| host * hosts / 500);
        let (mut still, mut moved) = (Vec::new(), Vec::new());
        let mut requests = [BTreeSet::new(), BTreeSet::new()];
        for round in 0..rounds {
            publish_all(status, moving(), round + 2);
            for (at, costs) in [&mut moved, &mut still].into_iter().enumerate() {
                server.forget_requests();
                costs.push(bench.measure(&[line], command()));
                requests[at].insert(server.requests().len());
            }
        }
        let [moved_by, still_by] = requests.map(|counts| *counts.last().expect("there is a round"));
        let memory = peak(&bench, &command());
        print_look(&format!("{hosts}, nothing moved"), &still, still_by, memory);
        publish_all(status, moving(), rounds + 2);
        let memory = peak(&bench, &command());
        print_look(&format!("{hosts}, 500 moved"), &moved, moved_by, memory);
    }
}

fn print_look(name: &str, costs: &[Cost], requests: usize, peak: f64) {
    let Cost { wall, client, server, kilobytes, .. } = line::middle(costs);
    println!(
        "| {name} | {wall:.0} | {client:.0} | {server:.0} | {requests} | {kilobytes:.0} | {peak:.0} |"
    );
}

/// A publication, and the same content by `git push`, in turns.
fn push(rounds: usize) {
    println!("| a publication over https, 20 ms away | server CPU ms | turns | KB |");
    println!("| --- | --: | --: | --: |");
    for hosts in [1_000, 10_000] {
        let ServedFleet { line, url, server, status, machine, account } = &ServedFleet::of(hosts);
        let world = World::of(machine, "own", url, &server.ca_file());
        let desk = machine.path("theirs");
        fs::create_dir(&desk).unwrap();
        git(&desk, &["init", "--quiet"], b"");
        for (key, value) in [("user.name", "web"), ("user.email", "web@localhost")] {
            git(&desk, &["config", key, value], b"");
        }
        // The first of each makes the ref.
        world.publish(machine);
        git(&desk, &["commit", "--quiet", "--allow-empty", "-m", "first"], b"");
        let by_git = || {
            let mut push = machine.command("git");
            push.arg("-C").arg(&desk).args([
                "push",
                "--quiet",
                url,
                "HEAD:refs/heads/theirs/state",
            ]);
            for (name, value) in trusting(server) {
                push.env(name, value);
            }
            Ran::of(&mut push).ok();
        };
        by_git();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            fs::write(desk.join("status.json"), publication(0, round)).unwrap();
            git(&desk, &["add", "status.json"], b"");
            git(&desk, &["commit", "--quiet", "-m", "1 current"], b"");
            let mut turns: [(&mut Vec<Cost>, &dyn Fn()); 2] =
                [(&mut ours, &|| world.publish(machine)), (&mut theirs, &by_git)];
            if round % 2 == 1 {
                turns.reverse();
            }
            for (costs, act) in turns {
                // Neither is to find the loose refs and objects that the other left.
                git(status, &["gc", "--quiet"], b"");
                costs.push(measured(account, line, act));
            }
        }
        let (ours, theirs) = (line::middle(&ours), line::middle(&theirs));
        for (who, cost) in [("agent", &ours), ("git push", &theirs)] {
            let Cost { server, turns, kilobytes, .. } = cost;
            println!("| {hosts} machines: {who} | {server:.1} | {turns:.0} | {kilobytes:.1} |");
        }
        println!("| *ratio* (at most 0.75) | {:.2} | | |", ours.server / theirs.server);
    }
}

/// What `act` costs the servers of `account`, over `line`.
fn measured(account: &Account, line: &Proxy, act: &dyn Fn()) -> Cost {
    line.forget_counts();
    let before = account.used();
    act();
    let (counts, server) = (line.counts(), account.used() - before);
    Cost {
        server,
        turns: counts.turns as f64,
        kilobytes: (counts.up + counts.down) as f64 / 1e3,
        ..Cost::default()
    }
}

/// A machine that has nothing but presence.
struct World {
    root: PathBuf,
}

impl World {
    fn of(machine: &Sandbox, name: &str, url: &str, authority: &Path) -> Self {
        let root = machine.path(name);
        fs::create_dir_all(root.join(".pmpy")).unwrap();
        let settings = format!(
            "[node]\nname = {name:?}\n[presence]\nurl = {url:?}\nca_file = {:?}\nevery = \"0s\"\n",
            text(authority)
        );
        fs::write(root.join(".pmpy/agent.toml"), settings).unwrap();
        Self { root }
    }

    fn record(&self) -> Value {
        let text = fs::read(self.root.join(".pmpy/presence.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The number of the last publication that was taken.
    fn taken(&self) -> Option<u64> {
        let record = self.record();
        let is_open = record["sent"].as_array().is_some_and(|sent| !sent.is_empty());
        (record["last"].is_object() && !is_open).then(|| record["seq"].as_u64()).flatten()
    }

    fn begin(&self, machine: &Sandbox) {
        let mut tick = machine.command(env!("CARGO_BIN_EXE_agent"));
        Ran::of(tick.args(["--root", text(&self.root), "tick"])).ok();
    }

    /// Publishes once more, to the end.
    fn publish(&self, machine: &Sandbox) {
        let mut record = self.record();
        let before = self.taken();
        if record.is_object() {
            record["tried"] = "2020-01-01T00:00:00Z".into();
            record["last"]["digest"] = "something else".into();
            fs::write(self.root.join(".pmpy/presence.json"), record.to_string()).unwrap();
        }
        self.begin(machine);
        wait_until("the publication was taken", || self.taken() > before);
    }
}

/// A tick with presence whose server accepts and never answers, and the same tick without presence, in turns.
fn hang(rounds: usize) {
    println!("| a tick of one repository | wall ms | CPU ms |");
    println!("| --- | --: | --: |");
    let machine = Sandbox::with("ops", &[("bin/work/common/work.sh", "true\n")]);
    machine.tick().ok();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/status.git", silent.local_addr().unwrap());
    let account = Account::open();
    let bench = Bench { machine: &machine, servers: &account, environment: Vec::new() };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(20) {
        for turn in 0..2 {
            let costs = if (round + turn) % 2 == 0 {
                machine.configure("");
                &mut without
            } else {
                machine.configure(&format!("[presence]\nurl = {url:?}\ninsecure = true\n"));
                &mut with
            };
            costs.push(bench.measure(&[], bench.tick()));
        }
    }
    for (name, costs) in [("without presence", &without), ("its server hangs", &with)] {
        let Cost { wall, client, .. } = line::middle(costs);
        println!("| {name} | {wall:.1} | {client:.1} |");
    }
}

/// A thousand machines, each of which publishes once within a minute.
fn crowd(_rounds: usize) {
    const MACHINES: usize = 1_000;
    let (machine, status) = fleet_of(0);
    let server = Https::of(&machine);
    let url = server.url(STATUS);
    let worlds: Vec<World> = (0..MACHINES)
        .map(|host| World::of(&machine, &name(host), &url, &server.ca_file()))
        .collect();
    let began = Instant::now();
    for (number, world) in worlds.iter().enumerate() {
        // Their ticks are spread over fifty seconds, as `--splay` does.
        let at = Duration::from_millis(number as u64 * 50_000 / MACHINES as u64);
        std::thread::sleep(at.saturating_sub(began.elapsed()));
        world.begin(&machine);
    }
    let ticked = began.elapsed().as_secs_f64();
    for world in &worlds {
        wait_until("it has published", || world.taken() == Some(1));
    }
    let ended = began.elapsed().as_secs_f64();
    let refs = git(&status, &["for-each-ref", "--format=%(refname)"], b"");
    let commits = git(&status, &["rev-list", "--all", "--count"], b"");
    let pushes = server
        .requests()
        .iter()
        .filter(|request| request.uri.ends_with("/git-receive-pack"))
        .count();
    println!(
        "{MACHINES} machines: all ticks were begun after {ticked:.0} s, all publications taken after {ended:.0} s; \
         {} refs, {commits} commits, {pushes} pushes",
        refs.lines().count()
    );
}

/// The size of the status repository of 100 machines after 40 publications of each.
fn size(_rounds: usize) {
    let (_machine, status) = fleet_of(100);
    // As single files, as small pushes come.
    git(&status, &["config", "fastimport.unpackLimit", "100000"], b"");
    for seq in 2..=40 {
        publish_all(&status, 0..100, seq);
    }
    let before = kilobytes(&status);
    git(&status, &["-c", "gc.auto=1", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet"], b"");
    println!(
        "100 machines, 40 publications each: {before} KB, after `git gc --auto` {} KB (at most 2,000)",
        kilobytes(&status)
    );
}

fn kilobytes(dir: &Path) -> u64 {
    let mut du = std::process::Command::new("du");
    let ran = Ran::of(du.args(["-sk", text(dir)])).ok();
    ran.stdout.split_whitespace().next().and_then(|it| it.parse().ok()).expect("du prints a number")
}
