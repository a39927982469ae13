//! What one tick makes of a revision: files, scripts and records. The worker is a process of its own, as
//! always; what it did is read from the clone and through the engine.

use std::fs;

use pmpy::domain::git::RefName;
use pmpy::domain::repository::action::{Outcome, Trigger};
use pmpy::domain::repository::decision::Plan;
use pmpy::domain::repository::request::ActionRequest;
use pmpy::engine::action::reconcile::{self, WorkerOutcome};
use pmpy::engine::request::{LockWait, WorkerCommand, WorkerJob};
use pmpy::system::host;
use pmpy::system::lock::{ActionLock, Journal, TryLock};
use pmpy::system::pid::Process;

use crate::machine::{Machine, NAME, WORK, commit, says};
use crate::sandbox::{NOTES_ITS_RUNS, text};

tests![
    a_fast_forward_moves_files_index_and_branch_and_runs_the_script_once,
    a_script_knows_what_it_is_about,
    a_merge_has_both_parents_and_both_changes,
    a_merge_with_a_conflict_leaves_everything_as_it_was,
    without_merge_diverged_history_stops_and_nothing_is_lost,
    a_reset_keeps_the_old_head_as_a_ref,
    a_local_change_in_the_way_is_never_written_over,
    a_local_change_elsewhere_survives_the_update,
    a_tree_against_the_rules_is_refused_and_the_next_revision_is_not,
    a_file_above_max_file_is_refused,
    a_failed_script_is_tried_again_later_and_at_once_by_name,
    exit_75_is_no_failure_and_is_tried_at_each_tick,
    only_a_change_of_the_named_paths_runs_the_scripts,
    in_place_updates_the_files_and_runs_nothing,
    always_runs_at_every_tick,
    a_dry_run_tells_the_plan_and_changes_nothing,
    a_missing_clone_is_made_and_initialized_once,
    a_hold_in_the_tree_is_lifted_by_the_next_commit,
    a_wrong_value_in_the_tree_settings_is_refused_by_its_key,
    an_accepted_rewrite_is_deployed_and_the_old_head_is_kept,
    a_worker_that_finds_the_lock_taken_leaves_at_once,
    the_journal_of_a_dead_run_blocks_nothing,
    a_message_for_a_revision_that_is_here_runs_nothing_twice,
    redo_runs_the_scripts_again_at_the_same_revision,
];

fn a_fast_forward_moves_files_index_and_branch_and_runs_the_script_once() {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("old", "x"), ("page", "one")]);
    let tip = machine.push_with(NAME, |desk| {
        fs::remove_file(desk.join("old")).unwrap();
        fs::write(desk.join("page"), "two").unwrap();
    });
    machine.tick();
    machine.is("current");
    assert_eq!((machine.head(NAME), machine.lastaction(NAME)), (tip.clone(), Some(tip.clone())));
    assert_eq!((machine.file("page").as_deref(), machine.file("old")), (Some("two"), None));
    assert_eq!(machine.differences(NAME), "");
    let runs = machine.runs();
    machine.tick();
    assert_eq!(machine.runs(), runs);
    assert_eq!(runs.last(), Some(&format!("end {tip}")));
    assert!(!machine.currentaction(NAME).exists());
}

fn a_script_knows_what_it_is_about() {
    let script = "echo $AGENT_REPO $AGENT_BRANCH $AGENT_TRIGGER $AGENT_PREVIOUS $AGENT_ATTEMPT \
                  $(tr '\\0' , < \"$AGENT_CHANGED\") > told";
    let machine = Machine::deployed("", &[(WORK, script), ("page", "one")]);
    let first = machine.at();
    machine.pushed("page", "two");
    machine.tick();
    let told = machine.file("told").unwrap();
    assert_eq!(told, format!("{NAME} main cron {first} 1 page,\n"));
}

fn a_merge_has_both_parents_and_both_changes() {
    let machine = Machine::deployed("update = \"merge\"", &[(WORK, "true"), ("page", "one")]);
    let local = machine.commit_here("mine", "mine");
    let tip = machine.pushed("page", "two");
    machine.tick();
    let parents = machine.git(&machine.clone_of(NAME), &["log", "-1", "--format=%P"]);
    assert_eq!(parents, format!("{local} {tip}"));
    assert_eq!(
        (machine.file("mine").as_deref(), machine.file("page").as_deref()),
        (Some("mine"), Some("two"))
    );
    assert_eq!(
        (machine.deployed_at(), machine.differences(NAME)),
        (Some(machine.at()), String::new())
    );
}

fn a_merge_with_a_conflict_leaves_everything_as_it_was() {
    let machine = Machine::deployed("update = \"merge\"", &[(WORK, "true"), ("page", "one")]);
    let local = machine.commit_here("page", "mine");
    machine.tick();
    machine.pushed("page", "two");
    machine.tick();
    assert_eq!((machine.at(), machine.file("page").as_deref()), (local, Some("mine")));
    assert_eq!(machine.differences(NAME), "");
    let (state, reason) = machine.state_and_reason();
    assert_eq!(state, "diverged");
    says(&reason, &["page"]);
}

fn without_merge_diverged_history_stops_and_nothing_is_lost() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one")]);
    let local = machine.commit_here("mine", "mine");
    machine.pushed("page", "two");
    machine.tick();
    machine.is("diverged");
    assert_eq!((machine.at(), machine.file("page").as_deref()), (local, Some("one")));
}

fn a_reset_keeps_the_old_head_as_a_ref() {
    let machine = Machine::deployed("update = \"reset\"", &[(WORK, "true"), ("page", "one")]);
    let local = machine.commit_here("mine", "mine");
    let tip = machine.pushed("page", "two");
    machine.tick();
    assert_eq!((machine.at(), machine.file("mine")), (tip, None));
    let saved = machine.git(
        &machine.clone_of(NAME),
        &["for-each-ref", "--format=%(objectname)", "refs/pmpy/saved"],
    );
    assert_eq!(saved, local.to_string());
}

fn a_local_change_in_the_way_is_never_written_over() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one"), ("other", "one")]);
    let first = machine.at();
    fs::write(machine.clone_of(NAME).join("page"), "mine").unwrap();
    machine.push(NAME, &[("page", "two"), ("other", "two")]);
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!(state, "dirty");
    says(&reason, &["page"]);
    assert_eq!(
        (machine.file("page").as_deref(), machine.file("other").as_deref()),
        (Some("mine"), Some("one"))
    );
    assert_eq!(machine.at(), first);
    machine.git(&machine.clone_of(NAME), &["checkout", "--quiet", "page"]);
    machine.tick();
    machine.is("current");
    assert_eq!(machine.file("other").as_deref(), Some("two"));
}

fn a_local_change_elsewhere_survives_the_update() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one"), ("other", "one")]);
    fs::write(machine.clone_of(NAME).join("other"), "mine").unwrap();
    let tip = machine.pushed("page", "two");
    machine.tick();
    assert_eq!((machine.at(), machine.file("other").as_deref()), (tip, Some("mine")));
}

fn a_tree_against_the_rules_is_refused_and_the_next_revision_is_not() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one")]);
    let first = machine.at();
    machine.pushed(".Temp/nodeinfo/lastaction.txt", "x");
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!((state, machine.at()), ("refused", first));
    says(&reason, &[".Temp"]);
    let tip =
        commit(&machine.push_with(NAME, |desk| fs::remove_dir_all(desk.join(".Temp")).unwrap()));
    machine.tick();
    machine.is("current");
    assert_eq!(machine.at(), tip);
}

fn a_file_above_max_file_is_refused() {
    let machine = Machine::deployed("max_file = \"1KiB\"", &[(WORK, "true"), ("page", "one")]);
    let first = machine.at();
    machine.pushed("page", &"x".repeat(1025));
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!((state, machine.at()), ("refused", first));
    says(&reason, &["page", "max_file"]);
    let tip = machine.pushed("page", &"x".repeat(1024));
    machine.tick();
    assert_eq!(machine.at(), tip);
}

fn a_failed_script_is_tried_again_later_and_at_once_by_name() {
    let machine = Machine::deployed("", &[(WORK, &format!("{NOTES_ITS_RUNS}exit 3"))]);
    let row = machine.status();
    assert_eq!((row.state.as_str(), row.attempt), ("failing", 1));
    assert!(row.next_try.is_some(), "{row:#?}");
    says(row.reason.as_deref().unwrap(), &[WORK, "3"]);
    let report = machine.tick();
    assert!(matches!(report.decisions[..], [(_, Plan::Wait { .. })]), "{report:#?}");
    machine.tick_with(|options| options.names = vec![NAME.to_owned()]);
    assert_eq!(machine.status().attempt, 2);
    assert_eq!((machine.runs().len(), machine.deployed_at()), (4, None));
}

fn exit_75_is_no_failure_and_is_tried_at_each_tick() {
    let machine = Machine::deployed("", &[(WORK, &format!("{NOTES_ITS_RUNS}exit 75"))]);
    machine.is("waiting");
    machine.tick();
    assert_eq!(machine.runs().len(), 4);
    assert_eq!(machine.history().last().unwrap().outcome, Outcome::Deferred);
}

fn only_a_change_of_the_named_paths_runs_the_scripts() {
    let files = [(WORK, NOTES_ITS_RUNS), ("web/page", "one"), ("notes", "one")];
    let machine = Machine::deployed("paths = [\"web/**\"]", &files);
    let (first, runs) = (machine.at(), machine.runs());
    let notes = machine.pushed("notes", "two");
    machine.tick();
    machine.is("current");
    assert_eq!((machine.at(), machine.deployed_at()), (notes, Some(first)));
    assert_eq!(machine.runs(), runs);
    let tip = machine.pushed("web/page", "two");
    machine.tick();
    assert_eq!((machine.deployed_at(), machine.runs().len()), (Some(tip), runs.len() + 2));
}

fn in_place_updates_the_files_and_runs_nothing() {
    let machine =
        Machine::deployed("mode = \"in-place\"", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    let tip = machine.pushed("page", "two");
    machine.tick();
    assert_eq!((machine.deployed_at(), machine.file("page").as_deref()), (Some(tip), Some("two")));
    assert!(machine.runs().is_empty());
}

fn always_runs_at_every_tick() {
    let machine = Machine::deployed("when = \"always\"", &[(WORK, NOTES_ITS_RUNS)]);
    machine.tick();
    assert_eq!(machine.runs().len(), 4);
}

fn a_dry_run_tells_the_plan_and_changes_nothing() {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    let (first, runs) = (machine.at(), machine.runs());
    let tip = machine.pushed("page", "two");
    let report = machine.tick_with(|options| options.dry_run = true);
    assert_eq!(report.decisions, [(NAME.to_owned(), Plan::Fetch { tip })]);
    assert_eq!((machine.at(), machine.runs()), (first, runs));
    assert!(machine.open(|it| !it.git.has(tip)), "a dry run fetched");
}

fn a_missing_clone_is_made_and_initialized_once() {
    let machine = Machine::new();
    let init = "echo \"init $AGENT_TRIGGER\" >> \"$AGENT_ROOT/../runs\"";
    let files = [("bin/init/common/init.sh", init), (WORK, NOTES_ITS_RUNS)];
    let tip = machine.serve(NAME, &files);
    machine.set(&format!("url = \"{}\"", text(&machine.server(NAME))));
    machine.tick();
    machine.is("current");
    assert_eq!(machine.lastaction(NAME), Some(tip.clone()));
    machine.pushed("page", "two");
    machine.tick();
    let runs = machine.runs();
    let inits: Vec<_> = runs.iter().filter(|line| line.starts_with("init")).collect();
    assert_eq!(inits, ["init bootstrap"]);
    assert_eq!(runs.first(), Some(&"init bootstrap".to_owned()));
}

fn a_hold_in_the_tree_is_lifted_by_the_next_commit() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one")]);
    let first = machine.at();
    machine.push(NAME, &[(".pmpy.toml", "hold = \"freeze\""), ("page", "two")]);
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!((state, machine.at()), ("held", first));
    says(&reason, &["freeze"]);
    let tip = machine.pushed(".pmpy.toml", "");
    machine.tick();
    machine.is("current");
    assert_eq!(machine.deployed_at(), Some(tip));
}

fn a_wrong_value_in_the_tree_settings_is_refused_by_its_key() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one")]);
    machine.pushed(".pmpy.toml", "when = \"sometimes\"");
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!(state, "refused");
    says(&reason, &[".pmpy.toml", "sometimes"]);
}

fn an_accepted_rewrite_is_deployed_and_the_old_head_is_kept() {
    let machine = Machine::deployed("", &[(WORK, "true"), ("page", "one")]);
    let old = machine.pushed("page", "two");
    machine.tick();
    machine.git(&machine.desk(NAME), &["reset", "--quiet", "--hard", "HEAD~1"]);
    let new = machine.pushed("page", "three");
    machine.tick();
    machine.is("rewritten");
    assert_eq!(machine.at(), old);
    machine.order(Trigger::Manual, WorkerCommand::Accept(new));
    machine.is("current");
    assert_eq!((machine.at(), machine.deployed_at()), (new, Some(new)));
    let saved = machine.git(
        &machine.clone_of(NAME),
        &["for-each-ref", "--format=%(objectname)", "refs/pmpy/saved"],
    );
    assert_eq!(saved, old.to_string());
}

fn job() -> WorkerJob {
    let (request, command) = (ActionRequest::OF_CRON, WorkerCommand::Follow);
    WorkerJob { request, wait: LockWait::No, command, reason: None }
}

fn a_worker_that_finds_the_lock_taken_leaves_at_once() {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    let (first, runs) = (machine.at(), machine.runs());
    machine.pushed("page", "two");
    machine.open(|it| {
        let TryLock::Held(_lock) = ActionLock::acquire(&it.records).unwrap() else {
            panic!("the lock is taken already")
        };
        let left = reconcile::work(&machine.context(), &machine.entry(), &job(), &mut |_| {});
        assert_eq!(left.unwrap(), WorkerOutcome::Busy);
    });
    assert_eq!((machine.at(), machine.runs()), (first, runs));
    machine.tick();
    machine.is("current");
}

fn the_journal_of_a_dead_run_blocks_nothing() {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    let tip = machine.pushed("page", "two");
    machine.open(|it| {
        let TryLock::Held(lock) = ActionLock::acquire(&it.records).unwrap() else {
            panic!("the lock is taken already")
        };
        let journal =
            lock.begin(Trigger::Cron, &machine.context().node.boot_id, host::now()).unwrap();
        // No process has started before this machine.
        let worker = Process { start: 0, ..journal.worker };
        lock.write(&Journal { worker, ..journal }).unwrap();
    });
    let (seen, decision) = machine.decision();
    assert!(seen.stale_journal && decision.plan == Plan::Recover, "{decision:#?}");
    machine.tick();
    machine.tick();
    assert_eq!((machine.deployed_at(), machine.status().state.as_str()), (Some(tip), "current"));
}

fn a_message_for_a_revision_that_is_here_runs_nothing_twice() {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS)]);
    let runs = machine.runs();
    machine.tick_with(|options| {
        options.names = vec![NAME.to_owned()];
        options.trigger = Trigger::Bus;
    });
    assert_eq!(machine.runs(), runs);
}

fn redo_runs_the_scripts_again_at_the_same_revision() {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    let first = machine.at();
    machine.pushed("page", "two");
    machine.order(Trigger::Redo, WorkerCommand::Redo);
    assert_eq!((machine.at(), machine.runs().len()), (first, 4));
    assert_eq!(machine.history().last().unwrap().trigger, Trigger::Redo);
    let branch: RefName = "main".parse().unwrap();
    assert_eq!(machine.open(|it| it.git.ref_id(&branch.local()).unwrap()), Some(first));
}
