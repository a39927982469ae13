//! Every state of the contract, reached for real and read back from `status`, with the exit codes
//! that people and monitoring see; and beside each a neighbour, which goes on.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use pmpy::domain::repository::state::State;
use serde_json::Value;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text, wait_until};

pub(crate) const NEIGHBOUR: &str = "neighbour";
const METRICS: &str = "pmpy.prom";
const SCHEMA: &str = include_str!("../../docs/status.schema.json");

/// A machine with `ops`, whose `work.sh` is `script`, and a neighbour; both have ticked once.
pub(crate) fn machine(script: &str) -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", script), ("page", "one\n")]);
    machine.serve(NEIGHBOUR, &[("page", "one\n")]);
    machine.clone_to_root(NEIGHBOUR);
    let overlay = machine.root().join(".pmpy/agent.d/metrics.toml");
    fs::create_dir_all(overlay.parent().unwrap()).unwrap();
    fs::write(overlay, format!("metrics_file = {:?}\n", text(&machine.path(METRICS)))).unwrap();
    machine.tick();
    machine
}

/// As [`is_by_itself`], and a named tick changes nothing and ends with 0 only where upstream's revision is
/// here.
#[track_caller]
fn is(machine: &Sandbox, state: &str, reason: &str, status: i32, nagios: i32) -> Value {
    let row = is_by_itself(machine, state, reason, status, nagios);
    let is_there = matches!(state, "current" | "ahead" | "inactive");
    machine.agent(&["tick", "ops"]).exits(i32::from(!is_there));
    assert_eq!(machine.row("ops")["state"], state);
    row
}

/// `ops` is in `state`, with `reason` in its reason; `status`, `--nagios`, a tick, `check` and the metrics agree,
/// with these exit codes; the neighbour's next revision is acted upon by the next tick.
#[track_caller]
fn is_by_itself(machine: &Sandbox, state: &str, reason: &str, status: i32, nagios: i32) -> Value {
    let row = machine.row("ops");
    assert_eq!(row["conditions"][0], state, "{row:#}");
    let reported = row["reason"].as_str().unwrap_or_default();
    assert!(reported.contains(reason), "\"{reported}\" does not say \"{reason}\"");
    let explained = machine.agent(&["explain", "ops"]).ok().stdout;
    assert!(explained.starts_with(&format!("ops is {state} since ")), "{explained}");

    let revision = machine.push(NEIGHBOUR, &[("page", state)]);
    let ran = machine.tick().exits(status);
    assert_eq!(machine.lastaction(NEIGHBOUR), Some(revision), "{ran}");
    all_say(machine, state, status, nagios);
    let metrics = fs::read_to_string(machine.path(METRICS)).unwrap();
    for any in State::ALL {
        let value = u8::from(any.as_str() == state);
        let sample =
            format!("pmpy_repository_state{{repository=\"ops\",state=\"{any}\"}} {value}\n");
        assert!(metrics.contains(&sample), "no {sample} in\n{metrics}");
    }
    let healthy = format!("pmpy_healthy {}\n", u8::from(status == 0));
    assert!(metrics.contains(&healthy), "no {healthy} in\n{metrics}");
    row
}

/// What `status` in each of its forms and `check` say of `ops` is `state`, and their exit codes and levels
/// are of one mind.
#[track_caller]
fn all_say(machine: &Sandbox, state: &str, status: i32, nagios: i32) {
    let row = machine.row("ops");
    assert_eq!(row["state"], state, "{row:#}");
    let json = machine.status();
    assert_eq!(json["healthy"], status == 0);
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<_> = schema.iter_errors(&json).map(|it| it.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{json:#}");
    is_described(&json, &serde_json::from_str(SCHEMA).unwrap());
    let is_a_row = |line: &str| line.starts_with(&format!("ops {state}"));
    let has_row = |text: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().any(|line| is_a_row(&words(line)))
    };
    let shown = machine.agent(&["status"]).exits(status);
    assert!(has_row(&shown.stdout), "{shown}");
    let watched = machine.agent(&["status", "--nagios"]).exits(nagios);
    let word = ["OK", "WARNING", "CRITICAL"][usize::try_from(nagios).unwrap()];
    assert!(watched.stdout.starts_with(&format!("PMPY {word} - ")), "{watched}");
    let checked = machine.agent(&["check", "--offline"]).stdout;
    let found = checked.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found: Vec<_> = found.filter(|words| words.get(1) == Some(&"ops")).collect();
    let [level, _, word, ..] = found[0].as_slice() else { panic!("{checked}") };
    assert_eq!(word.trim_end_matches(':'), state, "{checked}");
    match (status, nagios, *level) {
        (1, _, "bad") | (0, 1, "warn") | (0, 0, "ok" | "warn") => {}
        _ => panic!("{level} beside exit code {status} and {nagios} of --nagios\n{checked}"),
    }
}

/// Asserts that the schema describes each key of `found`.
fn is_described(found: &Value, schema: &Value) {
    match found {
        Value::Object(all) if schema["properties"].is_object() => {
            for (key, value) in all {
                let described = &schema["properties"][key];
                assert!(described["description"].is_string(), "{key} is not described: {found:#}");
                is_described(value, described);
            }
        }
        Value::Array(all) => all.iter().for_each(|it| is_described(it, &schema["items"])),
        _ => {}
    }
}

#[test]
fn acting_is_seen_while_the_script_runs() {
    let script = "gate=\"$AGENT_ROOT/../gate\"\n[ ! -e \"$gate\" ] || cat \"$gate\"\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.configure("[defaults]\ntimeout = \"30s\"\n");
    machine.tick().ok();
    Ran::of(machine.command("mkfifo").arg(machine.path("gate"))).ok();
    let head = machine.push("ops", &[("page", "two\n")]);
    let mut tick = machine.agent_command(&["tick"]).spawn().unwrap();
    wait_until("ops is acting", || machine.clone_of("ops").join(".git/pmpy/journal").exists());
    wait_until("the script runs", || machine.row("ops")["reason"].to_string().contains("applying"));

    let row = machine.row("ops");
    assert_eq!(row["state"], "acting");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.starts_with(&format!("applying {} (pid ", &head[..7])), "{reason}");
    let current = fs::read_to_string(machine.currentaction("ops")).unwrap();
    assert_eq!(current, format!("{head}\n"));
    all_say(&machine, "acting", 0, 0);
    // Another tick finds it busy, says nothing and is done.
    let busy = machine.tick().ok();
    assert_eq!(busy.stdout + &busy.stderr, "");

    fs::write(machine.path("gate"), "go\n").unwrap();
    assert!(tick.wait().unwrap().success());
    assert_eq!(machine.state("ops"), "current");
    assert!(!machine.currentaction("ops").exists());
}

#[test]
fn a_detached_head_is_broken_until_a_branch_is_checked_out() {
    let machine = machine(NOTES_ITS_RUNS);
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["checkout", "--quiet", "--detach"]);
    machine.push("ops", &[("page", "two\n")]);
    is(&machine, "broken", "HEAD is detached", 1, 2);
    machine.git(&clone, &["checkout", "--quiet", "main"]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_merge_in_progress_is_broken_until_it_is_dropped() {
    let machine = machine(NOTES_ITS_RUNS);
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["commit", "--quiet", "--allow-empty", "-m", "local"]);
    machine.push("ops", &[("page", "two\n")]);
    machine.git(&clone, &["fetch", "--quiet"]);
    machine.git(&clone, &["merge", "--quiet", "--no-commit", "origin/main"]);
    let row = is(&machine, "broken", "a merge is in progress", 1, 2);
    assert!(row["reason"].as_str().unwrap().contains("git merge --abort"));
    machine.git(&clone, &["merge", "--abort"]);
    machine.tick();
    assert_eq!(machine.state("ops"), "diverged");
}

#[test]
fn a_bisect_in_progress_is_broken() {
    let machine = machine(NOTES_ITS_RUNS);
    machine.git(&machine.clone_of("ops"), &["bisect", "start"]);
    is(&machine, "broken", "git bisect reset", 1, 2);
}

#[test]
fn a_bare_repository_under_the_root_is_broken() {
    let machine = machine(NOTES_ITS_RUNS);
    fs::remove_dir_all(machine.clone_of("ops")).unwrap();
    machine
        .git(&machine.root(), &["clone", "--quiet", "--bare", text(&machine.server("ops")), "ops"]);
    is(&machine, "broken", "it is bare", 1, 2);
}

#[test]
fn a_clone_that_was_made_bare_is_broken() {
    let machine = machine(NOTES_ITS_RUNS);
    machine.git(&machine.clone_of("ops"), &["config", "core.bare", "true"]);
    is(&machine, "broken", "bare", 1, 2);
}

#[test]
fn a_linked_worktree_under_the_root_is_broken() {
    let machine = machine(NOTES_ITS_RUNS);
    fs::remove_dir_all(machine.clone_of("ops")).unwrap();
    let (elsewhere, linked) = (machine.path("elsewhere"), machine.clone_of("ops"));
    machine.git(
        &machine.root(),
        &["clone", "--quiet", text(&machine.server("ops")), text(&elsewhere)],
    );
    machine.git(&elsewhere, &["worktree", "add", "--quiet", "-b", "linked", text(&linked)]);
    is(&machine, "broken", "linked worktree", 1, 2);
}

#[test]
fn a_directory_that_is_configured_and_no_repository_is_broken() {
    let machine = machine(NOTES_ITS_RUNS);
    fs::remove_dir_all(machine.clone_of("ops").join(".git")).unwrap();
    let server = machine.server("ops");
    machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n", text(&server)));
    is(&machine, "broken", "not a repository", 1, 2);
    assert_eq!(fs::read_to_string(machine.clone_of("ops").join("page")).unwrap(), "one\n");
}

#[test]
fn a_hold_is_held_with_its_reason_and_nothing_runs() {
    let machine = machine(NOTES_ITS_RUNS);
    let before = machine.runs();
    machine.agent(&["hold", "ops", "db", "migration"]).ok();
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    let row = is(&machine, "held", "db migration", 0, 0);
    assert_eq!(row["conditions"], serde_json::json!(["held", "behind"]));
    assert_eq!(machine.runs(), before);
}

#[test]
fn a_foreign_currentaction_holds_whatever_its_age() {
    let machine = machine(NOTES_ITS_RUNS);
    let before = machine.runs();
    machine.push("ops", &[("page", "two\n")]);
    let years = Duration::from_secs(5 * 365 * 86_400);
    let now = SystemTime::now();
    for (time, nagios) in [(now, 0), (now + years, 0), (now - years, 1)] {
        let file = machine.currentaction("ops");
        fs::write(&file, "waiting for the DBA\n").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let row = is(&machine, "held", "waiting for the DBA", 0, nagios);
        assert!(row["reason"].as_str().unwrap().contains("currentaction.txt"), "{row:#}");
    }
    assert_eq!(machine.runs(), before);
    fs::remove_file(machine.currentaction("ops")).unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_script_may_hold_its_own_repository() {
    let script = "echo 'by work.sh' > .temp/nodeinfo/currentaction.txt\n";
    let machine = machine(script);
    let revision = machine.head("ops");
    assert_eq!(machine.lastaction("ops"), Some(revision), "the action itself went well");
    is(&machine, "held", "by work.sh", 0, 0);
}

#[test]
fn a_rollback_is_pinned() {
    let machine = machine(NOTES_ITS_RUNS);
    let first = machine.head("ops");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.head("ops"), first);
    is(&machine, "pinned", &format!("rolled back to {}", &first[..7]), 0, 0);
    assert_eq!(machine.head("ops"), first, "it stays there");
}

#[test]
fn a_script_that_fails_is_failing_and_critical_from_the_third_attempt() {
    let machine = machine("exit 3\n");
    let row = is(&machine, "failing", "exited 3", 1, 1);
    assert_eq!(row["attempt"], 1);
    assert!(row["next_try"].is_string());
    assert_eq!(machine.row("ops")["attempt"], 2, "a named tick does not wait");
    machine.agent(&["tick", "ops"]).exits(1);
    let row = is(&machine, "failing", "exited 3", 1, 2);
    assert_eq!(row["attempt"], 3);
    assert_eq!(machine.lastaction("ops"), None);
}

#[test]
fn exit_75_is_waiting_and_tried_again_at_each_tick() {
    let machine = machine("echo not now >> \"$AGENT_ROOT/../runs\"\nexit 75\n");
    is(&machine, "waiting", "not now", 0, 0);
    let before = machine.runs().len();
    let ran = machine.tick().ok();
    assert_eq!(machine.runs().len(), before + 1, "{ran}");
    assert_eq!(machine.row("ops")["attempt"], 0, "it is no failure");
}

#[test]
fn a_revision_with_a_top_level_temp_is_refused_and_the_next_heals() {
    for name in [".temp", ".TEMP"] {
        let machine = machine(NOTES_ITS_RUNS);
        let good = machine.head("ops");
        machine.push("ops", &[(&format!("{name}/nodeinfo/lastaction.txt"), "0\n")]);
        machine.tick();
        is(&machine, "refused", name, 1, 2);
        assert_eq!(machine.head("ops"), good);
        let mended = machine.push_with("ops", |desk| fs::remove_dir_all(desk.join(name)).unwrap());
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(mended));
    }
}

#[test]
fn a_revision_with_a_set_uid_file_is_refused() {
    let machine = machine(NOTES_ITS_RUNS);
    let good = machine.head("ops");
    let desk = machine.desk("ops");
    let blob = machine.git(&desk, &["hash-object", "-w", "page"]);
    let raw: Vec<u8> =
        (0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).unwrap()).collect();
    let tree = machine.path("tree");
    fs::write(&tree, [b"104755 rootshell\0".as_slice(), &raw].concat()).unwrap();
    let tree = machine.git(&desk, &["hash-object", "-t", "tree", "-w", "--literally", text(&tree)]);
    let commit = machine.git(&desk, &["commit-tree", &tree, "-p", "HEAD", "-m", "evil"]);
    machine.git(&desk, &["push", "--quiet", "origin", &format!("{commit}:main")]);
    machine.tick();
    is(&machine, "refused", "rootshell", 1, 2);
    assert_eq!(machine.head("ops"), good);
    assert!(!machine.clone_of("ops").join("rootshell").exists());
}

#[test]
fn a_force_push_is_rewritten_and_names_the_command() {
    let machine = machine(NOTES_ITS_RUNS);
    let good = machine.head("ops");
    machine.git(&machine.desk("ops"), &["commit", "--quiet", "--amend", "-m", "other"]);
    let tip = machine.push("ops", &[]);
    machine.tick();
    is(&machine, "rewritten", &format!("agent accept ops {tip}"), 1, 2);
    assert_eq!(machine.head("ops"), good);
}

#[test]
fn local_and_upstream_commits_are_diverged() {
    let machine = machine(NOTES_ITS_RUNS);
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["commit", "--quiet", "--allow-empty", "-m", "local"]);
    let local = machine.head("ops");
    machine.push("ops", &[("page", "two\n")]);
    machine.tick();
    is(&machine, "diverged", "update = \"merge\"", 1, 1);
    assert_eq!(machine.head("ops"), local);
}

#[test]
fn local_changes_in_the_way_are_dirty_and_kept() {
    let machine = machine(NOTES_ITS_RUNS);
    let page = machine.clone_of("ops").join("page");
    fs::write(&page, "mine\n").unwrap();
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick();
    is(&machine, "dirty", "page", 1, 1);
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine\n");
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "page"]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn local_changes_out_of_the_way_stop_nothing() {
    let machine = machine(NOTES_ITS_RUNS);
    fs::write(machine.clone_of("ops").join("page"), "mine\n").unwrap();
    fs::write(machine.clone_of("ops").join("untracked"), "mine\n").unwrap();
    let revision = machine.push("ops", &[("other", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(fs::read_to_string(machine.clone_of("ops").join("page")).unwrap(), "mine\n");
}

#[test]
fn a_remote_that_is_away_is_unreachable_and_alarms_after_a_quarter_of_an_hour() {
    let machine = machine(NOTES_ITS_RUNS);
    let good = machine.head("ops");
    fs::rename(machine.server("ops"), machine.path("away")).unwrap();
    machine.tick().ok();
    let row = is(&machine, "unreachable", "ops.git", 0, 0);
    assert_eq!(row["acted"]["revision"], good.as_str(), "the last good revision stays");

    let poll = machine.private("ops", "poll");
    let mut known: Value = serde_json::from_slice(&fs::read(&poll).unwrap()).unwrap();
    known["unreachable"]["since"] = "2020-01-01T00:00:00Z".into();
    fs::write(&poll, known.to_string()).unwrap();
    is(&machine, "unreachable", "ops.git", 1, 1);

    fs::rename(machine.path("away"), machine.server("ops")).unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_remote_that_answers_and_cannot_be_fetched_from_alarms_as_well() {
    let machine = machine(NOTES_ITS_RUNS);
    machine.push("ops", &[("page", "two\n")]);
    let objects = machine.server("ops").join("objects");
    fs::rename(&objects, machine.path("objects")).unwrap();
    fs::create_dir(&objects).unwrap();
    machine.tick();
    assert_eq!(machine.state("ops"), "unreachable");
    let since = machine.row("ops")["since"].clone();
    machine.tick();
    assert_eq!(machine.row("ops")["since"], since, "it is the same trouble at the next tick");

    fs::remove_dir(&objects).unwrap();
    fs::rename(machine.path("objects"), &objects).unwrap();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_branch_that_the_remote_lacks_is_no_ref() {
    let machine = machine(NOTES_ITS_RUNS);
    machine.configure("[repo.ops]\nbranch = \"mian\"\n");
    let before = machine.runs();
    machine.tick();
    is(&machine, "no-ref", "mian", 1, 1);
    assert_eq!(machine.runs(), before);
}

#[test]
fn a_remote_without_encryption_is_denied() {
    let machine = machine(NOTES_ITS_RUNS);
    let good = machine.head("ops");
    machine.configure("[repo.ops]\nurl = \"http://127.0.0.1:9/ops.git\"\n");
    machine.tick();
    let row = is(&machine, "denied", "http", 1, 2);
    assert_eq!(row["acted"]["revision"], good.as_str(), "the last good revision stays");
}

#[test]
fn a_known_newer_revision_is_behind() {
    let machine = machine(NOTES_ITS_RUNS);
    let revision = machine.push("ops", &[("page", "two\n")]);
    let before = machine.head("ops");
    let said = machine.agent(&["tick", "--dry-run"]).ok().stdout;
    assert!(said.contains(&format!("would fetch {}", &revision[..7])), "{said}");
    assert_eq!(machine.head("ops"), before, "a dry run changes nothing");
    let row = machine.row("ops");
    assert_eq!(row["state"], "behind", "{row:#}");
    assert_eq!(row["upstream"], revision.as_str());
    all_say(&machine, "behind", 0, 0);
}

#[test]
fn an_empty_remote_is_new_until_something_is_pushed() {
    let machine = machine(NOTES_ITS_RUNS);
    fs::remove_dir_all(machine.clone_of("ops")).unwrap();
    fs::remove_dir_all(machine.server("ops")).unwrap();
    let server = machine.server("ops");
    machine.git(
        &machine.path("server"),
        &["init", "--quiet", "--bare", "--initial-branch=main", text(&server)],
    );
    machine.clone_to_root("ops");
    machine.tick().ok();
    is(&machine, "new", "", 0, 0);
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn local_commits_are_applied_and_ahead() {
    let machine = machine(NOTES_ITS_RUNS);
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["commit", "--quiet", "--allow-empty", "-m", "local"]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    is(&machine, "ahead", "local commits", 0, 0);
}

#[test]
fn what_is_applied_is_current_since_then() {
    let machine = machine(NOTES_ITS_RUNS);
    let row = is(&machine, "current", "", 0, 0);
    assert_eq!(row["reason"], Value::Null);
    assert_eq!(row["since"], row["acted"]["at"]);
    assert_eq!(row["acted"]["subject"], "A change");
    assert_eq!(row["acted"]["trigger"], "cron");
    assert_eq!(row["branch"], "main");
    assert_eq!(row["remote"], text(&machine.server("ops")));
}

#[test]
fn an_older_mirror_is_current_and_moves_nothing_back() {
    let machine = machine(NOTES_ITS_RUNS);
    let (server, mirror) = (machine.server("ops"), machine.path("mirror"));
    machine.git(&machine.root(), &["clone", "--quiet", "--mirror", text(&server), text(&mirror)]);
    let (one, other) = (text(&server), text(&mirror));
    machine.configure(&format!("[repo.ops]\nurl = [\"{one}\", \"{other}\"]\n"));
    let revision = machine.push("ops", &[("page", "two\n")]);
    machine.tick().ok();
    fs::rename(&server, machine.path("away")).unwrap();
    machine.tick().ok();
    is_by_itself(&machine, "current", "lags", 0, 0);
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.head("ops"), revision);
}

#[test]
fn a_branch_that_goes_upstream_leaves_the_last_good_revision() {
    let machine = machine(NOTES_ITS_RUNS);
    let good = machine.head("ops");
    machine.git(&machine.server("ops"), &["update-ref", "-d", "refs/heads/main"]);
    machine.tick().ok();
    is_by_itself(&machine, "current", "answers without main; asked again", 0, 0);
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    is(&machine, "no-ref", "the remote has no refs at all any more", 1, 1);
    assert_eq!(machine.head("ops"), good);
    machine.git(&machine.server("ops"), &["update-ref", "refs/heads/main", &good]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn what_is_switched_off_is_inactive_and_not_even_asked() {
    let machine = machine(NOTES_ITS_RUNS);
    machine.configure("[repo.ops]\nactive = false\n");
    let before = machine.runs();
    machine.push("ops", &[("page", "two\n")]);
    machine.agent(&["tick", "ops"]).ok();
    is(&machine, "inactive", "", 0, 0);
    assert_eq!(machine.runs(), before);
}

#[test]
fn of_ten_repositories_one_broken_the_others_are_done() {
    let machine = Sandbox::new();
    let names: Vec<String> = (0..10).map(|number| format!("repo{number}")).collect();
    for name in &names {
        machine.serve(name, &[("work.sh", NOTES_ITS_RUNS)]);
        machine.clone_to_root(name);
    }
    machine.git(&machine.clone_of("repo3"), &["checkout", "--quiet", "--detach"]);
    machine.tick().exits(1);
    for name in &names {
        let state = if name == "repo3" { "broken" } else { "current" };
        assert_eq!(machine.state(name), state, "{name}");
    }
}

#[test]
fn a_machine_that_does_not_tick_or_has_nothing_to_do_is_not_healthy() {
    let empty = Sandbox::new();
    empty.tick().ok();
    assert_eq!(empty.status()["healthy"], false);

    let machine = machine(NOTES_ITS_RUNS);
    assert_eq!(machine.status()["healthy"], true);
    let tick = File::options().write(true).open(machine.root().join(".pmpy/last-tick")).unwrap();
    tick.set_modified(SystemTime::now() - Duration::from_secs(301)).unwrap();
    assert_eq!(machine.status()["healthy"], false);
    machine.agent(&["status", "--nagios"]).exits(2);
}
