//! `allowed_signers`: only what is signed is applied. Keys are made by ssh-keygen and commits are signed by git, as
//! people do it; nothing here knows how a signature is verified.

mod drift;
mod files;
mod followed_tags;
mod orders;
mod refs;
mod users;
mod way;
mod way_back;

use std::fs;
use std::path::PathBuf;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

/// A machine that has applied the first revision of `ops`, which is not signed, and from then on lets only those sign
/// whose `keys` it lists.
fn machine(keys: &[&str]) -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    for key in ["ann", "bob", "eve"] {
        make_key(&machine, key, &["-t", "ed25519"]);
    }
    list(&machine, keys);
    set(&machine, "");
    machine
}

fn make_key(machine: &Sandbox, name: &str, kind: &[&str]) {
    fs::create_dir_all(machine.path("keys")).unwrap();
    let file = machine.path("keys").join(name);
    let mut command = machine.command("ssh-keygen");
    command.args(["-q", "-N", "", "-C", "", "-f", text(&file)]).args(kind);
    Ran::of(&mut command).ok();
}

/// The public half of a key, as it is in files.
fn public(machine: &Sandbox, name: &str) -> String {
    let text = fs::read_to_string(machine.path("keys").join(format!("{name}.pub"))).unwrap();
    text.trim_end().to_owned()
}

fn fingerprint(machine: &Sandbox, name: &str) -> String {
    let file = machine.path("keys").join(format!("{name}.pub"));
    let ran = Ran::of(machine.command("ssh-keygen").args(["-l", "-f", text(&file)])).ok();
    ran.stdout.split_whitespace().nth(1).unwrap().to_owned()
}

fn signers_file(machine: &Sandbox) -> PathBuf {
    machine.path("signers")
}

/// Writes the file of the signers: a line for each key, whose options may follow its name after a blank.
fn list(machine: &Sandbox, keys: &[&str]) {
    let lines = keys.iter().map(|key| {
        let (name, options) = key.split_once(' ').unwrap_or((key, ""));
        format!("{name}@example.org {options} {}\n", public(machine, name))
    });
    fs::write(signers_file(machine), lines.collect::<String>()).unwrap();
}

/// Configures `ops` with the file of the signers and these keys.
fn set(machine: &Sandbox, keys: &str) {
    let file = signers_file(machine);
    machine.configure(&format!("[repo.ops]\nallowed_signers = {:?}\n{keys}\n", text(&file)));
}

/// From now on all that is committed at the desk is signed by this key; `None`: it is not signed.
fn sign_with(machine: &Sandbox, key: Option<&str>) {
    let desk = machine.desk("ops");
    machine.git(&desk, &["config", "gpg.format", "ssh"]);
    let is_signed = if key.is_some() { "true" } else { "false" };
    machine.git(&desk, &["config", "commit.gpgsign", is_signed]);
    if let Some(key) = key {
        let file = machine.path("keys").join(key);
        machine.git(&desk, &["config", "user.signingkey", text(&file)]);
    }
}

/// Commits a change at the desk without pushing it; the revision.
fn commit(machine: &Sandbox, key: Option<&str>, page: &str) -> String {
    sign_with(machine, key);
    let desk = machine.desk("ops");
    fs::write(desk.join(page), page).unwrap();
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "-m", &format!("Release {page}")]);
    machine.git(&desk, &["rev-parse", "HEAD"])
}

/// Commits and pushes a change; the revision.
fn push(machine: &Sandbox, key: Option<&str>, page: &str) -> String {
    let revision = commit(machine, key, page);
    push_head(machine, "main");
    revision
}

fn push_head(machine: &Sandbox, branch: &str) {
    let to = format!("HEAD:refs/heads/{branch}");
    machine.git(&machine.desk("ops"), &["push", "--quiet", "--force", "origin", &to]);
}

#[track_caller]
fn assert_applied(machine: &Sandbox, revision: &str) {
    machine.tick().ok();
    let row = machine.row("ops");
    assert_eq!(row["state"], "current", "{row:#}");
    assert_eq!(machine.lastaction("ops").as_deref(), Some(revision), "{row:#}");
}

/// A tick refuses the revision for this reason, and nothing changes.
#[track_caller]
fn assert_refused(machine: &Sandbox, reason: &str) {
    let before = (machine.head("ops"), machine.lastaction("ops"), machine.runs());
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "refused", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains(reason), "{row:#}");
    assert_eq!((machine.head("ops"), machine.lastaction("ops"), machine.runs()), before);
}
