//! Damage in `.git`: it is seen, repaired under the lock from what else is known, or a person is told
//! what to do. The files of the worktree stay as they are.

use std::fs;
use std::path::Path;

use pmpy::domain::repository::decision::Plan;

use crate::machine::{Machine, NAME, WORK, says};
use crate::sandbox::NOTES_ITS_RUNS;

tests![
    a_torn_branch_is_seen_and_put_back_from_its_log,
    a_torn_head_is_put_on_its_branch_again,
    a_torn_index_is_made_anew,
    a_torn_config_is_written_anew_only_where_a_url_is_configured,
    a_lost_object_is_fetched_again,
    a_lost_local_commit_is_beyond_repair_and_says_how_to_bring_it_back,
];

/// Deployed twice, the second revision fetched by the agent.
fn deployed() -> Machine {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    machine.pushed("page", "two");
    machine.tick();
    machine.is("current");
    machine
}

/// Makes `file` of `.git` what a power cut may leave of it.
fn tear(machine: &Machine, file: &str) {
    let file = machine.clone_of(NAME).join(".git").join(file);
    // A clone of a path shares its objects with the server: that file stays.
    fs::remove_file(&file).unwrap();
    fs::write(file, "").unwrap();
}

/// One or two ticks later all is as it was, and no script has run again.
#[track_caller]
fn heals(machine: &Machine, file: &str) {
    let (at, runs) = (machine.at(), machine.runs());
    tear(machine, file);
    machine.tick();
    machine.tick();
    assert_eq!((machine.at(), machine.runs()), (at, runs));
    assert_eq!(machine.file("page").as_deref(), Some("two"));
    let tip = machine.pushed("page", "three");
    machine.tick();
    machine.tick();
    machine.is("current");
    assert_eq!((machine.deployed_at(), machine.differences(NAME)), (Some(tip), String::new()));
}

fn a_torn_branch_is_seen_and_put_back_from_its_log() {
    let machine = deployed();
    let at = machine.at();
    tear(&machine, "refs/heads/main");
    let (kind, reason) = machine.fault();
    assert_eq!(kind, "damaged");
    says(&reason, &["refs/heads/main"]);
    let report = machine.tick();
    assert_eq!(report.decisions, [(NAME.to_owned(), Plan::Recover)]);
    assert_eq!(machine.at(), at);
    let quarantine = machine.private(NAME, "quarantine");
    assert!(!machine.files_below(&quarantine).is_empty(), "the torn file is not kept");
    heals(&machine, "refs/heads/main");
}

fn a_torn_head_is_put_on_its_branch_again() {
    heals(&deployed(), "HEAD");
}

fn a_torn_index_is_made_anew() {
    heals(&deployed(), "index");
}

fn a_torn_config_is_written_anew_only_where_a_url_is_configured() {
    let machine = deployed();
    tear(&machine, "config");
    machine.tick();
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!(state, "broken");
    says(&reason, &["config", "printf"]);

    let machine = deployed();
    machine.set(&format!("url = \"{}\"", machine.server(NAME).display()));
    heals(&machine, "config");
}

/// The loose object or the newest pack that holds `id`.
fn tear_object(machine: &Machine, id: &str) {
    let objects = machine.clone_of(NAME).join(".git/objects");
    let loose = format!("objects/{}/{}", &id[..2], &id[2..]);
    if objects.parent().unwrap().join(&loose).exists() {
        return tear(machine, &loose);
    }
    let packs = machine.files_below(&objects.join("pack"));
    let is_pack = |file: &&std::path::PathBuf| file.extension().is_some_and(|it| it == "pack");
    for pack in packs.iter().filter(is_pack) {
        tear(machine, Path::new("objects/pack").join(pack).to_str().unwrap());
    }
}

fn a_lost_object_is_fetched_again() {
    let machine = deployed();
    let (at, runs) = (machine.at(), machine.runs());
    tear_object(&machine, &at.to_string());
    let tip = machine.pushed("page", "three");
    machine.tick();
    machine.tick();
    machine.is("current");
    assert_eq!((machine.deployed_at(), machine.runs().len()), (Some(tip), runs.len() + 2));
    machine.git(&machine.clone_of(NAME), &["fsck", "--no-dangling"]);
}

fn a_lost_local_commit_is_beyond_repair_and_says_how_to_bring_it_back() {
    let machine = deployed();
    let local = machine.commit_here("mine", "mine");
    machine.tick();
    tear_object(&machine, &local.to_string());
    machine.tick();
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!(state, "broken", "{reason}");
    says(&reason, &["git -C", "reset"]);
    assert_eq!(machine.file("mine").as_deref(), Some("mine"));
}
