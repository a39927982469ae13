//! Tests of `files`.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_with_its_exact_mode_and_no_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "state", b"one", 0o600).unwrap();
    put(dir.path(), "state", b"two", 0o666).unwrap();
    let path = dir.path().join("state");
    assert_eq!(read_small(&path, 3).unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o666);
    assert_eq!(names(dir.path()), ["state"]);
}

#[test]
fn a_directory_that_was_removed_since_it_was_opened_has_no_entries() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let opened = Dir::open(&inner).unwrap();
    fs::remove_dir(&inner).unwrap();
    assert_eq!(opened.entries().unwrap(), []);
}

#[test]
fn a_prepared_file_shows_only_once_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a", b"old", 0o644).unwrap();
    let path = dir.path().join("a");
    drop(prepare(dir.path(), "a", b"given up", 0o644).unwrap());
    assert_eq!(names(dir.path()), ["a"]);
    let prepared = prepare(dir.path(), "a", b"new", 0o644).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    prepared.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn leftovers_of_dead_processes_are_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        ".state.2147483647.0.new",
        ".a.b.2147483647.12.new",
        ".state.new",
        ".x.7.new",
        "state.7.0.new",
    ] {
        fs::File::create(dir.path().join(name)).unwrap();
    }
    sweep(dir.path()).unwrap();
    assert_eq!(names(dir.path()), [".state.new", ".x.7.new", "state.7.0.new"]);
    sweep(&dir.path().join("missing")).unwrap();
}

#[test]
fn a_replaced_link_leaves_what_it_led_to_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let victim = dir.path().join("victim");
    put(dir.path(), "victim", b"precious", 0o644).unwrap();
    symlink(&victim, dir.path().join("d/f")).unwrap();
    put(&dir.path().join("d"), "f", b"mine", 0o644).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert!(dir.path().join("d/f").symlink_metadata().unwrap().is_file());
}

#[test]
fn only_regular_files_of_a_sane_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(read_small(&at("missing"), 9).unwrap().is_none());
    assert!(read_small(&at("missing/too"), 9).unwrap().is_none());
    put(dir.path(), "big", b"0123456789", 0o644).unwrap();
    assert!(matches!(read_small(&at("big"), 9), Err(ReadError::TooLarge { cap: 9, .. })));
    assert!(matches!(read_small(&at("big/x"), 9), Err(ReadError::Failed { .. })));
    symlink("big", at("link")).unwrap();
    rustix::fs::mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for (name, what) in [
        ("link", "a symbolic link"),
        ("pipe", "a named pipe"),
        ("socket", "a socket"),
        (".", "a directory"),
    ] {
        match read_small(&at(name), 9) {
            Err(ReadError::NotAFile { found, .. }) => assert_eq!(found, what),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn removing_what_is_not_there_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a", b"", 0o644).unwrap();
    remove(dir.path(), "a").unwrap();
    remove(dir.path(), "a").unwrap();
    remove(&dir.path().join("missing"), "a").unwrap();
    assert!(names(dir.path()).is_empty());
}

#[test]
fn directories_are_made_with_their_mode_and_existing_ones_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let deep = dir.path().join("a/b");
    ensure_dir(&deep, 0o777).unwrap();
    assert_eq!((mode(&deep), mode(&dir.path().join("a"))), (0o777, 0o777));
    ensure_dir(&deep, 0o700).unwrap();
    assert_eq!(mode(&deep), 0o777);
    put(dir.path(), "file", b"", 0o644).unwrap();
    assert!(ensure_dir(&dir.path().join("file"), 0o755).is_err());
}

#[test]
fn a_directory_is_never_reached_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/real")).unwrap();
    symlink("real", dir.path().join("root/link")).unwrap();
    let root = Dir::open(&dir.path().join("root")).unwrap();
    root.check_kernel().unwrap();
    assert!(root.beneath(b"real").is_ok());
    assert_eq!(root.beneath(b"link").unwrap_err(), Errno::LOOP);
    assert_eq!(root.beneath(b"..").unwrap_err(), Errno::XDEV);
    assert_eq!(root.beneath(b"/etc").unwrap_err(), Errno::XDEV);
}
