//! What people ask for beside following upstream: holding, going back, accepting, looking back. Each
//! answers what was done, for the command to print.

use std::path::PathBuf;

use anyhow::{Context, Error, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use super::Here;
use super::delegate::{self, Sorted};
use super::observe::{self, Opened, Site, one_line};
use super::roster::{self, Found, Repo};
use super::tick;
use crate::domain::action::{Finished, Outcome, Trigger};
use crate::domain::git::Commit;
use crate::domain::plan::{Hold, Observed, Plan, Policy, Request, Unreachable, Upstream, decide};
use crate::domain::report::Containment;
use crate::system::lock::{self, CurrentAction};
use crate::system::record::Records;
use crate::system::{logs, node};

/// A repository that can be looked into, or the reason why not as an error.
pub(super) fn site<'a>(here: &'a Here, repo: &'a Repo) -> Result<Box<Site<'a>>> {
    match observe::open(here, repo) {
        Opened::Ready(site) => Ok(site),
        Opened::Missing => Err(not_cloned(here, repo)),
        Opened::Broken(reason) => bail!("{}: {reason}", repo.name),
        Opened::Damaged(reason) => bail!(
            "{}: {reason}\nhint: agent tick {} puts it right, or tells how",
            repo.name,
            repo.name
        ),
    }
}

/// That `repo` is not here yet, and what the last tick said of it.
pub fn not_cloned(here: &Here, repo: &Repo) -> Error {
    let name = &repo.name;
    match tick::unreachable_before(here, name) {
        Some(Unreachable { reason, .. }) => {
            let (why, hint) = reason.split_once("\nhint: ").unwrap_or((&reason, "agent check"));
            anyhow!("{name} could not be cloned: {why}\nhint: {hint}")
        }
        None => anyhow!("{name} is not cloned yet\nhint: to clone it now: agent tick {name}"),
    }
}

/// The records of a repository, even of one that is broken: a hold must always be possible.
fn records(here: &Here, repo: &Repo) -> Result<Records> {
    if let Opened::Ready(site) = observe::open(here, repo) {
        site.records.make(site.git.git_dir())?;
        return Ok(site.records);
    }
    if repo.found == Found::Missing {
        bail!(
            "{0} is not cloned yet, so there is nothing to hold\n\
             hint: to keep it from being cloned, write active = false under [repo.{0}]",
            repo.name
        );
    }
    let git_dir = crate::system::git::git_dir_of(&repo.path)
        .with_context(|| format!("{} has no git directory to keep a hold in", repo.name))?;
    let records = Records::of(&git_dir, &repo.path);
    records.make(&git_dir)?;
    Ok(records)
}

/// Stops a repository from acting.
///
/// # Errors
/// When that cannot be written.
pub fn hold(here: &Here, repo: &Repo, reason: &str, until: Option<DateTime<Utc>>) -> Result<()> {
    let hold = Hold { by: node::person(), reason: reason.to_owned(), since: node::now(), until };
    records(here, repo)?.put_hold(&hold).with_context(|| format!("{} cannot be held", repo.name))
}

/// What was lifted.
#[derive(Clone, Debug)]
pub struct Lifted {
    /// The hold.
    pub hold: Option<Hold>,
    /// Whether it was pinned.
    pub pinned: bool,
    /// Somebody's `currentaction.txt`.
    pub current: Option<CurrentAction>,
}

/// Lets a repository go on: lifts its hold and its pin, and removes a `currentaction.txt` that no
/// run of ours put up.
///
/// # Errors
/// When something cannot be removed.
pub fn unhold(here: &Here, repo: &Repo) -> Result<Lifted> {
    let records = records(here, repo)?;
    let hold = records.hold(node::now());
    records.lift_hold()?;
    let pinned = records.lift_pin()?;
    // While a run goes on, or left its journal, the file is the run's to remove.
    let current = match lock::journal(&records)? {
        Some(journal)
            if lock::current_action(&records).is_none_or(|found| found.is_of(&journal)) =>
        {
            None
        }
        _ => lock::remove_current_action(&records)?,
    };
    Ok(Lifted { hold, pinned, current })
}

/// Fails when something holds the repository: a person's order does not override that.
///
/// # Errors
/// Says what holds it.
pub fn must_not_be_held(here: &Here, repo: &Repo) -> Result<()> {
    let site = site(here, repo)?;
    let seen = site.observe(&site.records.polled(), node::now());
    if let Some(hold) = seen.holds.first() {
        bail!(
            "{} is held by {}: {}\nhint: agent unhold {}",
            repo.name,
            hold.by,
            hold.reason.escape_debug(),
            repo.name
        );
    }
    Ok(())
}

/// Where a roll-back goes: to `text`, or to the last success before what is checked out now.
///
/// # Errors
/// When there is none, or `text` names nothing that is here.
pub fn rollback_target(here: &Here, repo: &Repo, text: Option<&str>) -> Result<Commit> {
    let site = site(here, repo)?;
    if site.fetches_all() {
        bail!(
            "{} has many refs, which cannot be rolled back as one\n\
             hint: revert the commit upstream; until then nothing changes here after: agent hold {}",
            repo.name,
            repo.name
        );
    }
    if let Some(text) = text {
        return site.git.resolve(text).with_context(|| format!("cannot roll back {}", repo.name));
    }
    let head = site.stands_at()?;
    let successes: Vec<Finished> = site
        .records
        .history()?
        .into_iter()
        .filter(|run| run.outcome == Outcome::Succeeded)
        .collect();
    // Going back twice goes further back, not forth again: count from where the revision that is
    // checked out was acted upon by itself.
    let arrived = successes
        .iter()
        .rposition(|run| Some(run.revision) == head && run.trigger != Trigger::Rollback)
        .unwrap_or(successes.len());
    let before = successes.iter().take(arrived).rev().map(|run| run.revision);
    match before.into_iter().find(|&revision| Some(revision) != head && site.git.has(revision)) {
        Some(revision) => Ok(revision),
        None => bail!(
            "{} has no earlier success to go back to\nhint: name a revision: agent rollback {} REVISION",
            repo.name,
            repo.name
        ),
    }
}

/// The rewritten upstream revision that `text` names, which must be what upstream has now.
///
/// # Errors
/// When it is something else, or nothing is to be accepted.
pub fn acceptable(here: &Here, repo: &Repo, text: &str) -> Result<Commit> {
    let site = site(here, repo)?;
    let seen = site.observe(&site.records.polled(), node::now());
    let Upstream::Tip { commit: tip, .. } = seen.upstream else {
        bail!("{}: nothing is known of upstream yet\nhint: agent tick {}", repo.name, repo.name)
    };
    let rewritten = match &seen.refs {
        Some(refs) => refs.rewritten(),
        None => vec![tip],
    };
    let wanted = text.to_ascii_lowercase();
    let names = |commit: &&Commit| wanted.len() >= 7 && commit.to_string().starts_with(&wanted);
    if let Some(commit) = rewritten.iter().find(names) {
        return Ok(*commit);
    }
    let Some(first) = rewritten.first() else {
        bail!("{}: nothing that upstream has was refused as rewritten", repo.name)
    };
    bail!(
        "{}: upstream has {first}, not \"{}\"\nhint: look at it first, then: agent accept {} {first}",
        repo.name,
        text.escape_debug(),
        repo.name
    )
}

/// Everything that `explain` tells of a repository.
pub struct Explanation {
    /// What was seen.
    pub seen: Observed,
    /// What is configured.
    pub policy: Policy,
    /// What the next tick would do.
    pub plan: Plan,
    /// How the revision that was asked about stands to this machine.
    pub containment: Option<(String, Containment)>,
}

/// What was seen, what follows, and how `revision` stands to this machine; asks no remote.
///
/// # Errors
/// When it is not cloned yet, or `revision` is asked about and the repository cannot be looked into.
pub fn explain(here: &Here, repo: &Repo, revision: Option<&str>) -> Result<Explanation> {
    let now = node::now();
    let request = Request { trigger: Trigger::Cron, named: false };
    let unread = match observe::open(here, repo) {
        Opened::Broken(reason) => Some(Observed { broken: Some(reason), ..Observed::default() }),
        Opened::Damaged(reason) => Some(Observed { damaged: Some(reason), ..Observed::default() }),
        Opened::Missing => Some(Observed {
            unreachable: tick::unreachable_before(here, &repo.name),
            ..Observed::default()
        }),
        Opened::Ready(_) => None,
    };
    if let (Some(seen), None) = (unread, revision) {
        let policy = repo.settings.policy.clone();
        let plan = match repo.found {
            Found::Missing if policy.active => Plan::Recover,
            _ => decide(&seen, &policy, request, now),
        };
        return Ok(Explanation { seen, policy, plan, containment: None });
    }
    let site = site(here, repo)?;
    let seen = site.observe(&site.records.polled(), now);
    let policy = site.policy(&seen);
    let plan = decide(&seen, &policy, request, now);
    let containment = match revision {
        Some(text) => Some(containment(&site, &seen, text)?),
        None => None,
    };
    Ok(Explanation { seen, policy, plan, containment })
}

fn containment(site: &Site, seen: &Observed, text: &str) -> Result<(String, Containment)> {
    let commit = match site.git.resolve(text) {
        Ok(commit) => commit,
        // An id may name what never came here.
        Err(_) if is_like_an_id(text) => return Ok((text.to_owned(), Containment::Unknown)),
        Err(error) => return Err(error),
    };
    let within = |tip: Option<Commit>| match tip {
        Some(tip) if site.git.has(tip) => site.git.contains(tip, commit),
        _ => Ok(false),
    };
    let found = if within(seen.acted)? {
        Containment::Acted
    } else if within(seen.head)? {
        Containment::ContainedInHead
    } else {
        Containment::FetchedNotActed
    };
    Ok((commit.short(), found))
}

/// Whether git could have written `text` for a commit, in full or abbreviated.
fn is_like_an_id(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The finished runs of one repository, oldest first, or why they cannot be read.
pub type History = (String, Result<Vec<Finished>, String>);

/// The finished runs of the repositories with these names, or of all.
///
/// # Errors
/// When a name is not known, or a helper does not answer.
pub fn histories(here: &Here, names: &[String]) -> Result<Vec<History>> {
    let Sorted { ours, theirs, nobodys } = delegate::sort(here, roster::named(here, names)?);
    let mut all: Vec<History> =
        nobodys.into_iter().map(|(repo, why)| (repo.name, Err(why))).collect();
    for (user, repos) in &theirs {
        all.extend(delegate::histories(here, user, repos)?);
    }
    all.extend(ours.into_iter().map(|repo| {
        let runs = match repo.found {
            Found::Missing => Ok(Vec::new()),
            _ => site(here, &repo).and_then(|site| site.records.history()),
        };
        (repo.name, runs.map_err(|error| one_line(&error)))
    }));
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

/// The folder of a repository's logs.
pub fn log_folder(here: &Here, name: &str) -> PathBuf {
    here.settings.world.logs.join(logs::folder_name(name))
}

/// The log of a repository's latest action that ran something.
pub fn latest_log(here: &Here, name: &str) -> Option<PathBuf> {
    Some(logs::list(&log_folder(here, name)).ok()?.into_iter().next()?.path)
}

/// The last lines of [`latest_log`]; empty when there is none.
pub fn log_tail(here: &Here, name: &str, lines: usize) -> Vec<String> {
    latest_log(here, name).and_then(|log| logs::tail(&log, lines).ok()).unwrap_or_default()
}

/// Makes the init ladder due once more.
///
/// # Errors
/// When that cannot be written, or an action runs.
pub fn init_again(here: &Here, repo: &Repo) -> Result<()> {
    let site = site(here, repo)?;
    site.records.make(site.git.git_dir())?;
    let lock::Tried::Held(lock) = lock::ActionLock::acquire(&site.records)? else {
        bail!("{}: an action runs\nhint: try again when agent status says that it ended", repo.name)
    };
    let mut memory = site.records.memory()?;
    memory.init_due = true;
    memory.init_done = None;
    site.records.put_memory(&memory)?;
    drop(lock);
    Ok(())
}
