//! `agent checkout`: puts one branch, tag or revision into a target, on a person's order. Asks a remote
//! only for what is not in the clone. Does not know what the repository follows.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail, ensure};

use crate::domain::followed::Followed;
use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::publish::rules::PublishTarget;
use crate::domain::publish::state::{PendingRef, PublishPlan, RefOverrides};
use crate::domain::remote::{PollAnswer, PollScope, RefKinds, RemoteHints};
use crate::domain::repository::action::Trigger;
use crate::domain::repository::history::ActKind;
use crate::domain::text::EscapeControls;
use crate::engine::action::revision_search::RevisionSearch;
use crate::engine::action::way_back::CheckWatch;
use crate::engine::action::{reconcile, recover};
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::one_line;
use crate::engine::operator;
use crate::engine::publish::{multi_ref, single_ref};
use crate::engine::repository::upstream_refs::saved_at;
use crate::engine::repository::{Repository, limits, targets};
use crate::engine::run::record::{self, OrderedAct};
use crate::system::files::DiskFault;
use crate::system::remote::{FetchGoal, FetchOrder, FetchedRef};
use crate::system::{host, watchdog};

/// The ref or revision that a person asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckoutChoice {
    /// The ref's full name; for a revision its id.
    pub name: String,
    /// Its commit.
    pub revision: Commit,
}

/// The result of a checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckoutAction {
    /// The revision is at this path now.
    Shown(PathBuf),
    /// The repository follows a branch to its target: roll back to this commit and pin it.
    Pin(Commit),
}

/// Publishes what `text` names to `to`, or to the repository's own target.
///
/// # Errors
/// When `text` names nothing here or at a remote, there is no target, or it cannot be published.
pub fn checkout(
    context: &Context,
    repo: &RepoEntry,
    text: &str,
    to: Option<&Path>,
) -> Result<(CheckoutChoice, CheckoutAction)> {
    let repository = operator::repository(context, repo)?;
    repository.records.make(repository.git.git_dir())?;
    let Some(lock) = reconcile::take_lock(context, &repository.records, &|| true)? else {
        bail!("{}: another action runs", repo.name)
    };
    watchdog::begin("checking it out", limits::STANDSTILL);
    recover::recover(context, &lock, &repository)?;
    let choice = match here_already(&repository, text) {
        Some(choice) => choice,
        None => fetched(&repository, text)?,
    };
    if let Some(judge) = repository.signature_judge()? {
        judge.require(choice.revision, Some(&choice.name))?;
    }
    let settings = &repo.settings;
    let way = match (to, settings.target()) {
        (Some(to), _) => {
            let target = free_standing(context, repo, to)?;
            single_ref::put(&repository, target, choice.revision)?;
            CheckoutAction::Shown(to.to_owned())
        }
        (None, None) => bail!(
            "{} has no target\nhint: name a directory: agent checkout {} {} --to DIR",
            repo.name,
            repo.name,
            text.escape_controls()
        ),
        (None, Some(_)) if settings.mode.fetched().is_none() => {
            CheckoutAction::Pin(choice.revision)
        }
        (None, Some(target)) => {
            let due = due(&repository, &choice)?;
            let path = target.links_dir.join(target.link(&due.directory));
            let name = due.name.clone();
            let journal = lock.begin(Trigger::Manual, &context.node.boot_id, host::now())?;
            let (remove, publish) = (Vec::new(), vec![due]);
            let plan = PublishPlan { fetch: false, remove, publish, record: None };
            let watch = CheckWatch::new(&repository);
            multi_ref::carry_out(&repository, &lock, journal, &plan, (Trigger::Manual, &watch))?;
            if let Some(reason) = targets::trouble_with(&repository, &name)? {
                bail!("{} does not show {}: {reason}", path.display(), text.escape_controls());
            }
            CheckoutAction::Shown(path)
        }
    };
    if let CheckoutAction::Shown(path) = &way {
        let reason = Some(format!("{text} at {}", path.display()));
        let revision = Some(choice.revision);
        let act = OrderedAct { reason, revision, ..OrderedAct::new(ActKind::Checkout) };
        record::act(context, &repo.name, &repository.records, &act)?;
    }
    Ok((choice, way))
}

/// The ref or revision that `text` names in the clone.
fn here_already(repository: &Repository, text: &str) -> Option<CheckoutChoice> {
    let branch = text.parse::<RefName>().ok();
    let places =
        branch.iter().flat_map(|name| [(name.local(), name.tracking()), (tag(name), tag(name))]);
    for (name, kept_at) in places {
        if let Ok(Some(id)) = repository.git.ref_id(&kept_at)
            && let Some(revision) = repository.git.peeled(id)
        {
            return Some(CheckoutChoice { name, revision });
        }
    }
    let revision = repository.git.resolve(text).ok()?;
    Some(CheckoutChoice { name: revision.to_string(), revision })
}

fn tag(name: &RefName) -> String {
    format!("refs/tags/{name}")
}

/// The ref or revision that `text` names at a remote.
fn fetched(repository: &Repository, text: &str) -> Result<CheckoutChoice> {
    let unknown = |elsewhere: &[String]| {
        let context =
            format!("\"{}\" is not a branch, tag or revision that is here", text.escape_controls());
        let all: Vec<String> = std::iter::once(context).chain(elsewhere.iter().cloned()).collect();
        anyhow!(
            "{}: {}\nhint: to see which there are: git -C {} branch --all; git -C {2} tag",
            repository.repo.name,
            all.join("; "),
            repository.repo.path.display()
        )
    };
    let Ok(wanted) = text.parse::<RefName>() else { return Err(unknown(&[])) };
    let kinds = RefKinds { branches: true, tags: true };
    let mut failures = Vec::new();
    for remote in &repository.remotes {
        let every = PollScope::Every { followed: Followed::Branch(None), kinds };
        let _step = watchdog::within("asking its remote", limits::fetch(&repository.repo.settings));
        let answer = match repository.ask(remote, &every, None) {
            Ok(answer) => answer,
            Err(error) => {
                failures.push(one_line(&error));
                continue;
            }
        };
        let names = [(wanted.local(), wanted.tracking()), (tag(&wanted), tag(&wanted))];
        let found = names.into_iter().find_map(|(from, to)| {
            let tip = answer.refs.iter().find(|tip| tip.name == from)?;
            Some(FetchedRef { from, to, id: tip.id })
        });
        let Some(update) = found else {
            match fetched_revision(repository, remote, &answer, text) {
                Ok(Some(choice)) => return Ok(choice),
                Err(error) if DiskFault::of(&error).is_some() => return Err(error),
                Err(error) => failures.push(one_line(&error)),
                Ok(None) => failures.push(format!("{remote} does not have it either")),
            }
            continue;
        };
        fetch(repository, remote, &answer, std::slice::from_ref(&update))?;
        let Some(revision) = repository.git.peeled(update.id) else {
            bail!("{} names no commit", update.from)
        };
        return Ok(CheckoutChoice { name: update.from, revision });
    }
    Err(unknown(&failures))
}

/// Fetches `updates` from `remote`, which answered a poll with `answer`.
fn fetch(
    repository: &Repository,
    remote: &Remote,
    answer: &PollAnswer,
    updates: &[FetchedRef],
) -> Result<()> {
    let settings = &repository.repo.settings;
    let goal = FetchGoal::Refs(updates);
    let order = FetchOrder { remote, reach: &settings.reach, goal, way: Some(&answer.way) };
    let _step = watchdog::within("fetching", limits::fetch(settings));
    repository.context.wire.fetch(&repository.git, &order, &mut |_| {})
}

/// The revision with the id `text`, which no ref of `remote` need have as its tip: by its whole id where
/// the server gives it, else with all refs of the server. `None`: the remote has none such.
///
/// # Errors
/// When the remote cannot be asked, the disk fails, or a ref cannot be written.
fn fetched_revision(
    repository: &Repository,
    remote: &Remote,
    answer: &PollAnswer,
    text: &str,
) -> Result<Option<CheckoutChoice>> {
    if text.len() < 4 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let git = &repository.git;
    let mut fetch = |_: Option<&RemoteHints>, updates: &[FetchedRef]| {
        fetch(repository, remote, answer, updates)
    };
    let search = RevisionSearch { git, way: Some(&answer.way), fetch: &mut fetch };
    let Some(revision) = search.run(text, || Ok(answer.refs.clone()))? else { return Ok(None) };
    git.set_ref(&saved_at(revision, host::now()), revision, "checked out by its id")?;
    Ok(Some(CheckoutChoice { name: revision.to_string(), revision }))
}

/// A target outside the configuration, at a path where the agent has nothing, symlinks resolved.
///
/// # Errors
/// When something is there; the error names it.
pub fn free_place(context: &Context, to: &Path) -> Result<PublishTarget> {
    let target = context.settings.free_target(to).map_err(Error::msg)?;
    if let (Some(Ok(above)), Some(name)) = (to.parent().map(Path::canonicalize), to.file_name()) {
        context.settings.free_target(&above.join(name)).map_err(Error::msg)?;
    }
    Ok(target)
}

/// The same for a repository that need not be configured.
fn free_standing(context: &Context, repo: &RepoEntry, to: &Path) -> Result<PublishTarget> {
    ensure!(
        !to.starts_with(&repo.path) && !repo.path.starts_with(to),
        "{} lies in the clone, or the clone in it\nhint: choose another directory",
        to.display()
    );
    let target = free_place(context, to)?;
    ensure!(
        target.links_dir.is_dir(),
        "there is no directory {0} to put it in\nhint: mkdir -p {0}",
        target.links_dir.display()
    );
    Ok(target)
}

/// The pending publication of `choice` at its configured place.
fn due(repository: &Repository, choice: &CheckoutChoice) -> Result<PendingRef> {
    let (name, revision) = (choice.name.clone(), choice.revision);
    if repository.repo.settings.mode.refs().is_none() {
        targets::rename_by_hand(repository, &name)?;
        return Ok(PendingRef {
            name,
            revision,
            directory: String::new(),
            attempt: 1,
            resumed: false,
            leaves: None,
            repairs: false,
        });
    }
    let refs = targets::refs(repository, &repository.polled())?;
    let overrides = RefOverrides { accepted: Some(revision), named: true, redo: true };
    let target_diff = refs.target_diff(overrides, host::now());
    match target_diff.publish.into_iter().find(|due| due.name == name) {
        Some(due) => Ok(due),
        None => {
            let mut ref_statuses = target_diff.ref_statuses.into_iter();
            let reason = ref_statuses.find(|it| it.name == name).and_then(|it| it.reason);
            bail!(
                "{}: {} has no place at the target: {}\nhint: name a directory: --to DIR",
                repository.repo.name,
                name.escape_controls(),
                reason.unwrap_or_else(|| "the configuration does not select it".to_owned())
            )
        }
    }
}
