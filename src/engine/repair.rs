//! Self-repair of one repository's `.git`: what a power cut or a bad disk damaged is put right from
//! what else is known, under the lock, and told once. The worktree is never touched, and nothing is
//! repaired that was not found damaged: a remote that does not answer is no reason.
//!
//! | damaged | put right from |
//! | --- | --- |
//! | `config` | the url in the agent's configuration; else a person is told which lines to write |
//! | `packed-refs` | its lines that can be read, and the logs of the refs that were lost |
//! | the own branch | its log, the journal, the log of HEAD, the acted revision |
//! | `refs/pmpy/…` | their logs; the high-water mark also from that of the remote-tracking branch |
//! | other refs | put aside; a fetch brings those of the remote |
//! | `HEAD` | the journal, the configuration, its own log |
//! | the index | HEAD's tree |
//! | objects, packs | a pack's own content, then a fetch that owns nothing yet |

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, anyhow};
use chrono::{DateTime, Utc};

use super::Here;
use super::observe::{Site, one_line};
use super::roster::Repo;
use crate::domain::git::{Commit, Id, RefName, Remote};
use crate::system::git::repair::{self as files, Damage, Quarantine};
use crate::system::git::{self, ACTED, Git, Head};
use crate::system::lock::{self, ActionLock, Phase};
use crate::system::record::{LastAction, LedTo, Records, Repair};
use crate::system::remote::{Goal, Order, Progress};
use crate::system::{node, syslog};

/// How long a look for damage that found nothing to put right is not repeated for the same reason.
const PATIENCE: chrono::Duration = chrono::Duration::hours(1);

/// How long a repair is mentioned in the status.
const MENTIONED: chrono::Duration = chrono::Duration::days(1);

/// What stands in the way of reading a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may be put right: a worker is to look.
    Damaged(String),
    /// A person has to: what is wrong and the remedy.
    Broken(String),
}

/// The damage that can be seen from outside, without opening the repository.
pub fn visible(here: &Here, repo: &Repo, now: DateTime<Utc>) -> Option<Trouble> {
    // What somebody else could have written is neither judged nor repaired.
    git::ownership::check(&repo.path, here.node.user.uid).ok()?;
    let git_dir = git::git_dir_of(&repo.path)?;
    let damage = files::look(&git_dir).into_iter().next()?;
    Some(judge(&Records::of(&git_dir, &repo.path), damage.to_string(), now))
}

/// Whether `symptom` is worth a worker's look, or was looked into not long ago.
pub fn judge(records: &Records, symptom: String, now: DateTime<Utc>) -> Trouble {
    match records.repair().filter(|known| known.symptom == symptom && is_recent(known, now)) {
        Some(Repair { led_to: LedTo::Beyond(remedy), .. }) => Trouble::Broken(remedy),
        Some(Repair { led_to: LedTo::Sound, .. }) => Trouble::Broken(symptom),
        _ => Trouble::Damaged(symptom),
    }
}

fn is_recent(known: &Repair, now: DateTime<Utc>) -> bool {
    now >= known.at && now - known.at < PATIENCE
}

/// An object that an earlier repair could not bring back and that is still needed.
pub fn lacking(site: &Site, known: &Repair, now: DateTime<Utc>) -> Option<Trouble> {
    let (id, head) = known.lack.as_ref()?;
    if *head != site.head_commit() || id.parse().is_ok_and(|id| site.git.reads(id)) {
        return None;
    }
    Some(match &known.led_to {
        LedTo::Beyond(remedy) if is_recent(known, now) => Trouble::Broken(remedy.clone()),
        _ => Trouble::Damaged(known.symptom.clone()),
    })
}

/// What was put right during the last day.
pub fn mentioned(known: &Repair, now: DateTime<Utc>) -> Option<String> {
    match known {
        Repair { led_to: LedTo::Repaired(what), at, .. } if now - at < MENTIONED => {
            Some(format!("repaired automatically: {what}"))
        }
        _ => None,
    }
}

/// What a look for damage led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing is damaged.
    Sound,
    /// Everything that was is put right.
    Repaired,
}

/// Looks for damage because of `symptom`, and puts it right.
///
/// # Errors
/// Says what cannot be put right, now or ever, and what a person can do about it.
pub fn repair(
    here: &Here,
    repo: &Repo,
    lock: &ActionLock,
    symptom: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<Looked> {
    let records = lock.records();
    let now = node::now();
    if judge(records, symptom.to_owned(), now) == Trouble::Broken(symptom.to_owned()) {
        return Ok(Looked::Sound);
    }
    let git_dir = git::git_dir_of(&repo.path).context("it has no git directory")?;
    let quarantine = Quarantine::begin(&git_dir, now);
    let mut work = Work { here, repo, records, git_dir, quarantine, done: Vec::new() };
    let outcome = work.all(progress);
    let done = std::mem::take(&mut work.done).join("; ");
    if !done.is_empty() {
        tracing::warn!(repository = %repo.name, kept = %work.quarantine.folder().display(), "repaired: {done}");
        syslog::tell(syslog::Level::Warning, &format!("{}: repaired: {done}", repo.name));
    }
    let (led_to, lack, ended) = match outcome {
        Ok(()) if done.is_empty() => (LedTo::Sound, None, Ok(Looked::Sound)),
        Ok(()) => (LedTo::Repaired(done), None, Ok(Looked::Repaired)),
        Err(Stop::Beyond { remedy, lack }) => {
            (LedTo::Beyond(remedy.clone()), lack, Err(anyhow!(remedy)))
        }
        Err(Stop::Failed { error, lack }) => (LedTo::Postponed(one_line(&error)), lack, Err(error)),
    };
    let lack = lack.map(|id| (id.to_string(), work.checked_out()));
    records.put_repair(&Repair { at: now, symptom: symptom.to_owned(), led_to, lack })?;
    ended
}

/// Fails when something is damaged that may be the reason why a fetch failed with `symptom`.
///
/// # Errors
/// Says what.
pub fn must_be_sound(site: &Site, symptom: &str) -> Result<()> {
    if judge(&site.records, symptom.to_owned(), node::now()) == Trouble::Broken(symptom.to_owned())
    {
        return Ok(());
    }
    let damage = files::look(site.git.git_dir()).into_iter().next();
    let needed: Vec<Commit> = site.head_commit().into_iter().collect();
    let lost = files::refs(site.git.git_dir()).into_values().any(|it| !site.git.reads(it.0));
    if damage.is_some() || lost || site.git.unreadable(&needed)?.is_some() {
        anyhow::bail!("{symptom}");
    }
    let sound =
        Repair { at: node::now(), symptom: symptom.to_owned(), led_to: LedTo::Sound, lack: None };
    site.records.put_repair(&sound)
}

/// After a repair that put something right and changed nothing about `symptom`: it is not made again
/// at every tick.
pub fn in_vain(records: &Records, symptom: &str) {
    if let Some(known) = records.repair().filter(|known| known.symptom == symptom) {
        // Where this cannot be written, the next tick looks once more.
        let _ = records.put_repair(&Repair { led_to: LedTo::Sound, ..known });
    }
}

/// Why a repair ended before everything was put right.
enum Stop {
    /// Only a person can go on.
    Beyond { remedy: String, lack: Option<Id> },
    /// Something failed that may not fail the next time.
    Failed { error: Error, lack: Option<Id> },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed { error, lack: None }
    }
}

fn beyond(remedy: String) -> Stop {
    Stop::Beyond { remedy, lack: None }
}

/// One repair under way.
struct Work<'a> {
    here: &'a Here,
    repo: &'a Repo,
    records: &'a Records,
    git_dir: PathBuf,
    quarantine: Quarantine,
    done: Vec<String>,
}

impl Work<'_> {
    fn all(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), Stop> {
        let found = files::look(&self.git_dir);
        for damage in &found {
            match damage {
                Damage::Config(_) => self.config(damage)?,
                Damage::PackedRefs => {
                    self.quarantine.keep("packed-refs")?;
                    files::put_packed_refs(&self.git_dir)?;
                    self.done.push(format!("{damage}: its readable lines were kept"));
                }
                Damage::Head => self.head()?,
                Damage::Ref(_) | Damage::Lost(_) => {}
            }
        }
        // Looked for again: packed-refs and HEAD tell which refs ought to be there.
        for damage in files::look(&self.git_dir) {
            if let Damage::Ref(name) | Damage::Lost(name) = &damage {
                self.put_ref_right(&damage, name)?;
            }
        }
        let git = Git::open(&self.repo.path)?;
        self.objects(&git, progress)?;
        self.index(&Git::open(&self.repo.path)?)
    }

    fn path(&self) -> String {
        self.repo.path.display().to_string()
    }

    /// What HEAD's branch points at, as far as the files tell.
    fn checked_out(&self) -> Option<Commit> {
        let git = Git::open(&self.repo.path).ok()?;
        match git.head().ok()? {
            Head::Branch(_, commit) => commit,
            _ => None,
        }
    }

    fn config(&mut self, damage: &Damage) -> Result<(), Stop> {
        self.quarantine.keep("config")?;
        let Some(url) = self.repo.settings.urls.first() else {
            let lines =
                config_lines("URL", self.sha256()).replace('\n', "\\n").replace('\t', "\\t");
            return Err(beyond(format!(
                "{damage}; write it anew, with the remote's address for URL: \
                 printf '{lines}' > {}/.git/config",
                self.path()
            )));
        };
        files::put_config(&self.git_dir, &config_lines(&git::public_url(url), self.sha256()))?;
        self.done.push(format!("{damage}: written anew with the url that is configured"));
        Ok(())
    }

    /// Whether objects are named by SHA-256, as the logs and records show.
    fn sha256(&self) -> bool {
        let known = files::last_logged(&self.git_dir, "HEAD").or(self.last_action());
        known.is_some_and(|commit| commit.0.as_bytes().len() == 32)
    }

    fn last_action(&self) -> Option<Commit> {
        match self.records.last_action().0 {
            LastAction::Revision(commit) => Some(commit),
            _ => None,
        }
    }

    /// The branches that the journal, the configuration and the last poll name, in this order.
    fn likely_branches(&self) -> Vec<RefName> {
        let journal = lock::journal(self.records).ok().flatten().and_then(|journal| journal.step);
        let configured = self.repo.branch(self.here).ok().flatten();
        let polled = self.records.polled().branch;
        [journal.map(|step| step.branch), configured, polled].into_iter().flatten().collect()
    }

    fn head(&mut self) -> Result<(), Stop> {
        let refs = files::refs(&self.git_dir);
        let mut branches: BTreeMap<String, Option<Commit>> = files::logged_branches(&self.git_dir)
            .into_iter()
            .map(|name| (name.clone(), files::last_logged(&self.git_dir, &name)))
            .collect();
        for (name, commit) in refs.into_iter().filter(|(name, _)| name.starts_with("refs/heads/")) {
            branches.insert(name, Some(commit));
        }
        let at = files::last_logged(&self.git_dir, "HEAD");
        let fits = |name: &String| at.is_none() || branches.get(name).is_some_and(|it| *it == at);
        let likely: Vec<String> = self.likely_branches().iter().map(RefName::local).collect();
        let known = || likely.iter().filter(|name| branches.contains_key(*name));
        let fitting: Vec<&String> = branches.keys().filter(|name| fits(name)).collect();
        let chosen = match (known().find(|name| fits(name)), fitting.as_slice()) {
            (Some(name), _) => Some(name),
            (None, [only]) => Some(*only),
            (None, _) => known().next(),
        };
        let branch = chosen.and_then(|name| name.strip_prefix("refs/heads/")?.parse().ok());
        let Some(branch) = branch else {
            return Err(beyond(format!(
                "{}, and nothing tells which branch was checked out; put it on one with: \
                 echo 'ref: refs/heads/BRANCH' > {}/.git/HEAD",
                Damage::Head,
                self.path()
            )));
        };
        self.quarantine.keep("HEAD")?;
        files::put_head(&self.git_dir, &branch)?;
        self.done.push(format!("{}: put on {branch} again", Damage::Head));
        Ok(())
    }

    fn put_ref_right(&mut self, damage: &Damage, name: &str) -> Result<(), Stop> {
        self.quarantine.keep(name)?;
        match self.value_of(name) {
            Some(commit) => {
                files::put_ref(&self.git_dir, name, commit)?;
                self.done.push(format!("{damage}: at {} again", commit.short()));
            }
            None if Some(name) == self.own_branch().as_deref() => {
                return Err(beyond(format!(
                    "{damage}, and nothing tells where it was; name a revision: \
                     git -C {} update-ref {name} REVISION",
                    self.path()
                )));
            }
            None => {
                self.quarantine.take(name)?;
                self.done.push(format!("{damage}: put aside"));
            }
        }
        Ok(())
    }

    /// The full name of the branch that is checked out.
    fn own_branch(&self) -> Option<String> {
        files::head_name(&self.git_dir)
    }

    /// Where a ref was, by the best source that there is.
    fn value_of(&self, name: &str) -> Option<Commit> {
        let logged = || files::last_logged(&self.git_dir, name);
        if name.starts_with("refs/remotes/") {
            // The remote knows better.
            return None;
        }
        if Some(name) == self.own_branch().as_deref() {
            let refs = files::refs(&self.git_dir);
            return logged()
                .or_else(|| self.journalled())
                .or_else(|| files::last_logged(&self.git_dir, "HEAD"))
                .or_else(|| refs.get(ACTED).copied())
                .or_else(|| self.last_action());
        }
        if name == ACTED {
            return logged().or_else(|| self.last_action());
        }
        if let Some(branch) = name.strip_prefix("refs/pmpy/seen/") {
            return logged().or_else(|| self.taken_from_upstream(branch));
        }
        if name.starts_with("refs/pmpy/saved/") {
            let short = name.rsplit('-').next()?;
            return Git::open(&self.repo.path).ok()?.resolve(short).ok();
        }
        logged()
    }

    /// Where the journal of a dead run says that the branch is.
    fn journalled(&self) -> Option<Commit> {
        let journal = lock::journal(self.records).ok()??;
        let step = journal.step?;
        match journal.phase {
            Phase::Fetch | Phase::Apply => step.head,
            Phase::Run | Phase::Done => Some(step.target),
        }
    }

    /// The newest tip of upstream that is part of what is checked out.
    fn taken_from_upstream(&self, branch: &str) -> Option<Commit> {
        let branch: RefName = branch.parse().ok()?;
        let git = Git::open(&self.repo.path).ok()?;
        let head = self.checked_out()?;
        files::logged(&self.git_dir, &branch.tracking())
            .into_iter()
            .find(|tip| git.contains(head, *tip).unwrap_or(false))
    }

    fn index(&mut self, git: &Git) -> Result<(), Stop> {
        let Head::Branch(_, Some(head)) = git.head()? else { return Ok(()) };
        if git.index_is_damaged() {
            self.quarantine.keep("index")?;
            git.rebuild_index(&git.tree_of(&head)?)?;
            self.done.push("the index was damaged: made anew from HEAD".to_owned());
        }
        Ok(())
    }

    /// What HEAD, the remote-tracking branch and the records of our own need can be read afterwards.
    fn objects(&mut self, git: &Git, progress: &mut dyn FnMut(Progress)) -> Result<(), Stop> {
        let Head::Branch(branch, head) = git.head()? else { return Ok(()) };
        // The last of them is what the remote was asked for.
        let upstream = self.likely_branches().pop().unwrap_or(branch);
        let mut needed: Vec<Commit> = head.into_iter().collect();
        for name in [upstream.tracking(), upstream.seen(), ACTED.to_owned()] {
            needed.extend(git.ref_commit(&name)?);
        }
        let lost = |git: &Git| {
            let refs = files::refs(&self.git_dir).into_iter();
            refs.filter(|(_, id)| !git.reads(id.0)).map(|(name, _)| name).collect::<Vec<_>>()
        };
        if git.unreadable(&needed)?.is_none() && lost(git).is_empty() {
            return Ok(());
        }
        let sorted_out = git.sort_out(&self.quarantine)?;
        let git = Git::open(&self.repo.path)?;
        let mut lack = git.unreadable(&needed)?;
        let mut gone = lost(&git);
        if lack.is_some() || !gone.is_empty() {
            self.fetch_all(&git, &upstream, progress)
                .map_err(|error| Stop::Failed { error, lack })?;
        }
        self.done.extend(sorted_out);
        if lack.is_some() || !gone.is_empty() {
            self.done.push("all that upstream has was fetched again".to_owned());
        }
        let git = Git::open(&self.repo.path)?;
        lack = head.map(|head| git.unreadable(&[head])).transpose()?.flatten();
        if let (Some(head), Some(lack)) = (head, lack) {
            return Err(Stop::Beyond { remedy: self.lost(head, lack), lack: Some(lack) });
        }
        // What neither HEAD nor upstream has any more would fail every fetch from now on. The mark
        // stays: it is what tells that upstream lost something.
        gone = lost(&git);
        gone.retain(|name| !name.starts_with("refs/pmpy/seen/"));
        for name in gone {
            self.quarantine.keep(&name)?;
            git.remove_ref(&name)?;
            self.done.push(format!("the ref {} led to nothing: put aside", name.escape_debug()));
        }
        Ok(())
    }

    fn lost(&self, head: Commit, lack: Id) -> String {
        format!(
            "object {lack} of the revision {} that is checked out is damaged, and upstream does not \
             have it (local commits?); what was damaged is kept in {}; bring it back from a backup \
             or another clone: git -C {path} fetch CLONE, or give the local commits up, the files \
             stay: git -C {path} reset origin/BRANCH",
            head.short(),
            self.quarantine.folder().display(),
            path = self.path()
        )
    }

    /// Fetches all of `branch` into a repository that owns nothing yet, and takes over its packs: a
    /// fetch into a damaged one would be spared what that only seems to have.
    fn fetch_all(
        &self,
        git: &Git,
        branch: &RefName,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let settings = &self.repo.settings;
        let remotes: Vec<Remote> = match settings.urls.as_slice() {
            [] => git.origin().into_iter().collect(),
            urls => urls.to_vec(),
        };
        let mut failure = anyhow!("there is no remote to fetch from");
        for remote in remotes {
            let reach = &settings.reach;
            let goal = Goal::Branch { branch, tip: None };
            let order = Order { remote: &remote, reach, goal, way: None };
            let fetched = git.refill(&remote, branch, |empty| {
                self.here.wire.fetch(empty, &order, &mut *progress)
            });
            match fetched {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure.context("objects are damaged and cannot be fetched again now"))
    }
}

/// The lines of a clone's configuration, as git-clone(1) writes them.
fn config_lines(url: &str, sha256: bool) -> String {
    let url = url.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let (version, extension) = match sha256 {
        true => (1, "[extensions]\n\tobjectformat = sha256\n"),
        false => (0, ""),
    };
    format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\
         \tlogallrefupdates = true\n{extension}[remote \"origin\"]\n\turl = \"{url}\"\n\
         \tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    )
}
