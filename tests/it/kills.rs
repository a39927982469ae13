//! Random kills: `kill -9` of a worker and its tick at any time, while somebody keeps pushing. The
//! enumeration in `crash` covers the system calls; this covers what nobody thought of.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::crash::{CrashSetup, NAME, Totals, WORKER};

/// The longest of so many undisturbed ticks is the time within which the others are killed.
const UNDISTURBED: usize = 5;

#[test]
fn random_kills_while_somebody_pushes_are_put_right() {
    let kills: u64 = if std::env::var_os("PMPY_LONG").is_some() { 1_000 } else { 30 };
    let mut setup = CrashSetup::new();
    let window = (0..UNDISTURBED).map(|_| time_of_a_tick(&mut setup)).max().unwrap_or_default();
    let machine = &setup.machine;
    let (start, enough) = (Instant::now(), AtomicBool::new(false));
    let push_on = || {
        let mut number = 0;
        while !enough.load(Ordering::Relaxed) {
            number += 1;
            machine.push(NAME, &[("pushed", &format!("{number}\n"))]);
        }
        number
    };
    let kill_on = || {
        let killed = (0..kills).map(|number| kill_a_tick(&setup, number, window)).sum::<u64>();
        enough.store(true, Ordering::Relaxed);
        killed
    };
    let (pushed, killed) = thread::scope(|scope| {
        let pusher = scope.spawn(push_on);
        let killed = kill_on();
        (pusher.join().unwrap(), killed)
    });
    let mut totals = Totals::default();
    let revision = setup.push();
    setup.converge(&revision, &mut totals);
    let findings = [totals.findings, setup.findings(&revision)].concat();
    let runs = setup.machine.runs();
    let complaints: Vec<&String> = runs.iter().filter(|run| run.starts_with('!')).collect();
    println!(
        "kills: ticks={kills} workers killed={killed} pushes={pushed} findings={} seconds={}",
        findings.len() + complaints.len(),
        start.elapsed().as_secs()
    );
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(complaints.is_empty(), "the scripts saw: {complaints:?}");
    assert!(killed * 4 > kills, "only {killed} of {kills} kills hit a worker");
}

#[test]
fn a_half_written_change_waits_for_a_hand_edit_to_go_and_is_then_carried_on() {
    let mut setup = CrashSetup::new();
    let page = setup.machine.clone_of(NAME).join("files/kept-4");
    half_write(&mut setup);
    let before = setup.machine.git(&setup.machine.clone_of(NAME), &["show", "HEAD:files/kept-4"]);
    fs::write(&page, "by hand\n").unwrap();

    let revision = setup.push();
    for _ in 0..2 {
        setup.machine.tick().exits(1);
        let row = setup.machine.row(NAME);
        assert_eq!(row["state"], "dirty", "{row:#}");
        assert!(row["reason"].as_str().unwrap().contains("files/kept-4"), "{row:#}");
        assert_eq!(fs::read_to_string(&page).unwrap(), "by hand\n");
    }
    fs::write(&page, before + "\n").unwrap();
    setup.machine.tick().ok();
    let findings = setup.findings(&revision);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Pushes a revision and lets the worker die when it has given some of its files their names.
fn half_write(setup: &mut CrashSetup) {
    for nth in 2..20 {
        setup.push();
        setup.poll();
        setup.killed(&["renameat", "renameat2"], nth, &WORKER);
        if !setup.machine.differences(NAME).is_empty() {
            return;
        }
        setup.machine.tick().ok();
    }
    panic!("no kill left a change half written");
}

fn time_of_a_tick(setup: &mut CrashSetup) -> Duration {
    setup.push();
    let start = Instant::now();
    setup.machine.tick().ok();
    start.elapsed()
}

/// Starts a tick and kills it, and the workers that it has by then, some time in `window`; how many
/// workers.
fn kill_a_tick(setup: &CrashSetup, number: u64, window: Duration) -> u64 {
    // By name, so that no backoff keeps it from working.
    let mut tick = setup.machine.agent_command(&["tick", NAME]);
    let mut tick = tick.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    // Every other one from the moment on when there is a worker, however slow the machine is just now.
    while number.is_multiple_of(2)
        && children_of(tick.id()).is_empty()
        && tick.try_wait().unwrap().is_none()
    {
        thread::sleep(Duration::from_millis(1));
    }
    // Spread evenly over the window, in no order.
    thread::sleep(window * (number * 2_654_435_761 % 1_000) as u32 / 1_000);
    let workers = children_of(tick.id());
    // One may have come to its end just now.
    let killed = workers.iter().filter(|worker| kill_process(**worker, Signal::KILL).is_ok());
    let killed = killed.count() as u64;
    tick.kill().unwrap();
    tick.wait().unwrap();
    killed
}

/// The children of a process, whichever of its threads started them.
fn children_of(pid: u32) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children = |list: String| {
        let pids = list.split(' ').filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        pids.collect::<Vec<_>>()
    };
    lists.flat_map(children).collect()
}
