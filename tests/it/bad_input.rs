//! What somebody may have planted, a dying disk may have left, or git may have in store: nothing of
//! it may hang a tick, end it, or reach beyond the repository.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, set_mode};

pub(crate) fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    machine
}

/// What may stand where a small file of ours should be.
const ODDITIES: [&str; 6] = ["empty", "garbage", "huge", "fifo", "link", "directory"];

/// Puts the oddity `kind` at `path`.
fn plant(machine: &Sandbox, kind: &str, path: &Path) {
    let _ = fs::remove_file(path);
    match kind {
        "empty" => fs::write(path, "").unwrap(),
        "garbage" => fs::write(path, b"\xff\x00{\"\x1b[2J\nnonsense").unwrap(),
        "huge" => File::create(path).unwrap().set_len(1 << 30).unwrap(),
        "fifo" => drop(Ran::of(machine.command("mkfifo").arg(path)).ok()),
        "link" => symlink("/etc/passwd", path).unwrap(),
        "directory" => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), "x").unwrap();
        }
        other => panic!("{other}"),
    }
}

fn unplant(path: &Path) {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// One tick, which must end by itself.
#[track_caller]
pub(crate) fn tick(machine: &Sandbox) -> Ran {
    let line = machine.agent_line(&["tick", "--trigger", "cron"]);
    let ran = Ran::of(machine.command("timeout").args(["--signal=KILL", "20"]).args(&line));
    assert!(matches!(ran.code, Some(0 | 1)), "{ran}");
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
    ran
}

/// How often an action ended.
pub(crate) fn ended(machine: &Sandbox) -> usize {
    machine.runs().iter().filter(|run| run.starts_with("end ")).count()
}

#[test]
fn a_lastaction_that_names_nothing_means_act_again_and_is_replaced() {
    let machine = machine();
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    for (number, kind) in (2..).zip(["empty", "garbage", "huge", "fifo", "link"]) {
        plant(&machine, kind, &record);
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")), "{kind}");
        assert!(record.symlink_metadata().unwrap().is_file(), "{kind}");
        assert_eq!(ended(&machine), number, "{kind}");
    }
    assert!(fs::read_to_string("/etc/passwd").unwrap().contains("root"));
}

#[test]
fn a_lastaction_that_cannot_be_replaced_stops_before_any_script_runs() {
    let machine = machine();
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    plant(&machine, "directory", &record);
    tick(&machine).exits(1);
    tick(&machine).exits(1);
    assert_eq!(ended(&machine), 1, "no script runs that could not be recorded");
    let row = machine.row("ops");
    assert!(row["reason"].to_string().contains("lastaction.txt"), "{row:#}");
    unplant(&record);
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_damaged_state_file_is_put_aside_or_reported() {
    for kind in ODDITIES {
        let machine = machine();
        let file = machine.private("ops", "state");
        plant(&machine, kind, &file);
        let revision = machine.push("ops", &[("page", kind)]);
        tick(&machine);
        if machine.state("ops") == "broken" {
            assert!(machine.row("ops")["reason"].to_string().contains("pmpy/state"), "{kind}");
            unplant(&file);
            tick(&machine).ok();
        }
        assert_eq!(machine.lastaction("ops"), Some(revision), "{kind}");
        assert_eq!(machine.state("ops"), "current", "{kind}");
    }
}

#[test]
fn a_poll_that_cannot_be_read_counts_as_never_asked() {
    for kind in ["empty", "garbage", "huge", "fifo", "link"] {
        let machine = machine();
        plant(&machine, kind, &machine.private("ops", "poll"));
        let revision = machine.push("ops", &[("page", kind)]);
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{kind}");
    }
}

#[test]
fn a_poll_that_cannot_be_written_is_reported() {
    let machine = machine();
    let file = machine.private("ops", "poll");
    plant(&machine, "directory", &{
        unplant(&file);
        file.clone()
    });
    machine.push("ops", &[("page", "two\n")]);
    let ran = tick(&machine).exits(1);
    assert!(ran.stdout.starts_with("ops: failing"), "{ran}");
    assert!(ran.stdout.contains("pmpy/poll"), "{ran}");
    unplant(&file);
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_hold_that_cannot_be_read_holds_until_it_is_lifted() {
    for kind in ["empty", "garbage", "huge", "fifo", "link"] {
        let machine = machine();
        plant(&machine, kind, &machine.private("ops", "hold"));
        machine.push("ops", &[("page", kind)]);
        tick(&machine).ok();
        let since = machine.row("ops")["since"].clone();
        tick(&machine).ok();
        assert_eq!(machine.state("ops"), "held", "{kind}");
        assert_eq!(machine.row("ops")["since"], since, "{kind}: it does not begin anew each time");
        machine.agent(&["unhold", "ops"]).ok();
        tick(&machine).ok();
        assert_eq!(machine.state("ops"), "current", "{kind}");
    }
}

#[test]
fn a_pin_that_cannot_be_read_stops_until_it_is_lifted() {
    for kind in ["empty", "garbage", "fifo", "link"] {
        let machine = machine();
        plant(&machine, kind, &machine.private("ops", "pin"));
        machine.push("ops", &[("page", kind)]);
        tick(&machine).exits(1);
        assert_eq!(machine.state("ops"), "broken", "{kind}");
        machine.agent(&["unhold", "ops"]).ok();
        tick(&machine).ok();
        assert_eq!(machine.state("ops"), "current", "{kind}");
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_put_right_or_reported() {
    for kind in ODDITIES {
        let machine = machine();
        let file = machine.private("ops", "journal");
        plant(&machine, kind, &file);
        let revision = machine.push("ops", &[("page", kind)]);
        tick(&machine);
        if machine.state("ops") == "broken" {
            assert!(machine.row("ops")["reason"].to_string().contains("pmpy/journal"), "{kind}");
            unplant(&file);
            tick(&machine).ok();
        }
        assert_eq!(machine.lastaction("ops"), Some(revision), "{kind}");
    }
}

#[test]
fn a_history_or_log_directory_in_ruins_does_not_stop_the_work() {
    for kind in ["empty", "garbage"] {
        let machine = machine();
        plant(&machine, kind, &machine.private("ops", "history"));
        let revision = machine.push("ops", &[("page", kind)]);
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{kind}");
        assert_eq!(machine.agent(&["history", "ops"]).ok().stdout.lines().count(), 1, "{kind}");
    }
}

#[test]
fn whatever_is_at_currentaction_holds() {
    for kind in ["empty", "garbage", "huge", "fifo", "link"] {
        let machine = machine();
        plant(&machine, kind, &machine.currentaction("ops"));
        machine.push("ops", &[("page", kind)]);
        tick(&machine).ok();
        assert_eq!(machine.state("ops"), "held", "{kind}");
        assert_eq!(ended(&machine), 1, "{kind}");
        machine.agent(&["unhold", "ops"]).ok();
        tick(&machine).ok();
        assert_eq!(machine.state("ops"), "current", "{kind}");
    }
    assert!(fs::read_to_string("/etc/passwd").unwrap().contains("root"));
}

#[test]
fn a_directory_of_records_that_is_missing_is_made_and_one_that_cannot_be_is_reported() {
    let machine = machine();
    let temp = machine.clone_of("ops").join(".temp");
    fs::remove_dir_all(&temp).unwrap();
    for kind in ["garbage", "fifo", "link"] {
        plant(&machine, kind, &temp);
        let (acted, ended) = (machine.head("ops"), ended(&machine));
        let revision = machine.push("ops", &[("page", kind)]);
        for _ in 0..2 {
            tick(&machine).exits(1);
            let row = machine.row("ops");
            assert!(row["reason"].to_string().contains("/.temp"), "{kind}: {row:#}");
        }
        assert_eq!((machine.head("ops"), self::ended(&machine)), (acted, ended), "{kind}");
        unplant(&temp);
        // The first makes the directories; with them went the record, so it acts again.
        tick(&machine).ok();
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{kind}");
        fs::remove_dir_all(&temp).unwrap();
    }
}

#[test]
fn a_directory_of_records_that_is_read_only_stops_before_any_script_runs() {
    use crate::disk::Mounted;
    let machine = machine();
    let dir = machine.clone_of("ops").join(".temp/nodeinfo");
    let mounted = Mounted::bind(&dir, &dir);
    mounted.remount("bind,ro");
    let revision = machine.push("ops", &[("page", "two\n")]);
    for _ in 0..2 {
        tick(&machine).exits(1);
        let reason = machine.row("ops")["reason"].to_string();
        assert!(reason.contains(".temp/nodeinfo/"), "{reason}");
        assert!(reason.contains("make the file system writable"), "{reason}");
        assert_eq!(ended(&machine), 1);
        assert_eq!(machine.differences("ops"), "");
    }
    mounted.remount("bind,rw");
    tick(&machine).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(ended(&machine), 2);
}

#[test]
fn the_machines_own_files_may_be_lost() {
    for name in ["status.json", "reported.json", "last-tick"] {
        for kind in ["empty", "garbage"] {
            let machine = machine();
            plant(&machine, kind, &machine.root().join(".pmpy").join(name));
            let revision = machine.push("ops", &[("page", kind)]);
            tick(&machine).ok();
            assert_eq!(machine.lastaction("ops"), Some(revision), "{name} {kind}");
            assert_eq!(machine.status()["healthy"], true, "{name} {kind}");
        }
    }
}

#[test]
fn a_part_that_would_lead_elsewhere_is_refused_for_all() {
    let machine = machine();
    let nodeinfo = machine.root().join(".pmpy/nodeinfo");
    fs::create_dir_all(&nodeinfo).unwrap();
    for word in ["../x", "a/b", "-rf", ".hidden", "a b", "\u{1b}[2J"] {
        fs::write(nodeinfo.join("nodepart.txt"), word).unwrap();
        let ran = tick(&machine).exits(1);
        assert!(ran.stderr.contains("nodepart.txt"), "{ran}");
        assert!(ran.stderr.contains("hint: "), "{ran}");
    }
    fs::write(nodeinfo.join("nodepart.txt"), "  web-1.a_B\n\n").unwrap();
    tick(&machine).ok();
    assert_eq!(machine.status()["part"], "web-1.a_B");
}

#[test]
fn the_stack_type_wins_over_the_stack_key() {
    let machine = machine();
    let nodeinfo = machine.root().join(".pmpy/nodeinfo");
    fs::create_dir_all(&nodeinfo).unwrap();
    fs::write(nodeinfo.join("stackkey.txt"), "key\n").unwrap();
    assert_eq!(machine.status()["stack"], "key");
    fs::write(nodeinfo.join("stacktype.txt"), "type\n").unwrap();
    assert_eq!(machine.status()["stack"], "type");
}

#[test]
fn what_is_wrong_in_a_pushed_pattern_cannot_steer_the_terminal() {
    let text = "paths = [\"[\\u001b-\\u0001]\"]\n";
    let printed = pmpy::config::TreeSettings::parse(text).unwrap_err();
    assert!(printed.contains("is not a pattern: invalid range"), "{printed}");
    assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{printed:?}");
}

#[test]
fn a_root_may_be_named_by_a_relative_path() {
    let machine = machine();
    let revision = machine.push("ops", &[("page", "two\n")]);
    let mut tick = machine.command(env!("CARGO_BIN_EXE_agent"));
    Ran::of(tick.args(["--root", "root", "tick"])).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.differences("ops"), "");
    let mut status = machine.command(env!("CARGO_BIN_EXE_agent"));
    let status = status.current_dir(machine.clone_of("ops")).env("AGENT_ROOT", "..");
    assert!(Ran::of(status.args(["status", "--oneline"])).ok().stdout.starts_with("ops current"));
}

#[test]
fn a_lock_of_somebody_who_works_here_stops_before_anything_is_written() {
    for lock in ["index.lock", "refs/heads/main.lock", "HEAD.lock", "packed-refs.lock"] {
        let machine = machine();
        let clone = machine.clone_of("ops");
        let (head, lock) = (machine.head("ops"), clone.join(".git").join(lock));
        fs::write(&lock, "").unwrap();
        let revision = machine.push("ops", &[("page", "two\n"), ("new", "two\n")]);
        tick(&machine);
        assert_ne!(machine.lastaction("ops").as_ref(), Some(&revision), "{lock:?}");
        assert_eq!(machine.head("ops"), head, "{lock:?}");
        assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "one\n", "{lock:?}");
        assert!(!clone.join("new").exists(), "{lock:?}");
        assert!(machine.row("ops")["reason"].to_string().contains("lock"), "{lock:?}");
        assert!(lock.exists(), "{lock:?} may be in use");
        fs::remove_file(&lock).unwrap();
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{lock:?}");
        assert_eq!(machine.differences("ops"), "", "{lock:?}");
    }
}

#[test]
fn a_lock_that_is_old_and_held_by_no_process_is_removed() {
    let machine = machine();
    let lock = machine.clone_of("ops").join(".git/index.lock");
    let eleven_minutes_ago = SystemTime::now() - Duration::from_secs(660);
    File::create(&lock).unwrap().set_modified(eleven_minutes_ago).unwrap();
    let revision = machine.push("ops", &[("page", "two\n")]);
    tick(&machine).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert!(!lock.exists());
}

#[test]
fn a_configuration_in_ruins_is_broken_and_names_what() {
    let machine = machine();
    fs::write(machine.clone_of("ops").join(".git/config"), "[core\n").unwrap();
    tick(&machine).exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken", "{row:#}");
    assert!(row["reason"].as_str().is_some_and(|reason| reason.contains("config")), "{row:#}");
}

#[test]
fn an_unknown_repository_is_a_sentence_with_the_known_ones() {
    let machine = machine();
    for command in [
        &["tick", "opps"][..],
        &["redo", "opps"],
        &["hold", "opps"],
        &["log", "opps"],
        &["explain", "opps"],
    ] {
        let ran = machine.agent(command).exits(2);
        assert!(ran.stderr.contains("there is no repository \"opps\""), "{ran}");
        assert!(ran.stderr.contains("hint: there are: ops"), "{ran}");
    }
}

#[test]
fn records_that_others_could_write_break_it_until_that_is_put_right() {
    type Loosen = fn(&Path);
    let loosen: [Loosen; 3] = [
        |path| set_mode(path, 0o777),
        |path| chown(path, Some(1), None).unwrap(),
        |path| {
            let mut setfacl = Command::new("setfacl");
            Ran::of(setfacl.args(["-m", "u:daemon:rwx"]).arg(path)).ok();
        },
    ];
    for part in [".temp", ".temp/nodeinfo"] {
        for loosen in loosen {
            let machine = machine();
            let path = machine.clone_of("ops").join(part);
            loosen(&path);
            let revision = machine.push("ops", &[("page", "two\n")]);
            let printed = tick(&machine).exits(1).stdout;
            assert!(
                printed.contains("ops: broken") && printed.contains(path.to_str().unwrap()),
                "{printed}"
            );
            let remedy = printed.split("then: ").nth(1).unwrap().lines().next().unwrap();
            Ran::of(machine.command("sh").args(["-c", remedy])).ok();
            machine.tick().ok();
            assert_eq!(machine.lastaction("ops"), Some(revision), "{remedy}");
        }
    }
}

#[test]
fn a_lastaction_that_others_can_write_says_nothing() {
    let machine = machine();
    let file = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    for (loosen, runs) in [(0o666, 2), (0o644, 2)] {
        set_mode(&file, loosen);
        machine.tick().ok();
        assert_eq!(ended(&machine), runs, "{loosen:o}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
