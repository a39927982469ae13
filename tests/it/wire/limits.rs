//! The limits that hold without any setting: ten seconds to connect, thirty of silence.

use std::time::Duration;

use crate::sandbox::Sandbox;
use crate::servers::{Behaviour, Face, Https, Proxy};

use super::{acted, mitm_proxy, pull_from, reason, timed_tick, trusting};

/// How long a tick takes that cannot reach `ops`, which then says so in these `words`; long before
/// `network_timeout`, which is two minutes.
#[track_caller]
fn given_up(machine: &Sandbox, words: &str) -> Duration {
    let (ran, took) = timed_tick(machine);
    ran.ok();
    assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    assert!(reason(machine, "ops").contains(words), "{}", reason(machine, "ops"));
    assert!(took < Duration::from_secs(110), "it took {took:?}");
    took
}

#[test]
fn a_server_that_takes_no_connection_is_given_up_after_ten_seconds() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    line.behave(Behaviour::BlackHole);
    let url = line.url_of(&server.url("ops"));
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    let took = given_up(&machine, "does not answer within 10 seconds");
    assert!(took >= Duration::from_secs(10), "it took {took:?}");
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_thirty_seconds() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let url = server.url_at(&mitm_proxy::says_nothing(&server), "ops");
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    let took = given_up(&machine, "sends nothing for 30 seconds");
    assert!(took >= Duration::from_secs(30), "it took {took:?}");
}
