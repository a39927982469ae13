//! How long a machine takes from `agent init` to the first line of the first script, beside `git clone`
//! and `bash` upon the same server, in turns, so that whatever else the machine does meets both; and
//! what the start of a tick costs where there is nothing to do.
//!
//! `cargo bench --features servers --bench init [-- ROUNDS]`. Needs nginx, fcgiwrap, git and GNU time.
//!
//! Prints a Markdown table of medians. The repository has 200 files and comes over TLS, with no round
//! trip and 20 ms away. What the agent wrote is on disk when the script begins.

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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use figures::{median, processor_of_children};
use sandbox::{Ran, Sandbox, text};
use servers::{Face, Https, Proxy};

/// The script of both: its first line writes down the time. It is run once for each clone.
const SCRIPT: &str = "bin/init/common/init.sh";
const FILES: usize = 200;

fn main() {
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(15);
    println!("{rounds} rounds; medians\n");
    println!(
        "| to the script's first line | agent init | git clone and bash | ratio (at most 1.2) |"
    );
    println!("| --- | --: | --: | --: |");
    for round_trip in [Duration::ZERO, Duration::from_millis(20)] {
        first_line(rounds, round_trip);
    }
    println!("\n| a tick on an empty root | CPU ms (at most 3) | wall ms | MB (at most 10) |");
    println!("| --- | --: | --: | --: |");
    empty_tick(rounds);
}

/// A machine with a repository of so many files on the server.
fn machine(began: &Path) -> Sandbox {
    let machine = Sandbox::new();
    let script = format!("echo $EPOCHREALTIME > {}\n", text(began));
    let files: Vec<(String, String)> = (0..FILES)
        .map(|number| {
            (format!("etc/{}/{number}.conf", number % 10), format!("{number}\n").repeat(300))
        })
        .collect();
    let mut all: Vec<(&str, &str)> = vec![(SCRIPT, script.as_str())];
    all.extend(files.iter().map(|(path, content)| (path.as_str(), content.as_str())));
    machine.serve("ops", &all);
    machine
}

fn first_line(rounds: usize, round_trip: Duration) {
    let place = tempfile::tempdir().unwrap();
    let began = place.path().join("began");
    let machine = machine(&began);
    let server = Https::of(&machine);
    let line = Proxy::with_round_trip(server.port(Face::Good), round_trip);
    let (url, authority) = (line.url_of(&server.url("ops")), server.ca_file());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let root = fresh(place.path(), &format!("agent-{round}"));
        fs::create_dir(root.join(".pmpy")).unwrap();
        let settings = format!("[defaults]\nca_file = {authority:?}\n");
        fs::write(root.join(".pmpy/agent.toml"), settings).unwrap();
        let mut init = machine.command(env!("CARGO_BIN_EXE_agent"));
        init.args(["--root", text(&root), "init", &url, "--schedule", "none"]);

        let root = fresh(place.path(), &format!("git-{round}"));
        let mut clone = machine.command("bash");
        let script = format!("git clone --quiet \"$1\" \"$2\" && cd \"$2\" && bash {SCRIPT}");
        clone.args(["-c", &script, "bash", &url, text(&root.join("ops"))]);
        clone.env("GIT_SSL_CAINFO", &authority);

        let mut turns = [(&mut init, &mut ours), (&mut clone, &mut theirs)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (command, times) in turns {
            let taken = until_written(command, &began);
            // The first round warms the caches.
            if round > 0 {
                times.push(taken);
            }
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "| {FILES} files over TLS, {} ms away | {ours:.0} ms | {theirs:.0} ms | {:.2} |",
        round_trip.as_millis(),
        ours / theirs
    );
}

fn fresh(place: &Path, name: &str) -> PathBuf {
    let dir = place.join(name);
    fs::create_dir(&dir).unwrap();
    dir
}

/// Milliseconds from the start of `command` to the time that its script wrote into `file`.
fn until_written(command: &mut Command, file: &Path) -> f64 {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    Ran::of(command).ok();
    let written: f64 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    fs::remove_file(file).unwrap();
    (written - start) * 1e3
}

fn empty_tick(rounds: usize) {
    let machine = Sandbox::new();
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    let (mut wall, mut processor) = (Vec::new(), Vec::new());
    // The clock of the processor counts in steps on some machines: many ticks are one measurement.
    let ticks = 50;
    Ran::of(&mut tick).ok();
    for _ in 0..rounds {
        let (start, before) = (SystemTime::now(), processor_of_children());
        for _ in 0..ticks {
            Ran::of(&mut tick).ok();
        }
        wall.push(start.elapsed().unwrap().as_secs_f64() * 1e3 / f64::from(ticks));
        processor.push((processor_of_children() - before) / f64::from(ticks));
    }
    let mut timed = machine.command("/usr/bin/time");
    timed.args(["-f", "%M"]).arg(tick.get_program()).args(tick.get_args());
    let size = Ran::of(&mut timed).ok().stderr.trim().parse::<f64>().unwrap() / 1024.0;
    println!("| agent | {:.1} | {:.1} | {size:.1} |", median(processor), median(wall));
}
