//! A configuration with a mistake in it: one in `[repo.NAME]` costs that repository, any other stops the ticks,
//! and whoever looks is told.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};

/// A machine with two repositories that have acted; what `ops` runs notes it.
fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.serve("web", &[("work.sh", "true")]);
    machine.clone_to_root("web");
    machine.tick().ok();
    machine
}

fn status_file(machine: &Sandbox) -> Value {
    let file = machine.root().join(".pmpy/status.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_wrong_entry_costs_its_repository_and_no_other() {
    let machine = machine();
    let metrics = machine.path("metrics");
    fs::create_dir(&metrics).unwrap();
    machine.agent(&["hold", "ops", "moving"]).ok();
    let before = machine.runs();
    let head = machine.head("ops");
    machine.configure(&format!(
        "metrics_file = {:?}\n[repo.ops]\nmode = \"fetch\"\nkep = 3\nactive = \"no\"\n",
        text(&metrics.join("pmpy.prom"))
    ));
    machine.push("ops", &[("page", "new")]);
    let web = machine.push("web", &[("page", "new")]);
    let told = machine.tick().exits(2).stdout;
    assert!(told.contains("agent.toml:4:1: unknown key \"kep\"; "), "{told}");
    assert!(told.contains("agent.toml:5:10: active: expected true or false"), "{told}");
    assert_eq!(machine.tick().exits(2).stdout, "", "it is told once");
    assert_eq!(machine.lastaction("web"), Some(web));
    assert_eq!((machine.runs(), machine.head("ops")), (before.clone(), head.clone()));

    let row = machine.row("ops");
    assert_eq!(row["state"], "broken", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("\nhint: did you mean \"keep\"?"), "{row:#}");
    assert_eq!(status_file(&machine)["healthy"], false);
    let nagios = machine.agent(&["status", "--nagios"]).exits(2).stdout;
    assert!(nagios.contains("agent.toml:4:1"), "{nagios}");
    let series = fs::read_to_string(metrics.join("pmpy.prom")).unwrap();
    let broken = "pmpy_repository_state{repository=\"ops\",state=\"broken\"} 1";
    assert!(series.lines().any(|line| line == broken), "{series}");
    let check = machine.agent(&["check", "--offline"]).exits(2).stdout;
    assert!(check.contains("agent.toml:4:1") && check.contains("agent.toml:5:10"), "{check}");

    machine.configure("");
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "held", "a hold outlasts the mistake");
    machine.agent(&["unhold", "ops"]).ok();
    machine.agent(&["tick", "ops"]).ok();
    assert!(machine.runs().len() > before.len());
}

#[test]
fn only_a_command_about_the_wrong_entry_ends_with_2() {
    let machine = machine();
    machine.configure("[repo.ops]\nkep = 3\n");
    for command in [
        &["tick"][..],
        &["tick", "ops"],
        &["tick", "web", "ops"],
        &["tick", "o*"],
        &["status", "o?s"],
        &["status"],
        &["status", "ops"],
        &["history"],
        &["explain", "ops"],
        &["redo", "ops"],
        &["rollback", "ops"],
        &["checkout", "ops", "main"],
        &["accept", "ops", "HEAD", "why"],
        &["forget", "ops"],
        &["forget", "ops", "--purge", "--yes"],
        &["hold", "--all"],
        &["hold", "ops"],
        &["unhold", "ops"],
        &["init", &format!("ops={}", text(&machine.server("ops")))],
    ] {
        let ran = machine.agent(command).exits(2);
        let told = ran.stdout.clone() + &ran.stderr;
        assert!(told.contains("agent.toml:2:1: unknown key \"kep\""), "{ran}");
    }
    assert!(machine.clone_of("ops").exists());
    machine.agent(&["unhold", "--all"]).exits(2);
    for command in [
        &["tick", "web"][..],
        &["tick", "w*"],
        &["status", "web"],
        &["redo", "web"],
        &["hold", "web"],
        &["log", "web"],
    ] {
        let ran = machine.agent(command).ok();
        assert!(!(ran.stdout + &ran.stderr).contains("kep"), "{command:?}");
    }
}

#[test]
fn what_has_a_wrong_entry_is_not_taken_for_one_without_an_entry() {
    // By its name, with a path that cannot be read; by its path, under another name.
    for entry in ["[repo.ops]\npath = \"gitrepo/ops\"\n", "[repo.x]\npath = PATH\nkep = 1\n"] {
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        let path = format!("{:?}", text(&machine.clone_of("ops")));
        machine.configure(&entry.replace("PATH", &path));
        machine.tick().exits(2);
        let status = machine.status();
        let rows = status["repositories"].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{rows:#?}");
        assert_eq!(rows[0]["state"], "broken", "{rows:#?}");
        assert!(machine.runs().is_empty(), "its scripts ran by the settings of no entry");
        assert!(!machine.clone_of("ops").join(".temp").exists());
    }
}

#[test]
fn what_was_published_stays_with_a_wrong_entry() {
    let machine = Sandbox::new();
    machine.serve("site", &[("page", "one")]);
    let target = machine.path("site");
    let entry = format!(
        "[repo.site]\nurl = {:?}\nmode = \"checkout\"\ntarget = {:?}\n",
        text(&machine.server("site")),
        text(&target)
    );
    machine.configure(&entry);
    machine.agent(&["tick", "site"]).ok();
    let shown = fs::read_link(&target).unwrap();
    for wrong in ["timeout = 5\n", "mod = 1\n", "[repo.b]\nmode = \"checkout\"\ntarget = TARGET\n"]
    {
        let wrong = wrong.replace("TARGET", &format!("{:?}", text(&target)));
        machine.configure(&(entry.clone() + &wrong));
        machine.push("site", &[("page", wrong.as_str())]);
        machine.tick().exits(2);
        machine.agent(&["tick", "site"]).exits(2);
        assert_eq!(machine.state("site"), "broken");
        assert_eq!(fs::read_link(&target).unwrap(), shown);
        assert_eq!(fs::read_to_string(target.join("page")).unwrap(), "one");
    }
    machine.configure(&entry);
    machine.agent(&["tick", "site"]).ok();
    assert_ne!(fs::read_link(&target).unwrap(), shown);
}

#[test]
fn a_configuration_that_stops_the_ticks_is_in_the_status_file_and_the_metrics() {
    let machine = machine();
    let file = machine.path("pmpy.prom");
    let metrics = format!("metrics_file = {:?}\n", text(&file));
    machine.configure(&metrics);
    machine.tick().ok();
    let usable = || {
        let series = fs::read_to_string(&file).unwrap();
        let line = series.lines().find(|line| line.starts_with("pmpy_configuration_usable"));
        line.unwrap().to_owned()
    };
    assert_eq!(usable(), "pmpy_configuration_usable 1");
    for wrong in ["[repo.ops\n", "splya = \"1s\"\n"] {
        machine.configure(&(metrics.clone() + wrong));
        machine.push("web", &[("page", wrong)]);
        let before = machine.lastaction("web");
        assert!(machine.tick().exits(2).stderr.contains("agent.toml:2:"));
        let status = status_file(&machine);
        assert!(status["configuration"].as_str().unwrap().contains("agent.toml:2:"), "{status:#}");
        assert_eq!((status["healthy"].as_bool(), machine.lastaction("web")), (Some(false), before));
        assert_eq!(status["repositories"].as_array().unwrap().len(), 2, "the rows stay");
        assert_eq!(usable(), "pmpy_configuration_usable 0");
        machine.configure(&metrics);
        machine.tick().ok();
        assert_eq!(status_file(&machine).get("configuration"), None);
        assert_eq!(usable(), "pmpy_configuration_usable 1");
    }
    // Also where no tick has left a status yet, and never by a dry run.
    let fresh = Sandbox::new();
    fresh.configure("x = 1\n");
    fresh.agent(&["tick", "--dry-run"]).exits(2);
    assert!(!fresh.root().join(".pmpy/status.json").exists());
    fresh.tick().exits(2);
    assert_eq!(status_file(&fresh)["healthy"], false);
}

#[test]
fn a_listener_that_reloads_leaves_the_wrong_entry_alone_and_keeps_what_it_cannot_replace() {
    let machine = machine();
    machine.configure("[listen]\nevery = \"1s\"\n");
    let listener = Listener::start(&machine);
    machine.configure("[listen]\nevery = \"1s\"\n[repo.ops]\nkep = 3\n");
    let head = machine.head("ops");
    machine.push("ops", &[("page", "new")]);
    let web = machine.push("web", &[("page", "new")]);
    listener.signal(Signal::HUP);
    wait_until("the other one is served", || machine.lastaction("web") == Some(web.clone()));
    wait_until("its row says it", || machine.state("ops") == "broken");
    assert_eq!(machine.head("ops"), head);

    machine.configure("[listen]\nevery = \"2s\n");
    listener.signal(Signal::HUP);
    wait_until("the status says it", || status_file(&machine)["configuration"].is_string());
    assert_eq!(status_file(&machine)["healthy"], false);
    machine.configure("[listen]\nevery = \"1s\"\n");
    listener.signal(Signal::HUP);
    wait_until("that is over", || status_file(&machine).get("configuration").is_none());
    wait_until("all are served", || machine.head("ops") != head);
}

#[test]
fn check_says_which_file_overrides_which() {
    let machine = machine();
    machine.configure("[repo.ops]\ntimeout = \"1m\"\n");
    let host = machine.root().join(".pmpy/agent.d");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("host.toml"), "# this host\n[repo.ops]\ntimeout = \"2m\"\n").unwrap();
    let check = machine.agent(&["check", "--offline"]).stdout;
    let first = text(&machine.root().join(".pmpy/agent.toml")).to_owned();
    let told = format!("{}:3 repo.ops.timeout overrides {first}:2", text(&host.join("host.toml")));
    assert!(check.contains(&told), "{check}");
}
