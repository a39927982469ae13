//! Presence: what a machine publishes of itself, on real servers. Here is what its modules share.

mod kills;
mod machines;
mod refusals;
mod shown;
mod wire;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text, wait_until};

/// The name of the status repository.
const STATUS: &str = "status";

/// A machine with one current repository, and a server with an empty status repository, which takes pushes over http
/// too.
fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    serve_status(&machine, &[]);
    machine
}

/// Makes an empty status repository; `options` are of git-init(1).
fn serve_status(machine: &Sandbox, options: &[&str]) {
    let server = machine.server(STATUS);
    let line = [&["init", "--quiet", "--bare"], options, &[text(&server)]].concat();
    machine.git(&machine.path(""), &line);
    machine.git(&server, &["config", "http.receivepack", "true"]);
}

/// Lets the machine publish at `url`; `more` are other keys of `[presence]`.
fn publish_at(machine: &Sandbox, url: &str, more: &str) {
    machine.configure(&format!(
        "[node]\nname = \"web01\"\n[presence]\nurl = {url:?}\nevery = \"0s\"\n{more}\n"
    ));
}

/// The path of the status repository as its URL.
fn path_of(machine: &Sandbox) -> String {
    text(&machine.server(STATUS)).to_owned()
}

fn record_file(machine: &Sandbox) -> PathBuf {
    machine.root().join(".pmpy/presence.json")
}

/// The machine's memory of its publications; null when there is none.
fn record(machine: &Sandbox) -> Value {
    let text = fs::read(record_file(machine)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Changes the machine's memory.
fn edit_record(machine: &Sandbox, edit: impl FnOnce(&mut Value)) {
    let mut record = record(machine);
    edit(&mut record);
    fs::write(record_file(machine), record.to_string()).unwrap();
}

/// The moment to which [`pause_is_over`] sets the last attempt.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// Lets the pause between two publications pass, and makes one due.
fn pause_is_over(machine: &Sandbox) {
    if record(machine).is_object() {
        edit_record(machine, |record| {
            record["tried"] = LONG_AGO.into();
            if record["last"].is_object() {
                record["last"]["digest"] = "something else".into();
            }
        });
    }
}

/// Waits until nothing publishes for this machine any more.
pub fn settles(machine: &Sandbox) {
    let lock = machine.root().join(".pmpy/presence.lock");
    wait_until("an attempt to publish has ended", || {
        let tried = record(machine)["tried"].as_str().is_some_and(|tried| tried != LONG_AGO);
        let mut flock = machine.command("flock");
        tried && Ran::of(flock.args(["--nonblock", text(&lock), "true"])).code == Some(0)
    });
}

/// One tick after the pause, and what it starts to its end.
#[track_caller]
fn publish(machine: &Sandbox) -> Ran {
    pause_is_over(machine);
    let ran = machine.tick().ok();
    settles(machine);
    ran
}

/// The same, once it is sure that the publication was taken.
#[track_caller]
fn published(machine: &Sandbox) -> String {
    publish(machine);
    let record = record(machine);
    assert!(record["failure"].is_null() && record["contested"].is_null(), "{record:#}");
    assert!(record["sent"].is_null(), "its end is not known: {record:#}");
    let commit = record["last"]["commit"].as_str().unwrap_or_else(|| panic!("{record:#}"));
    assert_eq!(tip(machine), Some(commit.to_owned()));
    commit.to_owned()
}

/// The full name of the machine's ref.
fn own_ref(machine: &Sandbox) -> String {
    record(machine)["name"].as_str().expect("the record names the ref").to_owned()
}

/// The tip of the machine's ref at the server.
fn tip(machine: &Sandbox) -> Option<String> {
    let mut git = machine.command("git");
    let arguments = ["rev-parse", "--quiet", "--verify", &own_ref(machine)];
    let ran = Ran::of(git.current_dir(machine.server(STATUS)).args(arguments));
    (ran.code == Some(0)).then(|| ran.stdout.trim().to_owned())
}

/// Runs git in the status repository.
#[track_caller]
fn git(machine: &Sandbox, arguments: &[&str]) -> String {
    machine.git(&machine.server(STATUS), arguments)
}

/// What is published at the machine's ref.
#[track_caller]
fn publication(machine: &Sandbox) -> Value {
    let file = format!("{}:status.json", own_ref(machine));
    serde_json::from_str(&git(machine, &["cat-file", "blob", &file])).unwrap()
}

/// Why the last attempt failed.
#[track_caller]
fn reason(machine: &Sandbox) -> String {
    let record = record(machine);
    record["failure"]["reason"]
        .as_str()
        .unwrap_or_else(|| panic!("no failure: {record:#}"))
        .to_owned()
}
