//! `agent explain` for each rule by which something is decided, and where a revision is.

use chrono::{DateTime, Duration, Utc};
use pmpy::cmd::explain;
use pmpy::domain::git::Relation;
use pmpy::domain::publish::state::{DesiredRefs, PublishState};
use pmpy::domain::report::notices::RevisionPresence;
use pmpy::domain::repository::action::{Attempt, Outcome, Trigger};
use pmpy::domain::repository::decision::{Decision, Rule, decide};
use pmpy::domain::repository::drift::{Difference, DriftRecord, DriftedFile, LookTimes, OnDrift};
use pmpy::domain::repository::finding::Finding;
use pmpy::domain::repository::gate::Gate;
use pmpy::domain::repository::health::{BadCause, BadRevision};
use pmpy::domain::repository::hold::Hold;
use pmpy::domain::repository::observed::{
    Observed, OnRewrite, Policy, RecordedFinding, RerunPolicy, RunningAction, Unreachable,
    UpdateMethod, UpstreamTip,
};
use pmpy::domain::repository::request::ActionRequest;
use pmpy::domain::repository::sight::Waiting;
use pmpy::domain::repository::state::State;
use pmpy::domain::repository::status::{LastDeployed, StatusRow};
use pmpy::engine::operator::Explanation;

use crate::{Sheet, commit, now, plain};

/// What is observed, what is wanted, and who asks.
struct Case {
    seen: Observed,
    policy: Policy,
    request: ActionRequest,
}

fn case(seen: Observed) -> Case {
    let policy = Policy {
        active: true,
        update: UpdateMethod::FastForward,
        rewritten: OnRewrite::Refuse,
        when: RerunPolicy::Changed,
        gates: Default::default(),
        drift: Default::default(),
    };
    Case { seen, policy, request: ActionRequest::OF_CRON }
}

/// Deployed, and upstream has nothing new.
fn current() -> Observed {
    Observed {
        head: Some(commit('a')),
        branch: Some("main".parse().unwrap()),
        upstream: UpstreamTip::Tip { commit: commit('a'), fetched: true },
        relation: Some(Relation::Same),
        acted: Some(commit('a')),
        acted_at: Some(now() - Duration::minutes(7)),
        ..Observed::default()
    }
}

/// Upstream has a new revision, which is fetched.
fn pushed() -> Observed {
    let upstream = UpstreamTip::Tip { commit: commit('b'), fetched: true };
    Observed { upstream, relation: Some(Relation::Behind), ..current() }
}

fn found(finding: Finding) -> Observed {
    let (revision, head, since) = (commit('b'), Some(commit('a')), now() - Duration::minutes(9));
    Observed { verdict: Some(RecordedFinding { revision, head, finding, since }), ..pushed() }
}

fn attempted(outcome: Outcome, minutes_ago: i64) -> Observed {
    let at = now() - Duration::minutes(minutes_ago);
    let attempt = Attempt::after(outcome, commit('b'), 1, None, "web01", at);
    let script = Some("bin/work/common/work.sh".to_owned());
    Observed { attempt: Some(Attempt { script, ..attempt }), ..pushed() }
}

/// A repository that publishes its branches: `main` is to be shown, or cannot be because of a rewrite.
fn publishing(rewrites: bool) -> Observed {
    let desired = DesiredRefs {
        name: "refs/heads/main".into(),
        release: Ok((commit('b'), "main".into())),
        rewrites: rewrites.then(|| commit('a')),
        goes_back: false,
        is_bad: false,
    };
    let refs = PublishState {
        unfetched: false,
        tip: Some(commit('b')),
        desired: vec![desired],
        ..PublishState::default()
    };
    Observed { refs: Some(refs), ..current() }
}

/// Upstream's revision failed its health check; `back_since`: the machine is back at the one before.
fn bad(back_since: Option<DateTime<Utc>>) -> Observed {
    let is_back = back_since.is_some();
    let cause = Some(BadCause::Health);
    Observed {
        head: Some(commit(if is_back { 'a' } else { 'b' })),
        relation: Some(if is_back { Relation::Behind } else { Relation::Same }),
        bad: Some(BadRevision { revision: commit('b'), cause, back_since }),
        upstream_is_bad: true,
        is_tried: !is_back,
        ..pushed()
    }
}

/// The first rule, and after each one the next, with a case in which it applies: one table. A rule that is
/// new does not compile until it has a case.
fn after(rule: Option<Rule>) -> Option<(Rule, Case)> {
    let reason = || "HEAD is detached: no branch is checked out".to_owned();
    let unreachable = || Unreachable {
        since: now() - Duration::hours(3),
        reason: "it has SHA-256 ids".into(),
        refusals: 0,
    };
    let (next, case) = match rule {
        None => {
            let mut inactive = case(current());
            inactive.policy.active = false;
            (Rule::Inactive, inactive)
        }
        Some(Rule::Inactive) => {
            let (revision, since) = (Some(commit('b')), now() - Duration::minutes(1));
            let running =
                RunningAction { revision, since, checks_health: false, pid: 4711, stalled: None };
            (Rule::ActionRuns, case(Observed { running: Some(running), ..pushed() }))
        }
        Some(Rule::ActionRuns) => {
            (Rule::Unreadable, case(Observed { broken: Some(reason()), ..Observed::default() }))
        }
        Some(Rule::Unreadable) => {
            (Rule::Recovery, case(Observed { stale_journal: true, ..pushed() }))
        }
        Some(Rule::Recovery) => (Rule::Clone, case(Observed::default())),
        Some(Rule::Clone) => {
            let hold = Hold {
                by: "ann".into(),
                reason: "release day".into(),
                since: now() - Duration::hours(2),
                until: Some(now() + Duration::hours(1)),
                number: 1,
                ..Hold::default()
            };
            (Rule::Hold, case(Observed { holds: vec![hold], ..pushed() }))
        }
        Some(Rule::Hold) => (Rule::LaggingMirror, case(Observed { lagging: true, ..current() })),
        Some(Rule::LaggingMirror) => {
            let upstream = UpstreamTip::Empty;
            let seen = Observed { upstream, relation: None, ..current() };
            (Rule::NoUpstreamBranch, case(seen))
        }
        Some(Rule::NoUpstreamBranch) => {
            let finding = Finding::Irrelevant { since_revision: commit('a') };
            let seen = Observed {
                head: Some(commit('b')),
                relation: Some(Relation::Same),
                verdict: Some(RecordedFinding {
                    revision: commit('b'),
                    head: Some(commit('b')),
                    finding,
                    since: now() - Duration::minutes(9),
                }),
                ..pushed()
            };
            (Rule::Irrelevant, case(seen))
        }
        Some(Rule::Irrelevant) => {
            (Rule::OtherFormat, case(Observed { other_format: Some(unreachable()), ..current() }))
        }
        Some(Rule::OtherFormat) => (Rule::UpToDate, case(current())),
        Some(Rule::UpToDate) => {
            let upstream = UpstreamTip::Tip { commit: commit('b'), fetched: false };
            (Rule::Fetch, case(Observed { upstream, relation: None, ..current() }))
        }
        Some(Rule::Fetch) => (Rule::Targets, case(publishing(false))),
        Some(Rule::Targets) => {
            (Rule::LocalChanges, case(found(Finding::Dirty { paths: vec!["page".into()] })))
        }
        Some(Rule::LocalChanges) => (Rule::Deferred, case(attempted(Outcome::Deferred, 1))),
        Some(Rule::Deferred) => (Rule::Interrupted, case(attempted(Outcome::Interrupted, 1))),
        Some(Rule::Interrupted) => {
            (Rule::RetryDue, case(attempted(Outcome::Failed { code: 3 }, 30)))
        }
        Some(Rule::RetryDue) => {
            (Rule::FirstDeployment, case(Observed { acted: None, acted_at: None, ..current() }))
        }
        Some(Rule::FirstDeployment) => (Rule::NewRevision, case(pushed())),
        Some(Rule::NewRevision) => {
            (Rule::TriedSince, case(Observed { is_tried: true, ..current() }))
        }
        Some(Rule::TriedSince) => {
            let mut timed = case(current());
            timed.policy.when = RerunPolicy::Every(std::time::Duration::from_secs(300));
            (Rule::RerunDue, timed)
        }
        Some(Rule::RerunDue) => {
            let request = ActionRequest { trigger: Trigger::Redo, named: true, overrides: false };
            (Rule::Requested, Case { request, ..case(current()) })
        }
        Some(Rule::Requested) => {
            let upstream = UpstreamTip::Tip { commit: commit('b'), fetched: false };
            let left_alone = Some(now() + Duration::minutes(3));
            let seen = Observed { upstream, left_alone, relation: None, ..current() };
            (Rule::RemoteBackoff, case(seen))
        }
        Some(Rule::RemoteBackoff) => {
            (Rule::AttemptBackoff, case(attempted(Outcome::Failed { code: 3 }, 0)))
        }
        Some(Rule::AttemptBackoff) => {
            (Rule::Rewritten, case(Observed { lost: Some(commit('c')), ..pushed() }))
        }
        Some(Rule::Rewritten) => {
            let reason = "a path .temp/x".into();
            (Rule::TreeRefused, case(found(Finding::Refused { reason })))
        }
        Some(Rule::TreeRefused) => {
            let reason = "film.mkv has 2 GB".into();
            (Rule::FileTooLarge, case(found(Finding::TooLarge { reason, bytes: 2_000_000_000 })))
        }
        Some(Rule::FileTooLarge) => {
            (Rule::TreeHold, case(found(Finding::Held { reason: "freeze".into() })))
        }
        Some(Rule::TreeHold) => {
            let since = now() - Duration::minutes(1);
            let waiting = Waiting {
                revision: commit('b'),
                since,
                oldest_since: since,
                urgent: None,
                succeeded_before: false,
                mends: false,
                is_of_this_boot: true,
            };
            let mut gated = case(pushed());
            gated.seen.gates.waiting = Some(waiting);
            gated.policy.gates.min_age = std::time::Duration::from_secs(1800);
            gated.policy.gates.asks_before = true;
            (Rule::Gate(Gate::MinAge), gated)
        }
        Some(Rule::Gate(_)) => {
            let mut merge = case(found(Finding::Conflict { paths: vec!["page".into()] }));
            merge.policy.update = UpdateMethod::Merge;
            merge.seen.relation = Some(Relation::Diverged);
            (Rule::MergeConflict, merge)
        }
        Some(Rule::MergeConflict) => {
            let relation = Some(Relation::Diverged);
            (Rule::FastForwardOnly, case(Observed { relation, ..pushed() }))
        }
        Some(Rule::FastForwardOnly) => {
            let mut merge = case(publishing(true));
            merge.policy.update = UpdateMethod::Merge;
            (Rule::NeedsPerson, merge)
        }
        Some(Rule::NeedsPerson) => (Rule::WayBack, case(bad(None))),
        Some(Rule::WayBack) => (Rule::BadRevision, case(bad(Some(now() - Duration::minutes(20))))),
        Some(Rule::BadRevision) => {
            let acted_at = Some(now() - Duration::hours(5));
            let look_times = LookTimes { written: acted_at, ..LookTimes::default() };
            (Rule::DriftDue, case(Observed { acted_at, look_times, ..current() }))
        }
        Some(Rule::DriftDue) => {
            let file = |path: &str, how| DriftedFile { path: path.into(), how };
            let files = vec![
                file("etc/nginx.conf", Difference::Content),
                file("etc/ssl/key", Difference::Deleted),
            ];
            let drift = DriftRecord::new(Some(commit('a')), now(), files.into_iter());
            let look_times = LookTimes { looked: Some(now()), ..LookTimes::default() };
            let mut drifted = case(Observed { drift: Some(drift), look_times, ..current() });
            drifted.policy.drift.on = OnDrift::Repair;
            (Rule::Drift, drifted)
        }
        Some(Rule::Drift) => return None,
    };
    Some((next, case))
}

/// The row that a tick would make of this.
fn row(seen: &Observed, decision: &Decision) -> StatusRow {
    let first = &decision.conditions[0];
    StatusRow {
        bad: seen.bad.as_ref().map(|bad| bad.revision),
        gate: first.gate.clone(),
        tag: None,
        name: "site".into(),
        path: "/root/gitrepo/site".into(),
        remote: Some("https://git.example.org/site.git".into()),
        branch: Some("main".into()),
        state: first.state,
        reason: first.reason.clone(),
        conditions: decision.conditions.iter().map(|it| it.state).collect(),
        since: first.since.unwrap_or(now() - Duration::minutes(20)),
        head: seen.head,
        upstream: Some(commit('b')),
        acted: seen.acted.map(|revision| LastDeployed {
            tag: None,
            revision,
            signer: None,
            subject: Some("Serve the new page".into()),
            at: seen.acted_at,
            trigger: Some("cron".into()),
            outcome: Some("succeeded".into()),
            seconds: Some(0.8),
        }),
        attempt: first.attempt,
        next_try: first.next_try,
        asked: None,
        refusals: 0,
        mirror_lags: false,
        gaps: None,
        left: None,
        holds: Vec::new(),
        ignored_keys: Vec::new(),
        drifted: seen.drift.clone(),
        actions: Default::default(),
        left_alone: Default::default(),
        published: Vec::new(),
    }
}

#[test]
fn each_rule_is_explained() {
    let mut sheet = Sheet::default();
    let mut last = None;
    while let Some((rule, Case { seen, policy, request })) = after(last) {
        let decision = match rule {
            Rule::Clone => Decision::clone_first(&seen, &policy),
            _ => decide(&seen, &policy, request, now()),
        };
        assert_eq!(decision.rule, rule, "{decision:#?}");
        let row = row(&seen, &decision);
        let explanation = Explanation { seen, policy, decision, containment: None };
        let text = explain::text(&row, &explanation, None, now());
        sheet.add(&format!("{rule:?}"), &plain(&text));
        last = Some(rule);
    }
    sheet.same("explain");
}

#[test]
fn a_revision_is_placed() {
    let mut sheet = Sheet::default();
    for state in [State::Current, State::Held] {
        let decision = decide(&current(), &case(current()).policy, ActionRequest::OF_CRON, now());
        let row = StatusRow { state, ..row(&current(), &decision) };
        for found in [
            RevisionPresence::Acted,
            RevisionPresence::ContainedInHead,
            RevisionPresence::FetchedNotActed,
            RevisionPresence::Unknown,
        ] {
            let title = format!("{found:?}, {state}");
            sheet.add(&title, &explain::containment(&row, "bbbbbbb", found));
        }
    }
    sheet.same("explain-revision");
}
