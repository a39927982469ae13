//! Trees at their targets: what is desired there and what is, and carrying out the difference. A
//! target is only ever touched through [`release`], which knows what is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::fetch;
use super::observe::{Site, one_line};
use crate::domain::action::Outcome;
use crate::domain::git::Commit;
use crate::domain::plan::{Observed, OnRewrite};
use crate::domain::publication::{Book, Desired, LeftOut, Refs};
use crate::domain::publish::{self, Assigned, Layout, Rules, Target};
use crate::domain::status::{Published, State, conditions};
use crate::system::record::{Listing, Polled};
use crate::system::release::{self, Place, Standing, Store};

mod gate;
mod lost;
mod many;
mod marks;
mod one;
mod shared;
mod stage;

pub use many::{carry_out, cut_off};
pub use one::{Programs, follow, put};

/// The places of one repository's targets.
pub struct Shelf {
    target: Target,
    store: Store,
}

impl Shelf {
    /// Opens what was published before; `None`: nothing was, or this mode publishes nothing.
    ///
    /// # Errors
    /// When what is there is not ours.
    pub fn open(site: &Site, target: Target) -> Result<Option<Self>> {
        if target.layout == Layout::Inside {
            release::check_folder(&target.folder)?;
        }
        let store = Store::open(&target.folder, &target.store(), site.git.git_dir())?;
        Ok(store.map(|store| Self { target, store }))
    }

    /// Opens it, and first makes what is missing.
    ///
    /// # Errors
    /// When it may not be made, or what is there is not ours.
    pub fn make(site: &Site, target: Target) -> Result<Self> {
        if target.layout == Layout::Inside {
            release::make_folder(&target.folder)?;
        }
        let store = Store::make(&target.folder, &target.store(), site.git.git_dir())?;
        Ok(Self { target, store })
    }

    /// Removes what was retired and what dead runs left. What resists is in nobody's way.
    fn sweep(&self, site: &Site) {
        if let Err(error) = self.store.sweep() {
            tracing::warn!(repository = %site.repo.name, error = %one_line(&error), "old releases");
        }
    }

    /// Where what belongs into `directory` is seen.
    fn place(&self, directory: &str) -> Result<Place> {
        place(&self.target, directory)
    }

    /// What is seen there, or else what is in the way in words.
    fn seen(&self, place: &Place) -> Result<(Option<Commit>, Option<String>)> {
        Ok(match self.store.standing(place)? {
            // A link whose release somebody removed shows nothing.
            Standing::Ours(revision) => {
                (self.store.has(place, revision)?.then_some(revision), None)
            }
            Standing::Absent | Standing::EmptyFolder => (None, None),
            Standing::Foreign(words) => (None, Some(words)),
        })
    }

    /// What the directory that a ref had before is called in our record.
    fn former(&self, directory: &str) -> String {
        format!("{}/{directory}", self.target.store())
    }

    /// The path that readers open.
    fn path(&self, directory: &str) -> PathBuf {
        self.target.folder.join(self.target.link(directory))
    }
}

fn place(target: &Target, directory: &str) -> Result<Place> {
    let slot = (target.layout != Layout::Checkout).then_some(directory);
    Place::new(&target.link(directory), slot)
}

/// Removes what a dead run left at the targets. What resists is in nobody's way.
pub fn clear_up(site: &Site) {
    let Some(target) = site.repo.settings.target() else { return };
    match Shelf::open(site, target) {
        Ok(Some(shelf)) => shelf.sweep(site),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(repository = %site.repo.name, error = %one_line(&error), "the target");
        }
    }
}

/// What the one target of a repository shows.
///
/// # Errors
/// When something of somebody else's is in the way, or it cannot be looked at.
pub fn shown(site: &Site) -> Result<Option<Commit>> {
    let Some(target) = site.repo.settings.target() else { return Ok(None) };
    let place = place(&target, "")?;
    let folder = target.folder.clone();
    let (shown, in_the_way) = match Shelf::open(site, target)? {
        Some(shelf) => shelf.seen(&place)?,
        None => (None, release::in_the_way(&folder, &place)?),
    };
    match in_the_way {
        Some(words) => bail!(words),
        None => Ok(shown),
    }
}

/// The refs of a repository whose refs are acted upon one by one: what is desired, and what is.
///
/// # Errors
/// When a record cannot be used, or the targets are not ours.
pub fn refs(site: &Site, polled: &Polled) -> Result<Refs> {
    let settings = &site.repo.settings;
    let listing = site.records.listing()?;
    let branch = polled.branch.as_ref().or(site.branch.as_ref());
    let tip = match branch {
        Some(branch) => site.git.ref_commit(&branch.tracking())?,
        None => None,
    };
    let others = match (fetch::upstream(site, polled, listing.as_ref()), &listing) {
        (Some(tips), Some(listing)) => !listing.says(&tips) || has_way_again(site, listing)?,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let lags = |it| polled.is_doubtful() && site.git.has(it);
    let unfetched = others || polled.tip.is_some_and(|it| tip != Some(it) && !lags(it));
    let book = actual(site)?;
    let desired = desired(site, polled, listing.as_ref(), &book)?;
    let (book, by_hand) = match settings.mode.refs() {
        Some(_) => (book, Book::new()),
        None => (Book::new(), book),
    };
    Ok(Refs { unfetched, tip, desired, book, by_hand })
}

/// Whether a tag that was left out because of one made here by hand has its name for itself now.
fn has_way_again(site: &Site, listing: &Listing) -> Result<bool> {
    for fetched in listing.0.iter().filter(|fetched| fetched.commit.is_none()) {
        if let Some(name) = fetch::kept_at(&fetched.tip.name)
            && site.git.ref_id(&name)?.is_none()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Our record, with what the targets really show.
fn actual(site: &Site) -> Result<Book> {
    let mut book = site.records.book()?;
    let Some(target) = site.repo.settings.target() else { return Ok(book) };
    // What was published in another way, is in other places.
    book.retain(|_, entry| entry.directory.as_ref().is_none_or(|it| fits(&target, it)));
    let shelf = Shelf::open(site, target)?;
    if let Some(shelf) = &shelf {
        lost::found_by_links(site, shelf, &mut book)?;
    }
    for entry in book.values_mut() {
        let Some(directory) = &entry.directory else { continue };
        let seen = match &shelf {
            Some(shelf) => shelf.place(directory).and_then(|place| shelf.seen(&place)),
            None => Ok((None, None)),
        };
        // What cannot be looked at for one of them is no reason to leave the others alone.
        let (shown, in_the_way) =
            seen.unwrap_or_else(|error| (entry.shown, Some(one_line(&error))));
        entry.sees(shown);
        entry.in_the_way = in_the_way;
    }
    Ok(book)
}

/// Whether a tree in `directory` can be one of `target`'s.
fn fits(target: &Target, directory: &str) -> bool {
    match target.layout {
        Layout::Checkout => directory.is_empty(),
        Layout::Inside | Layout::Beside => place(target, directory).is_ok(),
    }
}

/// Which of the refs of `listing` has which directory, where `book` tells who has one already.
fn assigned(rules: &Rules, listing: Option<&Listing>, book: &Book) -> Vec<Assigned> {
    let there: BTreeMap<String, String> = book
        .iter()
        .filter_map(|(name, entry)| Some((entry.directory.clone()?, name.clone())))
        .collect();
    let listed = listing.map_or(&[][..], |listing| &listing.0).iter();
    let ours: Vec<_> = listed.map(|fetched| (fetched.tip.name.clone(), fetched.commit)).collect();
    publish::assign(&ours, &there, rules)
}

/// Which ref is to be seen where.
fn desired(
    site: &Site,
    polled: &Polled,
    listing: Option<&Listing>,
    book: &Book,
) -> Result<Vec<Desired>> {
    let settings = &site.repo.settings;
    let Some(target) = settings.target() else { return Ok(Vec::new()) };
    let Some(rules) = settings.rules(&target)? else { return Ok(Vec::new()) };
    let mut desired: Vec<Desired> = assigned(&rules, listing, book)
        .into_iter()
        .map(|assigned| {
            let release = match (assigned.revision, assigned.directory) {
                (_, Err(reason)) => Err(LeftOut::NoPlace(reason)),
                (None, Ok(_)) => Err(LeftOut::NoCommit(without_commit(&assigned.name).to_owned())),
                (Some(revision), Ok(directory)) => match place(&target, &directory) {
                    Ok(_) => Ok((revision, directory)),
                    Err(error) => Err(LeftOut::NoPlace(one_line(&error))),
                },
            };
            Desired { name: assigned.name, release, rewrites: None }
        })
        .collect();
    let known: BTreeSet<String> = desired.iter().map(|it| it.name.clone()).collect();
    let others =
        book.iter().filter(|(name, entry)| entry.directory.is_some() && !known.contains(*name));
    for (name, entry) in others {
        let may_be_there = match listing {
            None => true,
            // A former directory, and what is in no rule's sense, are our own business.
            Some(_) if entry.heir.is_some() || !rules.selects(name) => false,
            // Once that is known, a failure to remove it changes nothing about it.
            Some(listing) if listing.get(name).is_none() && entry.stuck.is_some() => false,
            Some(listing) => !fetch::is_gone(polled, listing, name),
        };
        if may_be_there {
            let release = Err(LeftOut::Unproven(UNPROVEN.to_owned()));
            desired.push(Desired { name: name.clone(), release, rewrites: None });
        }
    }
    desired.sort_by(|one, other| one.name.cmp(&other.name));
    if settings.policy.rewritten == OnRewrite::Refuse {
        for it in &mut desired {
            let Ok((revision, _)) = &it.release else { continue };
            let shown = book.get(&it.name).and_then(|entry| entry.shown);
            // One that comes again is no newer than what was shown before it went.
            let shown = match shown {
                Some(shown) => Some(shown),
                None => marks::of(site, &it.name)?,
            };
            if let Some(shown) = shown
                && *revision != shown
                && !site.git.contains(*revision, shown)?
            {
                it.rewrites = Some(shown);
            }
        }
    }
    Ok(desired)
}

/// Why a ref stays that upstream was not seen to have.
const UNPROVEN: &str = "it stays until the first remote lists its refs without it; nobody knows yet \
                        whether it has it still";

/// Why a ref of upstream's stands for no commit here.
fn without_commit(name: &str) -> &'static str {
    match fetch::kept_at(name) {
        Some(_) => "it stands for no commit, or a tag of that name was made here by hand",
        None => "its name is none that can be stored here",
    }
}

/// The ref's name as people say it.
pub fn short_name(name: &str) -> &str {
    ["refs/heads/", "refs/tags/"]
        .into_iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

/// What `status` says of each target.
pub fn published(site: &Site, seen: &Observed) -> Vec<Published> {
    let Some(target) = site.repo.settings.target() else { return Vec::new() };
    let path = |directory: &Option<String>| {
        let of = |directory: &String| target.folder.join(target.link(directory));
        directory.as_ref().map_or_else(String::new, |directory| of(directory).display().to_string())
    };
    let Some(refs) = &seen.refs else {
        // The one branch stands as the repository does.
        let all = conditions(seen, &site.repo.settings.policy);
        let Some(first) = all.into_iter().next() else { return Vec::new() };
        let Some(branch) = &seen.branch else { return Vec::new() };
        let path = path(&Some(String::new()));
        let (state, reason) = (first.state, first.reason);
        return vec![Published { name: branch.local(), revision: seen.head, path, state, reason }];
    };
    let by_hand = refs.by_hand.iter().map(|(name, entry)| {
        let state = if entry.shown.is_some() { State::Current } else { State::New };
        let (name, path, reason) = (name.clone(), path(&entry.directory), entry.in_the_way.clone());
        Published { name, revision: entry.shown, path, state, reason }
    });
    let told =
        |reason: String| reason.replace("accept REPO", &format!("accept {}", site.repo.name));
    let standings = refs.standings(seen.accepted).into_iter();
    let of_rules = standings.map(|standing| Published {
        path: path(&standing.directory),
        name: standing.name,
        revision: standing.shown,
        state: standing.state,
        reason: standing.reason.map(told),
    });
    by_hand.chain(of_rules).collect()
}

/// Why the target of the ref `name` does not show what it should; `None`: it does.
///
/// # Errors
/// When the record cannot be used.
pub fn trouble_with(site: &Site, name: &str) -> Result<Option<String>> {
    let book = actual(site)?;
    let Some(entry) = book.get(name) else { return Ok(None) };
    let attempt = entry.attempt.as_ref().map(|attempt| attempt.outcome.to_string());
    let verdict = entry.verdict.as_ref().map(|(_, finding)| finding.told().1);
    Ok(entry.in_the_way.clone().or(verdict).or(attempt))
}

/// What the one target of a repository shows that only fetches, is called `name` from now on.
///
/// # Errors
/// When the record cannot be used or written.
pub fn rename_by_hand(site: &Site, name: &str) -> Result<()> {
    let mut book = site.records.book()?;
    let (_, entry) = book.pop_last().unwrap_or_default();
    site.records.put_book(&Book::from([(name.to_owned(), entry)]))
}

/// The releases that stay where one branch is published: the one shown, and of what was acted upon
/// with success before the newest and `keep` more.
pub(super) fn kept(site: &Site, shown: Commit) -> Result<BTreeSet<Commit>> {
    let keep = site.repo.settings.publish.keep as usize;
    let mut kept = BTreeSet::from([shown]);
    let history = site.records.history()?;
    let successes = history.iter().rev().filter(|run| run.outcome == Outcome::Succeeded);
    // The last good one is the one shown, unless that failed.
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
