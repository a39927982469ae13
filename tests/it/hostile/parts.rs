//! The parts of a `.git`: whatever the agent opens there was judged before, by its kind, its owner, its
//! mode and its ACL; what the agent makes there, nobody else may write; and nothing is written through a
//! link.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::{NAME, Target};
use crate::sandbox::{Ran, Sandbox, text};

/// Who has no rights on any Debian.
const NOBODY: u32 = 65_534;

fn setfacl(arguments: &[&str], path: &Path) {
    Ran::of(std::process::Command::new("setfacl").args(arguments).arg(path)).ok();
}

/// Whether `path` has an ACL beside its mode, by what ls(1) marks with a plus.
fn has_acl(path: &Path) -> bool {
    let ran = Ran::of(std::process::Command::new("getfacl").args(["-cps"]).arg(path)).ok();
    !ran.stdout.trim().is_empty()
}

#[test]
fn whom_an_acl_lets_write_a_part_of_a_clone_breaks_it_until_the_remedy_was_typed() {
    let target = Target::new();
    target.machine.push(NAME, &[("page", "so that there are refs and logs of all kinds")]);
    target.quick_tick().ok();
    let parts = [
        ".git",
        ".git/config",
        ".git/HEAD",
        ".git/index",
        ".git/refs",
        ".git/refs/heads",
        ".git/refs/heads/main",
        ".git/refs/remotes/origin",
        ".git/objects",
        ".git/objects/pack",
        ".git/logs",
        ".git/logs/refs/heads/main",
        ".git/info",
        ".git/pmpy",
        ".git/pmpy/state",
        "",
    ];
    for part in parts {
        let path = target.in_clone(part);
        setfacl(&["-m", "u:nobody:rwX"], &path);
        target.breaks(&format!("ACL on {part}"), "can be written by nobody (ACL)", |target| {
            let reason = target.reason();
            let at = reason.find("setfacl ").unwrap_or_else(|| panic!("no remedy: {reason}"));
            let command = reason[at..].split(';').next().unwrap().trim();
            Ran::of(target.machine.command("bash").args(["-c", command])).ok();
        });
    }
}

#[test]
fn an_acl_that_lets_others_only_read_stops_nothing() {
    let target = Target::new();
    setfacl(&["-m", "u:nobody:rX"], &target.in_clone(".git"));
    setfacl(&["-m", "u:nobody:r"], &target.in_clone(".git/config"));
    let revision = target.machine.push(NAME, &[("page", "two")]);
    target.quick_tick().ok();
    assert_eq!(target.machine.lastaction(NAME), Some(revision));
}

#[test]
fn what_is_made_in_a_git_directory_has_no_acl_and_the_usual_modes() {
    let machine = Sandbox::new();
    machine.serve(NAME, &[("page", "zero")]);
    // In the worktree the ACL counts, so a script there would be everybody's.
    machine.configure(&format!(
        "[repo.{NAME}]\nurl = \"{}\"\nmode = \"in-place\"\n",
        text(&machine.server(NAME))
    ));
    // Everything made below the root begins with this.
    setfacl(&["-d", "-m", "u:nobody:rwx"], &machine.root());
    for page in ["one", "two"] {
        let revision = machine.push(NAME, &[("page", page)]);
        machine.tick().ok();
        assert_eq!(machine.lastaction(NAME), Some(revision));
    }
    assert_usual(&machine.clone_of(NAME).join(".git"));
    assert!(has_acl(&machine.clone_of(NAME)), "the worktree keeps what its directory hands down");
}

#[test]
fn an_adopted_clone_hands_no_acl_down_to_what_is_made_in_it() {
    let target = Target::new();
    for part in ["", "refs", "refs/heads", "refs/remotes/origin", "objects", "logs", "pmpy"] {
        setfacl(&["-d", "-m", "u:nobody:rwx"], &target.in_clone(".git").join(part));
    }
    for page in ["two", "three"] {
        let revision = target.machine.push(NAME, &[("page", page)]);
        target.quick_tick().ok();
        assert_eq!(target.machine.lastaction(NAME), Some(revision));
    }
    assert_usual(&target.in_clone(".git"));
}

/// Every file and directory has a mode that git gives, and no ACL.
#[track_caller]
fn assert_usual(git: &Path) {
    let mut pending = vec![git.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        assert!(!has_acl(&path), "{} has an ACL", path.display());
        let ours = path.starts_with(git.join("pmpy"));
        let mode = meta.permissions().mode() & 0o7777;
        let usual: &[u32] = match (ours, meta.is_dir()) {
            _ if path.starts_with(git.join("hooks")) => &[0o755],
            (true, true) => &[0o700],
            (true, false) => &[0o600],
            (false, true) => &[0o755],
            (false, false) => &[0o644, 0o444],
        };
        assert!(usual.contains(&mode), "{} has mode {mode:04o}", path.display());
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn nothing_is_written_through_a_link_in_a_git_directory() {
    let target = Target::new();
    let machine = &target.machine;
    target.machine.push(NAME, &[("page", "two")]);
    target.quick_tick().ok();
    let victim = machine.path("outside/victim");
    let parts = [
        "FETCH_HEAD",
        "ORIG_HEAD",
        "HEAD",
        "index",
        "packed-refs",
        "shallow",
        "logs/HEAD",
        "logs/refs/heads/main",
        "logs/refs/remotes/origin/main",
        "logs/refs/pmpy/acted",
        "refs/heads/main",
        "refs/remotes/origin/main",
        "refs/pmpy/acted",
        "refs/pmpy/seen/main",
    ];
    for part in parts {
        for to in [victim.clone(), machine.path("outside/fresh")] {
            let (path, aside) = (target.in_clone(".git").join(part), machine.path("aside"));
            let there = path.exists();
            if there {
                fs::rename(&path, &aside).unwrap();
            }
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(&to, &path).unwrap();
            machine.push(NAME, &[("page", part)]);
            target.quick_tick().exits(1);
            let reason = target.reason();
            assert_eq!(machine.state(NAME), "broken", "{part}: {reason}");
            assert!(reason.contains(part) && reason.contains("symbolic link"), "{part}: {reason}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched\n", "{part}");
            assert!(!machine.path("outside/fresh").exists(), "{part}: made where the link led");
            fs::remove_file(&path).unwrap();
            if there {
                fs::rename(&aside, &path).unwrap();
            }
            target.quick_tick().ok();
        }
    }
}

#[test]
fn a_lender_of_objects_is_judged_like_the_clone() {
    let target = Target::new();
    let machine = &target.machine;
    let lender = machine.path("outside/lender");
    let server = machine.server(NAME);
    machine.git(&machine.path(""), &["clone", "--quiet", "--bare", text(&server), text(&lender)]);
    let list = target.in_clone(".git/objects/info/alternates");
    fs::write(&list, format!("{}\n", text(&lender.join("objects")))).unwrap();
    machine.push(NAME, &[("page", "borrowed")]);
    target.quick_tick().ok();
    for part in
        ["outside", "outside/lender", "outside/lender/objects", "outside/lender/objects/pack"]
    {
        let path = machine.path(part);
        chown(&path, Some(NOBODY), None).unwrap();
        target.breaks(part, "belongs to nobody", |_| chown(&path, Some(0), None).unwrap());
    }
}

#[test]
fn what_libgit2_opens_in_a_git_directory_is_what_is_judged() {
    let target = Target::new();
    let machine = &target.machine;
    let git = target.in_clone(".git");
    let mut opened = BTreeSet::new();
    let mut watch = |arguments: &[&str]| {
        let trace = machine.path("trace");
        let mut strace = machine.command("strace");
        strace.args([
            "-f",
            "-s",
            "999",
            "-e",
            "trace=open,openat,openat2,creat",
            "-o",
            text(&trace),
        ]);
        Ran::of(strace.args(machine.agent_line(arguments)));
        let mark = format!("\"{}/", text(&git));
        for line in fs::read_to_string(&trace).unwrap().lines() {
            let Some((_, rest)) = line.split_once(&mark) else { continue };
            // A list of names opens nothing that has one of them.
            let is_list = rest.contains("O_DIRECTORY");
            let is_opened = !rest.contains("ENOENT") && !rest.contains("O_PATH") && !is_list;
            let first = rest.split(['/', '"']).next().unwrap_or_default();
            opened.extend(is_opened.then(|| first.to_owned()));
        }
    };
    // A life: idle, a change, a failure, a rewind, a hold, a way back, damage and its repair.
    watch(&["tick"]);
    machine.push(NAME, &[("page", "two")]);
    watch(&["tick"]);
    machine.push(NAME, &[("bin/work/common/work.sh", "exit 1\n")]);
    watch(&["tick"]);
    machine.push(NAME, &[("bin/work/common/work.sh", "exit 0\n")]);
    watch(&["tick"]);
    for command in [
        &["rollback", NAME][..],
        &["unhold", NAME],
        &["hold", NAME],
        &["unhold", NAME],
        &["redo", NAME],
    ] {
        watch(command);
    }
    for command in [&["status"][..], &["explain", NAME], &["check"], &["history"], &["log", NAME]] {
        watch(command);
    }
    fs::write(git.join("index"), "torn").unwrap();
    fs::write(git.join("refs/remotes/origin/main"), "").unwrap();
    machine.push(NAME, &[("page", "three")]);
    watch(&["tick"]);
    machine.git(&git, &["pack-refs", "--all"]);
    machine.push(NAME, &[("page", "four")]);
    watch(&["tick"]);
    assert!(opened.len() > 8, "too few to have been watched rightly: {opened:?}");
    // Made anew under the lock, each in a moment, by who found that it was not there.
    let temporary = |name: &str| name.ends_with(".lock") || name.starts_with("index.pmpy");
    let strange: Vec<&String> = opened
        .iter()
        .filter(|name| !pmpy::system::git::ownership::is_judged(name) && !temporary(name))
        .collect();
    assert!(strange.is_empty(), "opened, and not judged: {strange:?} of {opened:?}");
}

#[test]
fn a_part_of_another_owner_anywhere_below_a_git_directory_is_found_before_anything_is_done() {
    let target = Target::new();
    target.machine.push(NAME, &[("page", "two")]);
    target.quick_tick().ok();
    let git = target.in_clone(".git");
    let mut parts: Vec<PathBuf> = target.machine.files_below(&git);
    // What git by itself never opens is nothing that could be changed to any effect, and what the remote
    // said is replaced by what it says now before anything of it is used.
    parts.retain(|part| part != Path::new("pmpy/poll"));
    parts.retain(|part| !part.starts_with("hooks") && !part.starts_with("branches"));
    parts.retain(|part| part != Path::new("description") && part != Path::new("COMMIT_EDITMSG"));
    for part in parts {
        let path = git.join(&part);
        let owner = path.symlink_metadata().unwrap().uid();
        chown(&path, Some(NOBODY), None).unwrap();
        let shown = text(&part).to_owned();
        target.breaks(&shown, &shown, |_| {
            // A file that was replaced meanwhile has its owner already.
            let _ = chown(&path, Some(owner), None);
        });
    }
}

#[test]
fn a_configuration_that_the_clones_own_includes_is_judged_like_it() {
    let target = Target::new();
    let machine = &target.machine;
    fs::create_dir(machine.path("theirs")).unwrap();
    let included = machine.path("theirs/more");
    fs::write(&included, "[user]\n\tname = x\n").unwrap();
    target.config("include.path", text(&included));
    machine.push(NAME, &[("page", "included")]);
    target.quick_tick().ok();
    for part in ["theirs", "theirs/more"] {
        let path = machine.path(part);
        chown(&path, Some(NOBODY), None).unwrap();
        target.breaks(part, "belongs to nobody", |_| chown(&path, Some(0), None).unwrap());
    }
    fs::remove_file(&included).unwrap();
    Ran::of(machine.command("mkfifo").arg(&included)).ok();
    target.breaks("a pipe", "is a named pipe", |_| fs::remove_file(&included).unwrap());
}
