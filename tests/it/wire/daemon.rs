//! Remotes over git://, on a real git daemon.

use std::time::Duration;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox};
use crate::servers::{Behaviour, Daemon, Proxy, over_ipv6};

use super::{acted, converges, news, pull_from, reason, timed_tick, with_little_time};

const INSECURE: &str = "insecure = true\n";

#[test]
fn a_repository_is_cloned_and_followed() {
    let machine = Sandbox::new();
    let first = machine.serve("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    let server = Daemon::of(&machine);
    pull_from(&machine, INSECURE, &[("ops", server.url("ops"))]);
    converges(&machine, "ops", &first);
    let second = news(&machine, "ops", "new");
    converges(&machine, "ops", &second);
}

#[test]
fn a_poll_is_one_turn_and_a_fetch_another() {
    let machine = acted(&["ops"]);
    let server = Daemon::of(&machine);
    let line = Proxy::to(server.port());
    pull_from(&machine, INSECURE, &[("ops", line.url_of(&server.url("ops")))]);
    machine.tick().ok();
    line.forget_counts();
    machine.tick().ok();
    let idle = line.counts();
    assert_eq!((idle.connections, idle.turns), (1, 1), "{idle:?}");
    assert!(idle.up + idle.down < 800, "{idle:?}");
    let revision = news(&machine, "ops", "new");
    line.forget_counts();
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    let counts = line.counts();
    assert!(counts.turns <= 4, "{counts:?}");
}

#[test]
fn a_clone_with_depth_stays_shallow_and_follows() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    let second = news(&machine, "ops", "second");
    let server = Daemon::of(&machine);
    pull_from(&machine, "insecure = true\ndepth = 1\n", &[("ops", server.url("ops"))]);
    converges(&machine, "ops", &second);
    let third = news(&machine, "ops", "third");
    converges(&machine, "ops", &third);
    assert_eq!(machine.git(&machine.clone_of("ops"), &["rev-list", "--count", "HEAD"]), "2");
}

#[test]
fn a_repository_that_is_not_there_is_reported_in_the_servers_words() {
    let machine = acted(&["ops"]);
    let server = Daemon::of(&machine);
    pull_from(&machine, INSECURE, &[("ops", server.url("gone"))]);
    machine.tick();
    assert!(reason(&machine, "ops").contains("it says: "), "{}", reason(&machine, "ops"));
}

#[test]
fn a_line_that_is_silent_cut_or_mad_is_reported_and_healed() {
    let machine = acted(&["ops"]);
    let server = Daemon::of(&machine);
    let line = Proxy::to(server.port());
    pull_from(&machine, INSECURE, &[("ops", line.url_of(&server.url("ops")))]);
    for (behaviour, words) in [
        (Behaviour::BlackHole, "takes longer than 2s"),
        (Behaviour::Drip(Duration::from_millis(100)), "takes longer than 2s"),
        (Behaviour::CloseAfter(10), "ends the conversation"),
        // Who is reset at once may see no more of it than an end.
        (Behaviour::ResetAfter(0), "127.0.0.1"),
        (Behaviour::ResetAfter(10), "broke off"),
        (Behaviour::Flood(b"xxxx".to_vec()), "does not speak git's protocol"),
        (Behaviour::Flood(b"0008xxxx".to_vec()), "it "),
    ] {
        let revision = news(&machine, "ops", words);
        line.behave(behaviour.clone());
        let (_, took) = with_little_time(&machine, || timed_tick(&machine));
        // A poll that had no limit of its own would wait for the thirty seconds of a silent line.
        assert!(
            reason(&machine, "ops").contains(words),
            "{behaviour:?}: {}",
            reason(&machine, "ops")
        );
        assert!(took < Duration::from_secs(20), "{behaviour:?}: {took:?}");
        line.behave(Behaviour::Faithful);
        converges(&machine, "ops", &revision);
    }
}

#[test]
fn a_server_with_an_ipv6_address_is_pulled_from() {
    let machine = acted(&["ops"]);
    let server = Daemon::of(&machine);
    pull_from(&machine, INSECURE, &[("ops", over_ipv6(&server.url("ops")))]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
}
