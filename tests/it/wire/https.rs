//! The roads to a repository on a web server: straight, through redirects, to old and plain servers,
//! with a history cut short; and that the next poll takes the road that was found.

use std::fs;

use crate::sandbox::{Ran, Sandbox, set_mode, text};
use crate::servers::{Https, PASSWORD, USER, over_ipv6};

use super::{acted, converges, news, pull_from, reason, trusting};

/// A machine with `ops` that pulls it through `way`.
fn through(way: &str, defaults: &str) -> (Sandbox, Https) {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let settings = trusting(&server) + defaults;
    pull_from(&machine, &settings, &[("ops", server.url_at(way, "ops"))]);
    (machine, server)
}

/// The methods and statuses of the requests of one tick.
fn asked_by_a_tick(machine: &Sandbox, server: &Https) -> Vec<String> {
    server.forget_requests();
    machine.tick().ok();
    let requests = server.requests();
    requests.iter().map(|request| format!("{} {}", request.method, request.status)).collect()
}

fn dialect(machine: &Sandbox) -> String {
    machine.row("ops")["asked"]["way"]["dialect"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_server_of_protocol_v0_is_polled_and_fetched_from() {
    let (machine, server) = through("v0/", "");
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST 200", "GET 200"]);
    assert_eq!(dialect(&machine), "old");
    assert_eq!(asked_by_a_tick(&machine, &server), ["GET 200"]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    machine.git(&machine.desk("ops"), &["commit", "--amend", "--quiet", "--message", "Another"]);
    machine.git(&machine.desk("ops"), &["push", "--quiet", "--force", "origin", "main"]);
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten");
}

#[test]
fn each_redirect_is_followed_once_and_remembered() {
    for status in ["301", "302", "307", "308"] {
        let (machine, server) = through(&format!("redirect/{status}/"), "");
        let first = asked_by_a_tick(&machine, &server);
        assert_eq!(first.last().unwrap(), "POST 200", "{first:?}");
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        assert_eq!(asked_by_a_tick(&machine, &server), ["POST 200"], "{status}");
        let revision = news(&machine, "ops", status);
        converges(&machine, "ops", &revision);
    }
}

#[test]
fn a_plain_web_server_is_polled_and_its_news_are_refused_with_a_reason() {
    let (machine, server) = through("dumb/", "");
    let update = |machine: &Sandbox| machine.git(&machine.server("ops"), &["update-server-info"]);
    update(&machine);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    assert_eq!(dialect(&machine), "dumb");
    assert_eq!(asked_by_a_tick(&machine, &server), ["GET 200"]);
    news(&machine, "ops", "new");
    update(&machine);
    for _ in 0..2 {
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "denied", "{:#}", machine.row("ops"));
    }
    let why = reason(&machine, "ops");
    assert!(why.contains("plain web server") && why.contains("git-http-backend"), "{why}");
}

#[test]
fn a_page_for_people_is_no_repository() {
    let (machine, server) = through("cgi/page/", "");
    server.answer_with("page", "printf 'Content-Type: text/html\\n\\n<html>Log in</html>\\n'");
    machine.tick().ok();
    let why = reason(&machine, "ops");
    assert!(why.contains("no git repository") && why.contains("text/html"), "{why}");
}

#[test]
fn a_clone_whose_history_is_cut_short_stays_so_and_follows() {
    for way in ["", "v0/"] {
        let machine = Sandbox::new();
        machine.serve("ops", &[("bin/work/common/work.sh", "true\n")]);
        let revisions: Vec<String> =
            (0..6).map(|number| news(&machine, "ops", &number.to_string())).collect();
        let server = Https::of(&machine);
        let settings = format!("{}depth = 2\n", trusting(&server));
        pull_from(&machine, &settings, &[("ops", server.url_at(way, "ops"))]);
        converges(&machine, "ops", &revisions[5]);
        let clone = machine.clone_of("ops");
        let count = || machine.git(&clone, &["rev-list", "--count", "HEAD"]);
        let edges = || fs::read_to_string(clone.join(".git/shallow")).unwrap();
        assert_eq!((count().as_str(), edges().trim()), ("2", revisions[4].as_str()), "{way}");

        for number in 6..10 {
            news(&machine, "ops", &number.to_string());
        }
        let last = machine.git(&machine.desk("ops"), &["rev-parse", "HEAD"]);
        converges(&machine, "ops", &last);
        assert_eq!((count().as_str(), edges().trim()), ("6", revisions[4].as_str()), "{way}");
    }
}

#[test]
fn what_was_never_fetched_is_fetched_in_one_pack_and_no_ref_but_one_is_made() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("bin/work/common/work.sh", "true\n")]);
    let revision = news(&machine, "ops", "new");
    machine.git(&machine.desk("ops"), &["push", "--quiet", "origin", "main:side", "main:v1"]);
    let server = Https::of(&machine);
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    converges(&machine, "ops", &revision);
    let clone = machine.clone_of("ops");
    let refs = machine.git(&clone, &["for-each-ref", "--format=%(refname)", "refs/remotes"]);
    assert_eq!(refs, "refs/remotes/origin/main");
    let counted = machine.git(&clone, &["count-objects", "-v"]);
    assert!(counted.contains("packs: 1\n") && counted.contains("garbage: 0\n"), "{counted}");
}

#[test]
fn a_poll_and_its_fetch_share_a_connection_and_take_one_request_each() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    machine.configure(&format!(
        "[repo.ops]\nurl = \"{}\"\nca_file = \"{}\"\nmode = \"fetch\"\n",
        server.url("ops"),
        text(&server.ca_file())
    ));
    machine.tick().ok();
    let tip = news(&machine, "ops", "new");
    let asked = |line: &[&str]| {
        let before = server.requests().len();
        machine.agent(line).ok();
        server.requests().split_off(before)
    };
    // A worker of this mode asks what there is, and fetches it.
    let worker = ["worker", "ops", "--trigger", "cron"];
    let requests = asked(&worker);
    let tracking = "refs/remotes/origin/main";
    assert_eq!(machine.git(&machine.clone_of("ops"), &["rev-parse", tracking]), tip);
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert_eq!(requests[0].connection, requests[1].connection);
    // What is here already is not asked for again.
    assert_eq!(asked(&worker).len(), 1);
}

#[test]
fn a_netrc_opens_the_door_and_is_asked_only_where_a_password_is_wanted() {
    let (machine, server) = through("auth/", "");
    let netrc = machine.path("netrc");
    let with_netrc = |host: &str, mode: u32| {
        let entry = format!("machine {host}\n  login {USER}\n  password \"{PASSWORD}\"\n");
        fs::write(&netrc, entry).unwrap();
        set_mode(&netrc, mode);
        Ran::of(machine.agent_command(&["tick", "ops"]).env("NETRC", text(&netrc)));
        (machine.state("ops"), reason(&machine, "ops"))
    };
    assert_eq!(with_netrc("localhost", 0o600).0, "current");
    let (state, why) = with_netrc("elsewhere.example.org", 0o600);
    assert!(state == "denied" && why.contains("401"), "{why}");
    let (state, why) = with_netrc("localhost", 0o644);
    assert!(state == "denied" && why.contains("can be read by everybody"), "{why}");

    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    assert_eq!(with_netrc("localhost", 0o644).0, "current", "nobody asked for it");
    assert!(server.requests().last().is_some_and(|request| !request.authorized));
}

#[test]
fn a_server_that_wants_a_login_gets_it_at_once_from_then_on() {
    let (machine, server) = through("auth/", "");
    let netrc = machine.path("netrc");
    let entry = format!("machine localhost login {USER} password \"{PASSWORD}\"\n");
    fs::write(&netrc, entry).unwrap();
    set_mode(&netrc, 0o600);
    let tick = |expected: &[u16]| {
        server.forget_requests();
        let mut agent = machine.agent_command(&["tick", "--trigger", "cron"]);
        Ran::of(agent.env("NETRC", text(&netrc))).ok();
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        let statuses: Vec<u16> = server.requests().iter().map(|request| request.status).collect();
        assert_eq!(statuses, expected);
    };
    tick(&[401, 200]);
    tick(&[200]);
    let revision = news(&machine, "ops", "new");
    tick(&[200, 200]);
    assert_eq!(machine.row("ops")["acted"]["revision"], revision);

    // A user without a password is not sent before it is asked for, either.
    let url = server.url_at("auth/", "ops").replace("://", &format!("://{USER}@"));
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    tick(&[200]);
    // Once nobody is asked any more, nothing is sent.
    fs::remove_file(&netrc).unwrap();
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    tick(&[200]);
    assert!(server.requests().iter().all(|request| !request.authorized));
}

#[test]
fn a_login_in_the_address_is_sent_at_once() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let login = format!("://{USER}:{}@", PASSWORD.replace(' ', "%20"));
    let url = server.url_at("auth/", "ops").replace("://", &login);
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST 200"]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
}

#[test]
fn a_server_with_an_ipv6_address_is_pulled_from() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let url = over_ipv6(&server.url("ops"));
    pull_from(&machine, &trusting(&server), &[("ops", url.clone())]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    assert_eq!(machine.row("ops")["asked"]["remote"], url);
}
