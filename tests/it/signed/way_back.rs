//! Signatures and the way back: it leads to what was accepted here, and what follows it has to be signed.

use super::{assert_refused, machine, push, set};
use crate::sandbox::{text, write_program};

#[test]
fn what_was_accepted_here_is_gone_back_to_and_a_fix_that_is_not_signed_is_refused() {
    let machine = machine(&["ann"]);
    let check = machine.path("is-well");
    write_program(&check, "#!/bin/sh\n[ ! -e bad ]\n");
    set(
        &machine,
        &format!(
            "health = [{:?}]\nhealth_within = \"1s\"\non_failure = \"rollback\"",
            text(&check)
        ),
    );
    // The first revision was applied before signatures counted, and is not signed.
    let first = machine.lastaction("ops").unwrap();
    let bad = push(&machine, Some("ann"), "bad");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!((&row["state"], &row["bad"]), (&"rolled-back".into(), &bad.into()), "{row:#}");
    assert_eq!(machine.lastaction("ops"), Some(first.clone()));
    std::fs::remove_file(machine.desk("ops").join("bad")).unwrap();
    push(&machine, None, "fix");
    assert_refused(&machine, "is not signed");
    assert_eq!(machine.lastaction("ops"), Some(first));
}
