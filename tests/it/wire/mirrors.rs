//! Several URLs for one repository: the first that answers counts, and one that lags never moves a
//! machine back.

use crate::sandbox::{Sandbox, text};
use crate::servers::{Behaviour, Face, Https, Proxy};

use super::mitm_proxy::hands_nothing_over;
use super::{acted, converges, news, reason, trusting};

/// A machine that pulls `ops` over a line to its first server, and from a mirror that lags, in this
/// order.
fn with_a_mirror() -> (Sandbox, Https, Proxy) {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    mirror(&machine);
    machine.configure(&format!(
        "[defaults]\n{}network_timeout = \"3s\"\n[repo.ops]\nurl = [{:?}, {:?}]\n",
        trusting(&server),
        line.url_of(&server.url("ops")),
        server.url("mirror")
    ));
    (machine, server, line)
}

/// From now on the machine pulls `ops` from `urls`, in this order; `settings` are its own.
fn pull_from_all(machine: &Sandbox, server: &Https, settings: &str, urls: &[String]) {
    let defaults = format!("[defaults]\n{}network_timeout = \"3s\"\n", trusting(server));
    machine.configure(&format!("{defaults}[repo.ops]\n{settings}url = {urls:?}\n"));
}

/// Brings the mirror up to date.
fn mirror(machine: &Sandbox) {
    let (server, mirror) = (machine.server("ops"), machine.server("mirror"));
    let dir = machine.path("");
    if mirror.exists() {
        machine.git(&mirror, &["fetch", "--quiet", "--prune", "origin"]);
    } else {
        machine.git(&dir, &["clone", "--quiet", "--mirror", text(&server), text(&mirror)]);
    }
}

#[test]
fn the_mirror_is_asked_when_the_first_server_does_not_answer() {
    for behaviour in [Behaviour::BlackHole, Behaviour::ResetAfter(0), Behaviour::CloseAfter(500)] {
        let (machine, _server, line) = with_a_mirror();
        machine.tick().ok();
        line.behave(behaviour.clone());
        let revision = news(&machine, "ops", "new");
        mirror(&machine);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{behaviour:?}");
        assert_eq!(machine.state("ops"), "current", "{behaviour:?}: {:#}", machine.row("ops"));
    }
}

#[test]
fn a_mirror_that_lags_never_moves_a_machine_back() {
    let (machine, _server, line) = with_a_mirror();
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    line.behave(Behaviour::ResetAfter(0));
    for _ in 0..3 {
        machine.tick().ok();
        assert_eq!(machine.head("ops"), revision);
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        let why = reason(&machine, "ops");
        assert!(why.contains("mirror") && why.contains("lags"), "{why}");
    }
    line.behave(Behaviour::Faithful);
    let newer = news(&machine, "ops", "newer");
    converges(&machine, "ops", &newer);
    assert_eq!(reason(&machine, "ops"), "");
}

#[test]
fn a_mirror_that_lags_does_not_stand_in_for_a_first_one_that_hands_nothing_over() {
    for settings in ["", "rewritten = \"follow\"\nupdate = \"reset\"\n"] {
        let machine = acted(&["ops"]);
        let server = Https::of(&machine);
        mirror(&machine);
        let stingy = hands_nothing_over(&server, 429, "Retry-After: 120\\r\\n");
        let urls = [server.url("ops"), server.url("mirror")];
        pull_from_all(&machine, &server, settings, &urls);
        let revision = news(&machine, "ops", "new");
        converges(&machine, "ops", &revision);

        let urls = [server.url_at(&stingy, "ops"), server.url("mirror")];
        pull_from_all(&machine, &server, settings, &urls);
        let newer = news(&machine, "ops", "newer");
        for _ in 0..3 {
            machine.tick().ok();
            assert_eq!(machine.head("ops"), revision, "{settings}");
            assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
            let why = reason(&machine, "ops");
            assert!(why.contains("429") && why.contains("lags behind"), "{why}");
            assert_eq!(machine.row("ops")["upstream"], newer, "what was heard of stays known");
        }
        mirror(&machine);
        converges(&machine, "ops", &newer);
        assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
        assert_eq!(machine.row("ops")["asked"]["mirror"], true);
    }
}

#[test]
fn a_mirror_delivers_what_the_first_one_only_announces_and_is_named() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let stingy = hands_nothing_over(&server, 500, "");
    let revision = news(&machine, "ops", "new");
    mirror(&machine);
    let urls = [server.url_at(&stingy, "ops"), server.url("mirror")];
    pull_from_all(&machine, &server, "", &urls);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
    let row = machine.row("ops");
    assert_eq!((&row["state"], &row["asked"]["mirror"]), (&"current".into(), &true.into()));
    assert_eq!(row["asked"]["remote"], server.url("mirror"));
}

#[test]
fn a_first_one_that_lags_behind_a_mirror_moves_nothing_back_and_is_no_rewound_upstream() {
    for settings in ["", "rewritten = \"follow\"\nupdate = \"reset\"\n"] {
        let (machine, server, line) = with_a_mirror();
        let old = machine.head("ops");
        let revision = news(&machine, "ops", "new");
        converges(&machine, "ops", &revision);

        let late = server.url("mirror");
        let urls = [late.clone(), line.url_of(&server.url("ops"))];
        pull_from_all(&machine, &server, settings, &urls);
        for behaviour in [Behaviour::Faithful, Behaviour::ResetAfter(0)] {
            line.behave(behaviour.clone());
            machine.tick().ok();
            assert_eq!(machine.head("ops"), revision, "{settings}{behaviour:?}");
            assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
            let why = reason(&machine, "ops");
            assert!(why.contains("mirror") && why.contains("lags"), "{why}");
        }
        line.behave(Behaviour::Faithful);
        machine.tick().ok();
        let reported = machine.agent(&["explain", "ops"]).ok().stdout;
        assert!(reported.contains(&format!("{late} lags behind")), "{reported}");

        // What the other one has is followed all the while.
        let newer = news(&machine, "ops", "newer");
        converges(&machine, "ops", &newer);

        // All of them went back: that is upstream's doing.
        let desk = machine.desk("ops");
        machine.git(&desk, &["push", "--quiet", "--force", "origin", &format!("{old}:main")]);
        machine.agent(&["tick", "ops"]);
        match settings {
            "" => assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops")),
            _ => assert_eq!(machine.head("ops"), old, "{:#}", machine.row("ops")),
        }
    }
}

#[test]
fn a_first_one_that_lags_takes_no_published_branch_back() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    mirror(&machine);
    let target = machine.path("sites");
    let settings = format!("mode = \"branches\"\ntarget = {target:?}\n");
    let (first, second) = (server.url("ops"), server.url("mirror"));
    pull_from_all(&machine, &server, &settings, &[first.clone(), second.clone()]);
    news(&machine, "ops", "new");
    let shown = || std::fs::read_to_string(target.join("main/page")).unwrap_or_default();
    machine.tick().ok();
    assert_eq!(shown(), "new", "{:#}", machine.row("ops"));
    pull_from_all(&machine, &server, &settings, &[second, first]);
    machine.tick().ok();
    assert_eq!(shown(), "new", "{:#}", machine.row("ops"));
    news(&machine, "ops", "newer");
    machine.tick().ok();
    assert_eq!(shown(), "newer", "{:#}", machine.row("ops"));
}
