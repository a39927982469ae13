//! What a new user is told who does everything too early, wrongly, or as somebody else: each answer
//! says what is the matter and names the next step. One table for each way to be wrong, with a row for
//! each command.

use std::collections::BTreeSet;
use std::process::Command;

use clap::CommandFactory;
use pmpy::cli::Cli;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, Sandbox, text};

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
    let rows: [Row; 22] = [
        ("init", 2, &["were not provided: <[NAME=]URL>...", "hint: agent init --help"]),
        (
            "status",
            0,
            &["no tick has run here", "agent tick", "no repository under", "agent init URL"],
        ),
        ("status --oneline", 0, &["no repository"]),
        ("status --nagios", 3, &["PMPY UNKNOWN - no tick has run on this machine"]),
        ("status ops", 2, ADD_ONE),
        ("tick ops", 2, ADD_ONE),
        ("explain ops", 2, ADD_ONE),
        ("diff ops", 2, ADD_ONE),
        ("log ops", 2, ADD_ONE),
        ("history", 0, &["nothing was applied yet"]),
        ("fleet", 2, &["no status repository is configured", "hint: name one: agent fleet --url"]),
        ("fleet forget web01", 2, &["no status repository is configured", "hint: name one: "]),
        ("redo ops", 2, ADD_ONE),
        ("rollback ops", 2, ADD_ONE),
        ("checkout ops main", 2, ADD_ONE),
        ("hold --all", 0, &["there is no repository under", "agent init URL"]),
        ("unhold", 2, &["which repository?", "hint: agent unhold REPO"]),
        ("accept ops 1234567", 2, ADD_ONE),
        ("forget ops", 2, ADD_ONE),
        ("schedule cron", 0, &["put this line into", "tick --trigger cron"]),
        ("check --offline", 0, &["the defaults: there is no", "agent.toml", "let cron call it"]),
        ("notify --name ops", 0, &[]),
    ];
    each_answers(&rows, &["listen", "demo"], |line| machine.agent(line));
    let rows: [Row; 13] = [
        ("explain", 2, &["agent: the following required", "<REPO>", "hint: agent status lists"]),
        ("checkout ops", 2, &["were not provided: <REF>", "hint: agent checkout --help"]),
        (
            "stauts",
            2,
            &["unrecognized subcommand 'stauts'", "hint: a similar subcommand exists: 'status'"],
        ),
        (
            "status --jason",
            2,
            &["unexpected argument '--jason'", "hint: a similar argument exists: '--json'"],
        ),
        ("fleet forget", 2, &["were not provided: <HOST>...", "hint: agent fleet --help"]),
        ("history -n x", 2, &["'--count <N>': \"x\" is not a number from 1 on", "hint: "]),
        ("history ops -n 0", 2, &["'--count <N>': \"0\" is not a number from 1 on", "hint: "]),
        ("schedule never", 2, &["invalid value 'never'", "[possible values: cron, systemd, none]"]),
        (
            "hold ops --until soon",
            2,
            &["\"soon\" is not a time", "hint: write a number and its unit"],
        ),
        ("init git@host", 2, &["\"git@host\" names no repository", "hint: git@host:ops.git"]),
        ("init ../x=/srv/x.git", 2, &["\"../x\" cannot be the name of a repository", "hint: "]),
        ("tick --trigger noon", 2, &["\"noon\" is not a known trigger", "hint: write one of"]),
        ("-v -q tick", 2, &["'--verbose' cannot be used with '--quiet'", "hint: "]),
    ];
    each_answers(&rows, &NAMES, |line| machine.agent(line));
    // What cron runs has nothing to say.
    each_answers(&[("tick", 0, &[])], &NAMES, |line| machine.agent(line));
}

/// Every command, for a table that is about one of them.
const NAMES: [&str; 20] = [
    "init", "tick", "listen", "status", "explain", "diff", "history", "log", "redo", "rollback",
    "checkout", "hold", "unhold", "accept", "forget", "schedule", "check", "notify", "demo",
    "fleet",
];

#[test]
fn a_wrong_configuration_is_reported_by_each_command_with_its_place_and_what_to_write() {
    let machine = Sandbox::with("ops", &[("work.sh", "true\n")]);
    machine.configure("splay = \"1s\"\nrot = \"/srv\"\n");
    const WHERE: &[&str] = &["agent.toml:2:1: unknown key \"rot\"", "did you mean \"root\"?"];
    let rows: [Row; 20] = [
        ("init https://git.example.org/ops.git", 2, WHERE),
        ("fleet", 2, WHERE),
        ("fleet forget web01", 2, WHERE),
        ("tick", 2, WHERE),
        ("status", 2, WHERE),
        ("status --nagios", 3, &["PMPY UNKNOWN - ", "agent.toml:2:1: unknown key \"rot\""]),
        ("explain ops", 2, WHERE),
        ("diff ops", 2, WHERE),
        ("history", 2, WHERE),
        ("log ops", 2, WHERE),
        ("redo ops", 2, WHERE),
        ("rollback ops", 2, WHERE),
        ("checkout ops main", 2, WHERE),
        ("hold ops", 2, WHERE),
        ("unhold ops", 2, WHERE),
        ("forget ops", 2, WHERE),
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
fn a_variable_that_is_set_to_nothing_is_not_set_and_one_alone_is_no_command() {
    let machine = Sandbox::new();
    let agent = env!("CARGO_BIN_EXE_agent");
    let mut command = machine.command(agent);
    command.env("AGENT_ROOT", "").env("AGENT_CONFIG", "").args(["completions", "bash"]);
    assert!(Ran::of(&mut command).ok().stdout.contains("complete "));
    let ran = Ran::of(&mut machine.agent_command(&["--config", "", "status"]));
    assert!(
        ran.exits(2).stderr.contains("a value is required for '--config <FILE>'"),
        "typed it is an error"
    );
    let ran = Ran::of(machine.command(agent).env("AGENT_ROOT", "/srv/x")).exits(2);
    assert!(
        ran.stderr.contains("Usage: ") && ran.stderr.contains("make this machine live"),
        "{ran}"
    );
    assert!(!ran.stderr.contains("helper-request"), "hidden commands stay hidden: {ran}");
}

#[test]
fn where_a_repository_is_not_cloned_yet_each_command_says_why_and_what_is_next() {
    let machine = Sandbox::new();
    machine.configure("[repo.ops]\nurl = \"/nowhere/ops.git\"\n");
    const NOT_YET: &[&str] = &["ops is not cloned yet", "hint: ", "agent tick ops"];
    each_answers(&[("redo ops", 1, NOT_YET)], &NAMES, |line| machine.agent(line));
    machine.tick().ok();
    const WHY: &[&str] =
        &["ops could not be cloned: ", "/nowhere/ops.git cannot be opened", "hint: "];
    let rows: [Row; 10] = [
        (
            "explain ops",
            0,
            &[
                "/nowhere/ops.git cannot be opened",
                "is cloned first",
                "each tick tries again",
                "agent tick ops",
            ],
        ),
        ("history ops", 0, &["nothing was applied yet"]),
        ("log ops", 1, &["no log of ops", "hint: to see why: agent explain ops"]),
        ("diff ops", 1, WHY),
        ("redo ops", 1, WHY),
        ("rollback ops", 1, WHY),
        ("checkout ops main", 1, WHY),
        ("accept ops 1234567", 1, WHY),
        ("hold ops", 1, &["ops is not cloned yet", "hint: ", "active = false under [repo.ops]"]),
        ("status", 0, &["/nowhere/ops.git cannot be opened", "hint: correct its url"]),
    ];
    each_answers(&rows, &NAMES, |line| machine.agent(line));
}

#[test]
fn what_is_not_here_is_reported_with_the_way_to_what_is() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 3\n")]);
    machine.tick().exits(1);
    let rows: [Row; 6] = [
        ("explain ops deadbeef", 0, &["deadbeef is not here: it was never fetched"]),
        (
            "explain ops zzz",
            1,
            &["\"zzz\" names nothing that is here", "hint: ", "log --oneline --all"],
        ),
        (
            "rollback ops zzz",
            1,
            &["\"zzz\" names nothing that is here", "hint: ", "log --oneline --all"],
        ),
        (
            "checkout ops nope",
            1,
            &["\"nope\" is not a branch, tag or revision", "hint: ", "branch --all"],
        ),
        (
            "checkout ops main --to /nowhere/sites/ops",
            1,
            &["there is no directory /nowhere/sites", "hint: mkdir -p /nowhere/sites"],
        ),
        ("tick --dry-run", 1, &["ops: waits (", "next try in "]),
    ];
    each_answers(&rows, &NAMES, |line| machine.agent(line));
}

#[test]
fn what_is_configured_otherwise_is_reported_with_its_file() {
    let machine = Sandbox::new();
    machine.configure(
        "[repo.ops]\nurl = \"https://me:old@nowhere.invalid/ops.git\"\n\
         [repo.plain]\nurl = \"http://nowhere.invalid/plain.git\"\n",
    );
    let rows: [Row; 3] = [
        (
            "init https://me:new@nowhere.invalid/ops.git",
            1,
            &[
                "\"ops\" is configured already, with other credentials",
                "hint: change them in ",
                ".toml",
            ],
        ),
        (
            "init https://elsewhere.invalid/ops.git",
            1,
            &["with another url: https://nowhere.invalid/ops.git", "hint: "],
        ),
        (
            "check",
            1,
            &["plain.git is neither encrypted nor", "insecure = true for it, in agent.toml"],
        ),
    ];
    each_answers(&rows, &NAMES, |line| machine.agent(line));
    let file = machine.path("file");
    std::fs::write(&file, "").unwrap();
    let mut command = machine.command(env!("CARGO_BIN_EXE_agent"));
    let ran = Ran::of(command.args(["--root", text(&file), "status"])).exits(2);
    assert!(ran.stderr.contains(&format!("{}: the root is not a directory", text(&file))), "{ran}");
    assert!(ran.stderr.contains("hint: name a directory with --root"), "{ran}");
}

#[test]
fn a_user_without_rights_is_shown_who_has_them() {
    let machine = MachineCopy::new();
    machine.as_pat("true").ok();
    machine.sh("chown root /home/pat").ok();
    const OWNER: &[&str] =
        &["/home/pat", "Permission denied", "hint: run this as its owner or as root"];
    let rows: [Row; 6] = [
        ("init https://git.example.org/ops.git", 1, OWNER),
        ("tick", 1, OWNER),
        ("status", 0, &["no repository under /home/pat/gitrepo", "hint: add one"]),
        ("history", 0, &["nothing was applied yet"]),
        (
            "check --offline",
            1,
            &[
                "nothing can be written in /home/pat",
                "hint: as root: install -d -o pat /home/pat/.local/state/pmpy",
            ],
        ),
        ("schedule systemd", 1, &["only root may install a unit", "hint: sudo agent schedule"]),
    ];
    each_answers(&rows, &NAMES, |line| machine.as_pat(&format!("agent {}", line.join(" "))));

    // Another one's world, which only that one may change.
    machine.sandbox.serve("ops", &[("work.sh", "true\n")]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&["--root", "/srv/own", "init", &url]).ok();
    // How it stands is for everybody to know.
    for line in ["status", "status ops", "status --nagios"] {
        let ran = machine.as_pat(&format!("agent --root /srv/own {line}"));
        assert!(ran.ok().stdout.contains("current"), "{line}");
    }
    let ran = machine.as_pat("agent --root /srv/own status opps");
    assert!(ran.exits(2).stderr.contains("hint: run this as its owner or as root"));
    for line in ["tick", "hold ops", "redo ops", "explain ops"] {
        let ran = machine.as_pat(&format!("agent --root /srv/own {line}"));
        assert_ne!(ran.code, Some(0), "{ran}");
        assert!(ran.stderr.contains("hint: run this as its owner or as root"), "{ran}");
    }
}

#[test]
fn a_user_without_repositories_sees_those_of_the_machine() {
    let machine = MachineCopy::new();
    machine.sandbox.serve("ops", &[("work.sh", "true\n")]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&["init", &url, "--schedule", "none"]).ok();
    let sees = |line: &str| {
        let said = machine.as_pat(line).ok().stdout;
        assert!(said.contains("ops") && said.contains("current"), "{line}: {said}");
    };
    sees("agent status");
    sees("agent status ops");
    machine.as_pat("agent tick").ok();
    sees("agent status");
    sees("agent status ops");
    let ran = machine.as_pat("agent status opps").exits(2);
    assert!(ran.stderr.contains("there is no repository \"opps\""), "{ran}");
}

#[test]
fn without_a_network_what_works_works_and_the_rest_says_what_is_missing() {
    let machine = Sandbox::with("ops", &[("work.sh", "echo worked\n")]);
    machine.tick().ok();
    let url = "https://git.example.org/ops.git";
    machine.git(&machine.clone_of("ops"), &["remote", "set-url", "origin", url]);
    const NAME: &[&str] =
        &["the name git.example.org is not known here", "getent hosts git.example.org"];
    let rows: [Row; 14] = [
        (
            "init new=https://git.example.org/new.git",
            1,
            &["Not ready yet: new", "getent hosts git.example.org"],
        ),
        ("tick", 0, &[]),
        ("tick ops", 1, NAME),
        ("status", 0, NAME),
        ("status --nagios", 0, &["PMPY OK", "unreachable"]),
        ("explain ops", 0, &["the name git.example.org is not known here"]),
        ("history", 0, &["succeeded"]),
        ("log ops", 0, &["worked"]),
        ("redo ops", 0, &["worked"]),
        ("check", 1, NAME),
        ("check --offline", 0, &["not asked"]),
        ("hold ops", 0, &["held"]),
        ("unhold ops", 0, &["the next tick continues"]),
        ("forget ops", 0, &["no longer worked on"]),
    ];
    let alone = |line: &[&str]| {
        let mut command: Command = machine.command("unshare");
        command.arg("--net").args(machine.agent_line(line));
        Ran::of(&mut command)
    };
    each_answers(&rows, &NAMES, alone);
}
