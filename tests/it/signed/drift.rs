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

#[test]
fn releases_are_repaired_to_what_was_accepted_while_an_unsigned_one_of_their_ref_is_refused() {
    for mode in ["branches", "atomic", "tags"] {
        let machine = machine(&["ann"]);
        let target = machine.path("site");
        set(
            &machine,
            &format!("mode = \"{mode}\"\ntarget = {:?}\ndrift = \"repair\"", text(&target)),
        );
        commit(&machine, Some("ann"), "page");
        let desk = machine.desk("ops");
        let name = if mode == "tags" { "refs/tags/main" } else { "refs/heads/main" };
        let put = || {
            machine.git(&desk, &["push", "--quiet", "--force", "origin", &format!("HEAD:{name}")])
        };
        put();
        machine.tick().ok();
        commit(&machine, None, "unsigned");
        put();
        machine.tick();
        let page = match mode {
            "atomic" => machine.path("site_main/page"),
            _ => target.join("main/page"),
        };
        for keys in [&["ann"][..], &["bob"]] {
            // Another file of signers: what is applied was accepted here.
            list(&machine, keys);
            fs::write(&page, "by hand\n").unwrap();
            let_hours_pass(&machine);
            // The first of them judges what waits by that file.
            machine.tick();
            machine.tick();
            assert_eq!(machine.state("ops"), "refused", "{mode}");
            assert_eq!(fs::read_to_string(&page).unwrap(), "page", "{mode} {keys:?}");
        }
    }
}
