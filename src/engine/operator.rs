//! A person's orders besides following upstream: hold, roll back, accept, show history. Each function
//! returns what was done, and the command prints it. Does not know how an action runs.

pub mod action_reports;
pub mod check;
pub mod checkout;
pub mod diff;
pub mod forget;
pub mod helper_main;
mod holds;

use std::collections::BTreeSet;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use chrono::{DateTime, Utc};
pub use holds::{HoldKind, HoldOrder, ListedHold, UnholdOutcome, UnholdScope, hold, unhold};

use super::tick;
use crate::domain::git::Commit;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::report::notices::RevisionPresence;
use crate::domain::repository::decision::{Decision, decide};
use crate::domain::repository::history::way_back;
use crate::domain::repository::observed::{Observed, Policy, Unreachable, UpstreamTip};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::state::State;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::{self, CloneState, RepoEntry};
use crate::engine::error::one_line;
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::repository::{Repository, limits, tree};
use crate::engine::request::RunHistory;
use crate::engine::tick::user_helper::{self, HelperReplies, ReposByUser};
use crate::system::host;
use crate::system::lock::{self, RunPhase};
use crate::system::repo_state::RepoRecords;

/// The opened repository; an error with the reason when it cannot be opened.
pub(super) fn repository<'a>(
    context: &'a Context,
    repo: &'a RepoEntry,
) -> Result<Box<Repository<'a>>> {
    match observe::open_whole(context, repo) {
        OpenOutcome::Ready(repository) => Ok(repository),
        OpenOutcome::Missing => Err(not_cloned(context, repo)),
        OpenOutcome::Broken(reason) => bail!("{}: {reason}", repo.name),
        OpenOutcome::Damaged(reason) => bail!(
            "{}: {reason}\nhint: agent tick {} repairs it or prints the remedy",
            repo.name,
            repo.name
        ),
    }
}

/// The error for a `repo` that is not cloned yet, with the last tick's reason.
pub fn not_cloned(context: &Context, repo: &RepoEntry) -> Error {
    let name = &repo.name;
    let reason = |state| tick::reason_before(context, name, state);
    let states = [State::Unreachable, State::Denied, State::NoRef];
    match states.into_iter().find_map(reason) {
        Some(Unreachable { reason, .. }) => {
            let report = ErrorReport::parse(&reason);
            let hint = report.hint().unwrap_or_else(|| "agent check".to_owned());
            anyhow!("{name} could not be cloned: {}\nhint: {hint}", report.sentence())
        }
        None => anyhow!("{name} is not cloned yet\nhint: to clone it now: agent tick {name}"),
    }
}

/// Fails when a person's order cannot be carried out now: something holds the repository, or the order comes
/// from an action of this repository, which it would wait for.
///
/// # Errors
/// When it is held, with the hold; or when this process descends from one of its scripts.
pub fn accepts_orders(context: &Context, repo: &RepoEntry) -> Result<()> {
    let repository = repository(context, repo)?;
    must_be_outside(context, repo, &repository.records)?;
    let seen = repository.observe(&repository.polled(), host::now());
    if let Some(hold) = seen.holds.first() {
        bail!("{0} is held {1}\nhint: agent unhold {0}", repo.name, hold.sentence());
    }
    Ok(())
}

/// Fails when what is checked out must not be run again, because it was never accepted here.
///
/// # Errors
/// When it was not, or that cannot be judged.
pub fn can_redo(context: &Context, repo: &RepoEntry) -> Result<()> {
    let repository = repository(context, repo)?;
    if repository.fetches_all() {
        // Each ref is judged by itself.
        return Ok(());
    }
    match (repository.signature_judge()?, repository.is_at()?) {
        (Some(judge), Some(revision)) => judge.require(revision, None),
        _ => Ok(()),
    }
}

/// Fails when this process descends from the running action of a repository: it would wait for itself. The
/// processes count and no variable: a daemon that a script left behind has the variables of that script.
///
/// # Errors
/// When it does, or the journal cannot be read.
fn must_be_outside(context: &Context, repo: &RepoEntry, records: &RepoRecords) -> Result<()> {
    let journal = lock::journal(records)?.filter(|run| run.boot_id == context.node.boot_id);
    let Some(journal) = journal else { return Ok(()) };
    let tick = match journal.phase {
        // Root's tick runs `after_user`, and started the worker that waits for it.
        RunPhase::Run { script: None, checks_health: false, .. } => journal.worker.parent(),
        _ => None,
    };
    let scripts = journal.phase.scripts().map(|script| script.process);
    let mut processes = [journal.worker].into_iter().chain(scripts).chain(tick);
    if let Some(process) = processes.find(|process| process.pid > 1 && process.is_ancestor()) {
        bail!(
            "{0}: this command runs inside an action of {0} (process {1}), so it would wait for itself\n\
             hint: let the script end; one that exits with 75 is run again at the next tick",
            repo.name,
            process.pid
        );
    }
    Ok(())
}

/// Fails when this process descends from the running action of one of our repositories of these names (all
/// when empty), for which it is about to wait.
///
/// # Errors
/// When it does, or the repositories cannot be listed.
pub fn can_wait_for(context: &Context, names: &[String]) -> Result<()> {
    for repo in discovery::named(context, names)?.iter().filter(|repo| host::owns(&repo.path)) {
        if let Some(git_dir) = crate::system::git::git_dir_of(&repo.path) {
            must_be_outside(context, repo, &RepoRecords::of(&git_dir, &repo.path))?;
        }
    }
    Ok(())
}

/// The revision to which a rollback leads, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackTarget {
    /// The revision.
    pub revision: Commit,
    /// The first line of its message.
    pub subject: String,
    /// When it was committed; `None`: unknown.
    pub committed: Option<DateTime<Utc>>,
}

/// The target of a rollback: `text`, or the newest success before the tree that is checked out now first
/// succeeded here.
///
/// # Errors
/// When there is none, or `text` names no commit in the clone.
pub fn rollback_target(
    context: &Context,
    repo: &RepoEntry,
    text: Option<&str>,
) -> Result<RollbackTarget> {
    let repository = repository(context, repo)?;
    if repository.fetches_all() {
        bail!(
            "{} has many refs, which cannot be rolled back as one\n\
             hint: revert the commit upstream; until then nothing changes here after: agent hold {}",
            repo.name,
            repo.name
        );
    }
    let git = &repository.git;
    let revision = match text {
        Some(text) => {
            git.resolve(text).with_context(|| format!("cannot roll back {}", repo.name))?
        }
        None => last_good(&repository)?,
    };
    if let Some(judge) = repository.signature_judge()? {
        judge.require(revision, None)?;
    }
    let (subject, committed) = (git.subject(revision), git.committed_at(revision));
    Ok(RollbackTarget { revision, subject, committed })
}

/// The newest success before the tree that is checked out now first succeeded here.
fn last_good(repository: &Repository) -> Result<Commit> {
    let tree_of = |revision: Commit| repository.git.tree_of(&revision).ok();
    let now = repository.is_at()?.and_then(tree_of);
    let runs = repository.records.history()?;
    let found = way_back(&runs, now, tree_of, |revision| repository.git.has(revision));
    found.with_context(|| {
        format!(
            "{0} has no earlier success to go back to\n\
             hint: name a revision: agent rollback {0} REVISION",
            repository.repo.name
        )
    })
}

/// The upstream revision that `text` names, which must be upstream's present tip: it was refused as rewritten or
/// because of its signature, or its own `.pmpy.toml` holds it.
///
/// # Errors
/// When `text` names another revision, or there is none to accept.
pub fn acceptable(context: &Context, repo: &RepoEntry, text: &str) -> Result<Commit> {
    let repository = repository(context, repo)?;
    let seen = repository.observe(&repository.polled(), host::now());
    if let Some(Unreachable { reason, .. }) = &seen.other_format {
        bail!("{}: {reason}", repo.name);
    }
    let UpstreamTip::Tip { commit: tip, .. } = seen.upstream else {
        bail!("{}: no revision of upstream is known yet\nhint: agent tick {}", repo.name, repo.name)
    };
    let rewritten = match &seen.refs {
        Some(refs) => {
            let moved = seen.lost_tag.as_ref().map(|_| tip);
            let unsigned = Some(tip).filter(|tip| seen.is_unsigned(*tip));
            moved.into_iter().chain(unsigned).chain(refs.acceptable()).collect()
        }
        None => vec![tip],
    };
    let wanted = text.to_ascii_lowercase();
    let names = |commit: &&Commit| wanted.len() >= 7 && commit.to_string().starts_with(&wanted);
    if let Some(commit) = rewritten.iter().find(names) {
        return Ok(*commit);
    }
    let Some(first) = rewritten.first() else {
        bail!(
            "{}: nothing that upstream has was refused as rewritten or because of its signature, or holds itself",
            repo.name
        )
    };
    bail!(
        "{}: upstream has {first}, not \"{}\"\nhint: look at it first, then: agent accept {} {first}",
        repo.name,
        text.escape_controls(),
        repo.name
    )
}

/// The facts that `explain` prints about a repository.
pub struct Explanation {
    /// The observed state.
    pub seen: Observed,
    /// The policy in effect.
    pub policy: Policy,
    /// The decision of the next tick.
    pub decision: Decision,
    /// The revision that was asked about and where it is on this machine; `None`: none was asked about.
    pub containment: Option<(String, RevisionPresence)>,
}

/// Collects the facts for `explain`, including where `revision` is on this machine; asks no remote.
///
/// # Errors
/// When it is not cloned yet, or `revision` is given and the repository cannot be opened.
pub fn explain(context: &Context, repo: &RepoEntry, revision: Option<&str>) -> Result<Explanation> {
    let now = host::now();
    let request = ActionRequest::OF_CRON;
    let unread = match observe::open_whole(context, repo) {
        OpenOutcome::Broken(reason) => {
            Some(Observed { broken: Some(reason), ..Observed::default() })
        }
        OpenOutcome::Damaged(reason) => {
            Some(Observed { damaged: Some(reason), ..Observed::default() })
        }
        OpenOutcome::Missing => {
            let no_ref = tick::reason_before(context, &repo.name, State::NoRef);
            let upstream = if no_ref.is_some() { UpstreamTip::Empty } else { UpstreamTip::Unknown };
            let reason = |state| tick::reason_before(context, &repo.name, state);
            let unreachable = reason(State::Unreachable).or_else(|| reason(State::Denied));
            Some(Observed { unreachable, no_ref, upstream, ..Observed::default() })
        }
        OpenOutcome::Ready(_) => None,
    };
    if let (Some(seen), None) = (unread, revision) {
        let policy = repo.settings.policy.clone();
        let decision = match repo.found {
            CloneState::Missing if policy.active => Decision::clone_first(&seen, &policy),
            _ => decide(&seen, &policy, request, now),
        };
        return Ok(Explanation { seen, policy, decision, containment: None });
    }
    let repository = repository(context, repo)?;
    let mut seen = repository.observe(&repository.polled(), now);
    seen.unused = repository.git.unused_settings(&repository.source);
    seen.without_upstream = repository.without_upstream();
    let policy = repository.policy(&seen);
    let decision = decide(&seen, &policy, request, now);
    if let Some(acted) = seen.acted {
        seen.gaps = tree::gaps(&repository.git, seen.gaps.as_ref(), acted);
    }
    let containment = match revision {
        Some(text) => Some(containment(&repository, &seen, text)?),
        None => None,
    };
    Ok(Explanation { seen, policy, decision, containment })
}

fn containment(
    repository: &Repository,
    seen: &Observed,
    text: &str,
) -> Result<(String, RevisionPresence)> {
    let commit = match repository.git.resolve(text) {
        Ok(commit) => commit,
        // An id may name a commit that was never fetched.
        Err(_) if is_like_an_id(text) => return Ok((text.to_owned(), RevisionPresence::Unknown)),
        Err(error) => return Err(error),
    };
    let within = |tip: Option<Commit>| match tip {
        Some(tip) if repository.git.has(tip) => repository.git.contains(tip, commit),
        _ => Ok(false),
    };
    let found = if within(seen.acted)? {
        RevisionPresence::Acted
    } else if within(seen.head)? {
        RevisionPresence::ContainedInHead
    } else {
        RevisionPresence::FetchedNotActed
    };
    Ok((commit.short(), found))
}

/// Whether `text` has the form of a commit id, full or abbreviated.
fn is_like_an_id(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The histories of the repositories with these names; of all when there are none.
///
/// # Errors
/// When a name is not known, or a helper does not answer.
pub fn histories(context: &Context, names: &[String]) -> Result<Vec<RunHistory>> {
    let ReposByUser { ours, delegated, unusable, .. } =
        user_helper::sort_by_user(context, discovery::named(context, names)?);
    let mut all: Vec<RunHistory> =
        unusable.into_iter().map(|(repo, why)| (repo.name, Err(one_line(&why)))).collect();
    let of_user = |user: &_, repos: &_| user_helper::histories(context, user, repos);
    for (repos, answers) in user_helper::side_by_side(&delegated, of_user) {
        let HelperReplies { items, failure, .. } = answers;
        let why = failure.as_ref().map(one_line).unwrap_or_default();
        let listed: BTreeSet<&str> = items.iter().map(|(name, _)| name.as_str()).collect();
        let left = repos.iter().filter(|repo| !listed.contains(repo.name.as_str()));
        let left: Vec<RunHistory> =
            left.map(|repo| (repo.name.clone(), Err(why.clone()))).collect();
        all.extend(left.into_iter().chain(items));
    }
    all.extend(ours.into_iter().map(|repo| {
        let runs = match repo.found {
            CloneState::Missing => Ok(Vec::new()),
            _ => limits::within(context, &repo, |context, repo| {
                repository(context, repo)?.records.entries()
            }),
        };
        (repo.name, runs.map_err(|error| one_line(&error)))
    }));
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

/// Makes the init scripts due once more.
///
/// # Errors
/// When that cannot be written, or an action runs.
pub fn init_again(context: &Context, repo: &RepoEntry) -> Result<()> {
    let repository = repository(context, repo)?;
    repository.records.make(repository.git.git_dir())?;
    let lock::TryLock::Held(lock) = lock::ActionLock::acquire(&repository.records)? else {
        bail!("{}: an action runs\nhint: try again when agent status says that it ended", repo.name)
    };
    let mut memory = repository.records.memory()?;
    memory.init_due = true;
    memory.init_done = None;
    repository.records.put_memory(&memory)?;
    drop(lock);
    Ok(())
}
