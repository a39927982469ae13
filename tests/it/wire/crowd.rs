//! Ten repositories, one of them in trouble, whatever the trouble: the other nine are done within
//! five seconds.

use std::time::{Duration, Instant};

use crate::sandbox::{Sandbox, wait_until};
use crate::servers::{Behaviour, Daemon, Face, Https, PASSWORDS_ONLY, Proxy, Sshd};

use super::{acted, meddler, news, pull_from, trusting};

const NINE: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

/// How long the nine may take.
const SOON: Duration = Duration::from_secs(5);

fn ten() -> Sandbox {
    acted(&[NINE.as_slice(), &["ill"]].concat())
}

/// News for all ten, of which `ill` is pulled from `url` and the others from `server`.
#[track_caller]
fn nine_are_done_soon(machine: &Sandbox, server: &Https, defaults: &str, url: &str) {
    let mut urls: Vec<_> = NINE.iter().map(|name| (*name, server.url(name))).collect();
    urls.push(("ill", url.to_owned()));
    let settings = format!("{}{defaults}network_timeout = \"8s\"\n", trusting(server));
    pull_from(machine, &settings, &urls);
    let revisions = NINE.map(|name| (name, news(machine, name, url)));
    news(machine, "ill", url);
    let start = Instant::now();
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]).spawn().unwrap();
    let mut took = Duration::MAX;
    wait_until(&format!("the nine are done beside {url}"), || {
        let done = revisions
            .iter()
            .all(|(name, revision)| machine.lastaction(name).as_ref() == Some(revision));
        took = start.elapsed();
        done
    });
    assert!(took < SOON, "they took {took:?} beside {url}");
    tick.wait().unwrap();
    let good = machine.lastaction("ill");
    assert_ne!(good, Some(machine.git(&machine.desk("ill"), &["rev-parse", "HEAD"])), "{url}");
}

#[test]
fn nine_are_done_beside_a_line_that_misbehaves() {
    let machine = ten();
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let url = line.url_of(&server.url("ill"));
    for behaviour in [
        Behaviour::BlackHole,
        Behaviour::Drip(Duration::from_millis(200)),
        Behaviour::ResetAfter(0),
        Behaviour::ResetAfter(2_000),
        Behaviour::FlipBitOf(1_000),
        Behaviour::Flood(b"flood".repeat(1_000)),
    ] {
        line.behave(behaviour);
        nine_are_done_soon(&machine, &server, "", &url);
    }
}

#[test]
fn nine_are_done_beside_a_repository_that_hangs_on_the_same_server() {
    let machine = ten();
    let server = Https::of(&machine);
    for way in [
        meddler::never_sends(&server),
        meddler::packs_without_end(&machine, &server),
        meddler::lists_without_end(&server),
    ] {
        nine_are_done_soon(&machine, &server, "", &server.url_at(&way, "ill"));
    }
}

#[test]
fn nine_are_done_beside_one_that_is_refused() {
    let machine = ten();
    let server = Https::of(&machine);
    let ways = ["status/401/", "status/403/", "status/404/", "status/429/", "status/500/"];
    let more = ["status/503/", "loop/", "elsewhere/"];
    let faces = [Face::Expired, Face::SelfSigned, Face::WrongHost, Face::ClientCertificate];
    let urls = ways.iter().chain(&more).map(|way| server.url_at(way, "ill"));
    let urls = urls.chain(faces.iter().map(|face| server.url_on(*face, "ill")));
    let nowhere = ["https://git.invalid/ill.git", "https://localhost:1/ill.git"];
    for url in urls.chain(nowhere.map(str::to_owned)) {
        nine_are_done_soon(&machine, &server, "", &url);
    }
    for url in [server.url_on(Face::Plain, "ill"), Daemon::of(&machine).url("ill")] {
        nine_are_done_soon(&machine, &server, "", &url);
    }
}

#[test]
fn nine_are_done_beside_an_ssh_server_that_refuses() {
    let machine = ten();
    let server = Https::of(&machine);
    let mut sshd = Sshd::of(&machine);
    let (key, known) = (sshd.client_key(), sshd.known_hosts());
    let settings = format!("key_file = {key:?}\nknown_hosts = {known:?}\n");
    sshd.restart_with(PASSWORDS_ONLY);
    nine_are_done_soon(&machine, &server, &settings, &sshd.url("ill"));
    sshd.change_host_key();
    nine_are_done_soon(&machine, &server, &settings, &sshd.url("ill"));
    let line = Proxy::to(sshd.port());
    line.behave(Behaviour::BlackHole);
    let url = sshd.url("ill").replace(&sshd.port().to_string(), &line.port().to_string());
    nine_are_done_soon(&machine, &server, &settings, &url);
}
