//! Getting what upstream has, and remembering how far it was seen. Decides nothing about it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use anyhow::{Result, anyhow, bail};

use super::observe::{Site, joined, reason};
use super::poll::{self, leave_alone};
use super::{repair, scripts};
use crate::domain::action::Word;
use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::plan::Unreachable;
use crate::domain::remote::{Tip, Wanted, Way, Whom};
use crate::system::files::Fault;
use crate::system::git::Git;
use crate::system::node;
use crate::system::record::{Fetched, Listing, Polled};
use crate::system::remote::{Goal, Order, Progress, Update};

/// Gets `tip`, or what came after it. `false`: no remote gave it; that is written down.
///
/// # Errors
/// When the disk fails, or what was fetched or is here cannot be read.
pub fn fetch(
    site: &Site,
    tip: Commit,
    whom: Whom,
    progress: &mut dyn FnMut(Progress),
) -> Result<bool> {
    let mut polled = site.records.polled();
    let Some(branch) = polled.branch.clone() else { return Ok(false) };
    let mut failures = Vec::new();
    let mut remotes: Vec<_> = site.remotes.iter().enumerate().collect();
    // The one that knew of the tip first; a stable sort leaves the others in their order.
    remotes.sort_by_key(|(_, remote)| polled.way_of(remote).is_none());
    for (number, remote) in remotes {
        let now = node::now();
        if let (Whom::TheWilling, Some(left)) = (whom, polled.leaves_alone(remote, now)) {
            failures.push(left.reason.clone());
            continue;
        }
        tracing::info!(repository = %site.repo.name, %remote, %branch, "fetching");
        let delivered = match polled.way_of(remote) {
            Some(way) => deliver(site, remote, (&branch, tip), way, progress)
                .map(|tip| Polled { tip: Some(tip), ..polled.clone() }),
            None => instead(site, remote, (&branch, tip), progress)
                .map(|said| Polled { mirror: number > 0, ..said }),
        };
        match delivered {
            Ok(said) => {
                let mut left_alone = polled.left_alone;
                left_alone.remove(&remote.to_string());
                site.records.put_polled(&Polled {
                    unreachable: None,
                    left_alone,
                    ..said.clone()
                })?;
                if let Some(tip) = said.tip {
                    raise_mark(&site.git, &branch, tip)?;
                }
                return Ok(true);
            }
            // No remote can do anything about a full disk, or about what cannot be read here.
            Err(error) if Fault::of(&error).is_some() || error.is::<Unreadable>() => {
                return Err(error);
            }
            Err(error) => {
                let before = polled.clone();
                leave_alone(&mut polled.left_alone, &before, remote, &error, now);
                failures.push(reason(&error));
            }
        }
    }
    put_unreachable(site, &polled, joined(&failures))?;
    Ok(false)
}

/// Fetches, and tells whoever waits how many bytes that took.
fn metered(site: &Site, order: &Order, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let mut bytes = 0;
    let fetched = site.here.wire.fetch(&site.git, order, &mut |now| {
        bytes = now.bytes as u64;
        progress(now);
    });
    scripts::tell(Word::Fetched { repo: site.repo.name.clone(), bytes });
    fetched
}

/// What was fetched cannot be read.
#[derive(Debug)]
struct Unreadable(Commit);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was fetched and cannot be read", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Fetches a branch from `remote`, which was polled as `way` and has the tip; returns where the branch
/// is: it may have moved on since.
fn deliver(
    site: &Site,
    remote: &Remote,
    (branch, tip): (&RefName, Commit),
    way: &Way,
    progress: &mut dyn FnMut(Progress),
) -> Result<Commit> {
    let goal = Goal::Branch { branch, tip: Some(tip) };
    let order = Order { remote, reach: &site.repo.settings.reach, goal, way: Some(way) };
    metered(site, &order, progress)?;
    let there = site.git.ref_commit(&branch.tracking())?.unwrap_or(tip);
    if !site.git.has(there) {
        return Err(Unreadable(there).into());
    }
    Ok(there)
}

/// Fetches a branch from `remote` in the place of the one that has its tip at `tip`: from one that has
/// that as well, for one that lags behind moves nothing back. Where nothing was ever seen, whatever
/// it has is better than nothing.
fn instead(
    site: &Site,
    remote: &Remote,
    (branch, tip): (&RefName, Commit),
    progress: &mut dyn FnMut(Progress),
) -> Result<Polled> {
    let before = site.git.ref_commit(&branch.tracking())?;
    let wanted = Wanted::Branch(branch.clone());
    let answer = site.here.wire.poll(remote, &wanted, &site.repo.settings.reach, None)?;
    let said = poll::said(remote, answer, &wanted, None, node::now());
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
    if site.git.has(known) {
        return Err(late(known));
    }
    let there = deliver(site, remote, (branch, known), way, progress)?;
    let is_enough = site.git.has(tip) && site.git.contains(there, tip)?;
    if let (Some(before), false) = (before, is_enough) {
        site.git.set_ref(&branch.tracking(), before, "a mirror lags behind")?;
        return Err(late(there));
    }
    Ok(Polled { tip: Some(there), ..said })
}

/// Writes down that no remote gave what it was asked for, and why.
fn put_unreachable(site: &Site, polled: &Polled, reason: String) -> Result<()> {
    repair::must_be_sound(site, &reason)?;
    let since = polled.unreachable.as_ref().map_or_else(node::now, |known| known.since);
    let unreachable = Some(Unreachable { since, reason });
    site.records.put_polled(&Polled { unreachable, ..polled.clone() })
}

/// What upstream has, as far as its answer can be believed: a remote that lists nothing was set up anew
/// or is not the one it was, and a mirror may lag behind, so that of its list only what is new here
/// counts, on top of `listing`, where that is known. `None`: nothing is to be learned from it.
pub(super) fn upstream<'a>(
    site: &Site,
    polled: &'a Polled,
    listing: Option<&Listing>,
) -> Option<Cow<'a, [Tip]>> {
    let tips = believed(polled)?;
    let Some(listing) = listing.filter(|_| polled.is_doubtful()) else {
        return Some(Cow::Borrowed(tips));
    };
    let known = listing.0.iter().map(|fetched| (fetched.tip.name.as_str(), &fetched.tip));
    let mut all: BTreeMap<&str, &Tip> = known.collect();
    let new = tips.iter().filter(|tip| !site.git.has(tip.id));
    all.extend(new.map(|tip| (tip.name.as_str(), tip)));
    Some(all.into_values().cloned().collect())
}

/// Every ref of a remote, unless it lists nothing at all.
fn believed(polled: &Polled) -> Option<&[Tip]> {
    polled.refs.as_deref().filter(|tips| !tips.is_empty() || polled.tip.is_some())
}

/// Whether upstream is known to have no ref `name` any more: the first remote has just listed its
/// refs without it. Neither a mirror nor what was known at another time proves that.
pub(super) fn is_gone(polled: &Polled, listing: &Listing, name: &str) -> bool {
    match believed(polled) {
        Some(tips) if !polled.is_doubtful() => tips.iter().all(|tip| tip.name != name),
        _ => polled.listed && listing.get(name).is_none(),
    }
}

/// Gets every ref of `tips`, which the remote listed that `polled` names, and forgets those that are
/// gone. `false`: the remote did not give them; that is written down.
///
/// # Errors
/// When the disk fails, or what was fetched or is here cannot be read.
pub fn every(
    site: &Site,
    polled: &Polled,
    tips: &[Tip],
    whom: Whom,
    progress: &mut dyn FnMut(Progress),
) -> Result<bool> {
    let before = site.records.listing()?;
    let is_lost = before.is_none();
    let before = before.unwrap_or_default();
    let listed = |name: &str| tips.binary_search_by(|tip| tip.name.as_str().cmp(name)).is_ok();
    let mut gone = Vec::new();
    for fetched in before.0.iter().filter(|fetched| !listed(&fetched.tip.name)) {
        if let Some(name) = kept_at(&fetched.tip.name)
            && site.git.ref_id(&name)? == Some(fetched.tip.id)
        {
            gone.push((name, None));
        }
    }
    if is_lost && !polled.mirror && site.repo.settings.mode.fetched().is_some_and(|it| it.branches)
    {
        // As git prunes: what we have of a branch that went meanwhile may be in the way of another.
        let tracked = site.git.refs_below(TRACKED)?.into_iter();
        let stale = tracked.filter(|name| {
            let short = name.strip_prefix(TRACKED).unwrap_or_default();
            short != "HEAD" && !listed(&format!("refs/heads/{short}"))
        });
        gone.extend(stale.map(|name| (name, None)));
    }
    site.git.move_refs(&gone, "gone upstream")?;
    let mut updates = Vec::new();
    for tip in tips {
        let Some(to) = kept_at(&tip.name) else { continue };
        let here = site.git.ref_id(&to)?;
        let known = before.get(&tip.name).map(|fetched| fetched.tip.id);
        if here == Some(tip.id) {
            continue;
        }
        if tip.name.starts_with(TAGS) && here.is_some() && here != known {
            tracing::warn!(repository = %site.repo.name, tag = %tip.name.escape_debug(),
                "is another one here, made by hand; it stays");
            continue;
        }
        updates.push(Update { from: tip.name.clone(), to, id: tip.id });
    }
    // The followed branch, where only tags are listed.
    if let (Some(branch), Some(tip)) = (&polled.branch, polled.tip)
        && !listed(&branch.local())
        && site.git.ref_id(&branch.tracking())? != Some(tip)
    {
        updates.push(Update { from: branch.local(), to: branch.tracking(), id: tip });
    }
    let asked = site.remotes.iter().find(|remote| polled.way_of(remote).is_some());
    if let (Some(remote), false) = (asked, updates.is_empty()) {
        let (reach, way, now) = (&site.repo.settings.reach, polled.way_of(remote), node::now());
        if let (Whom::TheWilling, Some(left)) = (whom, polled.leaves_alone(remote, now)) {
            put_unreachable(site, polled, left.reason.clone())?;
            return Ok(false);
        }
        tracing::info!(repository = %site.repo.name, %remote, refs = updates.len(), "fetching");
        let order = Order { remote, reach, goal: Goal::Refs(&updates), way };
        match metered(site, &order, progress) {
            Ok(()) => {}
            Err(error) if Fault::of(&error).is_some() => return Err(error),
            Err(error) => {
                let mut after = polled.clone();
                leave_alone(&mut after.left_alone, polled, remote, &error, now);
                put_unreachable(site, &after, reason(&error))?;
                return Ok(false);
            }
        }
    }
    let updated: HashSet<&str> = updates.iter().map(|update| update.from.as_str()).collect();
    let mut listing = Vec::with_capacity(tips.len());
    for tip in tips {
        // A local remote may have moved on between the list and the fetch: what is here counts.
        let here = match kept_at(&tip.name) {
            Some(name) => site.git.ref_id(&name)?,
            None => None,
        };
        let is_ours = updated.contains(tip.name.as_str()) || here == Some(tip.id);
        let id = here.filter(|_| is_ours).unwrap_or(tip.id);
        let commit = here.filter(|_| is_ours).and_then(|here| site.git.peeled(here));
        listing.push(Fetched { tip: Tip { name: tip.name.clone(), id }, commit });
    }
    site.records.put_listing(&Listing(listing))?;
    site.records.put_polled(&Polled { unreachable: None, ..polled.clone() })?;
    Ok(true)
}

/// Where tags are.
const TAGS: &str = "refs/tags/";
/// Where upstream's branches are here.
const TRACKED: &str = "refs/remotes/origin/";

/// The ref here that stands for `name` of upstream's; `None` for names that git does not allow.
pub(super) fn kept_at(name: &str) -> Option<String> {
    // One that begins with "-" could be taken for an option; these never meet a program's arguments.
    let fits = |short: &str| short.trim_start_matches('-').parse::<RefName>().is_ok();
    match name.strip_prefix("refs/heads/") {
        Some(short) => fits(short).then(|| format!("{TRACKED}{short}")),
        None => fits(name.strip_prefix(TAGS)?).then(|| name.to_owned()),
    }
}

/// Moves the high-water mark forward to `tip`, never back: going back takes a person or a setting.
fn raise_mark(git: &Git, branch: &RefName, tip: Commit) -> Result<()> {
    let mark = git.kept_ref(&branch.seen())?;
    match mark {
        Some(mark) if mark == tip || !git.contains(tip, mark)? => Ok(()),
        _ => git.set_logged_ref(&branch.seen(), tip, "seen upstream"),
    }
}
