//! Tests of when a revision is bad.

use super::*;

fn at(minutes: i64) -> DateTime<Utc> {
    let start: DateTime<Utc> = "2026-11-22T09:00:00Z".parse().unwrap();
    start + TimeDelta::minutes(minutes)
}

/// Why the revision is bad after the last of `runs`: outcomes, their seconds, and the minute at which they ended.
fn cause(runs: &[(Outcome, f64, i64)]) -> Option<BadCause> {
    let mut tally = FailureTally::default();
    let mut cause = None;
    for (outcome, seconds, minute) in runs {
        assert_eq!(cause, None, "it was bad before");
        tally = tally.with(outcome, *seconds, at(*minute));
        cause = tally.cause(outcome, at(*minute));
    }
    cause
}

const FAILED: Outcome = Outcome::Failed { code: 3 };

#[test]
fn a_health_check_that_did_not_pass_in_time_is_bad_at_once() {
    assert_eq!(cause(&[(Outcome::Unhealthy, 300.0, 5)]), Some(BadCause::Health));
}

#[test]
fn scripts_that_failed_three_times_over_at_least_ten_minutes_are_bad() {
    let killed = Outcome::Killed { signal: 9 };
    let failures =
        |last| cause(&[(FAILED, 1.0, 0), (killed.clone(), 1.0, 2), (Outcome::TimedOut, 1.0, last)]);
    assert_eq!(failures(10), Some(BadCause::Scripts));
    assert_eq!(failures(9), None);
    assert_eq!(cause(&[(FAILED, 1.0, 0), (FAILED, 1.0, 60)]), None);
    // A mirror that is away for two minutes.
    assert_eq!(cause(&[(FAILED, 1.0, 0), (FAILED, 1.0, 1), (FAILED, 1.0, 2)]), None);
}

#[test]
fn exit_75_never_counts() {
    let deferred: Vec<_> = (0..60).map(|minute| (Outcome::Deferred, 1.0, minute)).collect();
    assert_eq!(cause(&deferred), None);
    let mixed = [(FAILED, 1.0, 0), (Outcome::Deferred, 1.0, 5), (FAILED, 1.0, 11)];
    assert_eq!(cause(&mixed), None);
    assert_eq!(cause(&[&mixed[..], &[(FAILED, 1.0, 12)]].concat()), Some(BadCause::Scripts));
}

#[test]
fn three_runs_in_a_row_cut_off_within_ten_minutes_of_their_start_are_bad_within_an_hour_and_over_a_day()
 {
    let cut = |seconds, minute| (Outcome::Interrupted, seconds, minute);
    for pause in [20, 12 * 60] {
        let runs = [cut(1.0, 0), cut(600.0, pause), cut(599.0, 2 * pause)];
        assert_eq!(cause(&runs), Some(BadCause::CutOff), "{pause}");
        let later = [cut(1.0, 0), cut(601.0, pause), cut(1.0, 2 * pause)];
        assert_eq!(cause(&later), None, "{pause}: one was cut off later");
    }
    assert_eq!(cause(&[cut(1.0, 0), cut(1.0, 1), (FAILED, 1.0, 2), cut(1.0, 3)]), None);
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_bad_and_one_failure_is_never_enough() {
    let failures = [(FAILED, 1.0, 90), (FAILED, 1.0, 0), (FAILED, 1.0, 5)];
    assert_eq!(cause(&failures), None);
    assert_eq!(cause(&[(FAILED, 1.0, 0)]), None);
    assert_eq!(cause(&[(Outcome::Unchecked, 1.0, 0)]), None);
}
