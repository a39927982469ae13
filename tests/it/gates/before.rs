//! `before`: the programs that are asked last, in the tree that is to be applied, before anything changes.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Stdio;

use super::{WORK, assert_applied, live, machine, set};
use crate::sandbox::{Sandbox, set_mode, text, wait_until, write_program};

/// Notes where it runs and what it is told, prints, and ends as `DIR/answer` says.
const GATE: &str = "#!/bin/sh\n\
    echo \"$PWD $AGENT_TREE $AGENT_REVISION ${AGENT_PREVIOUS:-none} $(cat page)\" >> \"$AGENT_ROOT/../asked\"\n\
    echo 'not on a Friday'\n\
    exit $(cat \"$AGENT_ROOT/../answer\" 2>/dev/null || echo 0)\n";

fn answers(machine: &Sandbox, code: &str) {
    fs::write(machine.path("answer"), code).unwrap();
}

fn asked(machine: &Sandbox) -> Vec<String> {
    let text = fs::read_to_string(machine.path("asked")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The program of the machine.
fn program(machine: &Sandbox) -> String {
    let file = machine.path("may-act");
    write_program(&file, GATE);
    text(&file).to_owned()
}

#[test]
fn a_program_of_the_tree_and_one_of_the_machine_are_asked_in_the_new_tree() {
    let machine = machine("");
    let first = machine.lastaction("ops").unwrap();
    set(&machine, &format!("before = [\"bin/gate\", {:?}]", program(&machine)));
    let before = live(&machine);
    answers(&machine, "75");
    let pushed = machine.push("ops", &[("page", "two"), ("bin/gate", GATE)]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "waiting");
    assert_eq!(live(&machine), before, "nothing on the machine changed");
    let tree = machine.private("ops", "tree").join(&pushed);
    let line = format!("{0} {0} {pushed} {first} two", text(&tree));
    assert_eq!(asked(&machine), std::slice::from_ref(&line));
    answers(&machine, "0");
    machine.tick().ok();
    assert_applied(&machine, &pushed);
    assert_eq!(asked(&machine), [line.clone(), line.clone(), line]);
    assert!(!tree.exists(), "the export is removed");
}

#[test]
fn a_refusal_is_mailed_with_its_first_lines_and_asked_again_later() {
    let machine = machine("");
    set(&machine, "before = [\"bin/gate\"]");
    answers(&machine, "1");
    machine.push("ops", &[("page", "two"), ("bin/gate", GATE)]);
    let mail = machine.tick().exits(1);
    assert!(mail.stdout.contains("ops: refused"), "{mail}");
    assert!(mail.stdout.contains("    not on a Friday"), "{mail}");
    let row = machine.row("ops");
    assert_eq!((&row["state"], &row["attempt"]), (&"refused".into(), &1.into()));
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.starts_with("before: bin/gate exited 1 at"), "{reason}");
    assert!(!reason.contains("Friday"));
    let text = machine.agent(&["explain", "ops"]).stdout;
    assert!(text.contains("not on a Friday"), "{text}");
    machine.tick().exits(1);
    assert_eq!(asked(&machine).len(), 1, "it waits its minute");
    machine.wait_is_over("ops");
    machine.tick().exits(1);
    assert_eq!((asked(&machine).len(), &machine.row("ops")["attempt"]), (2, &2.into()));
    let logs = machine.root().join(".pmpy/log/ops");
    let count = || machine.files_below(&logs).len();
    assert_eq!(count(), 2, "one log of the first action, one of the question");
    // Another revision opens it, and its scripts begin with attempt 1.
    answers(&machine, "0");
    let next = machine.push("ops", &[("work.sh", "[ \"$AGENT_ATTEMPT\" = 1 ]\n")]);
    machine.tick().ok();
    assert_applied(&machine, &next);
}

#[test]
fn it_is_asked_once_for_each_revision_while_it_says_yes() {
    let machine = machine("");
    set(&machine, "before = [\"bin/gate\"]");
    fs::write(machine.path("bad"), "").unwrap();
    machine.push("ops", &[("page", "two"), ("bin/gate", GATE)]);
    machine.tick().exits(1);
    machine.wait_is_over("ops");
    machine.tick().exits(1);
    fs::remove_file(machine.path("bad")).unwrap();
    machine.wait_is_over("ops");
    machine.tick().ok();
    machine.agent(&["redo", "ops"]).ok();
    assert_eq!(asked(&machine).len(), 1);
    // A local change in the way: asked before, and not again once it is gone.
    fs::write(machine.clone_of("ops").join("page"), "mine").unwrap();
    machine.push("ops", &[("page", "three")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "dirty");
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "--", "page"]);
    machine.tick().ok();
    assert_eq!(asked(&machine).len(), 2);
}

#[test]
fn not_now_is_asked_each_tick_for_ten_minutes_and_then_every_five() {
    let machine = machine("");
    set(&machine, &format!("before = [{:?}]", program(&machine)));
    answers(&machine, "75");
    machine.push("ops", &[("page", "two")]);
    for _ in 0..3 {
        machine.tick().ok();
    }
    assert_eq!(asked(&machine).len(), 3);
    let file = machine.private("ops", "state");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let since = chrono::Utc::now() - chrono::TimeDelta::minutes(11);
    state["attempt"]["since"] = since.to_rfc3339().into();
    fs::write(&file, state.to_string()).unwrap();
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(asked(&machine).len(), 4);
    machine.wait_is_over("ops");
    machine.tick().ok();
    assert_eq!(asked(&machine).len(), 5);
}

#[test]
fn it_works_in_every_mode() {
    for mode in ["work", "in-place", "checkout", "branches", "atomic"] {
        let machine = Sandbox::with("ops", &[("page", "one"), ("work.sh", WORK)]);
        let target = machine.path("sites");
        if mode == "branches" {
            fs::create_dir(&target).unwrap();
        }
        let shown = match mode {
            "work" | "in-place" => machine.clone_of("ops").join("page"),
            "checkout" => target.join("page"),
            "branches" => target.join("main/page"),
            _ => machine.path("sites_main/page"),
        };
        let target = if mode.starts_with(['w', 'i']) {
            String::new()
        } else {
            format!("target = {target:?}")
        };
        set(
            &machine,
            &format!(
                "mode = \"{mode}\"\n{target}\nbefore = [\"bin/gate\", {:?}]",
                program(&machine)
            ),
        );
        machine.push("ops", &[("bin/gate", GATE)]);
        machine.tick().ok();
        assert_eq!(fs::read_to_string(&shown).unwrap(), "one", "{mode}");
        for (code, state, exit) in [("75", "waiting", 0), ("1", "refused", 1)] {
            answers(&machine, code);
            machine.push("ops", &[("page", &format!("{mode} {code}"))]);
            machine.tick().exits(exit);
            assert_eq!(machine.state("ops"), state, "{mode}");
            assert_eq!(fs::read_to_string(&shown).unwrap(), "one", "{mode}");
        }
        answers(&machine, "0");
        machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        assert_eq!(fs::read_to_string(&shown).unwrap(), "two", "{mode}");
        assert!(
            asked(&machine).iter().all(|line| line.split(' ').next() == line.split(' ').nth(1))
        );
    }
}

#[test]
fn a_tag_that_is_followed_is_passed_by_its_full_name() {
    let machine = machine("");
    let gate = "#!/bin/sh\necho \"$AGENT_REF\" >> \"$AGENT_ROOT/../asked\"\n";
    machine.push("ops", &[("bin/gate", gate)]);
    machine.git(&machine.desk("ops"), &["tag", "v1.0"]);
    machine.git(&machine.desk("ops"), &["push", "--quiet", "origin", "v1.0"]);
    set(&machine, "tag = \"v*\"\nbefore = [\"bin/gate\"]");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(asked(&machine), ["refs/tags/v1.0"]);
}

#[test]
fn a_program_that_is_missing_or_cannot_be_executed_refuses() {
    let machine = machine("");
    let file = machine.path("no-program");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    set_mode(&file, 0o644);
    machine.push("ops", &[("page", "two")]);
    for (program, said) in
        [("bin/gone", "bin/gone"), (text(&file), "no-program"), ("/no/such", "/no/such")]
    {
        set(&machine, &format!("before = [{program:?}]"));
        machine.agent(&["tick", "ops"]).exits(1);
        let row = machine.row("ops");
        assert_eq!(row["state"], "refused", "{row:#}");
        assert!(row["reason"].as_str().unwrap().contains(said), "{row:#}");
    }
}

#[test]
fn a_program_that_others_may_write_makes_the_repository_broken() {
    let machine = machine("");
    let file = program(&machine);
    chown(&file, Some(4711), None).unwrap();
    set(&machine, &format!("before = [{file:?}]"));
    machine.push("ops", &[("page", "two")]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken", "{row:#}");
    assert_eq!(asked(&machine), [""; 0]);
}

#[test]
fn one_that_hangs_is_ended_with_all_that_it_started() {
    let machine = machine("");
    let gate = "#!/bin/sh\nsleep 4711 &\necho $! > \"$AGENT_ROOT/../child\"\nsleep 4711\n";
    set(&machine, "before = [\"bin/gate\"]\ntimeout = \"1s\"");
    machine.push("ops", &[("bin/gate", gate)]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "refused");
    assert!(row["reason"].as_str().unwrap().contains("timed out"), "{row:#}");
    let child = fs::read_to_string(machine.path("child")).unwrap();
    let alive = format!("/proc/{}", child.trim());
    wait_until("its child is gone", || !std::path::Path::new(&alive).exists());
}

#[test]
fn a_flood_of_output_is_cut_in_its_log() {
    let machine = machine("");
    set(&machine, "before = [\"bin/gate\"]");
    let gate = "head -c 300000000 /dev/zero | tr '\\0' x; echo; exit 1\n";
    machine.push("ops", &[("bin/gate", gate)]);
    machine.tick().exits(1);
    let logs = machine.root().join(".pmpy/log/ops");
    let sizes =
        machine.files_below(&logs).into_iter().map(|it| fs::metadata(logs.join(it)).unwrap().len());
    assert!(sizes.max().unwrap() < 11_000_000);
}

#[test]
fn a_worker_that_died_while_it_asked_leaves_nothing_and_it_is_asked_again() {
    let machine = machine("");
    let gate = "#!/bin/sh\necho $PPID > \"$AGENT_ROOT/../worker\"\nwhile [ -e \"$AGENT_ROOT/../wait\" ]; do sleep 0.05; done\n";
    set(&machine, "before = [\"bin/gate\"]");
    fs::write(machine.path("wait"), "").unwrap();
    let pushed = machine.push("ops", &[("bin/gate", gate)]);
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    let mut tick =
        tick.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is asked", || {
        fs::read_to_string(machine.path("worker")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    assert!(!machine.currentaction("ops").exists());
    assert_eq!(machine.state("ops"), "acting");
    let worker = fs::read_to_string(machine.path("worker")).unwrap();
    let worker = rustix::process::Pid::from_raw(worker.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    tick.wait().unwrap();
    assert_eq!(machine.state("ops"), "acting", "the program goes on, and no second one is started");
    fs::remove_file(machine.path("wait")).unwrap();
    wait_until("it is applied", || {
        machine.tick();
        machine.lastaction("ops").as_deref() == Some(&pushed)
    });
}
