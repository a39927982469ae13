//! Publishes many refs at their targets: removes what is gone, stages new trees in parallel, runs
//! `before`, shows them, runs `after`. One bad ref stops no other, and the next run repairs what a crash
//! at any point leaves. Which refs are due is decided in the plan.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::publish::rules::PublishTarget;
use crate::domain::publish::state::{PendingRef, PublishPlan, PublishRecord, RefOverrides};
use crate::domain::repository::action::{FinishedRun, Outcome, RunStarted, Trigger};
use crate::domain::repository::gate::SignatureNeed;
use crate::domain::repository::observed::TreeRerunPolicy;
use crate::domain::signature::allowed_signers::Signer;
use crate::domain::text::EscapeControls;
use crate::engine::error::one_line;
use crate::engine::publish::hooks::RefHooks;
use crate::engine::publish::stage::{self, ExistingRelease, ReadyTree, StageError};
use crate::engine::repository::drift::PendingRepair;
use crate::engine::repository::targets::{TargetStore, high_water};
use crate::engine::repository::{Repository, tree};
use crate::engine::run::guard::RunGuard;
use crate::engine::run::health::{EndOfWait, HealthPrograms};
use crate::engine::run::scripts::{self, seconds_since};
use crate::engine::run::{log, record};
use crate::system::git::{ACTED, Head};
use crate::system::host;
use crate::system::lock::{ActionLock, Journal, JournalStep};
use crate::system::logs::{self, ActionLog};
use crate::system::release::StagedRelease;

mod judge;
mod remove;
mod results;

pub use results::cut_off;

/// Updates the targets as `plan` says, and records the result. What is shown is checked until `end` of the wait.
///
/// # Errors
/// When the repository cannot be read, or a record cannot be written. A failure of a single ref is
/// recorded as its attempt.
pub fn carry_out(
    repository: &Repository,
    lock: &ActionLock,
    journal: Journal,
    plan: &PublishPlan,
    (trigger, end): (Trigger, &dyn EndOfWait),
) -> Result<()> {
    let (id, since) = (journal.id.clone(), journal.since);
    // This run may have completed the deployment of the followed branch.
    let record_followed = || {
        let now = host::now();
        let seen = repository.observe(&repository.polled(), now);
        let overrides = RefOverrides { accepted: seen.accepted, ..RefOverrides::default() };
        let recorded = seen
            .refs
            .as_ref()
            .and_then(|refs| refs.to_record(&seen, &refs.target_diff(overrides, now)));
        match recorded {
            Some(revision) => record(repository, &id, since, revision, trigger),
            None => Ok(()),
        }
    };
    match repository.repo.settings.target() {
        Some(target) if !(plan.publish.is_empty() && plan.remove.is_empty()) => {
            let step = first_step(repository, plan)?;
            let Some(mut run) = RunGuard::begin(repository, lock, journal, &step)? else {
                return Ok(());
            };
            let done = PublishRun::new(repository, &mut run, target, trigger)
                .and_then(|publish| publish.carry_out(plan, end));
            run.finish(done.map(|()| None), record_followed)
        }
        _ => {
            record_followed()?;
            lock.remove_journal()
        }
    }
}

/// The step for `currentaction.txt`: the followed branch's revision, or the first that is due.
fn first_step(repository: &Repository, plan: &PublishPlan) -> Result<JournalStep> {
    let seen = repository.records.last_action().0;
    let acted = match seen {
        crate::system::repo_state::LastAction::Revision(commit) => Some(commit),
        _ => None,
    };
    let first = plan.publish.first().map(|due| due.revision);
    let Some(target) = plan.record.or(first).or(acted).or(repository.head_commit()) else {
        bail!("there is no revision to name")
    };
    step(repository, target, acted, 1)
}

fn step(
    repository: &Repository,
    target: Commit,
    previous: Option<Commit>,
    attempt: u32,
) -> Result<JournalStep> {
    let branch = match (&repository.branch, &repository.head) {
        (Some(branch), _) | (None, Head::Branch(branch, _)) => branch.clone(),
        _ => "main".parse()?,
    };
    Ok(JournalStep {
        branch,
        followed: None,
        reference: None,
        tag: None,
        head: None,
        target,
        previous,
        attempt,
        resumed: false,
        log: None,
        way_back: None,
        leaves: None,
    })
}

/// Records that the followed branch's revision is deployed.
fn record(
    repository: &Repository,
    id: &str,
    since: DateTime<Utc>,
    revision: Commit,
    trigger: Trigger,
) -> Result<()> {
    let mut memory = repository.records.memory()?;
    let mut signer = None;
    if let Some(judge) = repository.signature_judge()?.filter(|_| memory.accepted != Some(revision))
    {
        match judge.judge(revision, SignatureNeed::Signed)? {
            Ok(signed) => signer = signed.signer,
            Err(finding) => return record::verdict(repository, revision, finding, host::now()),
        }
    }
    let tag = repository.polled().tag.filter(|tag| tag.commit == revision);
    let known = repository.records.history()?;
    // Where the branch was published, its own history entry says more than one made here.
    let known = known.iter().rev().find(|run| {
        run.revision == revision && run.outcome == Outcome::Succeeded && run.reference.is_some()
    });
    let finished = match known {
        Some(run) => run.clone(),
        None => FinishedRun {
            id: format!("{id}-fetched"),
            at: host::now(),
            revision,
            subject: repository.git.subject(revision),
            reference: None,
            tag: tag.map(|tag| tag.name),
            previous: memory.acted.as_ref().map(|run| run.revision),
            trigger,
            outcome: Outcome::Succeeded,
            attempt: 1,
            seconds: seconds_since(since, host::now()),
            log: None,
            tree: repository.git.tree_of(&revision).ok(),
            signer,
            count: 1,
            first: None,
        },
    };
    repository.lower_seen_tag(revision)?;
    repository.accept_applied(revision)?;
    repository.records.prepare_last_action(revision)?.commit()?;
    if known.is_none() {
        record::ended(repository, &mut memory, std::slice::from_ref(&finished))?;
    }
    repository.git.set_logged_ref(ACTED, revision, &format!("{trigger}: fetched"))?;
    (memory.attempt, memory.verdict, memory.accepted) = (None, None, None);
    memory.written = Some(finished.at);
    memory.acted = Some(finished);
    // `when` of a revision has no meaning here; this entry saves a look-up.
    memory.tree_when = Some(TreeRerunPolicy { revision, when: None });
    memory.gaps = tree::gaps(&repository.git, memory.gaps.as_ref(), revision);
    repository.records.put_memory(&memory)
}

/// One run over the targets.
struct PublishRun<'a, 'r> {
    repository: &'a Repository<'a>,
    run: &'a mut RunGuard<'r>,
    target_store: TargetStore,
    book: PublishRecord,
    trigger: Trigger,
    began: DateTime<Utc>,
    logs: BTreeMap<String, ActionLog>,
    finished: Vec<FinishedRun>,
    /// Who signed what is published, by the names of the refs.
    signers: BTreeMap<String, Signer>,
    /// What succeeded last at the refs that would go back to it, by their names.
    ways_back: BTreeMap<String, Commit>,
}

impl<'a, 'r> PublishRun<'a, 'r> {
    fn new(
        repository: &'a Repository<'a>,
        run: &'a mut RunGuard<'r>,
        target: PublishTarget,
        trigger: Trigger,
    ) -> Result<Self> {
        let target_store = TargetStore::make(repository, target)?;
        target_store.sweep(repository);
        let book = crate::engine::repository::targets::actual(repository)?;
        Ok(Self {
            repository,
            run,
            target_store,
            book,
            trigger,
            began: host::now(),
            logs: BTreeMap::new(),
            finished: Vec::new(),
            signers: BTreeMap::new(),
            ways_back: BTreeMap::new(),
        })
    }

    fn carry_out(mut self, plan: &PublishPlan, end: &dyn EndOfWait) -> Result<()> {
        self.remove(&plan.remove)?;
        let staged = self.stage(&plan.publish)?;
        let ready = self.run_before_hooks(&plan.publish, staged)?;
        let shown = self.show(ready)?;
        let left = self.remove_moved(&shown)?;
        self.judge(&shown, end)?;
        self.repository.records.remove_numbered_changes();
        let retired = self.retire(&shown);
        // What was done is recorded even if retiring failed.
        self.save()?;
        self.count()?;
        let retired = retired?;
        if retired {
            // After the records, which wait for the same disk: this sync costs little then.
            self.target_store.store.sync()?;
        }
        let renewed = self.known() == ExistingRelease::Rewrite;
        if retired || left || renewed || plan.repairs() || !plan.remove.is_empty() {
            self.target_store.sweep(self.repository);
        }
        let ended = host::now();
        let dir = log::log_dir(self.repository.context, &self.repository.repo.name);
        if self.finished.iter().any(|run| run.log.is_some()) {
            logs::prune(&dir, ended)?;
        }
        Ok(())
    }

    /// Stages the trees of the refs that may be applied by their signatures, and are read only then.
    fn stage(&mut self, pending_refs: &[PendingRef]) -> Result<Vec<Result<ReadyTree, StageError>>> {
        let known = self.known();
        let Some(judge) = self.repository.signature_judge()? else {
            return stage::all(self.repository, &self.target_store, pending_refs, known);
        };
        let accepted = self.repository.records.memory()?.accepted;
        let listing = self.repository.records.listing()?.unwrap_or_default();
        let applied: Vec<Commit> = self.book.values().filter_map(|entry| entry.good).collect();
        let (mut signed, mut refused) = (Vec::new(), Vec::new());
        for due in pending_refs {
            let shown = self.book.get(&due.name).and_then(|entry| entry.good);
            let id = listing.get(&due.name).map_or(due.revision, |fetched| fetched.tip.id);
            let verdict = match accepted == Some(due.revision) || due.leaves.is_some() {
                // A person took it as it is; what is gone back to was accepted here.
                true => Ok(None),
                false if due.repairs => {
                    let judged = judge.judge(due.revision, SignatureNeed::AcceptedHere)?;
                    judged.map(|signed| signed.signer)
                }
                false => judge.judge_ref(&due.name, id, due.revision, (shown, &applied))?,
            };
            match verdict {
                Ok(signer) => {
                    self.signers.extend(signer.map(|signer| (due.name.clone(), signer)));
                    signed.push(due.clone());
                    refused.push(None);
                }
                Err(finding) => refused.push(Some(finding)),
            }
        }
        let staged = stage::all(self.repository, &self.target_store, &signed, known)?;
        let mut staged = staged.into_iter();
        let merged = refused.into_iter().filter_map(|refused| match refused {
            Some(finding) => Some(Err(StageError::Verdict(finding))),
            None => staged.next(),
        });
        Ok(merged.collect())
    }

    /// Retires the surplus releases of the refs that were `shown`; returns whether there was one.
    fn retire(&mut self, shown: &[PendingRef]) -> Result<bool> {
        let keep = self.repository.repo.settings.publish.keep;
        let mut surplus = Vec::new();
        for due in shown {
            let Some(entry) = self.book.get_mut(&due.name) else { continue };
            let place = self.target_store.place(&due.directory)?;
            surplus.extend(self.target_store.store.surplus(&place, &entry.keep(keep))?);
        }
        if surplus.is_empty() {
            return Ok(false);
        }
        // The links are on disk by now; else one that a power cut brings back would show nothing.
        self.target_store.retire(self.repository, &surplus)?;
        Ok(true)
    }

    /// Runs `before` on each staged tree, and gives each due ref its entry in the record. Returns the
    /// refs that may be shown.
    fn run_before_hooks(
        &mut self,
        pending_refs: &[PendingRef],
        staged: Vec<Result<ReadyTree, StageError>>,
    ) -> Result<Vec<(PendingRef, Option<StagedRelease>)>> {
        let mut ready = Vec::new();
        let mut new_place = false;
        let holders = self.book.iter();
        let holders: BTreeMap<String, String> = holders
            .filter_map(|(name, entry)| Some((entry.directory.clone()?, name.clone())))
            .collect();
        for (due, staged) in pending_refs.iter().zip(staged) {
            let now = self.began;
            new_place |= self.give_place(due, &holders);
            let staged = match staged {
                Ok(ReadyTree::Existing) => None,
                Ok(ReadyTree::Staged(staged)) => Some(staged),
                Err(StageError::Verdict(finding)) => {
                    self.log_line(&due.name, &finding.state_and_reason().1);
                    if let Some(entry) = self.book.get_mut(&due.name) {
                        entry.verdict = Some((due.revision, finding));
                        entry.since = now;
                    }
                    continue;
                }
                Err(StageError::Hindered(reason)) => {
                    self.failed(due, Outcome::Hindered { reason }, None);
                    continue;
                }
            };
            scripts::report_begun(RunStarted {
                repo: self.repository.repo.name.clone(),
                reference: Some(due.name.clone()),
                revision: due.revision,
                previous: self.book.get(&due.name).and_then(|entry| entry.good),
                at: now,
            });
            if let Some(staged) = &staged
                && due.leaves.is_none()
                && !due.repairs
                && !self.repository.repo.settings.publish.before.is_empty()
            {
                // Recorded before a program may kill this process.
                self.save()?;
                let asked = self.with_hooks(due, |hooks, run| hooks.before(run, staged.path()));
                let (outcome, program) =
                    asked.unwrap_or_else(|error| (judge::failed_hook(&error), None));
                if outcome != Outcome::Succeeded {
                    let log = self.end_log(due, &outcome);
                    self.refused(due, outcome, program, log);
                    continue;
                }
            }
            ready.push((due.clone(), staged));
        }
        if new_place {
            // Recorded before the tree is shown: a directory without an entry may never be removed
            // again.
            self.save()?;
        }
        Ok(ready)
    }

    /// Shows the trees that are ready, all at about the same time.
    fn show(&mut self, ready: Vec<(PendingRef, Option<StagedRelease>)>) -> Result<Vec<PendingRef>> {
        if ready.is_empty() {
            return Ok(Vec::new());
        }
        self.target_store.store.sync()?;
        let written = ready.iter().filter(|(_, staged)| staged.is_some());
        let written: Result<Vec<_>> = written
            .map(|(due, _)| Ok((self.target_store.place(&due.directory)?, due.revision)))
            .collect();
        self.target_store.seal(self.repository, &written?)?;
        let mut shown = Vec::new();
        for (due, staged) in ready {
            let sealed = staged.map_or(Ok(()), StagedRelease::publish);
            shown.push((due, sealed));
        }
        self.target_store.store.sync()?;
        let mut done = Vec::new();
        for (due, sealed) in shown {
            let place = self.target_store.place(&due.directory)?;
            match sealed.and_then(|()| self.target_store.store.show(&place, due.revision)) {
                Ok(()) => {
                    match self.book.get_mut(&due.name) {
                        // It shows what it showed before, and what was found about a newer one still holds.
                        Some(entry) if due.repairs => entry.sees(Some(due.revision)),
                        Some(entry) => entry.show(due.revision, self.began),
                        None => {}
                    }
                    high_water::raise(self.repository, &due.name, due.revision);
                    done.push(due);
                }
                Err(error) => {
                    let reason = one_line(&error);
                    self.failed(&due, Outcome::Hindered { reason }, None);
                }
            }
        }
        if !done.is_empty() {
            self.target_store.store.sync()?;
        }
        if self.has_programs()? {
            self.save()?;
        }
        Ok(done)
    }

    /// The handling of releases that exist already.
    fn known(&self) -> ExistingRelease {
        ExistingRelease::when(self.trigger)
    }

    /// The reason for the run of `due`, as scripts and history have it.
    fn trigger_of(&self, due: &PendingRef) -> Trigger {
        match due {
            PendingRef { leaves: Some(_), .. } => Trigger::Rollback,
            PendingRef { repairs: true, .. } => Trigger::Drift,
            _ => self.trigger,
        }
    }

    /// Whether programs run once a release is shown.
    fn has_programs(&self) -> Result<bool> {
        Ok(self.has_after() || self.has_health()?)
    }

    fn has_health(&self) -> Result<bool> {
        let settings = &self.repository.repo.settings;
        Ok(HealthPrograms::of(self.repository, settings)?.is_some())
    }

    fn has_after(&self) -> bool {
        !self.repository.repo.settings.publish.after.is_empty()
    }

    fn with_hooks<T>(
        &mut self,
        due: &PendingRef,
        run: impl FnOnce(&mut RefHooks, &mut RunGuard) -> Result<T>,
    ) -> Result<T> {
        let entry = self.book.get(&due.name);
        let (previous, tried, repair) = entry.map_or_else(Default::default, |entry| {
            (entry.good, entry.tried.clone(), entry.repair.clone())
        });
        let mut step = step(self.repository, due.revision, previous, due.attempt)?;
        step.resumed = due.resumed;
        step.reference = Some(due.name.clone());
        (step.way_back, step.leaves) = (self.ways_back.get(&due.name).copied(), due.leaves);
        let mut hooks = RefHooks {
            repository: self.repository,
            settings: &self.repository.repo.settings,
            step,
            reference: due.name.clone(),
            trigger: self.trigger_of(due),
            target: &self.target_store.path(&due.directory),
            tried,
            repair: repair.map(|name| PendingRepair { name, directory: due.directory.clone() }),
            log: self.logs.remove(&due.name),
        };
        let outcome = run(&mut hooks, self.run);
        if let Some(log) = hooks.log {
            self.logs.insert(due.name.clone(), log);
        }
        outcome
    }

    fn log_line(&self, name: &str, what: &str) {
        tracing::info!(repository = %self.repository.repo.name, reference = %name.escape_controls(), what);
    }

    fn save(&self) -> Result<()> {
        self.repository.records.put_book(&self.book)
    }
}
