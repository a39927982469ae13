//! A simulated fleet of 1,000 machines that decide each minute: what the waits promise, and the pictures of it in the
//! documentation.

use std::time::Duration;

use proptest::prelude::*;

use crate::domain::git::Relation;
use crate::domain::repository::decision::{Plan, decide};
use crate::domain::repository::gate::{Gate, GatePolicy};
use crate::domain::repository::gates::Cause;
use crate::domain::repository::gates::tests::{
    CRON, all_shut, minutes, only, seen, shut_gate, waiting, with,
};
use crate::domain::repository::observed::Policy;
use crate::domain::repository::sight::Waiting;
use crate::domain::repository::tests::{commit, now, upstream};

const MACHINES: usize = 1000;
/// Of a long time, each so many machines.
const STEP: usize = 25;

/// One push: minute, revision, and whether its tree succeeded everywhere before.
type Push = (i64, char, bool);

/// The minutes at which the machine at `position` applies each revision.
fn applied(policy: &Policy, position: f64, pushes: &[Push], until: i64) -> Vec<(i64, char)> {
    let mut seen = seen();
    (seen.gates.position, seen.gates.waiting) = (position, None);
    let mut all = Vec::new();
    for minute in 0..until {
        let Some(&(_, tip, is_revert)) = pushes.iter().rfind(|(at, ..)| *at <= minute) else {
            continue;
        };
        let at = now() + minutes(minute);
        seen.upstream = upstream(tip);
        let relation =
            if seen.head == Some(commit(tip)) { Relation::Same } else { Relation::Behind };
        seen.relation = Some(relation);
        for _ in 0..2 {
            match decide(&seen, policy, CRON, at).plan {
                Plan::Sight(Some(target)) => {
                    let before = seen.gates.waiting.take().map(|it: Waiting| it.oldest_since);
                    seen.gates.waiting = Some(Waiting {
                        revision: target.upstream(),
                        since: at,
                        oldest_since: before.unwrap_or(at),
                        succeeded_before: is_revert,
                        ..waiting(0)
                    });
                }
                Plan::Run(_) => {
                    (seen.head, seen.acted) = (Some(commit(tip)), Some(commit(tip)));
                    seen.gates.waiting = None;
                    all.push((minute, tip));
                    break;
                }
                _ => break,
            }
        }
    }
    all
}

fn fleet(policy: &Policy, pushes: &[Push], until: i64, step: usize) -> Vec<Vec<(i64, char)>> {
    let position = |number: usize| (number as f64 + 0.5) / MACHINES as f64;
    (0..MACHINES)
        .step_by(step)
        .map(|number| applied(policy, position(number), pushes, until))
        .collect()
}

fn rollout(minutes: u64) -> Policy {
    let rollout = Duration::from_secs(minutes * 60);
    only(GatePolicy { rollout, ..GatePolicy::default() })
}

#[test]
fn a_bad_push_reverted_after_20_minutes_of_2_hours_reaches_a_sixth_and_the_revert_never_waits() {
    let machines = fleet(&rollout(120), &[(0, 'b', false), (20, 'c', true)], 125, 1);
    let ran = machines.iter().filter(|all| all.iter().any(|(_, tip)| *tip == 'b')).count();
    assert!((150..=180).contains(&ran), "{ran} of {MACHINES}");
    assert!(machines.iter().all(|all| all.last() == Some(&(20, 'c'))));
}

#[test]
fn a_steady_stream_of_pushes_starves_no_machine() {
    let pushes: Vec<Push> =
        (0..30).map(|n| (n * 20, char::from(b'b' + (n % 5) as u8), false)).collect();
    for policy in [
        rollout(120),
        only(GatePolicy {
            rollout: Duration::from_secs(7200),
            min_age: Duration::from_secs(1800),
            ..GatePolicy::default()
        }),
    ] {
        let longest = 120 + 120 + 90;
        for (number, all) in fleet(&policy, &pushes, 600, STEP).iter().enumerate() {
            let times: Vec<i64> = std::iter::once(0).chain(all.iter().map(|(at, _)| *at)).collect();
            let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(
                gaps.max().is_some_and(|gap| gap <= longest + 20),
                "machine {number}: {times:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No machine waits longer than `rollout` past its own part, in all, and none acts before its part.
    #[test]
    fn no_wait_is_longer_than_rollout_past_the_own_part(
        position in 0.0f64..1.0,
        pushes in prop::collection::vec(0i64..300, 1..8),
    ) {
        let mut pushes = pushes;
        pushes.push(0);
        pushes.sort_unstable();
        pushes.dedup();
        let pushes: Vec<Push> = pushes
            .into_iter()
            .enumerate()
            .map(|(n, at)| (at, char::from(b'b' + (n % 5) as u8), false))
            .collect();
        let applied = applied(&rollout(60), position, &pushes, 130);
        let part = (60.0 * position).ceil() as i64;
        let first = applied.first().map(|(at, _)| *at);
        prop_assert!(first.is_some_and(|at| at <= part + 61 && at >= part - 1), "{first:?}, {part}");
    }

    /// By its gates alone, a revert waits for its window and for nothing else.
    #[test]
    fn a_revert_waits_for_its_window_alone(age in 0i64..500, position in 0.0f64..1.0) {
        let (mut seen, mut policy) = all_shut();
        with(Cause::Revert, &mut seen, &mut policy);
        let waiting = seen.gates.waiting.as_mut().unwrap();
        waiting.since = now() - minutes(age);
        seen.gates.position = position;
        prop_assert_eq!(shut_gate(&seen, &policy, CRON, now()), Some(Gate::Window));
        policy.gates.window = None;
        prop_assert_eq!(shut_gate(&seen, &policy, CRON, now()), None);
    }
}

/// A picture of when each machine of a fleet applies which push: time to the right, positions from bottom to top.
fn picture(title: &str, policy: &Policy, pushes: &[Push], until: i64) -> String {
    use std::fmt::Write as _;
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 200.0;
    let x = |minute: i64| 40.0 + WIDTH * minute as f64 / until as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 250\" role=\"img\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<desc>Time to the right, machines by their position from bottom to top, a \
         colour for each revision; triangles are pushes.</desc>\n<style>rect{{fill:#fff}}text,.push{{fill:#222}}\
         .grid{{stroke:#ddd}}@media (prefers-color-scheme: dark){{rect{{fill:#0d1117}}text,.push{{fill:#ddd}}\
         .grid{{stroke:#333}}}}</style>\n<rect width=\"720\" height=\"250\"/>\n"
    );
    for minute in (0..=until).step_by(30) {
        let at = x(minute).round();
        writeln!(svg, "<path d=\"M{at} 10V210\" class=\"grid\"/>").unwrap();
        writeln!(svg, "<text x=\"{at}\" y=\"228\" text-anchor=\"middle\">{minute} min</text>")
            .unwrap();
    }
    for (label, y) in [("1", 14.0), ("0", 214.0)] {
        writeln!(svg, "<text x=\"30\" y=\"{y}\" text-anchor=\"end\">{label}</text>").unwrap();
    }
    for machine in 0..40 {
        let position = (f64::from(machine) + 0.5) / 40.0;
        let y = 210.0 - HEIGHT * position;
        let mut starts = applied(policy, position, pushes, until);
        starts.push((until, ' '));
        for pair in starts.windows(2) {
            let [(from, tip), (to, _)] = pair else { continue };
            let colour = ["#2266aa", "#cc7722", "#44883a", "#884499", "#aa3344"]
                [(*tip as usize - 'b' as usize) % 5];
            writeln!(
                svg,
                "<path d=\"M{:.1} {y}H{:.1}\" stroke=\"{colour}\" stroke-width=\"4\"/>",
                x(*from),
                x(*to)
            )
            .unwrap();
        }
    }
    for (at, ..) in pushes.iter().filter(|(at, ..)| *at < until) {
        writeln!(
            svg,
            "<path d=\"M{0} 244l-4 8h8z\" transform=\"translate(0,-8)\" class=\"push\"/>",
            x(*at)
        )
        .unwrap();
    }
    svg + "</svg>\n"
}

#[test]
fn the_pictures_of_the_documentation_are_what_the_gates_do() {
    let push = |at, tip| (at, tip, false);
    let many: Vec<Push> = (0..8).map(|n| push(n * 30, char::from(b'b' + (n % 5) as u8))).collect();
    let mut wrong = Vec::new();
    for (drawn, kept) in [
        (
            picture("One push, over two hours", &rollout(120), &[push(0, 'b')], 150),
            include_str!("../../../../../docs/rollout-one-push.svg"),
        ),
        (
            picture(
                "A bad push, reverted after 20 minutes",
                &rollout(120),
                &[push(0, 'b'), (20, 'd', true)],
                150,
            ),
            include_str!("../../../../../docs/rollout-bad-push.svg"),
        ),
        (
            picture("A push each half hour", &rollout(120), &many, 240),
            include_str!("../../../../../docs/rollout-many-pushes.svg"),
        ),
    ] {
        wrong.extend((drawn != kept).then_some(drawn));
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
