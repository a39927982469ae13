//! The quiet rule: cron mails whatever a tick prints, so it prints when somebody should look. And
//! what a tick tells other programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, install_agent, set_mode, text, write_program};

/// A `work.sh` that fails while DIR/`bad` is there, with a lot to say.
const FAILS_WHILE_BAD: &str = "\
[ ! -e \"$AGENT_ROOT/../bad\" ] && exit 0
for line in $(seq 1 40); do echo line $line; done
exit 3
";

fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", FAILS_WHILE_BAD)]);
    assert_eq!(printed(&machine.tick().ok()), "", "the first tick went well");
    machine
}

fn printed(ran: &Ran) -> String {
    format!("{}{}", ran.stdout, ran.stderr)
}

/// Makes the next actions fail, and pushes one.
fn go_bad(machine: &Sandbox) {
    fs::write(machine.path("bad"), "").unwrap();
    machine.push("ops", &[("page", "bad\n")]);
}

#[test]
fn a_tick_that_does_nothing_or_does_well_is_silent() {
    let machine = machine();
    assert_eq!(printed(&machine.tick().ok()), "");
    machine.push("ops", &[("page", "two\n")]);
    assert_eq!(printed(&machine.tick().ok()), "");
    machine.agent(&["hold", "ops", "x"]).ok();
    assert_eq!(printed(&machine.tick().ok()), "", "who holds it knows");
    machine.agent(&["unhold", "ops"]).ok();
    assert_eq!(printed(&machine.tick().ok()), "");
}

#[test]
fn a_failure_is_reported_once_with_the_end_of_the_output_and_once_when_it_is_over() {
    let machine = machine();
    go_bad(&machine);
    let shown_text = printed(&machine.tick().exits(1));
    let lines: Vec<&str> = shown_text.lines().collect();
    assert!(lines[0].starts_with("ops: failing (was current): "), "{shown_text}");
    assert!(lines[0].contains("exited 3") && lines[0].contains("next try"), "{shown_text}");
    let (quoted, rest): (Vec<&str>, Vec<&str>) =
        lines[1..].iter().partition(|line| line.starts_with("    "));
    assert_eq!(rest, Vec::<&str>::new(), "{shown_text}");
    assert!((1..=10).contains(&quoted.len()), "{shown_text}");
    assert!(shown_text.contains("line 40"), "the end is what tells: {shown_text}");

    assert_eq!(printed(&machine.tick().exits(1)), "", "it waits");
    machine.wait_is_over("ops");
    assert_eq!(printed(&machine.tick().exits(1)), "", "the same trouble again");

    fs::remove_file(machine.path("bad")).unwrap();
    machine.wait_is_over("ops");
    let shown_text = printed(&machine.tick().ok());
    assert!(shown_text.starts_with("ops: current (was failing for "), "{shown_text}");
    assert_eq!(shown_text.lines().count(), 1, "{shown_text}");
    assert_eq!(printed(&machine.tick().ok()), "");
}

#[test]
fn trouble_that_lasts_is_reported_once_a_day() {
    let machine = machine();
    go_bad(&machine);
    machine.tick().exits(1);
    let file = machine.root().join(".pmpy/reported.json");
    let mut reported: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    reported["ops"]["at"] = "2020-01-01T00:00:00Z".into();
    fs::write(&file, reported.to_string()).unwrap();
    let shown_text = printed(&machine.tick().exits(1));
    assert!(shown_text.starts_with("ops: still failing, since "), "{shown_text}");
    assert_eq!(printed(&machine.tick().exits(1)), "");
}

#[test]
fn a_remote_that_is_away_for_a_moment_is_not_reported() {
    let machine = machine();
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    assert_eq!(printed(&machine.tick().ok()), "");
    let poll = machine.private("ops", "poll");
    let mut known: Value = serde_json::from_slice(&fs::read(&poll).unwrap()).unwrap();
    known["unreachable"]["since"] = "2020-01-01T00:00:00Z".into();
    fs::write(&poll, known.to_string()).unwrap();
    let shown_text = printed(&machine.tick().exits(1));
    assert!(shown_text.starts_with("ops: unreachable"), "{shown_text}");
    fs::rename(machine.path("away"), machine.server("ops")).unwrap();
    assert!(printed(&machine.tick().ok()).starts_with("ops: current (was unreachable"));
}

#[test]
fn what_the_script_prints_cannot_steer_the_readers_terminal() {
    let machine = Sandbox::with("ops", &[("work.sh", "printf '\\033]0;owned\\007x\\n'; exit 1\n")]);
    let shown_text = printed(&machine.tick().exits(1));
    assert!(!shown_text.contains(['\u{1b}', '\u{7}']), "{shown_text:?}");
}

#[test]
fn quiet_is_quieter_still() {
    let machine = machine();
    go_bad(&machine);
    assert_eq!(printed(&machine.agent(&["-q", "tick"]).exits(1)), "");
}

#[test]
fn an_idle_tick_writes_nothing_but_the_time_of_last_tick() {
    let machine = machine();
    machine.tick().ok();
    let stamp = |machine: &Sandbox| -> Vec<_> {
        machine
            .files_below(&machine.root())
            .into_iter()
            .filter(|path| !path.ends_with("last-tick"))
            .map(|path| {
                let meta = fs::metadata(machine.root().join(&path)).unwrap();
                (path, meta.modified().unwrap(), meta.len())
            })
            .collect()
    };
    let last = machine.root().join(".pmpy/last-tick");
    let (before, then) = (stamp(&machine), fs::metadata(&last).unwrap().modified().unwrap());
    machine.tick().ok();
    assert_eq!(stamp(&machine), before);
    assert!(fs::metadata(&last).unwrap().modified().unwrap() > then);
}

#[test]
fn on_change_is_run_at_each_change_with_what_changed() {
    let machine = machine();
    let command = machine.path("page-me");
    write_program(
        &command,
        "#!/bin/sh\necho \"$1 $AGENT_REPO $AGENT_WAS $AGENT_STATE $AGENT_REASON\" >> \"$2\"\n",
    );
    let pages = machine.path("pages");
    machine.configure(&format!(
        "on_change = [\"{}\", \"-x\", \"{}\"]\n",
        text(&command),
        text(&pages)
    ));
    machine.tick().ok();
    assert!(!pages.exists(), "nothing has changed");
    go_bad(&machine);
    machine.tick().exits(1);
    machine.tick().exits(1);
    let shown_text = fs::read_to_string(&pages).unwrap();
    assert!(shown_text.starts_with("-x ops current failing "), "{shown_text}");
    assert!(shown_text.contains("exited 3"), "{shown_text}");
    assert_eq!(shown_text.lines().count(), 1, "{shown_text}");
    fs::remove_file(machine.path("bad")).unwrap();
    machine.wait_is_over("ops");
    machine.tick().ok();
    let shown_text = fs::read_to_string(&pages).unwrap();
    assert!(
        shown_text.lines().nth(1).unwrap().starts_with("-x ops failing current"),
        "{shown_text}"
    );
}

#[test]
fn an_on_change_command_that_fails_fails_nothing_else() {
    let machine = machine();
    machine.configure("on_change = [\"/opt/none/page\"]\n");
    go_bad(&machine);
    let shown_text = machine.tick().exits(1).stderr;
    assert!(
        shown_text.contains("on_change did not start") && shown_text.contains("hint: agent check"),
        "{shown_text}"
    );
    let shown_text = machine.tick().exits(1).stderr;
    assert_eq!(shown_text, "", "nothing has changed, so nobody had to be told");
    fs::remove_file(machine.path("bad")).unwrap();
    machine.wait_is_over("ops");
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn the_metrics_file_says_what_the_status_says() {
    let machine = machine();
    let file = machine.path("pmpy.prom");
    machine.configure(&format!("metrics_file = \"{}\"\n", text(&file)));
    machine.tick().ok();
    let metrics = fs::read_to_string(&file).unwrap();
    let current = "pmpy_repository_state{repository=\"ops\",state=\"current\"} 1";
    assert!(metrics.contains(current), "{metrics}");
    assert!(metrics.contains("pmpy_healthy 1"), "{metrics}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    go_bad(&machine);
    machine.tick().exits(1);
    let metrics = fs::read_to_string(&file).unwrap();
    assert!(metrics.contains("pmpy_healthy 0"), "{metrics}");
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_reported_once_and_stops_nothing() {
    let machine = machine();
    let (command, pages) = (machine.path("page-me"), machine.path("pages"));
    write_program(&command, format!("#!/bin/sh\necho \"$AGENT_STATE\" >> {}\n", text(&pages)));
    let (dir, called) = (machine.path("metrics"), text(&command).to_owned());
    let file = dir.join("pmpy.prom");
    machine.configure(&format!("metrics_file = {:?}\non_change = [{called:?}]\n", text(&file)));
    go_bad(&machine);
    let ran = machine.tick().exits(1);
    assert!(ran.stderr.contains("the metrics are not written"), "{ran}");
    assert!(
        ran.stderr.contains(&format!("hint: make the directory: mkdir -p {}", text(&dir))),
        "{ran}"
    );
    assert_eq!(fs::read_to_string(&pages).unwrap(), "failing\n", "the change is told all the same");
    fs::remove_file(machine.path("bad")).unwrap();
    machine.wait_is_over("ops");
    assert_eq!(machine.tick().ok().stderr, "", "it was told");
    assert_eq!(machine.tick().ok().stderr, "");

    fs::create_dir(&dir).unwrap();
    machine.agent(&["tick", "--dry-run"]).ok();
    assert!(!file.exists(), "a dry run writes nothing");
    assert_eq!(machine.tick().ok().stderr, "");
    assert!(fs::read_to_string(&file).unwrap().contains("pmpy_healthy 1"));
    fs::remove_dir_all(&dir).unwrap();
    assert!(machine.tick().ok().stderr.contains("the metrics are not written"), "told anew");
}

#[test]
fn the_status_file_can_be_read_by_everybody_and_says_what_status_says() {
    let machine = machine();
    let file = machine.root().join(".pmpy/status.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let said = machine.status();
    assert_eq!(written["repositories"], said["repositories"]);
    assert_eq!(written["healthy"], true);
    for key in ["agent", "host", "part", "stack", "root", "at", "last_tick"] {
        assert!(said.get(key).is_some(), "{key}");
    }
    let keys: Vec<&String> = said["repositories"][0].as_object().unwrap().keys().collect();
    let mut expected = [
        "name",
        "path",
        "remote",
        "branch",
        "state",
        "reason",
        "conditions",
        "since",
        "head",
        "upstream",
        "acted",
        "actions",
        "attempt",
        "next_try",
        "asked",
        "published",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

#[test]
fn another_user_is_shown_what_the_last_tick_said() {
    let machine = machine();
    let agent = machine.path("agent");
    install_agent(&agent);
    for dir in ["", "root"] {
        set_mode(&machine.path(dir), 0o755);
    }
    let root = machine.root();
    let ran = Ran::of(
        machine
            .command("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args([text(&agent), "--root", text(&root), "status", "--json"]),
    );
    let said: Value = serde_json::from_str(&ran.ok().stdout).unwrap();
    assert_eq!(said["repositories"], machine.status()["repositories"]);
}

#[test]
fn the_private_records_are_private() {
    let machine = machine();
    let dir = machine.clone_of("ops").join(".git/pmpy");
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_password_in_an_address_is_never_shown() {
    let script = "cat /proc/$$/environ | tr '\\0' '\\n'\nexit 1\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let url = "https://me:canary@git.example.invalid/ops.git?token=canary";
    machine.git(&machine.clone_of("ops"), &["remote", "set-url", "origin", url]);
    let mut said = String::new();
    said += &printed(&machine.agent(&["-v", "tick"]));
    for command in [
        &["status", "-v"][..],
        &["status", "--json"],
        &["explain", "ops"],
        &["log", "ops"],
        &["history", "ops"],
    ] {
        said += &printed(&machine.agent(command));
    }
    said += &fs::read_to_string(machine.root().join(".pmpy/status.json")).unwrap();
    assert!(said.contains("git.example.invalid"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn a_remote_that_refuses_is_reported_at_the_second_refusal() {
    let machine = Sandbox::with("ops", &[("work.sh", "true\n")]);
    machine.tick().ok();
    machine.configure("[repo.ops]\nurl = \"http://127.0.0.1:1/ops\"\n");
    let ran = machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "denied");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let ran = machine.tick().exits(1);
    assert!(ran.stdout.starts_with("ops: denied (was current): "), "{ran}");
    assert_eq!(machine.tick().exits(1).stdout, "");
    machine.agent(&["status", "--nagios"]).exits(2);
    machine.configure("");
    let ran = machine.tick().ok();
    assert!(ran.stdout.contains("current") && ran.stdout.contains("denied"), "{ran}");
}
