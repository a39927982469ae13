//! Redirects that lead to servers which are away, for now or for good.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::sandbox::{Ran, Sandbox, text};
use crate::servers::{Behaviour, Face, Fake, FakeServer, Https, Proxy};

use super::{acted, converges, mitm_proxy, news, pull_from, reason, trusting};

/// An address that the agent takes for a public one.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

#[test]
fn a_redirect_to_a_server_that_is_away_says_nothing_of_the_one_that_redirects() {
    let machine = acted(&["moved", "stays"]);
    let server = Https::of(&machine);
    let (way, _) = mitm_proxy::redirects(&machine, &server, "https://localhost:1/moved.git");
    let urls = [("moved", server.url_at(&way, "moved")), ("stays", server.url("stays"))];
    pull_from(&machine, &trusting(&server), &urls);
    let revision = news(&machine, "stays", "new");
    machine.tick().ok();
    assert_eq!(machine.lastaction("stays"), Some(revision), "{:#}", machine.row("stays"));
    let why = reason(&machine, "moved");
    assert!(why.starts_with("https://localhost:1 does not answer"), "{why}");
}

#[test]
fn where_a_redirect_led_is_forgotten_once_it_does_not_answer_there() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let first = Proxy::to(server.port(Face::Good));
    let second = Proxy::to(server.port(Face::Good));
    let url = |line: &Proxy| line.url_of(&server.url("ops")).trim_end_matches(".git").to_owned();
    let (way, leads_to) = mitm_proxy::redirects(&machine, &server, &url(&first));
    let settings = format!("{}network_timeout = \"4s\"\n", trusting(&server));
    pull_from(&machine, &settings, &[("ops", server.url_at(&way, "ops"))]);
    let revision = news(&machine, "ops", "at the first");
    converges(&machine, "ops", &revision);

    first.behave(Behaviour::BlackHole);
    fs::write(&leads_to, url(&second)).unwrap();
    let revision = news(&machine, "ops", "at the second");
    // The first tick may need all its time to find out.
    converges(&machine, "ops", &revision);

    drop(second);
    fs::write(&leads_to, server.url("ops")).unwrap();
    let revision = news(&machine, "ops", "at the third");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
}

/// Runs `test` on a network of its own with [`PUBLIC`], and with names for it and for the loopback device.
fn with_a_public_address(machine: &Sandbox, test: impl FnOnce(&FakeServer) + Send) {
    let hosts = machine.path("hosts");
    let names = format!("127.0.0.1 localhost inside.example.org\n{PUBLIC} public.example.org\n");
    fs::write(&hosts, names).unwrap();
    // What one thread leaves, the others keep.
    let on_its_own = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let address = format!("{PUBLIC}/32");
        for line in [
            vec!["ip", "link", "set", "lo", "up"],
            vec!["ip", "address", "add", &address, "dev", "lo"],
            vec!["mount", "--make-rprivate", "/"],
            vec!["mount", "--bind", text(&hosts), "/etc/hosts"],
        ] {
            Ran::of(machine.command(line[0]).args(&line[1..])).ok();
        }
        let server = FakeServer::at(machine, Fake::Git, Ipv4Addr::LOCALHOST);
        test(&server);
    };
    thread::scope(|scope| scope.spawn(on_its_own).join()).unwrap();
}

#[test]
fn a_redirect_never_leads_from_a_public_address_to_a_private_one() {
    let machine = acted(&["ops"]);
    with_a_public_address(&machine, |inside| {
        let outside = FakeServer::at(&machine, Fake::Git, PUBLIC);
        let follows = |place: &str, more: &str| {
            let place: &str = format!("{place}:{}", inside.port()).leak();
            outside.become_like(Fake::Redirect(place));
            let url = format!("http://public.example.org:{}/ops.git", outside.port());
            machine.configure(&format!(
                "[defaults]\ninsecure = true\n[repo.ops]\nurl = [{url:?}{more}]\n"
            ));
            inside.take_requests();
            machine.agent(&["tick", "ops"]);
            (inside.take_requests().len(), reason(&machine, "ops"))
        };
        for place in ["http://127.0.0.1", "http://localhost", "http://inside.example.org"] {
            for fake in [Fake::Git, Fake::Status(500)] {
                inside.become_like(fake);
                let (asked, why) = follows(place, "");
                assert_eq!(asked, 0, "{place}");
                let words = "refused to follow from a public address to a private one";
                assert!(why.contains(words) && !why.contains("500"), "{place}: {why}");
            }
        }
        inside.become_like(Fake::Git);
        // One that the configuration names may be anywhere.
        let named = ", \"http://inside.example.org:1/ops.git\"";
        let (asked, why) = follows("http://inside.example.org", named);
        assert!(asked > 0 && why.is_empty(), "{why}");
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    });
}
