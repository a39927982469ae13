//! Records a worker's failure as a failed attempt.

use std::time::Duration;

use anyhow::{Context as _, anyhow};

use crate::domain::repository::action::{Attempt, Outcome};
use crate::domain::repository::decision::{Plan, PlannedAction, decide};
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::observed::UpstreamTip;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::one_line;
use crate::engine::repository::limits::BoundedOpen;
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::request::{WorkerCommand, WorkerJob};
use crate::system::git::git_dir_of;
use crate::system::host;
use crate::system::repo_state::RepoRecords;

/// The time in which a worker that ends itself may record why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Records that a worker for `order` ended itself because of `reason`, if the disk allows that within a
/// moment.
pub fn give_up(context: &Context, repo: &RepoEntry, order: &WorkerJob, reason: &str) {
    let (order, error) = (order.clone(), anyhow!(reason.to_owned()));
    let remember = move |context: &Context, repo: &RepoEntry| {
        let git_dir = git_dir_of(&repo.path).context("there is no git directory")?;
        record_failure(context, repo, &order, &RepoRecords::of(&git_dir, &repo.path), &error);
        Ok(())
    };
    let remembered =
        BoundedOpen::begin(context, repo, LAST_WORDS, remember).and_then(BoundedOpen::end);
    if let Err(error) = remembered {
        tracing::warn!(repository = %repo.name, error = %one_line(&error), "not remembered");
    }
}

/// Records that the agent itself failed, if that can still be written.
pub(super) fn record_failure(
    context: &Context,
    repo: &RepoEntry,
    order: &WorkerJob,
    records: &RepoRecords,
    error: &anyhow::Error,
) {
    let reason = one_line(error);
    tracing::warn!(repository = %repo.name, %reason, "could not be worked on");
    let OpenOutcome::Ready(repository) = observe::open(context, repo) else { return };
    let Ok(mut memory) = records.memory() else { return };
    let now = host::now();
    let mut seen = repository.observe(&repository.polled(), now);
    (seen.stale_journal, seen.release_lost) = (false, false);
    if order.command == WorkerCommand::Redo {
        seen.upstream = UpstreamTip::Unknown;
    }
    let (revision, number) = match decide(&seen, &repository.policy(&seen), order.request, now).plan
    {
        Plan::Run(PlannedAction {
            target: ActionTarget::Commit(to) | ActionTarget::MergeOf(to),
            attempt,
            ..
        }) => (to, attempt),
        Plan::Fetch { tip } => (tip, 1),
        Plan::Sight(Some(target)) | Plan::Verify { target, .. } => (target.upstream(), 1),
        // Nothing here would have to be repeated.
        Plan::Sight(None)
        | Plan::Idle
        | Plan::Look
        | Plan::Wait { .. }
        | Plan::Stopped
        | Plan::Recover
        | Plan::Publish(_) => return,
    };
    let (outcome, before) = (Outcome::Hindered { reason }, memory.attempt.take());
    let attempt =
        Attempt::after(outcome, revision, number, before.as_ref(), &context.node.host, now);
    memory.attempt = Some(attempt);
    // The same cause may prevent this write; the tick reports it then.
    let _ = records.put_memory(&memory);
}
