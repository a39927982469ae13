//! The table of states: the cause of each, its message, its exit code and its severity. One test for
//! each row.

use proptest::prelude::*;

use super::*;
use crate::domain::git::{RefName, Relation};
use crate::domain::repository::action::Attempt;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::hold::Hold;
use crate::domain::repository::observed::{Observed, Policy, UpstreamTip};
use crate::domain::repository::observed::{
    Pin, RecordedFinding, RunningAction, Unreachable, UpdateMethod,
};
use crate::domain::repository::tests::{commit, conditions, now, policy, upstream};

impl StatusRow {
    /// A row of which only name and state are known, as a base for tests.
    pub fn bare(name: &str, state: State, since: DateTime<Utc>) -> Self {
        Self {
            name: name.to_owned(),
            path: String::new(),
            remote: None,
            tag: None,
            branch: None,
            state,
            reason: None,
            conditions: vec![state],
            since,
            head: None,
            upstream: None,
            acted: None,
            attempt: 0,
            next_try: None,
            gate: None,
            bad: None,
            asked: None,
            left_alone: BackoffList::new(),
            refusals: 0,
            mirror_lags: false,
            gaps: None,
            left: None,
            holds: Vec::new(),
            ignored_keys: Vec::new(),
            drifted: None,
            actions: BTreeMap::new(),
            published: Vec::new(),
        }
    }
}

fn main_branch() -> Option<RefName> {
    Some("main".parse().unwrap())
}

/// `a` is checked out, deployed, and upstream's tip.
fn current() -> Observed {
    Observed {
        head: Some(commit('a')),
        branch: main_branch(),
        upstream: upstream('a'),
        relation: Some(Relation::Same),
        acted: Some(commit('a')),
        ..Observed::default()
    }
}

/// As [`current`], but upstream has moved to `b`.
fn behind() -> Observed {
    Observed { upstream: upstream('b'), relation: Some(Relation::Behind), ..current() }
}

fn attempt(digit: char, outcome: Outcome, number: u32) -> Option<Attempt> {
    Some(Attempt::after(outcome, commit(digit), number, None, "web01", now()))
}

fn found(finding: Finding) -> Observed {
    let verdict =
        RecordedFinding { revision: commit('b'), head: Some(commit('a')), finding, since: now() };
    Observed { verdict: Some(verdict), ..behind() }
}

fn first(seen: &Observed) -> Condition {
    conditions(seen, &policy()).remove(0)
}

#[track_caller]
fn says(seen: &Observed, state: State, reason: &str) {
    let condition = first(seen);
    assert_eq!(condition.state, state, "{condition:?}");
    assert_eq!(condition.reason.unwrap_or_default(), reason);
}

/// Exit code and severity of `state` just after it began, and after `later`.
#[track_caller]
fn counts(
    condition: &Condition,
    at_once: (bool, Severity),
    later: Duration,
    then: (bool, Severity),
) {
    for (age, expected) in [(Duration::zero(), at_once), (later, then)] {
        let since = now() - age;
        let found = (condition.needs_attention(since, now()), condition.severity(since, now()));
        assert_eq!(found, expected, "{} after {age}", condition.state);
    }
}

#[track_caller]
fn always_counts(condition: &Condition, attention: bool, severity: Severity) {
    counts(condition, (attention, severity), Duration::days(400), (attention, severity));
}

#[test]
fn acting_says_upon_what_and_which_process() {
    let running = RunningAction {
        revision: Some(commit('b')),
        since: now(),
        checks_health: false,
        pid: 4711,
        stalled: None,
    };
    let seen = Observed { running: Some(running), ..behind() };
    says(&seen, State::Acting, "applying bbbbbbb (pid 4711)");
    assert_eq!(first(&seen).since, Some(now()));
    always_counts(&first(&seen), false, Severity::Ok);
    let fetching =
        RunningAction { revision: None, since: now(), checks_health: false, pid: 1, stalled: None };
    says(&Observed { running: Some(fetching), ..behind() }, State::Acting, "fetching (pid 1)");
}

#[test]
fn damage_is_broken_until_it_is_put_right_and_mentioned_afterwards() {
    let seen = Observed { damaged: Some("HEAD is damaged".into()), ..Observed::default() };
    says(&seen, State::Broken, "HEAD is damaged");
    let repaired = Some("repaired automatically: HEAD".to_owned());
    says(&Observed { repaired, ..current() }, State::Current, "repaired automatically: HEAD");
}

#[test]
fn broken_says_what_and_is_critical_at_once() {
    let seen = Observed { broken: Some("it is bare".into()), ..Observed::default() };
    says(&seen, State::Broken, "it is bare");
    always_counts(&first(&seen), true, Severity::Critical);
}

#[test]
fn held_says_by_whom_why_and_until_when_and_warns_after_a_day() {
    let hold = Hold {
        by: "ann".into(),
        reason: "move".into(),
        since: now(),
        until: Some(now()),
        ..Hold::default()
    };
    let seen = Observed { holds: vec![hold], ..behind() };
    says(&seen, State::Held, "by ann: move, until 2026-11-22 09:00 UTC");
    let day = Duration::days(1);
    counts(&first(&seen), (false, Severity::Ok), day, (false, Severity::Warning));
    counts(&first(&seen), (false, Severity::Ok), day - Duration::seconds(1), (false, Severity::Ok));
}

#[test]
fn each_hold_is_reported() {
    let hold =
        |by: &str| Hold { by: by.into(), reason: "x".into(), since: now(), ..Hold::default() };
    let seen = Observed { holds: vec![hold("ann"), hold("bob")], ..behind() };
    let all = conditions(&seen, &policy());
    assert_eq!(all.iter().filter(|condition| condition.state == State::Held).count(), 2);
}

#[test]
fn pinned_says_to_what_and_by_whom_and_warns_after_a_day() {
    let pin = Pin {
        revision: commit('a'),
        by: "ann".into(),
        since: now(),
        person: None,
        is_checkout: false,
    };
    let seen = Observed { pin: Some(pin), ..behind() };
    says(&seen, State::Pinned, "rolled back to aaaaaaa by ann");
    counts(&first(&seen), (false, Severity::Ok), Duration::days(1), (false, Severity::Warning));
}

#[test]
fn failing_says_which_attempt_and_when_the_next_is_and_is_critical_from_the_third() {
    let failed = |number| {
        let attempt = attempt('b', Outcome::Failed { code: 3 }, number);
        Observed { head: Some(commit('b')), relation: Some(Relation::Same), attempt, ..behind() }
    };
    says(&failed(1), State::Failing, "bbbbbbb exited 3");
    let condition = first(&failed(2));
    assert_eq!(condition.attempt, 2);
    assert!(condition.next_try.is_some_and(|next| next > now()));
    always_counts(&condition, true, Severity::Warning);
    always_counts(&first(&failed(3)), true, Severity::Critical);
}

#[test]
fn every_way_to_fail_is_failing() {
    for (outcome, reason) in [
        (Outcome::TimedOut, "bbbbbbb timed out and was terminated"),
        (Outcome::Killed { signal: 9 }, "bbbbbbb was killed by signal 9"),
        (Outcome::Interrupted, "bbbbbbb was interrupted"),
        (Outcome::Hindered { reason: "the disk is full".into() }, "bbbbbbb the disk is full"),
    ] {
        says(&Observed { attempt: attempt('b', outcome, 1), ..behind() }, State::Failing, reason);
    }
}

#[test]
fn waiting_is_no_failure_and_warns_after_six_hours() {
    let seen = Observed { attempt: attempt('b', Outcome::Deferred, 1), ..behind() };
    says(&seen, State::Waiting, "bbbbbbb said \"not now\" (exit 75)");
    assert_eq!((first(&seen).attempt, first(&seen).next_try), (0, None));
    counts(&first(&seen), (false, Severity::Ok), Duration::hours(6), (false, Severity::Warning));
}

#[test]
fn an_attempt_at_another_revision_is_history() {
    let seen = Observed { attempt: attempt('9', Outcome::TimedOut, 5), ..behind() };
    assert_eq!(first(&seen).state, State::Behind);
}

#[test]
fn refused_says_which_path_and_is_critical() {
    let seen = found(Finding::Refused { reason: ".temp is the agent's".into() });
    says(&seen, State::Refused, ".temp is the agent's");
    assert_eq!(first(&seen).since, Some(now()));
    always_counts(&first(&seen), true, Severity::Critical);
}

#[test]
fn a_hold_in_the_revision_itself_is_held() {
    says(&found(Finding::Held { reason: "freeze".into() }), State::Held, "by .pmpy.toml: freeze");
}

#[test]
fn rewritten_prints_the_command_that_accepts() {
    let seen = Observed { relation: Some(Relation::Diverged), lost: Some(commit('a')), ..behind() };
    let tip = "b".repeat(40);
    let reason = format!(
        "upstream no longer contains aaaaaaa; to take what it has now: agent accept REPO {tip}"
    );
    says(&seen, State::Rewritten, &reason);
    always_counts(&first(&seen), true, Severity::Critical);
    let rewound = Observed { relation: Some(Relation::Ahead), ..seen };
    let reason = first(&rewound).reason.unwrap();
    assert!(reason.contains("to go back to the older one: agent accept REPO"), "{reason}");
}

#[test]
fn diverged_says_what_to_do_and_warns() {
    let seen = Observed { head: Some(commit('c')), relation: Some(Relation::Diverged), ..behind() };
    let condition = first(&seen);
    assert_eq!(condition.state, State::Diverged);
    assert!(condition.reason.as_ref().is_some_and(|why| why.contains("update = \"merge\"")));
    always_counts(&condition, true, Severity::Warning);
}

#[test]
fn a_conflict_is_diverged_with_its_files() {
    let verdict = RecordedFinding {
        revision: commit('b'),
        head: Some(commit('c')),
        finding: Finding::Conflict { paths: vec!["a".into(), "b".into()] },
        since: now(),
    };
    let seen = Observed {
        head: Some(commit('c')),
        relation: Some(Relation::Diverged),
        verdict: Some(verdict),
        ..behind()
    };
    let merge = Policy { update: UpdateMethod::Merge, ..policy() };
    let condition = conditions(&seen, &merge).remove(0);
    assert_eq!(condition.state, State::Diverged);
    assert_eq!(condition.reason.as_deref(), Some("the merge has conflicts in a, b"));
    let reset = Policy { update: UpdateMethod::Reset, ..policy() };
    assert_eq!(conditions(&seen, &reset)[0].state, State::Behind, "no merge is asked for any more");
}

#[test]
fn dirty_names_the_files_and_warns() {
    let seen = found(Finding::Dirty { paths: vec!["page".into()] });
    let reason = first(&seen).reason.unwrap();
    assert!(reason.starts_with("local changes in the way: page\nhint: "), "{reason}");
    always_counts(&first(&seen), true, Severity::Warning);
}

#[test]
fn unreachable_is_not_reported_for_a_quarter_of_an_hour() {
    let since = now() - Duration::minutes(20);
    let unreachable = Unreachable { since, reason: "no route".into(), refusals: 0 };
    let seen = Observed { unreachable: Some(unreachable), ..current() };
    says(&seen, State::Unreachable, "no route");
    assert_eq!(first(&seen).since, Some(since));
    let limit = Duration::minutes(15);
    counts(&first(&seen), (false, Severity::Ok), limit, (true, Severity::Warning));
    let nearly = limit - Duration::seconds(1);
    counts(&first(&seen), (false, Severity::Ok), nearly, (false, Severity::Ok));
}

#[test]
fn a_remote_of_the_other_hash_is_rewritten_and_accept_is_not_suggested() {
    let since = now() - Duration::minutes(1);
    let other_format = Some(Unreachable { since, reason: "named by SHA-256".into(), refusals: 0 });
    let seen = Observed { other_format, ..current() };
    says(&seen, State::Rewritten, "named by SHA-256");
    assert_eq!(first(&seen).since, Some(since));
    always_counts(&first(&seen), true, Severity::Critical);
}

#[test]
fn behind_says_what_is_known_and_warns_after_eight_days() {
    says(&behind(), State::Behind, "bbbbbbb is known and not applied yet");
    let moved = Observed { head: Some(commit('9')), acted: Some(commit('b')), ..behind() };
    says(&moved, State::Behind, "HEAD is at 9999999");
    let unfetched = UpstreamTip::Tip { commit: commit('b'), fetched: false };
    let seen = Observed { upstream: unfetched, relation: None, ..current() };
    assert_eq!(first(&seen).state, State::Behind);
    let (fine, late) = ((false, Severity::Ok), (false, Severity::Warning));
    counts(&first(&seen), fine, Duration::days(8) - Duration::minutes(1), fine);
    counts(&first(&seen), fine, Duration::days(8), late);
}

#[test]
fn new_is_what_was_never_applied_and_what_has_an_empty_remote() {
    let seen = Observed { acted: None, ..current() };
    says(&seen, State::New, "");
    always_counts(&first(&seen), false, Severity::Ok);
    let empty = Observed { upstream: UpstreamTip::Empty, ..Observed::default() };
    says(&empty, State::New, "the remote is empty");
}

#[test]
fn a_remote_without_the_branch_is_no_ref_and_after_a_day_critical() {
    let since = now() - Duration::days(2);
    let no_ref = Some(Unreachable {
        since,
        reason: "it has no branch main; it has live".into(),
        refusals: 0,
    });
    for acted in [None, Some(commit('a'))] {
        let upstream = UpstreamTip::Empty;
        let lacks =
            Observed { upstream, relation: None, acted, no_ref: no_ref.clone(), ..current() };
        says(&lacks, State::NoRef, "it has no branch main; it has live");
        assert_eq!(first(&lacks).since, Some(since));
        let day = Duration::days(1);
        counts(&first(&lacks), (true, Severity::Warning), day, (true, Severity::Critical));
        let silent = Unreachable { since, reason: "no route".into(), refusals: 0 };
        let silent = Observed { unreachable: Some(silent), ..lacks };
        says(&silent, State::Unreachable, "no route");
    }
    let emptied = Observed { upstream: UpstreamTip::Empty, relation: None, ..current() };
    assert_eq!(first(&emptied).state, State::NoRef);
    assert!(first(&emptied).reason.unwrap().starts_with("the remote has no refs at all any more"));
}

#[test]
fn ahead_is_applied_with_commits_that_the_remote_lacks() {
    let seen = Observed {
        head: Some(commit('c')),
        acted: Some(commit('c')),
        relation: Some(Relation::Ahead),
        ..current()
    };
    says(&seen, State::Ahead, "local commits that the remote lacks");
    always_counts(&first(&seen), false, Severity::Ok);
}

#[test]
fn current_needs_no_reason_unless_there_is_one() {
    says(&current(), State::Current, "");
    always_counts(&first(&current()), false, Severity::Ok);
    let lagging = Observed { lagging: true, relation: Some(Relation::Ahead), ..behind() };
    says(&lagging, State::Current, "the mirror that answered lags behind");
    let doubt = Some("origin answers without main; asked again".to_owned());
    let doubted = Observed { doubt, ..current() };
    says(&doubted, State::Current, "origin answers without main; asked again");
    let verdict = RecordedFinding {
        revision: commit('a'),
        head: Some(commit('a')),
        finding: Finding::Irrelevant { since_revision: commit('9') },
        since: now(),
    };
    let seen = Observed { acted: Some(commit('9')), verdict: Some(verdict), ..current() };
    says(&seen, State::Current, "nothing relevant since 9999999");
}

#[test]
fn inactive_is_all_there_is_to_say() {
    let off = Policy { active: false, ..policy() };
    let all = conditions(&Observed { broken: Some("bare".into()), ..behind() }, &off);
    assert_eq!(all.iter().map(|one| one.state).collect::<Vec<_>>(), [State::Inactive]);
    always_counts(&all[0], false, Severity::Ok);
}

#[test]
fn all_that_applies_is_reported_in_the_order_of_the_table() {
    let pin = Pin {
        revision: commit('b'),
        by: "ann".into(),
        since: now(),
        person: None,
        is_checkout: false,
    };
    let seen = Observed {
        broken: Some("bare".into()),
        running: Some(RunningAction {
            revision: None,
            since: now(),
            checks_health: false,
            pid: 1,
            stalled: None,
        }),
        holds: vec![Hold { by: "a".into(), reason: "x".into(), since: now(), ..Hold::default() }],
        pin: Some(pin),
        attempt: attempt('b', Outcome::TimedOut, 1),
        unreachable: Some(Unreachable { since: now(), reason: "down".into(), refusals: 0 }),
        ..behind()
    };
    let states: Vec<State> =
        conditions(&seen, &policy()).iter().map(|condition| condition.state).collect();
    assert_eq!(
        states,
        [
            State::Acting,
            State::Broken,
            State::Held,
            State::Pinned,
            State::Failing,
            State::Unreachable,
            State::Behind,
        ]
    );
}

#[test]
fn the_words_are_those_of_json() {
    for state in State::ALL {
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(json, format!("\"{state}\""));
    }
    assert!(State::ALL.is_sorted());
}

fn row(state: State, since: DateTime<Utc>) -> StatusRow {
    StatusRow::bare("ops", state, since)
}

fn machine(last_tick: Option<Duration>, states: &[State]) -> bool {
    MachineStatus {
        agent: "0.1.0".into(),
        host: "web01".into(),
        part: None,
        stack: None,
        root: "/root/gitrepo".into(),
        at: now(),
        last_tick: last_tick.map(|age| now() - age),
        healthy: false,
        configuration: None,
        presence: None,
        repositories: states.iter().map(|&state| row(state, now())).collect(),
    }
    .with_health()
    .healthy
}

#[test]
fn a_machine_is_healthy_when_it_ticks_and_needs_no_attention() {
    let fresh = Some(Duration::seconds(31));
    assert!(machine(fresh, &[State::Current, State::Held, State::Unreachable]));
    assert!(machine(Some(Duration::minutes(5)), &[State::Current]));
    assert!(machine(Some(-Duration::hours(1)), &[State::Current]), "the clock was set back");
    assert!(!machine(Some(Duration::seconds(301)), &[State::Current]));
    assert!(!machine(None, &[State::Current]));
    assert!(!machine(fresh, &[]));
    assert!(!machine(fresh, &[State::Current, State::Dirty]));
}

proptest! {
    #[test]
    fn there_is_always_a_state_and_it_is_the_first_of_the_conditions(
        head in prop::option::of(prop::sample::select(vec!['a', 'b'])),
        acted in prop::option::of(prop::sample::select(vec!['a', 'b'])),
        tip in prop::option::of((prop::sample::select(vec!['a', 'b']), any::<bool>())),
        relation in prop::sample::select(vec![
            Relation::Same, Relation::Behind, Relation::Ahead, Relation::Diverged,
        ]),
        (lost, lagging, held, broken) in any::<(bool, bool, bool, bool)>(),
        update in prop::sample::select(vec![UpdateMethod::FastForward, UpdateMethod::Merge, UpdateMethod::Reset]),
        active in prop::bool::weighted(0.9),
    ) {
        let seen = Observed {
            head: head.map(commit),
            acted: acted.map(commit),
            upstream: tip.map_or(UpstreamTip::Empty, |(tip, fetched)| {
                UpstreamTip::Tip { commit: commit(tip), fetched }
            }),
            relation: head.map(|_| relation),
            lost: lost.then(|| commit('9')),
            lagging,
            broken: broken.then(|| "bare".to_owned()),
            holds: held
                .then(|| Hold { by: "a".into(), reason: "x".into(), since: now(), ..Hold::default() })
                .into_iter()
                .collect(),
            ..Observed::default()
        };
        let policy = Policy { active, update, ..policy() };
        let all: Vec<State> =
            conditions(&seen, &policy).into_iter().map(|condition| condition.state).collect();
        prop_assert!(!all.is_empty());
        prop_assert!(all.is_sorted(), "{all:?}");
        let ref_statuses = [State::Behind, State::New, State::Ahead, State::Current];
        let count = all.iter().filter(|state| ref_statuses.contains(state)).count();
        prop_assert_eq!(count, usize::from(active), "{:?}", all);
    }
}
