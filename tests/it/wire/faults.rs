//! Lines and servers that fail, over TLS and without: each is given up in time and in words, the
//! last good revision stays, nothing half received is left, and the next tick after it is over
//! finishes by itself.

use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

use crate::disk::Mounted;
use crate::sandbox::{Ran, Sandbox};
use crate::servers::{Behaviour, Daemon, Face, Https, Proxy};

use super::{
    acted, converges, mitm_proxy, news, pull_from, reason, timed_tick, trusting, with_little_time,
};

/// How long a tick may take whose `network_timeout` is two seconds: it polls, and it may have to
/// fetch.
const IN_TIME: Duration = Duration::from_secs(10);

/// A machine with `ops`, its server, and a line to it that can be disturbed.
fn over_a_line() -> (Sandbox, Https, Proxy) {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let url = line.url_of(&server.url("ops"));
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    (machine, server, line)
}

/// A machine with `ops` that is pulled through a way of the web server.
fn through(way: impl FnOnce(&Sandbox, &Https) -> String) -> (Sandbox, Https) {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let url = server.url_at(&way(&machine, &server), "ops");
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    (machine, server)
}

/// What a failed fetch must not leave in the object data base.
#[track_caller]
fn nothing_half_received(machine: &Sandbox) {
    let objects = machine.clone_of("ops").join(".git/objects");
    let left: Vec<_> = machine
        .files_below(&objects)
        .into_iter()
        .filter(|file| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("pack_") || name.starts_with("tmp_") || name.contains(".temp")
        })
        .collect();
    assert!(left.is_empty(), "left over: {left:?}");
}

#[track_caller]
fn is_unreachable_in_time(machine: &Sandbox) {
    let (ran, took) = with_little_time(machine, || timed_tick(machine));
    ran.ok();
    assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    assert!(!reason(machine, "ops").is_empty());
    assert!(took < IN_TIME, "it took {took:?}");
}

#[test]
fn a_line_that_answers_nothing_is_given_up_in_time() {
    let (machine, _server, line) = over_a_line();
    let good = machine.lastaction("ops");
    line.behave(Behaviour::BlackHole);
    let revision = news(&machine, "ops", "new");
    is_unreachable_in_time(&machine);
    assert_eq!(machine.lastaction("ops"), good);
    line.behave(Behaviour::Faithful);
    converges(&machine, "ops", &revision);
}

#[test]
fn an_answer_that_drips_is_ended_by_the_deadline() {
    let (machine, _server, line) = over_a_line();
    line.behave(Behaviour::Drip(Duration::from_millis(100)));
    let revision = news(&machine, "ops", "new");
    is_unreachable_in_time(&machine);
    line.behave(Behaviour::Faithful);
    converges(&machine, "ops", &revision);
}

#[test]
fn a_fetch_that_gets_no_answer_is_ended_by_the_deadline() {
    let (machine, server) = through(|_, server| mitm_proxy::never_sends(server));
    let good = machine.lastaction("ops");
    let revision = news(&machine, "ops", "new");
    let (_, took) = with_little_time(&machine, || timed_tick(&machine));
    assert!(took < IN_TIME, "it took {took:?}");
    assert_eq!(machine.lastaction("ops"), good);
    assert!(!reason(&machine, "ops").is_empty(), "{:#}", machine.row("ops"));
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    converges(&machine, "ops", &revision);
}

/// One tick of an agent that may have no more than 150 MB of memory.
fn small_tick(machine: &Sandbox) -> Ran {
    let line = machine.agent_line(&["tick", "--trigger", "cron"]);
    Ran::of(machine.command("prlimit").arg("--data=150000000").args(line))
}

#[test]
fn a_flood_of_refs_ends_without_filling_the_memory() {
    for way in [mitm_proxy::lists_without_end, mitm_proxy::advertises_without_end] {
        let (machine, server) = through(|_, server| way(server));
        let good = machine.lastaction("ops");
        with_little_time(&machine, || small_tick(&machine)).ok();
        assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
        assert_eq!(machine.lastaction("ops"), good);
        let revision = news(&machine, "ops", "new");
        pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
        converges(&machine, "ops", &revision);
    }
}

#[test]
fn a_pack_without_end_is_ended_by_the_deadline_and_leaves_nothing() {
    let (machine, server) = through(mitm_proxy::packs_without_end);
    let good = machine.lastaction("ops");
    let revision = news(&machine, "ops", "new");
    let (ran, took) = with_little_time(&machine, || timed_tick(&machine));
    assert!(took < IN_TIME + Duration::from_secs(10), "it took {took:?}: {ran}");
    assert_eq!(machine.lastaction("ops"), good);
    nothing_half_received(&machine);
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    converges(&machine, "ops", &revision);
}

#[test]
fn a_pack_that_the_disk_cannot_spare_is_not_taken_to_its_end() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    let disk = Mounted::instead_of(&machine, &machine.root(), "size=5m");
    let good = machine.lastaction("ops");
    machine.push_with("ops", |desk| {
        let mut noise = Vec::new();
        let random = File::open("/dev/urandom").unwrap();
        random.take(6 << 20).read_to_end(&mut noise).unwrap();
        fs::write(desk.join("noise"), noise).unwrap();
    });
    machine.tick();
    let row = machine.row("ops");
    assert_eq!(machine.lastaction("ops"), good);
    assert_eq!(row["state"], "failing", "{row:#}");
    let why = reason(&machine, "ops");
    assert!(why.contains("it sends more than ") && why.contains("free some space"), "{why}");
    nothing_half_received(&machine);
    disk.remount("size=60m");
    let revision = news(&machine, "ops", "newer");
    converges(&machine, "ops", &revision);
}

#[test]
fn a_connection_that_ends_in_the_middle_is_made_again_by_the_next_tick() {
    let (machine, _server, line) = over_a_line();
    for after in [0, 1, 100, 1_000, 2_000, 3_000] {
        for behaviour in [Behaviour::ResetAfter(after), Behaviour::CloseAfter(after)] {
            line.behave(behaviour.clone());
            let revision = news(&machine, "ops", &format!("{behaviour:?}"));
            let (_, took) = with_little_time(&machine, || timed_tick(&machine));
            assert!(took < IN_TIME, "{behaviour:?} took {took:?}");
            line.behave(Behaviour::Faithful);
            converges(&machine, "ops", &revision);
            nothing_half_received(&machine);
        }
    }
}

#[test]
fn a_flipped_bit_is_never_taken_for_the_truth() {
    let (machine, _server, line) = over_a_line();
    for place in [0, 5, 100, 1_200, 1_500, 2_000, 2_500, 3_000] {
        line.behave(Behaviour::FlipBitOf(place));
        let good = machine.lastaction("ops").unwrap();
        let revision = news(&machine, "ops", &format!("a bit at {place}"));
        with_little_time(&machine, || machine.tick());
        let acted = machine.lastaction("ops").unwrap();
        assert!([&good, &revision].contains(&&acted), "{place}: {acted} was never pushed");
        assert!(
            acted == revision || !reason(&machine, "ops").is_empty(),
            "{place}: it says nothing"
        );
        line.behave(Behaviour::Faithful);
        converges(&machine, "ops", &revision);
    }
}

#[test]
fn a_flipped_bit_without_tls_is_never_applied() {
    let machine = acted(&["ops"]);
    let server = Daemon::of(&machine);
    let line = Proxy::to(server.port());
    let url = line.url_of(&server.url("ops"));
    pull_from(&machine, "insecure = true\n", &[("ops", url)]);
    let mut revisions = vec![machine.head("ops")];
    for place in (0..700).step_by(61) {
        let revision = news(&machine, "ops", &format!("a bit at {place}"));
        line.behave(Behaviour::FlipBitOf(place));
        with_little_time(&machine, || machine.tick());
        revisions.push(revision);
        let acted = machine.lastaction("ops").unwrap();
        assert!(revisions.contains(&acted), "{place}: {acted} was never pushed");
        line.behave(Behaviour::Faithful);
        converges(&machine, "ops", revisions.last().unwrap());
    }
}

#[test]
fn two_hundred_ticks_of_which_every_second_request_fails_converge() {
    let (machine, server) = through(|_, _| "flaky/".to_owned());
    let mut revision = machine.head("ops");
    for tick in 0..200 {
        if tick % 20 == 0 && tick < 180 {
            revision = news(&machine, "ops", &format!("tick {tick}"));
        }
        machine.tick().ok();
    }
    assert_eq!(machine.lastaction("ops"), Some(revision.clone()));
    let failed = server.requests().iter().filter(|request| request.status == 503).count();
    assert!(failed > 50, "only {failed} requests failed");
    let runs = machine.runs();
    let ended: Vec<_> = runs.iter().filter(|line| line.starts_with("end ")).collect();
    let mut once = ended.clone();
    once.dedup();
    assert_eq!(ended, once, "no revision is acted upon twice");
    assert_eq!(runs.last(), Some(&format!("end {revision}")));
}

#[test]
fn a_line_that_breaks_every_second_connection_converges() {
    let (machine, _server, line) = over_a_line();
    line.behave(Behaviour::ResetEverySecond);
    let mut revision = String::new();
    for tick in 0..40 {
        if tick % 8 == 0 {
            revision = news(&machine, "ops", &format!("tick {tick}"));
        }
        machine.tick().ok();
    }
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn twelve_repositories_behind_a_line_that_breaks_every_second_connection_converge() {
    let names: Vec<String> = (0..12).map(|number| format!("r{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let machine = acted(&names);
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let urls: Vec<_> = names.iter().map(|name| (*name, line.url_of(&server.url(name)))).collect();
    pull_from(&machine, &trusting(&server), &urls);
    line.behave(Behaviour::ResetEverySecond);
    let revisions: Vec<_> = names.iter().map(|name| (*name, news(&machine, name, "new"))).collect();
    let open = || {
        let done =
            |name: &str, revision: &String| machine.lastaction(name).as_ref() == Some(revision);
        revisions.iter().filter(|(name, revision)| !done(name, revision)).count()
    };
    let mut ticks = 0;
    while open() > 0 {
        assert!(ticks < 12, "{} are not done after {ticks} ticks", open());
        machine.tick().ok();
        ticks += 1;
    }
    assert!(line.counts().connections > 12, "{:?}", line.counts());
}

#[test]
fn a_clock_that_runs_ahead_is_named_where_certificates_seem_expired() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    let line = machine.agent_line(&["tick", "--trigger", "cron"]);
    Ran::of(machine.command("faketime").arg("2036-01-01 00:00:00").args(line));
    let why = reason(&machine, "ops");
    assert!(why.contains("2036"), "the local time is told: {why}");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}
