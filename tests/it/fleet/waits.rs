//! `agent fleet --wait`: promotion by whoever runs it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde_json::json;

use super::*;

#[test]
fn waiting_ends_with_0_as_soon_as_all_selected_machines_run_the_revision() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("canary1", &at("canary1", "current", NEW));
    status.publish("canary2", &at("canary2", "behind", OLD));
    status.publish("web01", &at("web01", "failing", OLD));
    let url = text(&status.path);
    let mut wait = machine.agent_command(&[
        "fleet", "--url", url, "--hosts", "canary*", "--wait", "ops", NEW, "--stable", "30m",
    ]);
    let mut wait = wait.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(wait.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("only this revision itself counts"));
    let first = next();
    assert!(first.contains("1 of 2 done; not yet: canary2 (behind)"), "{first}");
    status.publish("canary2", &at("canary2", "current", NEW));
    assert_eq!(next(), "2 machines run 6b2c3d7");
    assert!(wait.wait().unwrap().success());
}

#[test]
fn waiting_ends_with_1_at_a_failure_a_hold_the_end_of_the_time_and_where_there_is_no_machine() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    status.publish("web02", &at("web02", "behind", OLD));
    let mut failing = row("failing", OLD);
    failing["reason"] = json!("work.sh exited with 1");
    status.publish("web03", &presence("web03", json!([failing])));
    status.publish("web04", &at("web04", "held", OLD));
    let wait = |hosts: &str, more: &[&str]| {
        let waited = [&["--hosts", hosts, "--wait", "ops", NEW], more].concat();
        status.fleet(&waited)
    };
    let failed = wait("web0[123]", &[]).exits(1).stdout;
    assert!(failed.ends_with("web03: failing: work.sh exited with 1\n"), "{failed}");
    let held = wait("web0[14]", &[]).exits(1).stdout;
    assert!(held.contains("web04: held") && held.contains("--ignore held"), "{held}");
    let left_out = wait("web0[14]", &["--ignore", "held,silent"]).ok().stdout;
    assert!(left_out.ends_with("1 machine runs 6b2c3d7; left out: web04\n"), "{left_out}");
    let over = wait("web0[12]", &["--timeout", "0s"]).exits(1).stdout;
    assert!(over.contains("the time is over: 1 of 2 done; not yet: web02 (behind)"), "{over}");
    let none = wait("mail*", &[]).exits(2).stderr;
    assert!(none.contains("mail*"), "{none}");
}

#[test]
fn a_descendant_counts_where_a_clone_tells() {
    let machine = Sandbox::new();
    let first = machine.serve("ops", &[("page", "one")]);
    machine.clone_to_root("ops");
    let second = machine.push("ops", &[("page", "two")]);
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", &second));
    let desk = machine.desk("ops");
    let by = |clone: &str, revision: &str| {
        status.fleet(&["--wait", "ops", revision, "--in", clone, "--timeout", "0s"])
    };
    let reached = by(text(&desk), &first).ok().stdout;
    assert_eq!(reached, format!("1 machine runs {}\n", &first[..7]));
    by(text(&desk), "HEAD").ok();
    by(text(&desk), "main").ok();
    // The machine's clone does not know the second one yet.
    by(text(&machine.clone_of("ops")), &first).exits(1);
    let unknown = by(text(&desk), "v9").exits(1).stderr;
    assert!(unknown.contains("v9") && unknown.contains("hint: "), "{unknown}");
    status.fleet(&["--wait", "ops", &second[..10], "--timeout", "0s"]).ok();
}

#[test]
fn the_example_of_promotion_pushes_what_the_canaries_run_and_nothing_else() {
    let machine = Sandbox::new();
    machine.serve("shop", &[("page", "one")]);
    let revision = machine.push("shop", &[("page", "two")]);
    let status = Status::on(&machine);
    let shop = |state: &str| {
        let mut row = row(state, &revision);
        row["name"] = json!("shop");
        presence("canary1", json!([row]))
    };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/promotion");
    let agent = Path::new(env!("CARGO_BIN_EXE_agent")).parent().unwrap();
    let promote = || {
        let path = format!("{}:{}", text(agent), std::env::var("PATH").unwrap());
        let script = example.join("promote");
        let mut job = machine.command(text(&script));
        job.current_dir(machine.desk("shop")).arg(&revision).env("PATH", path);
        job.env("AGENT_ROOT", machine.root()).env("STATUS_URL", &status.path);
        Ran::of(job.env("STABLE", "30m"))
    };
    let production = || {
        let server = machine.server("shop");
        machine.git(&machine.path(""), &["ls-remote", "--heads", text(&server), "production"])
    };
    status.publish("canary1", &shop("failing"));
    promote().exits(1);
    assert_eq!(production(), "");
    status.publish("canary1", &shop("current"));
    promote().ok();
    assert!(production().starts_with(&revision), "{}", production());
    for job in ["gitlab-ci.yml", "github.yml"] {
        let mut read = machine.command("/usr/bin/python3");
        let script = "import sys, yaml; print(yaml.safe_load(open(sys.argv[1])))";
        let read = Ran::of(read.args(["-c", script]).arg(example.join(job))).ok();
        assert!(read.stdout.contains("./promote "), "{read}");
    }
}
