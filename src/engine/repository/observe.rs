//! Opens one repository and reads it once into an `Observed`: the last answer of the remote, records,
//! refs, lock and journal. Changes nothing, decides nothing.

use std::time::Duration;

use anyhow::{Error, Result, bail};
use chrono::{DateTime, Utc};

use crate::config::RepoMode;
use crate::domain::followed::TagRelation;
use crate::domain::git::{Commit, RefName, Relation};
use crate::domain::remote::{DoubtedAnswer, PollScope};
use crate::domain::repository::drift::{self, DriftRecord, LookTimes, OnDrift};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::hold::{Hold, next_number};
use crate::domain::repository::observed::{
    BranchSwitch, Observed, OnRewrite, Policy, RunningAction, UpstreamTip,
};
use crate::domain::script_paths;
use crate::engine::context::Context;
use crate::engine::discovery::{CloneState, RepoEntry};
use crate::engine::error::{one_line, reason};
use crate::engine::repository::damage::{self, RepositoryFault};
use crate::engine::repository::gate_facts::GateRecords;
use crate::engine::repository::{Repository, machine_id, script_files, signatures, targets, tree};
use crate::system::git::{self, Git, Head};
use crate::system::host::{self, since_boot};
use crate::system::lock::{self, Journal, RunPhase};
use crate::system::pid::Process;
use crate::system::repo_state::{ActionState, LastAction, PollRecord, RepoRecords};

/// The time after its deadline within which a script and all its processes have ended.
const ENDING: Duration = Duration::from_secs(20);

/// The result of opening a repository.
pub enum OpenOutcome<'a> {
    /// It is open.
    Ready(Box<Repository<'a>>),
    /// It is not cloned yet.
    Missing,
    /// It cannot be read and may be repairable: a worker has to look. Holds the symptom.
    Damaged(String),
    /// It cannot be read or worked on. Holds the reason with the remedy.
    Broken(String),
}

impl From<RepositoryFault> for OpenOutcome<'_> {
    fn from(trouble: RepositoryFault) -> Self {
        match trouble {
            RepositoryFault::Damaged(what) => Self::Damaged(what),
            RepositoryFault::Broken(what) => Self::Broken(what),
        }
    }
}

/// Opens a repository and checks the files that its settings name.
pub fn open<'a>(context: &'a Context, repo: &'a RepoEntry) -> OpenOutcome<'a> {
    match &repo.found {
        // An invalid branch name is an error before there is a clone, too.
        CloneState::Missing => {
            return match (repo.followed(context), repo.paths.settings_fault(context, repo)) {
                (Ok(_), None) => OpenOutcome::Missing,
                (Ok(_), Some(reason)) => OpenOutcome::Broken(reason),
                (Err(error), _) => OpenOutcome::Broken(one_line(&error)),
            };
        }
        CloneState::Unfit(reason) => return OpenOutcome::Broken(reason.clone()),
        CloneState::Clone => {}
    }
    if let Some(reason) = repo.paths.settings_fault(context, repo) {
        return OpenOutcome::Broken(reason);
    }
    if let Err(error) = signatures::signers(context, repo) {
        return OpenOutcome::Broken(one_line(&error));
    }
    let repository = repository(context, repo);
    let doubtful = match &repository {
        Ok(Repository { head: Head::Branch(_, Some(_)) | Head::Detached, git, .. }) => {
            git.is_suspicious()
        }
        // HEAD is unborn or invalid; mostly a new clone.
        Ok(_) | Err(_) => true,
    };
    if doubtful && let Some(trouble) = damage::visible(repo, host::now()) {
        return trouble.into();
    }
    match repository {
        Ok(repository) => match repository.obstacle() {
            Some(reason) => OpenOutcome::Broken(reason),
            None => OpenOutcome::Ready(Box::new(repository)),
        },
        Err(error) => OpenOutcome::Broken(one_line(&error)),
    }
}

/// Opens a repository as [`open`] does, and checks the owners of everything in its `.git`, not only of
/// what [`open`] reads: before the clone is changed, and where a person asks whether all is well.
pub fn open_whole<'a>(context: &'a Context, repo: &'a RepoEntry) -> OpenOutcome<'a> {
    match open(context, repo) {
        OpenOutcome::Ready(repository) => match repository.foreign_part() {
            None => OpenOutcome::Ready(repository),
            Some(reason) => OpenOutcome::Broken(reason),
        },
        opened => opened,
    }
}

fn repository<'a>(context: &'a Context, repo: &'a RepoEntry) -> Result<Repository<'a>> {
    let followed = repo.followed(context)?;
    let branch = followed.branch().cloned();
    let mut git = Git::open_trusting(&repo.path, &repo.trust)?;
    if let Some(bytes) = repo.settings.max_file {
        git.limit_files(bytes);
    }
    let records = RepoRecords::of(git.git_dir(), &repo.path).in_format(git.format());
    let head = git.head()?;
    let (checked_out, is_unborn) = match &head {
        Head::Branch(name, commit) => (Some(name), commit.is_none()),
        _ => (None, false),
    };
    let source = match (&branch, repo.settings.mode.fetched()) {
        (Some(branch), _) => git.configured_source(branch, checked_out),
        (None, Some(_)) => git.pull_source(None).map_err(Error::msg)?,
        // Which branch `git pull` would take does not matter for a tag.
        (None, None) if followed.fixed().is_some() => {
            git.pull_source(checked_out).or_else(|_| git.pull_source(None)).map_err(Error::msg)?
        }
        (None, None) => git.pull_source(checked_out).map_err(Error::msg)?,
    };
    let is_fresh = is_unborn && records.memory().is_ok_and(|memory| memory.init_due);
    let remotes = match repo.settings.urls.as_slice() {
        [] => source.urls.clone(),
        urls => urls.to_vec(),
    };
    Ok(Repository {
        context,
        repo,
        git,
        records,
        head,
        followed,
        branch,
        source,
        is_fresh,
        remotes,
    })
}

/// The message for a stopped worker `process`, with the way to continue it.
pub fn stopped(process: Process) -> String {
    let pid = process.pid;
    format!(
        "its worker (process {pid}) was stopped and holds its lock: nothing is done here until it \
         continues\nhint: continue it: kill -CONT {pid}; or end it, and the next tick recovers: kill -KILL {pid}"
    )
}

/// The message for a worker `process` that has not ended in time.
pub fn overdue(process: Process) -> String {
    let pid = process.pid;
    format!(
        "process {pid}, which works on it, exceeded its time\n\
         hint: see what it waits for: cat /proc/{pid}/wchan; mount again a disk that does not answer; \
         or end it, and the next tick recovers: kill -KILL {pid}"
    )
}

impl Repository<'_> {
    /// The reason why another user could change something in `.git`, or on the way to a script of the
    /// worktree; `None`: all is safe.
    pub fn foreign_part(&self) -> Option<String> {
        let fault = match git::ownership::check_all(&self.repo.path, &self.repo.trust) {
            Ok(()) => {
                script_files::foreign_part(self).or_else(|| script_files::foreign_program(self))?
            }
            Err(part) => part.into(),
        };
        Some(reason(&fault))
    }

    /// The reason to leave this repository alone, if any.
    fn obstacle(&self) -> Option<String> {
        let not_ours = || self.records.obstacle();
        self.git.obstacle(&self.repo.path).or_else(not_ours).or_else(|| match &self.head {
            _ if self.publishes() => None,
            Head::Branch(..) => self.git.sparse_checkout(&self.repo.path),
            Head::Detached => Some(format!(
                "HEAD is detached: no branch is checked out; go back to one with: git -C {} switch {}",
                self.repo.path.display(),
                self.branch.as_ref().map_or("main", RefName::as_str)
            )),
            Head::NonBranch(target) => {
                Some(format!("HEAD names {target}, which is no branch under refs/heads/"))
            }
        })
    }

    /// The revision from which the next action starts: the one that is checked out now, or the one shown
    /// at the target where one branch is published.
    ///
    /// # Errors
    /// When it cannot be read, or a foreign file is at the target.
    pub fn is_at(&self) -> Result<Option<Commit>> {
        match (self.repo.settings.mode, self.git.head()?) {
            (RepoMode::Checkout, _) => targets::published_revision(self),
            (_, Head::Branch(_, commit)) => Ok(commit),
            _ => Ok(None),
        }
    }

    /// Reads everything that a decision depends on. `polled`: the last answer of the remote.
    pub fn observe(&self, polled: &PollRecord, now: DateTime<Utc>) -> Observed {
        let wanted = self.wanted();
        let branch = polled.branch.clone().or_else(|| wanted.branch().cloned());
        // With a tag or a revision, the checked-out branch stays, whatever the remote's default branch is.
        let branch = match wanted.fixed() {
            Some(_) => self.local_branch(branch.as_ref()),
            None => branch,
        };
        let mut seen = Observed {
            head: self.head_commit(),
            local_branch: self.local_branch(branch.as_ref()),
            branch,
            tag: polled.tag.clone(),
            fixed: wanted.fixed(),
            no_ref: polled.no_ref.clone(),
            doubt: DoubtedAnswer::reason(&polled.doubts, now),
            unreachable: polled.unreachable.clone(),
            other_format: polled.other_format.clone(),
            left_alone: polled.all_left_alone(&self.remotes, now),
            late: polled.lags.clone(),
            asked: polled.last_poll(!self.repo.settings.poll),
            ..Observed::default()
        };
        if let Err(error) = self.fill_records(&mut seen, now) {
            seen.broken = Some(reason(&error));
            return seen;
        }
        if let Some(reason) = self.no_upstream_branch(&seen) {
            seen.broken = Some(reason);
            return seen;
        }
        // An obstacle at a target is no damage of the repository.
        let found = match self.repo.settings.mode {
            RepoMode::Checkout => targets::published_revision(self).map(|shown| seen.head = shown),
            _ if self.fetches_all() => self.fill_refs(&mut seen, polled),
            _ => Ok(()),
        };
        let lost = found.and_then(|()| self.has_lost_release(&seen));
        match lost {
            Ok(lost) => seen.release_lost = lost,
            Err(error) => {
                seen.broken = Some(one_line(&error));
                return seen;
            }
        }
        let known = self.records.repair();
        let lacking = known.as_ref().and_then(|known| damage::lacking(self, known, now));
        let trouble = lacking.or_else(|| {
            if self.fetches_all() {
                return None;
            }
            let filled = self.fill_upstream(&mut seen, polled);
            let error = filled.and_then(|()| self.fill_bad(&mut seen)).err()?;
            Some(damage::diagnose(&self.records, one_line(&error), now))
        });
        match trouble {
            Some(RepositoryFault::Damaged(what)) => seen.damaged = Some(what),
            Some(RepositoryFault::Broken(what)) => seen.broken = Some(what),
            None => seen.repaired = known.and_then(|known| damage::mentioned(&known, now)),
        }
        seen
    }

    /// Whether a target shows a release that was lost and can be written again.
    fn has_lost_release(&self, seen: &Observed) -> Result<bool> {
        let shows_nothing = match &seen.refs {
            Some(refs) => refs.book.values().chain(refs.by_hand.values()).any(|it| it.is_lost),
            None => self.repo.settings.mode == RepoMode::Checkout && seen.head.is_none(),
        };
        Ok(shows_nothing && !targets::lost_releases(self)?.is_empty())
    }

    /// Fills in the refs, where each of several refs is published by itself.
    fn fill_refs(&self, seen: &mut Observed, polled: &PollRecord) -> Result<()> {
        let refs = targets::refs(self, polled)?;
        seen.head = seen.acted;
        seen.upstream = match (polled.known, polled.tip) {
            (false, _) => UpstreamTip::Unknown,
            (true, None) => UpstreamTip::Empty,
            (true, Some(commit)) => UpstreamTip::Tip { commit, fetched: !refs.unfetched },
        };
        seen.refs = Some(refs);
        self.fill_lost_tag(seen, polled)
    }

    /// Fills in the tag that was seen last, where upstream moved or removed it. Of several refs, the revision
    /// that is followed then stays where it is.
    fn fill_lost_tag(&self, seen: &mut Observed, polled: &PollRecord) -> Result<()> {
        let Some(tag) = &seen.tag else { return Ok(()) };
        let Some((lost, relation)) = self.lost_tag(tag)? else { return Ok(()) };
        seen.lagging = polled.lags.is_some() && relation == TagRelation::Gone;
        if seen.lagging {
            return Ok(());
        }
        seen.lost = Some(lost.commit.unwrap_or(lost.id));
        let is_refused = self.repo.settings.policy.rewritten == OnRewrite::Refuse
            && seen.accepted != Some(tag.commit);
        if let (Some(refs), true) = (&mut seen.refs, is_refused) {
            refs.tip = seen.acted;
        }
        seen.lost_tag = Some((lost, relation));
        Ok(())
    }

    /// As [`Repository::fill_upstream`], where a tag or a revision is followed.
    fn fill_fixed(&self, seen: &mut Observed, polled: &PollRecord) -> Result<()> {
        let is_here = |commit| seen.head == Some(commit) || self.git.has(commit);
        seen.upstream = match (self.wanted().revision(), polled.known, polled.tip) {
            // No remote need say that a revision exists that is here.
            (Some(commit), ..) if is_here(commit) => UpstreamTip::Tip { commit, fetched: true },
            (_, false, _) => UpstreamTip::Unknown,
            (_, true, None) => UpstreamTip::Empty,
            (_, true, Some(commit)) => {
                let has_tag = polled.tag.as_ref().map_or(Ok(true), |tag| self.has_fetched(tag))?;
                UpstreamTip::Tip { commit, fetched: has_tag && is_here(commit) }
            }
        };
        let UpstreamTip::Tip { commit: tip, fetched: true } = seen.upstream else { return Ok(()) };
        if let Some(head) = seen.head {
            seen.relation = Some(self.relation_of(head, tip)?);
        }
        match seen.relation {
            Some(Relation::Same) => Ok(()),
            _ => self.fill_lost_tag(seen, polled),
        }
    }

    /// How what is here, `local`, relates to upstream's `tip`.
    fn relation_of(&self, local: Commit, tip: Commit) -> Result<Relation> {
        if local != tip && !self.publishes() && !self.git.has(local) {
            bail!("the revision {local} that is checked out cannot be read");
        }
        match self.repo.settings.mode {
            // A target holds no local work: upstream's revision replaces whatever it shows.
            RepoMode::Checkout if local == tip => Ok(Relation::Same),
            RepoMode::Checkout => Ok(Relation::Behind),
            _ => self.git.relation(local, tip),
        }
    }

    fn fill_upstream(&self, seen: &mut Observed, polled: &PollRecord) -> Result<()> {
        if seen.fixed.is_some() {
            return self.fill_fixed(seen, polled);
        }
        seen.upstream = match (polled.known, polled.tip) {
            (false, _) => match self.last_fetched(seen.branch.as_ref())? {
                Some(commit) => UpstreamTip::Tip { commit, fetched: true },
                None => UpstreamTip::Unknown,
            },
            (true, None) => UpstreamTip::Empty,
            (true, Some(commit)) => {
                // On an idle tick the tip is checked out: no object needs to be looked up.
                let fetched = seen.head == Some(commit) || self.git.has(commit);
                UpstreamTip::Tip { commit, fetched }
            }
        };
        let UpstreamTip::Tip { commit: tip, fetched: true } = seen.upstream else { return Ok(()) };
        if let Some(head) = seen.head
            && head != tip
            && !self.git.has(head)
        {
            bail!("the revision {head} that is checked out cannot be read");
        }
        seen.switch = self.switch(seen)?;
        if let Some(local) = seen.switch.map_or(seen.head, |switch| switch.local) {
            seen.relation = Some(self.relation_of(local, tip)?);
        }
        if seen.relation == Some(Relation::Same) {
            return Ok(());
        }
        for mark in self.marks_of(seen.branch.as_ref())? {
            if self.git.contains(tip, mark)? {
                continue;
            }
            if !self.git.has(mark) {
                // It was here before. That it is missing proves nothing about upstream.
                bail!("the revision {mark} that upstream had cannot be read");
            }
            seen.lagging = polled.lags.is_some() && self.git.contains(mark, tip)?;
            seen.lost = (!seen.lagging).then_some(mark);
            break;
        }
        Ok(())
    }

    /// The furthest that upstream ever was, which the tip of `branch` has to contain.
    fn marks_of(&self, branch: Option<&RefName>) -> Result<Vec<Commit>> {
        let Some(branch) = branch else { return Ok(Vec::new()) };
        let own = self.git.kept_ref(&branch.seen())?;
        // What the branch had under its old name.
        let before = match self.wanted() {
            PollScope::WithHead(old) if old != *branch => self.git.kept_ref(&old.seen())?,
            _ => None,
        };
        // Where signatures count, a name that was the default once must not lead back to what it had then.
        let counts_both = self.repo.settings.policy.gates.signers.is_some();
        Ok(match own {
            Some(_) if !counts_both => own.into_iter().collect(),
            _ => own.into_iter().chain(before).collect(),
        })
    }

    /// The switch to the configured or renamed branch, where another one is checked out; `None`: not
    /// needed. Otherwise there is none: a person may want to stay on another branch.
    fn switch(&self, seen: &Observed) -> Result<Option<BranchSwitch>> {
        match (&seen.local_branch, &self.head) {
            _ if self.publishes() => Ok(None),
            (Some(wanted), Head::Branch(current, Some(head))) if wanted != current => {
                let local = self.git.ref_id(&wanted.local())?;
                // Under its new name the branch goes on from where it was.
                let local = local.or(Some(*head).filter(|_| self.branch.is_none()));
                Ok(Some(BranchSwitch { local }))
            }
            _ => Ok(None),
        }
    }

    /// The reason why the checked-out branch has nothing to follow, with the remedy: its configuration
    /// names no upstream, and the remote never had a branch of its name.
    fn no_upstream_branch(&self, seen: &Observed) -> Option<String> {
        let branch = &self.without_upstream()?;
        let is_lacking = !self.fetches_all()
            && seen.no_ref.is_some()
            && seen.unreachable.is_none()
            && seen.other_format.is_none();
        if !is_lacking || !matches!(self.newest_seen(branch), Ok(None)) {
            return None;
        }
        let remote = &self.source.remote;
        Some(format!(
            "the branch {branch} has no upstream here, and {remote} has no branch of that name\n\
             hint: git -C {} branch --set-upstream-to={remote}/BRANCH {branch}; or push it to {remote}; \
             or set branch",
            self.repo.path.display()
        ))
    }

    /// The tip that was fetched last, where the agent has fetched before: what only a person fetched is
    /// not taken without an answer of the remote.
    fn last_fetched(&self, branch: Option<&RefName>) -> Result<Option<Commit>> {
        let Some(branch) = branch else { return Ok(None) };
        match self.git.kept_ref(&branch.seen())? {
            Some(_) => self.git.ref_id(&self.tracking(branch)),
            None => Ok(None),
        }
    }

    fn fill_records(&self, seen: &mut Observed, now: DateTime<Utc>) -> Result<()> {
        let memory = self.records.memory();
        let (last, at) = self.records.last_action();
        // What another machine deployed before this one was made from its disk is not deployed here.
        let elsewhere = |memory| machine_id::made_elsewhere(self.context, memory);
        if let LastAction::Revision(commit) = last
            && !memory.as_ref().is_ok_and(elsewhere)
        {
            seen.acted = Some(commit);
            seen.acted_at = at;
        }
        let memory = memory?;
        seen.id_is_late = machine_id::id_is_late(self.context, &memory);
        let ActionState { attempt, tried, verdict, accepted, acted, tree_when, gaps, .. } = memory;
        (seen.unheld, seen.ignored_keys) = (memory.unheld, memory.ignored_keys);
        seen.gaps = gaps.filter(|gaps| Some(gaps.revision) == seen.acted);
        let signers = signatures::signers(self.context, self.repo)?;
        let hash = signers.as_ref().map(|file| file.hash.as_str());
        let counts = |finding: &Finding| {
            finding.counts(|| self.git.max_file(), &self.repo.settings.publish.shared, hash)
        };
        let verdict = verdict.filter(|verdict| counts(&verdict.finding));
        (seen.attempt, seen.verdict, seen.accepted) = (attempt, verdict, accepted);
        seen.is_tried = !tried.is_empty();
        let acted_run = acted.as_ref().filter(|run| Some(run.revision) == seen.acted);
        seen.acted_tag = acted_run.and_then(|run| run.tag.clone());
        seen.pin = self.records.pin()?;
        let ran_nothing =
            acted.as_ref().is_some_and(|run| Some(run.revision) == seen.acted && run.ran_nothing());
        if self.runs_scripts() && ran_nothing {
            let Context { part, stack, .. } = self.context;
            seen.no_script = Some(script_paths::nothing_to_run(part.as_deref(), stack.as_deref()));
        }
        (seen.last_success, seen.tree_when) = (acted, tree_when);
        seen.bad = memory.bad;
        seen.actions = memory.actions;
        self.fill_drift(seen, memory.drift, memory.written, now);
        seen.holds = self.records.holds(now);
        let policy = &self.repo.settings.policy.gates;
        if policy.is_set() || policy.asks_before || policy.signers.is_some() {
            let (sight, begun, allowed) = (memory.sight, memory.begun, memory.allowed);
            let gates = GateRecords { sight, begun, allowed, is_our_clone: memory.init_due };
            seen.gates = self.gate_facts(seen, gates, now)?;
            seen.gates.signed = memory.signed;
            seen.gates.signed.retain(|it| Some(it.signers.as_str()) == hash);
        }
        self.fill_run(seen)
    }

    /// Fills in what the last comparison of the files found, and when the next one is.
    fn fill_drift(
        &self,
        seen: &mut Observed,
        drift: Option<DriftRecord>,
        written: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) {
        let (settings, node) = (&self.repo.settings, &self.context.node);
        let policy = &settings.policy.drift;
        seen.has_no_files = self.publishes() && settings.target().is_none();
        seen.look_times = LookTimes {
            offset: drift::offset(&node.machine_id, &node.host, &self.repo.name, policy.every),
            looked: drift.as_ref().map(|known| known.at),
            installed: if drift.is_none() { host::installed_at() } else { None },
            written: written.or(seen.acted_at).filter(|_| seen.acted.is_some()),
        };
        seen.drift = drift.filter(|_| policy.on != OnDrift::Ignore && !seen.has_no_files);
        if let Some(drift) = &mut seen.drift {
            drift.repaired.take_if(|repair| now - repair.at > drift::MENTIONED_FOR);
        }
    }

    /// Fills in the run in progress, the one that died, and a foreign `currentaction.txt`.
    fn fill_run(&self, seen: &mut Observed) -> Result<()> {
        let current = lock::current_action(&self.records);
        let journal = lock::journal(&self.records)?;
        if let Some(journal) = &journal {
            if let Some(running) = self.going_on(journal) {
                seen.running = Some(running);
                return Ok(());
            }
            // A worker that observes again during its own run left no stale journal.
            seen.stale_journal = journal.worker != Process::current();
        }
        let Some(current) = current else { return Ok(()) };
        let ours = match &journal {
            Some(journal) => current.is_of(journal),
            // A run may have ended between the two reads: then this file is gone as well.
            None => lock::current_action(&self.records)
                .is_none_or(|again| again.identity != current.identity),
        };
        if !ours {
            let number = next_number(&seen.holds);
            seen.holds.push(Hold { number, ..current.as_hold() });
        }
        Ok(())
    }

    /// The policy for the checked-out revision: its own `.pmpy.toml` may set `when`.
    pub fn policy(&self, seen: &Observed) -> Policy {
        let settings = &self.repo.settings;
        let mut policy = settings.policy.clone();
        let known = seen.tree_when.filter(|known| Some(known.revision) == seen.head);
        let when = match (known, seen.head) {
            (Some(known), _) => known.when,
            (None, Some(head)) => tree::tree_settings(&self.git, head).unwrap_or_default().when,
            (None, None) => None,
        };
        if let (Some(when), false) = (when, settings.fixed.when) {
            policy.when = when;
        }
        policy
    }

    /// The run of `journal`, if another process continues it: its worker, or a script that outlived the
    /// worker and has time left.
    fn going_on(&self, journal: &Journal) -> Option<RunningAction> {
        if journal.boot_id != self.context.node.boot_id || journal.worker == Process::current() {
            return None;
        }
        let scripts = || journal.phase.scripts().filter(|script| script.process.lives());
        let (pid, works) = match scripts().find(|script| since_boot() < script.deadline) {
            Some(script) => (script.process.pid, journal.worker.lives()),
            None if journal.worker.lives() => (journal.worker.pid, true),
            None => return None,
        };
        // Only a live worker ends a script at its deadline.
        let late = scripts().find(|it| since_boot() > it.deadline + ENDING);
        let stalled = match late {
            _ if works && journal.worker.is_stopped() => Some(stopped(journal.worker)),
            Some(script) if works => Some(overdue(script.process)),
            _ => None,
        };
        let revision = match &journal.phase {
            RunPhase::Before { revision, .. } => Some(*revision),
            phase => phase.step().map(|step| step.target),
        };
        let checks_health = matches!(journal.phase, RunPhase::Run { checks_health: true, .. });
        Some(RunningAction { revision, since: journal.since, checks_health, pid, stalled })
    }
}
