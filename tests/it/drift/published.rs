//! `drift = "repair"` where each of several refs is published by itself, and at the target of what is only fetched: what
//! is kept, which releases are written anew, what runs, and when nothing of it happens.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::disk::Mounted;
use crate::users;

const REPAIR: &str = "drift = \"repair\"\n";

/// The modes with many refs.
const MANY: [&str; 3] = ["branches", "atomic", "tags"];

/// Notes each run with its trigger, its ref, its attempt and the changed paths.
const AFTER: &str = "\
changed=$(tr '\\0' ' ' < \"$AGENT_CHANGED\")
echo \"$AGENT_TRIGGER ${AGENT_REF##*/} $AGENT_ATTEMPT $changed\" >> \"$AGENT_ROOT/../runs\"
[ ! -e \"$AGENT_ROOT/../ill-${AGENT_REF##*/}\" ]
";

/// The files of each release.
const TREE: [(&str, &str); 3] =
    [("after.sh", AFTER), ("etc/nginx.conf", "listen 80\n"), ("version.txt", "1\n")];

/// A machine that publishes `main` and `stage` of `ops` in this mode, with these keys.
pub fn publishing(mode: &str, keys: &str) -> Sandbox {
    let machine = Sandbox::new();
    machine.serve("ops", &TREE);
    for name in ["main", "stage"] {
        push_ref(&machine, mode, name, &[("page", &format!("{name}\n"))]);
    }
    set_mode(&machine, mode, keys);
    machine.tick().ok();
    fs::remove_file(machine.path("runs")).unwrap();
    machine
}

fn set_mode(machine: &Sandbox, mode: &str, keys: &str) {
    let target = machine.path("site");
    set(
        machine,
        &format!("mode = {mode:?}\ntarget = {target:?}\nafter = [\"sh\", \"after.sh\"]\n{keys}"),
    );
}

/// Commits `files` and pushes them as the ref that the mode publishes.
fn push_ref(machine: &Sandbox, mode: &str, name: &str, files: &[(&str, &str)]) {
    let desk = machine.desk("ops");
    for (path, content) in files {
        fs::write(desk.join(path), content).unwrap();
    }
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "A change"]);
    let to = format!("HEAD:refs/{}/{name}", if mode == "tags" { "tags" } else { "heads" });
    machine.git(&desk, &["push", "--quiet", "--force", "origin", &to]);
}

/// A path in the tree of a ref, as readers see it.
fn shown(machine: &Sandbox, mode: &str, name: &str, path: &str) -> PathBuf {
    let tree = match mode {
        "atomic" => machine.path(&format!("site_{name}")),
        _ => machine.path("site").join(name),
    };
    tree.join(path)
}

fn content(machine: &Sandbox, mode: &str, name: &str, path: &str) -> String {
    fs::read_to_string(shown(machine, mode, name, path)).unwrap_or_default()
}

/// Edits the configuration of `main` by hand.
fn edit(machine: &Sandbox, mode: &str) {
    fs::write(shown(machine, mode, "main", "etc/nginx.conf"), "listen 81\n").unwrap();
}

/// The directories of what repairs replaced.
fn kept(machine: &Sandbox) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(machine.private("ops", "drift")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_dir()).collect()
}

#[track_caller]
fn assert_repaired(machine: &Sandbox, mode: &str) {
    assert_eq!(content(machine, mode, "main", "etc/nginx.conf"), "listen 80\n", "{mode}");
    assert_eq!(machine.runs(), ["drift main 1 etc/nginx.conf "], "{mode}");
    let kept = kept(machine);
    let old = fs::read_to_string(kept[0].join("main/etc/nginx.conf")).unwrap();
    assert_eq!((kept.len(), old.as_str()), (1, "listen 81\n"), "{mode}");
    assert_eq!((machine.state("ops").as_str(), drifted(machine)), ("current", 0), "{mode}");
}

#[track_caller]
fn assert_not_repaired(machine: &Sandbox, mode: &str) {
    assert_eq!(content(machine, mode, "main", "etc/nginx.conf"), "listen 81\n", "{mode}");
    assert_eq!((machine.runs().len(), kept(machine).len()), (0, 0), "{mode}");
    assert_eq!(drifted(machine), 1, "{mode}: it is reported");
}

/// Whether both names are the same file.
fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[test]
fn only_the_release_that_was_edited_is_kept_and_written_anew_and_only_its_programs_run() {
    for mode in MANY {
        let keys = format!("{REPAIR}before = [\"/bin/false\"]\n");
        let machine = publishing(mode, REPAIR);
        // `before` does not count for a repair.
        set_mode(&machine, mode, &keys);
        edit(&machine, mode);
        fs::write(shown(&machine, mode, "main", "upload"), "an application's\n").unwrap();
        let stage = inode(&shown(&machine, mode, "stage", "page"));
        let since = machine.row("ops")["since"].clone();
        later(&machine);
        assert_repaired(&machine, mode);
        assert_eq!(inode(&shown(&machine, mode, "stage", "page")), stage, "{mode}: not touched");
        assert_eq!(machine.row("ops")["since"], since, "{mode}: the state did not change");
        let reason = reason(&machine);
        assert!(reason.starts_with("1 file was written anew: main/etc/nginx.conf; "), "{reason}");
        assert!(reason.ends_with(text(&kept(&machine)[0])), "{mode}: {reason}");
        let history = machine.agent(&["history", "ops", "--json"]).ok().stdout;
        assert!(history.contains("\"trigger\": \"drift\""), "{mode}: {history}");
        later(&machine);
        assert_eq!((machine.runs().len(), kept(&machine).len()), (1, 1), "{mode}: once");
    }
}

#[test]
fn a_dry_run_says_which_releases_it_would_write_anew_and_changes_nothing() {
    let machine = publishing("branches", "");
    edit(&machine, "branches");
    later(&machine);
    set_mode(&machine, "branches", REPAIR);
    let dry = machine.agent(&["tick", "--dry-run"]).ok().stdout;
    assert!(dry.contains("ops: would write 1 ref anew, of which files differ"), "{dry}");
    assert_not_repaired(&machine, "branches");
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    assert!(explained.contains("The next tick writes them anew."), "{explained}");
}

#[test]
fn of_a_release_everything_that_differs_is_kept_also_what_is_ignored_or_left() {
    let machine = publishing("branches", &format!("{REPAIR}drift_ignore = [\"version.txt\"]\n"));
    fs::write(shown(&machine, "branches", "main", "version.txt"), "2\n").unwrap();
    later(&machine);
    assert_eq!((drifted(&machine), kept(&machine).len()), (0, 0), "alone it is no drift");
    edit(&machine, "branches");
    later(&machine);
    assert_eq!(content(&machine, "branches", "main", "version.txt"), "1\n");
    assert_eq!(machine.runs(), ["drift main 1 etc/nginx.conf version.txt "]);
    let old = kept(&machine)[0].join("main");
    let read = |path: &str| fs::read_to_string(old.join(path)).unwrap();
    assert_eq!(
        (read("version.txt").as_str(), read("etc/nginx.conf").as_str()),
        ("2\n", "listen 81\n")
    );
}

#[test]
fn a_repair_of_many_keeps_each_in_its_directory_and_counts_them_together() {
    let machine = publishing("atomic", REPAIR);
    for name in ["main", "stage"] {
        fs::write(shown(&machine, "atomic", name, "page"), "by hand\n").unwrap();
    }
    later(&machine);
    let mut runs = machine.runs();
    runs.sort();
    assert_eq!(runs, ["drift main 1 page ", "drift stage 1 page "]);
    let old = kept(&machine);
    assert_eq!(old.len(), 1);
    for name in ["main", "stage"] {
        assert_eq!(content(&machine, "atomic", name, "page"), format!("{name}\n"));
        assert_eq!(fs::read_to_string(old[0].join(name).join("page")).unwrap(), "by hand\n");
    }
    let reason = reason(&machine);
    assert!(reason.starts_with("2 files were written anew: main/page …"), "{reason}");
}

#[test]
fn programs_that_fail_after_a_repair_run_again_with_the_same_paths_and_stop_no_other_ref() {
    for mode in MANY {
        let machine = publishing(mode, REPAIR);
        fs::write(machine.path("ill-main"), "").unwrap();
        edit(&machine, mode);
        let_hours_pass(&machine);
        machine.tick().exits(1);
        assert_eq!(content(&machine, mode, "main", "etc/nginx.conf"), "listen 80\n");
        assert_eq!(machine.state("ops"), "failing", "{mode}");
        // The other ref is repaired while this one waits.
        fs::write(shown(&machine, mode, "stage", "page"), "by hand\n").unwrap();
        let_hours_pass(&machine);
        machine.tick().exits(1);
        assert_eq!(machine.runs()[1..], ["drift stage 1 page "], "{mode}");
        fs::remove_file(machine.path("ill-main")).unwrap();
        wait_is_over(&machine, mode);
        machine.tick().ok();
        assert_eq!(machine.runs()[2..], ["drift main 2 etc/nginx.conf "], "{mode}");
        assert_eq!(machine.state("ops"), "current", "{mode}");
    }
}

/// Lets the wait of the failed attempt at `main` be over.
fn wait_is_over(machine: &Sandbox, mode: &str) {
    let file = machine.private("ops", "published");
    let mut book: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let name = format!("refs/{}/main", if mode == "tags" { "tags" } else { "heads" });
    book[&name]["attempt"]["next_try"] = "2020-01-01T00:00:00Z".into();
    fs::write(file, book.to_string()).unwrap();
}

#[test]
fn the_health_of_a_repaired_release_is_checked_and_the_repair_is_never_a_bad_release() {
    for mode in MANY {
        let machine = publishing(mode, REPAIR);
        let check = machine.path("check");
        let script = "#!/bin/sh\necho \"$AGENT_TRIGGER ${AGENT_REF##*/}\" >> \"$AGENT_ROOT/../checks\"\nexit 1\n";
        crate::sandbox::write_program(&check, script);
        let keys =
            format!("health = [{check:?}]\nhealth_within = \"1s\"\non_failure = \"rollback\"\n");
        set_mode(&machine, mode, &format!("{REPAIR}{keys}"));
        edit(&machine, mode);
        let_hours_pass(&machine);
        machine.tick().exits(1);
        let checks = fs::read_to_string(machine.path("checks")).unwrap();
        assert!(checks.lines().all(|line| line == "drift main"), "{mode}: {checks}");
        assert_eq!(machine.state("ops"), "failing", "{mode}");
        assert_eq!(machine.row("ops")["bad"], Value::Null, "{mode}");
        assert_eq!(content(&machine, mode, "main", "etc/nginx.conf"), "listen 80\n", "{mode}");
    }
}

#[test]
fn three_repairs_of_one_path_within_an_hour_are_reported_and_left_at_each_ref_by_itself() {
    let machine = publishing("branches", REPAIR);
    for number in 1..6 {
        edit(&machine, "branches");
        later(&machine);
        assert_eq!(machine.runs().len(), number.min(3), "{:?}", machine.runs());
    }
    assert_eq!(content(&machine, "branches", "main", "etc/nginx.conf"), "listen 81\n");
    let reason = reason(&machine);
    assert!(reason.ends_with("; repaired three times within an hour and left"), "{reason}");
    assert!(machine.agent(&["explain", "ops"]).ok().stdout.contains("a script may edit them"));
    fs::write(shown(&machine, "branches", "stage", "etc/nginx.conf"), "listen 81\n").unwrap();
    later(&machine);
    assert_eq!(machine.runs()[3..], ["drift stage 1 etc/nginx.conf "], "the same path there");
    assert_eq!(drifted(&machine), 1, "and that of main is still left");
}

#[test]
fn while_somebody_holds_it_no_release_is_repaired() {
    for mode in MANY {
        let machine = publishing(mode, REPAIR);
        edit(&machine, mode);
        machine.agent(&["hold", "ops", "a test"]).ok();
        later(&machine);
        assert_not_repaired(&machine, mode);
        let explained = machine.agent(&["explain", "ops"]).ok().stdout;
        assert!(explained.contains("They are repaired when the hold is lifted."), "{explained}");
        machine.agent(&["unhold", "ops"]).ok();
        machine.tick().ok();
        assert_repaired(&machine, mode);
    }
}

#[test]
fn the_window_holds_for_repairs_of_releases_and_a_person_passes_it() {
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let today = chrono::Datelike::weekday(&chrono::Local::now()).num_days_from_monday() as usize;
    let other = days[(today + 3) % 7];
    for mode in MANY {
        let machine = publishing(mode, &format!("{REPAIR}window = [{other:?}]\n"));
        edit(&machine, mode);
        later(&machine);
        assert_not_repaired(&machine, mode);
        let explained = machine.agent(&["explain", "ops"]).ok().stdout;
        assert!(explained.contains("They are repaired later: window opens "), "{explained}");
        machine.agent(&["tick", "ops", "--override", "now"]).ok();
        assert_repaired(&machine, mode);
    }
}

#[test]
fn a_newer_revision_that_waits_does_not_keep_a_release_from_being_repaired() {
    let machine = publishing("branches", REPAIR);
    // Refused by its own `.pmpy.toml`.
    push_ref(&machine, "branches", "main", &[(".pmpy.toml", "hold = \"not yet\"\n")]);
    machine.tick();
    edit(&machine, "branches");
    let_hours_pass(&machine);
    machine.tick();
    assert_eq!(content(&machine, "branches", "main", "etc/nginx.conf"), "listen 80\n");
    assert_eq!(machine.runs(), ["drift main 1 etc/nginx.conf "]);
    assert_eq!(machine.state("ops"), "held", "it still waits");
}

#[test]
fn on_a_full_disk_no_release_is_written_that_was_not_kept_and_others_are_repaired() {
    let machine = Sandbox::new();
    let disk = Mounted::tmpfs(&machine.root(), "size=6m");
    machine.serve("ops", &TREE);
    for name in ["main", "stage"] {
        push_ref(&machine, "branches", name, &[("page", &format!("{name}\n"))]);
    }
    set_mode(&machine, "branches", REPAIR);
    machine.tick().ok();
    fs::remove_file(machine.path("runs")).unwrap();
    let own = "x".repeat(1 << 20);
    fs::write(shown(&machine, "branches", "main", "page"), &own).unwrap();
    fs::write(shown(&machine, "branches", "stage", "page"), "small\n").unwrap();
    let ballast = machine.root().join(".pmpy/ballast");
    let free = rustix::fs::statvfs(machine.root()).unwrap();
    let free = (free.f_bavail * free.f_frsize) as usize;
    fs::write(&ballast, vec![1; free - (512 << 10)]).unwrap();
    later(&machine);
    assert_eq!(content(&machine, "branches", "main", "page").len(), own.len());
    assert_eq!(content(&machine, "branches", "stage", "page"), "stage\n");
    assert_eq!(machine.runs(), ["drift stage 1 page "]);
    let reason = reason(&machine);
    assert!(
        reason.starts_with("1 file differs") && reason.contains("; not repaired: "),
        "{reason}"
    );
    assert!(reason.contains("No space left on device"), "{reason}");
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 1, "not before the next look");
    fs::remove_file(&ballast).unwrap();
    later(&machine);
    assert_eq!(content(&machine, "branches", "main", "page"), "main\n");
    drop(disk);
}

#[test]
fn what_differed_before_a_publication_is_compared_with_the_new_release() {
    let machine = publishing("branches", "");
    edit(&machine, "branches");
    later(&machine);
    assert_eq!(drifted(&machine), 1);
    push_ref(&machine, "branches", "main", &[("page", "two\n")]);
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!((drifted(&machine), reason(&machine).as_str()), (0, ""));
}

#[test]
fn what_a_person_checked_out_is_repaired_where_refs_are_only_fetched() {
    let machine = Sandbox::new();
    machine.serve("ops", &TREE);
    set_mode(&machine, "fetch", REPAIR);
    machine.tick().ok();
    later(&machine);
    machine.agent(&["checkout", "ops", "main"]).ok();
    machine.tick().ok();
    fs::remove_file(machine.path("runs")).unwrap();
    let conf = machine.path("site/etc/nginx.conf");
    fs::write(&conf, "listen 81\n").unwrap();
    fs::write(machine.path("ill-main"), "").unwrap();
    let_hours_pass(&machine);
    machine.tick();
    assert_eq!(fs::read_to_string(&conf).unwrap(), "listen 80\n");
    assert_eq!(machine.runs(), ["drift main 1 etc/nginx.conf "]);
    let old = fs::read_to_string(kept(&machine)[0].join("etc/nginx.conf")).unwrap();
    assert_eq!(old, "listen 81\n");
    let entry = machine.row("ops")["published"][0].clone();
    assert_eq!(entry["state"], "failing", "{entry}");
    // Its programs are run again until they succeed.
    fs::remove_file(machine.path("ill-main")).unwrap();
    wait_is_over(&machine, "fetch");
    machine.tick().ok();
    assert_eq!(machine.runs()[1..], ["drift main 2 etc/nginx.conf "]);
    assert_eq!(machine.row("ops")["published"][0]["state"], "current");
}

#[test]
fn the_releases_of_another_users_clone_are_repaired_as_that_user() {
    let machine = users::machine("true\n");
    let target = machine.path("site");
    fs::create_dir(&target).unwrap();
    users::give_all(&target, 65534);
    let section = format!("[repo.ops]\nmode = \"branches\"\ntarget = {target:?}\n{REPAIR}");
    machine.configure(&section);
    machine.tick().ok();
    let script = fs::canonicalize(target.join("main/work.sh")).unwrap();
    fs::write(&script, "false\n").unwrap();
    later(&machine);
    let script = fs::canonicalize(target.join("main/work.sh")).unwrap();
    assert_eq!(fs::read_to_string(&script).unwrap(), "true\n");
    let old = kept(&machine)[0].join("main/work.sh");
    assert_eq!((crate::sandbox::owner(&script), crate::sandbox::owner(&old)), (65534, 65534));
}
