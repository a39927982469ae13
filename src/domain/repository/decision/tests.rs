//! The table of [`decide`], one test for each row, and properties that hold for any observation.

use chrono::Duration;
use proptest::prelude::*;

use super::*;
use crate::domain::git::Relation;
use crate::domain::repository::drift::{
    Difference, DriftPolicy, DriftRecord, DriftedFile, OnDrift,
};
use crate::domain::repository::health::{BadCause, BadRevision};
use crate::domain::repository::hold::Hold;
use crate::domain::repository::observed::*;
use crate::domain::repository::state::State;
use crate::domain::repository::tests::{commit, conditions, now, policy, upstream};

/// The plan alone.
fn plan_for(seen: &Observed, policy: &Policy, request: ActionRequest, now: DateTime<Utc>) -> Plan {
    decide(seen, policy, request, now).plan
}

const CRON: ActionRequest =
    ActionRequest { trigger: Trigger::Cron, named: false, overrides: false };
const NAMED: ActionRequest =
    ActionRequest { trigger: Trigger::Manual, named: true, overrides: false };
const REDO: ActionRequest = ActionRequest { trigger: Trigger::Redo, named: true, overrides: false };

/// `a` is checked out, deployed an hour ago, and upstream's tip.
fn current() -> Observed {
    Observed {
        head: Some(commit('a')),
        branch: Some("main".parse().unwrap()),
        upstream: upstream('a'),
        relation: Some(Relation::Same),
        acted: Some(commit('a')),
        acted_at: Some(now() - Duration::hours(1)),
        ..Observed::default()
    }
}

/// As [`current`], but upstream has moved to `b`, which is fetched.
fn behind() -> Observed {
    Observed { upstream: upstream('b'), relation: Some(Relation::Behind), ..current() }
}

/// As [`current`], but upstream has replaced `a` by `b`.
fn rewritten() -> Observed {
    Observed { relation: Some(Relation::Diverged), lost: Some(commit('a')), ..behind() }
}

/// As [`current`], with a local commit `c` on top of `a` and upstream at `b`.
fn diverged() -> Observed {
    Observed { head: Some(commit('c')), relation: Some(Relation::Diverged), ..behind() }
}

fn hold() -> Hold {
    Hold { by: "ann".into(), reason: "migration".into(), since: now(), ..Hold::default() }
}

fn pin(digit: char) -> Pin {
    Pin {
        revision: commit(digit),
        by: "ann".into(),
        since: now(),
        person: None,
        is_checkout: false,
    }
}

fn attempt(digit: char, outcome: Outcome, number: u32) -> Option<Attempt> {
    Some(Attempt::after(outcome, commit(digit), number, None, "web01", now()))
}

fn verdict(digit: char, head: char, finding: Finding) -> Option<RecordedFinding> {
    Some(RecordedFinding {
        revision: commit(digit),
        head: Some(commit(head)),
        finding,
        since: now(),
    })
}

fn plan(seen: &Observed) -> Plan {
    plan_for(seen, &policy(), CRON, now())
}

#[track_caller]
fn act(plan: Plan) -> PlannedAction {
    match plan {
        Plan::Run(act) => act,
        other => panic!("it was to run: {other:?}"),
    }
}

#[track_caller]
fn target(plan: Plan) -> Commit {
    match act(plan).target {
        ActionTarget::Commit(commit) => commit,
        merge => panic!("it was to go to a commit: {merge:?}"),
    }
}

#[test]
fn what_is_as_upstream_has_it_and_applied_is_left_alone() {
    assert_eq!(plan(&current()), Plan::Idle);
}

#[test]
fn a_new_revision_is_applied() {
    assert_eq!(
        plan(&behind()),
        Plan::Run(PlannedAction {
            head: Some(commit('a')),
            target: ActionTarget::Commit(commit('b')),
            saves_head: false,
            previous: Some(commit('a')),
            trigger: Trigger::Cron,
            attempt: 1,
            resumed: false,
            only_if_relevant: true,
            heeds_hold: true,
            asks_before: false,
            leaves: None,
            is_upstreams: true,
            repairs: false,
        })
    );
}

#[test]
fn a_tip_that_is_not_here_is_fetched_first() {
    let tip = UpstreamTip::Tip { commit: commit('b'), fetched: false };
    let seen = Observed { upstream: tip, relation: None, ..current() };
    assert_eq!(plan(&seen), Plan::Fetch { tip: commit('b') });
}

#[test]
fn a_switched_off_repository_is_left_alone_whatever_there_is() {
    let off = Policy { active: false, ..policy() };
    for seen in [behind(), Observed { stale_journal: true, ..behind() }] {
        assert_eq!(plan_for(&seen, &off, NAMED, now()), Plan::Idle);
    }
}

#[test]
fn a_running_action_is_left_alone() {
    let running =
        RunningAction { revision: None, since: now(), checks_health: false, pid: 1, stalled: None };
    let seen = Observed { running: Some(running), stale_journal: true, ..behind() };
    assert_eq!(plan_for(&seen, &policy(), NAMED, now()), Plan::Idle);
}

#[test]
fn what_is_damaged_is_put_right_even_on_hold() {
    let seen = Observed { damaged: Some("HEAD".into()), holds: vec![hold()], ..behind() };
    assert_eq!(plan(&seen), Plan::Recover);
}

#[test]
fn a_broken_repository_is_not_touched_even_with_a_dead_run_in_it() {
    let seen = Observed { broken: Some("bare".into()), stale_journal: true, ..behind() };
    assert_eq!(plan(&seen), Plan::Stopped);
}

#[test]
fn what_a_dead_run_left_is_put_right_even_while_held() {
    let seen = Observed { stale_journal: true, holds: vec![hold()], ..current() };
    assert_eq!(plan(&seen), Plan::Recover);
}

#[test]
fn a_hold_stops_everybody_who_asks() {
    let seen = Observed { holds: vec![hold()], ..behind() };
    for request in [CRON, NAMED, REDO] {
        assert_eq!(plan_for(&seen, &policy(), request, now()), Plan::Stopped);
    }
}

#[test]
fn a_pin_is_gone_to_and_stayed_at_whatever_upstream_has() {
    let seen = Observed { pin: Some(pin('9')), ..behind() };
    let act = act(plan(&seen));
    assert_eq!(act.target, ActionTarget::Commit(commit('9')));
    assert!(act.saves_head, "what leaves the branch is kept");

    let there = Observed { head: Some(commit('9')), acted: Some(commit('9')), ..seen };
    assert_eq!(plan(&there), Plan::Idle);
}

#[test]
fn without_a_word_from_upstream_what_is_checked_out_is_applied() {
    let seen =
        Observed { upstream: UpstreamTip::Unknown, relation: None, acted: None, ..current() };
    assert_eq!(target(plan(&seen)), commit('a'));
    assert_eq!(plan(&Observed { acted: Some(commit('a')), ..seen.clone() }), Plan::Idle);
    assert_eq!(plan(&Observed { head: None, ..seen }), Plan::Idle);
}

#[test]
fn an_empty_remote_asks_for_nothing() {
    let nothing = Observed { upstream: UpstreamTip::Empty, ..Observed::default() };
    assert_eq!(plan(&nothing), Plan::Idle);
    let never = Observed { acted: None, relation: None, upstream: UpstreamTip::Empty, ..current() };
    assert_eq!(plan(&never), Plan::Idle, "a mistyped branch is not acted upon");
}

#[test]
fn a_branch_that_went_upstream_does_not_end_what_was_begun() {
    let gone = Observed { upstream: UpstreamTip::Empty, relation: None, ..current() };
    assert_eq!(plan(&gone), Plan::Idle);
    let failed = Observed { head: Some(commit('b')), ..gone.clone() };
    assert_eq!(target(plan(&failed)), commit('b'));
    let hourly =
        Policy { when: RerunPolicy::Every(std::time::Duration::from_secs(1800)), ..policy() };
    assert_eq!(target(plan_for(&gone, &hourly, CRON, now())), commit('a'));
}

#[test]
fn an_unborn_branch_goes_to_the_tip() {
    let seen = Observed { upstream: upstream('b'), ..Observed::default() };
    let act = act(plan(&seen));
    assert_eq!((act.head, act.target), (None, ActionTarget::Commit(commit('b'))));
    assert_eq!(act.previous, None);
}

#[test]
fn a_lagging_mirror_never_moves_us_back() {
    let seen = Observed { lagging: true, relation: Some(Relation::Ahead), ..behind() };
    assert_eq!(plan(&seen), Plan::Idle);
    assert_eq!(target(plan(&Observed { acted: None, ..seen })), commit('a'));
}

#[test]
fn local_commits_on_top_are_applied_where_they_are() {
    let seen = Observed { head: Some(commit('c')), relation: Some(Relation::Ahead), ..current() };
    assert_eq!(target(plan(&seen)), commit('c'));
}

#[test]
fn reset_drops_local_commits_and_keeps_them_as_a_ref() {
    let reset = Policy { update: UpdateMethod::Reset, ..policy() };
    let ahead = Observed { head: Some(commit('c')), relation: Some(Relation::Ahead), ..current() };
    for (seen, tip) in [(ahead, 'a'), (diverged(), 'b')] {
        let act = act(plan_for(&seen, &reset, CRON, now()));
        assert_eq!(act.target, ActionTarget::Commit(commit(tip)));
        assert!(act.saves_head);
    }
    let act = act(plan_for(&behind(), &reset, CRON, now()));
    assert!(!act.saves_head, "going forward loses nothing");
}

#[test]
fn diverged_histories_stop_unless_they_may_be_merged() {
    assert_eq!(plan(&diverged()), Plan::Stopped);
    let merge = Policy { update: UpdateMethod::Merge, ..policy() };
    assert_eq!(
        act(plan_for(&diverged(), &merge, CRON, now())).target,
        ActionTarget::MergeOf(commit('b'))
    );
}

#[test]
fn nothing_is_fetched_from_a_remote_of_the_other_hash_and_what_is_here_continues_acting() {
    let other_format = Some(Unreachable { since: now(), reason: "SHA-256".into(), refusals: 0 });
    let upstream = UpstreamTip::Tip { commit: commit('b'), fetched: false };
    let unfetched = Observed { other_format, upstream, relation: None, ..current() };
    assert_eq!(plan(&unfetched), Plan::Idle);
    let asked_again = Observed { acted: None, ..unfetched.clone() };
    assert_eq!(act(plan(&asked_again)).target, ActionTarget::Commit(commit('a')));
    let unborn = Observed { head: None, acted: None, ..unfetched };
    assert_eq!(plan(&unborn), Plan::Idle);
}

#[test]
fn a_rewritten_upstream_stops_until_accepted_or_followed() {
    assert_eq!(plan(&rewritten()), Plan::Stopped);
    for update in [UpdateMethod::Merge, UpdateMethod::Reset] {
        let policy = Policy { update, ..policy() };
        assert_eq!(plan_for(&rewritten(), &policy, NAMED, now()), Plan::Stopped);
    }
    let follow = Policy { rewritten: OnRewrite::Follow, ..policy() };
    let accepted = Observed { accepted: Some(commit('b')), ..rewritten() };
    for plan in [plan_for(&rewritten(), &follow, CRON, now()), plan(&accepted)] {
        let act = act(plan);
        assert_eq!(act.target, ActionTarget::Commit(commit('b')));
        assert!(act.saves_head);
    }
}

#[test]
fn accepting_one_revision_accepts_no_other() {
    let seen = Observed { accepted: Some(commit('9')), ..rewritten() };
    assert_eq!(plan(&seen), Plan::Stopped);
}

#[test]
fn accepting_takes_a_diverged_tip_as_well() {
    let seen = Observed { accepted: Some(commit('b')), ..diverged() };
    let act = act(plan(&seen));
    assert_eq!(act.target, ActionTarget::Commit(commit('b')));
    assert!(act.saves_head);
}

#[test]
fn a_rewound_upstream_is_not_taken_for_local_commits() {
    let seen = Observed {
        upstream: upstream('9'),
        relation: Some(Relation::Ahead),
        lost: Some(commit('a')),
        ..current()
    };
    assert_eq!(plan(&seen), Plan::Stopped);
}

#[test]
fn another_configured_branch_is_gone_to_from_wherever_we_are() {
    let switch = |local| Observed { switch: Some(BranchSwitch { local }), ..diverged() };
    let not_here_yet = Observed { relation: None, ..switch(None) };
    assert_eq!(target(plan(&not_here_yet)), commit('b'));
    let behind = Observed { relation: Some(Relation::Behind), ..switch(Some(commit('9'))) };
    assert_eq!(target(plan(&behind)), commit('b'));
    let same = Observed { relation: Some(Relation::Same), ..switch(Some(commit('b'))) };
    assert_eq!(target(plan(&same)), commit('b'));
    let ahead = Observed { relation: Some(Relation::Ahead), ..switch(Some(commit('9'))) };
    assert_eq!(target(plan(&ahead)), commit('9'));
    let merge = Policy { update: UpdateMethod::Merge, ..policy() };
    assert_eq!(plan_for(&switch(Some(commit('9'))), &merge, CRON, now()), Plan::Stopped);
}

#[test]
fn a_missing_lastaction_means_act_again() {
    let act = act(plan(&Observed { acted: None, acted_at: None, ..current() }));
    assert_eq!(act.target, ActionTarget::Commit(commit('a')));
    assert_eq!(act.previous, None);
}

#[test]
fn another_revision_in_lastaction_means_act_again() {
    assert_eq!(target(plan(&Observed { acted: Some(commit('9')), ..current() })), commit('a'));
}

#[test]
fn moving_head_back_by_hand_means_act_again_whatever_changed() {
    let seen = Observed { acted: Some(commit('b')), ..behind() };
    let act = act(plan(&seen));
    assert_eq!(act.target, ActionTarget::Commit(commit('b')));
    assert!(!act.only_if_relevant);
}

#[test]
fn always_acts_at_each_tick() {
    let always = Policy { when: RerunPolicy::Always, ..policy() };
    let act = act(plan_for(&current(), &always, CRON, now()));
    assert_eq!(act.target, ActionTarget::Commit(commit('a')));
    assert!(!act.only_if_relevant);
}

#[test]
fn an_hour_acts_when_the_last_success_is_an_hour_old() {
    let hourly =
        Policy { when: RerunPolicy::Every(std::time::Duration::from_secs(3600)), ..policy() };
    let at = |acted_at| {
        plan_for(&Observed { acted_at: Some(acted_at), ..current() }, &hourly, CRON, now())
    };
    assert_eq!(at(now() - Duration::minutes(59)), Plan::Idle);
    assert_eq!(target(at(now() - Duration::minutes(60))), commit('a'));
    assert_eq!(target(at(now() + Duration::days(1))), commit('a'), "the clock was set back");
}

#[test]
fn redo_applies_again_what_was_applied() {
    let act = act(plan_for(&current(), &policy(), REDO, now()));
    assert_eq!(act.target, ActionTarget::Commit(commit('a')));
    assert_eq!(act.trigger, Trigger::Redo);
    assert!(!act.only_if_relevant);
}

#[test]
fn a_named_repository_without_news_is_left_alone() {
    assert_eq!(plan_for(&current(), &policy(), NAMED, now()), Plan::Idle);
}

#[test]
fn a_refused_or_held_revision_is_not_looked_at_again() {
    for finding in
        [Finding::Refused { reason: ".temp".into() }, Finding::Held { reason: "freeze".into() }]
    {
        let seen = Observed { verdict: verdict('b', 'a', finding), ..behind() };
        for request in [CRON, NAMED, REDO] {
            assert_eq!(plan_for(&seen, &policy(), request, now()), Plan::Stopped);
        }
        let next = Observed { upstream: upstream('d'), ..seen };
        assert_eq!(target(plan(&next)), commit('d'));
    }
}

#[test]
fn a_verdict_falls_when_head_has_moved() {
    let finding = Finding::Refused { reason: "set-uid".into() };
    let seen = Observed { verdict: verdict('b', '9', finding), ..behind() };
    assert_eq!(target(plan(&seen)), commit('b'));
}

#[test]
fn a_conflict_stops_the_same_merge_and_nothing_else() {
    let conflict = Finding::Conflict { paths: vec!["page".into()] };
    let seen = Observed { verdict: verdict('b', 'c', conflict), ..diverged() };
    let merge = Policy { update: UpdateMethod::Merge, ..policy() };
    assert_eq!(plan_for(&seen, &merge, NAMED, now()), Plan::Stopped);

    let reset = Policy { update: UpdateMethod::Reset, ..policy() };
    assert_eq!(target(plan_for(&seen, &reset, CRON, now())), commit('b'));
    let accepted = Observed { accepted: Some(commit('b')), ..seen };
    assert_eq!(target(plan_for(&accepted, &merge, CRON, now())), commit('b'));
}

#[test]
fn local_changes_in_the_way_are_looked_at_anew_each_time() {
    let dirty = Finding::Dirty { paths: vec!["page".into()] };
    let seen = Observed { verdict: verdict('b', 'a', dirty), ..behind() };
    assert_eq!(target(plan(&seen)), commit('b'));
}

#[test]
fn nothing_relevant_stays_so_until_something_is() {
    let irrelevant = Finding::Irrelevant { since_revision: commit('9') };
    let seen =
        Observed { acted: Some(commit('9')), verdict: verdict('a', 'a', irrelevant), ..current() };
    assert_eq!(plan(&seen), Plan::Idle);
    assert_eq!(target(plan_for(&seen, &policy(), REDO, now())), commit('a'));
    let always = Policy { when: RerunPolicy::Always, ..policy() };
    assert_eq!(target(plan_for(&seen, &always, CRON, now())), commit('a'));
    let deleted = Observed { acted: None, ..seen.clone() };
    assert_eq!(target(plan(&deleted)), commit('a'));
    let pushed = Observed { upstream: upstream('b'), relation: Some(Relation::Behind), ..seen };
    assert!(act(plan(&pushed)).only_if_relevant);
}

#[test]
fn a_failure_waits_its_turn_and_then_is_attempt_two() {
    let failed = attempt('b', Outcome::Failed { code: 1 }, 1);
    let next = failed.as_ref().unwrap().next_try.unwrap();
    let seen = Observed { head: Some(commit('b')), attempt: failed, ..behind() };
    let seen = Observed { relation: Some(Relation::Same), ..seen };
    assert_eq!(plan(&seen), Plan::Wait { until: next });
    assert_eq!(act(plan_for(&seen, &policy(), CRON, next)).attempt, 2);
    assert_eq!(act(plan_for(&seen, &policy(), NAMED, now())).attempt, 2);
    assert_eq!(act(plan_for(&seen, &policy(), REDO, now())).attempt, 2);
}

#[test]
fn a_new_revision_does_not_wait_for_the_failed_one() {
    let seen = Observed {
        head: Some(commit('b')),
        upstream: upstream('d'),
        attempt: attempt('b', Outcome::TimedOut, 7),
        ..behind()
    };
    let act = act(plan(&seen));
    assert_eq!((act.target, act.attempt), (ActionTarget::Commit(commit('d')), 1));
}

#[test]
fn a_failed_redo_is_tried_again_though_the_revision_was_applied_before() {
    let failed = attempt('a', Outcome::Failed { code: 1 }, 1);
    let next = failed.as_ref().unwrap().next_try.unwrap();
    let seen = Observed { attempt: failed, ..current() };
    assert_eq!(plan(&seen), Plan::Wait { until: next });
    assert_eq!(act(plan_for(&seen, &policy(), CRON, next)).attempt, 2);
}

#[test]
fn not_now_and_hindered_count_as_no_attempt() {
    for outcome in [Outcome::Deferred, Outcome::Hindered { reason: "disk full".into() }] {
        let seen = Observed { attempt: attempt('b', outcome, 3), ..behind() };
        assert_eq!(act(plan(&seen)).attempt, 3);
    }
}

#[test]
fn a_hindered_merge_is_an_attempt_at_the_tip() {
    let hindered = attempt('b', Outcome::Hindered { reason: "disk full".into() }, 1);
    let seen = Observed { attempt: hindered, ..diverged() };
    let merge = Policy { update: UpdateMethod::Merge, ..policy() };
    assert_eq!(conditions(&seen, &merge)[0].state, State::Failing);
    assert_eq!(act(plan_for(&seen, &merge, CRON, now())).attempt, 1);
}

#[test]
fn a_run_that_was_cut_off_is_resumed_at_once() {
    let seen = Observed { attempt: attempt('b', Outcome::Interrupted, 1), ..behind() };
    let act = act(plan(&seen));
    assert!(act.resumed);
    assert_eq!(act.attempt, 2);
    assert!(!act.only_if_relevant);
}

fn any_commit() -> impl Strategy<Value = Commit> {
    prop::sample::select(vec!['a', 'b', 'c']).prop_map(commit)
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Failed { code: 1 }),
        Just(Outcome::TimedOut),
        Just(Outcome::Killed { signal: 9 }),
        Just(Outcome::Deferred),
        Just(Outcome::Interrupted),
        Just(Outcome::Hindered { reason: "disk full".into() }),
    ]
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    (any_outcome(), any_commit(), 1u32..9, -500i64..500).prop_map(
        |(outcome, revision, number, minutes)| {
            let at = now() + Duration::minutes(minutes);
            Attempt::after(outcome, revision, number, None, "web01", at)
        },
    )
}

fn any_verdict() -> impl Strategy<Value = RecordedFinding> {
    let finding = prop_oneof![
        Just(Finding::Refused { reason: ".temp".into() }),
        Just(Finding::Held { reason: "freeze".into() }),
        Just(Finding::Dirty { paths: vec!["page".into()] }),
        Just(Finding::Conflict { paths: vec!["page".into()] }),
        any_commit().prop_map(|since_revision| Finding::Irrelevant { since_revision }),
    ];
    (any_commit(), prop::option::of(any_commit()), finding).prop_map(|(revision, head, finding)| {
        let head = match finding {
            // Relevance is checked once HEAD is there; local changes in the way are checked before.
            Finding::Irrelevant { .. } => Some(revision),
            Finding::Dirty { .. } => head.filter(|&head| head != revision),
            _ => head,
        };
        RecordedFinding { revision, head, finding, since: now() }
    })
}

fn any_upstream() -> impl Strategy<Value = UpstreamTip> {
    prop_oneof![
        Just(UpstreamTip::Unknown),
        Just(UpstreamTip::Empty),
        (any_commit(), any::<bool>())
            .prop_map(|(commit, fetched)| UpstreamTip::Tip { commit, fetched }),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (
        prop::bool::weighted(0.9),
        prop::sample::select(vec![
            UpdateMethod::FastForward,
            UpdateMethod::Merge,
            UpdateMethod::Reset,
        ]),
        prop::sample::select(vec![OnRewrite::Refuse, OnRewrite::Follow]),
        prop::sample::select(vec![
            RerunPolicy::Changed,
            RerunPolicy::Always,
            RerunPolicy::Every(std::time::Duration::from_secs(3600)),
        ]),
    )
        .prop_map(|(active, update, rewritten, when)| Policy {
            active,
            update,
            rewritten,
            when,
            gates: Default::default(),
            drift: DriftPolicy { on: OnDrift::Repair, ..DriftPolicy::default() },
        })
}

fn any_request() -> impl Strategy<Value = ActionRequest> {
    (prop::sample::select(Trigger::ALL.to_vec()), any::<bool>())
        .prop_map(|(trigger, named)| ActionRequest { trigger, named, overrides: false })
}

/// Any state that git allows: the relation of HEAD and tip is known when both are here.
fn any_observed() -> impl Strategy<Value = Observed> {
    let git = (
        prop::option::weighted(0.9, any_commit()),
        any_upstream(),
        prop::sample::select(vec![Relation::Behind, Relation::Ahead, Relation::Diverged]),
        prop::option::weighted(0.2, any_commit()),
        prop::bool::weighted(0.1),
    );
    let records = (
        prop::option::weighted(0.8, any_commit()),
        prop::option::of((-100i64..100).prop_map(|minutes| now() + Duration::minutes(minutes))),
        prop::option::of(any_attempt()),
        prop::bool::weighted(0.2),
        prop::option::of(any_verdict()),
        prop::option::weighted(0.1, any_commit()),
    );
    let people = (
        prop::option::weighted(0.1, Just("bare".to_owned())),
        prop::option::weighted(
            0.1,
            Just(RunningAction {
                revision: None,
                since: now(),
                checks_health: false,
                pid: 1,
                stalled: None,
            }),
        ),
        prop::bool::weighted(0.1),
        prop::collection::vec(Just(hold()), 0..2),
        prop::option::weighted(0.1, Just(pin('c'))),
        prop::option::weighted(
            0.2,
            Just(Unreachable { since: now(), reason: "down".into(), refusals: 0 }),
        ),
        prop::option::weighted(
            0.1,
            Just(Unreachable { since: now(), reason: "sha256".into(), refusals: 0 }),
        ),
    );
    let health = (
        prop::option::weighted(0.2, any_bad()),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.3),
    );
    (git, records, people, health).prop_map(|(git, records, people, health)| {
        let (bad, upstream_is_bad, has_drift) = health;
        let (head, upstream, other, lost, lagging) = git;
        let (acted, acted_at, attempt, is_tried, verdict, accepted) = records;
        let (broken, running, leftover, holds, pin, unreachable, other_format) = people;
        let upstream = match upstream {
            UpstreamTip::Tip { commit, fetched } => {
                UpstreamTip::Tip { commit, fetched: fetched || head == Some(commit) }
            }
            other => other,
        };
        let relation = match (head, upstream) {
            (Some(head), UpstreamTip::Tip { commit, fetched: true }) => {
                Some(if head == commit { Relation::Same } else { other })
            }
            _ => None,
        };
        // A commit that was never here was never deployed.
        let acted = acted.filter(|_| head.is_some());
        let apart = relation.is_some_and(|relation| relation != Relation::Same);
        Observed {
            tag: None,
            lost_tag: None,
            acted_tag: None,
            fixed: None,
            id_is_late: false,
            tree_when: None,
            actions: None,
            gaps: None,
            no_script: None,
            asked: None,
            left_alone: None,
            late: None,
            damaged: None,
            release_lost: false,
            repaired: None,
            head,
            upstream,
            switch: None,
            relation,
            lost: lost.filter(|_| apart && !lagging),
            lagging: lagging && apart,
            acted,
            acted_at: acted_at.filter(|_| acted.is_some()),
            is_tried: is_tried || attempt.is_some(),
            attempt,
            verdict,
            accepted,
            unheld: None,
            ignored_keys: Vec::new(),
            broken,
            running,
            stale_journal: leftover,
            holds,
            pin,
            unreachable,
            other_format,
            branch: Some("main".parse().unwrap()),
            local_branch: Some("main".parse().unwrap()),
            no_ref: None,
            doubt: None,
            without_upstream: None,
            unused: Vec::new(),
            last_success: None,
            refs: None,
            gates: Default::default(),
            bad,
            upstream_is_bad,
            drift: acted.filter(|_| has_drift).map(drifted),
            look_times: Default::default(),
            has_no_files: false,
        }
    })
}

fn drifted(revision: Commit) -> DriftRecord {
    let file = DriftedFile { path: "page".into(), how: Difference::Content };
    DriftRecord::new(Some(revision), now(), vec![file].into_iter())
}

fn any_bad() -> impl Strategy<Value = BadRevision> {
    (any_commit(), any::<bool>()).prop_map(|(revision, is_back)| BadRevision {
        revision,
        cause: Some(BadCause::Health),
        back_since: is_back.then(now),
    })
}

proptest! {
    #[test]
    fn nothing_is_fetched_or_run_where_somebody_or_something_is_in_the_way(
        seen in any_observed(), policy in any_policy(), request in any_request()
    ) {
        let stopped = !policy.active
            || seen.broken.is_some()
            || seen.running.is_some()
            || (!seen.holds.is_empty() && !seen.begins_to_go_back());
        let plan = plan_for(&seen, &policy, request, now());
        prop_assert!(!stopped || !matches!(plan, Plan::Fetch { .. } | Plan::Run(_)), "{plan:?}");
    }

    #[test]
    fn the_same_question_has_the_same_answer(
        seen in any_observed(), policy in any_policy(), request in any_request()
    ) {
        let plan = plan_for(&seen, &policy, request, now());
        prop_assert_eq!(plan, plan_for(&seen.clone(), &policy.clone(), request, now()));
    }

    #[test]
    fn who_names_a_repository_never_waits(seen in any_observed(), policy in any_policy()) {
        let plan = plan_for(&seen, &policy, NAMED, now());
        prop_assert!(!matches!(plan, Plan::Wait { .. }), "{plan:?}");
        if let Plan::Wait { .. } = plan_for(&seen, &policy, CRON, now()) {
            prop_assert!(matches!(plan, Plan::Run(_)), "{plan:?}");
        }
    }

    #[test]
    fn no_wait_is_longer_than_the_rule_allows(
        seen in any_observed(), policy in any_policy(), request in any_request()
    ) {
        if let Plan::Wait { until } = plan_for(&seen, &policy, request, now()) {
            prop_assert!(until > now() && until <= now() + Duration::minutes(72), "{until}");
        }
    }

    #[test]
    fn idle_means_that_nothing_is_to_be_done(
        seen in any_observed(), policy in any_policy(), request in any_request()
    ) {
        let resting = [State::Current, State::Ahead, State::New, State::Inactive];
        let silent = [State::Pinned, State::RolledBack, State::NoRef, State::Unreachable];
        // An object format that cannot be followed changes nothing about the local state.
        let all: Vec<State> = conditions(&seen, &policy)
            .into_iter()
            .filter(|condition| condition.reason.as_deref() != Some("sha256"))
            .map(|condition| condition.state)
            .collect();
        let rests = all.iter().all(|state| resting.contains(state) || silent.contains(state));
        let plan = plan_for(&seen, &policy, request, now());
        if plan == Plan::Idle && seen.running.is_none() {
            prop_assert!(rests, "idle in spite of {all:?}");
        }
        let asked = matches!(request.trigger, Trigger::Redo | Trigger::Rollback);
        let quiet = policy.when == RerunPolicy::Changed && !asked && !seen.stale_journal;
        let acted = !all.contains(&State::New);
        let is_about_drift = match &plan {
            Plan::Look => true,
            Plan::Run(act) => act.repairs,
            _ => false,
        };
        if rests && quiet && acted && !is_about_drift {
            prop_assert_eq!(plan, Plan::Idle, "though it is {:?}", all);
        }
    }

    #[test]
    fn what_lags_behind_without_an_obstacle_is_brought_on(
        seen in any_observed(), policy in any_policy()
    ) {
        let all = conditions(&seen, &policy);
        let plan = plan_for(&seen, &policy, CRON, now());
        if all[0].state == State::Behind && !seen.stale_journal {
            prop_assert!(matches!(plan, Plan::Fetch { .. } | Plan::Run(_)), "{plan:?}");
        }
        if matches!(all[0].state, State::Failing | State::Waiting) && !seen.stale_journal {
            prop_assert!(
                // A tip whose objects were lost is fetched again first.
                matches!(
                    plan,
                    Plan::Run(_) | Plan::Wait { .. } | Plan::Stopped | Plan::Fetch { .. }
                ),
                "{plan:?}"
            );
        }
    }
}
