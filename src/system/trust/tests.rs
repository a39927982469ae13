//! Walks over real directories, links and modes, and the resulting trust.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

/// A user who is neither root nor the user who runs the tests.
const STRANGER: u32 = 65_534;

/// Builds an ACL of the known version from entries: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    (dir, real)
}

fn walk(path: &Path) -> WalkedPath {
    PathWalk::default().walk(path).unwrap()
}

/// What stat(2) says of a file of root's with this mode.
fn of_root(mode: u32) -> rustix::fs::Stat {
    let (_dir, top) = directory();
    let file = top.join("file");
    fs::File::create(&file).unwrap();
    set_mode(&file, mode);
    let mut found = rustix::fs::stat(&file).unwrap();
    (found.st_uid, found.st_gid) = (0, 0);
    found
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_walk_ends_where_the_kernel_ends() {
    let (_dir, top) = directory();
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::File::create(top.join("a/b/file")).unwrap();
    symlink("a/b", top.join("relative")).unwrap();
    symlink(top.join("a"), top.join("absolute")).unwrap();
    symlink("../relative/file", top.join("a/twice")).unwrap();
    for path in [
        "a",
        "a/b/file",
        "relative",
        "relative/file",
        "absolute/b",
        "absolute/b/../../relative",
        "a/twice",
        "absolute/../a/./b",
        "a/b/..",
    ] {
        let path = top.join(path);
        let walked = walk(&path);
        assert_eq!(walked.real, path.canonicalize().unwrap(), "{}", path.display());
        let meta = path.metadata().unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(walked.id(), Some((meta.dev(), meta.ino())), "{}", path.display());
    }
}

#[test]
fn what_is_not_there_is_named_behind_the_real_path_of_what_is() {
    let (_dir, top) = directory();
    fs::create_dir(top.join("a")).unwrap();
    symlink("a", top.join("link")).unwrap();
    symlink("nowhere/x", top.join("dangling")).unwrap();
    for (path, real) in [("link/b/c", "a/b/c"), ("dangling", "nowhere/x"), ("link/b/../c", "a/c")] {
        let walked = walk(&top.join(path));
        assert_eq!((&walked.real, walked.id()), (&top.join(real), None), "{path}");
    }
}

#[test]
fn links_in_a_circle_and_ways_through_a_file_are_errors() {
    let (_dir, top) = directory();
    symlink("two", top.join("one")).unwrap();
    symlink("one", top.join("two")).unwrap();
    fs::File::create(top.join("file")).unwrap();
    assert!(PathWalk::default().walk(&top.join("one")).is_err());
    assert!(PathWalk::default().walk(&top.join("file/x")).is_err());
}

#[test]
fn each_part_that_everybody_may_write_is_found_before_what_is_behind_it() {
    let (_dir, top) = directory();
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::File::create(top.join("a/b/file")).unwrap();
    symlink("a", top.join("link")).unwrap();
    let path = top.join("link/b/file");
    let trust = Trust::own();
    walk(&path).check(&trust).unwrap();
    for part in ["a", "a/b", "a/b/file"] {
        let part = top.join(part);
        let usual = part.metadata().unwrap().permissions().mode();
        set_mode(&part, usual | 0o002);
        let fault = walk(&path).check(&trust).unwrap_err();
        assert_eq!((&fault.path, fault.fault), (&part, WriteFault::Everyone));
        set_mode(&part, usual);
    }
}

#[test]
fn in_a_sticky_directory_only_what_is_in_it_counts() {
    let (_dir, top) = directory();
    let (sticky, inside) = (top.join("sticky"), top.join("sticky/inside"));
    fs::create_dir_all(&inside).unwrap();
    set_mode(&sticky, 0o1777);
    let trust = Trust::own();
    walk(&inside).check(&trust).unwrap();
    walk(&sticky.join("missing")).check(&trust).unwrap();
    assert!(walk(&sticky).check(&trust).is_err(), "others may add files to the directory itself");
}

#[test]
fn what_was_walked_is_what_is_used_whatever_is_exchanged_afterwards() {
    let (_dir, top) = directory();
    fs::create_dir_all(top.join("good/clone")).unwrap();
    fs::create_dir_all(top.join("evil/clone")).unwrap();
    symlink("good", top.join("way")).unwrap();
    let walked = walk(&top.join("way/clone"));
    fs::remove_file(top.join("way")).unwrap();
    symlink("evil", top.join("way")).unwrap();
    assert_eq!(walked.real, top.join("good/clone"));
    assert_eq!(walk(&walked.real).id(), walked.id(), "no link is left in the real path");
    assert_ne!(walk(&top.join("way/clone")).id(), walked.id());
}

#[test]
fn whom_the_configuration_names_is_trusted() {
    let trustees = [Trustee::User("nobody".into()), Trustee::Group("daemon".into())];
    let trust = Trust::new(0, &trustees);
    assert!(trust.includes_user(STRANGER) && !Trust::new(0, &[]).includes_user(STRANGER));
    assert!(trust.includes_user(1), "a member of a trusted group");
    assert!(trust.includes_group(1) && !Trust::new(0, &[]).includes_group(1));
    let absent = Trust::new(0, &[Trustee::User("there-is-none".into())]);
    assert!(!absent.includes_user(STRANGER));
}

#[test]
fn only_the_own_group_of_a_user_counts_as_that_user() {
    let root = Trust::new(0, &[]);
    assert!(root.includes_group(0), "root's group has no other member on the machine of tests");
    assert!(!root.includes_group(6), "a group without members may have set-gid programs");
    assert!(!Trust::new(STRANGER, &[]).includes_group(STRANGER), "nogroup is not called nobody");
}

#[test]
fn an_acl_says_who_may_write_as_far_as_its_mask_lets_it() {
    const WRITE: u16 = 6;
    let found = of_root(0o664);
    let trust = Trust::new(0, &[]);
    let fault =
        |list: AccessList| WriteAccess::of(&found, || list).fault(&trust, Some(found.st_gid));
    let of = |entries: &[(u16, u16, u32)]| fault(AccessList::Found(acl(entries)));
    assert_eq!(fault(AccessList::Absent), None, "root's own group");
    assert_eq!(fault(AccessList::Unreadable), Some(WriteFault::Everyone));
    assert_eq!(fault(AccessList::Found(b"nonsense".to_vec())), Some(WriteFault::Everyone));
    let user = (0x02, WRITE, STRANGER);
    assert_eq!(of(&[user, (0x10, 7, 0)]), Some(WriteFault::AclUser(STRANGER)));
    assert_eq!(of(&[user, (0x10, 5, 0)]), None, "the mask takes it back");
    assert_eq!(of(&[(0x02, 5, STRANGER), (0x10, 7, 0)]), None, "may read");
    assert_eq!(of(&[(0x08, WRITE, 1), (0x10, 7, 0)]), Some(WriteFault::AclGroup(1)));
    assert_eq!(of(&[(0x02, WRITE, 0), (0x04, WRITE, 0), (0x10, 7, 0)]), None);
}

#[test]
fn the_mode_of_others_is_enough_to_know_and_no_acl_is_read_for_it() {
    let found = of_root(0o644);
    let access = WriteAccess::of(&found, || panic!("the group may not write: nothing to read"));
    assert_eq!(access.fault(&Trust::new(0, &[]), None), None);
}
