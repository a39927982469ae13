//! What is published, and what people and programs see of it on the machine.

use std::fs;

use serde_json::json;

use super::{
    edit_record, git, machine, own_ref, path_of, publication, publish, publish_at, published,
    record, settles,
};
use crate::sandbox::{NOTES_ITS_RUNS, Ran, text};

#[test]
fn a_branch_with_one_file_says_what_status_says() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    let name = own_ref(&machine);
    assert!(name.starts_with("refs/heads/web01/root/root-") && name.ends_with("/state"), "{name}");
    assert_eq!(git(&machine, &["ls-tree", "--name-only", &name]), "status.json");
    let revision = machine.head("ops");
    let log = git(&machine, &["log", "--format=%an <%ae>|%s", &name]);
    assert_eq!(log, format!("agent <agent@web01>|1 current: ops at {}", &revision[..7]));
    let said = publication(&machine);
    let row = machine.row("ops");
    assert_eq!(said["repositories"][0]["acted"]["revision"], json!(revision));
    for key in ["name", "state", "branch", "upstream", "since"] {
        assert_eq!(said["repositories"][0][key], row[key], "{key}");
    }
    assert_eq!(
        (&said["presence"], &said["host"], &said["seq"]),
        (&json!(1), &json!("web01"), &json!(1))
    );
    let text = said.to_string();
    assert!(!text.contains(text_of_sandbox(&machine).as_str()), "no path is published: {text}");
}

fn text_of_sandbox(machine: &crate::sandbox::Sandbox) -> String {
    text(&machine.path("")).to_owned()
}

#[test]
fn a_failure_is_published_without_the_output_of_the_script() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    machine.push("ops", &[("bin/work/common/work.sh", "echo the-password; exit 3")]);
    edit_record(&machine, |record| record["tried"] = super::LONG_AGO.into());
    machine.tick().exits(1);
    settles(&machine);
    let said = publication(&machine).to_string();
    assert!(said.contains("\"failing\"") && said.contains("work.sh exited 3"), "{said}");
    assert!(!said.contains("the-password"), "{said}");
    let subject = git(&machine, &["log", "-1", "--format=%s", &own_ref(&machine)]);
    assert!(subject.starts_with("1 failing: ops at "), "{subject}");
    machine.push("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
}

#[test]
fn status_check_and_json_say_when_it_was_published() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    let shown = machine.agent(&["-v", "status"]).ok().stdout;
    assert!(shown.contains("presence: published at web01/root/root-"), "{shown}");
    assert!(!machine.agent(&["status"]).ok().stdout.contains("presence"));
    let status = machine.status();
    assert_eq!(status["presence"]["ref"], json!(own_ref(&machine)));
    assert_eq!(status["presence"]["contested"], json!(false));
    let check = machine.agent(&["check"]).stdout;
    assert!(check.contains("presence") && check.contains("answers; web01/root/root-"), "{check}");
    assert!(check.contains("last published"), "{check}");
}

#[test]
fn the_metrics_have_the_time_of_the_last_publication() {
    let machine = machine();
    let metrics = machine.path("metrics.prom");
    machine.configure(&format!(
        "metrics_file = {metrics:?}\n[presence]\nurl = {:?}\n",
        path_of(&machine)
    ));
    publish(&machine);
    machine.tick().ok();
    let text = fs::read_to_string(metrics).unwrap();
    let line = "pmpy_presence_last_success_timestamp_seconds 1";
    assert!(text.lines().any(|have| have.starts_with(line)), "{text}");
}

#[test]
fn one_mail_says_that_nothing_is_published_and_the_exit_code_stays() {
    let machine = machine();
    publish_at(&machine, text(&machine.path("nowhere.git")), "");
    let ran = publish(&machine);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "not in the first minutes");
    assert!(record(&machine)["failure"]["since"].is_string());
    edit_record(&machine, |record| record["failure"]["since"] = super::LONG_AGO.into());
    let ran = machine.tick().ok();
    settles(&machine);
    let said = "presence: not published since 2020-01-01 00:00 UTC: ";
    assert!(ran.stderr.contains(said), "{ran}");
    assert_eq!(machine.tick().ok().stderr, "", "once");
    let shown = machine.agent(&["-v", "status"]).ok().stdout;
    assert!(shown.contains("presence: not published since"), "{shown}");
    let check = machine.agent(&["check"]);
    assert!(check.stdout.contains("not published since"), "{check}");
}

#[test]
fn a_user_s_own_agent_publishes_at_a_ref_of_its_own() {
    let machine = machine();
    let server = crate::servers::Https::of(&machine);
    crate::sandbox::set_mode(&machine.path(""), 0o755);
    let home = machine.path("nobody");
    let config = home.join(".config/pmpy");
    fs::create_dir_all(&config).unwrap();
    fs::create_dir_all(home.join("gitrepo")).unwrap();
    let ca = home.join("ca.pem");
    fs::copy(server.ca_file(), &ca).unwrap();
    let toml = format!(
        "[node]\nname = \"web01\"\n[presence]\nurl = {:?}\nca_file = {ca:?}\n",
        server.url(super::STATUS)
    );
    fs::write(config.join("agent.toml"), toml).unwrap();
    let owner = machine.command("id").args(["-u", "nobody"]).output().unwrap();
    let uid: u32 = String::from_utf8(owner.stdout).unwrap().trim().parse().unwrap();
    crate::users::give_all(&home, uid);
    let agent = machine.path("agent");
    crate::sandbox::install_agent(&agent);
    let mut line = machine.command("setpriv");
    line.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--", text(&agent)]);
    line.env("HOME", &home).args(["tick", "--trigger", "cron"]);
    Ran::of(&mut line).ok();
    crate::sandbox::wait_until("the user's ref is there", || {
        let mut git = machine.command("git");
        let name = ["rev-parse", "--verify", "--quiet", "refs/heads/web01/nobody/state"];
        Ran::of(git.current_dir(machine.server(super::STATUS)).args(name)).code == Some(0)
    });
}

#[test]
fn an_agent_that_listens_publishes_too() {
    let machine = machine();
    machine.configure(&format!(
        "[listen]\nevery = \"1h\"\n[node]\nname = \"web01\"\n[presence]\nurl = {:?}\n",
        path_of(&machine)
    ));
    let _listener = crate::listen::Listener::start(&machine);
    settles(&machine);
    let record = record(&machine);
    assert!(record["last"].is_object() && record["failure"].is_null(), "{record:#}");
}
