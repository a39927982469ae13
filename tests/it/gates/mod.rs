//! Gates through the binary: when a revision may be applied, who passes what, and that a machine which waits does
//! not change.

mod before;
#[cfg(feature = "servers")]
mod canaries;
mod passed;
mod waits;

use std::fs;

use crate::sandbox::{Sandbox, text};

/// Each action writes a line into `DIR/runs`.
const WORK: &str = "echo \"$AGENT_REVISION $AGENT_TRIGGER\" >> \"$AGENT_ROOT/../runs\"\n\
                    [ ! -e \"$AGENT_ROOT/../bad\" ] || exit 3\n";

/// A window that is open on no day of this century any more; it may have been right when it was written.
const SHUT: &str = "window = [\"2001-01-01\"]";

/// A machine that has applied the first revision of `ops`, and whose gates are `keys` from then on.
fn machine(keys: &str) -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", WORK)]);
    machine.tick().ok();
    set(&machine, keys);
    machine
}

fn set(machine: &Sandbox, keys: &str) {
    machine.configure(&format!("[repo.ops]\n{keys}\n"));
}

/// Lets the newest revision of `ops` have been seen so many minutes earlier, and with it all that wait.
fn seen_earlier(machine: &Sandbox, minutes: u64) {
    let file = machine.private("ops", "state");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let waited = &mut state["sight"]["waited"]["secs"];
    assert!(waited.is_number(), "nothing waits: {state:#}");
    *waited = (waited.as_u64().unwrap() + minutes * 60).into();
    fs::write(file, state.to_string()).unwrap();
}

/// What is in the worktree and in the refs of `ops`, and which scripts ran.
fn live(machine: &Sandbox) -> (String, Vec<String>, Option<String>) {
    let clone = machine.clone_of("ops");
    let refs =
        machine.git(&clone, &["for-each-ref", "refs/heads", "refs/pmpy/acted", "refs/pmpy/saved"]);
    let files = machine.files_below(&clone);
    let files = files.iter().filter(|file| !file.starts_with(".git")).map(|it| text(it).to_owned());
    (refs, files.chain(machine.runs()).collect(), machine.lastaction("ops"))
}

#[track_caller]
fn assert_waits(machine: &Sandbox, reason: &str) {
    let row = machine.row("ops");
    assert_eq!(row["state"], "behind", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains(reason), "{row:#}");
}

#[track_caller]
fn assert_applied(machine: &Sandbox, revision: &str) {
    assert_eq!(machine.lastaction("ops").as_deref(), Some(revision));
    assert_eq!(machine.state("ops"), "current");
}
