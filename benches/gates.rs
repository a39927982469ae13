//! What the gates of waiting repositories cost in an idle tick: the decisions about 1,000 repositories whose gates are
//! shut, and those about the same without gates, in turns. Prints milliseconds of CPU, medians of the rounds.
//!
//! `cargo bench --bench gates [-- ROUNDS [REPOSITORIES]]`

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jiff::tz::TimeZone;
use pmpy::domain::git::{Commit, Relation};
use pmpy::domain::repository::decision::{Plan, decide};
use pmpy::domain::repository::drift::DriftPolicy;
use pmpy::domain::repository::gate::{GateFacts, GatePolicy};
use pmpy::domain::repository::observed::{
    Observed, OnRewrite, Policy, RerunPolicy, UpdateMethod, UpstreamTip,
};
use pmpy::domain::repository::request::ActionRequest;
use pmpy::domain::repository::sight::Waiting;
use rustix::time::{ClockId, clock_gettime};

#[path = "figures/mod.rs"]
#[allow(dead_code, reason = "no process is measured here")]
mod figures;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let rounds = numbers.next().unwrap_or(101);
    let count = numbers.next().unwrap_or(1_000);
    let now: DateTime<Utc> = "2026-11-22T09:00:00Z".parse().unwrap();
    let hours = |entries: &[&str]| {
        let entries: Vec<String> = entries.iter().map(|it| (*it).to_owned()).collect();
        Some(entries.try_into().unwrap())
    };
    let (min_age, rollout) = (Duration::from_secs(1800), Duration::from_secs(7200));
    let shut = hours(&["Mon-Fri 02:00-04:00", "!2026-12-20..2027-01-06"]);
    let open = hours(&["Sun", "Mon-Fri 02:00-04:00"]);
    let plain = GatePolicy::default();
    for (name, gates) in [
        ("window", GatePolicy { window: shut.clone(), ..plain.clone() }),
        ("min_age", GatePolicy { min_age, ..plain.clone() }),
        ("rollout", GatePolicy { rollout, ..plain.clone() }),
        (
            "window, min_age, rollout",
            GatePolicy { window: shut, min_age, rollout, ..plain.clone() },
        ),
        ("rollout in open hours", GatePolicy { window: open, rollout, ..plain.clone() }),
    ] {
        let waits = repositories(count, now);
        let mut none = waits.clone();
        none.iter_mut().for_each(|seen| seen.upstream = tip('a'));
        let (with, without) = (policy(gates), policy(plain.clone()));
        let (mut gated, mut ungated) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            gated.push(decided(&waits, &with, now, |plan| matches!(plan, Plan::Wait { .. })));
            ungated.push(decided(&none, &without, now, |plan| !matches!(plan, Plan::Run(_))));
        }
        let (gated, ungated) = (figures::median(gated), figures::median(ungated));
        println!(
            "{count} that wait for {name}: {gated:.2} ms; {count} idle without gates: {ungated:.2} ms"
        );
    }
}

/// The milliseconds of CPU that all decisions take; each must be as `is_right` says.
fn decided(
    all: &[Observed],
    policy: &Policy,
    now: DateTime<Utc>,
    is_right: fn(&Plan) -> bool,
) -> f64 {
    let start = processor();
    let right =
        all.iter().filter(|seen| is_right(&decide(seen, policy, ActionRequest::OF_CRON, now).plan));
    assert_eq!(right.count(), all.len());
    processor() - start
}

/// The milliseconds that this thread has worked.
fn processor() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn policy(gates: GatePolicy) -> Policy {
    Policy {
        active: true,
        update: UpdateMethod::default(),
        rewritten: OnRewrite::default(),
        when: RerunPolicy::default(),
        gates,
        drift: DriftPolicy::default(),
    }
}

fn commit(digit: char) -> Commit {
    digit.to_string().repeat(40).parse().unwrap()
}

fn tip(digit: char) -> UpstreamTip {
    UpstreamTip::Tip { commit: commit(digit), fetched: true }
}

/// Repositories at `a` whose upstream has had `b` for some minutes, each at another position.
fn repositories(count: usize, now: DateTime<Utc>) -> Vec<Observed> {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let one = |number: usize| {
        let since = now - TimeDelta::seconds(number as i64 % 300);
        let waiting = Waiting {
            revision: commit('b'),
            since,
            oldest_since: since,
            urgent: None,
            succeeded_before: false,
            mends: false,
            is_of_this_boot: true,
        };
        let gates = GateFacts {
            zone: Some(zone.clone()),
            waiting: Some(waiting),
            position: 0.2 + 0.7 * number as f64 / count as f64,
            ..GateFacts::default()
        };
        Observed {
            head: Some(commit('a')),
            acted: Some(commit('a')),
            upstream: tip('b'),
            relation: Some(Relation::Behind),
            gates,
            ..Observed::default()
        }
    };
    (0..count).map(one).collect()
}
