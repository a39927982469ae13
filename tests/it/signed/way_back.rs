//! Signatures and the way back: it leads to what was accepted here, and what follows it has to be signed.

use super::refs::{assert_ref, shown};
use super::{assert_refused, commit, machine, push, push_head, set};
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

#[test]
fn of_many_refs_each_goes_back_to_what_was_accepted_and_an_unsigned_fix_is_refused_alone() {
    let machine = machine(&["ann"]);
    let (check, target) = (machine.path("is-well"), machine.path("site"));
    write_program(&check, "#!/bin/sh\n[ ! -e bad ]\n");
    set(
        &machine,
        &format!(
            "mode = \"branches\"\ntarget = {:?}\nhealth = [{:?}]\nhealth_within = \"1s\"\n\
             on_failure = \"rollback\"",
            text(&target),
            text(&check)
        ),
    );
    push(&machine, Some("ann"), "1");
    let desk = machine.desk("ops");
    machine.git(&desk, &["switch", "--quiet", "-c", "topic"]);
    commit(&machine, Some("ann"), "topic");
    push_head(&machine, "topic");
    machine.tick().ok();
    let shows = |page: &str| shown(&machine, "topic").is_some_and(|it| it.join(page).exists());
    commit(&machine, Some("ann"), "bad");
    push_head(&machine, "topic");
    machine.tick().exits(1);
    assert_ref(&machine, "refs/heads/topic", "rolled-back", "failed its health check");
    assert!(shows("topic") && !shows("bad"));
    std::fs::remove_file(desk.join("bad")).unwrap();
    commit(&machine, None, "fix");
    push_head(&machine, "topic");
    machine.tick().exits(1);
    assert_ref(&machine, "refs/heads/topic", "refused", "is not signed");
    assert_ref(&machine, "refs/heads/main", "current", "");
    assert!(shows("topic") && !shows("fix"));
    let commit = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.agent(&["accept", "ops", &commit, "seen"]).ok();
    assert!(shows("fix"));
}
