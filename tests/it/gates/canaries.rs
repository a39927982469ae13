//! `canaries`: a revision waits until other machines have it and are well. What they publish is made by git itself.

use std::fs;

use pmpy::domain::report::presence::world_name;
use serde_json::{Value, json};

use super::{WORK, assert_applied, assert_waits};
use crate::fleet::{self, Status};
use crate::presence;
use crate::sandbox::{Sandbox, text};
use crate::servers::Https;
use crate::users;

/// A machine `web01` that has applied the first revision of `ops`, and from then on waits for `canary*`.
fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", WORK)]);
    machine.tick().ok();
    machine
}

fn configure(machine: &Sandbox, name: &str, url: &str, keys: &str) {
    machine.configure(&format!(
        "[node]\nname = {name:?}\n[presence]\nurl = {url:?}\nevery = \"0s\"\n\
         [repo.ops]\ncanaries = [\"canary*\"]\n{keys}\n"
    ));
}

/// What a canary with the same root has of `ops`.
fn publish(status: &Status, machine: &Sandbox, host: &str, state: &str, upstream: &str) {
    let root = machine.root();
    let world = world_name("root", root.as_os_str().as_encoded_bytes());
    let mut row = fleet::row(state, upstream);
    row["upstream"] = json!(upstream);
    let mut said: Value = fleet::presence(host, json!([row]));
    (said["user"], said["world"]) = (json!("root"), json!(world));
    let name = format!("{host}/root/{world}/state");
    status.put(&name, "status.json", said.to_string().as_bytes());
}

/// One tick, and the publication that it begins.
fn tick(machine: &Sandbox) {
    machine.tick();
    presence::settles(machine);
}

/// The ticks after which a new revision has been seen, and the canaries were looked at.
fn ticks(machine: &Sandbox) {
    tick(machine);
    tick(machine);
}

#[test]
fn a_revision_is_applied_when_every_canary_has_it() {
    let machine = machine();
    let status = Status::on(&machine);
    let old = machine.head("ops");
    configure(&machine, "web01", text(&status.path), "");
    publish(&status, &machine, "canary1", "current", &old);
    publish(&status, &machine, "canary2", "current", &old);
    let revision = machine.push("ops", &[("page", "new")]);
    ticks(&machine);
    assert_waits(&machine, "waits for canary canary1: current at ");
    assert_eq!(machine.row("ops")["gate"]["gate"], "canaries");
    publish(&status, &machine, "canary1", "current", &revision);
    tick(&machine);
    assert_waits(&machine, "waits for canary canary2: current at ");
    assert!(machine.agent(&["explain", "ops"]).stdout.contains("canaries"));
    publish(&status, &machine, "canary2", "ahead", &revision);
    tick(&machine);
    assert_applied(&machine, &revision);
}

#[test]
fn one_that_fails_stops_the_others_and_one_that_is_held_or_silent_is_left_out_by_name() {
    let machine = machine();
    let status = Status::on(&machine);
    configure(&machine, "web01", text(&status.path), "");
    let revision = machine.push("ops", &[("page", "new")]);
    publish(&status, &machine, "canary1", "failing", &revision);
    publish(&status, &machine, "canary2", "held", &revision);
    ticks(&machine);
    assert_waits(&machine, "waits for canary canary1: failing at ");
    assert_waits(&machine, "left out: canary2 (held)");
    publish(&status, &machine, "canary1", "pinned", &revision);
    tick(&machine);
    assert_waits(&machine, "none is left");
    let fixed = machine.push("ops", &[("page", "fixed")]);
    publish(&status, &machine, "canary1", "current", &fixed);
    ticks(&machine);
    assert_applied(&machine, &fixed);
}

#[test]
fn a_canary_is_at_the_revision_when_it_is_at_a_descendant() {
    let machine = machine();
    let status = Status::on(&machine);
    configure(&machine, "web01", text(&status.path), "min_age = \"1h\"");
    let first = machine.push("ops", &[("page", "one")]);
    publish(&status, &machine, "canary1", "current", &first);
    ticks(&machine);
    let second = machine.push("ops", &[("page", "two")]);
    publish(&status, &machine, "canary1", "current", &second);
    ticks(&machine);
    let explained = machine.agent(&["explain", "ops"]).stdout;
    assert!(explained.contains("canary1 has it"), "{explained}");
    assert_waits(&machine, "applied at ");
}

#[test]
fn presence_that_cannot_be_read_keeps_the_machine_where_it_is_and_says_since_when() {
    let machine = machine();
    let status = Status::on(&machine);
    configure(&machine, "web01", text(&status.path), "");
    let revision = machine.push("ops", &[("page", "new")]);
    publish(&status, &machine, "canary1", "current", &revision);
    let away = status.path.with_extension("away");
    fs::rename(&status.path, &away).unwrap();
    ticks(&machine);
    assert_waits(&machine, "the canaries cannot be read since 20");
    fs::rename(&away, &status.path).unwrap();
    tick(&machine);
    assert_applied(&machine, &revision);
}

#[test]
fn a_machine_that_is_named_itself_waits_for_none_and_urgent_passes_a_dead_one() {
    let machine = machine();
    let status = Status::on(&machine);
    configure(&machine, "canary7", text(&status.path), "rollout = \"24h\"");
    let revision = machine.push("ops", &[("page", "new")]);
    ticks(&machine);
    assert_applied(&machine, &revision);
    configure(&machine, "web01", text(&status.path), "");
    machine.push("ops", &[("page", "newer")]);
    ticks(&machine);
    assert_waits(&machine, "waits for canary canary7: current at ");
    let urgent = machine.push("ops", &[(".pmpy.toml", "urgent = \"a hole\"\n")]);
    ticks(&machine);
    assert_applied(&machine, &urgent);
}

#[test]
fn a_new_machine_takes_what_a_canary_has_and_does_not_wait_for_the_others() {
    let machine = Sandbox::new();
    let revision = machine.serve("ops", &[("work.sh", WORK)]);
    let status = Status::on(&machine);
    let url = format!("url = {:?}\nmin_age = \"24h\"", text(&machine.server("ops")));
    configure(&machine, "web01", text(&status.path), &url);
    publish(&status, &machine, "canary1", "current", &revision);
    publish(&status, &machine, "canary2", "behind", &revision);
    ticks(&machine);
    assert_applied(&machine, &revision);
}

#[test]
fn the_tick_of_root_looks_at_them_for_the_clone_of_another_user() {
    let machine = users::machine("true\n");
    machine.tick().ok();
    let status = Status::on(&machine);
    configure(&machine, "web01", text(&status.path), "");
    let revision = users::push(&machine, &[("page", "new")]);
    publish(&status, &machine, "canary1", "behind", &revision);
    ticks(&machine);
    assert_waits(&machine, "waits for canary canary1: behind at ");
    publish(&status, &machine, "canary1", "current", &revision);
    tick(&machine);
    assert_applied(&machine, &revision);
}

#[test]
fn the_status_repository_is_asked_once_a_tick_and_only_while_a_revision_waits() {
    let machine = machine();
    let status = Status::on(&machine);
    machine.git(&status.path, &["config", "http.receivepack", "true"]);
    let server = Https::of(&machine);
    let url = server.url("status");
    let keys = format!("url = {:?}", text(&machine.server("ops")));
    let with_ca = format!("ca_file = {:?}\n", server.ca_file());
    configure(&machine, "web01", &url, &keys);
    let file = machine.root().join(".pmpy/agent.toml");
    let toml = fs::read_to_string(&file).unwrap();
    machine.configure(&toml.replace("every = \"0s\"\n", &format!("every = \"0s\"\n{with_ca}")));
    let asked = || {
        server.forget_requests();
        tick(&machine);
        let reads = server.requests().into_iter().filter(|it| it.uri.contains("git-upload-pack"));
        reads.count()
    };
    ticks(&machine);
    assert_eq!(asked(), 0, "nothing waits");
    let revision = machine.push("ops", &[("page", "new")]);
    publish(&status, &machine, "canary1", "behind", &revision);
    ticks(&machine);
    assert_waits(&machine, "waits for canary canary1");
    assert_eq!(asked(), 1);
    publish(&status, &machine, "canary1", "current", &revision);
    assert_eq!(asked(), 2, "the list, and what moved");
    assert_applied(&machine, &revision);
    assert_eq!(asked(), 0);
}
