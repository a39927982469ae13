//! The life of a server as the first users of the idea laid out their repositories: `bin/init` and
//! `bin/work`, each with `common`, `part`, `stack` and `stack/part`, and scripts that nobody made
//! executable.

use crate::sandbox::{Sandbox, set_mode, text};

/// A script that only says who it is.
fn says(who: &str) -> String {
    format!("echo {who} $AGENT_TRIGGER >> \"$AGENT_ROOT/../runs\"\n")
}

/// A server whose repository has init and work scripts for every kind of machine there is.
fn fleet() -> Sandbox {
    let machine = Sandbox::new();
    let places = [
        "common",
        "part/web",
        "part/db",
        "stack/shop",
        "stack/blog",
        "stack/shop/part/web",
        "stack/shop/part/db",
    ];
    let files: Vec<(String, String)> = ["init", "work"]
        .iter()
        .flat_map(|step| {
            places.map(|place| {
                (format!("bin/{step}/{place}/{step}.sh"), says(&format!("{step}:{place}")))
            })
        })
        .collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, script)| (path.as_str(), script.as_str())).collect();
    machine.serve("ops", &files);
    machine
}

/// Whose scripts ran, in order, without their triggers.
fn who_ran(machine: &Sandbox) -> Vec<String> {
    machine.runs().iter().map(|run| run.split(' ').next().unwrap().to_owned()).collect()
}

fn init(machine: &Sandbox, more: &[&str]) {
    let server = machine.server("ops");
    let line = [&["init", text(&server), "--schedule", "none"], more].concat();
    machine.agent(&line).ok();
}

#[test]
fn a_new_machine_is_live_after_init_and_follows_each_push() {
    let machine = fleet();
    init(&machine, &["--part", "web"]);
    assert_eq!(who_ran(&machine), ["init:common", "init:part/web", "work:common", "work:part/web"]);
    let first = machine.head("ops");
    assert_eq!(machine.lastaction("ops"), Some(first.clone()));

    let revision = machine.push("ops", &[("page", "hello\n")]);
    machine.tick().ok();
    let status = machine.status();
    assert_eq!(status["part"], "web");
    assert_eq!(status["healthy"], true);
    let row = machine.row("ops");
    assert_eq!(row["state"], "current");
    assert_eq!(row["head"], revision.as_str());
    assert_eq!(row["acted"]["revision"], revision.as_str());
    assert_eq!(row["acted"]["outcome"], "succeeded");
    assert_eq!(who_ran(&machine)[4..], ["work:common", "work:part/web"], "init runs once");
    assert_ne!(first, revision);
}

#[test]
fn part_and_stack_choose_which_scripts_run_and_in_which_order() {
    let machine = fleet();
    init(&machine, &["--part", "web", "--stack", "shop"]);
    let ladder = ["common", "part/web", "stack/shop", "stack/shop/part/web"];
    let expected: Vec<String> = ["init", "work"]
        .iter()
        .flat_map(|step| ladder.map(|place| format!("{step}:{place}")))
        .collect();
    assert_eq!(who_ran(&machine), expected);
}

#[test]
fn moving_head_back_by_hand_makes_the_next_tick_act_again() {
    let machine = fleet();
    machine.push("ops", &[("page", "hello\n")]);
    init(&machine, &["--part", "web"]);
    let revision = machine.head("ops");
    let before = machine.runs().len();
    machine.tick().ok();
    assert_eq!(machine.runs().len(), before, "nothing new, nothing done");

    machine.git(&machine.clone_of("ops"), &["reset", "--quiet", "--hard", "HEAD~1"]);
    assert_eq!(machine.state("ops"), "behind");
    machine.tick().ok();
    assert_eq!(machine.head("ops"), revision);
    assert_eq!(who_ran(&machine)[before..], ["work:common", "work:part/web"]);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_deleted_lastaction_makes_the_next_tick_act_again() {
    let machine = fleet();
    init(&machine, &[]);
    let before = machine.runs().len();
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    std::fs::remove_file(&record).unwrap();
    machine.tick().ok();
    assert_eq!(who_ran(&machine)[before..], ["work:common"]);
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
}

#[test]
fn a_script_needs_no_execute_bit_and_its_interpreter_is_honoured() {
    let machine = Sandbox::with(
        "ops",
        &[(
            "work.sh",
            "#!/usr/bin/perl\nopen(my $runs, '>>', \"$ENV{AGENT_ROOT}/../runs\");\nprint $runs \"perl\\n\";\n",
        )],
    );
    machine.tick().ok();
    machine.push_with("ops", |desk| {
        std::fs::write(desk.join("work.sh"), says("bash")).unwrap();
        set_mode(&desk.join("work.sh"), 0o755);
    });
    machine.tick().ok();
    assert_eq!(who_ran(&machine), ["perl", "bash"]);
}

#[test]
fn init_again_changes_nothing_that_is_well() {
    let machine = fleet();
    init(&machine, &["--part", "web"]);
    let (runs, revision) = (machine.runs(), machine.head("ops"));
    init(&machine, &["--part", "web"]);
    assert_eq!(machine.runs(), runs);
    assert_eq!(machine.head("ops"), revision);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn init_runs_again_when_a_person_says_so() {
    let machine = fleet();
    init(&machine, &["--part", "web", "--again"]);
    let first = who_ran(&machine);
    init(&machine, &["--again"]);
    assert_eq!(who_ran(&machine), [first.clone(), first].concat());
}

#[test]
fn a_clone_that_is_there_already_is_adopted() {
    let machine = fleet();
    machine.clone_to_root("ops");
    init(&machine, &["--part", "web"]);
    assert_eq!(
        who_ran(&machine),
        ["work:common", "work:part/web"],
        "init.sh is for clones of ours"
    );
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn what_an_older_loop_applied_is_not_applied_again() {
    let machine = fleet();
    machine.clone_to_root("ops");
    let record = machine.clone_of("ops").join(".temp/nodeinfo");
    std::fs::create_dir_all(&record).unwrap();
    let revision = machine.head("ops");
    std::fs::write(record.join("lastaction.txt"), format!("{revision}\n")).unwrap();
    let said = machine.agent(&["tick", "--dry-run"]).ok().stdout;
    assert_eq!(said, "ops: nothing to do\n");
    machine.tick().ok();
    assert!(machine.runs().is_empty());
    assert_eq!(machine.state("ops"), "current");
}
