//! What somebody may have planted, a dying disk may have left, or git may have in store: nothing of
//! it may hang a tick, end it, or reach beyond the repository.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    machine
}

/// What may stand where a small file of ours should be.
const ODDITIES: [&str; 6] = ["empty", "garbage", "huge", "fifo", "link", "folder"];

/// Puts the oddity `kind` at `path`.
fn plant(machine: &Sandbox, kind: &str, path: &Path) {
    let _ = fs::remove_file(path);
    match kind {
        "empty" => fs::write(path, "").unwrap(),
        "garbage" => fs::write(path, b"\xff\x00{\"\x1b[2J\nnonsense").unwrap(),
        "huge" => File::create(path).unwrap().set_len(1 << 30).unwrap(),
        "fifo" => drop(Ran::of(machine.command("mkfifo").arg(path)).ok()),
        "link" => symlink("/etc/passwd", path).unwrap(),
        "folder" => {
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
fn tick(machine: &Sandbox) -> Ran {
    let line = machine.agent_line(&["tick", "--trigger", "cron"]);
    let ran = Ran::of(machine.command("timeout").args(["--signal=KILL", "20"]).args(&line));
    assert!(matches!(ran.code, Some(0 | 1)), "{ran}");
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
    ran
}

/// How often an action ended.
fn ended(machine: &Sandbox) -> usize {
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
    plant(&machine, "folder", &record);
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
fn a_damaged_memory_is_put_aside_or_told() {
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
fn a_poll_that_cannot_be_written_is_told() {
    let machine = machine();
    let file = machine.private("ops", "poll");
    plant(&machine, "folder", &{
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
fn a_journal_that_cannot_be_read_is_put_right_or_told() {
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
fn a_history_or_log_folder_in_ruins_does_not_stop_the_work() {
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
fn whatever_stands_at_currentaction_holds() {
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
fn folders_that_are_no_repositories_are_passed_over() {
    let machine = machine();
    fs::create_dir(machine.root().join("notes")).unwrap();
    fs::create_dir(machine.root().join(".hidden")).unwrap();
    fs::write(machine.root().join("file"), "x").unwrap();
    symlink("/nowhere", machine.root().join("dangling")).unwrap();
    tick(&machine).ok();
    assert_eq!(machine.status()["repositories"].as_array().unwrap().len(), 1);
}

#[test]
fn a_repository_under_two_names_is_one() {
    let machine = machine();
    symlink(machine.clone_of("ops"), machine.root().join("zz-alias")).unwrap();
    tick(&machine).ok();
    assert_eq!(machine.status()["repositories"].as_array().unwrap().len(), 1);
}

#[test]
fn repositories_with_odd_names_are_worked_on_like_any_other() {
    let machine = machine();
    let odd: [(&[u8], &str); 5] = [
        (b"with space", "with space"),
        (b"new\nline", "new\\nline"),
        (b"not-\xff-utf8", "not-\\xff-utf8"),
        (b"$(touch canary)", "$(touch canary)"),
        (b"-rf", "-rf"),
    ];
    for (name, _) in odd {
        let path = machine.root().join(OsStr::from_bytes(name));
        fs::rename(machine.clone_of("ops"), &path).unwrap();
        machine.clone_to_root("ops");
    }
    let revision = machine.push("ops", &[("page", "two\n")]);
    tick(&machine).ok();
    for (name, shown) in odd {
        let path = machine.root().join(OsStr::from_bytes(name));
        assert_eq!(machine.git(&path, &["rev-parse", "HEAD"]), revision, "{shown}");
        assert_eq!(machine.row(shown)["state"], "current", "{shown}");
        machine.agent(&["log", "--", shown]).ok();
        machine.agent(&["hold", "--", shown, "x"]).ok();
        machine.agent(&["unhold", "--", shown]).ok();
    }
    let text = machine.agent(&["status"]).ok().stdout;
    assert!(text.lines().any(|line| line.starts_with("new\\nline")), "{text}");
}

#[test]
fn paths_with_odd_names_arrive_as_they_are() {
    let machine = machine();
    let names: [&[u8]; 4] = [b"with space", b"$(id)", b"-rf", "ünïcode".as_bytes()];
    machine.push_with("ops", |desk| {
        for name in names {
            fs::write(desk.join(OsStr::from_bytes(name)), name).unwrap();
        }
        symlink("page", desk.join("link")).unwrap();
    });
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.differences("ops"), "");
}

#[test]
fn a_shallow_clone_follows_like_any_other() {
    let machine = machine();
    machine.push("ops", &[("page", "two\n")]);
    fs::remove_dir_all(machine.clone_of("ops")).unwrap();
    let url = format!("file://{}", text(&machine.server("ops")));
    machine.git(&machine.root(), &["clone", "--quiet", "--depth", "1", &url, "ops"]);
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
    for page in ["three\n", "four\n"] {
        let revision = machine.push("ops", &[("page", page)]);
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(revision));
        assert_eq!(machine.state("ops"), "current");
        assert_eq!(machine.differences("ops"), "");
    }
}

#[test]
fn a_sha256_repository_follows_like_any_other() {
    let machine = Sandbox::new();
    let (server, desk) = (machine.server("ops"), machine.desk("ops"));
    let init = ["init", "--quiet", "--object-format=sha256", "--initial-branch=main"];
    machine.git(&machine.root(), &[&init[..], &["--bare", text(&server)]].concat());
    machine.git(&machine.root(), &[&init[..], &[text(&desk)]].concat());
    machine.git(&desk, &["remote", "add", "origin", text(&server)]);
    machine.push("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.clone_to_root("ops");
    tick(&machine).ok();
    let revision = machine.push("ops", &[("page", "two\n")]);
    tick(&machine).ok();
    assert_eq!(revision.len(), 64);
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.differences("ops"), "");
    assert_eq!(ended(&machine), 2);
}

#[test]
fn a_reftable_is_broken_with_the_remedy() {
    let machine = machine();
    let clone = machine.clone_of("ops");
    let migrate = |format: &str| {
        let option = format!("--ref-format={format}");
        Ran::of(machine.command("git").current_dir(&clone).args(["refs", "migrate", &option]))
    };
    if migrate("reftable").code != Some(0) {
        // This git is older than reftables; a newer one on the same disk would have written this.
        machine.git(&clone, &["config", "core.repositoryFormatVersion", "1"]);
        machine.git(&clone, &["config", "extensions.refStorage", "reftable"]);
        tick(&machine).exits(1);
        assert_eq!(machine.state("ops"), "broken");
        return;
    }
    tick(&machine).exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken");
    assert!(row["reason"].to_string().contains("git refs migrate --ref-format=files"), "{row:#}");
    migrate("files").ok();
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn nothing_of_the_repositorys_own_configuration_is_run() {
    let machine = machine();
    let clone = machine.clone_of("ops");
    let canary = machine.path("canary");
    let touch = format!("touch {}", text(&canary));
    for hook in ["pre-merge-commit", "post-merge", "post-checkout", "reference-transaction"] {
        let path = clone.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{touch}\n")).unwrap();
        crate::sandbox::set_mode(&path, 0o755);
    }
    for key in ["core.fsmonitor", "filter.x.smudge", "filter.x.clean", "core.sshCommand"] {
        machine.git(&clone, &["config", key, &touch]);
    }
    let _ = fs::remove_file(&canary);
    machine.push("ops", &[(".gitattributes", "* filter=x\n"), ("page", "two\n")]);
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
    assert!(!canary.exists());
    assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "two\n");
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
        if machine.lastaction("ops").as_ref() != Some(&revision) {
            assert_eq!(machine.head("ops"), head, "{lock:?}");
            assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "one\n", "{lock:?}");
            assert!(!clone.join("new").exists(), "{lock:?}");
            assert!(machine.row("ops")["reason"].to_string().contains("lock"), "{lock:?}");
            assert!(lock.exists(), "it may be in use");
            fs::remove_file(&lock).unwrap();
            tick(&machine).ok();
        }
        assert_eq!(machine.lastaction("ops"), Some(revision), "{lock:?}");
        assert_eq!(machine.differences("ops"), "", "{lock:?}");
    }
}

#[test]
fn a_lock_that_is_old_and_nobodys_is_removed() {
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
        let ran = machine.agent(command).exits(1);
        assert!(ran.stderr.contains("there is no repository \"opps\""), "{ran}");
        assert!(ran.stderr.contains("hint: there are: ops"), "{ran}");
    }
}
