//! A followed tag over the protocols of git: what a poll costs, old servers, mirrors, depth.

use super::{annotated, machine, move_tag, release};
use crate::sandbox::{Sandbox, text};
use crate::servers::{Daemon, Https};

/// From now on `ops` is pulled from `urls`, over https from `server`.
fn pull(machine: &Sandbox, server: &Https, urls: &[String], keys: &str) {
    machine.configure(&format!(
        "[defaults]\nca_file = {:?}\n[repo.ops]\nurl = {urls:?}\n{keys}\n",
        server.ca_file()
    ));
}

#[test]
fn a_poll_for_tags_is_one_request_and_brings_the_commit_behind_an_annotated_one() {
    let machine = machine("");
    release(&machine, "v1.9");
    let newest = annotated(&machine, "v1.10");
    let server = Https::of(&machine);
    pull(&machine, &server, &[server.url("ops")], "tag = \"v1.*\"");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(newest));
    machine.tick().ok();
    server.forget_requests();
    machine.tick().ok();
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    let next = annotated(&machine, "v1.11");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(next));
    machine.git(&machine.clone_of("ops"), &["fsck", "--full", "--strict"]);
}

#[test]
fn old_servers_and_the_git_daemon_are_asked_for_tags_too() {
    let machine = machine("");
    release(&machine, "v1.9");
    annotated(&machine, "v1.10");
    let (server, daemon) = (Https::of(&machine), Daemon::of(&machine));
    for url in [server.url_at("v0/", "ops"), daemon.url("ops")] {
        pull(&machine, &server, std::slice::from_ref(&url), "insecure = true\ntag = \"v1.*\"");
        let next = annotated(&machine, if url.starts_with("git:") { "v1.12" } else { "v1.11" });
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(next), "{url}");
        let moved = move_tag(&machine, "v1.9");
        machine.tick().ok();
        assert_ne!(machine.lastaction("ops"), Some(moved), "an older tag does not matter");
    }
}

#[test]
fn a_plain_web_server_lists_its_tags() {
    let machine = machine("");
    annotated(&machine, "v1.10");
    machine.git(&machine.server("ops"), &["update-server-info"]);
    let server = Https::of(&machine);
    pull(&machine, &server, &[server.url("ops")], "tag = \"v1.*\"");
    machine.tick().ok();
    pull(&machine, &server, &[server.url_at("dumb/", "ops")], "tag = \"v1.*\"");
    machine.git(&machine.server("ops"), &["update-server-info"]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    annotated(&machine, "v1.11");
    machine.git(&machine.server("ops"), &["update-server-info"]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "denied", "{:#}", machine.row("ops"));
}

#[test]
fn a_mirror_that_lacks_the_newest_tag_never_moves_a_machine_back() {
    let machine = machine("");
    release(&machine, "v1.9");
    let (server, mirror) = (machine.server("ops"), machine.path("server/mirror.git"));
    machine.git(&machine.path(""), &["clone", "--quiet", "--mirror", text(&server), text(&mirror)]);
    let newest = release(&machine, "v1.10");
    let urls = [text(&server).to_owned(), text(&mirror).to_owned()];
    machine.configure(&format!("[repo.ops]\nurl = {urls:?}\ntag = \"v1.*\"\n"));
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(newest.clone()));
    std::fs::rename(&server, machine.path("away")).unwrap();
    machine.tick().ok();
    assert_eq!((machine.state("ops").as_str(), machine.head("ops")), ("current", newest));
    let reason = super::reason(&machine);
    assert!(reason.contains("lags behind"), "{reason}");
}

#[test]
fn a_shallow_clone_follows_tags() {
    let machine = machine("");
    for tag in ["v1.0", "v1.1", "v1.2"] {
        annotated(&machine, tag);
    }
    let server = Https::of(&machine);
    pull(&machine, &server, &[server.url("ops")], "depth = 1\ntag = \"v1.*\"");
    machine.tick().ok();
    let count = || machine.git(&machine.clone_of("ops"), &["rev-list", "--count", "HEAD"]);
    assert_eq!(count(), "1");
    let pushed: [fn(&Sandbox) -> String; 2] =
        [|machine| annotated(machine, "v1.3"), |machine| super::beside(machine, "v1.4")];
    for push in pushed {
        let next = push(&machine);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(next));
        machine.git(&machine.clone_of("ops"), &["fsck", "--full"]);
    }
}

#[test]
fn a_revision_is_fetched_by_its_id_over_https() {
    let machine = machine("");
    let wanted = machine.push("ops", &[("page", "wanted\n")]);
    machine.push("ops", &[("page", "newer\n")]);
    let server = Https::of(&machine);
    pull(&machine, &server, &[server.url("ops")], &format!("revision = {wanted:?}"));
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(wanted.clone()));
    machine.tick().ok();
    server.forget_requests();
    machine.tick().ok();
    assert_eq!(server.requests().len(), 1);
    // Where a server gives no hidden objects, it comes with the refs.
    let old = Sandbox::new();
    old.serve("ops", &[("page", "x\n")]);
    let wanted = old.push("ops", &[("page", "wanted\n")]);
    old.push("ops", &[("page", "newer\n")]);
    let server = Https::of(&old);
    pull(&old, &server, &[server.url_at("v0/", "ops")], &format!("revision = {wanted:?}"));
    old.tick();
    assert_eq!(old.lastaction("ops"), Some(wanted), "{:#}", old.row("ops"));
}
