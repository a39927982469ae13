//! What a power cut may take: a name must never come to disk before the content that it stands for.
//! No test here cuts the power; the order of the system calls shows it.

use std::fs;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

/// The calls of one worker that bring something to disk or give something its name, in their order,
/// with the path of each descriptor.
fn calls_of_a_worker(machine: &Sandbox) -> Vec<String> {
    traced(machine, &[])
}

/// The same with these options of strace. Each line of a trace of several processes begins with a process id,
/// which is left out.
fn traced(machine: &Sandbox, options: &[&str]) -> Vec<String> {
    let trace = machine.path("trace");
    machine.agent(&["tick", "--dry-run"]).ok();
    let mut strace = machine.command("strace");
    strace.args(options).args(["-y", "-s", "4096", "-o", text(&trace)]);
    strace.args(["-e", "trace=fsync,fdatasync,syncfs,?rename,?renameat,renameat2,?link,?linkat"]);
    strace.args(machine.agent_line(&["worker", "ops", "--trigger", "cron"]));
    Ran::of(&mut strace).ok();
    let calls = fs::read_to_string(trace).unwrap();
    let calls = calls.lines().filter(|call| !call.contains(" = -1 "));
    calls
        .map(|call| call.trim_start_matches(|it: char| it.is_ascii_digit() || it == ' '))
        .map(str::to_owned)
        .collect()
}

fn gives_a_name(call: &str) -> bool {
    call.starts_with("rename") || call.starts_with("link")
}

/// Where `calls` give something the name `name`, for the last time; and the name that it had before.
#[track_caller]
fn named(calls: &[String], name: &str) -> (usize, String) {
    let ends = |quoted: &str| quoted == name || quoted.ends_with(&format!("/{name}"));
    let found = calls.iter().enumerate().rev().find_map(|(at, call)| {
        let mut quoted = call.split('"').skip(1).step_by(2);
        let (from, to) = (quoted.next()?, quoted.next()?);
        (gives_a_name(call) && ends(to)).then(|| (at, from.rsplit('/').next().unwrap().to_owned()))
    });
    found.unwrap_or_else(|| panic!("nothing gets the name {name}:\n{}", calls.join("\n")))
}

/// Where `calls` last bring the file or directory at a path that ends like this to disk.
#[track_caller]
fn synced(calls: &[String], path: &str) -> usize {
    let ends = |call: &String| call.starts_with('f') && call.contains(&format!("{path}>)"));
    let found = calls.iter().rposition(ends);
    found.unwrap_or_else(|| panic!("{path} is not synced:\n{}", calls.join("\n")))
}

#[test]
fn content_is_on_disk_before_its_name_and_each_step_before_the_next() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    machine.push("ops", &[("page", "two\n"), ("new/file", "two\n")]);
    let calls = calls_of_a_worker(&machine);
    for name in ["page", "file", "refs/heads/main", "journal", "lastaction.txt", "state"] {
        let (at, before) = named(&calls, name);
        assert!(synced(&calls, &before) < at, "{name}:\n{}", calls.join("\n"));
    }
    let is_pack = |call: &&String| call.contains("/objects/pack/pack-") && call.contains(".pack\"");
    let pack = calls.iter().filter(|call| gives_a_name(call)).find(is_pack).unwrap();
    let received = pack.split('"').nth(1).unwrap();
    assert!(synced(&calls, received) < named(&calls, "page").0);

    let order = [
        ("the worktree", synced(&calls, "ops/new")),
        ("the branch", named(&calls, "refs/heads/main").0),
        ("its directory", synced(&calls, "refs/heads")),
        ("the record", named(&calls, "lastaction.txt").0),
        ("its directory", synced(&calls, ".temp/nodeinfo")),
    ];
    for pair in order.windows(2) {
        let [(first, at), (second, later)] = pair else { unreachable!() };
        assert!(at < later, "{first} before {second}:\n{}", calls.join("\n"));
    }
}

#[test]
fn many_files_are_on_disk_before_the_branch_moves() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    machine.push_with("ops", |desk| {
        for number in 0..300 {
            fs::write(desk.join(format!("many-{number}")), number.to_string()).unwrap();
        }
    });
    let calls = calls_of_a_worker(&machine);
    let whole_disk = |call: &String| call.starts_with("syncfs(");
    let (first, last) =
        (calls.iter().position(whole_disk).unwrap(), calls.iter().rposition(whole_disk).unwrap());
    let (name, branch) = (named(&calls, "many-299").0, named(&calls, "refs/heads/main").0);
    let order = [first, named(&calls, "many-0").0, name, last, branch];
    assert!(order.is_sorted() && first < last, "{order:?}:\n{}", calls.join("\n"));
}

/// What `call` brings to disk, below the clone: temporary names by the name that they get.
fn synced_part(machine: &Sandbox, call: &str) -> Option<String> {
    // Where another process was faster: `fsync(3</path> <unfinished ...>`.
    let path = call.split_once('<')?.1.split_once('>')?.0;
    let clone = machine.clone_of("ops");
    let path = path.strip_prefix(text(&clone))?.trim_start_matches('/');
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let name = match name {
        // `.NAME.PID.NUMBER.new`
        name if name.ends_with(".new") => name.trim_start_matches('.').rsplitn(4, '.').last()?,
        name if name.starts_with(".pmpy-tmp-") => "a file of the tree",
        name if name.starts_with("pack-") => name.rsplit_once('.')?.1,
        name => name.trim_end_matches(".pmpy.lock").trim_end_matches(".lock"),
    };
    Some(if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") })
}

#[test]
fn an_action_of_one_file_waits_for_the_disk_for_these_reasons_and_no_other() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    // Refs that are moved, not made; so it is each time but the first.
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    machine.push("ops", &[("page", "three\n")]);
    let calls = traced(&machine, &["-f"]);
    let syncs = calls.iter().filter(|call| call.starts_with('f') || call.starts_with("syncfs"));
    let parts: Vec<String> = syncs.filter_map(|call| synced_part(&machine, call)).collect();
    let expected = [
        // What was received, before a ref names it.
        ".git/objects/tmp_objdir-pmpy/pack",
        ".git/objects/tmp_objdir-pmpy/idx",
        ".git/objects/pack",
        ".git/refs/remotes/origin/main",
        ".git/refs/pmpy/seen/main",
        // How a crash is repaired, before the worktree changes.
        ".git/pmpy/journal",
        ".git/pmpy",
        // The tree, then the index, then the branch.
        "a file of the tree",
        "",
        ".git/index",
        ".git/refs/heads/main",
        ".git/refs/heads",
        // The record, while there is room; and that the script runs, before it does.
        ".temp/nodeinfo/lastaction.txt",
        ".git/pmpy/journal",
        ".git/pmpy",
        // The records of its end.
        ".temp/nodeinfo",
        ".git/refs/pmpy/acted",
        ".git/pmpy/history",
        ".git/pmpy/state",
        ".git/pmpy",
    ];
    assert_eq!(parts, expected, "{}", calls.join("\n"));
}
