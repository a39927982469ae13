//! Health and the way back through the binary: which release is bad, where the machine goes back to, and that what is
//! live is what the worktree or the target holds.

mod checks;
mod ended;
mod failures;
mod kills;
mod refs;
mod users;
mod way_back;

use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, text, write_program};

/// Puts `page` live, and says who called it with what.
const WORK: &str = "\
cp page \"$AGENT_ROOT/../live\"
changed=$(tr '\\0' ' ' < \"$AGENT_CHANGED\")
echo \"$AGENT_TRIGGER $AGENT_REVISION ${AGENT_FAILED:-none} $changed\" >> \"$AGENT_ROOT/../runs\"
";

/// Is well unless the page that is live is bad; notes each call.
const IS_WELL: &str = "#!/bin/sh\n\
    echo \"$AGENT_TRIGGER $AGENT_REVISION $PWD\" >> \"$AGENT_ROOT/../checks\"\n\
    grep -q bad \"$AGENT_ROOT/../live\" || exit 0\n\
    echo 'the page is bad'\n\
    exit 1\n";

/// The keys of a check by a program of the machine, which goes back.
fn goes_back(machine: &Sandbox) -> String {
    format!(
        "health = [{:?}]\nhealth_within = \"1s\"\non_failure = \"rollback\"\n",
        program(machine)
    )
}

/// The program of the machine that checks.
fn program(machine: &Sandbox) -> String {
    let file = machine.path("is-well");
    write_program(&file, IS_WELL);
    text(&file).to_owned()
}

/// A machine that applied the first release of `ops`, in a mode with its keys, and its revision.
fn machine(mode: &str, keys: &str) -> (Sandbox, String) {
    let machine = Sandbox::new();
    let first = machine.serve("ops", &[("page", "one\n"), ("work.sh", WORK)]);
    set(&machine, mode, keys);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops").as_deref(), Some(first.as_str()));
    (machine, first)
}

fn set(machine: &Sandbox, mode: &str, keys: &str) {
    let url = machine.server("ops");
    let target = match mode {
        "checkout" => {
            format!("target = {:?}\nafter = [\"sh\", \"work.sh\"]\n", machine.path("site"))
        }
        _ => String::new(),
    };
    machine.configure(&format!(
        "[repo.ops]\nurl = {:?}\nbranch = \"main\"\nmode = \"{mode}\"\n{target}{}{keys}",
        text(&url),
        goes_back(machine)
    ));
}

/// The page that is live, and the one that the worktree or the target holds.
fn pages(machine: &Sandbox) -> (String, String) {
    let site = machine.path("site");
    let place = if site.exists() { site } else { machine.clone_of("ops") };
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    (read(machine.path("live")), read(place.join("page")))
}

#[track_caller]
fn assert_live(machine: &Sandbox, page: &str) {
    assert_eq!(pages(machine), (format!("{page}\n"), format!("{page}\n")));
}

fn lines(machine: &Sandbox, file: &str) -> Vec<String> {
    let text = fs::read_to_string(machine.path(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Asserts that the machine is back at `good` from `bad`, and says so everywhere.
#[track_caller]
fn assert_rolled_back(machine: &Sandbox, bad: &str, good: &str) -> Value {
    let row = machine.row("ops");
    assert_eq!(row["state"], "rolled-back", "{row:#}");
    assert_eq!(row["bad"], bad);
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.starts_with(&bad[..7]), "{reason}");
    assert!(reason.contains(&format!("; back at {} since ", &good[..7])), "{reason}");
    assert!(reason.ends_with("; waits for a newer revision"), "{reason}");
    assert_eq!(machine.lastaction("ops").as_deref(), Some(good));
    assert_eq!(marks(machine), [bad]);
    row
}

/// The revisions that are marked as bad.
fn marks(machine: &Sandbox) -> Vec<String> {
    let format = "--format=%(refname:lstrip=3)";
    let refs = machine.git(&machine.clone_of("ops"), &["for-each-ref", format, "refs/pmpy/bad"]);
    refs.lines().map(str::to_owned).collect()
}
