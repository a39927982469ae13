//! `drift = "repair"`: what is kept, what is written anew, what runs, and when nothing of it happens.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::disk::Mounted;
use crate::idle::calls_of_a_tick;
use crate::sandbox::{wait_until, write_program};
use crate::users;

const REPAIR: &str = "drift = \"repair\"\n";

/// The directories of what repairs replaced, by time.
fn kept(machine: &Sandbox) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(machine.private("ops", "drift")) else { return Vec::new() };
    let mut all: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    all.sort();
    all
}

fn kept_count(machine: &Sandbox) -> usize {
    kept(machine).len()
}

/// That all files are those of the revision again, and the scripts ran once for `paths`.
#[track_caller]
fn assert_repaired(machine: &Sandbox, paths: &str) {
    assert_eq!(machine.git(&machine.clone_of("ops"), &["status", "--porcelain", "-uno"]), "");
    assert_eq!(machine.runs().last().unwrap(), &format!("drift {paths} "));
    assert_eq!((machine.state("ops").as_str(), drifted(machine)), ("current", 0));
}

#[track_caller]
fn assert_not_repaired(machine: &Sandbox) {
    assert_eq!(read(machine, "etc/nginx.conf"), "listen 81\n");
    assert_eq!((machine.runs().len(), kept(machine).len()), (1, 0));
    assert_eq!(drifted(machine), 1, "it is reported");
}

#[test]
fn the_changed_files_are_kept_written_anew_and_the_scripts_run_with_those_paths() {
    for mode in ["work", "in-place"] {
        let machine = Sandbox::new();
        machine.serve("ops", &FILES);
        set(&machine, &format!("mode = {mode:?}\n{REPAIR}"));
        machine.tick().ok();
        write(&machine, "etc/nginx.conf", "listen 81\n");
        fs::remove_file(file(&machine, "etc/ssl/key")).unwrap();
        fs::set_permissions(file(&machine, "version.txt"), fs::Permissions::from_mode(0o755))
            .unwrap();
        write(&machine, "etc/own.conf", "untracked\n");
        later(&machine);
        match mode {
            "work" => assert_repaired(&machine, "etc/nginx.conf etc/ssl/key version.txt"),
            _ => assert_eq!(machine.runs().len(), 0),
        }
        let mode = fs::metadata(file(&machine, "version.txt")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(read(&machine, "etc/own.conf"), "untracked\n", "untracked files stay");
        let kept = kept(&machine);
        let old = fs::read_to_string(kept[0].join("etc/nginx.conf")).unwrap();
        assert_eq!((kept.len(), old.as_str()), (1, "listen 81\n"));
        let reason = reason(&machine);
        assert!(reason.starts_with("3 files were written anew: etc/nginx.conf …"), "{reason}");
        assert!(reason.ends_with(text(&kept[0])), "the message names where they are: {reason}");
        let history = machine.agent(&["history", "ops", "--json"]).ok().stdout;
        assert!(history.contains("\"trigger\": \"drift\""), "{history}");
        machine.tick().ok();
        assert_eq!(kept_count(&machine), 1, "once");
    }
}

#[test]
fn what_was_kept_is_removed_after_thirty_days() {
    let machine = machine(REPAIR);
    let drift = machine.private("ops", "drift");
    for time in ["20200101T000000Z", "20200101T000000Z-1"] {
        fs::create_dir_all(drift.join(time)).unwrap();
        fs::write(drift.join(format!("{time}.paths")), "a\0").unwrap();
    }
    write(&machine, "etc/nginx.conf", "listen 81\n");
    later(&machine);
    let left = fs::read_dir(&drift).unwrap().count();
    assert_eq!((left, kept(&machine).len()), (2, 1), "only those of this repair");
}

#[test]
fn three_repairs_of_one_path_within_an_hour_are_reported_and_left() {
    let machine = Sandbox::new();
    let edits = format!("{WORK}echo more >> version.txt\n");
    machine.serve("ops", &[("work.sh", &edits), ("version.txt", "1\n"), ("page", "1\n")]);
    set(&machine, REPAIR);
    machine.tick().ok();
    for _ in 0..6 {
        later(&machine);
    }
    assert_eq!(machine.runs().len(), 4, "{:?}", machine.runs());
    let reason = reason(&machine);
    assert!(reason.ends_with("; repaired three times within an hour and left"), "{reason}");
    assert!(machine.agent(&["explain", "ops"]).ok().stdout.contains("a script may edit them"));
    write(&machine, "page", "2\n");
    later(&machine);
    assert_eq!(read(&machine, "page"), "1\n", "other files are repaired");
    assert_eq!(machine.runs().last().unwrap(), "drift page ");
    assert_eq!(drifted(&machine), 1, "and it is still left");
}

#[test]
fn while_somebody_holds_it_nothing_is_repaired() {
    let machine = machine(REPAIR);
    write(&machine, "etc/nginx.conf", "listen 81\n");
    machine.agent(&["hold", "ops", "a test"]).ok();
    later(&machine);
    assert_not_repaired(&machine);
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    assert!(explained.contains("They are repaired when the hold is lifted."), "{explained}");
    machine.agent(&["unhold", "ops"]).ok();
    machine.tick().ok();
    assert_repaired(&machine, "etc/nginx.conf");
}

#[test]
fn a_pinned_machine_is_repaired_to_its_pin() {
    let machine = machine(REPAIR);
    machine.push("ops", &[("etc/nginx.conf", "listen 82\n")]);
    machine.tick().ok();
    machine.agent(&["rollback", "ops"]).ok();
    write(&machine, "etc/nginx.conf", "listen 81\n");
    let_hours_pass(&machine);
    machine.tick().ok();
    assert_eq!(read(&machine, "etc/nginx.conf"), "listen 80\n");
    assert_eq!(machine.state("ops"), "pinned");
    assert_eq!(machine.runs().last().unwrap(), "drift etc/nginx.conf ");
}

#[test]
fn the_window_holds_for_repairs_and_a_person_passes_it() {
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let today = chrono::Datelike::weekday(&chrono::Local::now()).num_days_from_monday() as usize;
    let other = days[(today + 3) % 7];
    let machine = machine(&format!("{REPAIR}window = [{other:?}]\n"));
    write(&machine, "etc/nginx.conf", "listen 81\n");
    later(&machine);
    assert_not_repaired(&machine);
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    assert!(explained.contains("They are repaired later: window opens "), "{explained}");
    machine.agent(&["tick", "ops", "--override", "now"]).ok();
    assert_repaired(&machine, "etc/nginx.conf");
}

#[test]
fn a_newer_revision_that_waits_does_not_keep_the_applied_one_from_being_repaired() {
    let machine = machine(&format!("{REPAIR}min_age = \"5h\"\n"));
    machine.push("ops", &[("etc/nginx.conf", "listen 82\n")]);
    write(&machine, "etc/nginx.conf", "listen 81\n");
    later(&machine);
    assert_eq!(machine.state("ops"), "behind");
    assert_eq!(read(&machine, "etc/nginx.conf"), "listen 80\n");
}

#[test]
fn a_repair_never_writes_through_a_link_and_keeps_what_files_cannot_replace() {
    let machine = machine(REPAIR);
    let elsewhere = machine.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for name in ["key", "nginx.conf"] {
        fs::write(elsewhere.join(name), "not ours\n").unwrap();
    }
    fs::remove_dir_all(file(&machine, "etc/ssl")).unwrap();
    symlink(&elsewhere, file(&machine, "etc/ssl")).unwrap();
    fs::remove_file(file(&machine, "etc/nginx.conf")).unwrap();
    symlink(elsewhere.join("nginx.conf"), file(&machine, "etc/nginx.conf")).unwrap();
    fs::remove_file(file(&machine, "version.txt")).unwrap();
    fs::create_dir(file(&machine, "version.txt")).unwrap();
    write(&machine, "version.txt/inside", "precious\n");
    later(&machine);
    assert_repaired(&machine, "etc/nginx.conf etc/ssl/key version.txt");
    for name in ["key", "nginx.conf"] {
        assert_eq!(fs::read_to_string(elsewhere.join(name)).unwrap(), "not ours\n");
    }
    let is_link =
        |path: &str| fs::symlink_metadata(file(&machine, path)).unwrap().file_type().is_symlink();
    assert!(!is_link("etc/ssl") && !is_link("etc/nginx.conf"));
    let kept = &kept(&machine)[0];
    assert_eq!(fs::read_to_string(kept.join("version.txt/inside")).unwrap(), "precious\n");
    assert_eq!(fs::read_link(kept.join("etc/ssl")).unwrap(), elsewhere);
    assert_eq!(fs::read_link(kept.join("etc/nginx.conf")).unwrap(), elsewhere.join("nginx.conf"));
    // What is kept may belong to anybody: it stays as it was found, and no part of the clone.
    users::give_all(&kept.join("version.txt"), 65534);
    let new = machine.push("ops", &[("version.txt", "2\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(new));
}

#[test]
fn on_a_full_disk_nothing_is_written_that_was_not_kept() {
    let machine = Sandbox::new();
    let disk = Mounted::tmpfs(&machine.root(), "size=4m");
    machine.serve("ops", &[("work.sh", WORK), ("page", "1\n"), ("small", "1\n")]);
    set(&machine, REPAIR);
    machine.tick().ok();
    let own = "x".repeat(1 << 20);
    write(&machine, "page", &own);
    write(&machine, "small", "2\n");
    let ballast = machine.root().join(".pmpy/ballast");
    let free = rustix::fs::statvfs(machine.root()).unwrap();
    let free = (free.f_bavail * free.f_frsize) as usize;
    fs::write(&ballast, vec![1; free - (512 << 10)]).unwrap();
    later(&machine);
    assert_eq!(
        (read(&machine, "page").len(), read(&machine, "small").as_str()),
        (own.len(), "2\n")
    );
    assert_eq!((machine.runs().len(), kept(&machine).len()), (1, 0));
    let reason = reason(&machine);
    assert!(reason.contains("; not repaired: "), "{reason}");
    assert!(reason.contains("No space left on device"), "{reason}");
    fs::remove_file(&ballast).unwrap();
    later(&machine);
    assert_repaired(&machine, "page small");
    drop(disk);
}

#[test]
fn a_published_release_that_was_edited_is_published_anew() {
    let machine = Sandbox::new();
    machine.serve("ops", &FILES);
    let keys = format!(
        "mode = \"checkout\"\ntarget = {:?}\nafter = [\"sh\", \"work.sh\"]\n{REPAIR}",
        machine.path("site")
    );
    set(&machine, &keys);
    machine.tick().ok();
    let conf = machine.path("site/etc/nginx.conf");
    fs::write(&conf, "listen 81\n").unwrap();
    later(&machine);
    assert_eq!(fs::read_to_string(&conf).unwrap(), "listen 80\n");
    assert_eq!(machine.runs().last().unwrap(), "drift etc/nginx.conf ");
    let old = fs::read_to_string(kept(&machine)[0].join("etc/nginx.conf")).unwrap();
    assert_eq!((old.as_str(), drifted(&machine)), ("listen 81\n", 0));
}

#[test]
fn scripts_that_fail_after_a_repair_run_again_with_the_same_paths() {
    let machine = Sandbox::new();
    let fails = format!("{WORK}[ -e \"$AGENT_ROOT/../well\" ]\n");
    machine.serve("ops", &[("work.sh", &fails), ("page", "1\n")]);
    set(&machine, REPAIR);
    fs::write(machine.path("well"), "").unwrap();
    machine.tick().ok();
    fs::remove_file(machine.path("well")).unwrap();
    write(&machine, "page", "2\n");
    let_hours_pass(&machine);
    machine.tick().exits(1);
    assert_eq!(
        (machine.state("ops").as_str(), read(&machine, "page").as_str()),
        ("failing", "1\n")
    );
    fs::write(machine.path("well"), "").unwrap();
    machine.wait_is_over("ops");
    machine.tick().ok();
    assert_eq!(machine.runs()[1..], ["drift page ", "drift page "]);
    assert_eq!((machine.state("ops").as_str(), kept(&machine).len()), ("current", 1));
}

#[test]
fn the_clone_of_another_user_is_repaired_as_that_user() {
    let machine = users::machine("true\n");
    machine.configure("[defaults]\ndrift = \"repair\"\n");
    machine.tick().ok();
    let script = file(&machine, "work.sh");
    fs::write(&script, "false\n").unwrap();
    users::give_all(Path::new(&script), 65534);
    later(&machine);
    assert_eq!(fs::read_to_string(&script).unwrap(), "true\n");
    assert_eq!((crate::sandbox::owner(&script), kept(&machine).len()), (65534, 1));
    assert_eq!(crate::sandbox::owner(&kept(&machine)[0].join("work.sh")), 65534);
}

#[test]
fn an_idle_tick_that_is_not_due_pays_nothing() {
    let calls = |keys: &str| {
        let machine = machine(keys);
        later(&machine);
        machine.tick().ok();
        // The first may still find something of the ticks before, and on a busy machine threads wait for each other.
        (0..4).map(|_| calls_of_a_tick(&machine).len()).min().unwrap()
    };
    let (without, with) = (calls("drift = \"ignore\"\n"), calls(REPAIR));
    // Threads that take turns make a few calls more or less.
    assert!(with <= without + without / 20, "{with} calls instead of {without}");
    let machine = machine(REPAIR);
    later(&machine);
    let opened = calls_of_a_tick(&machine);
    assert!(!opened.iter().any(|call| call.contains("/index\"") || call.contains("nginx.conf")));
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    for (keys, words) in [
        ("drift = \"fix\"", "agent.toml:3:9"),
        ("drift_every = \"0s\"", "agent.toml:3:15"),
        ("drift_every = \"soon\"", "agent.toml:3:15"),
        ("drift_ignore = [\"/etc/passwd\"]", "never matches a file"),
        ("drift_ignore = [\"a[\"]", "is not a pattern"),
        ("mode = \"fetch\"\ndrift = \"repair\"", "\"drift\" is about what appears at a target"),
    ] {
        let machine = Sandbox::with("ops", &FILES);
        set(&machine, &format!("{keys}\n"));
        let said = machine.agent(&["tick"]).exits(2);
        let said = said.stdout + &said.stderr;
        assert!(said.contains(words), "{keys}: {said}");
    }
}

#[test]
fn what_follows_each_action_learns_that_it_was_a_repair() {
    let machine = Sandbox::new();
    machine.serve("ops", &FILES);
    let (program, said) = (machine.path("tell"), machine.path("said"));
    let script = format!("#!/bin/sh\necho $AGENT_TRIGGER $AGENT_OUTCOME >> {}\n", text(&said));
    write_program(&program, script);
    set(&machine, &format!("{REPAIR}on_action = [{program:?}]\n"));
    machine.tick().ok();
    write(&machine, "etc/nginx.conf", "listen 81\n");
    later(&machine);
    wait_until("it is told", || {
        fs::read_to_string(&said).is_ok_and(|said| said.ends_with("drift succeeded\n"))
    });
}

#[test]
fn a_repair_whose_health_fails_is_failing_and_no_bad_release() {
    for mode in ["work", "checkout"] {
        let machine = Sandbox::new();
        machine.serve("ops", &FILES);
        let target = match mode {
            "checkout" => format!("target = {:?}\n", machine.path("site")),
            _ => String::new(),
        };
        let check = machine.path("check");
        let (well, checks) = (machine.path("well"), machine.path("checks"));
        fs::write(&well, "").unwrap();
        let script = format!(
            "#!/bin/sh\necho $AGENT_TRIGGER >> {}\n[ -e {} ]\n",
            text(&checks),
            text(&well)
        );
        write_program(&check, script);
        set(
            &machine,
            &format!(
                "mode = {mode:?}\n{target}{REPAIR}health = [{check:?}]\nhealth_within = \"1s\"\n\
                 on_failure = \"rollback\"\n"
            ),
        );
        machine.tick().ok();
        let conf = match mode {
            "checkout" => machine.path("site/etc/nginx.conf"),
            _ => file(&machine, "etc/nginx.conf"),
        };
        fs::write(&conf, "listen 81\n").unwrap();
        fs::remove_file(&well).unwrap();
        let_hours_pass(&machine);
        machine.tick().exits(1);
        let row = machine.row("ops");
        assert_eq!((&row["state"], &row["bad"]), (&"failing".into(), &Value::Null), "{row:#}");
        assert_eq!(fs::read_to_string(&conf).unwrap(), "listen 80\n", "{mode}");
        fs::write(&well, "").unwrap();
        machine.wait_is_over("ops");
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{mode}");
        let checks = fs::read_to_string(&checks).unwrap();
        assert!(checks.ends_with("drift\n"), "{mode}: {checks}");
    }
}

#[test]
fn of_a_release_of_one_branch_what_is_ignored_is_kept_as_well() {
    let machine = Sandbox::new();
    machine.serve("ops", &FILES);
    let keys = format!(
        "mode = \"checkout\"\ntarget = {:?}\ndrift_ignore = [\"version.txt\"]\n{REPAIR}",
        machine.path("site")
    );
    set(&machine, &keys);
    machine.tick().ok();
    fs::write(machine.path("site/version.txt"), "2\n").unwrap();
    later(&machine);
    assert_eq!((drifted(&machine), kept_count(&machine)), (0, 0), "alone it is no drift");
    fs::write(machine.path("site/etc/nginx.conf"), "listen 81\n").unwrap();
    later(&machine);
    assert_eq!(fs::read_to_string(machine.path("site/version.txt")).unwrap(), "1\n");
    let old = kept(&machine)[0].join("version.txt");
    assert_eq!(fs::read_to_string(old).unwrap(), "2\n", "the release was replaced whole");
}
