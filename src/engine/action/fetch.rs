//! Fetches what upstream has, and records how far it was seen. Decides nothing about deploying it.

use std::collections::HashSet;
use std::fmt;

use anyhow::{Error, Result, anyhow, bail};

use crate::domain::followed::{ChosenTag, Followed};
use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::remote::{
    BackoffPolicy, PollScope, RefKinds, RefTip, RemoteFailure, RemoteHints,
};
use crate::domain::repository::action::ProgressEvent;
use crate::domain::repository::observed::Unreachable;
use crate::domain::text::EscapeControls;
use crate::engine::action::repair;
use crate::engine::action::revision_search::RevisionSearch;
use crate::engine::repository::poll::{self, NoAnswer, without_answer};
use crate::engine::repository::upstream_refs::{TAGS, TRACKED, kept_at};
use crate::engine::repository::{Repository, limits, tags};
use crate::engine::run::scripts;
use crate::system::files::DiskFault;
use crate::system::git::Git;
use crate::system::remote::{FetchGoal, FetchOrder, FetchProgress, FetchedRef};
use crate::system::repo_state::{ListedRef, PollRecord, RefListing};
use crate::system::{host, watchdog};

/// Fetches `tip`, or a newer tip. `false`: no remote delivered it; that is recorded.
///
/// # Errors
/// When the disk fails, or an object cannot be read.
pub fn fetch(
    repository: &Repository,
    tip: Commit,
    backoff: BackoffPolicy,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<bool> {
    let mut polled = repository.polled();
    let wanted = match (repository.wanted().revision(), &polled.tag, &polled.branch) {
        (Some(revision), ..) => WantedTip::Revision(revision),
        (None, Some(tag), _) => WantedTip::Tag(tag.clone()),
        (None, None, Some(branch)) => WantedTip::Branch(branch.clone(), tip),
        (None, None, None) => return Ok(false),
    };
    if let WantedTip::Branch(branch, _) = &wanted {
        make_room(repository, branch)?;
    }
    let mut none = NoAnswer::default();
    let mut lacking = None;
    let mut remotes: Vec<_> = repository.remotes.iter().enumerate().collect();
    // The remote that named the tip comes first; a stable sort keeps the order of the others.
    remotes.sort_by_key(|(_, remote)| polled.way_of(remote).is_none());
    for (number, remote) in remotes {
        let now = host::now();
        if let (BackoffPolicy::Respect, Some(left)) = (backoff, polled.leaves_alone(remote, now)) {
            none.leave(left);
            continue;
        }
        tracing::info!(repository = %repository.repo.name, %remote, %wanted, "fetching");
        let delivered = match (&wanted, polled.way_of(remote)) {
            (WantedTip::Branch(branch, tip), Some(way)) => {
                fetch_branch(repository, remote, (branch, *tip), way, progress)
                    .map(|tip| PollRecord { tip: Some(tip), ..polled.clone() })
            }
            (WantedTip::Branch(branch, tip), None) => {
                fetch_from_mirror(repository, remote, (branch, *tip), progress)
                    .map(|said| PollRecord { mirror: number > 0, ..said })
            }
            (WantedTip::Tag(tag), way) => {
                fetch_tag(repository, remote, (tag, way), &polled, progress)
            }
            (WantedTip::Revision(revision), way) => {
                fetch_revision(repository, remote, (*revision, way), progress)
                    .map(|()| PollRecord { tip: Some(*revision), no_ref: None, ..polled.clone() })
            }
        };
        match delivered {
            Ok(said) => {
                let mut left_alone = polled.left_alone;
                left_alone.remove(&remote.to_string());
                repository.records.put_polled(&PollRecord {
                    unreachable: None,
                    other_format: None,
                    left_alone,
                    ..said.clone()
                })?;
                // Where signatures count, it may be taken back until it was verified.
                if repository.repo.settings.policy.gates.signers.is_none() {
                    raise_marks(repository, &said)?;
                }
                return Ok(true);
            }
            // Another remote does not help against a full disk or an unreadable object.
            Err(error) if DiskFault::of(&error).is_some() || error.is::<UnreadableFetch>() => {
                return Err(error);
            }
            Err(error) => {
                let before = polled.clone();
                let tried = (remote, &repository.repo.settings.reach);
                match error.is::<RevisionMissing>() {
                    true => {
                        let mut missing = NoAnswer::default();
                        missing.add(&mut polled.left_alone, &before, tried, &error, now);
                        lacking = lacking.or(Some(missing.reason()));
                    }
                    false => none.add(&mut polled.left_alone, &before, tried, &error, now),
                }
            }
        }
    }
    match lacking {
        Some(reason) => {
            let since = polled.no_ref.as_ref().map_or_else(host::now, |known| known.since);
            let no_ref = Some(Unreachable { since, reason, refusals: 0 });
            repository.records.put_polled(&PollRecord { tip: None, no_ref, ..polled })?;
        }
        None => put_unreachable(repository, &polled, none)?,
    }
    Ok(false)
}

/// What a fetch is to bring.
enum WantedTip {
    /// This branch, with this tip or a newer one.
    Branch(RefName, Commit),
    /// This tag, as it was listed.
    Tag(ChosenTag),
    /// This revision.
    Revision(Commit),
}

impl fmt::Display for WantedTip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch(branch, _) => branch.fmt(f),
            Self::Tag(tag) => f.write_str(&tag.escaped()),
            Self::Revision(revision) => revision.fmt(f),
        }
    }
}

/// Fetches `tag` from `remote`, which was polled as `way`; a mirror that was not polled must have the same tag.
/// Returns the record with the commit behind it. A tag that names no commit is left out from then on, and the
/// next poll chooses another one.
fn fetch_tag(
    repository: &Repository,
    remote: &Remote,
    (tag, way): (&ChosenTag, Option<&RemoteHints>),
    polled: &PollRecord,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<PollRecord> {
    let asked;
    let way = match way {
        Some(way) => way,
        None => {
            let answer = repository.ask(remote, &repository.wanted(), None)?;
            if !answer.tag.as_ref().is_some_and(|its| its.is_same_as(tag)) {
                let name = tag.name.escape_controls();
                bail!("{remote} lags behind: it does not have the tag {name} as it was listed");
            }
            asked = answer.way;
            &asked
        }
    };
    let (from, to, id) = (tags::full_name(&tag.name), tags::FETCHED.to_owned(), tag.id);
    let updates = [FetchedRef { from, to, id }];
    let (reach, goal) = (&repository.repo.settings.reach, FetchGoal::Refs(&updates));
    fetch_counted(repository, &FetchOrder { remote, reach, goal, way: Some(way) }, progress)?;
    Ok(with_commit(repository, tag, polled))
}

/// The record `polled` with the commit behind `tag`, which was fetched.
fn with_commit(repository: &Repository, tag: &ChosenTag, polled: &PollRecord) -> PollRecord {
    let mut after = polled.clone();
    match repository.git.peeled(tag.id) {
        Some(commit) => {
            after.tip = Some(commit);
            after.tag = Some(ChosenTag { commit, ..tag.clone() });
        }
        None => {
            tracing::warn!(repository = %repository.repo.name, tag = %tag.name.escape_controls(),
                "names no commit; it does not count");
            after.no_commits.insert(tag.id);
            (after.tip, after.tag, after.known) = (None, None, false);
        }
    }
    after
}

/// No remote that was asked has the followed revision.
#[derive(Debug)]
struct RevisionMissing;

impl fmt::Display for RevisionMissing {
    /// Empty: the other messages of the chain describe the failure.
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for RevisionMissing {}

/// Fetches `revision` from `remote`, by its id or with all of its refs.
///
/// # Errors
/// [`RevisionMissing`] when the remote answers and does not have it as a commit.
fn fetch_revision(
    repository: &Repository,
    remote: &Remote,
    (revision, way): (Commit, Option<&RemoteHints>),
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let (git, format) = (&repository.git, repository.git.format());
    // Asked for once more at growing distances: it may be pushed later.
    let missing =
        |why: String| Error::new(RemoteFailure::Pack).context(RevisionMissing).context(why);
    if revision.0.format() != format {
        return Err(missing(format!(
            "revision is an id of {}, and {remote} names its objects by {format}\n\
             hint: correct revision",
            revision.0.format()
        )));
    }
    let mut fetch = |way: Option<&RemoteHints>, updates: &[FetchedRef]| {
        let (reach, goal) = (&repository.repo.settings.reach, FetchGoal::Refs(updates));
        fetch_counted(repository, &FetchOrder { remote, reach, goal, way }, progress)
    };
    let refs = || {
        let kinds = RefKinds { branches: true, tags: true };
        let every = PollScope::Every { followed: Followed::Branch(None), kinds };
        Ok(repository.ask(remote, &every, None)?.refs)
    };
    let search = RevisionSearch { git, way, fetch: &mut fetch };
    match search.run(&revision.to_string(), refs)? {
        Some(found) if found == revision => git.set_ref(tags::REVISION, revision, "fetch"),
        Some(found) => Err(missing(format!(
            "{revision} is a tag of {remote}, not a commit\nhint: revision = \"{found}\", or follow the tag by its name"
        ))),
        None => Err(missing(format!(
            "{remote} has no revision {revision}\nhint: push it, or correct revision"
        ))),
    }
}

/// Removes the refs of a default branch that upstream renamed, where they are in the way of those of its
/// new name `followed`: `main` and `main/v2` cannot both exist.
///
/// # Errors
/// When a ref cannot be read or written.
pub fn make_room(repository: &Repository, followed: &RefName) -> Result<()> {
    let PollScope::WithHead(old) = repository.wanted() else { return Ok(()) };
    if !old.is_in_the_way_of(followed) {
        return Ok(());
    }
    repository.git.remove_ref(&repository.tracking(&old))?;
    let (from, to) = (old.seen(), followed.seen());
    if let Some(mark) = repository.git.ref_id(&from)? {
        // A person sees the mark in the log of the new one; without it only a rewind is missed.
        repository.git.remove_ref(&from)?;
        repository.git.set_logged_ref(&to, mark, "renamed upstream")?;
    }
    Ok(())
}

/// Fetches, and emits the number of bytes received.
fn fetch_counted(
    repository: &Repository,
    order: &FetchOrder,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let mut bytes = 0;
    let limit = limits::fetch(&repository.repo.settings);
    let _step = watchdog::within("fetching", limit);
    let fetched = repository.context.wire.fetch(&repository.git, order, &mut |now| {
        if let FetchProgress::Received { bytes: received, .. } = now {
            bytes = received as u64;
        }
        progress(now);
    });
    scripts::emit(ProgressEvent::Fetched { repo: repository.repo.name.clone(), bytes });
    fetched.map_err(|error| repository.with_remedy(error, order.remote))
}

#[derive(Debug)]
struct UnreadableFetch(Commit);

impl fmt::Display for UnreadableFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was fetched and cannot be read", self.0)
    }
}

impl std::error::Error for UnreadableFetch {}

/// Fetches a branch from `remote`, which was polled as `way` and has the tip. Returns the fetched tip:
/// the branch may have moved since the poll.
fn fetch_branch(
    repository: &Repository,
    remote: &Remote,
    (branch, tip): (&RefName, Commit),
    way: &RemoteHints,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<Commit> {
    let to = repository.tracking(branch);
    let before = repository.git.ref_id(&to)?;
    let goal = FetchGoal::Branch { branch, to: &to, tip: Some(tip) };
    let order = FetchOrder { remote, reach: &repository.repo.settings.reach, goal, way: Some(way) };
    fetch_counted(repository, &order, progress)?;
    let there = repository.git.ref_id(&to)?.unwrap_or(tip);
    if !repository.git.has(there) {
        return Err(UnreadableFetch(there).into());
    }
    // A backend that lags behind the one that was polled.
    if let Some(before) = before.filter(|before| there != tip && there != *before)
        && repository.git.contains(before, there)?
    {
        repository.git.set_ref(&to, before, "the remote answers with an older tip")?;
        bail!("{remote} delivers an older {branch}, {}, than it listed", there.short());
    }
    Ok(there)
}

/// Fetches a branch from `remote` in place of the remote that named `tip`. The mirror must have `tip` as
/// well, because one that lags behind must not move the branch back; where nothing was ever fetched, any
/// tip is accepted.
fn fetch_from_mirror(
    repository: &Repository,
    remote: &Remote,
    (branch, tip): (&RefName, Commit),
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<PollRecord> {
    let before = repository.git.ref_id(&repository.tracking(branch))?;
    let wanted = PollScope::Branch(branch.clone());
    let answer = repository.ask(remote, &wanted, None)?;
    let said = poll::said(remote, answer, &wanted, None, host::now());
    let (Some(known), Some(way)) = (said.tip, &said.way) else {
        bail!("{remote} has no branch {branch}")
    };
    let late = |known: Commit| {
        anyhow!(
            "{remote} lags behind: it has {branch} at {}, and not {}",
            known.short(),
            tip.short()
        )
    };
    if repository.git.has(known) {
        return Err(late(known));
    }
    let there = fetch_branch(repository, remote, (branch, known), way, progress)?;
    let is_enough = repository.git.has(tip) && repository.git.contains(there, tip)?;
    if let (Some(before), false) = (before, is_enough) {
        repository.git.set_ref(&repository.tracking(branch), before, "a mirror lags behind")?;
        return Err(late(there));
    }
    Ok(PollRecord { tip: Some(there), ..said })
}

/// Records that no remote delivered what was asked for, and why.
fn put_unreachable(repository: &Repository, polled: &PollRecord, none: NoAnswer) -> Result<()> {
    repair::must_be_sound(repository, &none.reason())?;
    let after = without_answer(polled.clone(), none, host::now());
    repository.records.put_polled(&after)
}

/// Fetches every ref of `tips`, which the remote named in `polled` listed, and removes the refs that are
/// gone. `false`: the remote did not deliver them; that is recorded.
///
/// # Errors
/// When the disk fails, or an object cannot be read.
pub fn fetch_all_refs(
    repository: &Repository,
    polled: &PollRecord,
    tips: &[RefTip],
    backoff: BackoffPolicy,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<bool> {
    let before = repository.records.listing()?;
    remove_gone(repository, polled, tips, before.as_ref())?;
    let updates = updates(repository, polled, tips, &before.unwrap_or_default())?;
    let asked = repository.remotes.iter().find(|remote| polled.way_of(remote).is_some());
    if let (Some(remote), false) = (asked, updates.is_empty())
        && !fetch_refs(repository, polled, (remote, &updates), backoff, progress)?
    {
        return Ok(false);
    }
    let updated: HashSet<&str> = updates.iter().map(|update| update.from.as_str()).collect();
    let mut listing = Vec::with_capacity(tips.len());
    for tip in tips {
        // A local remote may have moved between list and fetch: the fetched ref counts.
        let context = match kept_at(&tip.name) {
            Some(name) => repository.git.ref_id(&name)?,
            None => None,
        };
        let is_ours = updated.contains(tip.name.as_str()) || context == Some(tip.id);
        let id = context.filter(|_| is_ours).unwrap_or(tip.id);
        let commit = context.filter(|_| is_ours).and_then(|context| repository.git.peeled(context));
        listing.push(ListedRef { tip: RefTip { name: tip.name.clone(), id }, commit });
    }
    repository.records.put_listing(&RefListing(listing))?;
    let (unreachable, other_format) = (None, None);
    let polled = PollRecord { unreachable, other_format, ..polled.clone() };
    let after = match &polled.tag {
        Some(tag) => with_commit(repository, tag, &polled),
        None => polled,
    };
    repository.records.put_polled(&after)?;
    if let Some(tag) =
        after.tag.as_ref().filter(|_| repository.repo.settings.policy.gates.signers.is_none())
    {
        repository.raise_seen_tag(tag)?;
    }
    match repository.wanted().revision() {
        // None of these refs need have it.
        Some(revision) if !repository.git.has(revision) => {
            fetch(repository, revision, backoff, progress)
        }
        _ => Ok(true),
    }
}

/// Whether the sorted `tips` have a ref of this name.
fn is_listed(tips: &[RefTip], name: &str) -> bool {
    tips.binary_search_by(|tip| tip.name.as_str().cmp(name)).is_ok()
}

/// Removes the refs that were fetched `before` and that `tips` lack. `None`: what was fetched is not known.
fn remove_gone(
    repository: &Repository,
    polled: &PollRecord,
    tips: &[RefTip],
    before: Option<&RefListing>,
) -> Result<()> {
    let mut gone = Vec::new();
    let fetched = before.into_iter().flat_map(|before| &before.0);
    for fetched in fetched.filter(|fetched| !is_listed(tips, &fetched.tip.name)) {
        if let Some(name) = kept_at(&fetched.tip.name)
            && repository.git.ref_id(&name)? == Some(fetched.tip.id)
        {
            gone.push((name, None));
        }
    }
    if before.is_none()
        && !polled.mirror
        && repository.repo.settings.mode.fetched().is_some_and(|it| it.branches)
    {
        // As git does when it prunes: a stale branch may be in the way of a new one's name.
        let tracked = repository.git.refs_below(TRACKED)?.into_iter();
        let stale = tracked.filter(|name| {
            let short = name.strip_prefix(TRACKED).unwrap_or_default();
            short != "HEAD" && !is_listed(tips, &format!("refs/heads/{short}"))
        });
        gone.extend(stale.map(|name| (name, None)));
    }
    repository.git.move_refs(&gone, "gone upstream")
}

/// The refs of `tips` that are to be fetched; `before`: those fetched before.
fn updates(
    repository: &Repository,
    polled: &PollRecord,
    tips: &[RefTip],
    before: &RefListing,
) -> Result<Vec<FetchedRef>> {
    let mut updates = Vec::new();
    for tip in tips {
        let Some(to) = kept_at(&tip.name) else { continue };
        let context = repository.git.ref_id(&to)?;
        let known = before.get(&tip.name).map(|fetched| fetched.tip.id);
        if context == Some(tip.id) {
            continue;
        }
        if tip.name.starts_with(TAGS) && context.is_some() && context != known {
            tracing::warn!(repository = %repository.repo.name, tag = %tip.name.escape_controls(),
                "is another one here, made by hand; it stays");
            continue;
        }
        updates.push(FetchedRef { from: tip.name.clone(), to, id: tip.id });
    }
    // The followed tag by a name of ours: a person may have made another one of its name.
    if let Some(tag) = polled.tag.as_ref()
        && !repository.has_fetched(tag)?
    {
        let (from, to) = (tags::full_name(&tag.name), tags::FETCHED.to_owned());
        updates.push(FetchedRef { from, to, id: tag.id });
    }
    // The followed branch, where the list has only tags.
    if let (Some(branch), Some(tip), None) = (&polled.branch, polled.tip, &polled.fixed)
        && !is_listed(tips, &branch.local())
        && repository.git.ref_id(&repository.tracking(branch))? != Some(tip)
    {
        updates.push(FetchedRef { from: branch.local(), to: repository.tracking(branch), id: tip });
    }
    Ok(updates)
}

/// Fetches `updates` from `remote`. `false`: it did not deliver them; that is recorded.
fn fetch_refs(
    repository: &Repository,
    polled: &PollRecord,
    (remote, updates): (&Remote, &[FetchedRef]),
    backoff: BackoffPolicy,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<bool> {
    let (reach, way, now) = (&repository.repo.settings.reach, polled.way_of(remote), host::now());
    let mut none = NoAnswer::default();
    if let (BackoffPolicy::Respect, Some(left)) = (backoff, polled.leaves_alone(remote, now)) {
        none.leave(left);
        put_unreachable(repository, polled, none)?;
        return Ok(false);
    }
    tracing::info!(repository = %repository.repo.name, %remote, refs = updates.len(), "fetching");
    let order = FetchOrder { remote, reach, goal: FetchGoal::Refs(updates), way };
    match fetch_counted(repository, &order, progress) {
        Ok(()) => Ok(true),
        Err(error) if DiskFault::of(&error).is_some() => Err(error),
        Err(error) => {
            let mut after = polled.clone();
            none.add(&mut after.left_alone, polled, (remote, reach), &error, now);
            put_unreachable(repository, &after, none)?;
            Ok(false)
        }
    }
}

/// Moves the high-water mark of what is followed forward to what `polled` says of it, never back: only a person or a
/// setting moves it back.
///
/// # Errors
/// When a ref cannot be read or written.
pub fn raise_marks(repository: &Repository, polled: &PollRecord) -> Result<()> {
    match (repository.wanted().revision(), &polled.tag, &polled.branch, polled.tip) {
        (Some(_), ..) => Ok(()),
        (None, Some(tag), ..) => repository.raise_seen_tag(tag),
        (None, None, Some(branch), Some(tip)) => raise_mark(&repository.git, branch, tip),
        _ => Ok(()),
    }
}

fn raise_mark(git: &Git, branch: &RefName, tip: Commit) -> Result<()> {
    let mark = git.kept_ref(&branch.seen())?;
    match mark {
        Some(mark) if mark == tip || !git.contains(tip, mark)? => Ok(()),
        _ => git.set_logged_ref(&branch.seen(), tip, "seen upstream"),
    }
}
