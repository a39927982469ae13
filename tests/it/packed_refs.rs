//! Many refs written at once, as git reads them afterwards.

use std::fs;

use pmpy::domain::git::Commit;
use pmpy::system::git::Git;
use pmpy::system::git::packed_refs::RefMove;

use crate::sandbox::Sandbox;

/// A clone with a second commit and an annotated tag `old`, and its two commits.
fn clone() -> (Sandbox, [Commit; 2]) {
    let machine = Sandbox::with("ops", &[("page", "one")]);
    let clone = machine.clone_of("ops");
    let one = machine.head("ops").parse().unwrap();
    machine.git(&clone, &["tag", "-a", "-m", "a tag", "old"]);
    machine.git(&clone, &["commit", "--quiet", "--allow-empty", "--message", "two"]);
    let two = machine.head("ops").parse().unwrap();
    (machine, [one, two])
}

fn moves<const N: usize>(all: [(&str, Option<Commit>); N]) -> Vec<RefMove> {
    all.into_iter().map(|(name, to)| (name.to_owned(), to)).collect()
}

/// Every ref below `refs/remotes/origin/` and `refs/tags/`, as git tells it: its name, what it points
/// at, and what that stands for if it is a tag.
fn reported(machine: &Sandbox) -> Vec<String> {
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["fsck", "--strict"]);
    let format = "--format=%(refname) %(objectname) %(*objectname)";
    let names = ["refs/remotes/origin/", "refs/tags/"];
    let all = machine.git(&clone, &["for-each-ref", format, names[0], names[1]]);
    all.lines().filter(|line| !line.contains("/HEAD ")).map(|it| it.trim().to_owned()).collect()
}

#[test]
fn refs_that_are_packed_come_move_and_go_for_git_as_well() {
    let (machine, [one, two]) = clone();
    let clone = machine.clone_of("ops");
    let tag: Commit = machine.git(&clone, &["rev-parse", "old"]).parse().unwrap();
    machine.git(&clone, &["pack-refs", "--all"]);
    let git = Git::open(&clone).unwrap();
    let first = [
        ("refs/remotes/origin/a/b", Some(one)),
        ("refs/remotes/origin/main", Some(two)),
        ("refs/tags/new", Some(tag)),
    ];
    git.move_refs(&moves(first), "test").unwrap();
    let expected = [
        format!("refs/remotes/origin/a/b {one}"),
        format!("refs/remotes/origin/main {two}"),
        format!("refs/tags/new {tag} {one}"),
        format!("refs/tags/old {tag} {one}"),
    ];
    assert_eq!(reported(&machine), expected);
    assert!(!clone.join(".git/refs/remotes/origin/main").exists(), "it has a file of its own");
    assert_eq!(git.ref_id("refs/remotes/origin/a/b").unwrap(), Some(one));

    let gone = [("refs/remotes/origin/a/b", None), ("refs/tags/old", None)];
    git.move_refs(&moves(gone), "test").unwrap();
    git.move_refs(&moves([("refs/remotes/origin/a", Some(two))]), "test").unwrap();
    let expected = [
        format!("refs/remotes/origin/a {two}"),
        format!("refs/remotes/origin/main {two}"),
        format!("refs/tags/new {tag} {one}"),
    ];
    assert_eq!(reported(&machine), expected);
}

#[test]
fn a_ref_with_a_file_of_its_own_moves_and_goes() {
    let (machine, [one, two]) = clone();
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["update-ref", "refs/remotes/origin/own", &one.to_string()]);
    machine.git(&clone, &["pack-refs", "--all"]);
    machine.git(&clone, &["update-ref", "refs/remotes/origin/own", &two.to_string()]);
    let git = Git::open(&clone).unwrap();
    let name = "refs/remotes/origin/own";
    git.move_refs(&moves([(name, Some(one)), ("refs/tags/other", Some(two))]), "test").unwrap();
    assert_eq!(machine.git(&clone, &["rev-parse", name]), one.to_string());
    git.move_refs(&moves([(name, None), ("refs/tags/other", None)]), "test").unwrap();
    assert!(
        !reported(&machine).iter().any(|line| line.contains("/own ") || line.contains("other"))
    );
}

#[test]
fn of_two_refs_that_exclude_each_other_the_second_is_refused() {
    let (machine, [one, _]) = clone();
    let git = Git::open(&machine.clone_of("ops")).unwrap();
    for (first, second) in [("x", "x/y"), ("z/y/x", "z")] {
        let name = |short| format!("refs/remotes/origin/{short}");
        let both = moves([(&*name(first), Some(one)), (&*name(second), Some(one))]);
        git.move_refs(&both, "test").unwrap_err();
        assert_eq!(git.ref_id(&name(first)).unwrap(), Some(one));
        assert_eq!(git.ref_id(&name(second)).unwrap(), None);
    }
    reported(&machine);
}

#[test]
fn what_another_git_is_packing_is_left_to_it() {
    let (machine, [one, _]) = clone();
    let clone = machine.clone_of("ops");
    let git = Git::open(&clone).unwrap();
    let before = reported(&machine);
    fs::write(clone.join(".git/packed-refs.lock"), "").unwrap();
    let error = git.move_refs(&moves([("refs/tags/new", Some(one))]), "test").unwrap_err();
    assert!(format!("{error:#}").ends_with("packed-refs cannot be written: it is locked"));
    assert!(clone.join(".git/packed-refs.lock").exists(), "it was somebody else's");
    assert_eq!(reported(&machine), before);
}
