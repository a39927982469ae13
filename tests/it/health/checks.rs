//! How a check is run: each ten seconds until it passes once, within its time, whatever it does.

use std::fs;
use std::path::Path;

use super::{IS_WELL, assert_live, assert_rolled_back, lines, machine, marks, set};
use crate::sandbox::{Sandbox, wait_until, write_program};

/// Exits as the lines of `DIR/answers` say, one for each check, then 0.
const ANSWERS: &str = "#!/bin/sh\n\
    echo \"$AGENT_REVISION\" >> \"$AGENT_ROOT/../checks\"\n\
    code=$(head -n 1 \"$AGENT_ROOT/../answers\")\n\
    sed -i 1d \"$AGENT_ROOT/../answers\"\n\
    exit ${code:-0}\n";

#[test]
fn a_check_that_flaps_has_passed_once_it_exits_0_and_75_is_not_yet() {
    let (machine, _) = machine("work", "");
    write_program(&machine.path("is-well"), ANSWERS);
    fs::write(machine.path("answers"), "1\n75\n0\n1\n1\n").unwrap();
    fs::remove_file(machine.path("checks")).unwrap();
    let pushed = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(lines(&machine, "checks").len(), 3);
    assert_eq!(machine.lastaction("ops"), Some(pushed));
    machine.tick().ok();
    assert_eq!(lines(&machine, "checks").len(), 3, "this is no monitoring");
}

#[test]
fn exit_75_for_ever_and_a_check_that_hangs_are_bad_when_the_time_is_over() {
    for check in ["exit 75\n", "sleep 4711 & echo $! >> \"$AGENT_ROOT/../child\"\nsleep 4711\n"] {
        let (machine, first) = machine("work", "");
        let only_bad = format!("#!/bin/sh\ngrep -q bad \"$AGENT_ROOT/../live\" || exit 0\n{check}");
        write_program(&machine.path("is-well"), only_bad);
        let bad = machine.push("ops", &[("page", "bad\n")]);
        machine.tick().exits(1);
        assert_rolled_back(&machine, &bad, &first);
        assert_live(&machine, "one");
        for child in lines(&machine, "child") {
            let alive = format!("/proc/{child}");
            wait_until("what it started is gone", || !Path::new(&alive).exists());
        }
    }
}

#[test]
fn a_check_that_forks_and_exits_has_passed_and_a_flood_of_output_is_cut() {
    let (machine, _) = machine("work", "");
    let forks = "#!/bin/sh\n(exec sleep 1 > /dev/null 2>&1) &\nexit 0\n";
    write_program(&machine.path("is-well"), forks);
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    let floods = "#!/bin/sh\nhead -c 1100000000 /dev/zero | tr '\\0' x\n";
    write_program(&machine.path("is-well"), floods);
    set(&machine, "work", "");
    write_program(&machine.path("is-well"), floods);
    machine.push("ops", &[("page", "three\n")]);
    machine.tick();
    let logs = machine.root().join(".pmpy/log/ops");
    let sizes =
        machine.files_below(&logs).into_iter().map(|it| fs::metadata(logs.join(it)).unwrap().len());
    assert!(sizes.max().unwrap() < 11_000_000);
}

#[test]
fn the_scripts_of_the_tree_check_where_no_program_of_the_machine_does() {
    let health =
        "#!/bin/sh\necho \"$AGENT_REVISION\" >> \"$AGENT_ROOT/../checks\"\n! grep -q bad page\n";
    let files =
        [("page", "one\n"), ("work.sh", super::WORK), ("bin/health/common/health.sh", health)];
    let machine = Sandbox::with("ops", &files);
    machine.configure("[repo.ops]\nhealth_within = \"1s\"\non_failure = \"rollback\"\n");
    machine.tick().ok();
    let first = machine.lastaction("ops").unwrap();
    assert_eq!(lines(&machine, "checks"), std::slice::from_ref(&first));
    let bad = machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    assert_rolled_back(&machine, &bad, &first);
    assert_live(&machine, "one");
    // Published trees start nothing that nobody configured.
    let site = machine.path("site");
    machine.configure(&format!("[repo.ops]\nmode = \"checkout\"\ntarget = {site:?}\n"));
    let count = lines(&machine, "checks").len();
    machine.push("ops", &[("page", "two\n")]);
    machine.tick();
    assert_eq!(lines(&machine, "checks").len(), count);
}

#[test]
fn a_check_runs_behind_after_in_the_target_as_the_user_of_the_repository() {
    let (machine, first) = machine("checkout", "");
    let checks = lines(&machine, "checks");
    let last = checks.last().unwrap();
    assert!(last.starts_with(&format!("cron {first} ")), "{last}");
    assert!(last.contains("site"), "it starts in the published tree: {last}");
}

#[test]
fn a_missing_program_does_not_pass_and_one_that_others_may_write_is_broken() {
    let (machine, first) = machine("work", "");
    fs::remove_file(machine.path("is-well")).unwrap();
    machine.push("ops", &[("page", "two\n")]);
    machine.agent(&["tick", "ops"]).exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("and so did going back"), "{row:#}");
    assert_live(&machine, "one");
    let said = machine.agent(&["check"]).stdout;
    assert!(said.contains("health"), "{said}");
    write_program(&machine.path("is-well"), IS_WELL);
    std::os::unix::fs::chown(machine.path("is-well"), Some(4711), None).unwrap();
    machine.push("ops", &[("page", "three\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "broken", "{:#}", machine.row("ops"));
    assert_eq!(machine.lastaction("ops"), Some(first));
}

#[test]
fn with_stay_nothing_is_marked_and_the_scripts_are_tried_again() {
    let (machine, first) = machine("work", "");
    let keys = format!("health = [{:?}]\nhealth_within = \"1s\"\n", super::program(&machine));
    machine.configure(&format!("[repo.ops]\nbranch = \"main\"\n{keys}"));
    machine.push("ops", &[("page", "bad\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing");
    assert_live(&machine, "bad");
    assert_eq!((machine.lastaction("ops"), marks(&machine)), (Some(first), Vec::new()));
}

#[test]
fn an_action_that_is_checked_is_acting_and_holds_its_lock() {
    let (machine, _) = machine("work", "");
    let waits = "#!/bin/sh\n: > \"$AGENT_ROOT/../checking\"\n\
                 while [ -e \"$AGENT_ROOT/../wait\" ]; do sleep 0.05; done\n";
    write_program(&machine.path("is-well"), waits);
    let keys = "[repo.ops]\nbranch = \"main\"\non_failure = \"rollback\"\n";
    let program = machine.path("is-well");
    machine.configure(&format!("{keys}health = [{program:?}]\nhealth_within = \"1m\"\n"));
    fs::write(machine.path("wait"), "").unwrap();
    let pushed = machine.push("ops", &[("page", "two\n")]);
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]).spawn().unwrap();
    wait_until("it is checked", || machine.path("checking").exists());
    let row = machine.row("ops");
    assert_eq!(row["state"], "acting");
    assert!(row["reason"].as_str().unwrap().starts_with("checking "), "{row:#}");
    assert_ne!(machine.lastaction("ops").as_ref(), Some(&pushed), "only after it passed");
    fs::remove_file(machine.path("wait")).unwrap();
    tick.wait().unwrap();
    assert_eq!(machine.lastaction("ops"), Some(pushed));
}
