//! A disk that refuses one write of a publication, whichever.

use std::fs;

use super::{NAME, Publisher};
use crate::sandbox::{Ran, text};

/// What a failing disk answers to the system calls that publish.
const ANSWERS: [(&str, &str); 14] = [
    ("write", "ENOSPC"),
    ("write", "EIO"),
    ("fsync", "ENOSPC"),
    ("fsync", "EIO"),
    ("syncfs", "ENOSPC"),
    ("syncfs", "EIO"),
    ("symlinkat", "ENOSPC"),
    ("mkdirat", "ENOSPC"),
    ("mkdirat", "EIO"),
    ("openat", "ENOSPC"),
    ("openat", "EIO"),
    ("renameat", "ENOSPC"),
    ("renameat2", "EIO"),
    ("unlinkat", "EIO"),
];

/// One tree, all of whose files say the same.
const FILES: [&str; 3] = ["page", "d/e", "f"];

/// What all files of the tree say that is shown; panics when they do not agree.
#[track_caller]
fn said(site: &Publisher, what: &str) -> String {
    let read = |file| fs::read_to_string(site.at("main").join(file));
    let texts = FILES.map(|file| read(file).unwrap_or_else(|error| panic!("{what}: {error}")));
    assert!(texts.iter().all(|text| *text == texts[0]), "{what}: {texts:?}");
    texts[0].clone()
}

#[test]
fn whatever_the_disk_refuses_readers_meet_whole_trees_and_the_next_ticks_finish_it() {
    let site = Publisher::new("branches", "keep = 1");
    let push = |text: &str| site.push_files("main", &FILES.map(|file| (file, text)));
    push("start");
    site.machine.tick().ok();
    let trace = site.machine.path("trace");
    let mut points = 0;
    for (call, answer) in ANSWERS {
        let stride = match call {
            _ if std::env::var_os("PMPY_LONG").is_some() => 1,
            // Most of what is opened are libraries and records.
            "openat" => 61,
            "write" => 6,
            _ => 3,
        };
        for nth in (1..).step_by(stride) {
            let what = format!("{call} number {nth} answered {answer}");
            let before = (site.shown("main"), said(&site, &what));
            let after = (push(&what), what.clone());
            site.machine.agent(&["tick", "--dry-run"]);
            let ran = Ran::of(
                site.machine
                    .command("strace")
                    .args(["-o", text(&trace), "-e", &format!("trace=?{call}")])
                    .args(["-e", &format!("inject=?{call}:error={answer}:when={nth}"), "--"])
                    .args(site.machine.agent_line(&["worker", NAME, "--trigger", "cron"])),
            );
            // 127: the loader could not open a library.
            assert!(matches!(ran.code, Some(0 | 1 | 2 | 127)), "{what}: {ran}");
            let met = (site.shown("main"), said(&site, &what));
            assert!([&before, &after].contains(&&met), "{what}: {met:?}");

            let hit = fs::read_to_string(&trace).unwrap().contains("(INJECTED)");
            let ticks = (1..=4).find(|_| {
                site.machine.agent(&["tick", NAME, "--trigger", "cron"]);
                site.machine.state(NAME) == "current"
            });
            assert!(ticks.is_some(), "{what}: {:#}", site.machine.row(NAME));
            assert_eq!((site.shown("main"), said(&site, &what)), after, "{what}");
            let left = fs::read_dir(site.at(".pmpy/main")).unwrap().flatten();
            let left: Vec<_> = left.map(|it| it.file_name().into_string().unwrap()).collect();
            // What could not be removed is no release, and goes with the next publication.
            let is_clean = left.iter().all(|name| !name.starts_with('.'));
            assert!(
                is_clean || (hit && ["unlinkat", "openat"].contains(&call)),
                "{what}: {left:?}"
            );
            if !hit {
                break;
            }
            points += 1;
        }
    }
    println!("refused of a publication={points}");
    assert!(points >= 20, "only {points}");
}

#[test]
fn a_branch_that_the_disk_of_a_remote_does_not_show_is_not_removed() {
    let site = Publisher::new("branches", "");
    site.push_files("main", &[("page", "start")]);
    site.push_files("feature/x", &[("page", "start")]);
    site.machine.tick().ok();
    let shown = site.directories();
    assert_eq!(shown, ["feature%2Fx", "main"]);
    let server = site.machine.server(NAME);
    for below in ["refs/heads", "refs/heads/feature", "refs/heads/feature/x", "packed-refs"] {
        let path = server.join(below);
        if below == "packed-refs" {
            site.machine.git(&server, &["pack-refs", "--all"]);
        }
        for answer in ["EIO", "EACCES"] {
            let ran = Ran::of(
                site.machine
                    .command("strace")
                    .args(["-f", "-P", text(&path), "-o", text(&site.machine.path("trace"))])
                    .args(["-e", "trace=?openat,?open"])
                    .args(["-e", &format!("inject=?openat,?open:error={answer}"), "--"])
                    .args(site.machine.agent_line(&["worker", NAME, "--trigger", "cron"])),
            );
            let trace = fs::read_to_string(site.machine.path("trace")).unwrap();
            assert!(trace.contains("(INJECTED)"), "{below} was not read: {ran}");
            assert_eq!(site.directories(), shown, "{below} answered {answer}: {ran}");
            site.machine.agent(&["tick", NAME, "--trigger", "cron"]).ok();
            assert_eq!(site.machine.state(NAME), "current");
        }
    }
}
