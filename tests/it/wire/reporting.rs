//! What the wire did, told to a person: by `status -v` and `explain` afterwards, by `check` on the spot.

use crate::sandbox::Sandbox;
use crate::servers::{Face, Https};

use super::{acted, pull_from, trusting};

/// The one line of `text` that begins with `word`, without its line break and spaces.
#[track_caller]
fn line<'a>(text: &'a str, word: &str) -> &'a str {
    let mut found = text.lines().map(str::trim).filter(|line| line.starts_with(word));
    let line = found.next().unwrap_or_else(|| panic!("no line begins with {word:?} in\n{text}"));
    assert_eq!(found.next(), None, "in\n{text}");
    line
}

/// The number before `unit` in `text`.
#[track_caller]
fn number(text: &str, unit: &str) -> u64 {
    let before = text.split_once(unit).unwrap_or_else(|| panic!("no {unit:?} in {text}")).0;
    let digits = before.trim_end().rsplit(' ').next().unwrap();
    digits.parse().unwrap_or_else(|_| panic!("{digits:?} is no number in {text}"))
}

#[test]
fn status_and_explain_name_the_address_that_answered_and_what_that_took() {
    for (way, how) in [
        ("", "git protocol v2 in one request"),
        ("redirect/301/", "git protocol v2 in two requests"),
        ("v0/", "git protocol v0, which lists every ref"),
    ] {
        let machine = acted(&["ops"]);
        let server = Https::of(&machine);
        let url = server.url_at(way, "ops");
        pull_from(&machine, &trusting(&server), &[("ops", url.clone())]);
        machine.tick().ok();
        let status = machine.agent(&["status", "-v"]).ok().stdout;
        let explained = machine.agent(&["explain", "ops"]).ok().stdout;
        let reported = line(&status, "asked").trim_start_matches("asked").trim();
        let told_again =
            line(&explained, "Last answer from ").trim_start_matches("Last answer from ");
        for reported in [reported, told_again] {
            assert!(reported.starts_with(&format!("{url}: {how}, ")), "{reported}");
            assert!((200..5_000).contains(&number(reported, " bytes")), "{reported}");
            assert!(number(reported, " ms") < 60_000, "{reported}");
            let redirected = format!("redirected to {}", server.url("ops"));
            assert_eq!(reported.contains(&redirected), way.starts_with("redirect"), "{reported}");
            assert!(
                reported.contains(" ago, ") || reported.contains("just now, "),
                "since when: {reported}"
            );
        }
    }
}

#[test]
fn since_when_no_remote_answers_and_why_is_reported_for_each() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let urls = [server.url_at("status/404/", "ops"), "https://localhost:1/ops.git".to_owned()];
    machine.configure(&format!("[defaults]\n{}[repo.ops]\nurl = {urls:?}\n", trusting(&server)));
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "denied");
    let status = machine.agent(&["status", "-v"]).exits(1).stdout;
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    let reported = line(&explained, "A remote refuses access, and no other has the branch, since ");
    assert!(reported.contains(" ago, ") || reported.contains("just now, "), "{reported}");
    for text in [reported, &status] {
        assert!(text.contains(&format!("there is no repository at {} (404)", urls[0])), "{text}");
        assert!(text.contains("https://localhost:1 does not answer: connection refused"), "{text}");
    }
}

/// What `check` says of `ops`, each verdict with its hint in one line.
fn checked(machine: &Sandbox, defaults: &str, urls: &[String]) -> Vec<String> {
    machine.configure(&format!("[defaults]\n{defaults}[repo.ops]\nurl = {urls:?}\n"));
    let text = machine.agent(&["check"]).stdout;
    let mut verdicts: Vec<String> = Vec::new();
    for line in text.lines() {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        match verdicts.last_mut() {
            Some(last) if line.starts_with(' ') => *last += &format!(" {words}"),
            _ => verdicts.push(words),
        }
    }
    verdicts
}

#[test]
fn check_tests_each_remote_over_https_and_says_what_to_do() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    machine.git(&machine.server("ops"), &["update-server-info"]);
    let trusted = trusting(&server);
    let tip = &machine.head("ops")[..7];
    for (defaults, url, words) in [
        (
            &*trusted,
            server.url_at("auth/", "ops"),
            &["(401)", "hint: set username and password_file"],
        ),
        (&trusted, server.url_at("status/404/", "ops"), &["(404)", "hint: is it spelled right?"]),
        ("", server.url("ops"), &["certificate", "hint: "]),
        (&trusted, server.url_on(Face::Expired, "ops"), &["expired", "hint: "]),
        (
            &trusted,
            server.url_at("dumb/", "ops"),
            &["is a plain web server", "hint: serve it by git http-backend"],
        ),
    ] {
        let verdicts = checked(&machine, defaults, std::slice::from_ref(&url));
        let reported = verdicts.iter().find(|line| line.starts_with("bad ops "));
        let reported = reported.unwrap_or_else(|| panic!("{url}: {verdicts:#?}"));
        assert!(words.iter().all(|word| reported.contains(word)), "{words:?}: {reported}");

        // Beside one that answers it is no more than a warning, and that one is told as well.
        let both = [url.clone(), server.url("ops")];
        let verdicts = checked(&machine, &trusted, &both);
        let good =
            format!("ok ops {} has main at {tip}: git protocol v2 in one request, ", both[1]);
        let good = verdicts.iter().find(|line| line.starts_with(&good));
        let good = good.unwrap_or_else(|| panic!("{url}: {verdicts:#?}"));
        assert!((200..5_000).contains(&number(good, " bytes")), "{good}");
        if !defaults.is_empty() {
            assert!(verdicts.iter().any(|line| line.starts_with("warn ops ")), "{verdicts:#?}");
        }
        assert!(!verdicts.iter().any(|line| line.starts_with("bad ops ")), "{verdicts:#?}");
    }
}
