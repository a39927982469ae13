//! `agent demo` on machines as they are: under cron's environment, without git, with a git that
//! fails silently.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::sandbox::{Ran, Sandbox, text, write_program};

/// Runs the demo with nothing in its environment but PATH and where temporary files go: no HOME, no
/// terminal.
fn demo(machine: &Sandbox, search_path: &str) -> Ran {
    fs::create_dir_all(machine.path("tmp")).unwrap();
    let line = [env!("CARGO_BIN_EXE_agent"), "demo"];
    let mut command = machine.command(line[0]);
    command.env_clear().env("PATH", search_path).env("TMPDIR", machine.path("tmp")).arg(line[1]);
    Ran::of(&mut command)
}

fn assert_nothing_is_left(machine: &Sandbox) {
    assert_eq!(machine.files_below(&machine.path("tmp")), Vec::<&Path>::new());
    assert_eq!(fs::read_dir(machine.path("tmp")).unwrap().count(), 0);
}

fn usual_path() -> String {
    std::env::var("PATH").unwrap()
}

/// Where the program `name` is.
fn program(machine: &Sandbox, name: &str) -> String {
    let found = Ran::of(machine.command("bash").args(["-c", &format!("command -v {name}")])).ok();
    found.stdout.trim_end().to_owned()
}

#[test]
fn the_demo_shows_the_whole_story_and_leaves_nothing_behind() {
    let machine = Sandbox::new();
    let ran = demo(&machine, &usual_path()).ok();
    for part in [
        "$ agent --root gitrepo init ops=$PWD/ops.git\n",
        "release 1 is live on ",
        "ops: failing (was current): ",
        "    no such table: bonkles\n",
        "ops: dirty (was current): local changes in the way: bin/work/common/work.sh; to keep them, ",
        "held (database migration)",
        "$ kill -KILL ",
        "half of it is copied\nall of it is copied\n",
        ": going back to ",
        "ops: rewritten (was current): ",
        "Release 7, rewritten",
        "ops: rolled-back (was current): ",
        "$ cat page\nWelcome\n",
        "(min_age)",
        "current  2  web1/",
        "$ agent --root gitrepo history\n",
        "agent init /srv/git/ops.git --part web",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is missing\n{ran}");
    }
    let copied = ran.stdout.matches("half of it is copied\nall of it is copied\n").count();
    assert_eq!(copied, 2, "in the log, and again when it ran for accept\n{ran}");
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\u{1b}'), "no colours in a pipe\n{ran}");
    assert_nothing_is_left(&machine);
}

#[test]
fn without_git_the_demo_says_what_to_install() {
    let machine = Sandbox::new();
    fs::create_dir(machine.path("bin")).unwrap();
    symlink(program(&machine, "bash"), machine.path("bin/bash")).unwrap();
    let ran = demo(&machine, text(&machine.path("bin"))).exits(1);
    assert!(ran.stderr.contains("the demo needs git to push"), "{ran}");
    assert!(ran.stderr.contains("hint: apt-get install git"), "{ran}");
    assert_nothing_is_left(&machine);
}

#[test]
fn a_step_that_leads_elsewhere_ends_the_demo() {
    let machine = Sandbox::new();
    fs::create_dir(machine.path("bin")).unwrap();
    let git = machine.path("bin/git");
    let real = program(&machine, "git");
    let swallow = "[[ $3 = push && -d gitrepo ]]";
    write_program(&git, format!("#!/bin/bash\n{swallow} || exec {real} \"$@\"\n"));
    let search_path = format!("{}:{}", text(&machine.path("bin")), usual_path());
    // Every push but the first one is swallowed.
    let ran = demo(&machine, &search_path).exits(1);
    assert!(ran.stderr.contains("the demo failed"), "{ran}");
    assert!(ran.stderr.contains("should be the last one applied"), "{ran}");
    assert_nothing_is_left(&machine);
}
