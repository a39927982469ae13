//! Deploys one revision: checks it and what it would overwrite, writes it, runs its scripts, and records
//! the result. Which revision is decided before; how a target shows a tree is known to `publish`.

use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use crate::config::RepoSettings;
use crate::domain::git::{Commit, RefName};
use crate::domain::paths::PathPatterns;
use crate::domain::repository::action::{Outcome, Trigger};
use crate::domain::repository::change::{ChangeError, TreeChange};
use crate::domain::repository::decision::PlannedAction;
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::observed::Observed;
use crate::engine::action::apply::{self, ReadyUpdate};
use crate::engine::action::before::BeforeQuestion;
use crate::engine::action::drift::ReadyRepair;
use crate::engine::action::way_back::{self, CheckWatch};
use crate::engine::publish::single_ref;
use crate::engine::publish::stage::ReadyTree;
use crate::engine::repository::script_files::ScriptPlan;
use crate::engine::repository::targets::TargetStore;
use crate::engine::repository::tree::{self, TreeFileError};
use crate::engine::repository::{Repository, drift, machine_id, tags, targets, upstream_refs};
use crate::engine::run::guard::{RunGuard, RunResult};
use crate::engine::run::health::{self, HealthCheck, HealthPrograms};
use crate::engine::run::{log, record, scripts};
use crate::system::git::Head;
use crate::system::git::merge::MergeOutcome;
use crate::system::lock::{ActionLock, Journal, JournalStep};
use crate::system::logs::ActionLog;
use crate::system::worktree::ApplyRefusal;
use crate::system::{host, stale_files};

/// The time to wait for a lock file of git's.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A revision that may be deployed.
struct Deployment {
    target: Commit,
    /// The settings, with those of the revision's `.pmpy.toml`.
    settings: RepoSettings,
    /// The change of the worktree.
    change: TreeChange,
    /// The paths that changed since the last deployment; `None`: unknown, so any may have.
    changed_paths: Option<Vec<Vec<u8>>>,
    /// The deployed revision, when no relevant path changed since: then no script runs.
    irrelevant_since: Option<Commit>,
}

/// The place where the revision appears.
enum Destination<'c> {
    /// The worktree, which may be written.
    Worktree(ReadyUpdate<'c>),
    /// A target outside the clone, and the tree that is ready for it.
    Target(Box<(TargetStore, ReadyTree)>),
}

/// The reason why a revision is not deployed now.
enum DeployRefusal {
    /// A finding about the revision, which is recorded.
    Finding(Finding),
    /// Something cannot be read, written or started.
    Failed(Error),
}

impl From<Error> for DeployRefusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl DeployRefusal {
    fn of_change(error: ChangeError) -> Self {
        Finding::of(error).map_or_else(|error| Self::Failed(error.into()), Self::Finding)
    }

    fn of_tree(error: TreeFileError) -> Self {
        match error {
            TreeFileError::Refused(reason) => Self::Finding(Finding::Refused { reason }),
            TreeFileError::Unreadable(error) => Self::Failed(error),
        }
    }

    fn of_worktree(refusal: ApplyRefusal) -> Self {
        match refusal {
            ApplyRefusal::Dirty(paths) => {
                Self::Finding(Finding::Dirty { paths: tree::printable_paths(&paths) })
            }
            ApplyRefusal::Failed(error) => Self::Failed(error),
        }
    }
}

/// Deploys the planned revision, with the `repair` of files that differ from it, on the first of `branches`, the local
/// one that follows the second, or records the finding that prevents it.
///
/// # Errors
/// When something cannot be read, written or started. The journal stays, and the next worker recovers.
pub fn deploy(
    repository: &Repository,
    lock: &ActionLock,
    journal: Journal,
    act: &PlannedAction,
    repair: Option<&ReadyRepair>,
    branches: (Option<&RefName>, Option<&RefName>),
) -> Result<()> {
    let now = host::now();
    match carry_out(repository, lock, journal, act, repair, branches, now) {
        Ok(()) => Ok(()),
        Err(DeployRefusal::Finding(finding)) => {
            record::verdict(repository, act.target.upstream(), finding, now)?;
            lock.remove_journal()
        }
        Err(DeployRefusal::Failed(error)) => Err(error),
    }
}

fn carry_out(
    repository: &Repository,
    lock: &ActionLock,
    journal: Journal,
    act: &PlannedAction,
    repair: Option<&ReadyRepair>,
    branches: (Option<&RefName>, Option<&RefName>),
    now: DateTime<Utc>,
) -> Result<(), DeployRefusal> {
    let (local, followed) = branches;
    let branch = match (local, &repository.head) {
        (Some(branch), _) | (None, Head::Branch(branch, _)) => branch.clone(),
        _ => return Err(anyhow!("HEAD is on no branch").into()),
    };
    let mut journal = journal;
    let deployment = inspect(repository, act, &branch)?;
    let Deployment { target, settings, change, .. } = &deployment;
    journal.trigger = act.trigger;
    let irrelevant = || match deployment.irrelevant_since {
        Some(since_revision) => {
            repository.accept_applied(*target)?;
            record::verdict(repository, *target, Finding::Irrelevant { since_revision }, now)
        }
        None => Ok(()),
    };
    let is_relevant = deployment.irrelevant_since.is_none();
    // Readers of a target never see a revision that `before` was not asked about.
    if !is_relevant && (act.head == Some(*target) || settings.target().is_some()) {
        irrelevant()?;
        return Ok(lock.remove_journal()?);
    }
    // Before the check of the worktree, whose result is kept: the git command that is waited for may
    // change what it reads. Local changes are reported before a lock.
    let unlocked = wait_for_git_locks(repository);
    let destination = match settings.target() {
        Some(place) => Destination::Target(Box::new(single_ref::stage(
            repository,
            place,
            *target,
            act.trigger,
        )?)),
        None => Destination::Worktree(
            ReadyUpdate::check(repository, change).map_err(DeployRefusal::of_worktree)?,
        ),
    };
    if !act.repairs {
        record::no_verdict(repository)?;
    }
    unlocked?;
    let step = JournalStep {
        followed: followed.cloned().filter(|followed| *followed != branch),
        branch,
        reference: None,
        tag: tag_of(repository, *target)?,
        head: act.head,
        target: *target,
        previous: act.previous,
        attempt: act.attempt,
        resumed: act.resumed,
        log: None,
        way_back: way_back::way_back(repository, act, *target, settings)?,
        leaves: act.leaves,
    };
    let newest = act.target.upstream();
    // A release that is there already was asked about before it was made.
    let staged = match &destination {
        Destination::Worktree(_) => None,
        Destination::Target(staged) => Some(staged.1.staged_path()),
    };
    if act.asks_before && staged != Some(None) {
        let (step, trigger, revision, staged) = (&step, act.trigger, newest, staged.flatten());
        let question =
            BeforeQuestion { repository, lock, settings, step, revision, trigger, staged };
        if !question.ask(&mut journal)? {
            return Ok(lock.remove_journal()?);
        }
    }
    if settings.policy.gates.is_set() {
        record::begun(repository, newest, now)?;
    }
    if act.saves_head
        && let Some(head) = act.head
    {
        let name = upstream_refs::saved_at(head, now);
        repository.git.set_ref(&name, head, "before it left the branch")?;
    }
    let Some(run) = RunGuard::begin(repository, lock, journal, &step)? else { return Ok(()) };
    match destination {
        Destination::Worktree(ready) => {
            ready.write(repository)?;
            repair.map_or(Ok(()), |repair| repair.write(repository))?;
            apply::move_branch(repository, &step)?;
            apply::report_submodules(repository, change)?;
            if is_relevant {
                run_scripts(repository, run, step, &deployment, act.trigger)?;
            } else {
                run.finish(Ok(None), irrelevant)?;
            }
        }
        Destination::Target(staged) => {
            let watch = CheckWatch::new(repository);
            let trigger = act.trigger;
            single_ref::follow(repository, run, step, settings, *staged, trigger, &watch)?;
        }
    }
    Ok(())
}

/// The tag by which `revision` was chosen: the newest one, or the one of an earlier run, to which a rollback
/// leads; `None`: a branch is followed.
fn tag_of(repository: &Repository, revision: Commit) -> Result<Option<String>> {
    if repository.tag_pattern().is_none() {
        return Ok(None);
    }
    let newest = repository.polled().tag.filter(|tag| tag.commit == revision);
    if let Some(tag) = newest {
        return Ok(Some(tag.name));
    }
    let runs = repository.records.history()?;
    Ok(runs.into_iter().rev().find(|run| run.revision == revision).and_then(|run| run.tag))
}

/// Checks the planned revision. Writes nothing but a merge commit.
fn inspect(
    repository: &Repository,
    act: &PlannedAction,
    branch: &RefName,
) -> Result<Deployment, DeployRefusal> {
    let git = &repository.git;
    heed_hold(repository, act.target.upstream(), act.heeds_hold)?;
    let target = match act.target {
        ActionTarget::Commit(commit) => commit,
        ActionTarget::MergeOf(tip) => merge(repository, act.head, tip, branch)?,
    };
    let tree = tree::tree_settings(git, target).map_err(DeployRefusal::of_tree)?;
    let settings = repository.repo.settings.with_tree(&tree);
    let change = tree::change_between(git, act.head, target).map_err(DeployRefusal::of_change)?;
    if let Some(finding) = shared_conflict(repository, target).map_err(DeployRefusal::of_change)? {
        return Err(DeployRefusal::Finding(finding));
    }
    let tried = repository.records.memory()?.tried;
    let changed_paths = tree::changed_since(git, act.previous, &tried, target);
    // A run that failed at the deployed revision is repeated, at whatever revision.
    let failed_there = act.previous.is_some_and(|previous| tried.contains(previous));
    // A target that shows nothing, because its release was lost, gets one at any revision.
    let shows_nothing = settings.target().is_some() && act.head.is_none();
    let is_relevant = match (&changed_paths, act.only_if_relevant) {
        (Some(paths), true) if !failed_there && !shows_nothing => {
            PathPatterns::new(&settings.paths).map_err(Error::from)?.match_any(paths)
        }
        _ => true,
    };
    let irrelevant_since = act.previous.filter(|_| !is_relevant);
    Ok(Deployment { target, settings, change, changed_paths, irrelevant_since })
}

/// The finding that keeps `target` from being applied, as far as the revision itself tells; `None`: none.
///
/// # Errors
/// When the revision cannot be read.
pub fn judge(
    repository: &Repository,
    seen: &Observed,
    target: ActionTarget,
) -> Result<Option<Finding>> {
    let (git, newest) = (&repository.git, target.upstream());
    let judged = || -> Result<(), DeployRefusal> {
        heed_hold(repository, newest, seen.is_held_by(newest))?;
        let from = match (target, seen.head) {
            (ActionTarget::MergeOf(tip), Some(head)) => git.merge_base(head, tip)?,
            (_, head) => head,
        };
        tree::change_between(git, from, newest).map_err(DeployRefusal::of_change)?;
        match shared_conflict(repository, newest).map_err(DeployRefusal::of_change)? {
            Some(finding) => Err(DeployRefusal::Finding(finding)),
            None => Ok(()),
        }
    };
    match judged() {
        Ok(()) => Ok(None),
        Err(DeployRefusal::Finding(finding)) => Ok(Some(finding)),
        Err(DeployRefusal::Failed(error)) => Err(error),
    }
}

/// Refuses `newest` where its own `.pmpy.toml` holds it, and that is heeded.
fn heed_hold(repository: &Repository, newest: Commit, heeds: bool) -> Result<(), DeployRefusal> {
    let settings = tree::tree_settings(&repository.git, newest).map_err(DeployRefusal::of_tree)?;
    match settings.hold.filter(|_| heeds) {
        Some(reason) => Err(DeployRefusal::Finding(Finding::Held { reason })),
        None => Ok(()),
    }
}

/// The finding that `target` has a path that its releases share; `None`: it has none.
fn shared_conflict(
    repository: &Repository,
    target: Commit,
) -> Result<Option<Finding>, ChangeError> {
    let shared = targets::shared(repository);
    if shared.is_empty() {
        return Ok(None);
    }
    let tree = tree::tree_of(&repository.git, target)?;
    let paths = TreeChange::paths(None, tree, &repository.git)?;
    Ok(Finding::of_shared(paths.iter(), &shared))
}

/// Merges upstream's `tip` into `head`, and returns the merge commit.
fn merge(
    repository: &Repository,
    head: Option<Commit>,
    tip: Commit,
    branch: &RefName,
) -> Result<Commit, DeployRefusal> {
    let git = &repository.git;
    let head = head.context("there is nothing to merge into")?;
    // Checked before libgit2 merges: the merge would hold files that are too large in memory.
    tree::change_between(git, git.merge_base(head, tip)?, tip).map_err(DeployRefusal::of_change)?;
    match git.merge(head, tip, branch, &repository.context.node.host)? {
        MergeOutcome::Commit(commit) => Ok(commit),
        MergeOutcome::Conflicts(paths) => Err(DeployRefusal::Finding(Finding::Conflict { paths })),
    }
}

/// Runs the scripts for the checked-out revision, and finishes the run.
fn run_scripts(
    repository: &Repository,
    mut run: RunGuard,
    mut step: JournalStep,
    deployment: &Deployment,
    trigger: Trigger,
) -> Result<()> {
    let (context, settings) = (repository.context, &deployment.settings);
    let init_due = machine_id::init_due(context, &repository.records.memory()?);
    let trigger = if init_due { Trigger::Bootstrap } else { trigger };
    let has_health = || HealthPrograms::of(repository, settings).map(|health| health.is_some());
    let plan = ScriptPlan::of(repository, settings, init_due);
    let (plan, has_health) = match plan.and_then(|plan| Ok((plan, has_health()?))) {
        Ok(planned) => planned,
        Err(error) => {
            // No script has started, so a later worker has nothing to recover.
            drop(run.finish(Ok(None), || Ok(())));
            return Err(error);
        }
    };
    let last_action = repository.records.prepare_last_action(step.target)?;
    let (started, watch) = (host::now(), CheckWatch::new(repository));
    scripts::report_step(repository, &step, started);
    let (mut outcome, mut failed_script, mut kept_log) = (Outcome::Succeeded, None, None);
    if !plan.is_empty() || has_health {
        let dir = log::log_dir(context, &repository.repo.name);
        let mut log = ActionLog::create(&dir, started, &step.target)?;
        log.start(&format!(
            "{} {} (previous {}, {trigger}, attempt {})",
            repository.repo.name,
            step.target,
            step.previous.map_or_else(|| "none".to_owned(), |id| id.short()),
            step.attempt
        ));
        scripts::report_log(repository, &log);
        step.log = Some(log.name().to_owned());
        let (changed, repair) = (deployment.changed_paths.clone(), drift::pending(repository)?);
        let list = scripts::put_changed(repository, changed, step.target, 0, repair.as_ref())?;
        let mut env = scripts::environment(repository, settings, &step, trigger, &list)?;
        if let Some(tag) = &step.tag {
            env.push(("AGENT_REF".into(), tags::full_name(tag).into()));
        }
        let deadline = scripts::deadline(settings.timeout);
        let run_list = |run: &mut RunGuard, names: &[String]| {
            let list = scripts::CommandList::scripts(context, &repository.repo.path, names, &env)?;
            run.run_scripts(&step, list, &log, deadline)
        };
        (outcome, failed_script) = run_list(&mut run, &plan.init)?;
        if outcome == Outcome::Succeeded {
            if init_due {
                scripts::init_succeeded(repository)?;
            }
            (outcome, failed_script) = run_list(&mut run, &plan.work)?;
        }
        if outcome == Outcome::Succeeded {
            let (step, dir, env) = (step.clone(), repository.repo.path.clone(), env.clone());
            let check = HealthCheck { step, dir, env, log };
            (log, outcome) = health::check(repository, settings, &mut run, check, &watch)?;
        }
        kept_log = scripts::log_to_keep(log, &dir, &mut step, trigger, &outcome)?;
    }
    if init_due && plan.init.is_empty() && outcome == Outcome::Succeeded {
        scripts::init_succeeded(repository)?;
    }
    let log = kept_log;
    let result = RunResult { step, trigger, started, outcome, failed_script, log, last_action };
    run.finish(Ok(Some(result)), || Ok(()))
}

/// Fails while git's lock files prevent writing. Called before the first write: a lock that is met
/// half-way leaves files behind that no commit explains.
pub fn wait_for_git_locks(repository: &Repository) -> Result<()> {
    let start = host::since_boot();
    loop {
        let Some(found) = stale_files::locks(repository.git.git_dir())?.into_iter().next() else {
            return Ok(());
        };
        // A person's git command usually ends in a moment.
        if host::since_boot() - start < LOCK_PATIENCE {
            std::thread::sleep(LOCK_PATIENCE / 20);
            continue;
        }
        bail!(
            "{} exists since {}: another git command runs here, or one was killed\n\
             hint: it is removed once it is ten minutes old and no process has it open",
            found.path.display(),
            found.since.format("%Y-%m-%d %H:%M:%S UTC")
        );
    }
}
