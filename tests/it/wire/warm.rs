//! `agent listen` keeps the connections of its ticks open: a poll is one request and no handshake, as long as
//! the server keeps the connection and nothing of what it trusts changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::{acted, pull_from, reason};
use crate::listen::Listener;
use crate::sandbox::{Sandbox, wait_until};
use crate::servers::{Behaviour, Face, Https, Proxy};

/// A machine that listens and polls `ops` each second over TLS, with its CA file.
fn listening(url: impl FnOnce(&Https) -> String) -> (Sandbox, Https, PathBuf, Listener) {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let ca_file = machine.path("ca.pem");
    fs::copy(server.ca_file(), &ca_file).unwrap();
    pull_from(&machine, &format!("ca_file = {ca_file:?}\n"), &[("ops", url(&server))]);
    let toml = machine.root().join(".pmpy/agent.toml");
    let keys = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, format!("{keys}\n[listen]\nevery = \"1s\"\n")).unwrap();
    let listener = Listener::start(&machine);
    (machine, server, ca_file, listener)
}

/// The connections over which the server was polled.
fn connections(server: &Https) -> BTreeSet<u64> {
    let polls = server.requests().into_iter().filter(|request| request.method == "POST");
    polls.map(|request| request.connection).collect()
}

fn polls(server: &Https) -> usize {
    server.requests().iter().filter(|request| request.method == "POST").count()
}

#[test]
fn all_polls_of_an_agent_that_listens_go_over_one_connection() {
    let (machine, server, _, _listener) = listening(|server| server.url("ops"));
    wait_until("it polled five times", || polls(&server) >= 5);
    assert_eq!(connections(&server).len(), 1, "{:?}", server.requests());
    // And what is new is applied as ever.
    let revision = machine.push("ops", &[("page", "new")]);
    wait_until("it acts", || machine.lastaction("ops").as_ref() == Some(&revision));
}

#[test]
fn an_authority_that_is_taken_from_its_file_is_not_trusted_by_the_next_tick() {
    let (machine, server, ca_file, _listener) = listening(|server| server.url("ops"));
    wait_until("it polled twice", || polls(&server) >= 2);
    fs::copy(server.certificate(Face::SelfSigned), &ca_file).unwrap();
    wait_until("it trusts the server no longer", || reason(&machine, "ops").contains("unknown CA"));
    let before = connections(&server);
    fs::copy(server.ca_file(), &ca_file).unwrap();
    wait_until("it trusts it again", || machine.state("ops") == "current");
    assert!(!connections(&server).is_subset(&before), "over a connection of its own");
}

#[test]
fn a_connection_that_the_server_closes_meanwhile_costs_no_poll() {
    let mut line = None;
    let (machine, server, _, listener) = listening(|server| {
        let proxy = line.insert(Proxy::to(server.port(Face::Good)));
        // Enough for a handshake and some polls.
        proxy.behave(Behaviour::CloseAfter(5_000));
        proxy.url_of(&server.url("ops"))
    });
    wait_until("it polled over three connections", || connections(&server).len() >= 3);
    assert!(polls(&server) > connections(&server).len(), "{:?}", server.requests());
    wait_until("all is well", || machine.state("ops") == "current");
    assert!(!listener.log().contains("unreachable"), "{}", listener.log());
}
