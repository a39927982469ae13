//! Repositories of every kind and name: worked on like any other, passed over, or broken with the
//! remedy.

use crate::bad_input::{ended, machine, tick};
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text, write_program};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

#[test]
fn directories_that_are_no_repositories_are_passed_over() {
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
        write_program(&path, format!("#!/bin/sh\n{touch}\n"));
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

#[test]
fn a_sparse_checkout_is_broken_with_the_remedy_and_never_filled() {
    let machine = Sandbox::with("ops", &[("a/page", "one\n"), ("b/page", "one\n")]);
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["sparse-checkout", "set", "a"]);
    assert!(!clone.join("b").exists());
    let revision =
        machine.push("ops", &[("a/page", "two\n"), ("b/page", "two\n"), ("c/page", "x")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "broken");
    let reason = machine.row("ops")["reason"].to_string();
    assert!(reason.contains("sparse-checkout disable"), "{reason}");
    assert!(!clone.join("b").exists() && !clone.join("c").exists());

    machine.git(&clone, &["sparse-checkout", "disable"]);
    machine.tick().ok();
    assert_eq!(machine.head("ops"), revision);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_sparse_clone_can_be_published_because_its_worktree_is_left_alone() {
    let machine = Sandbox::with("ops", &[("a/page", "one\n"), ("b/page", "one\n")]);
    machine.git(&machine.clone_of("ops"), &["sparse-checkout", "set", "a"]);
    let target = machine.path("site");
    machine
        .configure(&format!("[repo.ops]\nmode = \"checkout\"\ntarget = \"{}\"\n", text(&target)));
    machine.tick().ok();
    assert_eq!(fs::read_to_string(target.join("b/page")).unwrap(), "one\n");
    assert!(!machine.clone_of("ops").join("b").exists());
}

/// A commit with these lines in place of author and committer, on top of what the server has.
fn push_odd(machine: &Sandbox, author: &str, committer: &str) -> String {
    let desk = machine.desk("ops");
    let [tree, parent] =
        ["HEAD^{tree}", "HEAD"].map(|name| machine.git(&desk, &["rev-parse", name]));
    let commit =
        format!("tree {tree}\nparent {parent}\nauthor {author}\ncommitter {committer}\n\nodd\n");
    fs::write(machine.path("commit"), commit).unwrap();
    let file = machine.path("commit");
    let arguments = ["hash-object", "-t", "commit", "-w", "--literally", text(&file)];
    let odd = machine.git(&desk, &arguments);
    machine.git(&desk, &["update-ref", "refs/heads/main", &odd]);
    machine.git(&desk, &["push", "--quiet", "--force", "origin", "main"]);
    odd
}

const PERSON: &str = "Pat <pat@example.org> 1700000000 +0000";

#[test]
fn an_odd_author_line_in_history_hinders_nothing() {
    for (author, committer) in [
        ("A a@b> 1 +0000", PERSON),
        ("Pat", PERSON),
        ("Pat <pat@example.org", PERSON),
        ("Pat <pat@example.org> late +0000", PERSON),
        ("Pat <pat@example.org> 99999999999999999999 +0000", PERSON),
        (PERSON, "Pat pat@example.org 1700000000 +0000"),
        (PERSON, ""),
    ] {
        let machine = machine();
        // The tip itself, and then what comes upon it.
        let odd = push_odd(&machine, author, committer);
        tick(&machine).ok();
        assert_eq!(machine.state("ops"), "current", "{author}, {committer}");
        assert_eq!(machine.lastaction("ops"), Some(odd.clone()));
        let good = machine.push("ops", &[("page", "two\n")]);
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(good.clone()), "{author}, {committer}");
        let explained = machine.agent(&["explain", "ops", &odd]).ok().stdout;
        assert!(explained.contains("is here"), "{explained}");
        assert!(machine.agent(&["history", "ops"]).ok().stdout.contains("odd"));
        machine.agent(&["rollback", "ops", &odd]).ok();
        assert_eq!(machine.head("ops"), odd);
        machine.agent(&["unhold", "ops"]).ok();
        tick(&machine).ok();
        assert_eq!(machine.head("ops"), good);

        // A new clone of all of it.
        fs::remove_dir_all(machine.clone_of("ops")).unwrap();
        machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n", text(&machine.server("ops"))));
        tick(&machine).ok();
        assert_eq!(machine.lastaction("ops"), Some(good));
        machine.git(&machine.clone_of("ops"), &["rev-list", "--objects", "HEAD"]);
    }
}

#[test]
fn a_history_with_odd_author_lines_can_be_merged_and_rewritten() {
    let machine = machine();
    push_odd(&machine, "A a@b> 1 +0000", PERSON);
    machine.configure("[repo.ops]\nupdate = \"merge\"\n");
    let clone = machine.clone_of("ops");
    fs::write(clone.join("local"), "x").unwrap();
    machine.git(&clone, &["add", "local"]);
    machine.git(&clone, &["commit", "--quiet", "-m", "local"]);
    let upstream = machine.push("ops", &[("page", "two\n")]);
    tick(&machine).ok();
    let parents = machine.git(&clone, &["log", "-1", "--format=%P %an %ae"]);
    assert!(parents.contains(&upstream) && parents.contains("agent agent@"), "{parents}");
    assert!(clone.join("local").exists());
    assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "two\n");
    machine.git(&clone, &["fsck", "--connectivity-only"]);

    machine.git(&machine.desk("ops"), &["reset", "--quiet", "--hard", "HEAD~1"]);
    machine.push("ops", &[("page", "other\n")]);
    machine.configure("");
    tick(&machine);
    assert_eq!(machine.state("ops"), "rewritten");
}

#[test]
fn a_tag_with_an_odd_tagger_line_is_published() {
    let machine = machine();
    let odd = push_odd(&machine, "A a@b> 1 +0000", PERSON);
    let desk = machine.desk("ops");
    let tag = format!("object {odd}\ntype commit\ntag v1\ntagger Pat pat 1 +0000\n\nv1\n");
    fs::write(machine.path("tag"), tag).unwrap();
    let file = machine.path("tag");
    let id = machine.git(&desk, &["hash-object", "-t", "tag", "-w", "--literally", text(&file)]);
    machine.git(&desk, &["update-ref", "refs/tags/v1", &id]);
    machine.git(&desk, &["push", "--quiet", "origin", "v1"]);
    let target = machine.path("tags");
    machine.configure(&format!("[repo.ops]\nmode = \"tags\"\ntarget = \"{}\"\n", text(&target)));
    tick(&machine).ok();
    assert!(fs::read_link(target.join("v1")).unwrap().ends_with(&odd));
    assert_eq!(machine.state("ops"), "current");
}
