//! Many refs at their targets: what is gone goes, what is new is written side by side, checked, shown,
//! and told of. One bad ref stops no other, and a death anywhere leaves what the next run puts right.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::gate::Passage;
use super::stage::{self, Known, Ready, Stop};
use super::{Shelf, marks, short_name};
use crate::domain::action::{Attempt, Begun, Finished, Outcome, Trigger};
use crate::domain::git::Commit;
use crate::domain::plan::TreeWhen;
use crate::domain::publication::{Book, Due, Publishing};
use crate::domain::publish::Target;
use crate::engine::observe::{Site, one_line};
use crate::engine::scripts::{self, seconds_since};
use crate::engine::steer;
use crate::system::git::{ACTED, Head};
use crate::system::lock::{ActionLock, Ending, Journal, Step};
use crate::system::logs::{self, Log};
use crate::system::release::Staged;
use crate::system::{node, syslog};

mod places;

/// Brings the targets up to date, as `plan` says, and records it.
///
/// # Errors
/// When the repository cannot be read, or a record not be written. What hinders a single ref is
/// written down as its attempt.
pub fn carry_out(
    site: &Site,
    lock: &ActionLock,
    journal: Journal,
    plan: &Publishing,
    trigger: Trigger,
) -> Result<()> {
    let mut journal = journal;
    if let Some(target) = site.repo.settings.target()
        && !(plan.publish.is_empty() && plan.remove.is_empty())
    {
        let step = first_step(site, plan)?;
        if let Some(hold) = lock.announce(&mut journal, step)? {
            tracing::info!(repository = %site.repo.name, by = %hold.by, "held");
            return lock.clear();
        }
        let done =
            Round::new(site, lock, &mut journal, target, trigger).and_then(|round| round.go(plan));
        // Whatever went wrong: without its journal this file would be taken for somebody's wish.
        lock.withdraw(&journal)?;
        done?;
    }
    // What was done just now may be what was missing to call the followed branch acted upon.
    let seen = site.observe(&site.records.polled(), node::now());
    if let Some(revision) = seen.refs.as_ref().and_then(|refs| refs.to_record(&seen)) {
        record(site, &journal, revision, trigger)?;
    }
    lock.clear()
}

/// What people see in `currentaction.txt`: the followed branch's revision, or the first that is due.
fn first_step(site: &Site, plan: &Publishing) -> Result<Step> {
    let seen = site.records.last_action().0;
    let acted = match seen {
        crate::system::record::LastAction::Revision(commit) => Some(commit),
        _ => None,
    };
    let first = plan.publish.first().map(|due| due.revision);
    let Some(target) = plan.record.or(first).or(acted).or(site.head_commit()) else {
        bail!("there is no revision to name")
    };
    step(site, target, acted, 1)
}

fn step(site: &Site, target: Commit, previous: Option<Commit>, attempt: u32) -> Result<Step> {
    let branch = match (&site.branch, &site.head) {
        (Some(branch), _) | (None, Head::Branch(branch, _)) => branch.clone(),
        _ => "main".parse()?,
    };
    Ok(Step {
        branch,
        reference: None,
        head: None,
        target,
        previous,
        attempt,
        resumed: false,
        current: None,
        script: None,
        culprit: None,
        log: None,
        ended: None,
    })
}

/// Records that the followed branch's revision was acted upon.
fn record(site: &Site, journal: &Journal, revision: Commit, trigger: Trigger) -> Result<()> {
    let mut memory = site.records.memory()?;
    let known = site.records.history()?;
    // Where it was published, its own entry says more than one of ours could.
    let known = known.iter().rev().find(|run| {
        run.revision == revision && run.outcome == Outcome::Succeeded && run.reference.is_some()
    });
    let finished = match known {
        Some(run) => run.clone(),
        None => Finished {
            id: format!("{}-fetched", journal.id),
            at: node::now(),
            revision,
            subject: site.git.subject(revision),
            reference: None,
            previous: memory.acted.as_ref().map(|run| run.revision),
            trigger,
            outcome: Outcome::Succeeded,
            attempt: 1,
            seconds: seconds_since(journal.since, node::now()),
            log: None,
        },
    };
    site.records.prepare_last_action(revision)?.commit()?;
    if known.is_none() {
        site.records.add_to_history(&finished)?;
    }
    site.git.set_logged_ref(ACTED, revision, &format!("{trigger}: fetched"))?;
    (memory.attempt, memory.verdict, memory.accepted) = (None, None, None);
    memory.acted = Some(finished);
    // `when` of a revision has no meaning here, and is not looked for again.
    memory.tree_when = Some(TreeWhen { revision, when: None });
    site.records.put_memory(&memory)
}

/// Writes down that `after` or `before` of a ref was cut off.
///
/// # Errors
/// When it cannot be written.
pub fn cut_off(site: &Site, step: &Step) -> Result<()> {
    let Some(name) = &step.reference else { return Ok(()) };
    let mut book = site.records.book()?;
    let Some(entry) = book.get_mut(name) else { return Ok(()) };
    if entry.good == Some(step.target) {
        // It came to its end and was written down, and the run died behind that.
        return Ok(());
    }
    let (host, now) = (&site.here.node.host, node::now());
    entry.attempt = Some(Attempt::after(
        Outcome::Interrupted,
        step.target,
        step.attempt,
        entry.attempt.as_ref(),
        host,
        now,
    ));
    site.records.put_book(&book)
}

/// One pass over the targets.
struct Round<'a, 's> {
    site: &'a Site<'s>,
    lock: &'a ActionLock,
    journal: &'a mut Journal,
    shelf: Shelf,
    book: Book,
    trigger: Trigger,
    began: DateTime<Utc>,
    logs: BTreeMap<String, Log>,
    finished: Vec<Finished>,
}

impl<'a, 's> Round<'a, 's> {
    fn new(
        site: &'a Site<'s>,
        lock: &'a ActionLock,
        journal: &'a mut Journal,
        target: Target,
        trigger: Trigger,
    ) -> Result<Self> {
        let shelf = Shelf::make(site, target)?;
        shelf.sweep(site);
        let book = super::actual(site)?;
        let (logs, finished) = (BTreeMap::new(), Vec::new());
        let began = node::now();
        Ok(Self { site, lock, journal, shelf, book, trigger, began, logs, finished })
    }

    fn go(mut self, plan: &Publishing) -> Result<()> {
        self.remove(&plan.remove)?;
        let staged = stage::all(self.site, &self.shelf, &plan.publish, self.known())?;
        let ready = self.judge(&plan.publish, staged)?;
        let shown = self.show(ready)?;
        let left = self.leave(&shown)?;
        self.tell(&shown)?;
        let retired = self.retire(&shown);
        // Whatever resists there: what was done is written down.
        self.save()?;
        self.site.records.add_all_to_history(&self.finished)?;
        let retired = retired?;
        if retired {
            // Behind the records, which wait for the same disk: this costs little then.
            self.shelf.store.settle()?;
        }
        let renewed = self.known() == Known::Renewed;
        if retired || left || renewed || !plan.remove.is_empty() {
            self.shelf.sweep(self.site);
        }
        let ended = node::now();
        let folder = steer::log_folder(self.site.here, &self.site.repo.name);
        if self.finished.iter().any(|run| run.log.is_some()) {
            logs::prune(&folder, ended)?;
        }
        Ok(())
    }

    /// Retires the releases that nobody asks for any more of those that were `shown`; whether there
    /// was one.
    fn retire(&mut self, shown: &[Due]) -> Result<bool> {
        let keep = self.site.repo.settings.publish.keep;
        let mut surplus = Vec::new();
        for due in shown {
            let Some(entry) = self.book.get_mut(&due.name) else { continue };
            let place = self.shelf.place(&due.directory)?;
            surplus.extend(self.shelf.store.surplus(&place, &entry.keep(keep))?);
        }
        if surplus.is_empty() {
            return Ok(false);
        }
        // The links are on disk, lest one that a power cut brings back shows nothing.
        surplus.iter().try_for_each(|release| self.shelf.store.retire(release))?;
        Ok(true)
    }

    /// Lets `before` judge what was staged, and gives what may be shown its place in the book.
    fn judge(
        &mut self,
        dues: &[Due],
        staged: Vec<Result<Ready, Stop>>,
    ) -> Result<Vec<(Due, Option<Staged>)>> {
        let mut ready = Vec::new();
        let mut new_place = false;
        let holders = self.book.iter();
        let holders: BTreeMap<String, String> = holders
            .filter_map(|(name, entry)| Some((entry.directory.clone()?, name.clone())))
            .collect();
        for (due, staged) in dues.iter().zip(staged) {
            let now = self.began;
            new_place |= self.give_place(due, &holders);
            let staged = match staged {
                Ok(Ready::Kept) => None,
                Ok(Ready::Staged(staged)) => Some(staged),
                Err(Stop::Verdict(finding)) => {
                    self.log_line(&due.name, &finding.told().1);
                    if let Some(entry) = self.book.get_mut(&due.name) {
                        entry.verdict = Some((due.revision, finding));
                        entry.since = now;
                    }
                    continue;
                }
                Err(Stop::Hindered(reason)) => {
                    self.failed(due, Outcome::Hindered { reason }, None);
                    continue;
                }
            };
            scripts::tell_begun(Begun {
                repo: self.site.repo.name.clone(),
                reference: Some(due.name.clone()),
                revision: due.revision,
                previous: self.book.get(&due.name).and_then(|entry| entry.good),
                at: now,
            });
            if let Some(staged) = &staged
                && !self.site.repo.settings.publish.before.is_empty()
            {
                // Written down before a program may kill us.
                self.save()?;
                let outcome =
                    self.passage(due, |passage, journal| passage.before(journal, staged.path()));
                let outcome = hindered(outcome);
                if outcome != Outcome::Succeeded {
                    let log = self.end_log(due, &outcome);
                    self.failed(due, outcome, log);
                    continue;
                }
            }
            ready.push((due.clone(), staged));
        }
        if new_place {
            // Before it is shown: what nobody wrote down, nobody may take away again.
            self.save()?;
        }
        Ok(ready)
    }

    /// Shows what is ready, all of it at about the same time.
    fn show(&mut self, ready: Vec<(Due, Option<Staged>)>) -> Result<Vec<Due>> {
        if ready.is_empty() {
            return Ok(Vec::new());
        }
        self.shelf.store.settle()?;
        let mut shown = Vec::new();
        for (due, staged) in ready {
            let sealed = staged.map_or(Ok(()), |staged| self.known().seal(staged));
            shown.push((due, sealed));
        }
        self.shelf.store.settle()?;
        let mut done = Vec::new();
        for (due, sealed) in shown {
            let place = self.shelf.place(&due.directory)?;
            match sealed.and_then(|()| self.shelf.store.show(&place, due.revision)) {
                Ok(()) => {
                    if let Some(entry) = self.book.get_mut(&due.name) {
                        entry.show(due.revision, self.began);
                    }
                    marks::raise(self.site, &due.name, due.revision);
                    done.push(due);
                }
                Err(error) => {
                    let reason = one_line(&error);
                    self.failed(&due, Outcome::Hindered { reason }, None);
                }
            }
        }
        if !done.is_empty() {
            self.shelf.store.settle()?;
        }
        if self.has_after() {
            self.save()?;
        }
        Ok(done)
    }

    /// Runs `after` for each, and writes down how that ended.
    fn tell(&mut self, shown: &[Due]) -> Result<()> {
        for due in shown {
            if let Some(entry) = self.book.get_mut(&due.name)
                && entry.good == Some(due.revision)
            {
                // Done again, it is good once that succeeds: a death before it must not hide it.
                entry.good = None;
                self.save()?;
            }
            let outcome = if self.has_after() {
                hindered(self.passage(due, |passage, journal| passage.after(journal)))
            } else {
                Outcome::Succeeded
            };
            let log = self.end_log(due, &outcome);
            if outcome == Outcome::Succeeded {
                self.succeeded(due, log);
            } else {
                self.failed(due, outcome, log);
            }
            if self.has_after() {
                self.save()?;
            }
        }
        Ok(())
    }

    /// What becomes of releases that are there already.
    fn known(&self) -> Known {
        Known::when(self.trigger)
    }

    fn has_after(&self) -> bool {
        !self.site.repo.settings.publish.after.is_empty()
    }

    fn passage(
        &mut self,
        due: &Due,
        run: impl FnOnce(&mut Passage, &mut Journal) -> Result<Outcome>,
    ) -> Result<Outcome> {
        let previous = self.book.get(&due.name).and_then(|entry| entry.good);
        let mut step = step(self.site, due.revision, previous, due.attempt)?;
        step.resumed = due.resumed;
        step.reference = Some(due.name.clone());
        step.current = self.journal.step.as_ref().and_then(|step| step.current.clone());
        let mut passage = Passage {
            site: self.site,
            lock: self.lock,
            settings: &self.site.repo.settings,
            step,
            reference: due.name.clone(),
            trigger: self.trigger,
            target: &self.shelf.path(&due.directory),
            log: self.logs.remove(&due.name),
        };
        let outcome = run(&mut passage, self.journal);
        if let Some(log) = passage.log {
            self.logs.insert(due.name.clone(), log);
        }
        outcome
    }

    /// The name of the log of `due`, which ends here.
    fn end_log(&mut self, due: &Due, outcome: &Outcome) -> Option<String> {
        let log = self.logs.remove(&due.name)?;
        let name = log.name().to_owned();
        let now = node::now();
        log.finish(now, outcome, seconds_since(self.began, now));
        Some(name)
    }

    fn succeeded(&mut self, due: &Due, log: Option<String>) {
        let finished = self.finish(due, Outcome::Succeeded, log);
        if let Some(entry) = self.book.get_mut(&due.name) {
            entry.good = Some(due.revision);
            entry.attempt = None;
        }
        self.finished.push(finished);
    }

    fn failed(&mut self, due: &Due, outcome: Outcome, log: Option<String>) {
        let finished = self.finish(due, outcome.clone(), log);
        let host = &self.site.here.node.host;
        if let Some(entry) = self.book.get_mut(&due.name) {
            let before = entry.attempt.as_ref();
            let at = finished.at;
            entry.attempt =
                Some(Attempt::after(outcome, due.revision, due.attempt, before, host, at));
        }
        self.finished.push(finished);
    }

    fn finish(&self, due: &Due, outcome: Outcome, log: Option<String>) -> Finished {
        let at = node::now();
        let ending = Ending { outcome, seconds: seconds_since(self.began, at), at };
        let level = match ending.outcome {
            Outcome::Succeeded => syslog::Level::Info,
            _ => syslog::Level::Warning,
        };
        let (repo, name) = (&self.site.repo.name, short_name(&due.name).escape_debug());
        let revision = due.revision.short();
        syslog::tell(level, &format!("{repo}: {name} {revision} {}", ending.outcome));
        Finished {
            id: format!("{}-{}", self.journal.id, due.name),
            at,
            revision: due.revision,
            subject: self.site.git.subject(due.revision),
            reference: Some(due.name.clone()),
            previous: self.book.get(&due.name).and_then(|entry| entry.good),
            trigger: self.trigger,
            outcome: ending.outcome,
            attempt: due.attempt,
            seconds: ending.seconds,
            log,
        }
    }

    fn log_line(&self, name: &str, what: &str) {
        tracing::info!(repository = %self.site.repo.name, reference = %name.escape_debug(), what);
    }

    fn save(&self) -> Result<()> {
        self.site.records.put_book(&self.book)
    }
}

/// What could not even be run hinders its own ref, and no other.
fn hindered(outcome: Result<Outcome>) -> Outcome {
    outcome.unwrap_or_else(|error| Outcome::Hindered { reason: one_line(&error) })
}
