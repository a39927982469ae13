//! A publication by the system calls that it makes: what comes over the wire meets no shell, and
//! nothing is written but in the clone, at the target, and in the agent's own directory.

use std::fs;

use super::{NAME, Publisher, branch};
use crate::idle::writes;
use crate::sandbox::{Ran, text};

const NAMES: [&str; 8] = [
    "$(touch${IFS}canary)",
    "`touch${IFS}canary`",
    "a\"b",
    "a'b",
    "a;touch${IFS}canary",
    "a|b&c>canary",
    "-rf",
    "--exec=touch",
];

/// The calls of a tick and of all that it starts, with the paths of their descriptors.
fn calls_of_a_tick(site: &Publisher) -> Vec<String> {
    let trace = site.machine.path("trace");
    let mut strace = site.machine.command("strace");
    let line = site.machine.agent_line(&["tick", "--trigger", "cron"]);
    strace.args(["-f", "-yy", "-s", "4096", "-o", text(&trace)]).args(line);
    Ran::of(&mut strace).ok();
    let trace = fs::read_to_string(trace).unwrap();
    let call = |line: &str| Some(line.split_once(' ')?.1.trim_start().to_owned());
    trace.lines().filter_map(call).filter(|call| !call.contains(" = -1 ")).collect()
}

/// The absolute paths that a call names or has open. The directory that the agent was started in is one
/// of them only where what is named there is relative.
fn paths(call: &str) -> Vec<&str> {
    let open = call.split('<').zip(call.split('<').skip(1));
    let open = open.filter_map(|(before, rest)| {
        let (path, behind) = rest.split_once('>')?;
        (!before.ends_with("AT_FDCWD") || !behind.starts_with(", \"/")).then_some(path)
    });
    // What is written is no name.
    let is_content = ["write(", "pwrite64(", "writev("].iter().any(|it| call.starts_with(it));
    let named = call.split('"').skip(1).step_by(2).filter(|_| !is_content);
    open.chain(named).filter(|path| path.starts_with('/')).collect()
}

#[test]
fn names_from_hell_meet_no_shell_and_write_nowhere_else() {
    let site = Publisher::new("branches", "");
    site.machine.tick().ok();
    for name in NAMES {
        site.push(name, name);
    }
    let machine = &site.machine;
    let allowed = [machine.clone_of(NAME), site.at(""), machine.root().join(".pmpy")];
    let mut written = 0;
    for step in ["they come", "they move", "they go"] {
        let calls = calls_of_a_tick(&site);
        let started: Vec<_> = calls.iter().filter(|call| call.starts_with("execve")).collect();
        for call in &started {
            let agent = format!("execve(\"{}\"", env!("CARGO_BIN_EXE_agent"));
            let ours = call.starts_with(&agent) || call.starts_with("execve(\"/proc/self/exe\"");
            assert!(ours, "{step}: {call}");
        }
        assert!(started.len() >= 2, "{step}: the tick and its worker were seen: {started:?}");
        for call in calls.iter().filter(|call| writes(call)) {
            for path in paths(call) {
                let fits = allowed.iter().any(|dir| path.starts_with(text(dir)));
                // Where the target and the links beside it are made.
                let above = [site.at(""), machine.clone_of(NAME)];
                let above = above.iter().any(|it| it.parent().map(text) == Some(path));
                // The last is memory.
                let harmless = ["/dev/", "/proc/", "/memfd:"].iter().any(|it| path.starts_with(it));
                assert!(fits || above || harmless, "{step}: {path} in {call}");
                written += usize::from(fits);
            }
        }
        for name in NAMES {
            match step {
                "they come" => drop(site.push(name, "moved")),
                _ => site.delete(&branch(name)),
            }
        }
    }
    assert!(written > 500, "only {written} writes were seen");
    assert_eq!(site.directories(), ["main"]);
    assert!(machine.files_below(&machine.path("")).iter().all(|file| !file.ends_with("canary")));
}
