//! The targets of one repository: which refs are desired there, and which are shown. Touches a target
//! only through [`release`], which knows which files are the agent's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::domain::git::Commit;
use crate::domain::publish::release_paths::LeftFiles;
use crate::domain::publish::rules::{self, AssignedRef, PublishRules, PublishTarget, TargetLayout};
use crate::domain::publish::state::{DesiredRefs, PublishRecord, PublishState, SkippedRef};
use crate::domain::repository::action::{Attempt, Outcome};
use crate::domain::repository::change::{ObjectSource, RepoPath, TreeChange};
use crate::domain::repository::decision::Decision;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::observed::Observed;
use crate::domain::repository::state::State;
use crate::domain::repository::status::PublishedRef;
use crate::domain::text::EscapeControls;
use crate::engine::discovery::safe_paths::SafePaths;
use crate::engine::error::one_line;
use crate::engine::repository::{Repository, signatures, tree, upstream_refs};
use crate::system::release::{self, LinkState, ReleasePaths, ReleaseStore, Slot};
use crate::system::repo_state::{PollRecord, RefListing};
use crate::system::{files, host};

pub(in crate::engine) mod high_water;
mod orphans;
mod seals;
mod shown;

pub(in crate::engine) use seals::{ReleaseState, Seals};
pub(in crate::engine) use shown::{ShownRelease, shown_releases};

/// The targets of one repository and the store of their releases.
pub struct TargetStore {
    target: PublishTarget,
    pub(in crate::engine) store: ReleaseStore,
    /// The directories that its releases share.
    pub(in crate::engine) shared: Vec<RepoPath>,
}

impl TargetStore {
    /// Opens the store of earlier releases; `None`: nothing was published, or this mode publishes
    /// nothing.
    ///
    /// # Errors
    /// When the store or target is not the agent's.
    pub fn open(repository: &Repository, target: PublishTarget) -> Result<Option<Self>> {
        let directory = repository.repo.paths.target(repository.repo, &target.links_dir)?;
        if target.layout == TargetLayout::Inside {
            release::check_dir(&target.links_dir)?;
        }
        let store = ReleaseStore::open(&directory, &target.store(), repository.git.git_dir())?;
        Ok(store.map(|store| Self { target, store, shared: shared(repository) }))
    }

    /// Opens the store, and first makes what is missing.
    ///
    /// # Errors
    /// When it may not be made, or is not the agent's.
    pub fn make(repository: &Repository, target: PublishTarget) -> Result<Self> {
        // Checked anew: the path may have changed since the start of a long action.
        SafePaths::new(repository.context).target(repository.repo, &target.links_dir)?;
        make_parents(repository, &target)?;
        // Once more, because some of its directories may be new.
        let directory =
            SafePaths::new(repository.context).target(repository.repo, &target.links_dir)?;
        if target.layout == TargetLayout::Inside {
            release::make_dir(&target.links_dir)?;
        }
        let store = ReleaseStore::make(&directory, &target.store(), repository.git.git_dir())?;
        Ok(Self { target, store, shared: shared(repository) })
    }

    /// Removes retired releases and what dead runs left, and keeps for a time what an application wrote
    /// into them. A failure is only logged: the rest does no harm.
    pub(in crate::engine) fn sweep(&self, repository: &Repository) {
        let of_revision = |revision| {
            let tree = tree::tree_of(&repository.git, revision).ok()?;
            TreeChange::paths(None, tree, &repository.git).ok()
        };
        let paths = ReleasePaths { of_revision: &of_revision, shared: &self.shared };
        for outcome in [self.store.sweep(&paths), self.store.expire_left(host::now())] {
            if let Err(error) = outcome {
                tracing::warn!(repository = %repository.repo.name, error = %one_line(&error), "old releases");
            }
        }
    }

    /// The link and slot for `directory`.
    pub(in crate::engine) fn place(&self, directory: &str) -> Result<Slot> {
        place(&self.target, directory)
    }

    /// What the link of `place` shows.
    fn seen(&self, repository: &Repository, place: &Slot) -> Result<ShownTree> {
        let mut seen = ShownTree::of(self.store.standing(place)?);
        if let Some(revision) = seen.revision {
            seen.is_lost = self.store.is_lost(place, revision)?
                && (!self.store.has(place, revision)? || !is_empty_tree(repository, revision));
        }
        Ok(seen)
    }

    /// The key in the record for `directory`, after its ref was moved to another directory.
    pub(in crate::engine) fn former(&self, directory: &str) -> String {
        format!("{}/{directory}", self.target.store())
    }

    /// The path that readers open, for `directory`.
    pub(in crate::engine) fn path(&self, directory: &str) -> PathBuf {
        self.target.links_dir.join(self.target.link(directory))
    }
}

/// What a target shows.
#[derive(Default)]
struct ShownTree {
    /// The revision of our link.
    revision: Option<Commit>,
    /// Its release is missing or was emptied: readers find nothing there.
    is_lost: bool,
    /// The obstacle at the target, as a message.
    in_the_way: Option<String>,
}

impl ShownTree {
    fn of(link: LinkState) -> Self {
        match link {
            LinkState::Ours(revision) => Self { revision: Some(revision), ..Self::default() },
            LinkState::Absent | LinkState::EmptyDir => Self::default(),
            LinkState::Foreign(words) => Self { in_the_way: Some(words), ..Self::default() },
        }
    }

    /// The same for `place` of a `target` whose store is missing.
    fn without_store(target: &PublishTarget, place: &Slot) -> Result<Self> {
        let link = release::link_without_store(&target.links_dir, &target.store(), place)?;
        Ok(Self { is_lost: true, ..Self::of(link) })
    }

    /// The revision that readers find.
    fn shown(&self) -> Option<Commit> {
        self.revision.filter(|_| !self.is_lost)
    }
}

/// Returns `true` if `revision` is known to have no files.
fn is_empty_tree(repository: &Repository, revision: Commit) -> bool {
    tree::tree_of(&repository.git, revision)
        .is_ok_and(|tree| repository.git.tree(&tree).is_ok_and(|content| content.is_empty()))
}

/// The directories that the releases of `repository` share.
pub(in crate::engine) fn shared(repository: &Repository) -> Vec<RepoPath> {
    let settings = &repository.repo.settings;
    // [defaults] may name them for other repositories.
    let shared = settings.target().map_or(&[][..], |_| &settings.publish.shared);
    shared.iter().map(|path| RepoPath::new(path.as_bytes())).collect()
}

/// The directory that has to exist before `target` can be used.
pub(in crate::engine) fn needed_dir(target: &PublishTarget) -> &Path {
    match target.layout {
        TargetLayout::Inside => target.links_dir.parent().unwrap_or(&target.links_dir),
        TargetLayout::Checkout | TargetLayout::Sibling => &target.links_dir,
    }
}

/// The outermost directory on the way to `needed` that does not exist, or may not be entered.
pub(in crate::engine) fn missing_dir(needed: &Path) -> &Path {
    needed.ancestors().take_while(|dir| !dir.is_dir()).last().unwrap_or(needed)
}

/// Makes the directory of a target, and those above it, with the rights of this process's user.
fn make_parents(repository: &Repository, target: &PublishTarget) -> Result<()> {
    let needed = needed_dir(target);
    files::ensure_dir(needed, 0o755).with_context(|| {
        let us = repository.context.node.user.name.escape_controls();
        let missing = missing_dir(needed);
        let above = missing.parent().unwrap_or(missing).display();
        format!(
            "the directory {} of the target is missing, and {us} cannot make it in {above}\n\
             hint: as root: install -d -o {us} {}",
            missing.display(),
            needed.display()
        )
    })
}

fn place(target: &PublishTarget, directory: &str) -> Result<Slot> {
    let slot = (target.layout != TargetLayout::Checkout).then_some(directory);
    Slot::new(&target.link(directory), slot)
}

/// Removes what a dead run left at the targets. A failure is only logged: the rest does no harm.
pub fn clear_up(repository: &Repository) {
    let Some(target) = repository.repo.settings.target() else { return };
    match TargetStore::open(repository, target) {
        Ok(Some(target_store)) => target_store.sweep(repository),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(repository = %repository.repo.name, error = %one_line(&error), "the target");
        }
    }
}

/// Files that the releases of a repository had and their revisions do not; `None`: none, or they cannot be
/// read.
pub(in crate::engine) fn left_files(repository: &Repository) -> Option<LeftFiles> {
    let target = repository.repo.settings.target()?;
    let left = TargetStore::open(repository, target).ok()??.store.left_files();
    left.unwrap_or_else(|error| {
        tracing::warn!(repository = %repository.repo.name, error = %one_line(&error), "not counted");
        None
    })
}

/// Removes every link of ours at the targets, then the store of their releases.
///
/// # Errors
/// When the store is not the agent's, or something cannot be removed.
pub fn remove_all(repository: &Repository) -> Result<()> {
    let Some(target) = repository.repo.settings.target() else { return Ok(()) };
    let Some(target_store) = TargetStore::open(repository, target)? else { return Ok(()) };
    let book = repository.records.book()?;
    let listed = book.into_values().filter_map(|entry| entry.directory);
    // Where one branch is published, its directory has no name.
    for directory in listed.chain([String::new()]).collect::<BTreeSet<_>>() {
        if let Ok(place) = target_store.place(&directory) {
            target_store.store.unlink(&place)?;
        }
    }
    target_store.store.remove()
}

/// The revision that the one target of a repository shows; `None`: none, or one published from another
/// clone with another object format, which has no relation to the commits here.
///
/// # Errors
/// When a foreign file is in the way, or the target cannot be read.
pub fn published_revision(repository: &Repository) -> Result<Option<Commit>> {
    let Some(target) = repository.repo.settings.target() else { return Ok(None) };
    let target_store = TargetStore::open(repository, target.clone())?;
    let seen = seen_at(repository, &target, target_store.as_ref(), "")?;
    let shown = seen.shown();
    match seen.in_the_way {
        Some(words) => bail!(words),
        None => Ok(shown.filter(|shown| shown.0.format() == repository.git.format())),
    }
}

/// What the link of `directory` shows; `target_store`: `None` while the store is missing.
fn seen_at(
    repository: &Repository,
    target: &PublishTarget,
    target_store: Option<&TargetStore>,
    directory: &str,
) -> Result<ShownTree> {
    let place = place(target, directory)?;
    match target_store {
        Some(target_store) => target_store.seen(repository, &place),
        None => ShownTree::without_store(target, &place),
    }
}

/// The directories whose links show a release that is missing or was emptied, and its revision: those
/// that this clone published and still has the objects of.
///
/// # Errors
/// When a record or a target cannot be used.
pub(in crate::engine) fn lost_releases(repository: &Repository) -> Result<Vec<(String, Commit)>> {
    let Some(target) = repository.repo.settings.target() else { return Ok(Vec::new()) };
    let target_store = TargetStore::open(repository, target.clone())?;
    let directories: Vec<String> = match target.layout {
        TargetLayout::Checkout => vec![String::new()],
        TargetLayout::Inside | TargetLayout::Sibling => {
            let book = repository.records.book()?.into_values();
            book.filter_map(|entry| entry.directory).filter(|it| fits(&target, it)).collect()
        }
    };
    let seals = Seals::read(repository)?;
    let mut lost = Vec::new();
    for directory in directories {
        let Ok(seen) = seen_at(repository, &target, target_store.as_ref(), &directory) else {
            // It is reported with its own ref, and does not stop the others.
            continue;
        };
        if let (Some(revision), true) = (seen.revision, seen.is_lost)
            && seals.knows(revision)
            && revision.0.format() == repository.git.format()
            && repository.git.has(revision)
        {
            lost.push((directory, revision));
        }
    }
    Ok(lost)
}

/// The desired and the shown refs of a repository that publishes each ref by itself.
///
/// # Errors
/// When a record cannot be used, or the targets are not the agent's.
pub fn refs(repository: &Repository, polled: &PollRecord) -> Result<PublishState> {
    let settings = &repository.repo.settings;
    let listing = repository.records.listing()?;
    let branch = polled.branch.as_ref().or(repository.branch.as_ref());
    let tip = match (repository.wanted().revision(), &polled.tag, branch) {
        (Some(revision), ..) => Some(revision).filter(|revision| repository.git.has(*revision)),
        (None, Some(tag), _) => {
            repository.has_fetched(tag)?.then(|| repository.git.peeled(tag.id)).flatten()
        }
        (None, None, Some(branch)) if repository.followed.fixed().is_none() => {
            repository.git.ref_id(&repository.tracking(branch))?
        }
        _ => None,
    };
    let others = match (upstream_refs::upstream(repository, polled, listing.as_ref()), &listing) {
        (Some(tips), Some(listing)) => !listing.says(&tips) || has_way_again(repository, listing)?,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let lags = |it| polled.is_doubtful() && repository.git.has(it);
    let is_new = |it| tip != Some(it) && !lags(it);
    // Without a remote of the clone's object format nothing can be fetched.
    let unfetched = polled.other_format.is_none() && (others || polled.tip.is_some_and(is_new));
    let book = actual(repository)?;
    let desired = desired(repository, polled, listing.as_ref(), &book)?;
    let (book, by_hand) = match settings.mode.refs() {
        Some(_) => (book, PublishRecord::new()),
        None => (PublishRecord::new(), book),
    };
    Ok(PublishState { unfetched, tip, desired, book, by_hand })
}

/// Whether a tag that was left out because of a local tag of its name can now be fetched.
fn has_way_again(repository: &Repository, listing: &RefListing) -> Result<bool> {
    for fetched in listing.0.iter().filter(|fetched| fetched.commit.is_none()) {
        if let Some(name) = upstream_refs::kept_at(&fetched.tip.name)
            && repository.git.ref_id(&name)?.is_none()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The agent's record, corrected by what the targets really show.
pub(in crate::engine) fn actual(repository: &Repository) -> Result<PublishRecord> {
    let mut book = repository.records.book()?;
    let signers = signatures::signers(repository.context, repository.repo)?;
    let hash = signers.as_ref().map(|file| file.hash.as_str());
    for (name, entry) in &mut book {
        let counts = |finding: &Finding| {
            let shared = &repository.repo.settings.publish.shared;
            finding.counts(|| repository.git.max_file(), shared, hash)
        };
        entry.verdict = entry.verdict.take().filter(|(_, finding)| counts(finding));
        // Another tag at the same revision is judged anew.
        if let Some((_, Finding::Unsigned { tag: Some(tag), .. })) = &entry.verdict
            && repository.listed_id(name)? != Some(tag.id)
        {
            entry.verdict = None;
        }
    }
    let Some(target) = repository.repo.settings.target() else { return Ok(book) };
    // What was published in another layout is in other places.
    book.retain(|_, entry| entry.directory.as_ref().is_none_or(|it| fits(&target, it)));
    let target_store = TargetStore::open(repository, target.clone())?;
    if let Some(target_store) = &target_store {
        orphans::found_by_links(repository, target_store, &mut book)?;
    }
    for entry in book.values_mut() {
        let Some(directory) = &entry.directory else { continue };
        let seen = seen_at(repository, &target, target_store.as_ref(), directory);
        // An error at one target does not stop the others.
        let seen = seen.unwrap_or_else(|error| ShownTree {
            revision: entry.shown,
            is_lost: false,
            in_the_way: Some(one_line(&error)),
        });
        entry.sees(seen.shown());
        (entry.is_lost, entry.in_the_way) = (seen.is_lost, seen.in_the_way);
    }
    Ok(book)
}

/// Whether a tree in `directory` can belong to `target`.
fn fits(target: &PublishTarget, directory: &str) -> bool {
    match target.layout {
        TargetLayout::Checkout => directory.is_empty(),
        TargetLayout::Inside | TargetLayout::Sibling => place(target, directory).is_ok(),
    }
}

/// The directory of each ref of `listing`; `book` names the directories that are already given.
fn assigned(
    rules: &PublishRules,
    listing: Option<&RefListing>,
    book: &PublishRecord,
) -> Vec<AssignedRef> {
    let there: BTreeMap<String, String> = book
        .iter()
        .filter_map(|(name, entry)| Some((entry.directory.clone()?, name.clone())))
        .collect();
    let listed = listing.map_or(&[][..], |listing| &listing.0).iter();
    let ours: Vec<_> = listed.map(|fetched| (fetched.tip.name.clone(), fetched.commit)).collect();
    rules::assign(&ours, &there, rules)
}

/// The desired revision and directory of each ref.
fn desired(
    repository: &Repository,
    polled: &PollRecord,
    listing: Option<&RefListing>,
    book: &PublishRecord,
) -> Result<Vec<DesiredRefs>> {
    let settings = &repository.repo.settings;
    let Some(target) = settings.target() else { return Ok(Vec::new()) };
    let Some(rules) = settings.rules(&target)? else { return Ok(Vec::new()) };
    let mut desired: Vec<DesiredRefs> = assigned(&rules, listing, book)
        .into_iter()
        .map(|assigned| {
            let release = match (assigned.revision, assigned.directory) {
                (_, Err(reason)) => Err(SkippedRef::NoPlace(reason)),
                (None, Ok(_)) => {
                    Err(SkippedRef::NoCommit(without_commit(&assigned.name).to_owned()))
                }
                (Some(revision), Ok(directory)) => match place(&target, &directory) {
                    Ok(_) => Ok((revision, directory)),
                    Err(error) => Err(SkippedRef::NoPlace(one_line(&error))),
                },
            };
            DesiredRefs {
                name: assigned.name,
                release,
                rewrites: None,
                goes_back: false,
                is_bad: false,
            }
        })
        .collect();
    let known: BTreeSet<String> = desired.iter().map(|it| it.name.clone()).collect();
    let others =
        book.iter().filter(|(name, entry)| entry.directory.is_some() && !known.contains(*name));
    for (name, entry) in others {
        let may_be_there = match listing {
            None => true,
            // A former directory, and a ref that no rule selects, need no proof from upstream.
            Some(_) if entry.moved_to.is_some() || !rules.selects(name) => false,
            // A ref that is known to be gone stays gone, even when removing it failed.
            Some(listing) if listing.get(name).is_none() && entry.removal_failure.is_some() => {
                false
            }
            Some(listing) => !upstream_refs::is_gone(polled, listing, name),
        };
        if may_be_there {
            let release = Err(SkippedRef::Unproven(UNPROVEN.to_owned()));
            desired.push(DesiredRefs {
                name: name.clone(),
                release,
                rewrites: None,
                goes_back: false,
                is_bad: false,
            });
        }
    }
    desired.sort_by(|one, other| one.name.cmp(&other.name));
    high_water::fill_marks(repository, book, &mut desired)?;
    Ok(desired)
}

/// The reason why a ref stays although upstream was not seen to have it.
const UNPROVEN: &str = "it stays until the first remote lists its refs without it; whether that \
                        one still has it is unknown";

/// The reason why a ref of upstream has no commit here.
fn without_commit(name: &str) -> &'static str {
    match upstream_refs::kept_at(name) {
        Some(_) => "it names no commit, or a tag of that name was made here by hand",
        None => "its name is none that can be stored here",
    }
}

/// The short name of a ref, without `refs/heads/` or `refs/tags/`.
pub fn short_name(name: &str) -> &str {
    ["refs/heads/", "refs/tags/"]
        .into_iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

/// The status of each published ref. `conditions` are those of the repository, the most important first.
pub fn published(
    repository: &Repository,
    seen: &Observed,
    decision: &Decision,
) -> Vec<PublishedRef> {
    let Some(target) = repository.repo.settings.target() else { return Vec::new() };
    let path = |directory: &Option<String>| {
        let of = |directory: &String| target.links_dir.join(target.link(directory));
        directory.as_ref().map_or_else(String::new, |directory| of(directory).display().to_string())
    };
    let Some(refs) = &seen.refs else {
        // The one branch has the state of the repository.
        let Some(first) = decision.conditions.first().cloned() else { return Vec::new() };
        let Some(branch) = &seen.branch else { return Vec::new() };
        let path = path(&Some(String::new()));
        let (state, reason) = (first.state, first.reason);
        return vec![PublishedRef {
            name: branch.local(),
            revision: seen.head,
            path,
            state,
            reason,
            bad: None,
        }];
    };
    let by_hand = refs.by_hand.iter().map(|(name, entry)| {
        let state = match (&entry.attempt, entry.shown) {
            (Some(_), _) => State::Failing,
            (None, Some(_)) => State::Current,
            (None, None) => State::New,
        };
        let reason = entry.in_the_way.clone();
        let reason = reason.or_else(|| entry.attempt.as_ref().map(Attempt::sentence));
        let (name, path) = (name.clone(), path(&entry.directory));
        PublishedRef { name, revision: entry.shown, path, state, reason, bad: None }
    });
    let with_name =
        |reason: String| reason.replace("accept REPO", &format!("accept {}", repository.repo.name));
    let ref_statuses = decision.target_diff.iter().flat_map(|it| it.ref_statuses.clone());
    let of_rules = ref_statuses.map(|standing| PublishedRef {
        path: path(&standing.directory),
        name: standing.name,
        revision: standing.shown,
        state: standing.state,
        reason: standing.reason.map(with_name),
        bad: standing.bad,
    });
    by_hand.chain(of_rules).collect()
}

/// The reason why the target of the ref `name` does not show the desired revision; `None`: it does.
///
/// # Errors
/// When the record cannot be used.
pub fn trouble_with(repository: &Repository, name: &str) -> Result<Option<String>> {
    let book = actual(repository)?;
    let Some(entry) = book.get(name) else { return Ok(None) };
    let attempt = entry.attempt.as_ref().map(|attempt| attempt.outcome.to_string());
    let verdict = entry.verdict.as_ref().map(|(_, finding)| finding.state_and_reason().1);
    Ok(entry.in_the_way.clone().or(verdict).or(attempt))
}

/// Renames the one record of a repository that only fetches to `name`.
///
/// # Errors
/// When the record cannot be used or written.
pub fn rename_by_hand(repository: &Repository, name: &str) -> Result<()> {
    let mut book = repository.records.book()?;
    let (_, entry) = book.pop_last().unwrap_or_default();
    repository.records.put_book(&PublishRecord::from([(name.to_owned(), entry)]))
}

/// The releases to keep where one branch is published: the one shown, the newest that was deployed
/// successfully, and `keep` older ones.
pub(in crate::engine) fn kept(repository: &Repository, shown: Commit) -> Result<BTreeSet<Commit>> {
    let keep = repository.repo.settings.publish.keep as usize;
    let mut kept = BTreeSet::from([shown]);
    let history = repository.records.history()?;
    let successes = history.iter().rev().filter(|run| run.outcome == Outcome::Succeeded);
    // The last good release is the one shown, unless that failed.
    let good = successes.clone().next().map(|run| run.revision);
    kept.extend(good);
    let mut more = 0;
    for run in successes {
        if more == keep {
            break;
        }
        more += usize::from(kept.insert(run.revision));
    }
    Ok(kept)
}
