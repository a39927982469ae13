//! The kill enumeration over keep, write, run, record: the worker dies on entering each call that gives or takes a
//! name, and the next ticks repair the rest, with everything kept and every path told to the scripts.

use std::fs;

use super::*;
use crate::sandbox::wait_until;

const CALLS: [&str; 9] = [
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdirat",
    "symlink",
    "symlinkat",
    "linkat",
];

/// Runs the worker and kills it on entering `call` for the `nth` time; whether it got that far.
fn is_killed(machine: &Sandbox, call: &str, nth: usize) -> bool {
    let inject = format!("inject=?{call}:signal=SIGKILL:when={nth}");
    let mut strace = machine.command("strace");
    strace
        .args(["-o", text(&machine.path("trace")), "-e", &format!("trace=?{call}")])
        .args(["-e", &inject, "--"])
        .args(machine.agent_line(&["worker", "ops", "--trigger", "cron"]));
    Ran::of(&mut strace).code.is_none()
}

#[test]
fn a_worker_that_dies_anywhere_in_a_repair_loses_nothing() {
    let machine = machine("drift = \"repair\"\n");
    let step = if std::env::var_os("PMPY_LONG").is_some() { 1 } else { 3 };
    let (mut round, mut kills) = (0, 0);
    for call in CALLS {
        for nth in (1..).step_by(step) {
            round += 1;
            let what = format!("{call} {nth}");
            fs::remove_dir_all(machine.private("ops", "drift")).ok();
            fs::remove_file(machine.path("runs")).ok();
            let own = format!("own {round}\n");
            write(&machine, "etc/nginx.conf", &own);
            fs::remove_file(file(&machine, "etc/ssl/key")).unwrap();
            fs::remove_file(file(&machine, "version.txt")).unwrap();
            fs::create_dir(file(&machine, "version.txt")).unwrap();
            write(&machine, "version.txt/inside", &own);
            let_hours_pass(&machine);
            let is_hit = is_killed(&machine, call, nth);
            wait_until(&format!("{what}: it is repaired"), || {
                let_hours_pass(&machine);
                machine.agent(&["tick", "ops", "--trigger", "cron"]);
                let clone = machine.clone_of("ops");
                let is_clean = machine.git(&clone, &["status", "--porcelain", "-uno"]).is_empty();
                is_clean && machine.state("ops") == "current" && !machine.runs().is_empty()
            });
            let kept = machine.files_below(&machine.private("ops", "drift"));
            for path in ["etc/nginx.conf", "version.txt/inside"] {
                let has = |it: &PathBuf| {
                    let at = machine.private("ops", "drift").join(it);
                    it.ends_with(path) && fs::read_to_string(at).is_ok_and(|text| text == own)
                };
                assert!(kept.iter().any(has), "{what}: {path} is not kept: {kept:?}");
            }
            let runs = machine.runs().join("\n");
            for path in ["etc/nginx.conf", "etc/ssl/key", "version.txt"] {
                assert!(runs.contains(path), "{what}: the scripts were not told of {path}: {runs}");
            }
            assert!(!machine.private("ops", "journal").exists(), "{what}");
            assert!(!machine.currentaction("ops").exists(), "{what}");
            if !is_hit {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 5, "only {kills} kills");
}

#[test]
fn a_worker_that_dies_anywhere_in_a_repair_of_many_releases_loses_nothing() {
    let machine = published::publishing("branches", "drift = \"repair\"\n");
    let step = if std::env::var_os("PMPY_LONG").is_some() { 1 } else { 3 };
    let (mut round, mut kills) = (0, 0);
    let page = |name: &str| machine.path("site").join(name).join("page");
    for call in CALLS {
        for nth in (1..).step_by(step) {
            round += 1;
            let what = format!("{call} {nth}");
            fs::remove_dir_all(machine.private("ops", "drift")).ok();
            fs::remove_file(machine.path("runs")).ok();
            let own = format!("own {round}\n");
            for name in ["main", "stage"] {
                fs::write(page(name), &own).unwrap();
            }
            fs::remove_file(machine.path("site/main/version.txt")).unwrap();
            let_hours_pass(&machine);
            let is_hit = is_killed(&machine, call, nth);
            for name in ["main", "stage"] {
                let shown = fs::read_to_string(page(name)).unwrap();
                assert!(
                    shown == own || shown == format!("{name}\n"),
                    "{what}: {name} shows {shown}"
                );
            }
            wait_until(&format!("{what}: it is repaired"), || {
                let_hours_pass(&machine);
                machine.agent(&["tick", "ops", "--trigger", "cron"]);
                let is_right =
                    |name| fs::read_to_string(page(name)).is_ok_and(|it| it == format!("{name}\n"));
                let are_right = is_right("main") && is_right("stage");
                are_right && machine.state("ops") == "current" && machine.runs().len() >= 2
            });
            assert!(machine.path("site/main/version.txt").exists(), "{what}");
            let kept = machine.files_below(&machine.private("ops", "drift"));
            for path in ["main/page", "stage/page"] {
                let has = |it: &PathBuf| {
                    let at = machine.private("ops", "drift").join(it);
                    it.ends_with(path) && fs::read_to_string(at).is_ok_and(|text| text == own)
                };
                assert!(kept.iter().any(has), "{what}: {path} is not kept: {kept:?}");
            }
            let runs = machine.runs().join("\n");
            for (name, path) in [("main", "page version.txt"), ("stage", "page")] {
                let is_told = |run: &&str| run.contains(&format!(" {name} ")) && run.contains(path);
                assert!(runs.lines().any(|run| is_told(&run)), "{what}: {name} of {path}: {runs}");
            }
            for left in ["journal", "changed-1"] {
                assert!(!machine.private("ops", left).exists(), "{what}: {left}");
            }
            assert!(!machine.currentaction("ops").exists(), "{what}");
            if !is_hit {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 5, "only {kills} kills");
}
