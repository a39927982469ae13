//! Redirects that lead to servers which are away, for now or for good.

use std::fs;

use crate::servers::{Behaviour, Face, Https, Proxy};

use super::{acted, converges, meddler, news, pull_from, reason, trusting};

#[test]
fn a_redirect_to_a_server_that_is_away_says_nothing_of_the_one_that_redirects() {
    let machine = acted(&["moved", "stays"]);
    let server = Https::of(&machine);
    let (way, _) = meddler::redirects(&machine, &server, "https://localhost:1/moved.git");
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
    let (way, leads_to) = meddler::redirects(&machine, &server, &url(&first));
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
