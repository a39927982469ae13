//! The table of who passes what, cell by cell, and what the waits promise to a fleet.

use chrono::TimeDelta;

use jiff::tz::TimeZone;

use super::*;
use crate::domain::report::presence::PresenceRow;
use crate::domain::repository::action::{FinishedRun, Outcome};
use crate::domain::repository::decision::{Plan, Rule, decide};
use crate::domain::repository::gate::BegunAction;
use crate::domain::repository::gates::canaries::{self, CanaryMachine, CanaryQuestion};
use crate::domain::repository::hold::Hold;
use crate::domain::repository::observed::{Pin, RecordedFinding};
use crate::domain::repository::sight::Waiting;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{LastDeployed, StatusRow};
use crate::domain::repository::tests::{commit, now, policy, upstream};

pub(super) const CRON: ActionRequest = ActionRequest::OF_CRON;
const TARGET: fn() -> ActionTarget = || ActionTarget::Commit(commit('b'));

pub(super) fn minutes(number: i64) -> TimeDelta {
    TimeDelta::minutes(number)
}

fn window(entries: &[&str]) -> Window {
    entries.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>().try_into().unwrap()
}

/// `a` is deployed, and upstream has `b`, seen a minute ago. It is a Sunday, 09:00 UTC.
pub(super) fn seen() -> Observed {
    Observed {
        head: Some(commit('a')),
        acted: Some(commit('a')),
        acted_at: Some(now() - minutes(600)),
        upstream: upstream('b'),
        relation: Some(crate::domain::git::Relation::Behind),
        gates: GateFacts {
            zone: Some(TimeZone::UTC),
            waiting: Some(waiting(1)),
            ..GateFacts::default()
        },
        ..Observed::default()
    }
}

pub(super) fn waiting(since: i64) -> Waiting {
    Waiting {
        revision: commit('b'),
        since: now() - minutes(since),
        oldest_since: now() - minutes(since),
        urgent: None,
        succeeded_before: false,
        mends: false,
        is_of_this_boot: true,
    }
}

/// Every gate is set, and shut for a new revision.
pub(super) fn all_shut() -> (Observed, Policy) {
    let gates = GatePolicy {
        window: Some(window(&["Mon 02:00-04:00"])),
        min_age: Duration::from_secs(1800),
        rollout: Duration::from_secs(7200),
        canaries: vec!["web01".to_owned()],
        asks_before: true,
        ..GatePolicy::default()
    };
    let mut seen = seen();
    seen.holds = vec![Hold { by: "pat".into(), reason: "migration".into(), ..Hold::default() }];
    let finding = Finding::Held { reason: "not on Friday".into() };
    let (revision, head) = (commit('b'), Some(commit('a')));
    seen.verdict = Some(RecordedFinding { revision, head, finding, since: now() });
    seen.gates.position = 0.5;
    let without = vec![("web01".to_owned(), "failing at bbbbbbb".to_owned())];
    seen.gates.canaries = Some(CanaryReport { without, ..CanaryReport::default() });
    (seen, Policy { gates, ..policy() })
}

/// What is observed, and asked for, when `cause` applies.
pub(super) fn with(cause: Cause, seen: &mut Observed, policy: &mut Policy) -> ActionRequest {
    let pin = |is_checkout| Pin {
        revision: commit('b'),
        by: "pat".into(),
        since: now(),
        person: None,
        is_checkout,
    };
    let waiting = seen.gates.waiting.as_mut().unwrap();
    match cause {
        Cause::New => {}
        Cause::Revert => waiting.succeeded_before = true,
        Cause::Mend => waiting.mends = true,
        Cause::Urgent => waiting.urgent = Some("a hole".into()),
        Cause::Override => return ActionRequest { overrides: true, ..CRON },
        Cause::First => seen.gates.is_first = true,
        Cause::Retry => {
            seen.gates.begun = Some(BegunAction { revision: commit('b'), at: now() - minutes(59) });
        }
        Cause::Rerun => seen.acted = Some(commit('b')),
        Cause::Checkout => seen.pin = Some(pin(true)),
        Cause::OnACanary => seen.gates.is_canary = true,
        // Nothing repairs drift yet: the row is judged by itself.
        Cause::Drift => {}
        Cause::WayBack => seen.pin = Some(pin(false)),
        Cause::Accept => seen.accepted = Some(commit('b')),
    }
    let _ = policy;
    CRON
}

/// Whether `gate` must be open in the situation of `cause`.
fn counts(cause: Cause, gate: Gate) -> bool {
    let (mut seen, mut policy) = all_shut();
    let request = with(cause, &mut seen, &mut policy);
    if gate == Gate::Before && cause == Cause::Rerun {
        // It was asked when the revision was applied.
        seen.gates.allowed = None;
    }
    let all = verdicts(&seen, &policy, request, TARGET(), now());
    all.iter().find(|it| it.gate == gate).is_some_and(GateVerdict::is_shut)
}

/// The rows of the documentation: which gates count.
#[test]
fn each_cell_of_the_table_is_what_the_documentation_says() {
    let must = [
        (Cause::New, "holds hold window canaries min_age rollout before"),
        (Cause::Revert, "holds hold window before"),
        (Cause::Mend, "holds hold window canaries before"),
        (Cause::Urgent, "holds hold window before"),
        (Cause::Override, "holds hold before"),
        (Cause::First, "holds hold canaries before"),
        (Cause::Retry, "holds hold"),
        (Cause::Rerun, "holds"),
        (Cause::Checkout, "holds before"),
        (Cause::OnACanary, "holds hold window min_age before"),
        (Cause::Accept, "holds window canaries before"),
        (Cause::WayBack, ""),
    ];
    let gates = [
        ("holds", Gate::Holds),
        ("hold", Gate::RevisionHold),
        ("window", Gate::Window),
        ("canaries", Gate::Canaries),
        ("min_age", Gate::MinAge),
        ("rollout", Gate::Rollout),
        ("before", Gate::Before),
    ];
    for (cause, expected) in must {
        let found: Vec<&str> =
            gates.iter().filter(|(_, gate)| counts(cause, *gate)).map(|(word, _)| *word).collect();
        assert_eq!(found.join(" "), expected, "{cause:?}");
    }
}

#[test]
fn a_repair_of_drift_needs_its_window_and_no_hold() {
    let needed = |gate| Cause::Drift.needs(gate);
    assert_eq!(needed(Gate::Holds), Need::Open);
    assert_eq!(needed(Gate::Window), Need::Open);
    assert_eq!(needed(Gate::Signers), Need::AcceptedHere);
    for gate in [Gate::RevisionHold, Gate::Canaries, Gate::MinAge, Gate::Rollout, Gate::Before] {
        assert_eq!(needed(gate), Need::None, "{gate:?}");
    }
}

#[test]
fn the_signers_count_for_all_but_what_a_person_accepted_or_was_accepted_here() {
    for cause in Cause::ALL {
        let expected = match cause {
            Cause::Rerun | Cause::Checkout | Cause::Drift | Cause::WayBack => Need::AcceptedHere,
            Cause::Accept => Need::None,
            _ => Need::Open,
        };
        assert_eq!(cause.needs(Gate::Signers), expected, "{cause:?}");
    }
}

pub(super) fn shut_gate(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    at: DateTime<Utc>,
) -> Option<Gate> {
    first_shut(seen, policy, request, TARGET(), at).map(|verdict| verdict.gate)
}

#[test]
fn urgent_passes_the_window_only_where_the_window_says_so() {
    let (mut seen, mut policy) = all_shut();
    with(Cause::Urgent, &mut seen, &mut policy);
    assert_eq!(shut_gate(&seen, &policy, CRON, now()), Some(Gate::Window));
    policy.gates.window = Some(window(&["Mon 02:00-04:00", "urgent"]));
    assert_eq!(shut_gate(&seen, &policy, CRON, now()), None);
    policy.gates.ignores_urgent = true;
    assert_eq!(shut_gate(&seen, &policy, CRON, now()), Some(Gate::Window), "urgent = false");
}

#[test]
fn what_began_inside_the_window_is_tried_again_outside_for_an_hour() {
    let (mut seen, mut policy) = all_shut();
    with(Cause::Retry, &mut seen, &mut policy);
    let began = now() - minutes(59);
    assert_eq!(shut_gate(&seen, &policy, CRON, began + minutes(59)), None);
    assert_eq!(shut_gate(&seen, &policy, CRON, began + minutes(60)), Some(Gate::Window));
    let inside = "2026-11-23T03:00:00Z".parse().unwrap();
    assert_eq!(shut_gate(&seen, &policy, CRON, inside), None, "then inside it again");
}

#[test]
fn the_first_action_takes_what_a_canary_has() {
    let (mut seen, mut policy) = all_shut();
    with(Cause::First, &mut seen, &mut policy);
    assert_eq!(shut_gate(&seen, &policy, CRON, now()), Some(Gate::Canaries));
    seen.gates.canaries.as_mut().unwrap().with = vec!["web02".to_owned()];
    assert_eq!(shut_gate(&seen, &policy, CRON, now()), None);
    seen.gates.canaries.as_mut().unwrap().unreadable = Some("no answer".to_owned());
    assert_eq!(shut_gate(&seen, &policy, CRON, now()), Some(Gate::Canaries));
}

#[test]
fn a_clock_that_was_set_back_shuts_the_window_and_pauses_the_waits() {
    let (mut seen, mut policy) = all_shut();
    let inside: DateTime<Utc> = "2026-11-23T03:00:00Z".parse().unwrap();
    policy.gates.canaries.clear();
    seen.gates.newest_record = Some(inside + minutes(5));
    let all = verdicts(&seen, &policy, CRON, TARGET(), inside);
    for gate in [Gate::Window, Gate::MinAge, Gate::Rollout] {
        let verdict = all.iter().find(|it| it.gate == gate).unwrap();
        let GateAnswer::Shut { reason, until: None } = &verdict.answer else {
            panic!("{verdict:?}")
        };
        assert!(
            reason.contains("clock is behind") && reason.contains("2026-11-23T03:05:00Z"),
            "{reason}"
        );
    }
    let overridden = ActionRequest { overrides: true, ..CRON };
    assert_eq!(shut_gate(&seen, &policy, overridden, inside), None);
    seen.gates.newest_record = Some(inside);
    assert_eq!(shut_gate(&seen, &policy, CRON, inside), None, "six days later all are over");
}

pub(super) fn only(gates: GatePolicy) -> Policy {
    Policy { gates, ..policy() }
}

#[test]
fn min_age_restarts_with_each_push_and_ends_after_three_times_itself() {
    let policy = only(GatePolicy { min_age: Duration::from_secs(1800), ..GatePolicy::default() });
    let until = |newest: i64, oldest: i64| {
        let mut seen = seen();
        let waiting = Waiting { oldest_since: now() - minutes(oldest), ..waiting(newest) };
        seen.gates.waiting = Some(waiting);
        match first_shut(&seen, &policy, CRON, TARGET(), now()).map(|it| it.answer) {
            Some(GateAnswer::Shut { until, .. }) => until,
            other => {
                assert_eq!(other, None);
                None
            }
        }
    };
    assert_eq!(until(10, 10), Some(now() + minutes(20)));
    assert_eq!(until(10, 60), Some(now() + minutes(20)));
    assert_eq!(until(10, 80), Some(now() + minutes(10)), "90 minutes after the oldest");
    assert_eq!(until(10, 90), None);
    assert_eq!(until(30, 30), None);
}

#[test]
fn waits_beyond_the_calendar_end_with_it() {
    let longest = Duration::MAX;
    for gates in [
        GatePolicy { min_age: longest, ..GatePolicy::default() },
        GatePolicy { rollout: longest, ..GatePolicy::default() },
        GatePolicy { min_age: longest, rollout: longest, ..GatePolicy::default() },
    ] {
        let mut seen = seen();
        seen.gates.position = 1.0;
        let decision = decide(&seen, &only(gates), CRON, now());
        let Plan::Wait { until } = decision.plan else { panic!("{decision:?}") };
        assert!(until.to_rfc3339().starts_with("9999-"), "{until}");
    }
}

#[test]
fn the_soak_of_min_age_begins_when_the_canaries_are_satisfied() {
    let min_age = Duration::from_secs(1800);
    let canaries = vec!["web01".to_owned()];
    let policy = only(GatePolicy { min_age, canaries, ..GatePolicy::default() });
    let mut seen = seen();
    seen.gates.waiting = Some(waiting(300));
    let satisfied_since = Some(now() - minutes(10));
    let with = vec!["web01".to_owned()];
    seen.gates.canaries = Some(CanaryReport { with, satisfied_since, ..CanaryReport::default() });
    let verdict = first_shut(&seen, &policy, CRON, TARGET(), now()).unwrap();
    let expected = Some(now() + minutes(20));
    assert_eq!(verdict.gate, Gate::MinAge);
    assert!(matches!(verdict.answer, GateAnswer::Shut { until, .. } if until == expected));
}

#[test]
fn rollout_counts_only_minutes_in_which_the_window_is_open() {
    let (mut seen, mut policy) = all_shut();
    policy.gates.canaries.clear();
    policy.gates.window = Some(window(&["09:30-10:00"]));
    // First seen at 08:59, min_age over at 09:29; half of two hours are two of its days.
    let all = verdicts(&seen, &policy, CRON, TARGET(), now());
    let rollout = all.iter().find(|it| it.gate == Gate::Rollout).unwrap();
    let expected: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
    assert!(
        matches!(rollout.answer, GateAnswer::Shut { until: Some(until), .. } if until == expected)
    );
    // When all are open: the next day's window begins after that.
    seen.holds.clear();
    seen.verdict = None;
    policy.gates.asks_before = false;
    let all = verdicts(&seen, &policy, CRON, TARGET(), now());
    let open_at = all_open_at(&all, &policy.gates, &seen.gates, now());
    assert_eq!(open_at, Some("2026-11-24T09:30:00Z".parse().unwrap()));
}

#[test]
fn a_revision_that_waits_is_behind_and_an_idle_tick_does_nothing() {
    let policy = only(GatePolicy { min_age: Duration::from_secs(1800), ..GatePolicy::default() });
    let mut seen = seen();
    let decision = decide(&seen, &policy, CRON, now());
    assert_eq!(decision.plan, Plan::Wait { until: now() + minutes(29) });
    assert_eq!(decision.rule, Rule::Gate(Gate::MinAge));
    let condition = &decision.conditions[0];
    assert_eq!(condition.state, State::Behind);
    assert_eq!(condition.reason.as_deref(), Some("applied at 2026-11-22 09:29 UTC (min_age)"));
    // Not seen before, or seen before a reboot: it is recorded, once.
    for unknown in [None, Some(Waiting { is_of_this_boot: false, ..waiting(1) })] {
        seen.gates.waiting = unknown;
        assert_eq!(decide(&seen, &policy, CRON, now()).plan, Plan::Sight(Some(TARGET())));
    }
    // Upstream is back at what is deployed: the wait must not count for the next one.
    seen.gates.waiting = Some(waiting(1));
    seen.upstream = upstream('a');
    seen.relation = Some(crate::domain::git::Relation::Same);
    assert_eq!(decide(&seen, &policy, CRON, now()).plan, Plan::Sight(None));
}

#[test]
fn behind_is_a_warning_after_a_day_behind_a_canary_and_after_eight_days_of_anything() {
    use crate::domain::repository::state::Severity;
    let (mut seen, mut policy) = all_shut();
    seen.holds.clear();
    seen.verdict = None;
    policy.gates.window = None;
    let since = now() - TimeDelta::hours(25);
    let severity = |seen: &Observed, policy: &Policy, since| {
        decide(seen, policy, CRON, now()).conditions[0].severity(since, now())
    };
    assert_eq!(severity(&seen, &policy, since), Severity::Warning);
    policy.gates.canaries.clear();
    assert_eq!(severity(&seen, &policy, since), Severity::Ok);
    assert_eq!(severity(&seen, &policy, now() - TimeDelta::days(9)), Severity::Warning);
}

/// Another machine, as it publishes itself.
fn machine(name: &str, state: State, upstream: char) -> CanaryMachine {
    let mut row = StatusRow::bare("site", state, now());
    row.upstream = Some(commit(upstream));
    row.acted = Some(LastDeployed {
        revision: commit('a'),
        tag: None,
        subject: None,
        signer: None,
        at: None,
        trigger: None,
        outcome: None,
        seconds: None,
    });
    CanaryMachine { name: name.to_owned(), rows: Ok(vec![PresenceRow::of(&row)]) }
}

/// What the machines that `web01` and `db*` name have of the revision `b`.
fn report(machines: &[CanaryMachine]) -> CanaryReport {
    let patterns = ["web01".to_owned(), "db*".to_owned()];
    // `c` descends from `b`.
    let contains =
        |it: Commit, other: Commit| it == other || (it, other) == (commit('c'), commit('b'));
    let question = CanaryQuestion { patterns: &patterns, repo: "site", revision: commit('b') };
    CanaryReport::of(machines, question, &contains)
}

#[test]
fn canaries_are_satisfied_when_each_that_counts_has_the_revision() {
    let answer = |machines: &[CanaryMachine]| report(machines).answer();
    let is_open = |machines: &[CanaryMachine]| matches!(answer(machines), GateAnswer::Open(_));
    let db = |state, upstream| machine("db7", state, upstream);
    let web = machine("web01", State::Current, 'b');
    assert!(is_open(&[web.clone(), db(State::Ahead, 'c')]));
    assert!(is_open(&[web.clone(), machine("other", State::Failing, 'a')]), "no db is known");
    for left_out in [State::Held, State::Pinned, State::Inactive] {
        assert!(is_open(&[web.clone(), db(left_out, 'a')]), "{left_out}");
    }
    let silent = CanaryMachine { name: "db7".to_owned(), rows: Err("silent".to_owned()) };
    assert!(is_open(&[web.clone(), silent.clone()]));
    let without = CanaryMachine { name: "db7".to_owned(), rows: Ok(vec![]) };
    let GateAnswer::Open(reason) = answer(&[web.clone(), without]) else { panic!() };
    assert!(reason.contains("web01 has it, left out: db7 (has no site)"), "{reason}");
    for state in [State::Failing, State::Behind, State::Refused] {
        let GateAnswer::Shut { reason, .. } = answer(&[web.clone(), db(state, 'b')]) else {
            panic!()
        };
        assert_eq!(reason, format!("waits for canary db7: {state} at aaaaaaa"));
    }
    assert!(!is_open(&[web, db(State::Current, 'a')]), "an older revision");
    let GateAnswer::Shut { reason, .. } = answer(&[silent]) else { panic!() };
    assert!(reason.contains("none is left") && reason.contains("db7 (silent)"), "{reason}");
}

#[test]
fn a_canary_that_fails_later_shuts_the_gate_and_the_waits_begin_anew() {
    let (web, failing) =
        (machine("web01", State::Current, 'b'), machine("db1", State::Failing, 'b'));
    let first = report(std::slice::from_ref(&web)).after(None, now());
    assert_eq!(first.satisfied_since, Some(now()));
    let later = report(std::slice::from_ref(&web)).after(Some(&first), now() + minutes(5));
    assert_eq!(later.satisfied_since, Some(now()));
    let shut = report(&[web.clone(), failing]).after(Some(&later), now() + minutes(6));
    assert_eq!(shut.satisfied_since, None);
    let again = report(std::slice::from_ref(&web)).after(Some(&shut), now() + minutes(9));
    assert_eq!(again.satisfied_since, Some(now() + minutes(9)));
    // What cannot be read shuts the gate as well, says since when, and ends no wait.
    let unread = CanaryReport::unread("no answer", Some(&again), now() + minutes(10));
    let unread = CanaryReport::unread("no answer", Some(&unread), now() + minutes(11));
    let GateAnswer::Shut { reason, .. } = unread.answer() else { panic!() };
    assert!(reason.starts_with("the canaries cannot be read since 2026-"), "{reason}");
    assert_eq!(unread.unreadable_since, Some(now() + minutes(10)));
    assert_eq!(report(&[web]).after(Some(&unread), now()).satisfied_since, again.satisfied_since);
}

#[test]
fn only_the_refs_of_canaries_are_asked_for() {
    for (pattern, expected) in
        [("web01", "web01/"), ("canary*", "canary"), ("*", ""), ("a?b", "a"), ("x[12]", "x")]
    {
        assert_eq!(canaries::beginning(pattern), expected);
    }
    let patterns = ["web01".to_owned(), "db*".to_owned()];
    for (name, is_named) in [("web01", true), ("web011", false), ("db", true), ("odb", false)] {
        assert_eq!(canaries::names(&patterns, name), is_named, "{name}");
    }
}

#[test]
fn a_revision_that_was_applied_here_needs_no_gate_again() {
    let (mut seen, policy) = all_shut();
    seen.holds.clear();
    let revision = commit('b');
    seen.last_success = Some(FinishedRun {
        id: "1".into(),
        at: now(),
        revision,
        subject: String::new(),
        reference: None,
        previous: None,
        trigger: Trigger::Cron,
        outcome: Outcome::Succeeded,
        attempt: 1,
        seconds: 0.1,
        log: None,
        tag: None,
        tree: None,
        signer: None,
        count: 1,
        first: None,
    });
    (seen.acted, seen.head, seen.verdict) = (None, Some(revision), None);
    seen.relation = Some(crate::domain::git::Relation::Same);
    let Plan::Run(act) = decide(&seen, &policy, CRON, now()).plan else { panic!() };
    assert!(!act.asks_before);
}
