//! A repository that gets one commit after another for years stays small, with git on the machine and
//! without, and what the acted revisions need is kept.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::sandbox::{Ran, Sandbox, text, write_program};

const NAME: &str = "ops";

/// The most packs that a repository may ever have.
const MOST_PACKS: usize = 60;

fn git_dir(machine: &Sandbox) -> PathBuf {
    machine.clone_of(NAME).join(".git")
}

fn packs(machine: &Sandbox) -> usize {
    let packs = fs::read_dir(git_dir(machine).join("objects/pack")).unwrap();
    packs
        .filter(|it| it.as_ref().unwrap().path().extension().is_some_and(|it| it == "pack"))
        .count()
}

/// Puts `count` commits on the server in one go; no ref leads to them yet.
fn commits(machine: &Sandbox, count: usize) -> Vec<String> {
    let server = machine.server(NAME);
    let mut import = machine.command("git");
    import.current_dir(&server).args(["fast-import", "--quiet"]).stdin(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut stream = import.stdin.take().unwrap();
    for number in 1..=count {
        let from = if number == 1 { "from refs/heads/main^0\n" } else { "" };
        let content = format!("number {number}\n");
        write!(
            stream,
            "commit refs/heads/later\ncommitter Pat <pat@example.org> {} +0000\ndata 2\nx\n{from}\
             M 100644 inline number\ndata {}\n{content}\n",
            1_800_000_000 + number,
            content.len()
        )
        .unwrap();
    }
    drop(stream);
    assert!(import.wait().unwrap().success());
    let range = "refs/heads/main..refs/heads/later";
    let list = machine.git(&server, &["rev-list", "--reverse", range]);
    // A fetch of a path brings all that the server has refs for.
    machine.git(&server, &["update-ref", "-d", "refs/heads/later"]);
    list.lines().map(str::to_owned).collect()
}

/// How many fetches in a normal run, and with `PMPY_LONG=1`.
fn rounds() -> usize {
    if std::env::var_os("PMPY_LONG").is_some() { 1000 } else { 130 }
}

/// Acts upon one commit after another; `path` is the agent's PATH. The most packs that there were.
fn fetch_one_by_one(machine: &Sandbox, path: &str) -> usize {
    let server = machine.server(NAME);
    let mut most = 0;
    let mut last = String::new();
    for revision in commits(machine, rounds()) {
        fs::write(server.join("refs/heads/main"), format!("{revision}\n")).unwrap();
        let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
        Ran::of(tick.env("PATH", path)).ok();
        most = most.max(packs(machine));
        last = revision;
    }
    assert_eq!(machine.lastaction(NAME), Some(last));
    most
}

fn machine() -> Sandbox {
    let machine = Sandbox::with(NAME, &[("number", "0\n")]);
    machine.tick().ok();
    // A loose ref on the server is what the rounds replace.
    assert!(machine.server(NAME).join("refs/heads/main").exists());
    machine
}

#[track_caller]
fn everything_is_there(machine: &Sandbox) {
    let clone = machine.clone_of(NAME);
    machine.git(&clone, &["fsck", "--strict"]);
    let logged = fs::read_to_string(git_dir(machine).join("logs/refs/pmpy/acted")).unwrap();
    assert_eq!(logged.lines().count(), rounds() + 1, "each acted revision is in the log");
    for line in logged.lines() {
        let id = line.split(' ').nth(1).unwrap();
        machine.git(&clone, &["cat-file", "-e", &format!("{id}^{{tree}}")]);
    }
    let debris: Vec<PathBuf> = machine
        .files_below(&git_dir(machine))
        .into_iter()
        .filter(|file| {
            let name = file.file_name().unwrap().to_string_lossy();
            ["pack_git2_", "tmp_", ".tmp-"].iter().any(|it| name.starts_with(it))
                || name.ends_with(".lock")
        })
        .collect();
    assert!(debris.is_empty(), "{debris:?}");
}

#[test]
fn packs_stay_few_with_git_on_the_machine() {
    let machine = machine();
    let most = fetch_one_by_one(&machine, &std::env::var("PATH").unwrap());
    assert!(most <= MOST_PACKS, "{most} packs");
    everything_is_there(&machine);
}

#[test]
fn packs_stay_few_without_git_on_the_machine() {
    let machine = machine();
    let without_git = machine.path("bin");
    fs::create_dir(&without_git).unwrap();
    let most = fetch_one_by_one(&machine, text(&without_git));
    assert!(most <= MOST_PACKS, "{most} packs");
    everything_is_there(&machine);
}

#[test]
fn loose_objects_are_joined_into_a_pack() {
    let machine = machine();
    let clone = machine.clone_of(NAME);
    let mut hash = machine.command("git");
    hash.current_dir(&clone).args(["hash-object", "-w", "--stdin-paths"]);
    let mut hash = hash.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut paths = hash.stdin.take().unwrap();
    for number in 0..6_000 {
        let file = machine.path(&format!("desk/{number}"));
        fs::write(&file, number.to_string()).unwrap();
        writeln!(paths, "{}", text(&file)).unwrap();
    }
    drop(paths);
    assert!(hash.wait().unwrap().success());
    machine.push(NAME, &[("number", "1\n")]);
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    Ran::of(tick.env("PATH", machine.path("bin"))).ok();
    let count = machine.git(&clone, &["count-objects"]);
    assert!(count.starts_with("0 objects"), "{count}");
    machine.git(&clone, &["fsck", "--strict"]);
}

#[test]
fn garbage_collection_that_is_switched_off_stays_off() {
    let machine = machine();
    machine.git(&machine.clone_of(NAME), &["config", "gc.auto", "0"]);
    let most = fetch_one_by_one(&machine, &std::env::var("PATH").unwrap());
    assert!(most > MOST_PACKS, "{most} packs");
}

/// Lets housekeeping be due: many packs, and an object that nothing needs and that is old enough for
/// git to ask whether anybody still wants it.
fn let_garbage_gather(machine: &Sandbox) {
    let clone = machine.clone_of(NAME);
    let mut hash = machine.command("git");
    hash.current_dir(&clone).args(["hash-object", "-w", "--stdin"]).stdin(Stdio::piped());
    let mut hash = hash.stdout(Stdio::piped()).spawn().unwrap();
    hash.stdin.take().unwrap().write_all(b"nobody wants this").unwrap();
    let id = String::from_utf8(hash.wait_with_output().unwrap().stdout).unwrap();
    let object = git_dir(machine).join("objects").join(&id[..2]).join(id[2..].trim());
    let a_year_ago = SystemTime::now() - Duration::from_secs(365 * 86_400);
    fs::set_permissions(&object, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(&object).unwrap().set_modified(a_year_ago).unwrap();
    for number in 0..MOST_PACKS {
        let mut pack = machine.command("git");
        pack.current_dir(&clone).args(["pack-objects", "--quiet", ".git/objects/pack/pack"]);
        let mut pack = pack.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let blob = machine.path(&format!("blob-{number}"));
        fs::write(&blob, number.to_string()).unwrap();
        let id = machine.git(&clone, &["hash-object", "-w", text(&blob)]);
        pack.stdin.take().unwrap().write_all(format!("{id}\n").as_bytes()).unwrap();
        assert!(pack.wait().unwrap().success());
    }
}

#[test]
fn no_program_that_the_clone_names_is_run_when_garbage_is_collected() {
    let canary = "canary";
    let hook = |machine: &Sandbox| format!("touch {}", text(&machine.path(canary)));
    let included = |machine: &Sandbox| {
        let file = machine.path("included");
        fs::write(&file, format!("[gc]\n\trecentObjectsHook = {}\n", hook(machine))).unwrap();
        text(&file).to_owned()
    };
    type Setting<'a> = (&'a str, &'a dyn Fn(&Sandbox) -> String);
    let settings: [Setting; 4] = [
        ("gc.recentObjectsHook", &hook),
        ("include.path", &included),
        ("includeIf.hasconfig:remote.*.url:**.path", &included),
        ("remote.origin.promisor", &|_| "true".to_owned()),
    ];
    for (key, value) in settings {
        let machine = machine();
        let clone = machine.clone_of(NAME);
        let_garbage_gather(&machine);
        assert!(packs(&machine) >= MOST_PACKS);
        machine.git(&clone, &["config", "extensions.worktreeConfig", "true"]);
        machine.git(&clone, &["config", "--worktree", key, &value(&machine)]);
        let reported = machine.path("git-was-run");
        let git =
            format!("#!/bin/sh\ntouch {}\nexec /usr/bin/env -S git \"$@\"\n", text(&reported));
        fs::create_dir(machine.path("bin")).unwrap();
        write_program(&machine.path("bin/git"), git);
        machine.push(NAME, &[("number", "1\n")]);
        let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
        Ran::of(tick.env("PATH", machine.path("bin"))).ok();
        assert!(!machine.path(canary).exists(), "{key}");
        assert!(!reported.exists(), "{key}: git was started");
        assert!(packs(&machine) < MOST_PACKS, "{key}: {} packs", packs(&machine));
        machine.git(&clone, &["config", "--worktree", "--unset", key]);
        machine.git(&clone, &["fsck", "--strict"]);
    }
}

#[test]
fn saved_heads_go_after_ninety_days_and_what_was_damaged_after_thirty() {
    let machine = machine();
    let clone = machine.clone_of(NAME);
    let now = SystemTime::now();
    let days_ago = |days: u64| {
        let time = now - Duration::from_secs(days * 86_400);
        let time: chrono::DateTime<chrono::Utc> = time.into();
        time.format("%Y%m%dT%H%M%SZ").to_string()
    };
    let saved = |days| format!("refs/pmpy/saved/{}-abcdef0", days_ago(days));
    let kept = |days| git_dir(&machine).join("pmpy/quarantine").join(days_ago(days));
    for days in [1, 89, 91] {
        machine.git(&clone, &["update-ref", &saved(days), "HEAD"]);
    }
    for days in [29, 31] {
        fs::create_dir_all(kept(days)).unwrap();
        fs::write(kept(days).join("HEAD"), "damaged").unwrap();
    }
    let (old, young) = (kept(31), kept(29));
    let lasting = [saved(1), saved(89)];
    machine.push(NAME, &[("number", "1\n")]);
    machine.tick().ok();
    let refs = machine.git(&clone, &["for-each-ref", "--format=%(refname)", "refs/pmpy/saved"]);
    let mut expected: Vec<String> = lasting.to_vec();
    expected.sort();
    assert_eq!(refs.lines().collect::<Vec<_>>(), expected);
    assert!(!old.exists() && young.exists());
}
