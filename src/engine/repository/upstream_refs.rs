//! The refs of the remote, as the last poll and the last fetch know them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::domain::git::{Commit, RefName};
use crate::domain::name_time;
use crate::domain::remote::RefTip;
use crate::engine::repository::Repository;
use crate::system::repo_state::{PollRecord, RefListing};

/// The refs that upstream has, as far as its answer can be believed; `None`: nothing can be learned from
/// it. A remote that lists nothing was set up anew or replaced. A mirror may lag behind: of its list
/// only what is new here counts, on top of `listing`, where that is known.
pub(in crate::engine) fn upstream<'a>(
    repository: &Repository,
    polled: &'a PollRecord,
    listing: Option<&RefListing>,
) -> Option<Cow<'a, [RefTip]>> {
    let tips = believed(polled)?;
    let Some(listing) = listing.filter(|_| polled.is_doubtful()) else {
        return Some(Cow::Borrowed(tips));
    };
    let known = listing.0.iter().map(|fetched| (fetched.tip.name.as_str(), &fetched.tip));
    let mut all: BTreeMap<&str, &RefTip> = known.collect();
    let new = tips.iter().filter(|tip| !repository.git.has(tip.id));
    all.extend(new.map(|tip| (tip.name.as_str(), tip)));
    Some(all.into_values().cloned().collect())
}

/// All refs of a remote; `None`: it was not asked for them, or lists none at all.
pub(in crate::engine) fn believed(polled: &PollRecord) -> Option<&[RefTip]> {
    polled.refs.as_deref().filter(|tips| !tips.is_empty() || polled.tip.is_some())
}

/// Whether upstream provably has no ref `name` any more: the first remote has just listed its refs
/// without it. Neither a mirror nor an older list proves that.
pub(in crate::engine) fn is_gone(polled: &PollRecord, listing: &RefListing, name: &str) -> bool {
    match believed(polled) {
        Some(tips) if !polled.is_doubtful() => tips.iter().all(|tip| tip.name != name),
        _ => polled.listed && listing.get(name).is_none(),
    }
}

/// The local ref that keeps upstream's ref `name`; `None` for names that git does not allow.
pub(in crate::engine) fn kept_at(name: &str) -> Option<String> {
    // A name that begins with "-" could be taken for an option; these names never become a program's
    // arguments.
    let fits = |short: &str| short.trim_start_matches('-').parse::<RefName>().is_ok();
    match name.strip_prefix("refs/heads/") {
        Some(short) => fits(short).then(|| format!("{TRACKED}{short}")),
        None => fits(name.strip_prefix(TAGS)?).then(|| name.to_owned()),
    }
}

/// The local ref that keeps `commit`, which no branch may have, from `now` on for ninety days.
pub(in crate::engine) fn saved_at(commit: Commit, now: DateTime<Utc>) -> String {
    format!("refs/pmpy/saved/{}-{}", name_time::name(now), commit.short())
}

pub(in crate::engine) const TAGS: &str = "refs/tags/";

/// The prefix of remote-tracking branches.
pub(in crate::engine) const TRACKED: &str = "refs/remotes/origin/";
