//! What is: one repository read once, from the remote's last answer to the lock.

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::repair::{self, Trouble};
use super::roster::{Found, Repo};
use super::{Here, apply, publish, scripts};
use crate::config::Mode;
use crate::domain::git::{Commit, RefName, Relation, Remote};
use crate::domain::plan::{Observed, Policy, Running, Switch, Upstream};
use crate::domain::remote::Wanted;
use crate::system::files::Fault;
use crate::system::git::{self, Git, Head};
use crate::system::lock::{self, Journal};
use crate::system::node::{self, since_boot};
use crate::system::pid::Process;
use crate::system::record::{LastAction, Memory, Polled, Records};

/// A repository that can be looked into.
pub struct Site<'a> {
    /// This machine.
    pub here: &'a Here,
    /// Which.
    pub repo: &'a Repo,
    /// Its objects and refs.
    pub git: Git,
    /// What is remembered of it.
    pub records: Records,
    /// What HEAD is.
    pub head: Head,
    /// The configured branch.
    pub branch: Option<RefName>,
    /// Where it is pulled from, in order.
    pub remotes: Vec<Remote>,
}

/// A repository, opened or not.
pub enum Opened<'a> {
    /// It can be looked into.
    Ready(Box<Site<'a>>),
    /// It is to be cloned.
    Missing,
    /// It cannot be read, which may be put right without a person: a worker is to look.
    Damaged(String),
    /// It cannot be read or worked on: why, with the remedy.
    Broken(String),
}

impl From<Trouble> for Opened<'_> {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Damaged(what) => Self::Damaged(what),
            Trouble::Broken(what) => Self::Broken(what),
        }
    }
}

/// Opens a repository.
pub fn open<'a>(here: &'a Here, repo: &'a Repo) -> Opened<'a> {
    match repo.found {
        // A branch that cannot be named is wrong before there is a clone as well.
        Found::Missing => {
            return match repo.branch(here) {
                Ok(_) => Opened::Missing,
                Err(error) => Opened::Broken(one_line(&error)),
            };
        }
        Found::Unfit(reason) => return Opened::Broken(reason.to_owned()),
        Found::Clone => {}
    }
    let site = site(here, repo);
    let doubtful = match &site {
        Ok(Site { head: Head::Branch(_, Some(_)) | Head::Detached, git, .. }) => {
            git::repair::is_suspicious(git.git_dir())
        }
        // Unborn, or none that git would write; mostly a new clone.
        Ok(_) | Err(_) => true,
    };
    if doubtful && let Some(trouble) = repair::visible(here, repo, node::now()) {
        return trouble.into();
    }
    match site {
        Ok(site) => match site.obstacle() {
            Some(reason) => Opened::Broken(reason),
            None => Opened::Ready(Box::new(site)),
        },
        Err(error) => Opened::Broken(one_line(&error)),
    }
}

fn site<'a>(here: &'a Here, repo: &'a Repo) -> Result<Site<'a>> {
    let branch = repo.branch(here)?;
    let git = Git::open(&repo.path)?;
    let records = Records::of(git.git_dir(), &repo.path);
    let head = git.head()?;
    let remotes = match repo.settings.urls.as_slice() {
        [] => git.origin().into_iter().collect(),
        urls => urls.to_vec(),
    };
    Ok(Site { here, repo, git, records, head, branch, remotes })
}

/// An error chain as one sentence, for a `reason`; with the remedy where the disk is to blame.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string().replace("\nhint: ", "; ").replace('\n', " ");
        // libgit2 and we may say the same thing twice.
        if !parts.iter().any(|known| known.contains(&text)) {
            parts.push(text);
        }
    }
    let remedy = Fault::of(error).map_or_else(String::new, |fault| format!("; {}", fault.remedy()));
    parts.join(": ") + &remedy
}

/// An error chain as a `reason`: its causes in one sentence, and behind `\nhint: ` all its remedies.
pub fn reason(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let (sentence, hint) = split(&text);
        let sentence = sentence.replace('\n', " ");
        if !said.iter().any(|known| known.contains(&sentence)) {
            said.push(sentence);
        }
        hints.extend(hint.map(|hint| hint.replace('\n', " ")));
    }
    hints.extend(Fault::of(error).map(|fault| fault.remedy().to_owned()));
    with_hints(said.join(": "), hints)
}

/// Several reasons as one.
pub fn joined(reasons: &[String]) -> String {
    let (said, hints): (Vec<_>, Vec<_>) = reasons.iter().map(|reason| split(reason)).unzip();
    with_hints(said.join("; "), hints.into_iter().flatten().map(str::to_owned).collect())
}

fn split(reason: &str) -> (&str, Option<&str>) {
    match reason.split_once("\nhint: ") {
        Some((sentence, hint)) => (sentence, Some(hint)),
        None => (reason, None),
    }
}

fn with_hints(sentence: String, mut hints: Vec<String>) -> String {
    hints.dedup();
    match hints.as_slice() {
        [] => sentence,
        hints => format!("{sentence}\nhint: {}", hints.join("; ")),
    }
}

impl Site<'_> {
    /// Why nothing may be done here.
    fn obstacle(&self) -> Option<String> {
        let not_ours = || self.records.obstacle();
        self.git.obstacle(&self.repo.path).or_else(not_ours).or_else(|| match &self.head {
            _ if self.publishes() => None,
            Head::Branch(..) => None,
            Head::Detached => Some(format!(
                "HEAD is detached: no branch is checked out; go back to one with: git -C {} switch {}",
                self.repo.path.display(),
                self.branch.as_ref().map_or("main", RefName::as_str)
            )),
            Head::Odd(target) => {
                Some(format!("HEAD names {target}, which is no branch under refs/heads/"))
            }
        })
    }

    /// The checked-out commit.
    pub fn head_commit(&self) -> Option<Commit> {
        match self.head {
            Head::Branch(_, commit) => commit,
            _ => None,
        }
    }

    /// What is followed from here on: the commit that is checked out by now, or the one that is shown
    /// where one branch is published.
    ///
    /// # Errors
    /// When it cannot be read, or something of somebody else's is at the target.
    pub fn stands_at(&self) -> Result<Option<Commit>> {
        match (self.repo.settings.mode, self.git.head()?) {
            (Mode::Checkout, _) => publish::shown(self),
            (_, Head::Branch(_, commit)) => Ok(commit),
            _ => Ok(None),
        }
    }

    /// Which branch to ask the remote for: the configured one, else the one that is checked out,
    /// else (a fresh clone) the remote's default.
    pub fn wanted(&self) -> Wanted {
        if let Some(kinds) = self.repo.settings.mode.fetched() {
            return Wanted::Every { branch: self.branch.clone(), kinds };
        }
        match (&self.branch, &self.head) {
            (Some(branch), _) => Wanted::Branch(branch.clone()),
            (None, Head::Branch(branch, Some(_))) => Wanted::Preferably(branch.clone()),
            _ => Wanted::Default,
        }
    }

    /// Reads everything that a decision depends on. `polled` is what the remote said.
    pub fn observe(&self, polled: &Polled, now: DateTime<Utc>) -> Observed {
        let mut seen = Observed {
            head: self.head_commit(),
            branch: polled.branch.clone().or_else(|| self.branch.clone()),
            unreachable: polled.unreachable.clone(),
            left_alone: polled.all_left_alone(&self.remotes, now),
            late: polled.lags.clone(),
            asked: polled.asked(),
            ..Observed::default()
        };
        if let Err(error) = self.fill_records(&mut seen, now) {
            seen.broken = Some(one_line(&error));
            return seen;
        }
        // What stands in the way at a target is no damage.
        let found = match self.repo.settings.mode {
            Mode::Checkout => publish::shown(self).map(|shown| seen.head = shown),
            _ if self.fetches_all() => self.fill_refs(&mut seen, polled),
            _ => Ok(()),
        };
        if let Err(error) = found {
            seen.broken = Some(one_line(&error));
            return seen;
        }
        let known = self.records.repair();
        let lacking = known.as_ref().and_then(|known| repair::lacking(self, known, now));
        let trouble = lacking.or_else(|| {
            if self.fetches_all() {
                return None;
            }
            let error = self.fill_upstream(&mut seen, polled).err()?;
            Some(repair::judge(&self.records, one_line(&error), now))
        });
        match trouble {
            Some(Trouble::Damaged(what)) => seen.damaged = Some(what),
            Some(Trouble::Broken(what)) => seen.broken = Some(what),
            None => seen.repaired = known.and_then(|known| repair::mentioned(&known, now)),
        }
        seen
    }

    /// What is here where each of several refs is acted upon by itself.
    fn fill_refs(&self, seen: &mut Observed, polled: &Polled) -> Result<()> {
        let refs = publish::refs(self, polled)?;
        seen.head = seen.acted;
        seen.upstream = match (polled.known, polled.tip) {
            (false, _) => Upstream::Unknown,
            (true, None) => Upstream::Empty,
            (true, Some(commit)) => Upstream::Tip { commit, fetched: !refs.unfetched },
        };
        seen.refs = Some(refs);
        Ok(())
    }

    fn fill_upstream(&self, seen: &mut Observed, polled: &Polled) -> Result<()> {
        seen.upstream = match (polled.known, polled.tip) {
            (false, _) => match self.last_fetched(seen.branch.as_ref())? {
                Some(commit) => Upstream::Tip { commit, fetched: true },
                None => Upstream::Unknown,
            },
            (true, None) => Upstream::Empty,
            (true, Some(commit)) => {
                // On an idle tick the tip is what is checked out: no object needs to be looked up.
                let fetched = seen.head == Some(commit) || self.git.has(commit);
                Upstream::Tip { commit, fetched }
            }
        };
        let Upstream::Tip { commit: tip, fetched: true } = seen.upstream else { return Ok(()) };
        if let Some(head) = seen.head
            && head != tip
            && !self.git.has(head)
        {
            bail!("the revision {head} that is checked out cannot be read");
        }
        seen.switch = self.switch(seen)?;
        if let Some(local) = seen.switch.map_or(seen.head, |switch| switch.local) {
            seen.relation = Some(match self.repo.settings.mode {
                // What is shown is nobody's work: whatever it is, upstream's comes in its place.
                Mode::Checkout if local == tip => Relation::Same,
                Mode::Checkout => Relation::Behind,
                _ => self.git.relation(local, tip)?,
            });
        }
        if seen.relation == Some(Relation::Same) {
            return Ok(());
        }
        let mark = match &seen.branch {
            Some(branch) => self.git.kept_ref(&branch.seen())?,
            None => None,
        };
        if let Some(mark) = mark
            && !self.git.contains(tip, mark)?
        {
            seen.lagging = polled.lags.is_some() && self.git.contains(mark, tip)?;
            seen.lost = (!seen.lagging).then_some(mark);
        }
        Ok(())
    }

    /// Only to a configured branch: whoever checks out another one without that may want to stay.
    fn switch(&self, seen: &Observed) -> Result<Option<Switch>> {
        match (&self.branch, &self.head) {
            _ if self.publishes() => Ok(None),
            (Some(wanted), Head::Branch(current, Some(_)))
                if wanted != current && seen.branch.as_ref() == Some(wanted) =>
            {
                Ok(Some(Switch { local: self.git.ref_commit(&wanted.local())? }))
            }
            _ => Ok(None),
        }
    }

    fn last_fetched(&self, branch: Option<&RefName>) -> Result<Option<Commit>> {
        let branch = match (branch, &self.head) {
            (Some(branch), _) => branch,
            (None, Head::Branch(branch, _)) => branch,
            _ => return Ok(None),
        };
        self.git.ref_commit(&branch.tracking())
    }

    fn fill_records(&self, seen: &mut Observed, now: DateTime<Utc>) -> Result<()> {
        let memory = self.records.memory()?;
        let (last, at) = self.records.last_action();
        // What another machine did before this one was made of its disk is not done here.
        if let LastAction::Revision(commit) = last
            && !scripts::made_elsewhere(self.here, &memory)
        {
            seen.acted = Some(commit);
            seen.acted_at = at;
        }
        seen.id_is_late = scripts::id_is_late(self.here, &memory);
        let Memory { attempt, verdict, accepted, acted, tree_when, .. } = memory;
        (seen.attempt, seen.verdict, seen.accepted) = (attempt, verdict, accepted);
        seen.pin = self.records.pin()?;
        (seen.last_success, seen.tree_when) = (acted, tree_when);
        seen.holds.extend(
            self.records.hold(now).filter(|hold| hold.until.is_none_or(|until| until > now)),
        );
        self.fill_run(seen)
    }

    /// The run that goes on, the one that died, and a `currentaction.txt` of neither.
    fn fill_run(&self, seen: &mut Observed) -> Result<()> {
        let current = lock::current_action(&self.records);
        let journal = lock::journal(&self.records)?;
        if let Some(journal) = &journal {
            if let Some(running) = self.going_on(journal) {
                seen.running = Some(running);
                return Ok(());
            }
            // A worker that looks again in the middle of its own run left nothing.
            seen.leftover = journal.worker != Process::current();
        }
        let Some(current) = current else { return Ok(()) };
        let ours = match &journal {
            Some(journal) => current.is_of(journal),
            // Between our two looks a run may have ended: then this file is gone as well.
            None => lock::current_action(&self.records)
                .is_none_or(|again| again.identity != current.identity),
        };
        if !ours {
            seen.holds.push(current.as_hold());
        }
        Ok(())
    }

    /// The policy for the revision that is checked out: its own `.pmpy.toml` may say when to act.
    pub fn policy(&self, seen: &Observed) -> Policy {
        let settings = &self.repo.settings;
        let mut policy = settings.policy.clone();
        let known = seen.tree_when.filter(|known| Some(known.revision) == seen.head);
        let when = match (known, seen.head) {
            (Some(known), _) => known.when,
            (None, Some(head)) => apply::tree_settings(&self.git, head).unwrap_or_default().when,
            (None, None) => None,
        };
        if let (Some(when), false) = (when, settings.fixed.when) {
            policy.when = when;
        }
        policy
    }

    /// The run of `journal`, if somebody else goes on with it: its worker, or a script that outlived
    /// the worker and has time left.
    fn going_on(&self, journal: &Journal) -> Option<Running> {
        if journal.boot_id != self.here.node.boot_id || journal.worker == Process::current() {
            return None;
        }
        let step = journal.step.as_ref();
        let script = step
            .and_then(|step| step.script)
            .filter(|script| since_boot() < script.deadline && script.process.lives());
        let pid = match script {
            Some(script) => script.process.pid,
            None if journal.worker.lives() => journal.worker.pid,
            None => return None,
        };
        Some(Running { revision: step.map(|step| step.target), since: journal.since, pid })
    }

    /// Whether HEAD and the worktree are nobody's business here.
    pub fn publishes(&self) -> bool {
        !matches!(self.repo.settings.mode, Mode::Work | Mode::InPlace)
    }

    /// Whether every ref of some kind is fetched, and each acted upon by itself.
    pub fn fetches_all(&self) -> bool {
        self.repo.settings.mode.fetched().is_some()
    }

    /// Whether scripts run here at all.
    pub fn runs_scripts(&self) -> bool {
        self.repo.settings.mode == Mode::Work
    }
}
