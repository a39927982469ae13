//! Repositories of every kind and name: worked on like any other, passed over, or broken with the
//! remedy.

use crate::bad_input::{ended, machine, tick};
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

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
fn a_file_url_is_decoded_as_git_decodes_it() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("page", "old")]);
    let place = machine.path("server/ö ps.git");
    fs::rename(machine.server("ops"), &place).unwrap();
    machine.git(&machine.desk("ops"), &["remote", "set-url", "origin", text(&place)]);
    let url = format!("file://{}/%C3%B6%20ps.git", text(&machine.path("server")));
    machine.configure(&format!("[repo.ops]\nurl = {url:?}\n"));
    for page in ["new", "newer"] {
        let revision = machine.push("ops", &[("page", page)]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
    }
}
