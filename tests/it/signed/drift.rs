//! Repair of drift where signatures count: to the revision that was accepted here, and to no other.

use super::*;
use crate::drift::let_hours_pass;

#[test]
fn files_are_repaired_to_the_accepted_revision_while_an_unsigned_one_is_refused() {
    let machine = machine(&["ann"]);
    set(&machine, "drift = \"repair\"\n");
    sign_with(&machine, Some("ann"));
    let signed = machine.push("ops", &[("page", "signed\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(signed.clone()));
    sign_with(&machine, None);
    machine.push("ops", &[("page", "unsigned\n")]);
    let page = machine.clone_of("ops").join("page");
    fs::write(&page, "by hand\n").unwrap();
    let_hours_pass(&machine);
    machine.tick();
    assert_eq!(machine.state("ops"), "refused");
    assert_eq!(fs::read_to_string(&page).unwrap(), "signed\n");
    assert_eq!(machine.lastaction("ops"), Some(signed));
    // Another file of signers: the applied revision is judged anew, and was accepted here.
    list(&machine, &["bob"]);
    fs::write(&page, "by hand\n").unwrap();
    let_hours_pass(&machine);
    machine.tick();
    assert_eq!(fs::read_to_string(&page).unwrap(), "signed\n");
}
