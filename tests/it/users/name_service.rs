//! A name service that does not answer, as where sssd is down: who does the work is not known, and that
//! is no reason to give up the last good revision, nor to wake anybody in the first quarter of an hour.

use std::fs;

use super::{NOBODY, TELLS_WHO, give, give_all, machine, push};
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox};

/// A number that no passwd has.
const NAMELESS: u32 = 54_321;

/// The agent where the name service is asked as `services` say, one line for each database.
fn agent(machine: &Sandbox, services: &str, arguments: &[&str]) -> Ran {
    under(machine, services, &machine.agent_line(arguments))
}

/// A program in a mount namespace of its own with another nsswitch.conf.
fn under(machine: &Sandbox, services: &str, line: &[String]) -> Ran {
    let file = machine.path("nsswitch.conf");
    fs::write(&file, services).unwrap();
    let script = "mount --bind \"$0\" /etc/nsswitch.conf && exec \"$@\"";
    let mut command = machine.command("unshare");
    Ran::of(command.args(["--mount", "sh", "-c", script]).arg(&file).args(line))
}

/// Behind the files there is a service that never answers: Hesiod, which belongs to the C library and
/// is configured nowhere.
const DOWN: &str = "passwd: files hesiod\ngroup: files hesiod\n";
const GROUPS_DOWN: &str = "passwd: files\ngroup: hesiod\n";

/// Another clone, which is root's.
fn add_neighbour(machine: &Sandbox) -> String {
    let revision = machine.serve("own", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.clone_to_root("own");
    revision
}

/// What the status says of `ops` after a tick that could not ask, which was fine all the same.
#[track_caller]
fn waits(machine: &Sandbox, services: &str, word: &str) {
    let good = machine.lastaction("ops");
    let neighbours = machine.push("own", &[("page", word)]);
    let ran = agent(machine, services, &["tick", "--trigger", "cron"]).ok();
    assert_eq!(ran.stdout, "", "nobody is woken: {ran}");
    let status = agent(machine, services, &["status", "--json"]).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let rows = status["repositories"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "ops").unwrap();
    assert_eq!(row["state"], "unreachable", "{row:#}");
    let reason = row["reason"].as_str().unwrap();
    for said in ["the name service does not answer for", word, "hint: ", "getent"] {
        assert!(reason.contains(said), "{said}: {reason}");
    }
    assert_eq!(machine.lastaction("ops"), good, "the last good revision stays");
    assert_eq!(row["acted"]["revision"].as_str().map(str::to_owned), good);
    assert_eq!(machine.lastaction("own"), Some(neighbours), "the neighbour is served");
}

#[test]
fn a_user_for_whom_the_name_service_does_not_answer_is_waited_for() {
    let machine = machine(TELLS_WHO);
    add_neighbour(&machine);
    machine.tick().ok();
    push(&machine, &[("page", "two\n")]);
    machine.configure("[repo.ops]\nuser = \"deploy-of-ldap\"\n");
    waits(&machine, DOWN, "deploy-of-ldap");
    for command in
        [&["check", "--offline"][..], &["explain", "ops"], &["hold", "ops"], &["log", "ops"]]
    {
        let reported = agent(&machine, DOWN, command).exits(1);
        assert!(
            format!("{reported}").contains("does not answer for user deploy-of-ldap"),
            "{reported}"
        );
    }
    // After a quarter of an hour a person should look.
    let file = machine.root().join(".pmpy/status.json");
    let mut status: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for row in status["repositories"].as_array_mut().unwrap() {
        row["since"] = "2026-01-01T00:00:00Z".into();
    }
    fs::write(&file, status.to_string()).unwrap();
    let reported = agent(&machine, DOWN, &["tick", "--trigger", "cron"]).exits(1).stdout;
    assert!(reported.contains("ops: unreachable"), "{reported}");

    // That there is no such user is another thing.
    let reported = machine.tick().exits(1).stdout;
    assert!(reported.contains("ops: broken"), "{reported}");
    machine.configure("");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
}

#[test]
fn an_owner_for_whom_the_name_service_does_not_answer_is_waited_for() {
    let machine = machine(TELLS_WHO);
    add_neighbour(&machine);
    machine.tick().ok();
    for place in [machine.clone_of("ops"), machine.server("ops")] {
        give_all(&place, NAMELESS);
    }
    waits(&machine, DOWN, "54321");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "broken");
    give(&machine, "ops", NOBODY);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn groups_for_which_the_name_service_does_not_answer_are_waited_for() {
    let machine = machine(TELLS_WHO);
    add_neighbour(&machine);
    machine.tick().ok();
    waits(&machine, GROUPS_DOWN, "group 65534");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn whom_the_files_of_the_machine_know_waits_for_no_other_service() {
    let machine = machine(TELLS_WHO);
    add_neighbour(&machine);
    agent(&machine, DOWN, &["tick", "--trigger", "cron"]).ok();
    for name in ["ops", "own"] {
        assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
    }
    // Root is root, even where nothing at all is answered.
    let revision = machine.push("own", &[("page", "two\n"), ("work.sh", "echo \"$USER $HOME\"\n")]);
    agent(&machine, "passwd: hesiod\ngroup: hesiod\n", &["tick", "--trigger", "cron"]).ok();
    assert_eq!(machine.lastaction("own"), Some(revision));
    assert!(machine.agent(&["log", "own"]).ok().stdout.contains("root /root"));
}

#[test]
fn a_user_who_runs_the_agent_and_has_no_name_just_now_runs_no_script() {
    let machine = machine(TELLS_WHO);
    give_all(&machine.root(), NAMELESS);
    give_all(&machine.server("ops"), NAMELESS);
    let id = NAMELESS.to_string();
    let become_user = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
    let line = |arguments: &[&str]| -> Vec<String> {
        become_user.map(str::to_owned).into_iter().chain(machine.agent_line(arguments)).collect()
    };
    under(&machine, DOWN, &line(&["tick", "--trigger", "cron"])).ok();
    let status = under(&machine, DOWN, &line(&["status"])).ok().stdout;
    assert!(status.contains("unreachable") && status.contains("does not answer"), "{status}");
    assert_eq!(machine.lastaction("ops"), None);
    // Where it is known that nobody has that number, it is a number, as in a container.
    Ran::of(machine.command("setpriv").args(&line(&["tick", "--trigger", "cron"])[1..])).ok();
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
}
