//! Publishes one tree at one target: a followed branch, or a revision that a person asks for.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::config::RepoSettings;
use crate::domain::git::Commit;
use crate::domain::publish::rules::PublishTarget;
use crate::domain::publish::state::PendingRef;
use crate::domain::repository::action::{Outcome, Trigger};
use crate::engine::publish::hooks::RefHooks;
use crate::engine::publish::stage::{self, ExistingRelease, ReadyTree, StageError};
use crate::engine::repository::targets::{TargetStore, high_water, kept};
use crate::engine::repository::{Repository, drift, tags};
use crate::engine::run::guard::{RunGuard, RunResult};
use crate::engine::run::health::EndOfWait;
use crate::engine::run::scripts;
use crate::system::host;
use crate::system::lock::JournalStep;
use crate::system::release::StagedRelease;

/// Shows the `staged` revision of `step` at its target, checks its health until `end` of the wait, and finishes the run.
///
/// # Errors
/// When a file cannot be read or written, or a program cannot be started.
pub fn follow(
    repository: &Repository,
    mut run: RunGuard,
    step: JournalStep,
    settings: &RepoSettings,
    staged: (TargetStore, ReadyTree),
    trigger: Trigger,
    end: &dyn EndOfWait,
) -> Result<()> {
    let last_action = repository.records.prepare_last_action(step.target)?;
    let started = host::now();
    scripts::report_step(repository, &step, started);
    let branch = || step.branch.local();
    let reference = step.tag.as_deref().map_or_else(branch, tags::full_name);
    let revision = step.target;
    let tried = repository.records.memory()?.tried;
    let path = staged.0.path("");
    let mut hooks = RefHooks {
        repository,
        settings,
        step,
        reference,
        trigger,
        target: &path,
        tried,
        repair: drift::pending(repository)?,
        log: None,
    };
    let shown = show(&mut hooks, &mut run, staged, end).and_then(|shown| {
        // Before the run is recorded: after a crash behind the record, no later run would do it.
        high_water::lower_mark(repository, &hooks.step)?;
        Ok(shown)
    });
    let RefHooks { step, log, .. } = hooks;
    let (ended, store) = match shown {
        Ok((store, outcome)) => {
            let failed_script = None;
            let result =
                RunResult { step, trigger, started, outcome, failed_script, log, last_action };
            (Ok(Some(result)), Some(store))
        }
        Err(error) => (Err(error), None),
    };
    run.finish(ended, || {
        store.map_or(Ok(()), |store| retire(repository, &store, &kept(repository, revision)?))
    })
}

/// Stages the tree of `revision` for `target`, unless a release of it can be used again.
///
/// # Errors
/// When the tree breaks the rules, or a file cannot be read or written.
pub fn stage(
    repository: &Repository,
    target: PublishTarget,
    revision: Commit,
    trigger: Trigger,
) -> Result<(TargetStore, ReadyTree)> {
    let target_store = TargetStore::make(repository, target)?;
    target_store.sweep(repository);
    let known = ExistingRelease::when(trigger);
    let tree = stage_one(repository, &target_store, revision, known)?;
    Ok((target_store, tree))
}

/// Shows the staged tree, runs `after`, and checks the health.
fn show(
    hooks: &mut RefHooks,
    run: &mut RunGuard,
    (target_store, tree): (TargetStore, ReadyTree),
    end: &dyn EndOfWait,
) -> Result<(TargetStore, Outcome)> {
    let (repository, revision) = (hooks.repository, hooks.step.target);
    if let ReadyTree::Staged(staged) = tree {
        publish(repository, &target_store, staged, revision)?;
    }
    target_store.store.show(&target_store.place("")?, revision)?;
    target_store.store.sync()?;
    let outcome = match hooks.after(run)? {
        Outcome::Succeeded => hooks.check_health(run, end)?,
        outcome => outcome,
    };
    Ok((target_store, outcome))
}

/// Makes `target` show `revision`, without running anything. Removes the release shown before.
///
/// # Errors
/// When the tree breaks the rules, or a file cannot be read or written.
pub fn put(repository: &Repository, target: PublishTarget, revision: Commit) -> Result<()> {
    let target_store = TargetStore::make(repository, target)?;
    target_store.sweep(repository);
    let known = ExistingRelease::Rewrite;
    if let ReadyTree::Staged(staged) = stage_one(repository, &target_store, revision, known)? {
        publish(repository, &target_store, staged, revision)?;
    }
    target_store.store.show(&target_store.place("")?, revision)?;
    target_store.store.sync()?;
    retire(repository, &target_store, &[revision].into())
}

/// Makes a release of `staged`. A sync before the rename puts the content on disk, one after it the
/// name.
fn publish(
    repository: &Repository,
    target_store: &TargetStore,
    staged: StagedRelease,
    revision: Commit,
) -> Result<()> {
    target_store.store.sync()?;
    target_store.seal(repository, &[(target_store.place("")?, revision)])?;
    staged.publish()?;
    target_store.store.sync()
}

/// Retires the releases that are not in `kept`, and sweeps what a rewritten release left.
fn retire(
    repository: &Repository,
    target_store: &TargetStore,
    kept: &BTreeSet<Commit>,
) -> Result<()> {
    let surplus = target_store.store.surplus(&target_store.place("")?, kept)?;
    if !surplus.is_empty() {
        target_store.retire(repository, &surplus)?;
        target_store.store.sync()?;
    }
    target_store.sweep(repository);
    Ok(())
}

fn stage_one(
    repository: &Repository,
    target_store: &TargetStore,
    revision: Commit,
    known: ExistingRelease,
) -> Result<ReadyTree> {
    let (name, directory) = (String::new(), String::new());
    let due = PendingRef {
        name,
        revision,
        directory,
        attempt: 1,
        resumed: false,
        leaves: None,
        repairs: false,
    };
    match stage::all(repository, target_store, std::slice::from_ref(&due), known)?.pop() {
        Some(Ok(ready)) => Ok(ready),
        Some(Err(StageError::Hindered(reason))) => bail!(reason),
        Some(Err(StageError::Verdict(finding))) => bail!(finding.state_and_reason().1),
        None => bail!("nothing was staged"),
    }
}
