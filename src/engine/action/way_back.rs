//! The way back from a bad revision, as far as an action has to know it before it begins, and what ends the wait for
//! its health without a verdict. Goes nowhere itself: the next decision does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use crate::config::RepoSettings;
use crate::domain::git::Commit;
use crate::domain::remote::{BackoffPolicy, RefTip};
use crate::domain::repository::decision::PlannedAction;
use crate::domain::repository::gate::SignatureNeed;
use crate::domain::repository::health::OnFailure;
use crate::domain::repository::outcome::Outcome;
use crate::engine::action::fetch;
use crate::engine::error::one_line;
use crate::engine::repository::{Repository, upstream_refs};
use crate::engine::run::health::EndOfWait;
use crate::system::host::{self, since_boot};
use crate::system::lock::JournalStep;
use crate::system::repo_state::PollRecord;

/// The time between two looks at the records.
const BEAT: Duration = Duration::from_secs(1);

/// The revision to go back to if `target` turns out bad; `None`: the machine stays at it. A revision whose tree
/// succeeded here before never turns out bad, and no local commit is dropped.
///
/// # Errors
/// When the records cannot be read.
pub fn way_back(
    repository: &Repository,
    act: &PlannedAction,
    target: Commit,
    settings: &RepoSettings,
) -> Result<Option<Commit>> {
    if settings.health.on_failure != OnFailure::Rollback || !act.is_upstreams {
        return Ok(None);
    }
    let memory = repository.records.memory()?;
    let last = act.previous.or(memory.acted.as_ref().map(|run| run.revision));
    let last = last.filter(|last| *last != target && repository.git.has(*last));
    if last.is_none() || repository.succeeded_before(target, memory.acted.as_ref())? {
        return Ok(None);
    }
    Ok(last)
}

/// Watches for what ends the wait for the health of deployments: a hold, a rollback, and upstream back at a tree that
/// succeeded here.
pub struct CheckWatch<'a> {
    repository: &'a Repository<'a>,
    looked_at: Cell<Duration>,
    /// A person holds the repository, or rolls it back.
    is_stopped: Cell<bool>,
    /// Upstream's refs, as a tick of meanwhile listed them; not filled in where one branch is followed.
    heard: RefCell<Option<Vec<RefTip>>>,
    /// Upstream's tips, by the full names of the refs; the one that is followed has no name.
    tips: RefCell<BTreeMap<String, Commit>>,
    /// Those that were judged already; at first what is known when the action begins.
    judged: RefCell<BTreeMap<String, Commit>>,
    /// The refs whose upstream went back.
    reverted: RefCell<BTreeSet<String>>,
}

impl EndOfWait for CheckWatch<'_> {
    fn lasts(&self, step: &JournalStep) -> bool {
        if since_boot() - self.looked_at.get() >= BEAT {
            self.looked_at.set(since_boot());
            self.is_stopped.set(is_stopped(self.repository));
            self.look_upstream();
        }
        !self.is_stopped.get() && !self.is_reverted(step)
    }
}

impl<'a> CheckWatch<'a> {
    /// The watch for checks of an action that begins now.
    pub fn new(repository: &'a Repository<'a>) -> Self {
        let watch = Self {
            repository,
            looked_at: Cell::new(Duration::ZERO),
            is_stopped: Cell::new(false),
            heard: RefCell::default(),
            tips: RefCell::default(),
            judged: RefCell::default(),
            reverted: RefCell::default(),
        };
        watch.judged.replace(watch.known_tips());
        watch
    }

    /// Upstream's tips by the records.
    fn known_tips(&self) -> BTreeMap<String, Commit> {
        if !self.repository.fetches_all() {
            let tip = self.repository.polled().tip;
            return tip.map(|tip| (String::new(), tip)).into_iter().collect();
        }
        let listing = self.repository.records.listing().unwrap_or_default().unwrap_or_default();
        let tips = listing.0.into_iter().filter_map(|it| Some((it.tip.name, it.commit?)));
        tips.collect()
    }

    /// Takes note of what the ticks of meanwhile polled.
    fn look_upstream(&self) {
        if self.repository.fetches_all() {
            let heard = self.repository.records.heard(host::now());
            if heard.is_none() || *self.heard.borrow() == heard {
                return;
            }
            self.heard.replace(heard.clone());
            if let Err(error) = self.fetch_all(heard) {
                self.warn(&error);
                return;
            }
        }
        self.tips.replace(self.known_tips());
    }

    /// Fetches the refs that a tick `heard` of.
    fn fetch_all(&self, heard: Option<Vec<RefTip>>) -> Result<()> {
        let repository = self.repository;
        let polled = PollRecord { refs: heard, ..repository.polled() };
        let listing = repository.records.listing()?;
        if let Some(tips) = upstream_refs::upstream(repository, &polled, listing.as_ref()) {
            let backoff = BackoffPolicy::Respect;
            fetch::fetch_all_refs(repository, &polled, &tips, backoff, &mut |_| {})?;
        }
        Ok(())
    }

    /// Whether upstream's newest tip of the ref of `step` has a tree that succeeded there.
    fn is_reverted(&self, step: &JournalStep) -> bool {
        let name = step.reference.clone().unwrap_or_default();
        let tip = self.tips.borrow().get(&name).copied().filter(|tip| *tip != step.target);
        if let Some(tip) = tip
            && self.judged.borrow().get(&name) != Some(&tip)
        {
            self.judged.borrow_mut().insert(name.clone(), tip);
            let is_back = match &step.reference {
                Some(name) => self.is_back_at(name, tip, step.previous),
                None => self.is_back(tip),
            };
            match is_back {
                Ok(false) => {}
                Ok(true) => drop(self.reverted.borrow_mut().insert(name.clone())),
                Err(error) => self.warn(&error),
            }
        }
        self.reverted.borrow().contains(&name)
    }

    fn warn(&self, error: &anyhow::Error) {
        tracing::warn!(repository = %self.repository.repo.name, error = %one_line(error),
            "whether upstream went back is not known");
    }

    fn is_back(&self, tip: Commit) -> Result<bool> {
        let repository = self.repository;
        if !repository.git.has(tip)
            && !fetch::fetch(repository, tip, BackoffPolicy::Respect, &mut |_| {})?
        {
            return Ok(false);
        }
        let tip = repository.polled().tip.unwrap_or(tip);
        // What may not be applied here ends no check.
        if let Some(judge) = repository.signature_judge()?
            && judge.judge(tip, SignatureNeed::Signed)?.is_err()
        {
            return Ok(false);
        }
        let memory = repository.records.memory()?;
        repository.succeeded_before(tip, memory.acted.as_ref())
    }

    /// As [`CheckWatch::is_back`], of the ref `name`, where `good` succeeded last.
    fn is_back_at(&self, name: &str, tip: Commit, good: Option<Commit>) -> Result<bool> {
        let repository = self.repository;
        let Some(good) = good else { return Ok(false) };
        if let Some(judge) = repository.signature_judge()? {
            let book = repository.records.book()?;
            let applied: Vec<Commit> = book.values().filter_map(|entry| entry.good).collect();
            let id = repository.listed_id(name)?.unwrap_or(tip);
            if judge.judge_ref(name, id, tip, (Some(good), &applied))?.is_err() {
                return Ok(false);
            }
        }
        Ok(repository.succeeded_at(name, &repository.records.history()?, (good, tip)))
    }
}

/// Whether a person holds the repository, or rolls it back.
fn is_stopped(repository: &Repository) -> bool {
    let records = &repository.records;
    !records.holds(host::now()).is_empty() || records.wants_end_of_check()
}

/// Whether a ref, of several, is to leave a bad revision, and did not try to yet.
///
/// # Errors
/// When the record of the refs cannot be read.
pub fn begins_at_a_ref(repository: &Repository) -> Result<bool> {
    if repository.repo.settings.mode.refs().is_none() {
        return Ok(false);
    }
    let accepted = repository.records.memory()?.accepted;
    Ok(repository.records.book()?.values().any(|entry| entry.begins_to_go_back(accepted)))
}

/// Whether more is to be done at once behind an action that ended: going back from a bad revision, or the revert for
/// which a check was ended.
///
/// # Errors
/// When the records cannot be read.
pub fn leads_on(repository: &Repository) -> Result<bool> {
    let records = &repository.records;
    if repository.repo.settings.mode.refs().is_some() {
        let book = records.book()?;
        let mut attempts = book.values().filter_map(|entry| entry.attempt.as_ref());
        let is_reverted = attempts.any(|attempt| attempt.outcome == Outcome::Unchecked);
        return Ok(begins_at_a_ref(repository)? || (is_reverted && !is_stopped(repository)));
    }
    let memory = records.memory()?;
    let is_leaving = memory.bad.is_some_and(|bad| {
        let failed = memory.attempt.as_ref().map(|attempt| attempt.revision);
        bad.back_since.is_none() && failed.is_none_or(|failed| failed == bad.revision)
    });
    let is_reverted = memory.attempt.as_ref().is_some_and(|attempt| {
        let tip = repository.polled().tip;
        attempt.outcome == Outcome::Unchecked && tip.is_some_and(|tip| tip != attempt.revision)
    });
    Ok(is_leaving || (is_reverted && !is_stopped(repository)))
}
