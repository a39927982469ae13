//! Doubts an answer of a remote that lacks a ref which this machine has had from there, or that has it at a
//! tip which this machine has already seen: a lagging backend behind a load balancer answers so. Such an
//! answer counts once it was repeated; see [`DoubtedAnswer`]. Asks no remote.

use chrono::{DateTime, Utc};

use crate::domain::followed::{ChosenTag, SeenTag, TagRelation};
use crate::domain::git::{Commit, RefName};
use crate::domain::remote::{DoubtedAnswer, RefTip};
use crate::domain::repository::request::ActionRequest;
use crate::domain::versions::TagPattern;
use crate::engine::repository::upstream_refs::believed;
use crate::engine::repository::{Repository, tags};
use crate::system::repo_state::{PollRecord, RefListing};

/// A ref by its full name, and its tip in an answer; `None`: it is missing there.
type DoubtfulRef = (String, Option<Commit>);

/// What else speaks for an answer.
#[derive(Clone, Copy)]
pub(super) struct Trust<'a> {
    /// The request of the poll.
    pub request: ActionRequest,
    /// The full names of refs whose deletion a signed web hook announced.
    pub deleted: &'a [String],
}

impl Trust<'_> {
    /// Whether an answer with `name` at `tip` is believed at once.
    fn believes(&self, name: &str, tip: Option<Commit>) -> bool {
        self.request.believes_at_once()
            || (tip.is_none() && self.deleted.iter().any(|deleted| deleted == name))
    }
}

/// The answer `after` without what is in doubt: there, what was known `before` and in `listing` stays.
pub(super) fn weigh(
    repository: &Repository,
    mut after: PollRecord,
    before: &PollRecord,
    listing: &RefListing,
    trust: Trust,
    now: DateTime<Utc>,
) -> PollRecord {
    let no_answer = after.unreachable.is_some() || after.other_format.is_some();
    let remote = match after.remote.clone() {
        // Doubts are about the remote itself, not about its mirrors.
        Some(remote) if !no_answer && after.lags.is_none() => remote,
        _ => return PollRecord { doubts: before.doubts.clone(), ..after },
    };
    if after.tip.is_none() && after.refs.as_ref().is_some_and(Vec::is_empty) {
        // A remote that lists nothing was set up anew or replaced: nothing is learned of any ref.
        after.refs = None;
    }
    let weighed = |(name, tip): &DoubtfulRef| {
        let doubt = DoubtedAnswer::again(&before.doubts, &remote, name, *tip, now);
        if trust.believes(name, *tip) { doubt.believed(now) } else { doubt }
    };
    let followed = followed(repository, &after, before);
    let mut doubts: Vec<DoubtedAnswer> = followed.iter().map(weighed).collect();
    if doubts.iter().any(|doubt| !doubt.is_believed(now)) {
        let branch = before.branch.clone().or_else(|| after.wanted.clone());
        let (tip, known, remote_head) = (before.tip, before.known, before.remote_head.clone());
        let tag = before.tag.clone();
        after = PollRecord { branch, tag, tip, known, remote_head, no_ref: None, ..after };
    }
    let mut kept = Vec::new();
    for one in listed(repository, &after, listing) {
        let doubt = weighed(&one);
        if !doubt.is_believed(now) {
            kept.push(one.0);
        }
        if !doubts.contains(&doubt) {
            doubts.push(doubt);
        }
    }
    if let (Some(tips), false) = (&mut after.refs, kept.is_empty()) {
        // `topic` and `topic/b` cannot both exist: the new one waits until the other is gone for certain.
        let excludes = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_in_the_way = |tip: &RefTip| {
            kept.iter().any(|name| excludes(name, &tip.name) || excludes(&tip.name, name))
        };
        tips.retain(|tip| !is_in_the_way(tip));
        tips.extend(kept.iter().filter_map(|name| Some(listing.get(name)?.tip.clone())));
        tips.sort();
    }
    PollRecord { doubts, ..after }
}

/// The followed tag, where the answer about it is to be doubted: it went, or it is where it may have been
/// before.
fn followed_tag(
    repository: &Repository,
    pattern: &TagPattern,
    after: &PollRecord,
    before: &PollRecord,
) -> Option<DoubtfulRef> {
    let as_seen = |tag: &ChosenTag| {
        let ChosenTag { name, id, commit, .. } = tag.clone();
        SeenTag { name, id, commit: Some(commit) }
    };
    let had = match &before.tag {
        Some(tag) => as_seen(tag),
        // It was believed before that there is none.
        None if before.known => return None,
        None => repository.seen_tag().unwrap_or_default()?,
    };
    let name = tags::full_name(&had.name);
    let Some(tag) = &after.tag else { return Some((name, None)) };
    match had.relation(tag, pattern) {
        TagRelation::Same | TagRelation::Newer => None,
        TagRelation::Gone => Some((name, None)),
        TagRelation::Moved => repository.git.has(tag.commit).then_some((name, Some(tag.id))),
    }
}

/// What is followed, where the answer about it is to be doubted.
fn followed(
    repository: &Repository,
    after: &PollRecord,
    before: &PollRecord,
) -> Option<DoubtfulRef> {
    let wanted = repository.wanted();
    match (wanted.pattern(), wanted.revision()) {
        (Some(pattern), _) => return followed_tag(repository, pattern, after, before),
        // No answer names it.
        (None, Some(_)) => return None,
        (None, None) => {}
    }
    let is_as_before = before.known && (&after.branch, after.tip) == (&before.branch, before.tip);
    // An old record has no HEAD; then the branch of the answer before is what is missing.
    let wanted = after.wanted.as_ref().or(before.branch.as_ref());
    let has_had = |branch: &RefName| {
        (before.tip.is_some() && before.branch.as_ref() == Some(branch))
            || mark(repository, branch).is_some()
    };
    match (wanted, &after.branch, after.tip) {
        _ if is_as_before => None,
        // It was believed before that it is missing.
        (Some(_), _, None) if before.known && before.tip.is_none() => None,
        (Some(wanted), _, None) => has_had(wanted).then(|| (wanted.local(), None)),
        (Some(wanted), Some(branch), Some(_))
            if wanted != branch
                && after.wanted.is_some()
                && before.branch.as_ref() != Some(branch) =>
        {
            has_had(wanted).then(|| (wanted.local(), None))
        }
        (_, Some(branch), Some(tip)) => {
            let mark = mark(repository, branch).or_else(|| mark(repository, wanted?));
            is_seen(repository, tip, mark).then(|| (branch.local(), Some(tip)))
        }
        _ => None,
    }
}

/// The newest tip of a branch that was seen; `None` also where it cannot be read. That damage is for the
/// observation of the clone to find: a poll that failed because of it would keep it from being repaired.
fn mark(repository: &Repository, branch: &RefName) -> Option<Commit> {
    repository.newest_seen(branch).unwrap_or_default()
}

/// Whether `tip` is here already and lacks `mark`, the newest tip that was seen. `false` also where the
/// objects cannot be read, as for [`mark`].
fn is_seen(repository: &Repository, tip: Commit, mark: Option<Commit>) -> bool {
    let git = &repository.git;
    mark.is_some_and(|mark| {
        mark != tip
            && git.has(tip)
            && git.has(mark)
            && git.contains(tip, mark).is_ok_and(|contains| !contains)
    })
}

/// The refs of the last fetch about which the answer is to be doubted. A mirror's list proves nothing.
fn listed(repository: &Repository, after: &PollRecord, listing: &RefListing) -> Vec<DoubtfulRef> {
    let Some(tips) = believed(after).filter(|_| !after.is_doubtful()) else {
        return Vec::new();
    };
    let mut doubtful = Vec::new();
    for known in &listing.0 {
        let name = &known.tip.name;
        let tip: Option<&RefTip> = match tips.binary_search_by(|tip| tip.name.cmp(name)) {
            Ok(at) => tips.get(at),
            Err(_) => None,
        };
        match tip {
            None => doubtful.push((name.clone(), None)),
            Some(tip) if tip.id == known.tip.id => {}
            Some(tip) => {
                if let Some(commit) = repository.git.peeled(tip.id)
                    && is_seen(repository, commit, known.commit)
                {
                    doubtful.push((name.clone(), Some(tip.id)));
                }
            }
        }
    }
    doubtful
}
