//! Clones of other users: the file is root's or their own, and it is read as that user.

use std::fs;
use std::os::unix::fs::lchown;

use super::{list, make_key, push, set, sign_with, signers_file};
use crate::sandbox::{Sandbox, set_mode};
use crate::users::{self, give_all};

/// Who owns the clone.
const NOBODY: u32 = 65_534;
/// Another user.
const DAEMON: u32 = 1;

/// A machine whose `ops` is another user's, has applied its first revision, and is judged from then on.
fn machine() -> Sandbox {
    let machine = users::machine("true\n");
    machine.tick().ok();
    for key in ["ann", "eve"] {
        make_key(&machine, key, &["-t", "ed25519"]);
    }
    list(&machine, &["ann"]);
    set(&machine, "");
    machine
}

/// Pushes what this key signed, as the owner of the server would have received it.
fn received(machine: &Sandbox, key: Option<&str>, page: &str) -> String {
    sign_with(machine, key);
    let revision = push(machine, key, page);
    give_all(&machine.server("ops"), NOBODY);
    revision
}

#[track_caller]
fn assert_state(machine: &Sandbox, state: &str, reason: &str) {
    let row = machine.row("ops");
    assert_eq!(row["state"], state, "{row:#}");
    assert!(row["reason"].as_str().unwrap_or_default().contains(reason), "{row:#}");
}

#[test]
fn the_file_is_roots_or_the_users_own_and_read_as_that_user() {
    let machine = machine();
    let file = signers_file(&machine);
    let first = received(&machine, Some("ann"), "1");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(first));
    lchown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    let second = received(&machine, Some("ann"), "2");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(second.clone()));
    received(&machine, Some("eve"), "3");
    machine.tick().exits(1);
    assert_state(&machine, "refused", "does not list");
    // Whom it belongs to could write it.
    lchown(&file, Some(DAEMON), Some(DAEMON)).unwrap();
    machine.tick().exits(1);
    assert_state(&machine, "broken", "allowed_signers");
    lchown(&file, Some(0), Some(0)).unwrap();
    set_mode(&file, 0o600);
    machine.tick().exits(1);
    assert_state(&machine, "broken", "signers");
    assert_eq!(machine.lastaction("ops"), Some(second));
    assert!(!fs::exists(machine.clone_of("ops").join("3")).unwrap());
}
