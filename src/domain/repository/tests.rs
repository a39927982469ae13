//! What the tests of decisions and of the status both start from.

use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::decision::decide;
use crate::domain::repository::drift::{DriftPolicy, OnDrift};
use crate::domain::repository::observed::{
    Observed, OnRewrite, Policy, RerunPolicy, UpdateMethod, UpstreamTip,
};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::state::Condition;

/// A commit whose id is one digit, repeated.
pub(super) fn commit(digit: char) -> Commit {
    digit.to_string().repeat(40).parse().unwrap()
}

pub(super) fn now() -> DateTime<Utc> {
    "2026-11-22T09:00:00Z".parse().unwrap()
}

/// Every condition of a repository as `seen`, as a tick of cron sees them.
pub(super) fn conditions(seen: &Observed, policy: &Policy) -> Vec<Condition> {
    decide(seen, policy, ActionRequest::OF_CRON, now()).conditions
}

/// The default policy.
pub(super) fn policy() -> Policy {
    Policy {
        active: true,
        update: UpdateMethod::default(),
        rewritten: OnRewrite::default(),
        when: RerunPolicy::default(),
        gates: Default::default(),
        // What is decided about drift has its own tests.
        drift: DriftPolicy { on: OnDrift::Ignore, ..DriftPolicy::default() },
    }
}

pub(super) fn upstream(digit: char) -> UpstreamTip {
    UpstreamTip::Tip { commit: commit(digit), fetched: true }
}
