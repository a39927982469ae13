//! One repository, read: it is opened and observed, its remote is polled, and the next step is decided.
//! Nothing of this fetches or writes.

use std::fs;

use pmpy::domain::git::Relation;
use pmpy::domain::repository::decision::{Plan, Rule};
use pmpy::domain::repository::observed::UpstreamTip;
use pmpy::domain::repository::state::State;

use crate::machine::{Machine, NAME, WORK, commit, says};
use crate::sandbox::text;

tests![
    a_clone_that_was_never_deployed_is_deployed_where_it_is,
    a_pushed_revision_is_seen_and_fetched_first,
    a_poll_changes_nothing_in_the_clone,
    the_branch_that_is_checked_out_is_the_one_that_is_followed,
    the_configured_branch_wins_over_the_one_that_is_checked_out,
    a_branch_that_upstream_does_not_have_stops_nothing_that_is_here,
    a_remote_that_is_away_is_unreachable_with_its_path_in_the_reason,
    a_mirror_answers_for_a_remote_that_is_away,
    an_older_mirror_never_moves_the_machine_back,
    without_a_remote_the_reason_says_how_to_add_one,
    a_foreign_currentaction_holds_with_its_own_words,
    an_unfinished_merge_and_a_detached_head_are_broken_with_the_remedy,
    local_commits_are_ahead_and_stay,
    history_that_upstream_dropped_is_rewritten,
    an_inactive_repository_is_not_looked_at,
];

fn a_clone_that_was_never_deployed_is_deployed_where_it_is() {
    let machine = Machine::with(&[(WORK, "true")]);
    let (seen, decision) = machine.decision();
    assert_eq!(seen.upstream, UpstreamTip::Tip { commit: machine.at(), fetched: true });
    assert_eq!((seen.acted, seen.relation), (None, Some(Relation::Same)));
    assert_eq!(decision.rule, Rule::FirstDeployment);
    assert_eq!(decision.conditions[0].state, State::New);
    assert!(decision.plan.is_work());
}

fn a_pushed_revision_is_seen_and_fetched_first() {
    let machine = Machine::deployed("", &[("page", "one")]);
    let tip = machine.pushed("page", "two");
    let (seen, decision) = machine.decision();
    assert_eq!(seen.upstream, UpstreamTip::Tip { commit: tip, fetched: false });
    assert_eq!((decision.plan, decision.rule), (Plan::Fetch { tip }, Rule::Fetch));
}

fn a_poll_changes_nothing_in_the_clone() {
    let machine = Machine::with(&[("page", "one")]);
    let clone = machine.clone_of(NAME);
    let before = machine.files_below(&clone);
    machine.pushed("page", "two");
    machine.decision();
    assert_eq!(machine.files_below(&clone), before);
}

fn the_branch_that_is_checked_out_is_the_one_that_is_followed() {
    let machine = Machine::with(&[("page", "one")]);
    let desk = machine.desk(NAME);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/side"]);
    machine.git(&machine.clone_of(NAME), &["fetch", "--quiet"]);
    machine.git(&machine.clone_of(NAME), &["checkout", "--quiet", "side"]);
    let tip = machine.pushed("page", "two");
    assert_ne!(machine.upstream(), UpstreamTip::Tip { commit: tip, fetched: false });
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/side"]);
    assert_eq!(machine.upstream(), UpstreamTip::Tip { commit: tip, fetched: false });
}

fn the_configured_branch_wins_over_the_one_that_is_checked_out() {
    let machine = Machine::with(&[("page", "one")]);
    machine.set("branch = \"side\"");
    assert_eq!(machine.upstream(), UpstreamTip::Empty);
    machine.git(&machine.desk(NAME), &["push", "--quiet", "origin", "HEAD:refs/heads/side"]);
    let (seen, _) = machine.decision();
    assert_eq!(seen.upstream, UpstreamTip::Tip { commit: machine.at(), fetched: true });
    assert_eq!(seen.branch.unwrap().as_str(), "side");
}

fn a_branch_that_upstream_does_not_have_stops_nothing_that_is_here() {
    let machine = Machine::deployed("", &[("page", "one")]);
    machine.git(&machine.server(NAME), &["update-ref", "-d", "refs/heads/main"]);
    machine.answered_twice(NAME, "refs/heads/main");
    let (seen, decision) = machine.decision();
    assert_eq!((seen.upstream, decision.rule), (UpstreamTip::Empty, Rule::NoUpstreamBranch));
    assert!(!decision.plan.is_work());
    machine.tick();
    assert_eq!(machine.file("page").as_deref(), Some("one"));
}

fn a_remote_that_is_away_is_unreachable_with_its_path_in_the_reason() {
    let machine = Machine::deployed("", &[("page", "one")]);
    fs::rename(machine.server(NAME), machine.path("away")).unwrap();
    let unreachable = machine.poll().unreachable.unwrap();
    says(&unreachable.reason, &[text(&machine.server(NAME))]);
    let (seen, decision) = machine.decision();
    assert_eq!(seen.unreachable.unwrap().reason, unreachable.reason);
    assert!(decision.conditions.iter().any(|it| it.state == State::Unreachable));
}

/// A machine with two remotes: the server, and a copy of it as it is now.
fn mirrored() -> Machine {
    let machine = Machine::with(&[("page", "one")]);
    let mirror = machine.path("mirror");
    machine.git(
        &machine.root(),
        &["clone", "--quiet", "--mirror", text(&machine.server(NAME)), text(&mirror)],
    );
    machine.set(&format!("url = [\"{}\", \"{}\"]", text(&machine.server(NAME)), text(&mirror)));
    machine.tick();
    machine
}

fn a_mirror_answers_for_a_remote_that_is_away() {
    let machine = mirrored();
    let tip = machine.pushed("page", "two");
    machine.git(&machine.path("mirror"), &["fetch", "--quiet"]);
    fs::rename(machine.server(NAME), machine.path("away")).unwrap();
    let polled = machine.poll();
    assert_eq!((polled.tip, polled.mirror), (Some(tip), true));
    assert!(polled.unreachable.is_none());
}

fn an_older_mirror_never_moves_the_machine_back() {
    let machine = mirrored();
    let tip = machine.pushed("page", "two");
    machine.tick();
    assert_eq!(machine.at(), tip);
    fs::rename(machine.server(NAME), machine.path("away")).unwrap();
    let (seen, decision) = machine.decision();
    assert!(seen.lagging, "{seen:#?}");
    assert_eq!((decision.plan, decision.rule), (Plan::Idle, Rule::LaggingMirror));
    machine.tick();
    assert_eq!(machine.at(), tip);
}

fn without_a_remote_the_reason_says_how_to_add_one() {
    let machine = Machine::with(&[("page", "one")]);
    machine.git(&machine.clone_of(NAME), &["remote", "remove", "origin"]);
    says(&machine.poll().unreachable.unwrap().reason, &["origin", "git remote add"]);
}

fn a_foreign_currentaction_holds_with_its_own_words() {
    let machine = Machine::deployed("", &[("page", "one")]);
    fs::write(machine.currentaction(NAME), "db migration\n").unwrap();
    machine.pushed("page", "two");
    let (seen, decision) = machine.decision();
    says(&seen.holds[0].reason, &["db migration"]);
    assert_eq!((decision.plan, decision.rule), (Plan::Stopped, Rule::Hold));
}

fn an_unfinished_merge_and_a_detached_head_are_broken_with_the_remedy() {
    let machine = Machine::with(&[("page", "one")]);
    let clone = machine.clone_of(NAME);
    machine.git(&clone, &["checkout", "--quiet", "--detach"]);
    let (kind, reason) = machine.fault();
    assert_eq!(kind, "broken");
    says(&reason, &["git -C", "switch main"]);
    machine.git(&clone, &["checkout", "--quiet", "main"]);
    fs::write(clone.join(".git/MERGE_HEAD"), format!("{}\n", machine.at())).unwrap();
    let (kind, reason) = machine.fault();
    assert_eq!(kind, "broken");
    says(&reason, &["merge"]);
}

fn local_commits_are_ahead_and_stay() {
    let machine = Machine::deployed("", &[("page", "one")]);
    let local = machine.commit_here("mine", "mine");
    assert_eq!(machine.decision().0.relation, Some(Relation::Ahead));
    machine.tick();
    machine.is("ahead");
    assert_eq!((machine.at(), machine.deployed_at()), (local, Some(local)));
}

fn history_that_upstream_dropped_is_rewritten() {
    let machine = Machine::deployed("", &[("page", "one")]);
    let first = machine.head(NAME);
    let second = machine.pushed("page", "two");
    machine.tick();
    machine.git(&machine.server(NAME), &["update-ref", "refs/heads/main", &first]);
    machine.answered_twice(NAME, "refs/heads/main");
    let (seen, decision) = machine.decision();
    assert_eq!(seen.lost, Some(second));
    assert_eq!((decision.plan, decision.rule), (Plan::Stopped, Rule::Rewritten));
    assert_eq!(seen.upstream, UpstreamTip::Tip { commit: commit(&first), fetched: true });
}

fn an_inactive_repository_is_not_looked_at() {
    let machine = Machine::with(&[("page", "one")]);
    machine.set("active = false");
    let (_, decision) = machine.decision();
    assert_eq!((decision.plan, decision.rule), (Plan::Idle, Rule::Inactive));
    machine.tick();
    assert_eq!(machine.deployed_at(), None);
}
