//! What the measurements of a line have in common: machines with repositories on a server behind a line, and
//! programs that are measured in turns, so that whatever else the machine does meets all of them.
//!
//! `AGENT_BEFORE=PATH` names an older build of the agent, which is measured beside this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::figures::{median, processor_of_children};
use crate::sandbox::{self, Ran, Sandbox, text};
use crate::servers::{Counts, Face, Https, Proxy, Sshd};

/// The round trip of the slow rows.
pub const FAR: Duration = Duration::from_millis(20);

/// What cron runs.
const TICK: &[&str] = &["tick", "--trigger", "cron"];

/// An older build of the agent, if there is one to compare with.
pub fn agent_before() -> Option<PathBuf> {
    std::env::var_os("AGENT_BEFORE").map(PathBuf::from)
}

/// What one run cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub wall: f64,
    pub client: f64,
    pub server: f64,
    pub connections: f64,
    pub turns: f64,
    pub kilobytes: f64,
}

/// Repositories on a server, the agent's clones of them and the loop's.
pub struct Bench<'a> {
    pub machine: &'a Sandbox,
    pub servers: &'a Account,
    pub environment: Vec<(&'static str, String)>,
}

impl Bench<'_> {
    /// One command, measured from start to end.
    pub fn measure(&self, lines: &[&Proxy], mut command: Command) -> Cost {
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

    /// A tick of this build.
    pub fn tick(&self) -> Command {
        self.machine.agent_command(TICK)
    }

    /// A tick of another build, with the repositories below `root`.
    pub fn tick_of(&self, agent: &Path, root: &Path) -> Command {
        let mut command = self.machine.command(text(agent));
        command.args(["--root", text(root)]).args(TICK);
        command
    }

    /// The loop as it stands in many a crontab.
    pub fn pull_loop(&self) -> Command {
        let mut command = self.machine.command("bash");
        let script = "for repository in \"$1\"/*/; do cd \"$repository\" && git pull --quiet; done";
        command.args(["-c", script, "bash", text(&self.machine.path("loop"))]);
        command
    }

    /// The medians of what each of `all` cost, in turns, and what is to be done before each round.
    pub fn medians(
        &self,
        rounds: usize,
        lines: &[&Proxy],
        all: &[Candidate],
        before: impl Fn(),
    ) -> Vec<Cost> {
        let mut costs: Vec<Vec<Cost>> = all.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            before();
            // Another one begins each time.
            for turn in 0..all.len() {
                let at = (round + turn) % all.len();
                costs[at].push(self.measure(lines, all[at].1()));
            }
        }
        costs.iter().map(|costs| middle(costs)).collect()
    }
}

/// The size in MB that the largest process of `command` had.
pub fn peak(bench: &Bench, command: &Command) -> f64 {
    let mut timed = bench.machine.command("/usr/bin/time");
    timed.args(["-f", "%M"]).arg(command.get_program()).args(command.get_args());
    timed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    timed.envs(bench.environment.iter().map(|(name, value)| (name, value)));
    let ran = Ran::of(&mut timed).ok();
    let last = ran.stderr.lines().last().and_then(|line| line.parse::<f64>().ok());
    last.expect("GNU time tells the size") / 1024.0
}

/// A name, and how it is started.
pub type Candidate<'a> = (&'a str, &'a dyn Fn() -> Command);

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

/// Medians.
pub fn middle(costs: &[Cost]) -> Cost {
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
pub struct Account {
    dir: PathBuf,
    /// The file with the time, the word before it, and how many of its units are a millisecond.
    usage: (&'static str, &'static str, f64),
}

impl Account {
    /// In the second version of control groups, or else in the first.
    pub fn open() -> Self {
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
    pub fn take(&self, processes: &[Pid]) {
        for process in processes {
            let id = process.as_raw_pid().to_string();
            fs::write(self.dir.join("cgroup.procs"), id).unwrap();
        }
    }

    /// Milliseconds so far.
    pub fn used(&self) -> f64 {
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
pub fn machine_with(count: usize, defaults: impl FnOnce(&Sandbox) -> String) -> Sandbox {
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
pub fn point(machine: &Sandbox, count: usize, url: impl Fn(usize, &str) -> String) {
    for number in 0..count {
        let name = format!("r{number}");
        for clone in [machine.clone_of(&name), machine.path("loop").join(&name)] {
            machine.git(&clone, &["remote", "set-url", "origin", &url(number, &name)]);
        }
    }
}

/// A machine with `count` repositories on one TLS server behind a line.
pub fn over_https(
    account: &Account,
    count: usize,
    round_trip: Duration,
) -> (Sandbox, Https, Proxy) {
    let machine = machine_with(count, |machine| format!("ca_file = {:?}\n", authority(machine)));
    let server = Https::of(&machine);
    account.take(&server.processes());
    fs::copy(server.ca_file(), authority(&machine)).unwrap();
    let line = Proxy::with_round_trip(server.port(Face::Good), round_trip);
    point(&machine, count, |_, name| line.url_of(&server.url(name)));
    (machine, server, line)
}

/// The same without TLS.
pub fn over_plain_http(
    account: &Account,
    count: usize,
    round_trip: Duration,
) -> (Sandbox, Https, Proxy) {
    let machine = machine_with(count, |_| "insecure = true\n".to_owned());
    let server = Https::of(&machine);
    account.take(&server.processes());
    let line = Proxy::with_round_trip(server.port(Face::Plain), round_trip);
    point(&machine, count, |_, name| line.url_of(&server.url_on(Face::Plain, name)));
    (machine, server, line)
}

/// A machine that has `count` repositories, for [`over_ssh`].
pub fn machine_for_ssh(count: usize) -> Sandbox {
    machine_with(count, |machine| {
        let (key, known) = (machine.path("key"), machine.path("known_hosts"));
        format!("key_file = {key:?}\nknown_hosts = {known:?}\n")
    })
}

/// A server for the repositories of `machine` behind a line.
pub fn over_ssh<'a>(
    account: &Account,
    machine: &'a Sandbox,
    count: usize,
    round_trip: Duration,
) -> (Sshd<'a>, Proxy) {
    let server = Sshd::of(machine);
    account.take(&server.processes());
    let line = Proxy::with_round_trip(server.port(), round_trip);
    server.know_as(line.port());
    for (from, to) in [(server.client_key(), "key"), (server.known_hosts(), "known_hosts")] {
        Ran::of(machine.command("cp").arg("-p").arg(from).arg(machine.path(to))).ok();
    }
    let (here, there) = (format!(":{}/", server.port()), format!(":{}/", line.port()));
    point(machine, count, |_, name| server.url(name).replacen(&here, &there, 1));
    (server, line)
}

/// A git that trusts `server`.
pub fn trusting(server: &Https) -> Vec<(&'static str, String)> {
    vec![("GIT_SSL_CAINFO", text(&server.ca_file()).to_owned())]
}

/// Where the agent finds the tests' authority.
pub fn authority(machine: &Sandbox) -> PathBuf {
    machine.path("ca.pem")
}
