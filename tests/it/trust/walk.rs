//! The walk along a path, in directories that belong to another user: only root can make them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use pmpy::system::trust::{PathWalk, Trust, WalkedPath, WriteFault};
use tempfile::TempDir;

use super::NOBODY;
use crate::sandbox::set_mode;

fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    (dir, real)
}

fn walk(path: &Path) -> WalkedPath {
    PathWalk::default().walk(path).unwrap()
}

#[test]
fn each_part_that_another_user_could_change_is_found_before_what_is_behind_it() {
    let (_dir, top) = directory();
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::File::create(top.join("a/b/file")).unwrap();
    symlink("a", top.join("link")).unwrap();
    let path = top.join("link/b/file");
    let trust = Trust::new(0, &[]);
    walk(&path).check(&trust).unwrap();
    for part in ["link", "a", "a/b", "a/b/file"] {
        let part = top.join(part);
        lchown(&part, Some(NOBODY), None).unwrap();
        let fault = walk(&path).check(&trust).unwrap_err();
        assert_eq!((&fault.path, fault.fault), (&part, WriteFault::Owner(NOBODY)));
        lchown(&part, Some(0), None).unwrap();
        if part.is_symlink() {
            continue;
        }
        let usual = part.metadata().unwrap().permissions().mode();
        for (mode, gid, expected) in
            [(usual | 0o002, 0, WriteFault::Everyone), (usual | 0o020, 1, WriteFault::Group(1))]
        {
            chown(&part, None, Some(gid)).unwrap();
            set_mode(&part, mode);
            let fault = walk(&path).check(&trust).unwrap_err();
            assert_eq!((&fault.path, fault.fault), (&part, expected));
        }
        chown(&part, None, Some(0)).unwrap();
        set_mode(&part, usual);
    }
    walk(&path).check(&trust).unwrap();
}

#[test]
fn in_a_sticky_directory_counts_who_owns_what_is_in_it() {
    let (_dir, top) = directory();
    let (sticky, inside) = (top.join("sticky"), top.join("sticky/inside"));
    fs::create_dir_all(&inside).unwrap();
    set_mode(&sticky, 0o1777);
    let trust = Trust::new(0, &[]);
    walk(&inside).check(&trust).unwrap();
    chown(&inside, Some(NOBODY), None).unwrap();
    assert_eq!(walk(&inside).check(&trust).unwrap_err().path, inside);
    chown(&inside, Some(0), None).unwrap();
    chown(&sticky, Some(NOBODY), None).unwrap();
    assert_eq!(walk(&inside).check(&trust).unwrap_err().path, sticky);
    walk(&inside).check(&Trust::new(NOBODY, &[])).unwrap();
}
