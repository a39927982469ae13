//! Health and the way back where each of several refs is published: each is judged by itself.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::{lines, program};
use crate::sandbox::{Sandbox, text, wait_until, write_program};

/// Puts `page` live for its ref, and says who called it with what.
const WORK: &str = "\
cp page \"$AGENT_ROOT/../live-${AGENT_REF##*/}\"
changed=$(tr '\\0' ' ' < \"$AGENT_CHANGED\")
echo \"${AGENT_REF##*/} $AGENT_TRIGGER $AGENT_REVISION ${AGENT_FAILED:-none} $changed\" \\
    >> \"$AGENT_ROOT/../runs\"
";

/// Is well unless the page of that ref that is live is bad.
pub const IS_WELL: &str = "#!/bin/sh\n\
    echo \"${AGENT_REF##*/} $AGENT_TRIGGER $AGENT_REVISION $PWD $(id -u)\" >> \"$AGENT_ROOT/../checks\"\n\
    grep -q bad \"$AGENT_ROOT/../live-${AGENT_REF##*/}\" || exit 0\n\
    echo 'the page is bad'\n\
    exit 1\n";

/// Configures `ops` in a mode for many refs, with more keys.
pub fn set(machine: &Sandbox, mode: &str, keys: &str) {
    let (url, site, check) = (machine.server("ops"), machine.path("site"), program(machine));
    write_program(&machine.path("is-well"), IS_WELL);
    machine.configure(&format!(
        "[repo.ops]\nurl = {:?}\nmode = \"{mode}\"\ntarget = {:?}\nafter = [\"sh\", \"work.sh\"]\n\
         health = [{check:?}]\non_failure = \"rollback\"\n{keys}",
        text(&url),
        text(&site)
    ));
}

/// Commits `page` on top of what the desk has, and pushes it as the ref, a branch or a tag.
pub fn push(machine: &Sandbox, reference: &str, page: &str) -> String {
    let desk = machine.desk("ops");
    fs::write(desk.join("page"), format!("{page}\n")).unwrap();
    fs::write(desk.join("work.sh"), WORK).unwrap();
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "A change"]);
    let to = format!("HEAD:{reference}");
    machine.git(&desk, &["push", "--quiet", "--force", "origin", &to]);
    machine.git(&desk, &["rev-parse", "HEAD"])
}

/// A machine that shows the first releases of `main` and `stage`, and their revisions.
pub fn machine(mode: &str, keys: &str) -> (Sandbox, String, String) {
    let machine = Sandbox::new();
    machine.serve("ops", &[("page", "main one\n"), ("work.sh", WORK)]);
    let main = push(&machine, &full(mode, "main"), "main one");
    let stage = push(&machine, &full(mode, "stage"), "stage one");
    set(&machine, mode, &format!("health_within = \"1s\"\n{keys}"));
    machine.tick().ok();
    assert_pages(&machine, mode, "main one", "stage one");
    (machine, main, stage)
}

/// The full name of a ref that the mode publishes.
pub fn full(mode: &str, name: &str) -> String {
    match mode {
        "tags" => format!("refs/tags/{name}"),
        _ => format!("refs/heads/{name}"),
    }
}

/// What is live for a ref, and what its target holds.
fn pages(machine: &Sandbox, mode: &str, name: &str) -> (String, String) {
    let target = match mode {
        "atomic" => machine.path(&format!("site_{name}")),
        _ => machine.path("site").join(name),
    };
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    (read(machine.path(&format!("live-{name}"))), read(target.join("page")))
}

/// Asserts that what is live is what the targets hold: these pages.
#[track_caller]
pub fn assert_pages(machine: &Sandbox, mode: &str, main: &str, stage: &str) {
    for (name, page) in [("main", main), ("stage", stage)] {
        let page = format!("{page}\n");
        assert_eq!(pages(machine, mode, name), (page.clone(), page), "{mode}, {name}");
    }
}

/// The entry of a ref in the status.
fn entry(machine: &Sandbox, name: &str) -> Value {
    let row = machine.row("ops");
    let refs = row["published"].as_array().unwrap();
    let ends = format!("/{name}");
    refs.iter().find(|it| it["ref"].as_str().unwrap().ends_with(&ends)).unwrap().clone()
}

/// Asserts that a ref is back at `good` from `bad`, and says so.
#[track_caller]
fn assert_back(machine: &Sandbox, name: &str, bad: &str, good: &str) {
    let entry = entry(machine, name);
    assert_eq!(entry["state"], "rolled-back", "{entry:#}");
    assert_eq!((&entry["bad"], &entry["revision"]), (&bad.into(), &good.into()), "{entry:#}");
    let reason = entry["reason"].as_str().unwrap();
    assert!(reason.starts_with(&bad[..7]), "{reason}");
    assert!(reason.contains(&format!("; back at {} since ", &good[..7])), "{reason}");
    assert!(reason.ends_with("; waits for a newer revision"), "{reason}");
}

/// The refs that mark something as bad.
fn marks(machine: &Sandbox) -> Vec<String> {
    let format = "--format=%(refname:lstrip=2)";
    let clone = machine.clone_of("ops");
    let refs = ["refs/pmpy/bad-of", "refs/pmpy/bad-of-tags"];
    let refs = machine.git(&clone, &["for-each-ref", format, refs[0], refs[1]]);
    refs.lines().map(str::to_owned).collect()
}

#[test]
fn each_ref_is_judged_by_itself_and_a_bad_one_alone_goes_back() {
    for (mode, mark) in [("branches", "bad-of"), ("atomic", "bad-of"), ("tags", "bad-of-tags")] {
        let (machine, main, stage) = machine(mode, "");
        let bad = push(&machine, &full(mode, "main"), "bad");
        let well = push(&machine, &full(mode, "stage"), "stage two");
        machine.tick().exits(1);
        assert_pages(&machine, mode, "main one", "stage two");
        assert_back(&machine, "main", &bad, &main);
        assert_eq!(entry(&machine, "stage")["state"], "current");
        assert_eq!(marks(&machine), [format!("{mark}/main/{bad}")]);
        let row = machine.row("ops");
        assert_eq!((&row["state"], &row["bad"]), (&"rolled-back".into(), &bad.clone().into()));
        let reason = row["reason"].as_str().unwrap();
        assert!(reason.starts_with(&format!("{}: {}", full(mode, "main"), &bad[..7])), "{reason}");
        let runs = lines(&machine, "runs");
        assert_eq!(runs.len(), 5, "{mode}: {runs:?}");
        assert_eq!(runs[2], format!("main cron {bad} none page "), "{mode}: {runs:?}");
        assert_eq!(runs[3], format!("stage cron {well} none page "), "{mode}: {runs:?}");
        // Its script is told what was tried.
        assert_eq!(runs[4], format!("main rollback {main} {bad} page "), "{mode}: {runs:?}");
        let last = lines(&machine, "checks").pop().unwrap();
        assert!(last.starts_with(&format!("main rollback {main} ")), "its health once: {last}");
        assert!(last.contains("site"), "it starts in the published tree: {last}");
        machine.tick().exits(1);
        assert_eq!(lines(&machine, "runs").len(), 5, "{mode}: the bad one never again");
        assert_back(&machine, "main", &bad, &main);
        // A newer revision of that ref is applied like any other.
        push(&machine, &full(mode, "main"), "main two");
        machine.tick().ok();
        assert_pages(&machine, mode, "main two", "stage two");
        assert_eq!(machine.state("ops"), "current");
        assert_ne!(stage, well);
    }
}

#[test]
fn both_bad_and_a_bad_one_that_is_fixed_in_the_same_minute() {
    let (machine, main, stage) = machine("branches", "");
    let bads = [("main", main), ("stage", stage)].map(|(name, good)| {
        let bad = push(&machine, &full("branches", name), &format!("bad {name}"));
        (name, bad, good)
    });
    machine.tick().exits(1);
    assert_pages(&machine, "branches", "main one", "stage one");
    for (name, bad, good) in &bads {
        assert_back(&machine, name, bad, good);
    }
    let reason = machine.row("ops")["reason"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("2 of 2 refs, see agent status -v"), "{reason}");
    // What was never tried is not bad.
    push(&machine, "refs/heads/main", "bad again");
    push(&machine, "refs/heads/main", "main two");
    push(&machine, "refs/heads/stage", "stage two");
    machine.tick().ok();
    assert_pages(&machine, "branches", "main two", "stage two");
    assert_eq!(marks(&machine).len(), 2);
}

#[test]
fn it_is_said_wherever_people_and_monitoring_look() {
    let (machine, main, _) = machine("branches", "");
    let (metrics, report) = (machine.path("metrics.prom"), machine.path("report"));
    let note =
        "echo \"$AGENT_REVISION $AGENT_OUTCOME $AGENT_TRIGGER\" >> \"$(dirname \"$0\")/reports\"";
    write_program(&report, format!("#!/bin/sh\n{note}\n"));
    let config = fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    machine.configure(&format!("[defaults]\non_action = [{:?}]\n{config}", text(&report)));
    machine.tick().ok();
    let bad = push(&machine, "refs/heads/main", "bad");
    let told = machine.tick().exits(1).stdout;
    assert!(told.contains("rolled-back") && told.contains("the page is bad"), "{told}");
    let reports = lines(&machine, "reports");
    assert_eq!(reports, [format!("{bad} unhealthy cron"), format!("{main} succeeded rollback")]);
    let full = machine.agent(&["status", "-v"]).exits(1).stdout;
    assert!(full.contains("refs/heads/main") && full.contains("rolled-back"), "{full}");
    machine.agent(&["status", "--nagios"]).exits(2);
    let explained = machine.agent(&["explain", "ops"]).stdout;
    assert!(explained.contains(&format!("agent accept ops {bad}")), "{explained}");
    assert!(explained.contains("is not applied again"), "{explained}");
    let config = fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    machine.configure(&format!("metrics_file = {:?}\n{config}", text(&metrics)));
    machine.tick();
    let metrics = fs::read_to_string(metrics).unwrap();
    let sample = format!("{{repository=\"ops\",ref=\"refs/heads/main\",revision=\"{bad}\"}} 1");
    assert!(metrics.contains(&format!("pmpy_bad_revision_info{sample}")), "{metrics}");
    let history = machine.agent(&["history", "ops"]).ok().stdout;
    assert!(history.contains("unhealthy") && history.contains("rollback"), "{history}");
}

#[test]
fn accept_alone_passes_the_mark_of_a_ref_and_a_success_removes_it() {
    let (machine, main, _) = machine("branches", "");
    let bad = push(&machine, "refs/heads/main", "bad");
    machine.tick().exits(1);
    for order in [&["tick", "ops"][..], &["redo", "ops"]] {
        machine.agent(order);
        assert_back(&machine, "main", &bad, &main);
        assert_pages(&machine, "branches", "main one", "stage one");
    }
    machine.agent(&["accept", "ops", &bad]).exits(1);
    assert_back(&machine, "main", &bad, &main);
    write_program(&machine.path("is-well"), "#!/bin/sh\n");
    machine.agent(&["accept", "ops", &bad]).ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    assert_pages(&machine, "branches", "bad", "stage one");
    assert_eq!(marks(&machine), [""; 0]);
}

#[test]
fn the_first_revision_of_a_ref_stays_and_one_that_goes_and_comes_again_is_not_shown() {
    let (machine, _, _) = machine("branches", "");
    push(&machine, "refs/heads/next", "bad from the start");
    machine.tick().exits(1);
    assert_eq!(entry(&machine, "next")["state"], "failing");
    assert_eq!(pages(&machine, "branches", "next").1, "bad from the start\n");
    let bad = push(&machine, "refs/heads/stage", "bad");
    machine.tick().exits(1);
    let desk = machine.desk("ops");
    machine.git(&desk, &["push", "--quiet", "origin", ":stage", ":next"]);
    // A person who names it need not wait until so many missing refs are believed.
    machine.agent(&["tick", "ops"]).ok();
    assert!(!machine.path("site/stage").exists(), "a ref that goes upstream goes here");
    machine.git(&desk, &["push", "--quiet", "origin", &format!("{bad}:refs/heads/stage")]);
    machine.tick().exits(1);
    let back = entry(&machine, "stage");
    assert_eq!((&back["state"], &back["bad"]), (&"rolled-back".into(), &bad.into()), "{back:#}");
    assert!(back["reason"].as_str().unwrap().contains("nothing is shown"), "{back:#}");
    assert!(!machine.path("site/stage").exists());
    push(&machine, "refs/heads/stage", "stage two");
    machine.tick().ok();
    assert_pages(&machine, "branches", "main one", "stage two");
}

#[test]
fn a_way_back_of_a_ref_that_fails_too_is_failing_and_a_newer_revision_does_not_wait_for_it() {
    let (machine, main, _) = machine("branches", "");
    let bad = push(&machine, "refs/heads/main", "bad");
    write_program(&machine.path("is-well"), "#!/bin/sh\nexit 1\n");
    machine.tick().exits(1);
    let failing = entry(&machine, "main");
    assert_eq!(failing["state"], "failing", "{failing:#}");
    let said = format!("{} failed, and so did going back to {}", &bad[..7], &main[..7]);
    assert!(failing["reason"].as_str().unwrap().starts_with(&said), "{failing:#}");
    assert_pages(&machine, "branches", "main one", "stage one");
    let runs = lines(&machine, "runs").len();
    machine.tick().exits(1);
    assert_eq!(lines(&machine, "runs").len(), runs, "it waits as after any failure");
    machine.agent(&["tick", "ops"]).exits(1);
    let last = lines(&machine, "runs").pop().unwrap();
    assert!(last.starts_with(&format!("main rollback {main} {bad} ")), "{last}");
    write_program(&machine.path("is-well"), IS_WELL);
    push(&machine, "refs/heads/main", "main two");
    machine.tick().ok();
    assert_pages(&machine, "branches", "main two", "stage one");
}

#[test]
fn the_checks_of_refs_run_side_by_side() {
    let (machine, _, _) = machine("branches", "");
    // One after the other, none would pass in its time.
    let waits = "#!/bin/sh\n\
        : > \"$AGENT_ROOT/../here-${AGENT_REF##*/}\"\n\
        for _ in $(seq 400); do\n\
        [ -e \"$AGENT_ROOT/../here-main\" ] && [ -e \"$AGENT_ROOT/../here-stage\" ] && exit 0\n\
        sleep 0.05\ndone\nrm \"$AGENT_ROOT/../here-${AGENT_REF##*/}\"\nexit 1\n";
    set(&machine, "branches", "health_within = \"20s\"\n");
    write_program(&machine.path("is-well"), waits);
    push(&machine, "refs/heads/main", "main two");
    push(&machine, "refs/heads/stage", "stage two");
    machine.tick().ok();
    assert_pages(&machine, "branches", "main two", "stage two");
}

#[test]
fn a_hold_ends_the_wait_of_all_refs_and_a_revert_that_of_its_own() {
    let (machine, _, _) = machine("branches", "");
    set(&machine, "branches", "health_within = \"10m\"\n");
    fs::remove_file(machine.path("checks")).unwrap();
    push(&machine, "refs/heads/main", "bad");
    push(&machine, "refs/heads/stage", "bad");
    let start = || {
        let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
        let tick = tick.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        tick.spawn().unwrap()
    };
    let is_checked = |name: &str| {
        let checks = lines(&machine, "checks");
        checks.iter().any(|line| line.starts_with(name))
    };
    let mut tick = start();
    wait_until("both are checked", || is_checked("main") && is_checked("stage"));
    assert_eq!(machine.state("ops"), "acting");
    machine.agent(&["hold", "ops", "look"]).ok();
    tick.wait().unwrap();
    assert_eq!(machine.state("ops"), "held");
    assert_pages(&machine, "branches", "bad", "bad");
    assert_eq!(marks(&machine), [""; 0], "nothing is bad");
    fs::remove_file(machine.path("checks")).unwrap();
    machine.agent(&["unhold", "ops"]).ok();
    let mut tick = start();
    wait_until("both are checked again", || is_checked("main") && is_checked("stage"));
    push(&machine, "refs/heads/main", "main one");
    // The tick of the next minute polls; it finds the action at work.
    machine.tick();
    // The other one is well by now.
    fs::write(machine.path("live-stage"), "well\n").unwrap();
    tick.wait().unwrap();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    assert_eq!(pages(&machine, "branches", "main").1, "main one\n");
    assert_eq!(marks(&machine), [""; 0], "nothing is bad");
}

#[test]
fn lost_records_and_a_mark_that_cannot_be_written_bring_no_bad_release_back() {
    let (machine, main, _) = machine("branches", "");
    let bad = push(&machine, "refs/heads/main", "bad");
    machine.tick().exits(1);
    fs::remove_file(machine.private("ops", "published")).unwrap();
    machine.tick().exits(1);
    let back = entry(&machine, "main");
    assert_eq!(
        (&back["state"], &back["revision"]),
        (&"rolled-back".into(), &main.into()),
        "{back:#}"
    );
    assert!(back["reason"].as_str().unwrap().contains("was found bad here"), "{back:#}");
    // As on a full disk.
    let good = push(&machine, "refs/heads/main", "main two");
    machine.tick().ok();
    let check = IS_WELL.replace(
        "exit 1\n",
        "lock=\"$AGENT_ROOT/ops/.git/refs/pmpy/bad-of/main/$AGENT_REVISION.lock\"\n\
         mkdir -p \"${lock%/*}\"; : > \"$lock\"\nexit 1\n",
    );
    write_program(&machine.path("is-well"), check);
    let worse = push(&machine, "refs/heads/main", "bad again");
    assert_ne!(bad, worse);
    machine.tick().exits(1);
    assert_back(&machine, "main", &worse, &good);
    assert!(!marks(&machine).iter().any(|mark| mark.ends_with(&worse)), "it could not be written");
    let lock = format!(".git/refs/pmpy/bad-of/main/{worse}.lock");
    fs::remove_file(machine.clone_of("ops").join(lock)).unwrap();
    machine.tick().exits(1);
    assert_back(&machine, "main", &worse, &good);
    assert_pages(&machine, "branches", "main two", "stage one");
}

#[test]
fn a_window_keeps_no_ref_from_going_back_and_a_revision_may_say_stay() {
    let (machine, main, _) = machine("branches", "");
    let bad = push(&machine, "refs/heads/main", "bad");
    write_program(&machine.path("is-well"), "#!/bin/sh\nexit 1\n");
    machine.tick().exits(1);
    write_program(&machine.path("is-well"), IS_WELL);
    set(&machine, "branches", "health_within = \"1s\"\nwindow = [\"2001-01-01\"]\n");
    let file = machine.private("ops", "published");
    let mut book: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    book["refs/heads/main"]["attempt"]["next_try"] = "2020-01-01T00:00:00Z".into();
    book["refs/heads/main"]["attempt"]["since"] = "2020-01-01T00:00:00Z".into();
    fs::write(file, book.to_string()).unwrap();
    machine.tick().exits(1);
    assert_back(&machine, "main", &bad, &main);
    set(&machine, "branches", "health_within = \"1s\"\n");
    fs::write(machine.desk("ops").join(".pmpy.toml"), "on_failure = \"stay\"\n").unwrap();
    push(&machine, "refs/heads/main", "bad but stays");
    machine.tick().exits(1);
    assert_eq!(entry(&machine, "main")["state"], "failing");
    assert_eq!(pages(&machine, "branches", "main").1, "bad but stays\n");
}

#[test]
fn after_that_failed_three_times_over_ten_minutes_is_a_bad_release_of_its_ref() {
    let (machine, main, _) = machine("branches", "");
    fs::write(machine.desk("ops").join("fail"), "").unwrap();
    let keys = "health_within = \"1s\"\n";
    set(&machine, "branches", keys);
    let config = fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    let after = "after = [\"sh\", \"-c\", \"sh work.sh; test ! -e fail\"]";
    machine.configure(&config.replace("after = [\"sh\", \"work.sh\"]", after));
    let bad = push(&machine, "refs/heads/main", "main two");
    machine.tick().exits(1);
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(entry(&machine, "main")["state"], "failing", "twice is no bad release");
    let file = machine.private("ops", "published");
    let mut book: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let first = &mut book["refs/heads/main"]["attempt"]["tally"]["first_failure"];
    assert!(first.is_string(), "{book:#}");
    *first = "2020-01-01T00:00:00Z".into();
    fs::write(file, book.to_string()).unwrap();
    machine.agent(&["tick", "ops"]).exits(1);
    assert_back(&machine, "main", &bad, &main);
    let reason = entry(&machine, "main")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("failed three times"), "{reason}");
}

#[test]
fn three_runs_in_a_row_of_a_ref_that_were_cut_off_are_a_bad_release_of_it() {
    let (machine, main, _) = machine("branches", "");
    let config = fs::read_to_string(machine.root().join(".pmpy/agent.toml")).unwrap();
    let after = "after = [\"sh\", \"-c\", \"sh work.sh; ! grep -q bad page || kill -9 $PPID\"]";
    machine.configure(&config.replace("after = [\"sh\", \"work.sh\"]", after));
    let bad = push(&machine, "refs/heads/main", "bad");
    push(&machine, "refs/heads/stage", "stage two");
    wait_until("it is back", || {
        machine.agent(&["tick", "ops"]);
        entry(&machine, "main")["state"] == "rolled-back"
    });
    assert_back(&machine, "main", &bad, &main);
    let reason = entry(&machine, "main")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("was cut off three times"), "{reason}");
    let tried = lines(&machine, "runs").iter().filter(|run| run.contains(&bad)).count();
    assert_eq!(tried, 4, "three runs, and the way back that names it");
    machine.tick();
    assert_pages(&machine, "branches", "main one", "stage two");
}
