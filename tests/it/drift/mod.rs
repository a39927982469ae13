//! Drift through the binary: files that are changed on the machine, what is said about them, and what a repair does.

mod diff;
mod kills;
mod published;
mod repair;
mod report;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, text};

/// Notes each run with its trigger and the changed paths.
const WORK: &str = "\
changed=$(tr '\\0' ' ' < \"$AGENT_CHANGED\")
echo \"$AGENT_TRIGGER $changed\" >> \"$AGENT_ROOT/../runs\"
";

/// The files of `ops`.
const FILES: [(&str, &str); 4] = [
    ("work.sh", WORK),
    ("etc/nginx.conf", "listen 80\n"),
    ("etc/ssl/key", "key\n"),
    ("version.txt", "1\n"),
];

/// A machine that applied `ops` with these keys.
fn machine(keys: &str) -> Sandbox {
    let machine = Sandbox::new();
    machine.serve("ops", &FILES);
    set(&machine, keys);
    machine.tick().ok();
    assert_eq!(machine.runs(), ["bootstrap etc/nginx.conf etc/ssl/key version.txt work.sh "]);
    machine
}

fn set(machine: &Sandbox, keys: &str) {
    machine.configure(&format!("[repo.ops]\nurl = {:?}\n{keys}", machine.server("ops")));
}

/// The path of a file in the clone.
fn file(machine: &Sandbox, path: &str) -> PathBuf {
    machine.clone_of("ops").join(path)
}

fn read(machine: &Sandbox, path: &str) -> String {
    fs::read_to_string(file(machine, path)).unwrap()
}

fn write(machine: &Sandbox, path: &str, content: &str) {
    fs::write(file(machine, path), content).unwrap();
}

/// Lets three hours pass since the last action and the last look, as far as the records of drift tell. The program was
/// installed just now, so a machine that never looked gets an empty look.
pub fn let_hours_pass(machine: &Sandbox) {
    let last = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    if last.exists() {
        Ran::of(machine.command("touch").args(["-d", "3 hours ago", text(&last)])).ok();
    }
    let state = machine.private("ops", "state");
    let mut known: Value = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    let now = chrono::Utc::now();
    if known["drift"].is_null() {
        known["drift"] = serde_json::json!({"revision": null, "at": now, "files": 0});
    }
    for place in ["/drift/at", "/written"] {
        let Some(at) = known.pointer_mut(place).filter(|at| at.is_string()) else { continue };
        let was: chrono::DateTime<chrono::Utc> = at.as_str().unwrap().parse().unwrap();
        *at = Value::String((was - chrono::Duration::hours(3)).to_rfc3339());
    }
    fs::write(&state, known.to_string()).unwrap();
}

/// A tick after three hours.
fn later(machine: &Sandbox) -> Ran {
    let_hours_pass(machine);
    machine.tick().ok()
}

fn reason(machine: &Sandbox) -> String {
    machine.row("ops")["reason"].as_str().unwrap_or_default().to_owned()
}

fn drifted(machine: &Sandbox) -> u64 {
    machine.row("ops")["drifted"]["files"].as_u64().unwrap()
}
