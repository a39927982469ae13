//! Several URLs for one repository: the first that answers counts, and one that lags never moves a
//! machine back.

use crate::sandbox::{Sandbox, text};
use crate::servers::{Behaviour, Face, Https, Proxy};

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

/// Brings the mirror up to date.
fn mirror(machine: &Sandbox) {
    let (server, mirror) = (machine.server("ops"), machine.server("mirror"));
    let folder = machine.path("");
    if mirror.exists() {
        machine.git(&mirror, &["fetch", "--quiet", "--prune", "origin"]);
    } else {
        machine.git(&folder, &["clone", "--quiet", "--mirror", text(&server), text(&mirror)]);
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
