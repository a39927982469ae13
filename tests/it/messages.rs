//! What a new user is told who does everything too early, wrongly, or as somebody else: each answer
//! says what is the matter and names the next step. One table for each way to be wrong, with a row for
//! each command.

use std::collections::BTreeSet;
use std::process::Command;

use clap::CommandFactory;
use pmpy::cli::Cli;

use crate::sandbox::{Ran, Sandbox, text};
use crate::throwaway::Throwaway;

/// A command, its exit code, and words that its answer has; none: there is nothing to be said.
type Row = (&'static str, i32, &'static [&'static str]);

/// Runs each row, sure that it answers so, and that no command is left out but `but`.
#[track_caller]
fn each_answers(rows: &[Row], but: &[&str], agent: impl Fn(&[&str]) -> Ran) {
    let mut wrong = String::new();
    for (line, code, words) in rows {
        let ran = agent(&line.split(' ').collect::<Vec<_>>());
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        let silent = words.is_empty() == said.is_empty();
        if ran.code != Some(*code) || !missing.is_empty() || !silent {
            wrong += &format!("agent {line}: expected {code} and {words:?}\n{ran}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let tried: BTreeSet<&str> = rows
        .iter()
        .filter_map(|(line, ..)| line.split(' ').next())
        .chain(but.iter().copied())
        .collect();
    let program = Cli::command();
    let all = program.get_subcommands().filter(|command| !command.is_hide_set());
    let left: Vec<&str> =
        all.map(clap::Command::get_name).filter(|it| !tried.contains(it)).collect();
    assert_eq!(left, Vec::<&str>::new(), "each command has a row");
}

/// Where there is no repository, this is what helps.
const ADD_ONE: &[&str] = &["there is no repository \"ops\"", "hint: ", "agent init URL"];

#[test]
fn where_nothing_is_configured_each_command_names_the_first_step() {
    let machine = Sandbox::new();
    let rows: [Row; 18] = [
        ("init", 2, &["<[NAME=]URL>", "Usage: agent init", "--help"]),
        (
            "status",
            0,
            &["no tick has run here", "agent tick", "no repository under", "agent init URL"],
        ),
        ("status --oneline", 0, &["no repository"]),
        ("status --nagios", 3, &["PMPY UNKNOWN - no tick has run on this machine"]),
        ("status ops", 1, ADD_ONE),
        ("tick ops", 1, ADD_ONE),
        ("explain ops", 1, ADD_ONE),
        ("log ops", 1, ADD_ONE),
        ("history", 0, &["nothing was acted upon yet"]),
        ("redo ops", 1, ADD_ONE),
        ("rollback ops", 1, ADD_ONE),
        ("checkout ops main", 1, ADD_ONE),
        ("hold --all", 0, &["there is no repository under", "agent init URL"]),
        ("unhold", 2, &["which repository?", "hint: agent unhold REPO"]),
        ("accept ops 1234567", 1, ADD_ONE),
        ("schedule cron", 0, &["put this line into", "tick --trigger cron"]),
        ("check --offline", 0, &["the defaults: there is no", "agent.toml", "let cron call it"]),
        ("notify --name ops", 0, &[]),
    ];
    each_answers(&rows, &["listen", "demo"], |line| machine.agent(line));
    // What cron runs has nothing to say.
    each_answers(&[("tick", 0, &[])], &NAMES, |line| machine.agent(line));
}

/// Every command, for a table that is about one of them.
const NAMES: [&str; 17] = [
    "init", "tick", "listen", "status", "explain", "history", "log", "redo", "rollback",
    "checkout", "hold", "unhold", "accept", "schedule", "check", "notify", "demo",
];

#[test]
fn a_wrong_configuration_is_told_by_each_command_with_its_place_and_what_to_write() {
    let machine = Sandbox::with("ops", &[("work.sh", "true\n")]);
    machine.configure("splay = \"1s\"\nrot = \"/srv\"\n");
    const WHERE: &[&str] = &["agent.toml:2:1: unknown key \"rot\"", "did you mean \"root\"?"];
    let rows: [Row; 16] = [
        ("init https://git.example.org/ops.git", 2, WHERE),
        ("tick", 2, WHERE),
        ("status", 2, WHERE),
        ("status --nagios", 3, &["PMPY UNKNOWN - ", "agent.toml:2:1: unknown key \"rot\""]),
        ("explain ops", 2, WHERE),
        ("history", 2, WHERE),
        ("log ops", 2, WHERE),
        ("redo ops", 2, WHERE),
        ("rollback ops", 2, WHERE),
        ("checkout ops main", 2, WHERE),
        ("hold ops", 2, WHERE),
        ("unhold ops", 2, WHERE),
        ("accept ops 1234567", 2, WHERE),
        ("schedule cron", 2, WHERE),
        ("check", 2, WHERE),
        ("listen", 2, WHERE),
    ];
    each_answers(&rows, &["notify", "demo"], |line| machine.agent(line));
    let ran = machine.agent(&["--config", "/nowhere", "tick"]).exits(2);
    assert!(ran.stderr.contains("hint: write it, or leave out --config"), "{ran}");
}

#[test]
fn a_user_without_rights_is_told_whose_they_are() {
    let machine = Throwaway::new();
    machine.as_pat("true").ok();
    machine.sh("chown root /home/pat").ok();
    const OWNER: &[&str] =
        &["/home/pat", "Permission denied", "hint: run this as its owner or as root"];
    let rows: [Row; 6] = [
        ("init https://git.example.org/ops.git", 1, OWNER),
        ("tick", 1, OWNER),
        ("status", 0, &["no repository under /home/pat/gitrepo", "hint: add one"]),
        ("history", 0, &["nothing was acted upon yet"]),
        ("check --offline", 1, &["nothing can be written in /home/pat", "hint: "]),
        ("schedule systemd", 1, &["only root may install a unit", "hint: sudo agent schedule"]),
    ];
    each_answers(&rows, &NAMES, |line| machine.as_pat(&format!("agent {}", line.join(" "))));

    // Another one's world, which only that one may change.
    machine.sandbox.serve("ops", &[("work.sh", "true\n")]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&["--root", "/srv/own", "init", &url]).ok();
    for line in ["tick", "hold ops", "redo ops", "explain ops"] {
        let ran = machine.as_pat(&format!("agent --root /srv/own {line}"));
        assert_ne!(ran.code, Some(0), "{ran}");
        assert!(ran.stderr.contains("hint: run this as its owner or as root"), "{ran}");
    }
}

#[test]
fn without_a_network_what_works_works_and_the_rest_says_what_is_missing() {
    let machine = Sandbox::with("ops", &[("work.sh", "echo worked\n")]);
    machine.tick().ok();
    let url = "https://git.example.org/ops.git";
    machine.git(&machine.clone_of("ops"), &["remote", "set-url", "origin", url]);
    const NAME: &[&str] =
        &["the name git.example.org is not known here", "getent hosts git.example.org"];
    let rows: [Row; 13] = [
        (
            "init new=https://git.example.org/new.git",
            1,
            &["Not finished: new", "getent hosts git.example.org"],
        ),
        ("tick", 0, &[]),
        ("tick ops", 0, &[]),
        ("status", 0, NAME),
        ("status --nagios", 0, &["PMPY OK", "unreachable"]),
        ("explain ops", 0, &["the name git.example.org is not known here"]),
        ("history", 0, &["succeeded"]),
        ("log ops", 0, &["worked"]),
        ("redo ops", 0, &["worked"]),
        ("check", 1, NAME),
        ("check --offline", 0, &["not asked"]),
        ("hold ops", 0, &["held"]),
        ("unhold ops", 0, &["the next tick goes on"]),
    ];
    let alone = |line: &[&str]| {
        let mut command: Command = machine.command("unshare");
        command.arg("--net").args(machine.agent_line(line));
        Ran::of(&mut command)
    };
    each_answers(&rows, &NAMES, alone);
}
