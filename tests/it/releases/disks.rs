//! Disks that are full, read-only, mounted in the way or elsewhere: told in words, and what was
//! shown stays.
//!
//! The small disks are mounted here, which takes root; each is unmounted at its test's end.

use std::fs;

use pmpy::system::files::DiskFault;

use super::{STORE, Sites, branch, names, old, spog};
use crate::disk::Mounted;
use crate::worktree::{Tree, expected, file, snapshot};

#[test]
fn a_release_that_does_not_fit_is_reported_before_anything_is_written() {
    let big: Tree = [("big".to_owned(), file(&"x".repeat(3 << 20)))].into();
    let many: Tree = (0..200).map(|n| (format!("d/{n}"), file("x"))).collect();
    let sites = Sites::of([&old(), &big, &many]);
    let _disk = Mounted::tmpfs(&sites.dir(), "size=2m,nr_inodes=100");
    sites.publish(&spog(), 0, &[]).unwrap();
    for (number, needs) in [(1, "it takes 3076 KiB and 2 inodes; "), (2, " and 202 inodes; ")] {
        let error = sites.publish(&spog(), number, &[]).unwrap_err();
        assert_eq!(DiskFault::of(&error), Some(DiskFault::Full));
        let reported = format!("{error:#}");
        assert!(reported.contains(needs) && reported.contains(" inodes are free"), "{reported}");
        assert_eq!(snapshot(&sites.at("spog/")), expected(&old()));
        assert_eq!(names(&sites.at(STORE)).len(), 2);
    }
}

#[test]
fn a_disk_that_turns_read_only_keeps_what_is_shown() {
    let sites = Sites::new();
    let disk = Mounted::tmpfs(&sites.dir(), "size=2m");
    sites.publish(&spog(), 0, &[]).unwrap();
    let store = sites.make().unwrap();
    sites.write(&store, &spog(), 1).unwrap();
    drop(store);
    disk.remount("ro");
    let store = sites.make().unwrap();
    for outcome in [
        store.show(&spog(), sites.revisions[1]),
        store.unlink(&spog()),
        sites.write(&store, &spog(), 0),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(DiskFault::of(&error), Some(DiskFault::ReadOnly), "{error:#}");
    }
    assert_eq!(snapshot(&sites.at("spog/")), expected(&old()));
    drop(store);
    disk.remount("rw");
    sites.publish(&spog(), 1, &[]).unwrap();
}

#[test]
fn a_mount_point_at_the_target_stays() {
    let sites = Sites::new();
    fs::create_dir(sites.at("spog")).unwrap();
    let _disk = Mounted::tmpfs(&sites.at("spog"), "size=1m");
    let words = sites.foreign(&spog());
    assert!(words.contains("is a mount point") && words.contains("umount it"), "{words}");
}

#[test]
fn a_store_on_a_disk_of_its_own_is_refused() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    let _disk = Mounted::tmpfs(&sites.at(STORE), "size=1m,mode=755");
    let error = sites.refused();
    assert!(error.contains("is a mount point: ") && error.contains("\nhint: umount"), "{error}");
}

#[test]
fn a_target_may_be_on_another_disk_than_the_repository() {
    let sites = Sites::new();
    let _disk = Mounted::tmpfs(&sites.dir(), "size=1m");
    sites.publish(&branch("main"), 0, &[]).unwrap();
    assert_eq!(snapshot(&sites.at("main/")), expected(&old()));
}

#[test]
fn a_disk_that_is_mounted_in_a_release_is_not_emptied() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    let retired = sites.at(STORE).join(".pmpy-tmp-00000007");
    fs::rename(sites.at("spog").canonicalize().unwrap(), &retired).unwrap();
    let disk = Mounted::tmpfs(&retired.join("a"), "size=1m");
    fs::write(retired.join("a/precious"), "").unwrap();
    let error = format!("{:#}", sites.publish(&spog(), 1, &[]).unwrap_err());
    assert!(error.contains("\"a\" in it is a mount point; umount it"), "{error}");
    assert!(retired.join("a/precious").exists());
    drop(disk);
    sites.publish(&spog(), 1, &[]).unwrap();
    assert_eq!(names(&sites.at(STORE)), [".repository", &sites.revisions[1].to_string()]);
}

#[test]
fn where_the_agent_may_not_write_it_says_what_it_needs() {
    let sites = Sites::new();
    let dir = fs::File::open(sites.dir()).unwrap();
    let plain = rustix::fs::ioctl_getflags(&dir).unwrap();
    rustix::fs::ioctl_setflags(&dir, plain | rustix::fs::IFlags::IMMUTABLE)
        .expect("only root may, and only where the file system knows it, as ext4 does");
    let outcome = sites.make();
    rustix::fs::ioctl_setflags(&dir, plain).unwrap();
    let reported = format!("{:#}", outcome.unwrap_err());
    assert!(
        reported.contains("/sites/.spog.pmpy\nhint: releases are put next to their link"),
        "{reported}"
    );
    assert!(reported.contains("/sites, or choose another target: "), "{reported}");
}
