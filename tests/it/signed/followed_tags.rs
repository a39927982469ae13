//! Signed tags: the way for those who use the merge button of a forge.

use super::{
    assert_applied, assert_refused, commit, fingerprint, machine, push, push_head, set, sign_with,
};
use crate::sandbox::Sandbox;

/// Makes a tag at the desk's HEAD, signed by this key, and pushes it.
fn tag(machine: &Sandbox, key: Option<&str>, name: &str) {
    let desk = machine.desk("ops");
    sign_with(machine, key);
    let kind = if key.is_some() { "-s" } else { "-a" };
    machine.git(&desk, &["tag", kind, "-m", "A release", name]);
    machine.git(&desk, &["push", "--quiet", "--force", "--tags", "origin"]);
}

#[test]
fn a_signed_tag_suffices_whoever_made_the_commits() {
    let machine = machine(&["ann"]);
    set(&machine, "tag = \"v1.*\"");
    let revision = push(&machine, None, "1");
    tag(&machine, Some("ann"), "v1.1");
    assert_applied(&machine, &revision);
    assert_eq!(machine.row("ops")["acted"]["signer"]["fingerprint"], fingerprint(&machine, "ann"));
    push(&machine, Some("ann"), "2");
    tag(&machine, None, "v1.2");
    assert_refused(&machine, "the tag v1.2 is not signed");
    push(&machine, Some("ann"), "3");
    tag(&machine, Some("eve"), "v1.3");
    assert_refused(&machine, "the tag v1.3 is signed by SHA256:");
}

#[test]
fn a_tag_counts_under_its_own_name_alone() {
    let machine = machine(&["ann"]);
    set(&machine, "tag = \"v1.*\"");
    let desk = machine.desk("ops");
    let old = push(&machine, None, "1");
    tag(&machine, Some("ann"), "v1.1");
    assert_applied(&machine, &old);
    let new = push(&machine, None, "2");
    tag(&machine, Some("ann"), "v1.2");
    assert_applied(&machine, &new);
    // The signed tag of the old release, under the name of a newer one.
    machine.git(&desk, &["update-ref", "refs/tags/v1.9", "refs/tags/v1.1"]);
    machine.git(&desk, &["push", "--quiet", "--tags", "origin"]);
    assert_refused(&machine, "the tag v1.9 is a tag that was signed as v1.1");
}

#[test]
fn a_light_tag_is_judged_by_its_commit() {
    let machine = machine(&["ann"]);
    set(&machine, "tag = \"v1.*\"");
    let desk = machine.desk("ops");
    let light = |name: &str| {
        machine.git(&desk, &["tag", name]);
        machine.git(&desk, &["push", "--quiet", "--tags", "origin"]);
    };
    let signed = push(&machine, Some("ann"), "1");
    light("v1.1");
    assert_applied(&machine, &signed);
    commit(&machine, None, "2");
    push_head(&machine, "main");
    light("v1.2");
    assert_refused(&machine, "Release 2 is not signed");
}

#[test]
fn a_fixed_revision_is_judged_as_well() {
    let machine = machine(&["ann"]);
    let signed = push(&machine, Some("ann"), "1");
    let bare = push(&machine, None, "2");
    set(&machine, &format!("revision = \"{signed}\""));
    assert_applied(&machine, &signed);
    set(&machine, &format!("revision = \"{bare}\""));
    assert_refused(&machine, "Release 2 is not signed");
}
