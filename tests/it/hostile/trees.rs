//! What a pusher may put into a tree.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

use super::{AT_ONCE, NAME, Target, watched_tick};
use crate::sandbox::Ran;

#[test]
fn a_set_uid_mode_is_refused_and_no_file_gets_it() {
    let target = Target::new();
    let blob = target.blob(b"#!/bin/sh\n");
    for mode in ["104755", "102755", "106777", "101644", "100777", "020666", "060666", "010644"] {
        let reason = target.refuses(mode, target.tree(&[(mode, b"tool", blob)]));
        assert!(reason.contains(mode), "{reason}");
    }
    let tool = target.tree(&[("100755", b"tool", blob)]);
    target.accepts("a plain executable", tool);
    let mode = fs::metadata(target.in_clone("tool")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn names_that_are_git_in_disguise_or_lead_elsewhere_are_refused() {
    let target = Target::new();
    let blob = target.blob(b"[core]\n\tfsmonitor = touch ../canary\n");
    let inner = target.tree(&[("100644", b"config", blob)]);
    let dirs: [&[u8]; 10] = [
        b".git\\hooks",
        b".git",
        b".GIT",
        b".git ",
        b".git.",
        b".git::$INDEX_ALLOCATION",
        b"git~1",
        ".g\u{200c}it".as_bytes(),
        b"..",
        b".",
    ];
    for name in dirs {
        let shown = String::from_utf8_lossy(name).into_owned();
        target.refuses(&shown, target.tree(&[("40000", name, inner)]));
        let deeper = target.tree(&[("40000", name, inner)]);
        target.refuses(&shown, target.tree(&[("40000", b"directory", deeper)]));
    }
    let files: [&[u8]; 7] = [
        b"a/b",
        b"/etc/cron.d/evil",
        b"../outside/victim",
        b"a\nb",
        b"\x1b[2Jgone",
        b"a\rb",
        b".pmpy-tmp-00000000",
    ];
    target.keeps_out_garbage("no name", target.tree(&[("100644", b"", blob)]));
    for name in files {
        let shown = String::from_utf8_lossy(name).into_owned();
        target.refuses(&shown, target.tree(&[("100644", name, blob)]));
    }
    assert!(!target.machine.root().join("canary").exists());
}

#[test]
fn a_backslash_in_a_name_leads_nowhere() {
    let target = Target::new();
    let unit = target.blob(b"[Mount]\n");
    let names: [&[u8]; 3] = [b"..\\victim", b"C:\\victim", b"srv-my\\x2ddata.mount"];
    let entries: Vec<_> = names.iter().map(|name| ("100644", *name, unit)).collect();
    target.accepts("backslashes", target.tree(&entries));
    for name in names {
        let name = String::from_utf8_lossy(name);
        assert_eq!(fs::read(target.in_clone(&name)).unwrap(), b"[Mount]\n");
    }
    let victim = fs::read_to_string(target.machine.path("outside/victim")).unwrap();
    assert_eq!(victim, "untouched\n");
}

#[test]
fn a_tree_that_is_garbled_or_out_of_order_is_refused() {
    let target = Target::new();
    let blob = target.blob(b"x");
    let dir = target.tree(&[("100644", b"f", blob)]);
    let twice = target.tree(&[("100644", b"a", blob), ("100755", b"a", blob)]);
    target.refuses("a name twice", twice);
    let both = target.tree(&[("100644", b"a", blob), ("40000", b"a", dir)]);
    target.refuses("a file and a directory of one name", both);
    let order = target.tree(&[("100644", b"b", blob), ("100644", b"a", blob)]);
    target.refuses("out of order", order);
    let kinds = target.tree(&[("40000", b"d", blob)]);
    target.keeps_out_garbage("a file as a directory", kinds);
}

#[test]
fn the_agents_records_cannot_be_pushed() {
    let target = Target::new();
    let elsewhere = target.blob(b"../../outside");
    for name in [b".temp".as_slice(), b".TEMP", b".temp "] {
        target.refuses("a link", target.tree(&[("120000", name, elsewhere)]));
        let record = target.blob(&[b'0'; 40]);
        let records = target.tree(&[("100644", b"currentaction.txt", record)]);
        let nodeinfo = target.tree(&[("40000", b"nodeinfo", records)]);
        let reason = target.refuses("records", target.tree(&[("40000", name, nodeinfo)]));
        assert!(reason.contains("may not be committed"), "{reason}");
    }
}

#[test]
fn a_link_in_one_push_and_a_file_below_it_in_the_next_never_meet() {
    let target = Target::new();
    let elsewhere = target.blob(text_of_outside(&target).as_bytes());
    target.accepts("a link", target.tree(&[("120000", b"nd", elsewhere)]));
    assert!(target.in_clone("nd").symlink_metadata().unwrap().is_symlink());

    let below = target.tree(&[("100644", b"victim", target.blob(b"overwritten\n"))]);
    target.accepts("a file below", target.tree(&[("40000", b"nd", below)]));
    assert!(target.in_clone("nd").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read_to_string(target.in_clone("nd/victim")).unwrap(), "overwritten\n");
}

#[test]
fn a_directory_that_somebody_replaced_by_a_link_is_not_written_through() {
    let target = Target::new();
    let dir = |content: &[u8]| {
        let inner = target.tree(&[("100644", b"victim", target.blob(content))]);
        target.tree(&[("40000", b"nd", inner)])
    };
    target.accepts("a directory", dir(b"one\n"));
    fs::remove_dir_all(target.in_clone("nd")).unwrap();
    std::os::unix::fs::symlink(target.machine.path("outside"), target.in_clone("nd")).unwrap();
    target.push(dir(b"two\n"));
    target.quick_tick();
    assert_eq!(target.machine.state(NAME), "dirty");
    let victim = fs::read_to_string(target.machine.path("outside/victim")).unwrap();
    assert_eq!(victim, "untouched\n");
}

#[test]
fn a_file_that_is_hard_linked_elsewhere_keeps_its_content_there() {
    let target = Target::new();
    let page = |content: &[u8]| target.tree(&[("100644", b"page", target.blob(content))]);
    target.accepts("a page", page(b"untouched\n"));
    let victim = target.machine.path("outside/victim");
    fs::remove_file(&victim).unwrap();
    fs::hard_link(target.in_clone("page"), &victim).unwrap();
    target.accepts("another page", page(b"overwritten\n"));
    assert_eq!(fs::read_to_string(target.in_clone("page")).unwrap(), "overwritten\n");
    assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1);
}

#[test]
fn attributes_change_no_byte_and_run_no_filter() {
    let target = Target::new();
    let canary = target.machine.path("canary");
    for key in ["clean", "smudge", "process"] {
        let line = format!("touch {}", canary.display());
        let clone = target.machine.clone_of(NAME);
        target.machine.git(&clone, &["config", &format!("filter.evil.{key}"), &line]);
    }
    let clone = target.machine.clone_of(NAME);
    target.machine.git(&clone, &["config", "core.autocrlf", "true"]);
    let content = b"$Id$\nline\r\nline\n\xff\xfe";
    let attributes =
        target.blob(b"* filter=evil ident text eol=crlf working-tree-encoding=UTF-16\n");
    let tree = target.tree(&[
        ("100644", b".gitattributes", attributes),
        ("100644", b"page", target.blob(content)),
    ]);
    target.accepts("attributes", tree);
    assert_eq!(fs::read(target.in_clone("page")).unwrap(), content);
    assert!(!canary.exists());
}

#[test]
fn submodules_are_empty_directories_whatever_gitmodules_says() {
    let target = Target::new();
    let url = format!("ext::sh -c touch% {}", target.machine.path("canary").display());
    let section = |name: &str, url: &str| {
        format!("[submodule \"{name}\"]\n\tpath = sub\n\turl = {url}\n\tupdate = !touch canary\n")
    };
    let elsewhere = git2::Oid::from_str(&"12".repeat(20)).unwrap();
    for modules in [section("sub", &url), section("../../hooks", "-u./evil"), "[[[".to_owned()] {
        let tree = target.tree(&[
            ("100644", b".gitmodules", target.blob(modules.as_bytes())),
            ("160000", b"sub", elsewhere),
            ("100644", b"work.sh", target.blob(b"exit 0\n")),
        ]);
        target.push(tree);
        let (ran, watched) = watched_tick(&target.machine);
        ran.ok();
        watched.stayed_within(&target.machine, &["/usr/bin/bash", "/bin/bash"]);
        assert_eq!(target.machine.state(NAME), "current");
        assert_eq!(fs::read_dir(target.in_clone("sub")).unwrap().count(), 0);
    }
    let link = target.blob(text_of_outside(&target).as_bytes());
    target.accepts("a link as .gitmodules", target.tree(&[("120000", b".gitmodules", link)]));
    assert!(!target.machine.path("canary").exists());
}

#[test]
fn five_thousand_directories_in_one_another_are_refused_at_once() {
    let target = Target::new();
    let mut tree = target.tree(&[("100644", b"f", target.blob(b"x"))]);
    for _ in 0..5_000 {
        tree = target.tree(&[("40000", b"d", tree)]);
    }
    let reason = target.refuses("a deep tree", tree);
    assert!(reason.contains("64 directories deep"), "{reason}");
}

#[test]
fn ten_thousand_million_paths_are_refused_at_once_and_with_little_memory() {
    let target = Target::new();
    let blob = target.blob(b"x");
    let names: Vec<[u8; 1]> = (b'a'..=b'j').map(|name| [name]).collect();
    let level = |mode, id| {
        let entries: Vec<_> = names.iter().map(|name| (mode, name.as_slice(), id)).collect();
        target.tree(&entries)
    };
    let bomb = (0..9).fold(level("100644", blob), |tree, _| level("40000", tree));
    target.push(bomb);
    let start = Instant::now();
    // The limit is on what a process allocates, in KiB.
    let line = target.machine.agent_line(&["tick", "--trigger", "cron"]);
    let mut limited = target.machine.command("bash");
    limited.args(["-c", "ulimit -d 102400 && exec \"$@\"", "bash"]).args(line);
    let ran = Ran::of(&mut limited).exits(1);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(target.machine.state(NAME), "refused", "{ran}");
    assert!(target.reason().contains("entries"), "{}", target.reason());
}

#[test]
fn a_directory_object_without_measure_is_refused_before_it_is_read() {
    let target = Target::new();
    let blob = target.blob(b"x");
    let names: Vec<Vec<u8>> =
        (0..300_000).map(|number| format!("{number:0>200}").into_bytes()).collect();
    let entries: Vec<_> = names.iter().map(|name| ("100644", name.as_slice(), blob)).collect();
    let reason = target.refuses("a huge directory", target.tree(&entries));
    assert!(reason.contains("MiB"), "{reason}");
}

fn text_of_outside(target: &Target) -> String {
    target.machine.path("outside").display().to_string()
}
