//! Servers that answer otherwise than git's own does: what git forgives is forgiven, what a server wants
//! is given, and what worked is remembered.

use std::fs;
use std::time::{Duration, Instant};

use crate::sandbox::{Ran, Sandbox, text};
use crate::servers::{Fake, FakeServer};

use super::{acted, converges, news, pull_from, reason};

/// A machine with `ops` that pulls it from a server of this kind.
fn pulling_from(fake: Fake, defaults: &str) -> (Sandbox, FakeServer) {
    let machine = acted(&["ops"]);
    let server = FakeServer::of(&machine, fake);
    let defaults = format!("insecure = true\n{defaults}");
    pull_from(&machine, &defaults, &[("ops", server.url("ops"))]);
    (machine, server)
}

/// The requests of one tick.
fn asked_by_a_tick(machine: &Sandbox, server: &FakeServer) -> Vec<String> {
    server.take_requests();
    machine.tick();
    server.take_requests()
}

/// `ops` is cloned anew from `server` and comes to `revision`.
#[track_caller]
fn clones(machine: &Sandbox, server: &FakeServer, defaults: &str, revision: &str) {
    let urls = [("ops", server.url("ops")), ("second", server.url("ops"))];
    pull_from(machine, &format!("insecure = true\n{defaults}"), &urls);
    converges(machine, "second", revision);
}

#[test]
fn what_git_forgives_is_forgiven_for_a_clone_and_for_news() {
    for fake in [
        Fake::Git,
        Fake::Azure,
        Fake::AzureMoved,
        Fake::CodeCommit,
        Fake::JGitMoved,
        Fake::SideBand,
        Fake::Bare,
        Fake::NoShallow,
        Fake::NoAgent,
        Fake::Kind(""),
        Fake::Kind("application/octet-stream"),
        Fake::Gzip,
    ] {
        let depth = if fake == Fake::NoShallow { "depth = 1\n" } else { "" };
        let (machine, server) = pulling_from(fake, depth);
        machine.tick().ok();
        let revision = news(&machine, "ops", "new");
        machine.tick().ok();
        assert_eq!(
            machine.lastaction("ops").as_ref(),
            Some(&revision),
            "{fake:?}: {:#}",
            machine.row("ops")
        );
        clones(&machine, &server, depth, &revision);
        assert_eq!(asked_by_a_tick(&machine, &server).len(), 2, "{fake:?}: one for each");
    }
}

#[test]
fn a_request_that_a_server_does_not_know_leads_to_gits_own_discovery_at_once() {
    for fake in [
        Fake::Silent,
        Fake::Cut,
        Fake::Flush,
        Fake::Status(400),
        Fake::Status(404),
        Fake::Status(405),
        Fake::Status(415),
        Fake::Status(500),
        Fake::Status(502),
        Fake::Status(503),
        Fake::Status(504),
    ] {
        let (machine, server) = pulling_from(fake, "");
        let first = asked_by_a_tick(&machine, &server);
        assert_eq!(first, ["POST", "GET"], "{fake:?}");
        assert_eq!(machine.state("ops"), "current", "{fake:?}: {:#}", machine.row("ops"));
        assert_eq!(asked_by_a_tick(&machine, &server), ["GET"], "{fake:?} is remembered");
        let revision = news(&machine, "ops", "new");
        let start = Instant::now();
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{fake:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "{fake:?}: the wait comes again");
    }
}

#[test]
fn what_one_repository_found_out_holds_for_the_others_on_its_server() {
    let machine = acted(&["ops", "web"]);
    let server = FakeServer::of(&machine, Fake::Silent);
    let urls = ["ops", "web"].map(|name| (name, server.url(name)));
    // A mirror on the same server is polled after the first.
    let mirrored = [urls[1].1.replace("web", "away"), urls[1].1.clone()];
    machine.configure(&format!("[defaults]\ninsecure = true\n[repo.web]\nurl = {mirrored:?}\n"));
    let asked = asked_by_a_tick(&machine, &server);
    assert_eq!(machine.state("web"), "current", "{:#}", machine.row("web"));
    assert_eq!(asked, ["POST", "GET", "GET"]);
    pull_from(&machine, "insecure = true", &urls);
    machine.tick().ok();
    assert_eq!(asked_by_a_tick(&machine, &server), ["GET", "GET"]);
}

#[test]
fn a_refusal_is_final_and_not_asked_about_in_another_way() {
    for status in [403, 429] {
        let (machine, server) = pulling_from(Fake::Status(status), "");
        assert_eq!(asked_by_a_tick(&machine, &server), ["POST"], "{status}");
        assert!(reason(&machine, "ops").contains(&status.to_string()));
        let state = if status == 403 { "denied" } else { "unreachable" };
        assert_eq!(machine.state("ops"), state);
    }
}

#[test]
fn a_known_way_that_fails_three_times_in_a_row_is_discovered_anew() {
    let (machine, server) = pulling_from(Fake::Git, "");
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    server.become_like(Fake::Status(502));
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    assert_eq!(machine.state("ops"), "unreachable");
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    // One that answers in between begins the count anew.
    server.become_like(Fake::Git);
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    assert_eq!(machine.state("ops"), "current");
    server.become_like(Fake::Status(502));
    for _ in 0..2 {
        assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    }
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST", "GET"]);
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    assert_eq!(asked_by_a_tick(&machine, &server), ["GET"]);
}

#[test]
fn an_answer_without_refs_is_made_sure_of_once() {
    let (machine, server) = pulling_from(Fake::Git, "branch = \"main\"\n");
    machine.tick().ok();
    machine.git(&machine.server("ops"), &["branch", "-m", "main", "other"]);
    // The last two ask which refs there are instead, to name them, and whether a tag has that name.
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST", "GET", "POST", "POST", "POST"]);
    assert_ne!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST", "POST", "POST"]);
    machine.git(&machine.server("ops"), &["branch", "-m", "other", "main"]);
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

#[test]
fn a_coded_answer_is_capped_by_its_decoded_size() {
    let (machine, server) = pulling_from(Fake::Bomb, "");
    let good = machine.lastaction("ops");
    let line = machine.agent_line(&["tick", "--trigger", "cron"]);
    let mut small = machine.command("prlimit");
    Ran::of(small.arg("--data=150000000").args(line)).ok();
    let why = reason(&machine, "ops");
    assert!(why.contains("sends more than"), "{why}");
    assert_eq!(machine.lastaction("ops"), good);
    server.become_like(Fake::Gzip);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
}

#[test]
fn a_login_that_is_not_supported_is_named_and_the_password_not_sent() {
    let (machine, server) = pulling_from(Fake::Digest, "username = \"pat\"");
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST"]);
    let why = reason(&machine, "ops");
    assert!(why.contains("asks for a login by digest (401), which is not supported"), "{why}");
    assert!(!why.contains("password_file"), "{why}");
}

#[test]
fn a_pushed_revision_that_is_no_tip_is_checked_out() {
    for (fake, by_id) in [(Some(Fake::Git), true), (Some(Fake::TipsOnly), false), (None, true)] {
        let machine = acted(&["ops"]);
        let server = FakeServer::of(&machine, fake.unwrap_or(Fake::Git));
        let url = match fake {
            Some(_) => server.url("ops"),
            None => machine.server("ops").display().to_string(),
        };
        pull_from(&machine, "insecure = true\nmode = \"fetch\"", &[("ops", url)]);
        machine.tick().ok();
        let wanted = news(&machine, "ops", "wanted");
        let unreachable =
            machine.git(&machine.desk("ops"), &["commit-tree", "-m", "no", "HEAD^{tree}"]);
        let tip = news(&machine, "ops", "tip");
        let place = machine.path("by-hand");
        let shown = || fs::read_to_string(place.join("page")).ok();
        let checkout = |id: &str| machine.agent(&["checkout", "ops", id, "--to", text(&place)]);
        checkout(&wanted).ok();
        assert_eq!(shown().as_deref(), Some("wanted"), "{fake:?}");
        // The tip came along only where the revision could not be had by its id.
        let has = |id: &str| {
            let line = ["cat-file", "-e", id];
            Ran::of(machine.command("git").current_dir(machine.clone_of("ops")).args(line)).code
        };
        assert_eq!(has(&tip) != Some(0), by_id, "{fake:?}");
        let left = machine.git(&machine.clone_of("ops"), &["for-each-ref", "refs/pmpy/looked-at"]);
        assert_eq!(left, "");

        // An abbreviated id says nothing to a server.
        let second = news(&machine, "ops", "second");
        news(&machine, "ops", "third");
        checkout(&second[..12]).ok();
        assert_eq!(shown().as_deref(), Some("second"), "{fake:?}");
        let ran = checkout(&unreachable).exits(1);
        assert!(ran.stderr.contains("does not have it either"), "{ran}");
        assert_eq!(shown().as_deref(), Some("second"));
        // What follows upstream continues as before.
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    }
}

#[test]
fn a_server_that_a_strange_request_breaks_is_asked_otherwise_at_the_next_tick() {
    let (machine, server) = pulling_from(Fake::Fragile, "");
    assert_eq!(asked_by_a_tick(&machine, &server), ["POST", "GET"]);
    assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    assert_eq!(asked_by_a_tick(&machine, &server), ["GET"]);
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
}
