//! What somebody may have put into `.git`.

use std::fs;
use std::os::unix::fs::{chown, symlink};

use super::{NAME, Target, watched_tick};
use crate::sandbox::{Sandbox, set_mode, write_program};

const BASH: [&str; 2] = ["/usr/bin/bash", "/bin/bash"];

/// Every hook that git knows (githooks(5)).
const HOOKS: [&str; 17] = [
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-applypatch",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-rewrite",
    "post-update",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "reference-transaction",
    "update",
    "pre-receive",
];

impl Target {
    pub(super) fn config(&self, key: &str, value: &str) {
        self.machine.git(&self.machine.clone_of(NAME), &["config", "--add", key, value]);
    }

    /// Refused as `broken`, at once and untouched; well again once `remedy` was applied.
    #[track_caller]
    pub(super) fn breaks(&self, what: &str, part: &str, remedy: impl FnOnce(&Self)) {
        let before = self.snapshot();
        let revision = self.machine.push(NAME, &[("page", what)]);
        self.quick_tick().exits(1);
        let (state, reason) = (self.machine.state(NAME), self.reason());
        assert_eq!(state, "broken", "{what}: {reason}");
        assert!(reason.contains(part), "{what}: {reason}");
        assert_eq!(self.snapshot(), before, "{what}");
        remedy(self);
        self.quick_tick().ok();
        assert_eq!(self.machine.state(NAME), "current", "{what}: {}", self.reason());
        assert_eq!(self.machine.lastaction(NAME), Some(revision), "{what}");
    }
}

#[test]
fn hooks_filters_helpers_and_commands_of_a_clone_are_never_run() {
    let target = Target::new();
    let canary = target.machine.path("canary");
    let evil = format!("touch {}", canary.display());
    for hook in HOOKS {
        let file = target.in_clone(".git/hooks").join(hook);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        write_program(&file, format!("#!/bin/sh\n{evil}\n"));
    }
    for key in [
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "core.editor",
        "core.askPass",
        "core.gitProxy",
        "core.alternateRefsCommand",
        "credential.helper",
        "diff.external",
        "merge.evil.driver",
        "filter.lfs.smudge",
        "gc.recentObjectsHook",
        "gpg.program",
        "remote.origin.uploadpack",
        "remote.origin.receivepack",
        "remote.origin.vcs",
        "uploadpack.packObjectsHook",
        "alias.fetch",
    ] {
        target.config(key, &evil);
    }
    target.config("core.hooksPath", "hooks");
    target.machine.push(
        NAME,
        &[(".gitattributes", "* filter=lfs merge=evil diff=evil\n"), ("page", "second\n")],
    );
    let (ran, watched) = watched_tick(&target.machine);
    ran.ok();
    watched.stayed_within(&target.machine, &BASH);
    assert_eq!(target.machine.state(NAME), "current");
    for arguments in [["status", NAME], ["explain", NAME], ["history", NAME], ["redo", NAME]] {
        target.machine.agent(&arguments).ok();
    }
    assert!(!canary.exists());
}

#[test]
fn a_remote_with_a_transport_helper_is_refused() {
    let target = Target::new();
    let canary = target.machine.path("canary");
    for url in [
        format!("ext::touch {}", canary.display()),
        format!("--upload-pack=touch {}", canary.display()),
        format!("ssh://-oProxyCommand=touch%20{}/x", canary.display()),
        format!("fd::{}", canary.display()),
    ] {
        target.machine.git(
            &target.machine.clone_of(NAME),
            &["config", "--replace-all", "remote.origin.url", &url],
        );
        let (_, watched) = watched_tick(&target.machine);
        watched.stayed_within(&target.machine, &[]);
        // What begins with a dash is a path, which is not there.
        let state = if url.starts_with("--") { "unreachable" } else { "denied" };
        assert_eq!(target.machine.state(NAME), state, "{url}");
    }
    assert!(!canary.exists());
}

#[test]
fn an_instead_of_in_a_clone_sends_no_fetch_elsewhere() {
    let target = Target::new();
    let machine = &target.machine;
    machine.serve("evil", &[("bin/work/common/work.sh", "touch \"$AGENT_ROOT/canary\"\n")]);
    let (real, evil) = (machine.server(NAME), machine.server("evil"));
    let section = format!(
        "[url \"{}\"]\n\tinsteadOf = {}\n[remote \"{}\"]\n\turl = {}\n",
        evil.display(),
        real.display(),
        real.display(),
        evil.display()
    );
    for way in ["directly", "by include"] {
        match way {
            "directly" => target
                .config(&format!("url.{}.insteadOf", evil.display()), &real.display().to_string()),
            _ => {
                fs::write(machine.path("more"), &section).unwrap();
                target.config("include.path", &machine.path("more").display().to_string());
            }
        }
        let revision = machine.push(NAME, &[("page", way)]);
        target.quick_tick().ok();
        assert_eq!(machine.lastaction(NAME), Some(revision), "{way}");
    }
    assert!(!machine.root().join("canary").exists());
}

#[test]
fn a_worktree_elsewhere_is_refused() {
    let target = Target::new();
    let outside = target.machine.path("outside");
    target.config("core.worktree", &outside.display().to_string());
    target.breaks("core.worktree", "core.worktree", |target| {
        let clone = target.machine.clone_of(NAME);
        // What git would make of the clone meanwhile is not our concern.
        target.machine.git(&clone, &["config", "--unset", "core.worktree"]);
    });
    target.config("core.worktree", &target.machine.clone_of(NAME).display().to_string());
    target.machine.push(NAME, &[("page", "here\n")]);
    target.quick_tick().ok();
    assert_eq!(target.machine.state(NAME), "current", "core.worktree may name this very directory");
}

#[test]
fn objects_and_refs_of_another_repository_are_refused() {
    let target = Target::new();
    let commondir = target.in_clone(".git/commondir");
    fs::write(&commondir, target.machine.server(NAME).display().to_string() + "\n").unwrap();
    target.breaks("commondir", "commondir", |_| fs::remove_file(&commondir).unwrap());
}

#[test]
fn a_git_file_that_leads_elsewhere_is_refused() {
    let target = Target::new();
    let (git, moved) = (target.in_clone(".git"), target.machine.path("moved"));
    fs::rename(&git, &moved).unwrap();
    fs::write(&git, format!("gitdir: {}\n", moved.display())).unwrap();
    target.breaks("a .git file", "linked worktree", |_| {
        fs::remove_file(&git).unwrap();
        fs::rename(&moved, &git).unwrap();
    });
}

#[test]
fn borrowed_objects_are_read_and_never_written() {
    let target = Target::new();
    let machine = &target.machine;
    let lender = machine.path("lender");
    machine.git(
        &machine.path(""),
        &["clone", "--quiet", "--bare", &machine.server(NAME).display().to_string(), "lender"],
    );
    let alternates = format!("{}\n", lender.join("objects").display());
    fs::write(target.in_clone(".git/objects/info/alternates"), alternates).unwrap();
    let lent = machine.files_below(&lender);
    let revision = machine.push(NAME, &[("page", "second\n")]);
    let (ran, watched) = watched_tick(machine);
    ran.ok();
    watched.stayed_within(machine, &BASH);
    assert_eq!(machine.lastaction(NAME), Some(revision));
    assert_eq!(machine.files_below(&lender), lent);
}

#[test]
fn what_others_may_write_in_a_clone_breaks_it_until_that_is_put_right() {
    let target = Target::new();
    for part in ["", ".git", ".git/config", ".git/HEAD", ".git/objects", ".git/hooks", ".git/refs"]
    {
        let path = target.in_clone(part);
        fs::create_dir_all(target.in_clone(".git/hooks")).unwrap();
        let usual = if path.is_dir() { 0o755 } else { 0o644 };
        set_mode(&path, usual | 0o002);
        target.breaks(&format!("writable {part}"), "can be written by every user", |_| {
            set_mode(&path, usual);
        });
    }
}

#[test]
fn what_belongs_to_another_user_in_a_clone_breaks_it_until_that_is_put_right() {
    const NOBODY: u32 = 65_534;
    let target = Target::new();
    let us = crate::sandbox::owner(&target.machine.root());
    assert_eq!(us, 0, "only root can give files away");
    fs::create_dir_all(target.in_clone(".git/hooks")).unwrap();
    // The directory itself says whose the clone is: nobody finds that the rest is not nobody's.
    let path = target.in_clone("");
    chown(&path, Some(NOBODY), None).unwrap();
    target.breaks("foreign directory", "chown -R", |_| chown(&path, Some(us), None).unwrap());
    for part in [
        ".git",
        ".git/config",
        ".git/HEAD",
        ".git/index",
        ".git/objects",
        ".git/hooks",
        ".git/pmpy",
    ] {
        let path = target.in_clone(part);
        chown(&path, Some(NOBODY), None).unwrap();
        target.breaks(&format!("foreign {part}"), "chown -R root", |_| {
            chown(&path, Some(us), None).unwrap();
        });
    }
    let config = target.in_clone(".git/config");
    chown(&config, None, Some(NOBODY)).unwrap();
    set_mode(&config, 0o664);
    target.breaks("a foreign group", "can be written by the group nogroup", |_| {
        set_mode(&config, 0o644)
    });
}

#[test]
fn a_named_pipe_in_the_place_of_a_file_stops_no_other_repository() {
    let target = Target::new();
    target.machine.serve("web", &[("work.sh", "exit 0\n")]);
    target.machine.clone_to_root("web");
    for part in [".git/HEAD", ".git/config", ".git/index", ".git/packed-refs"] {
        let (path, aside) = (target.in_clone(part), target.machine.path("aside"));
        let there = path.exists();
        if there {
            fs::rename(&path, &aside).unwrap();
        }
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        );
        made.unwrap();
        target.breaks(part, "is a named pipe, where a regular file is expected", |_| {
            fs::remove_file(&path).unwrap();
            if there {
                fs::rename(&aside, &path).unwrap();
            }
        });
        assert_eq!(target.machine.state("web"), "current", "the other repository goes on");
    }
}

#[test]
fn records_in_the_worktree_that_are_links_are_never_followed() {
    let machine = Sandbox::with(NAME, &[("work.sh", "exit 0\n")]);
    fs::create_dir(machine.path("outside")).unwrap();
    symlink(machine.path("outside"), machine.clone_of(NAME).join(".temp")).unwrap();
    machine.tick();
    let strayed = machine.files_below(&machine.path("outside"));
    assert!(strayed.is_empty(), "written through a link: {strayed:?}");
    assert_eq!(machine.state(NAME), "broken");
}
