//! Disks that are full, read-only, or fail: it is told in words, nothing is lost or half done for
//! good, other repositories go on, and once the disk is well the next tick finishes by itself.
//!
//! The small disks are mounted here, which takes root; each is unmounted at its test's end, also
//! when that panics.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

mod mounted;

pub use mounted::Mounted;

/// Takes all space that is left on the disk of `directory`.
fn fill(dir: &Path) {
    let file = dir.join("ballast");
    let mut ballast = File::options().create(true).append(true).open(file).unwrap();
    while ballast.write(&[0; 4096]).is_ok() {}
}

fn free(dir: &Path) {
    fs::remove_file(dir.join("ballast")).unwrap();
}

/// A machine with the clones `ops` and `web` on a small disk of their own.
fn with_root_on(options: &str) -> (Sandbox, Mounted) {
    let machine = Sandbox::new();
    let disk = Mounted::tmpfs(&machine.root(), options);
    populate(&machine);
    (machine, disk)
}

fn populate(machine: &Sandbox) {
    for name in ["ops", "web"] {
        let files = [("work.sh", NOTES_ITS_RUNS), ("page", "one\n"), ("name", name)];
        machine.serve(name, &files);
        machine.clone_to_root(name);
    }
    machine.tick().ok();
}

/// How often the script came to its end at `revision`.
fn ends(machine: &Sandbox, revision: &str) -> usize {
    let end = format!("end {revision}");
    machine.runs().iter().filter(|run| **run == end).count()
}

/// Sure that the tick failed, that `ops` is `failing` because of `words`, that this is what people
/// read, and that nothing was acted upon.
#[track_caller]
fn fails_because(machine: &Sandbox, words: &[&str]) {
    let acted = machine.lastaction("ops");
    let ran = machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}\n{ran}");
    let people = machine.agent(&["status"]).exits(1).stdout;
    for word in words {
        assert!(people.contains(word), "\"{word}\" is not in\n{people}\n{ran}");
    }
    assert_eq!(machine.lastaction("ops"), acted);
    assert!(!machine.currentaction("ops").exists());
    assert_eq!(machine.differences("ops"), "");
    // The next time nobody is told again.
    let ran = machine.tick().exits(1);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
}

/// Sure that one tick is enough, and that the script ran once.
#[track_caller]
fn continues(machine: &Sandbox, revision: &str) {
    let ran = machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{ran}");
    assert_eq!(machine.lastaction("ops").as_deref(), Some(revision));
    assert_eq!(machine.head("ops"), revision);
    assert_eq!(machine.differences("ops"), "");
    assert_eq!(ends(machine, revision), 1);
    assert!(!machine.private("ops", "journal").exists());
}

#[test]
fn a_fetch_that_fills_the_disk_is_reported_and_finished_once_there_is_space() {
    let (machine, disk) = with_root_on("size=4m");
    let revision = machine.push_with("ops", |desk| {
        let mut noise = Vec::new();
        let random = File::open("/dev/urandom").unwrap();
        random.take(6 << 20).read_to_end(&mut noise).unwrap();
        fs::write(desk.join("noise"), noise).unwrap();
    });
    let other = machine.push("web", &[("page", "two\n")]);
    fails_because(&machine, &["No space left on device", "free some space"]);
    assert_eq!(machine.lastaction("web"), Some(other), "the other repository goes on");
    let packs = machine.files_below(&machine.clone_of("ops").join(".git/objects/pack"));
    assert!(!packs.iter().any(|pack| text(pack).starts_with("pack_git2_")), "{packs:?}");

    disk.remount("size=40m");
    continues(&machine, &revision);
}

#[test]
fn a_revision_that_does_not_fit_on_the_disk_changes_nothing_and_a_smaller_one_heals_it() {
    let (machine, disk) = with_root_on("size=4m");
    machine.push("ops", &[("page", "two\n"), ("zeros", &"0".repeat(6 << 20))]);
    let other = machine.push("web", &[("page", "two\n")]);
    fails_because(&machine, &["need 6291460 bytes", "the disk is full", "free some space"]);
    assert_eq!(machine.lastaction("web"), Some(other));
    let page = machine.clone_of("ops").join("page");
    assert_eq!(fs::read_to_string(&page).unwrap(), "one\n");

    let smaller = machine.push("ops", &[("page", "three\n"), ("zeros", "0\n")]);
    continues(&machine, &smaller);

    let larger = machine.push("ops", &[("zeros", &"0".repeat(6 << 20))]);
    machine.tick().exits(1);
    disk.remount("size=40m");
    continues(&machine, &larger);
}

#[test]
fn a_disk_without_inodes_is_reported_as_such() {
    let (machine, disk) = with_root_on("size=10m,nr_inodes=400");
    let revision = machine.push_with("ops", |desk| {
        for number in 0..500 {
            fs::write(desk.join(format!("file-{number}")), "").unwrap();
        }
    });
    fails_because(&machine, &["need 500 inodes", "free some space or", "inodes"]);
    disk.remount("nr_inodes=4000");
    continues(&machine, &revision);
}

#[test]
fn a_full_disk_under_the_agents_own_state_is_reported_and_nothing_runs() {
    for polled in [true, false] {
        let machine = Sandbox::new();
        populate(&machine);
        let dir = machine.clone_of("ops").join(".git/pmpy");
        let _disk = Mounted::instead_of(&machine, &dir, "size=64k");
        let state = fs::read(dir.join("state")).unwrap();
        let revision = machine.push("ops", &[("page", "two\n")]);
        if polled {
            machine.agent(&["tick", "--dry-run"]);
        }
        fill(&dir);
        let other = machine.push("web", &[("page", "two\n")]);
        fails_because(&machine, &["No space left on device", ".git/pmpy", "free some space"]);
        assert_eq!(ends(&machine, &revision), 0);
        assert_eq!(fs::read(dir.join("state")).unwrap(), state);
        assert_eq!(machine.lastaction("web"), Some(other));
        free(&dir);
        continues(&machine, &revision);
    }
}

#[test]
fn a_disk_that_cannot_store_the_first_sight_of_a_revision_is_reported() {
    let machine = Sandbox::new();
    populate(&machine);
    machine.configure("[repo.ops]\nmin_age = \"30m\"\n");
    let dir = machine.clone_of("ops").join(".git/pmpy");
    let _disk = Mounted::instead_of(&machine, &dir, "size=64k");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "behind");
    // As after a reboot: the wait has to be recorded anew.
    let file = dir.join("state");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    state["sight"]["boot_id"] = "another".into();
    fs::write(&file, state.to_string()).unwrap();
    fill(&dir);
    fails_because(&machine, &["No space left on device", ".git/pmpy", "free some space"]);
    free(&dir);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "behind");
}

#[test]
fn a_full_disk_under_lastaction_is_reported_before_any_script_runs() {
    let machine = Sandbox::new();
    populate(&machine);
    let dir = machine.clone_of("ops").join(".temp/nodeinfo");
    let _disk = Mounted::instead_of(&machine, &dir, "size=16k");
    fill(&dir);
    let revision = machine.push("ops", &[("page", "two\n")]);
    fails_because(&machine, &["currentaction.txt", "No space left on device", "free some space"]);
    assert_eq!(ends(&machine, &revision), 0);
    free(&dir);
    continues(&machine, &revision);
}

#[test]
fn a_full_disk_under_the_logs_is_reported_before_any_script_runs() {
    let machine = Sandbox::new();
    populate(&machine);
    let dir = machine.root().join(".pmpy/log");
    let _disk = Mounted::instead_of(&machine, &dir, "size=256k");
    fill(&dir);
    let revision = machine.push("ops", &[("page", "two\n")]);
    // The worktree is at the new revision by then; its script is what waits.
    machine.tick().exits(1);
    let people = machine.agent(&["status"]).exits(1).stdout;
    assert!(people.contains("no room for a log") && people.contains("free some space"), "{people}");
    assert_eq!(machine.state("ops"), "failing");
    assert_ne!(machine.lastaction("ops").as_deref(), Some(&*revision));
    assert_eq!(ends(&machine, &revision), 0);
    free(&dir);
    continues(&machine, &revision);
}

#[test]
fn a_full_disk_under_the_status_loses_neither_the_action_nor_the_old_status() {
    let machine = Sandbox::new();
    populate(&machine);
    let dir = machine.root().join(".pmpy");
    let _disk = Mounted::instead_of(&machine, &dir, "size=256k");
    let _logs = Mounted::tmpfs(&dir.join("log"), "size=1m");
    let before = fs::read(dir.join("status.json")).unwrap();
    fill(&dir);
    let revision = machine.push("ops", &[("page", "two\n")]);
    let ran = machine.tick().exits(1);
    for word in ["status.json", "No space left on device", "hint: free some space"] {
        assert!(ran.stderr.contains(word), "{ran}");
    }
    assert_eq!(ends(&machine, &revision), 1);
    assert_eq!(machine.state("ops"), "current", "whoever asks is told");
    assert_eq!(fs::read(dir.join("status.json")).unwrap(), before);
    machine.tick().exits(1);
    free(&dir);
    continues(&machine, &revision);
    let status: Value =
        serde_json::from_slice(&fs::read(dir.join("status.json")).unwrap()).unwrap();
    assert_eq!(status["repositories"][0]["acted"]["revision"], revision.as_str());
}

#[test]
fn a_script_that_fills_the_disk_and_succeeds_is_recorded_and_not_run_again() {
    let script = format!(
        "{NOTES_ITS_RUNS}\
         [ ! -e \"$AGENT_ROOT/../fill\" ] || cat /dev/zero > \"$AGENT_ROOT/ballast\" 2> /dev/null\n\
         exit 0\n"
    );
    let (machine, _disk) = with_root_on("size=4m");
    machine.push("ops", &[("work.sh", &script)]);
    machine.tick().ok();
    fs::write(machine.path("fill"), "").unwrap();
    let revision = machine.push("ops", &[("page", "two\n")]);
    for _ in 0..2 {
        machine.tick().exits(1);
        // Whatever the agent itself gave back.
        fill(&machine.root());
        assert_eq!(machine.lastaction("ops").as_ref(), Some(&revision));
        assert_eq!(ends(&machine, &revision), 1);
        let people = machine.agent(&["status"]).exits(1).stdout;
        assert!(people.contains("free some space"), "{people}");
    }
    free(&machine.root());
    continues(&machine, &revision);
    let history = machine.agent(&["history", "ops", "-n", "1"]).ok().stdout;
    assert!(history.contains(&revision[..7]) && history.contains("succeeded"), "{history}");
}

#[test]
fn a_read_only_disk_is_reported_and_left_alone_until_it_is_writable() {
    let (machine, disk) = with_root_on("size=10m");
    let before = fs::read(machine.root().join(".pmpy/status.json")).unwrap();
    let revision = machine.push("ops", &[("page", "two\n")]);
    disk.remount("ro");
    for _ in 0..2 {
        let ran = machine.tick().exits(1);
        assert!(ran.stderr.contains("Read-only file system"), "{ran}");
        assert!(ran.stderr.contains("hint: make the file system writable"), "{ran}");
    }
    assert_eq!(fs::read(machine.root().join(".pmpy/status.json")).unwrap(), before);
    disk.remount("rw");
    continues(&machine, &revision);
}

#[test]
fn one_read_only_clone_does_not_stop_the_others() {
    let machine = Sandbox::new();
    populate(&machine);
    let clone = machine.clone_of("ops");
    let mounted = Mounted::bind(&clone, &clone);
    mounted.remount("bind,ro");
    let revision = machine.push("ops", &[("page", "two\n")]);
    let other = machine.push("web", &[("page", "two\n")]);
    fails_because(&machine, &["Read-only file system", "make the file system writable"]);
    assert_eq!(machine.lastaction("web"), Some(other));
    mounted.remount("bind,rw");
    continues(&machine, &revision);
}

#[test]
fn immutable_files_and_directories_are_reported_and_nothing_is_half_done() {
    let machine = Sandbox::new();
    let _disk = Mounted::ext4(&machine, &machine.root());
    populate(&machine);
    let chattr = |flag: &str, path: &str| {
        let path = machine.clone_of("ops").join(path);
        Ran::of(machine.command("chattr").args([flag, text(&path)])).ok();
    };
    let revision = machine.push("ops", &[("a", "new\n"), ("page", "two\n"), ("z/file", "new\n")]);
    chattr("+i", "page");
    fails_because(&machine, &["\"page\"", "immutable", "chattr -i"]);
    assert!(!machine.clone_of("ops").join("a").exists());
    chattr("-i", "page");
    continues(&machine, &revision);

    let revision = machine.push("ops", &[("a", "newer\n"), ("z/other", "new\n")]);
    chattr("+i", "z");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    assert!(row["reason"].to_string().contains("z/other"), "{row:#}");
    assert_eq!(machine.differences("ops"), "");
    chattr("-i", "z");
    continues(&machine, &revision);

    // The one thing that cannot be looked at before: it fails once the script has ended.
    let revision = machine.push("ops", &[("page", "three\n")]);
    let acted = machine.lastaction("ops");
    chattr("+i", ".temp/nodeinfo/lastaction.txt");
    for _ in 0..2 {
        machine.tick().exits(1);
        let row = machine.row("ops");
        assert_eq!(row["state"], "failing", "{row:#}");
        assert!(row["reason"].to_string().contains("lastaction.txt"), "{row:#}");
        assert_eq!(machine.lastaction("ops"), acted);
        assert_eq!(ends(&machine, &revision), 1);
    }
    chattr("-i", ".temp/nodeinfo/lastaction.txt");
    continues(&machine, &revision);
}

/// What a failing disk answers to the system calls that write.
const ANSWERS: [(&str, &str); 12] = [
    ("write", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("fsync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("rename", "EIO"),
    ("renameat", "ENOSPC"),
    ("renameat2", "EIO"),
    ("unlink", "EIO"),
    ("unlinkat", "EROFS"),
    ("mkdir", "ENOSPC"),
    ("ftruncate", "EIO"),
    ("fallocate", "ENOSPC"),
];

#[test]
fn whichever_write_the_disk_refuses_the_next_ticks_put_it_right() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "0\n")]);
    machine.tick().ok();
    let trace = machine.path("trace");
    let stride = if std::env::var_os("PMPY_LONG").is_some() { 1 } else { 5 };
    let mut points = 0;
    for (call, answer) in ANSWERS {
        for nth in (1..).step_by(stride) {
            let before = machine.lastaction("ops").unwrap();
            let content = format!("{call} {nth}\n");
            let revision =
                machine.push("ops", &[("page", &content), (&format!("new/{call}"), &content)]);
            machine.agent(&["tick", "--dry-run"]);
            let ran = Ran::of(
                machine
                    .command("strace")
                    .args(["-o", text(&trace), "-e", &format!("trace=?{call}")])
                    .args(["-e", &format!("inject=?{call}:error={answer}:when={nth}"), "--"])
                    .args(machine.agent_line(&["worker", "ops", "--trigger", "cron"])),
            );
            let what = format!("{call} number {nth} answered {answer}");
            assert!(matches!(ran.code, Some(0 | 1)), "{what}: {ran}");
            let acted = machine.lastaction("ops").unwrap();
            assert!([&before, &revision].contains(&&acted), "{what}: {acted}");
            let hit = fs::read_to_string(&trace).unwrap().contains("(INJECTED)");
            // A person need not wait for a script's next turn, should it have been the script's fault.
            let ticks = (1..=4).find(|_| {
                machine.agent(&["tick", "ops", "--trigger", "cron"]);
                machine.state("ops") == "current"
            });
            assert!(ticks.is_some(), "{what}: {:#}", machine.row("ops"));
            assert_eq!(machine.lastaction("ops").as_ref(), Some(&revision), "{what}");
            assert_eq!(machine.head("ops"), revision, "{what}");
            assert_eq!(machine.differences("ops"), "", "{what}");
            let ended = ends(&machine, &revision);
            assert!((1..=2).contains(&ended), "{what}: its script ended {ended} times");
            if !hit {
                break;
            }
            points += 1;
        }
    }
    println!("refused writes={points}");
    assert!(points >= 50 / stride, "only {points}");
}
