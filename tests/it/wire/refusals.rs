//! Servers that answer, and not with what was asked for: each is told in words, the last good
//! revision stays, and nobody is asked more often than he wants.

use chrono::{DateTime, Local, TimeDelta, Utc};

use crate::sandbox::Sandbox;
use crate::servers::{Daemon, Face, Https};

use super::mitm_proxy::hands_nothing_over;
use super::{acted, converges, news, pull_from, reason, trusting};

fn with_https() -> (Sandbox, Https) {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    (machine, server)
}

/// What `status` says after one tick that pulls from `url`, when nothing could be had: `state` and the reason.
#[track_caller]
fn refused(machine: &Sandbox, defaults: &str, url: String, state: &str) -> String {
    let good = machine.lastaction("ops");
    pull_from(machine, defaults, &[("ops", url.clone())]);
    machine.tick().exits(i32::from(state == "denied"));
    assert_eq!(machine.state("ops"), state, "{url}: {:#}", machine.row("ops"));
    assert_eq!(machine.lastaction("ops"), good, "{url}");
    reason(machine, "ops")
}

/// What is written for a person has these words in it, whatever their case.
#[track_caller]
fn says(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no {word:?} in: {text}");
    }
}

#[test]
fn each_refusal_of_a_web_server_is_reported_in_its_own_words() {
    let (machine, server) = with_https();
    for (way, state, words) in [
        ("status/401/", "denied", ["401", "username"]),
        ("status/403/", "denied", ["403", ""]),
        ("status/404/", "denied", ["404", ""]),
        ("status/429/", "unreachable", ["429", ""]),
        ("status/500/", "unreachable", ["500", ""]),
        ("status/503/", "unreachable", ["503", ""]),
        ("busy/", "unreachable", ["503", ""]),
        ("loop/", "unreachable", ["redirect", ""]),
    ] {
        let url = server.url_at(way, "ops");
        let machine_text = refused(&machine, &trusting(&server), url, state);
        says(&machine_text, &words);
        // A server that wants to be left alone is asked under another name all the same.
        pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
        machine.agent(&["tick", "ops"]).ok();
        assert_eq!(machine.state("ops"), "current", "{way}: {:#}", machine.row("ops"));
    }
}

#[test]
fn a_server_that_asks_to_be_left_alone_is_left_alone_unless_a_person_asks() {
    let (machine, server) = with_https();
    for way in ["status/429/", "busy/"] {
        refused(&machine, &trusting(&server), server.url_at(way, "ops"), "unreachable");
        server.forget_requests();
        machine.tick().ok();
        assert_eq!(server.requests(), [], "{way}");
        machine.agent(&["tick", "ops"]).exits(1);
        assert!(!server.requests().is_empty(), "{way}");
        pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
        machine.agent(&["tick", "ops"]).ok();
    }
}

#[test]
fn a_server_that_is_ill_is_asked_again_at_the_next_tick() {
    let (machine, server) = with_https();
    let ways = ["status/500/", "status/503/"].map(|way| (way, "unreachable"));
    for (way, state) in ways.into_iter().chain([("status/404/", "denied")]) {
        refused(&machine, &trusting(&server), server.url_at(way, "ops"), state);
        server.forget_requests();
        machine.tick();
        assert!(!server.requests().is_empty(), "{way}");
    }
}

#[test]
fn credentials_that_are_refused_are_not_tried_at_every_tick() {
    let (machine, server) = with_https();
    refused(&machine, &trusting(&server), server.url_at("auth/", "ops"), "denied");
    server.forget_requests();
    for _ in 0..2 {
        machine.tick().exits(1);
        assert_eq!((server.requests(), machine.state("ops")), (vec![], "denied".to_owned()));
    }
}

#[test]
fn each_certificate_that_cannot_be_trusted_is_reported_in_its_own_words() {
    let (machine, server) = with_https();
    for (face, words) in [
        (Face::Expired, ["expired", "2020"]),
        (Face::SelfSigned, ["certificate", "ca_file"]),
        (Face::WrongHost, ["certificate", "localhost"]),
    ] {
        let url = server.url_on(face, "ops");
        says(&refused(&machine, &trusting(&server), url, "denied"), &words);
    }
    // nginx answers 400, which may mean anything.
    let url = server.url_on(Face::ClientCertificate, "ops");
    says(&refused(&machine, &trusting(&server), url, "unreachable"), &["client_cert"]);
    let untrusted = refused(&machine, "", server.url("ops"), "denied");
    says(&untrusted, &["certificate", "ca_file"]);
    assert!(server.requests().iter().all(|request| request.status == 400), "nothing was asked");
}

#[test]
fn a_client_certificate_opens_the_door() {
    let (machine, server) = with_https();
    let settings = format!("{}client_cert = {:?}", trusting(&server), server.client_certificate());
    pull_from(&machine, &settings, &[("ops", server.url_on(Face::ClientCertificate, "ops"))]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
}

#[test]
fn an_unknown_host_name_and_a_closed_port_are_distinguished() {
    let (machine, server) = with_https();
    let nowhere = "https://git.invalid/ops.git".to_owned();
    says(&refused(&machine, "", nowhere, "unreachable"), &["git.invalid", "name"]);
    let closed = "https://localhost:1/ops.git".to_owned();
    says(&refused(&machine, "", closed, "unreachable"), &["localhost", "refused"]);
    let no_git = server.url_on(Face::Good, "nothing-of-this-name");
    // Where the program ends sooner than fcgiwrap looks, that says 502, and 404 when it is asked again.
    pull_from(&machine, &trusting(&server), &[("ops", no_git)]);
    let why = || {
        machine.tick();
        assert_eq!(machine.state("ops") == "denied", reason(&machine, "ops").contains("404"));
        reason(&machine, "ops")
    };
    let answers: Vec<String> =
        (0..5).map(|_| why()).take_while(|why| !why.contains("404")).collect();
    assert!(answers.len() < 5, "{answers:?}");
}

#[test]
fn what_is_neither_encrypted_nor_authenticated_is_refused_unless_it_is_allowed() {
    let (machine, server) = with_https();
    let daemon = Daemon::of(&machine);
    for url in [server.url_on(Face::Plain, "ops"), daemon.url("ops")] {
        let why = refused(&machine, "", url.clone(), "denied");
        says(&why, &["neither encrypted nor authenticated", "insecure = true"]);
        pull_from(&machine, "insecure = true", &[("ops", url.clone())]);
        let revision = news(&machine, "ops", &url);
        converges(&machine, "ops", &revision);
    }
    assert!(server.requests().iter().all(|request| request.status == 200));
}

#[test]
fn a_redirect_from_https_to_http_is_not_followed() {
    let (machine, server) = with_https();
    // A script that ends before it has read its question makes the server answer 502, now and then.
    let script = format!(
        "cat >/dev/null; printf 'Status: 302\\nLocation: http://localhost:{}/ops.git/info/refs?%s\\n\\n' \
         \"$QUERY_STRING\"",
        server.port(Face::Plain)
    );
    server.answer_with("downgrade", &script);
    let url = server.url_at("cgi/downgrade/", "ops");
    let settings = format!("{}insecure = true", trusting(&server));
    says(&refused(&machine, &settings, url, "unreachable"), &["redirect"]);
    let plain = server.port(Face::Plain);
    assert!(server.requests().iter().all(|request| request.port != plain));
}

/// How many requests were answered with `status`.
fn answered(server: &Https, status: u16) -> usize {
    server.requests().iter().filter(|request| request.status == status).count()
}

#[test]
fn a_server_that_answers_a_fetch_by_not_now_is_asked_once_and_then_left_alone() {
    for (status, head) in
        [(429, "Retry-After: 120\\r\\n"), (503, "Retry-After: 120\\r\\n"), (403, "")]
    {
        let (machine, server) = with_https();
        let way = hands_nothing_over(&server, status, head);
        pull_from(&machine, &trusting(&server), &[("ops", server.url_at(&way, "ops"))]);
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        news(&machine, "ops", "new");
        server.forget_requests();
        machine.tick();
        assert!(answered(&server, status) > 0);
        assert_eq!(server.requests().len(), 2, "a poll and a fetch: {:#?}", server.requests());
        says(&reason(&machine, "ops"), &[&status.to_string()]);

        server.forget_requests();
        machine.tick();
        assert_eq!(server.requests(), [], "{status}");
        let state = if status == 403 { "denied" } else { "unreachable" };
        assert_eq!(machine.state("ops"), state, "{:#}", machine.row("ops"));
        let reported = machine.agent(&["explain", "ops"]).stdout;
        says(&reported, &["is not polled again before", "agent tick ops", "five minutes at most"]);
        machine.agent(&["tick", "ops"]).exits(1);
        assert!(answered(&server, status) > 0, "a person is obeyed");
    }
}

#[test]
fn a_server_that_asks_for_a_day_is_reported_with_the_moment_at_which_it_is_asked_again() {
    for (status, head) in [(429, "Retry-After: 86400\\r\\n"), (503, "Retry-After: 86400\\r\\n")] {
        let (machine, server) = with_https();
        let way = hands_nothing_over(&server, status, head);
        pull_from(&machine, &trusting(&server), &[("ops", server.url_at(&way, "ops"))]);
        machine.tick().ok();
        news(&machine, "ops", "new");
        machine.tick().ok();
        let row = machine.row("ops");
        let left = row["left_alone"].as_object().unwrap().values().next().unwrap();
        let until: DateTime<Utc> = left["until"].as_str().unwrap().parse().unwrap();
        let wait = until - Utc::now();
        assert!((TimeDelta::zero()..=TimeDelta::minutes(5)).contains(&wait), "{wait}");
        let why = reason(&machine, "ops");
        says(&why, &[&status.to_string()]);
        let moment = format!(
            "not polled again before {}; now: agent tick ops",
            until.with_timezone(&Local).format("%H:%M %z")
        );
        says(&machine.agent(&["status"]).ok().stdout, &[&moment]);
        assert!(!["day", "24h", "86400"].iter().any(|word| why.contains(word)), "{why}");
    }
}

#[test]
fn a_refusal_counts_for_the_remote_that_gave_it_and_for_no_other() {
    let (machine, server) = with_https();
    let pull_from = |first: &str, second: &str| {
        let urls = [server.url_at(first, "ops"), server.url_at(second, "ops")];
        machine
            .configure(&format!("[defaults]\n{}[repo.ops]\nurl = {urls:?}\n", trusting(&server)));
    };
    for first in ["auth/", "status/403/"] {
        pull_from(first, "");
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        server.forget_requests();
        machine.tick().ok();
        let others: Vec<_> = server
            .requests()
            .into_iter()
            .filter(|request| !request.uri.starts_with("/ops.git"))
            .collect();
        assert_eq!(others, [], "{first}");

        pull_from(first, "status/500/");
        machine.tick().exits(1);
        server.forget_requests();
        machine.tick().exits(1);
        let uris: Vec<String> = server.requests().into_iter().map(|request| request.uri).collect();
        assert!(!uris.is_empty(), "{first}");
        assert!(uris.iter().all(|uri| uri.starts_with("/status/500/")), "{first}: {uris:#?}");
        let why = reason(&machine, "ops");
        says(&why, &["500", if first == "auth/" { "401" } else { "403" }]);
    }
}

#[test]
fn what_is_still_to_be_cloned_leaves_alone_who_asked_for_it_as_well() {
    let (machine, server) = with_https();
    for (number, (way, word)) in
        [("status/429/", "429"), ("busy/", "503"), ("auth/", "401")].iter().enumerate()
    {
        let name = format!("site{number}");
        pull_from(&machine, &trusting(&server), &[(&name, server.url_at(way, "ops"))]);
        machine.tick();
        let state = if *word == "401" { "denied" } else { "unreachable" };
        assert_eq!(machine.state(&name), state);
        says(&reason(&machine, &name), &[word]);
        let since = machine.row(&name)["since"].clone();
        // What was cloned before is asked for at its own place.
        let asked = || {
            let requests = server.requests().into_iter();
            requests.filter(|request| request.uri[1..].starts_with(way)).count()
        };
        assert!(asked() > 0, "{way}");
        server.forget_requests();
        machine.tick();
        assert_eq!(asked(), 0, "{way}");
        says(&reason(&machine, &name), &[word]);
        assert_eq!(machine.row(&name)["since"], since, "{way}");
        machine.agent(&["tick", &name]).exits(1);
        assert!(asked() > 0, "a person is obeyed: {way}");
        pull_from(&machine, &trusting(&server), &[(&name, server.url("ops"))]);
        machine.tick().ok();
        assert_eq!(machine.state(&name), "current", "{:#}", machine.row(&name));
    }
}

#[test]
fn a_server_that_asks_one_repository_to_be_left_alone_is_not_asked_for_the_others() {
    let (machine, server) = with_https();
    let names: Vec<String> = (0..12).map(|number| format!("site{number}")).collect();
    let urls: Vec<_> =
        names.iter().map(|name| (name.as_str(), server.url_at("status/429/", name))).collect();
    pull_from(&machine, &trusting(&server), &urls);
    machine.tick().ok();
    assert!(!server.requests().is_empty());
    for name in &names {
        says(&reason(&machine, name), &["429"]);
    }
    // As many as are asked at the same time.
    assert!(server.requests().len() <= 6, "{:#?}", server.requests());
}
