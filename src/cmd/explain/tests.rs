//! Tests of `explain`.

use chrono::Duration;

use super::*;
use crate::domain::git::Commit;
use crate::domain::repository::action::{Attempt, Outcome, Trigger};
use crate::domain::repository::decision::decide;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::hold::Hold;
use crate::domain::repository::observed::{OnRewrite, UpdateMethod};
use crate::domain::repository::observed::{RecordedFinding, RunningAction};
use crate::domain::repository::request::ActionRequest;

fn now() -> DateTime<Utc> {
    "2026-11-22T09:00:00Z".parse().unwrap()
}

fn commit(digit: &str) -> Commit {
    digit.repeat(40).parse().unwrap()
}

fn policy() -> Policy {
    Policy {
        active: true,
        update: UpdateMethod::FastForward,
        rewritten: OnRewrite::Refuse,
        when: RerunPolicy::Changed,
        gates: Default::default(),
        drift: Default::default(),
    }
}

fn current() -> Observed {
    Observed {
        head: Some(commit("a")),
        branch: Some("main".parse().unwrap()),
        upstream: UpstreamTip::Tip { commit: commit("a"), fetched: true },
        relation: Some(Relation::Same),
        acted: Some(commit("a")),
        acted_at: Some(now() - Duration::minutes(7)),
        ..Observed::default()
    }
}

fn pushed() -> Observed {
    Observed {
        upstream: UpstreamTip::Tip { commit: commit("b"), fetched: true },
        relation: Some(Relation::Behind),
        ..current()
    }
}

fn row(seen: &Observed, policy: &Policy) -> StatusRow {
    let all = decide(seen, policy, ActionRequest::OF_CRON, now()).conditions;
    let since = all[0].since.unwrap_or(now() - Duration::minutes(7));
    StatusRow {
        reason: all[0].reason.clone(),
        conditions: all.iter().map(|condition| condition.state).collect(),
        head: seen.head,
        attempt: all[0].attempt,
        next_try: all[0].next_try,
        ..StatusRow::bare("spog", all[0].state, since)
    }
}

fn explained(seen: &Observed, policy: &Policy) -> String {
    let request = ActionRequest { trigger: Trigger::Cron, named: false, overrides: false };
    let decision = decide(seen, policy, request, now());
    let explanation =
        Explanation { seen: seen.clone(), policy: policy.clone(), decision, containment: None };
    text(&row(seen, policy), &explanation, None, now())
}

/// Asserts that `text` contains each of `parts`, in this order.
fn says(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("\"{part}\" is missing, or out of order, in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_current_repository_has_nothing_to_do() {
    says(
        &explained(&current(), &policy()),
        &[
            "spog is current since 7 min ago, ",
            "What was seen\n  HEAD is at aaaaaaa.",
            "Upstream's branch main is at aaaaaaa, which is fetched.",
            "HEAD and upstream are the same commit.",
            "The last applied revision is aaaaaaa, 7 min ago, ",
            "Which rule applies\n  The revision that should be here is here",
            "What happens next\n  Each tick polls upstream",
        ],
    );
}

#[test]
fn a_new_revision_is_fetched_then_applied() {
    let unfetched = Observed {
        upstream: UpstreamTip::Tip { commit: commit("b"), fetched: false },
        relation: None,
        ..current()
    };
    says(&explained(&unfetched, &policy()), &["The next tick fetches bbbbbbb"]);
    says(
        &explained(&pushed(), &policy()),
        &[
            "spog is behind",
            "other than the last applied one",
            "moves HEAD from aaaaaaa to bbbbbbb",
        ],
    );
}

#[test]
fn a_failure_says_when_it_is_tried_again_and_how_to_hurry() {
    let outcome = Outcome::Failed { code: 1 };
    let attempt = Attempt::after(outcome, commit("b"), 3, None, "web01", now());
    let seen = Observed { attempt: Some(attempt), ..pushed() };
    says(
        &explained(&seen, &policy()),
        &[
            "spog is failing",
            "bbbbbbb exited 1, attempt 3, next try in",
            "Attempt 3 at bbbbbbb exited 1.",
            "after 1, 2, 4 … minutes",
            "The next try is due in",
            "agent tick spog",
        ],
    );
}

#[test]
fn a_hold_says_who_why_and_how_to_lift_it() {
    let hold = Hold {
        by: "alice".into(),
        reason: "db \u{1b} migration".into(),
        since: now() - Duration::hours(2),
        number: 1,
        ..Hold::default()
    };
    let mut seen = Observed { holds: vec![hold], ..pushed() };
    says(
        &explained(&seen, &policy()),
        &[
            "spog is held since 2 h ago",
            "Hold 1: by alice: db \\u{1b} migration, since 2 h ago",
            "A hold stops everything",
            "until the hold is lifted",
            "agent unhold spog",
        ],
    );
    seen.holds[0].until = Some(now() + Duration::hours(1));
    says(&explained(&seen, &policy()), &["The hold ends in 1 h"]);
}

#[test]
fn every_way_to_be_stopped_has_its_rule() {
    let lost = Observed { lost: Some(commit("c")), ..pushed() };
    let accept = format!("agent accept spog {}", commit("b"));
    says(
        &explained(&lost, &policy()),
        &["Upstream once had ccccccc", "rewritten = \"refuse\"", &accept],
    );
    let diverged = Observed { relation: Some(Relation::Diverged), ..pushed() };
    says(&explained(&diverged, &policy()), &["update = \"fast-forward\"", "pushed or dropped"]);
    let broken =
        Observed { broken: Some("it is bare\nhint: clone it anew".into()), ..Observed::default() };
    says(
        &explained(&broken, &policy()),
        &[
            "spog is broken",
            ": it is bare.\n  hint: clone it anew\n",
            "until the problem above is fixed",
        ],
    );
    let refused = Observed {
        verdict: Some(RecordedFinding {
            revision: commit("b"),
            head: Some(commit("a")),
            finding: Finding::Refused { reason: "a top-level .temp".into() },
            since: now(),
        }),
        ..pushed()
    };
    says(&explained(&refused, &policy()), &["a top-level .temp", "breaks the rules", "pushed"]);
}

#[test]
fn what_waits_for_a_person_or_a_script_says_that_each_tick_looks_again() {
    let dirty = Observed {
        verdict: Some(RecordedFinding {
            revision: commit("b"),
            head: Some(commit("a")),
            finding: Finding::Dirty { paths: vec!["page".into()] },
            since: now(),
        }),
        ..pushed()
    };
    says(
        &explained(&dirty, &policy()),
        &["spog is dirty", "page", "never written over", "out of the way", "git -C"],
    );
    let attempt = Attempt::after(Outcome::Deferred, commit("b"), 1, None, "web01", now());
    let waiting = Observed { attempt: Some(attempt), ..pushed() };
    says(&explained(&waiting, &policy()), &["spog is waiting", "run again at each tick"]);
}

#[test]
fn a_running_action_and_an_inactive_repository_are_left_alone() {
    let running = RunningAction {
        revision: Some(commit("b")),
        since: now(),
        checks_health: false,
        pid: 4711,
        stalled: None,
    };
    let seen = Observed { running: Some(running), ..pushed() };
    says(
        &explained(&seen, &policy()),
        &["spog is acting since just now", "(pid 4711)", "never a second", "agent log -f spog"],
    );
    let inactive = Policy { active: false, ..policy() };
    says(&explained(&current(), &inactive), &["active = false", "until its `active` is true"]);
}

#[test]
fn a_period_says_when_it_is_over() {
    let hourly =
        Policy { when: RerunPolicy::Every(std::time::Duration::from_secs(3600)), ..policy() };
    says(&explained(&current(), &hourly), &["Without a new one, the scripts run again: in 53 min"]);
}

#[test]
fn a_revision_is_placed_in_one_sentence() {
    let seen = current();
    let row = StatusRow { state: State::Held, ..row(&seen, &policy()) };
    for (found, part) in [
        (RevisionPresence::Acted, "bbbbbbb is here and was applied"),
        (RevisionPresence::ContainedInHead, "no action of it has succeeded yet; spog is held."),
        (RevisionPresence::FetchedNotActed, "HEAD does not contain it; spog is held."),
        (RevisionPresence::Unknown, "bbbbbbb is not here: it was never fetched."),
    ] {
        let text = containment(&row, &commit("b").short(), found);
        assert!(text.contains(part), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
