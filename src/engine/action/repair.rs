//! Repairs one repository's `.git`: what a power cut or a bad disk damaged is restored from what else is
//! known, under the lock, and logged once. Never touches the worktree, and repairs only what was found
//! damaged: a remote that does not answer is no reason.
//!
//! | damaged | restored from |
//! | --- | --- |
//! | `config` | the url in the agent's configuration; else the error gives a person the lines to write |
//! | `packed-refs` | its lines that can be read, and the logs of the refs that were lost |
//! | the own branch | its log, the journal, the log of HEAD, `refs/pmpy/acted` |
//! | `refs/pmpy/…` | their logs; the high-water mark also from that of the remote-tracking branch |
//! | other refs | moved to quarantine; a fetch brings those of the remote |
//! | `HEAD` | the journal, the configuration, its own log |
//! | the index | HEAD's tree |
//! | objects, packs | a fetch into an empty repository |

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Error, Result, anyhow};

use crate::domain::git::{Commit, ObjectFormat, ObjectId, RefName, Remote};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::one_line;
use crate::engine::repository::damage::{RepositoryFault, diagnose};
use crate::engine::repository::{Repository, limits, signatures, tags};
use crate::system::git::damage::Damage;
use crate::system::git::quarantine::Quarantine;
use crate::system::git::size_limits;
use crate::system::git::upstream::ORIGIN;
use crate::system::git::{self, ACTED, Git, Head, repair as files};
use crate::system::lock::{self, ActionLock, RunPhase};
use crate::system::remote::{FetchGoal, FetchOrder, FetchProgress, FetchedRef};
use crate::system::repo_state::{LastAction, RepairOutcome, RepairRecord, RepoRecords};
use crate::system::{host, syslog, watchdog};

/// The result of a search for damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageSearch {
    /// Nothing is damaged.
    Sound,
    /// All damage is repaired.
    Repaired,
}

/// Searches for damage because of `symptom`, and repairs it.
///
/// # Errors
/// When damage cannot be repaired, now or ever; says what a person can do about it.
pub fn repair(
    context: &Context,
    repo: &RepoEntry,
    lock: &ActionLock,
    symptom: &str,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<DamageSearch> {
    let records = lock.records();
    let now = host::now();
    if diagnose(records, symptom.to_owned(), now) == RepositoryFault::Broken(symptom.to_owned()) {
        return Ok(DamageSearch::Sound);
    }
    let git_dir = git::git_dir_of(&repo.path).context("it has no git directory")?;
    let quarantine = Quarantine::begin(&git_dir, now);
    let mut work = RepairRun { context, repo, records, git_dir, quarantine, done: Vec::new() };
    let outcome = work.all(progress);
    let done = std::mem::take(&mut work.done).join("; ");
    if !done.is_empty() {
        tracing::warn!(repository = %repo.name, kept = %work.quarantine.dir().display(), "repaired: {done}");
        syslog::send(syslog::SyslogLevel::Warning, &format!("{}: repaired: {done}", repo.name));
    }
    let (led_to, lack, ended) = match outcome {
        Ok(()) if done.is_empty() => (RepairOutcome::Sound, None, Ok(DamageSearch::Sound)),
        Ok(()) => (RepairOutcome::Repaired(done), None, Ok(DamageSearch::Repaired)),
        Err(RepairError::Beyond { remedy, lack }) => {
            (RepairOutcome::Beyond(remedy.clone()), lack, Err(anyhow!(remedy)))
        }
        Err(RepairError::Failed { error, lack }) => {
            (RepairOutcome::Postponed(one_line(&error)), lack, Err(error))
        }
    };
    let lack = lack.map(|id| (id.to_string(), work.checked_out()));
    records.put_repair(&RepairRecord { at: now, symptom: symptom.to_owned(), led_to, lack })?;
    ended
}

/// Fails when damage may be the reason why a fetch failed with `symptom`.
///
/// # Errors
/// When damage is found, or the record cannot be written.
pub fn must_be_sound(repository: &Repository, symptom: &str) -> Result<()> {
    if diagnose(&repository.records, symptom.to_owned(), host::now())
        == RepositoryFault::Broken(symptom.to_owned())
    {
        return Ok(());
    }
    let damage = files::find_damage(repository.git.git_dir()).into_iter().next();
    let needed: Vec<Commit> = repository.head_commit().into_iter().collect();
    let lost =
        files::refs(repository.git.git_dir()).into_values().any(|it| !repository.git.reads(it.0));
    if damage.is_some() || lost || repository.git.unreadable(&needed)?.is_some() {
        anyhow::bail!("{symptom}");
    }
    let sound = RepairRecord {
        at: host::now(),
        symptom: symptom.to_owned(),
        led_to: RepairOutcome::Sound,
        lack: None,
    };
    repository.records.put_repair(&sound)
}

/// Records that a repair changed nothing about `symptom`, so that it is not repeated at every tick.
pub fn mark_ineffective(records: &RepoRecords, symptom: &str) {
    if let Some(known) = records.repair().filter(|known| known.symptom == symptom) {
        // If this cannot be written, the next tick searches once more.
        let _ = records.put_repair(&RepairRecord { led_to: RepairOutcome::Sound, ..known });
    }
}

/// The reason why a repair ended early.
enum RepairError {
    /// Only a person can repair the rest.
    Beyond { remedy: String, lack: Option<ObjectId> },
    /// A failure that may not occur the next time.
    Failed { error: Error, lack: Option<ObjectId> },
}

impl From<Error> for RepairError {
    fn from(error: Error) -> Self {
        Self::Failed { error, lack: None }
    }
}

fn unrepairable(remedy: String) -> RepairError {
    RepairError::Beyond { remedy, lack: None }
}

/// The state of one repair.
struct RepairRun<'a> {
    context: &'a Context,
    repo: &'a RepoEntry,
    records: &'a RepoRecords,
    git_dir: PathBuf,
    quarantine: Quarantine,
    done: Vec<String>,
}

impl RepairRun<'_> {
    fn all(&mut self, progress: &mut dyn FnMut(FetchProgress)) -> Result<(), RepairError> {
        let found = files::find_damage(&self.git_dir);
        for damage in &found {
            match damage {
                Damage::Config(_) => self.config(damage)?,
                Damage::Format(format) => {
                    self.quarantine.keep("config")?;
                    git::config::put_format(&self.git_dir, *format)?;
                    self.done.push(format!("{damage}: now it does"));
                }
                Damage::PackedRefs => {
                    self.quarantine.keep("packed-refs")?;
                    files::put_packed_refs(&self.git_dir)?;
                    self.done.push(format!("{damage}: its readable lines were kept"));
                }
                Damage::Head => self.head()?,
                Damage::Ref(_) | Damage::Lost(_) => {}
            }
        }
        // Searched again: the repaired packed-refs and HEAD show which refs are missing.
        for damage in files::find_damage(&self.git_dir) {
            if let Damage::Ref(name) | Damage::Lost(name) = &damage {
                self.put_ref_right(&damage, name)?;
            }
        }
        let git = Git::open_trusting(&self.repo.path, &self.repo.trust)?;
        self.objects(&git, progress)?;
        self.index(&Git::open_trusting(&self.repo.path, &self.repo.trust)?)
    }

    fn path(&self) -> String {
        self.repo.path.display().to_string()
    }

    /// The commit of HEAD's branch, if it can be read.
    fn checked_out(&self) -> Option<Commit> {
        let git = Git::open_trusting(&self.repo.path, &self.repo.trust).ok()?;
        match git.head().ok()? {
            Head::Branch(_, commit) => commit,
            _ => None,
        }
    }

    fn config(&mut self, damage: &Damage) -> Result<(), RepairError> {
        self.quarantine.keep("config")?;
        let Some(url) = self.repo.settings.urls.first() else {
            let lines =
                config_lines("URL", self.sha256()).replace('\n', "\\n").replace('\t', "\\t");
            return Err(unrepairable(format!(
                "{damage}; write it anew, with the remote's address for URL: \
                 printf '{lines}' > {}/.git/config",
                self.path()
            )));
        };
        files::put_config(&self.git_dir, &config_lines(&git::public_url(url), self.sha256()))?;
        self.done.push(format!("{damage}: written anew with the url that is configured"));
        Ok(())
    }

    /// Whether object ids are SHA-256, as the object store shows, or else the logs and records.
    fn sha256(&self) -> bool {
        let known = || files::last_logged(&self.git_dir, "HEAD").or(self.last_action());
        let format = git::packs::format_of_store(&self.git_dir);
        format.or_else(|| known().map(|commit| commit.0.format())) == Some(ObjectFormat::Sha256)
    }

    fn last_action(&self) -> Option<Commit> {
        match self.records.last_action().0 {
            LastAction::Revision(commit) => Some(commit),
            _ => None,
        }
    }

    /// The branches that the journal, the configuration and the last poll name, in this order.
    fn likely_branches(&self) -> Vec<RefName> {
        let journal = lock::journal(self.records).ok().flatten();
        let configured = self.repo.branch(self.context).ok().flatten();
        let polled = self.records.polled().branch;
        let journalled = journal.and_then(|it| it.phase.step().map(|step| step.branch.clone()));
        [journalled, configured, polled].into_iter().flatten().collect()
    }

    fn head(&mut self) -> Result<(), RepairError> {
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
            return Err(unrepairable(format!(
                "{}, and the branch that was checked out is unknown; set it with: \
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

    fn put_ref_right(&mut self, damage: &Damage, name: &str) -> Result<(), RepairError> {
        match self.value_of(name) {
            Some(commit) => {
                self.quarantine.keep(name)?;
                files::put_ref(&self.git_dir, name, commit)?;
                self.done.push(format!("{damage}: at {} again", commit.short()));
            }
            None if Some(name) == self.own_branch().as_deref() => {
                return Err(unrepairable(format!(
                    "{damage}, and its revision is unknown; set it with: \
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

    /// The full name of the checked-out branch.
    fn own_branch(&self) -> Option<String> {
        files::head_name(&self.git_dir)
    }

    /// The commit of a damaged ref, from the best source that is left.
    fn value_of(&self, name: &str) -> Option<Commit> {
        let logged = || files::last_logged(&self.git_dir, name);
        if name.starts_with("refs/remotes/") {
            // The remote knows it better.
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
            return Git::open_trusting(&self.repo.path, &self.repo.trust).ok()?.resolve(short).ok();
        }
        logged()
    }

    /// The commit of the branch according to the journal of a dead run.
    fn journalled(&self) -> Option<Commit> {
        match lock::journal(self.records).ok()??.phase {
            RunPhase::Fetch | RunPhase::Before { .. } => None,
            RunPhase::Apply { step } => step.head,
            RunPhase::Run { step, .. } | RunPhase::Done { step, .. } => Some(step.target),
        }
    }

    /// The newest tip of upstream that the checked-out commit contains.
    fn taken_from_upstream(&self, branch: &str) -> Option<Commit> {
        let branch: RefName = branch.parse().ok()?;
        let git = Git::open_trusting(&self.repo.path, &self.repo.trust).ok()?;
        let head = self.checked_out()?;
        files::logged(&self.git_dir, &branch.tracking())
            .into_iter()
            .find(|tip| git.contains(head, *tip).unwrap_or(false))
    }

    fn index(&mut self, git: &Git) -> Result<(), RepairError> {
        let Head::Branch(_, Some(head)) = git.head()? else { return Ok(()) };
        if git.index_is_damaged() {
            self.quarantine.keep("index")?;
            git.rebuild_index(&git.tree_of(&head)?)?;
            self.done.push("the index was damaged: made anew from HEAD".to_owned());
        }
        Ok(())
    }

    /// Makes the objects readable that HEAD, the remote-tracking branch and the agent's own refs need.
    fn objects(
        &mut self,
        git: &Git,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<(), RepairError> {
        let Head::Branch(branch, head) = git.head()? else { return Ok(()) };
        // The last of them is the branch that was polled.
        let upstream = self.likely_branches().pop().unwrap_or(branch);
        let mut needed: Vec<Commit> = head.into_iter().collect();
        for name in [upstream.tracking(), upstream.seen(), ACTED.to_owned()] {
            needed.extend(git.ref_id(&name)?);
        }
        let lost = |git: &Git| {
            let refs = files::refs(&self.git_dir).into_iter();
            refs.filter(|(_, id)| !git.reads(id.0)).collect::<Vec<_>>()
        };
        let oversized = size_limits::oversized_pack(&self.git_dir);
        if git.unreadable(&needed)?.is_none() && lost(git).is_empty() && oversized.is_none() {
            return Ok(());
        }
        let sorted_out = git.quarantine_damaged(&self.quarantine)?;
        let git = Git::open_trusting(&self.repo.path, &self.repo.trust)?;
        let mut lack = git.unreadable(&needed)?;
        let mut gone = lost(&git);
        if lack.is_some() || !gone.is_empty() {
            self.fetch_all(&git, &upstream, progress)
                .map_err(|error| RepairError::Failed { error, lack })?;
        }
        self.done.extend(sorted_out);
        if lack.is_some() || !gone.is_empty() {
            self.done.push("all that upstream has was fetched again".to_owned());
        }
        let git = Git::open_trusting(&self.repo.path, &self.repo.trust)?;
        lack = head.map(|head| git.unreadable(&[head])).transpose()?.flatten();
        if let (Some(head), Some(lack)) = (head, lack) {
            return Err(RepairError::Beyond { remedy: self.lost(head, lack), lack: Some(lack) });
        }
        // A ref to a commit that neither HEAD nor upstream has would fail every later fetch. The
        // high-water mark stays: it shows that upstream lost something.
        gone = lost(&git);
        let marks = ["refs/pmpy/seen/", tags::SEEN, signatures::ACCEPTED];
        gone.retain(|(name, _)| !marks.iter().any(|marks| name.starts_with(marks)));
        if gone.is_empty() {
            return Ok(());
        }
        // Upstream does not have these commits, so the only copy may be in what was put aside.
        self.quarantine.retain()?;
        for (name, id) in gone {
            self.quarantine.keep(&name)?;
            git.remove_ref(&name)?;
            self.done.push(format!(
                "the ref {} pointed to {id}, which is gone: put aside, and what was damaged is kept in {}",
                name.escape_controls(),
                self.quarantine.dir().display()
            ));
        }
        Ok(())
    }

    fn lost(&self, head: Commit, lack: ObjectId) -> String {
        format!(
            "object {lack} of the revision {} that is checked out is damaged, and upstream does not \
             have it (local commits?); what was damaged is kept in {kept}; what can be read of a pack \
             there comes back with: git -C {path} unpack-objects -r < {kept}/objects/pack/PACK, all of \
             it from a backup or another clone: git -C {path} fetch CLONE; or give the local commits \
             up, the files stay: git -C {path} reset origin/BRANCH",
            head.short(),
            kept = self.quarantine.dir().display(),
            path = self.path()
        )
    }

    /// Fetches all of `branch` into an empty repository, and takes over its packs. A fetch into the
    /// damaged one would skip the objects that it only seems to have.
    fn fetch_all(
        &self,
        git: &Git,
        branch: &RefName,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        let settings = &self.repo.settings;
        let remotes: Vec<Remote> = match settings.urls.as_slice() {
            [] => match git.head()? {
                Head::Branch(head, _) => git.configured_source(branch, Some(&head)).urls,
                _ => git.urls(ORIGIN),
            },
            urls => urls.to_vec(),
        };
        // The branch need not have the followed tag in its history.
        let tag = self.records.polled().tag.map(|tag| FetchedRef {
            from: tags::full_name(&tag.name),
            to: tags::FETCHED.to_owned(),
            id: tag.id,
        });
        let mut failure = anyhow!("there is no remote to fetch from");
        for remote in remotes {
            let reach = &settings.reach;
            let to = branch.tracking();
            let goal = FetchGoal::Branch { branch, to: &to, tip: None };
            let order = FetchOrder { remote: &remote, reach, goal, way: None };
            let _step = watchdog::within("fetching", limits::fetch(settings));
            let fetched = git.refill(&remote, branch, |empty| {
                self.context.wire.fetch(empty, &order, &mut *progress)?;
                match &tag {
                    Some(tag) => {
                        let goal = FetchGoal::Refs(std::slice::from_ref(tag));
                        self.context.wire.fetch(
                            empty,
                            &FetchOrder { goal, ..order },
                            &mut *progress,
                        )
                    }
                    None => Ok(()),
                }
            });
            match fetched {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure.context("objects are damaged and cannot be fetched again now"))
    }
}

/// The `config` of a clone, as git-clone(1) writes it.
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
