//! What a machine counts as, which machines a filter selects, and when waiting is over.

use std::collections::BTreeSet;

use super::wait::{Absence, WaitGoal, WaitOutcome, outcome};
use super::*;
use crate::domain::report::presence::{ContestedPresence, PresenceDeployed, PresenceId};

const OLD: &str = "5f71ff2000000000000000000000000000000000";
const NEW: &str = "6b2c3d7000000000000000000000000000000000";

fn now() -> DateTime<Utc> {
    "2026-11-30T14:32:10Z".parse().unwrap()
}

fn commit(text: &str) -> Commit {
    text.parse().unwrap()
}

fn row(repo: &str, state: State, revision: &str, since: Duration) -> PresenceRow {
    let acted = PresenceDeployed {
        revision: commit(revision),
        tag: None,
        subject: Some("Release".into()),
        signer: None,
        at: Some(now() - since),
    };
    PresenceRow {
        name: repo.into(),
        state: PresenceState::Known(state),
        reason: None,
        conditions: vec![],
        since: Some(now() - since),
        branch: Some("main".into()),
        tag: None,
        upstream: Some(commit(NEW)),
        acted: Some(acted),
        gate: None,
        bad: None,
        mirror_lags: false,
        drifted: 0,
        holds: vec![],
        published: vec![],
    }
}

/// A machine that published just now and that the reader has seen just now.
fn member(host: &str, rows: Vec<PresenceRow>) -> Member {
    let presence = Presence {
        presence: 1,
        host: host.into(),
        user: None,
        world: None,
        id: PresenceId::of(host, 0, b"/root/gitrepo"),
        seq: 1,
        at: now(),
        every: 4 * 3600,
        agent: "0.2.0".into(),
        part: None,
        stack: None,
        contested: None,
        left_out: 0,
        repositories: rows,
    };
    let said = Said::Presence(Box::new(presence));
    let sighting = Sighting { id: commit(NEW), first_seen: now(), moved: None, said };
    Member { name: PresenceRef::of_machine(host).unwrap(), sighting }
}

fn with(mut member: Member, edit: impl FnOnce(&mut Presence)) -> Member {
    if let Said::Presence(presence) = &mut member.sighting.said {
        edit(presence);
    }
    member
}

fn current(host: &str) -> Member {
    member(host, vec![row("ops", State::Current, NEW, Duration::hours(1))])
}

fn judged(members: Vec<Member>) -> Fleet {
    Fleet::judged(members, &FleetFilter::default(), now())
}

fn verdict(member: Member) -> &'static str {
    judged(vec![member]).machines[0].verdict.as_str()
}

#[test]
fn a_machine_counts_as_the_state_that_needs_a_person_most() {
    let hour = Duration::hours(1);
    let rows = vec![
        row("a", State::Current, NEW, hour),
        row("b", State::Behind, OLD, hour),
        row("c", State::Failing, OLD, hour),
    ];
    assert_eq!(verdict(member("web01", rows.clone())), "failing");
    assert_eq!(verdict(member("web01", rows[..2].to_vec())), "behind");
    assert_eq!(verdict(member("web01", rows[..1].to_vec())), "current");
    assert_eq!(verdict(member("web01", vec![])), "empty");
}

#[test]
fn the_worst_machines_come_first_and_only_they_need_attention() {
    let failing = member("web03", vec![row("ops", State::Failing, OLD, Duration::hours(1))]);
    let fleet = judged(vec![current("web01"), current("web02"), failing]);
    let names: Vec<_> = fleet.machines.iter().map(|it| it.member.name.short()).collect();
    assert_eq!(names, ["web03", "web01", "web02"]);
    assert!(fleet.needs_attention());
    assert!(!judged(vec![current("web01")]).needs_attention());
}

#[test]
fn a_machine_is_silent_after_twice_the_time_that_it_promised() {
    let four = Duration::hours(4);
    let seen = |moved: Option<Duration>, first: Duration, at: Duration| {
        let mut member = with(current("web01"), |it| it.at = now() - at);
        member.sighting.first_seen = now() - first;
        member.sighting.moved = moved.map(|moved| now() - moved);
        member.silence(now())
    };
    let minute = Duration::minutes(1);
    let clock = |silence: Option<Silence>| silence.map(|it| it.clock);
    // The reader saw it move.
    assert_eq!(seen(Some(four * 2), four * 9, four * 2), None);
    let silence = seen(Some(four * 2 + minute), four * 9, minute).unwrap();
    assert_eq!((silence.clock, silence.since), (SignClock::Reader, now() - four * 2 - minute));
    // It did not move for as long as the reader knows it.
    assert_eq!(clock(seen(None, four * 2 + minute, minute)), Some(SignClock::Reader));
    // The reader sees it for the first time: only the machine's own clock tells.
    assert_eq!(clock(seen(None, minute, four * 2 + minute)), Some(SignClock::Machine));
    assert_eq!(clock(seen(None, minute, four)), None);
    // A clock that is ahead makes nothing silent, and the reader's does.
    assert_eq!(clock(seen(None, minute, -four)), None);
    assert_eq!(clock(seen(Some(minute), four * 9, four * 9)), None, "its clock is behind");
}

#[test]
fn a_machine_that_promised_nothing_is_never_silent() {
    for every in [0, u64::MAX] {
        let old = with(current("web01"), |it| {
            it.every = every;
            it.at = now() - Duration::days(400);
        });
        assert_eq!(verdict(old), "current", "{every}");
    }
}

#[test]
fn what_is_silent_for_two_weeks_no_longer_needs_attention() {
    let silent =
        |days: i64| judged(vec![with(current("old01"), |it| it.at = now() - Duration::days(days))]);
    assert!(silent(13).needs_attention());
    assert!(!silent(15).needs_attention());
    assert_eq!(silent(15).machines[0].verdict, Verdict::Silent);
}

#[test]
fn a_contested_or_unreadable_machine_needs_attention_and_a_newer_state_is_no_fault() {
    let other = PresenceId::of("other", 0, b"/root/gitrepo");
    let contested = with(current("web01"), |it| {
        it.contested = Some(ContestedPresence { other, since: now() });
    });
    let mut unreadable = current("web02");
    unreadable.sighting.said = Said::Unreadable("no JSON".into());
    let newer = with(current("web03"), |it| {
        it.repositories[0].state = PresenceState::Other("dreaming".into());
    });
    let fleet = judged(vec![newer, unreadable, contested]);
    let found: Vec<_> = fleet
        .machines
        .iter()
        .map(|it| (it.member.name.host(), it.verdict.as_str(), it.needs_attention()))
        .collect();
    assert_eq!(
        found,
        [("web01", "contested", true), ("web02", "unreadable", true), ("web03", "unknown", false)]
    );
}

#[test]
fn a_filter_selects_machines_repositories_and_verdicts() {
    let failing = member(
        "db01",
        vec![
            row("db", State::Failing, OLD, Duration::hours(1)),
            row("ops", State::Current, NEW, Duration::hours(1)),
        ],
    );
    let members = vec![current("web01"), current("web02"), failing];
    let names = |filter: &FleetFilter| {
        let fleet = Fleet::judged(members.clone(), filter, now());
        let names = fleet
            .machines
            .iter()
            .map(|it| format!("{} {}", it.member.name.short(), it.verdict.as_str()));
        names.collect::<Vec<_>>().join(", ")
    };
    let pattern = |text: &str| vec![NamePattern::parse(text).unwrap()];
    let none = FleetFilter::default;
    let hosts = FleetFilter { hosts: pattern("web*"), ..none() };
    assert_eq!(names(&hosts), "web01 current, web02 current");
    let repos = FleetFilter { repos: pattern("ops"), ..none() };
    assert_eq!(names(&repos), "db01 current, web01 current, web02 current");
    let repos = FleetFilter { repos: pattern("d?"), ..none() };
    assert_eq!(names(&repos), "db01 failing");
    let verdicts =
        FleetFilter { verdicts: BTreeSet::from([Verdict::In(State::Failing)]), ..none() };
    assert_eq!(names(&verdicts), "db01 failing");
    let idle = FleetFilter { hosts: pattern("mail*"), repos: pattern("shop"), ..none() };
    assert_eq!(idle.idle(&members), ["mail*", "shop"]);
    assert!(hosts.idle(&members).is_empty());
}

#[test]
fn the_matrix_has_the_machines_of_each_revision_and_state() {
    let old = member("web03", vec![row("ops", State::Behind, OLD, Duration::hours(1))]);
    let fleet = judged(vec![old, current("web01"), current("web02")]);
    let matrix = fleet.matrix();
    let cells: Vec<_> = matrix["ops"]
        .iter()
        .map(|cell| (cell.revision.map(|it| it.short()), cell.state.as_str(), cell.machines.len()))
        .collect();
    assert_eq!(
        cells,
        [(Some("6b2c3d7".into()), "current", 2), (Some("5f71ff2".into()), "behind", 1)]
    );
    assert_eq!(fleet.wanted().len(), 1);
    assert_eq!(fleet.wanted()[&("ops", Some("main"))].revision, commit(NEW));
    assert_eq!(fleet.subject("ops", commit(NEW)), Some("Release"));
}

#[test]
fn each_branch_that_is_followed_has_its_revision() {
    let mut production = row("ops", State::Current, OLD, Duration::hours(1));
    production.branch = Some("production".into());
    production.upstream = Some(commit(OLD));
    let fleet = judged(vec![current("canary"), member("web01", vec![production])]);
    let wanted: Vec<_> = fleet.wanted().into_iter().map(|(key, it)| (key, it.revision)).collect();
    let both = [("main", NEW), ("production", OLD)];
    assert_eq!(wanted, both.map(|(branch, id)| (("ops", Some(branch)), commit(id))));
}

fn goal() -> WaitGoal {
    WaitGoal {
        repo: "ops".into(),
        revision: commit(NEW),
        stable: Duration::minutes(30),
        ignored: BTreeSet::new(),
    }
}

fn waited(members: Vec<Member>, goal: &WaitGoal) -> WaitOutcome {
    outcome(&judged(members), goal, &|other| other == commit(NEW))
}

fn over(members: Vec<Member>) -> String {
    match waited(members, &goal()) {
        WaitOutcome::Over(why) => why.join("\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn waiting_ends_when_all_ran_the_revision_for_long_enough() {
    let young = member("web02", vec![row("ops", State::Current, NEW, Duration::minutes(10))]);
    assert_eq!(waited(vec![current("web01")], &goal()), WaitOutcome::Reached(1, vec![]));
    let WaitOutcome::Pending { done: 1, waiting } =
        waited(vec![current("web01"), young.clone()], &goal())
    else {
        panic!("it has to go on")
    };
    assert_eq!(waiting, [("web02".to_owned(), "there, 20 min to go".to_owned())]);
    // What passed since the reader saw the publication counts as well, whatever the machine's clock says.
    let mut older = with(young, |it| {
        it.at += Duration::days(9);
        it.repositories[0].since = Some(it.at - Duration::minutes(10));
        it.repositories[0].acted.as_mut().unwrap().at = None;
    });
    older.sighting.first_seen = now() - Duration::minutes(20);
    assert_eq!(waited(vec![older], &goal()), WaitOutcome::Reached(1, vec![]));
}

#[test]
fn waiting_ends_at_the_first_machine_that_fails_at_the_revision() {
    let hour = Duration::hours(1);
    for state in [State::Failing, State::Refused, State::RolledBack] {
        let failing = member("web02", vec![row("ops", state, OLD, hour)]);
        let why = over(vec![current("web01"), failing]);
        assert!(why.starts_with("web02: ") && why.contains(state.as_str()), "{why}");
    }
    // A failure at an older revision is what the new one may mend.
    let not_yet = with(member("web02", vec![row("ops", State::Failing, OLD, hour)]), |it| {
        it.repositories[0].upstream = Some(commit(OLD));
    });
    assert!(matches!(waited(vec![not_yet], &goal()), WaitOutcome::Pending { .. }));
}

#[test]
fn held_and_silent_machines_end_it_unless_they_are_left_out() {
    let held = member("web02", vec![row("ops", State::Held, OLD, Duration::hours(1))]);
    let silent = with(current("web03"), |it| it.at = now() - Duration::days(2));
    let why = over(vec![current("web01"), held.clone(), silent.clone()]);
    assert!(why.contains("web02: held") && why.contains("web03: silent since 2026-11-28"), "{why}");
    assert!(why.contains("--ignore held") && why.contains("--ignore silent"), "{why}");
    let patient = WaitGoal { ignored: Absence::ALL.into(), ..goal() };
    let members = vec![current("web01"), held.clone(), silent.clone()];
    let left_out = vec!["web03".to_owned(), "web02".to_owned()];
    assert_eq!(waited(members, &patient), WaitOutcome::Reached(1, left_out));
    // One machine has to remain.
    assert!(matches!(waited(vec![held, silent], &patient), WaitOutcome::Over(_)));
    assert!(matches!(waited(vec![], &patient), WaitOutcome::Over(_)));
}
