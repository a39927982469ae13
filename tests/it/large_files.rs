//! Files that are larger than they may be: those of a revision, above `max_file`, and those of `.git`,
//! which are never read.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};

const SCRIPT: (&str, &str) = ("bin/work/common/work.sh", NOTES_ITS_RUNS);
/// As large as a file that is refused is here.
const LARGE: usize = 3 << 20;

#[track_caller]
fn reason(machine: &Sandbox, name: &str) -> String {
    machine.row(name)["reason"].as_str().unwrap_or_default().to_owned()
}

/// Pushes a file that is too large; returns the revision.
fn push_large(machine: &Sandbox, name: &str) -> String {
    machine.push_with(name, |desk| fs::write(desk.join("video"), vec![7; LARGE]).unwrap())
}

#[test]
fn a_file_above_max_file_is_refused_until_that_is_raised() {
    let machine = Sandbox::with("ops", &[SCRIPT, ("page", "one")]);
    machine.configure("[defaults]\nmax_file = \"1MiB\"\n");
    machine.tick().ok();
    let revision = push_large(&machine, "ops");
    machine.tick();
    let row = machine.row("ops");
    assert_eq!(row["state"], "refused", "{row:#}");
    let reported = reason(&machine, "ops");
    for word in ["\"video\"", "3145728 bytes", "1048576 are the most", "set max_file"] {
        assert!(reported.contains(word), "{reported}");
    }
    assert!(!machine.clone_of("ops").join("video").exists());
    let check = machine.agent(&["check", "--offline"]);
    assert!(check.stdout.contains("is refused: \"video\" has 3145728 bytes"), "{check}");
    // It stays refused, and goes on by itself when it may.
    machine.tick();
    assert_eq!(machine.state("ops"), "refused");
    machine.configure("[repo.ops]\nmax_file = \"3MiB\"\n");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.differences("ops"), "");
}

#[test]
fn a_file_above_max_file_is_refused_where_trees_are_published() {
    for mode in ["checkout", "branches"] {
        let machine = Sandbox::with("site", &[("page", "one")]);
        let target = machine.path("target");
        let keys = format!("mode = \"{mode}\"\ntarget = \"{}\"\n", target.display());
        machine.configure(&format!("[repo.site]\n{keys}max_file = \"1MiB\"\n"));
        machine.tick().ok();
        let main = if mode == "branches" { target.join("main") } else { target.clone() };
        assert!(main.join("page").exists(), "{mode}");
        push_large(&machine, "site");
        machine.tick();
        assert_eq!(machine.state("site"), "refused", "{mode}");
        assert!(reason(&machine, "site").contains("\"video\" has 3145728 bytes"), "{mode}");
        assert!(main.join("page").exists() && !main.join("video").exists(), "{mode}");
        machine.configure(&format!("[repo.site]\n{keys}max_file = \"4MB\"\n"));
        machine.tick().ok();
        assert!(main.join("video").exists(), "{mode}: {}", reason(&machine, "site"));
    }
}

#[test]
fn a_merge_with_a_file_above_max_file_is_refused_before_it_is_made() {
    let machine = Sandbox::with("ops", &[SCRIPT, ("page", "one")]);
    machine.configure("[repo.ops]\nupdate = \"merge\"\nmax_file = \"1MiB\"\n");
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["commit", "--quiet", "--allow-empty", "--message", "here"]);
    machine.tick().ok();
    let head = machine.head("ops");
    push_large(&machine, "ops");
    machine.tick();
    assert_eq!(machine.state("ops"), "refused");
    assert_eq!(machine.head("ops"), head);
}

#[test]
fn a_file_that_was_there_before_max_file_was_lowered_stops_nothing() {
    let machine = Sandbox::with("ops", &[SCRIPT]);
    push_large(&machine, "ops");
    machine.tick().ok();
    machine.configure("[repo.ops]\nmax_file = \"1MiB\"\n");
    let changed = machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(changed));
    // It is compared with what it was, and replaced.
    let smaller = machine.push("ops", &[("video", "short")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(smaller));
    assert_eq!(machine.differences("ops"), "");
}

/// Puts a file of 64 GiB that takes no room in the place of `path`.
fn make_sparse(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    File::create(path).unwrap().set_len(64 << 30).unwrap();
}

/// Bytes that are really on the disk below `directory`.
fn on_disk(machine: &Sandbox, dir: &Path) -> u64 {
    let files = machine.files_below(dir).into_iter();
    files
        .filter_map(|file| dir.join(file).symlink_metadata().ok())
        .map(|it| it.blocks() * 512)
        .sum()
}

#[test]
fn a_sparse_file_of_64_gib_in_git_costs_no_room_and_is_put_right_or_named() {
    let healed = [
        "HEAD",
        "index",
        "packed-refs",
        "refs/heads/main",
        "refs/remotes/origin/main",
        "refs/pmpy/acted",
        "refs/pmpy/seen/main",
    ];
    let named = [
        "config",
        "config.worktree",
        "shallow",
        "commondir",
        "info/grafts",
        "objects/info/alternates",
    ];
    for file in healed.into_iter().chain(named) {
        let machine = Sandbox::with("ops", &[SCRIPT]);
        machine.serve("web", &[SCRIPT]);
        machine.clone_to_root("web");
        machine.tick().ok();
        make_sparse(&machine.clone_of("ops").join(".git").join(file));
        let before = on_disk(&machine, &machine.root());
        let (ops, web) = (machine.push("ops", &[("a", "b")]), machine.push("web", &[("a", "b")]));
        machine.tick();
        machine.tick();
        let grown = on_disk(&machine, &machine.root()).saturating_sub(before);
        assert!(grown < 2 << 20, "{file}: {grown} bytes were written");
        assert_eq!(machine.lastaction("web"), Some(web), "{file}");
        if healed.contains(&file) {
            assert_eq!(machine.lastaction("ops"), Some(ops), "{file}: {}", reason(&machine, "ops"));
        } else {
            assert_eq!(machine.state("ops"), "broken", "{file}");
            let reported = reason(&machine, "ops");
            assert!(reported.contains(&format!(".git/{file} has 68719476736 bytes")), "{reported}");
        }
    }
}

#[test]
fn a_pack_with_64_gib_of_nothing_at_its_end_is_put_aside_and_fetched_again() {
    let machine = Sandbox::with("ops", &[SCRIPT]);
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["gc", "--quiet"]);
    let packs = clone.join(".git/objects/pack");
    let pack = fs::read_dir(&packs).unwrap().flatten().map(|it| it.path());
    let pack = pack.into_iter().find(|it| it.extension().is_some_and(|it| it == "pack")).unwrap();
    crate::sandbox::set_mode(&pack, 0o644);
    File::options().write(true).open(&pack).unwrap().set_len(64 << 30).unwrap();
    let before = on_disk(&machine, &machine.root());
    let revision = machine.push("ops", &[("a", "b")]);
    wait_until("it is put right", || {
        machine.tick();
        machine.lastaction("ops").as_ref() == Some(&revision)
    });
    assert!(on_disk(&machine, &machine.root()).saturating_sub(before) < 2 << 20);
}
