//! The agent with servers and proxies that others wrote, and what it costs them. A stage of its own of
//! tests/run: each test does all that a repository goes through, on one server.

mod servers;

use std::fs;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};

use servers::Route;

/// The page with a row for each server.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/servers.md");

/// The requests of one tick.
#[derive(Debug, PartialEq, Eq)]
struct Costs {
    idle: u64,
    change: u64,
}

/// A machine, and a server with the repositories of [`everything_works`].
fn machine() -> Sandbox {
    let machine = Sandbox::new();
    machine.serve("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    for name in ["site", "tags", "short"] {
        machine.serve(name, &[("page", "old")]);
    }
    let empty = machine.server("empty");
    machine.git(
        &machine.path(""),
        &["init", "--quiet", "--bare", "--initial-branch=main", text(&empty)],
    );
    for target in ["branches", "versions"] {
        fs::create_dir(machine.path(target)).unwrap();
    }
    machine
}

/// Everything that a repository goes through, on the way of `route`; and the costs are those in the page.
#[track_caller]
fn everything_works(route: impl FnOnce(&Sandbox) -> Route) {
    let machine = machine();
    let route = route(&machine);
    machine.configure(&format!("[defaults]\nbranch = \"main\"\n{}", route.settings));
    let init = machine.agent(&["init", &(route.url)("ops"), "--schedule", "none"]);
    if !route.breaks_at_first {
        init.ok();
    }
    wait_until("it is current", || {
        let is_current = machine.state("ops") == "current";
        if !is_current {
            machine.tick();
        }
        is_current || !route.breaks_at_first
    });
    assert_eq!(machine.state("ops"), "current", "{}: {:#}", route.name, machine.row("ops"));
    let costs = costs(&machine, &route);
    branch_goes_and_comes_back(&machine);
    a_forced_push_is_refused_and_accepted(&machine);
    others_are_followed(&machine, &route);
    let row = format!("| {} | {} | {} | {} |", route.name, route.version, costs.idle, costs.change);
    let page = fs::read_to_string(PAGE).unwrap();
    assert!(page.contains(&row), "docs/servers.md does not have the row\n{row}");
}

/// `name` comes to `revision` in one tick.
#[track_caller]
fn comes_to(machine: &Sandbox, name: &str, revision: &str) {
    machine.tick().ok();
    assert_eq!(machine.lastaction(name).as_deref(), Some(revision), "{:#}", machine.row(name));
    assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
}

fn costs(machine: &Sandbox, route: &Route) -> Costs {
    // What was found out is used from the second poll on.
    machine.tick().ok();
    (route.take_requests)();
    machine.tick().ok();
    let idle = (route.take_requests)();
    let revision = machine.push("ops", &[("page", "new")]);
    comes_to(machine, "ops", &revision);
    Costs { idle, change: (route.take_requests)() }
}

fn branch_goes_and_comes_back(machine: &Sandbox) {
    let (server, good) = (machine.server("ops"), machine.lastaction("ops"));
    machine.git(&server, &["branch", "-m", "main", "aside"]);
    for _ in 0..2 {
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), good, "{:#}", machine.row("ops"));
        assert_ne!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    }
    machine.git(&server, &["branch", "-m", "aside", "main"]);
    comes_to(machine, "ops", &good.unwrap());
}

fn a_forced_push_is_refused_and_accepted(machine: &Sandbox) {
    let desk = machine.desk("ops");
    machine.git(&desk, &["commit", "--amend", "--quiet", "--message", "Another"]);
    machine.git(&desk, &["push", "--quiet", "--force", "origin", "main"]);
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
    let revision = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.agent(&["accept", "ops", &revision]).ok();
    comes_to(machine, "ops", &revision);
}

/// Repositories in other modes: empty at first, cut short, every branch, every tag.
fn others_are_followed(machine: &Sandbox, route: &Route) {
    let target = |name| machine.path(name);
    let url = |name| (route.url)(name);
    machine.configure(&format!(
        "[defaults]\nbranch = \"main\"\n{}[repo.empty]\nurl = {:?}\n\
         [repo.short]\nurl = {:?}\ndepth = 1\n\
         [repo.site]\nurl = {:?}\nmode = \"branches\"\ntarget = {:?}\n\
         [repo.tags]\nurl = {:?}\nmode = \"tags\"\ntarget = {:?}\n",
        route.settings,
        url("empty"),
        url("short"),
        url("site"),
        target("branches"),
        url("tags"),
        target("versions"),
    ));
    machine.tick().ok();
    wait_until("each repository is polled", || {
        let is_polled = ["empty", "short", "site", "tags"]
            .iter()
            .all(|name| machine.state(name) != "unreachable");
        if !is_polled {
            machine.tick();
        }
        is_polled || !route.breaks_at_first
    });
    assert_eq!(machine.state("empty"), "new", "{:#}", machine.row("empty"));
    let count = || machine.git(&machine.clone_of("short"), &["rev-list", "--count", "HEAD"]);
    assert_eq!(count(), "1");
    let page = |place: &str| fs::read_to_string(machine.path(place).join("page")).ok();
    assert_eq!(page("branches/main").as_deref(), Some("old"), "{:#}", machine.row("site"));

    let desk = machine.desk("empty");
    machine.git(&machine.path(""), &["init", "--quiet", "--initial-branch=main", text(&desk)]);
    machine.git(&desk, &["remote", "add", "origin", text(&machine.server("empty"))]);
    let first = machine.push("empty", &[("page", "first")]);
    machine.push("short", &[("page", "new")]);
    machine.push("site", &[("page", "new")]);
    machine.git(&machine.desk("site"), &["push", "--quiet", "origin", "main:feature"]);
    machine.git(&machine.desk("tags"), &["tag", "v1"]);
    machine.git(&machine.desk("tags"), &["tag", "--annotate", "--message", "Two", "v2"]);
    machine.git(&machine.desk("tags"), &["push", "--quiet", "--tags", "origin"]);
    comes_to(machine, "empty", &first);
    // dulwich answers 500 to each fetch into a history that is cut short, git itself included.
    if route.name != "dulwich" {
        assert_eq!(count(), "2");
    }
    for place in ["branches/main", "branches/feature"] {
        assert_eq!(page(place).as_deref(), Some("new"), "{place}: {:#}", machine.row("site"));
    }
    for place in ["versions/v1", "versions/v2"] {
        assert_eq!(page(place).as_deref(), Some("old"), "{place}: {:#}", machine.row("tags"));
    }

    machine.git(&machine.desk("site"), &["push", "--quiet", "origin", ":feature"]);
    machine.git(&machine.desk("tags"), &["push", "--quiet", "origin", ":v1"]);
    // A person's tick believes at once that a ref is gone.
    machine.agent(&["tick", "site", "tags"]).ok();
    assert_eq!((page("branches/feature"), page("versions/v1")), (None, None));
    assert_eq!(page("versions/v2").as_deref(), Some("old"));
}

#[test]
fn apache_with_protocol_v2() {
    everything_works(servers::apache_v2);
}

#[test]
fn apache_with_protocol_v0() {
    everything_works(servers::apache_v0);
}

#[test]
fn nginx_with_tls() {
    everything_works(servers::nginx);
}

#[test]
fn dulwich() {
    everything_works(servers::dulwich);
}

#[test]
fn node_git_server() {
    everything_works(servers::node_git_server);
}

#[test]
fn gitolite_behind_apache() {
    everything_works(servers::gitolite);
}

#[test]
fn haproxy_with_two_backends() {
    everything_works(servers::haproxy);
}

#[test]
fn squid_that_connects() {
    everything_works(servers::squid_tunnel);
}

#[test]
fn squid_that_sends_requests_on() {
    everything_works(servers::squid_forward);
}
