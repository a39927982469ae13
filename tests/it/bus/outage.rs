//! No broker at all while people go on pushing: a few seconds of it, and with `PMPY_LONG=1` ten minutes
//! under the timer that an agent has as a rule.

use std::thread;
use std::time::{Duration, Instant};

use super::listen::configure;
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD};

/// How long a push waits at most for a timer of a minute: that minute and the action.
const MOST: Duration = Duration::from_secs(75);
/// How long an agent needs at most to find a broker that is back: the longest wait between two tries,
/// and the try.
const FOUND: Duration = Duration::from_secs(40);

/// How long it takes until `come`.
fn took(what: &str, come: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !come() {
        assert!(start.elapsed() < 2 * MOST, "still waiting after {:?} until {what}", 2 * MOST);
        thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

#[test]
fn while_no_broker_lives_each_push_waits_for_the_timer_and_what_was_missed_is_made_up_for() {
    let long = std::env::var_os("PMPY_LONG").is_some();
    let (every, pause, pushes) = if long { ("1m", 60, 10) } else { ("2s", 3, 3) };
    let mut brokers = KINDS.map(Broker::start);
    let urls = brokers.each_ref().map(Broker::url);
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    configure(&machine, ODD, &urls, "");
    let configured = std::fs::read_to_string(machine.path("root/.pmpy/agent.toml")).unwrap();
    machine.configure(&configured.replace("1h", every));
    let listener = Listener::start(&machine);
    listener.logs("listening on");
    let applies =
        |revision: &str| took("it acts", || machine.lastaction("ops").as_deref() == Some(revision));
    applies(&machine.git(&machine.desk("ops"), &["rev-parse", "HEAD"]));

    let down = Instant::now();
    brokers.iter().for_each(Broker::kill);
    listener.logs("no message bus: ");
    let mut waits = Vec::new();
    for number in 1..=pushes {
        let next = Duration::from_secs(number * pause);
        thread::sleep(next.saturating_sub(down.elapsed()));
        waits.push(applies(&machine.push("ops", &[("page", &number.to_string())])));
    }
    let down = down.elapsed();
    let missed = machine.push("ops", &[("page", "missed")]);
    brokers.iter_mut().for_each(Broker::start_again);
    let found = took("it is found", || listener.log().matches("listening on").count() >= 2);
    let made_up = applies(&missed);
    waits.sort();
    println!(
        "outage: no broker for {:.0} s, {pushes} pushes, each acted upon after {:.1} s in the middle and \
         {:.1} s at most; the bus found again after {:.1} s, what was missed made up for {:.1} s later",
        down.as_secs_f64(),
        waits[waits.len() / 2].as_secs_f64(),
        waits[waits.len() - 1].as_secs_f64(),
        found.as_secs_f64(),
        made_up.as_secs_f64(),
    );
    assert!(waits.iter().all(|&wait| wait < MOST), "{waits:?}");
    assert!(found < FOUND, "{found:?}");
    wait_until("the status says so", || machine.state("ops") == "current");
    let runs = machine.runs();
    let begins = 2 + usize::try_from(pushes).unwrap();
    assert_eq!(runs.len(), 2 * begins, "each revision once: {runs:?}");
}
