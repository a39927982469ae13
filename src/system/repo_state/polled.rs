//! The last result of polling a remote, so that a fetch, a status query and the next poll need not ask
//! it again. Does not know the transports.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::followed::ChosenTag;
use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::remote::{
    Backoff, BackoffList, DoubtedAnswer, LastPoll, PollScope, RefTip, RemoteHints,
};
use crate::domain::repository::observed::{Unreachable, UpstreamTip};

/// The file `poll`: last result of a remote, written when it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PollRecord {
    /// The polled branch.
    pub branch: Option<RefName>,
    /// The branch that was asked for by its name; `None`: the one of the remote's HEAD.
    #[serde(default)]
    pub wanted: Option<RefName>,
    /// The branch that the HEAD of the first remote named when that remote last had `wanted`.
    #[serde(default)]
    pub remote_head: Option<RefName>,
    /// The pattern of the tags, or the revision, that is followed; `None`: a branch is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// The newest tag that matches; `None`: none does, or no tag is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<ChosenTag>,
    /// The objects of tags that are known to be no commits.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub no_commits: BTreeSet<Commit>,
    /// A hash of the names of the tags that the remote listed, where one is followed; `None`: they are not
    /// stored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag_names: Option<u64>,
    /// Tip of what is followed; `None` when the remote has no such branch, or no tag that matches.
    pub tip: Option<Commit>,
    /// Whether a poll has ever succeeded, so that `tip` is valid.
    pub known: bool,
    /// All polled refs, when the latest poll was for several. Not stored: see
    /// [`Listing`](super::RefListing).
    #[serde(skip)]
    pub refs: Option<Vec<RefTip>>,
    /// The short names of the tags that a remote just listed, where one is followed. Not stored here.
    #[serde(skip)]
    pub tags: Option<Vec<String>>,
    /// Whether this very pass fetched the stored listing, from the first remote. Refs that it lacks are
    /// then deleted upstream.
    #[serde(skip)]
    pub listed: bool,
    /// Bytes sent and received, when a remote answered in this pass. Not stored.
    #[serde(skip)]
    pub bytes: Option<u64>,
    /// Whether the result comes from another than the first of several remotes.
    #[serde(default)]
    pub mirror: bool,
    /// The remote that answered, as displayed.
    #[serde(default)]
    pub remote: Option<String>,
    /// Connection details of that poll.
    #[serde(default)]
    pub way: Option<RemoteHints>,
    /// Since when and why no remote answers; `None` when one does.
    pub unreachable: Option<Unreachable>,
    /// Since when and why no remote is usable because one of them has another object format.
    #[serde(default)]
    pub other_format: Option<Unreachable>,
    /// The remote that gave this result, or would have given it, and is behind the state already seen
    /// here, while another remote has that state or did not answer. As displayed.
    #[serde(default)]
    pub lags: Option<String>,
    /// Remotes without an answer so far that are asked for their capabilities before anything else. As
    /// displayed.
    #[serde(default)]
    pub discovery_first: BTreeSet<String>,
    /// Remotes that asked for a pause, or for which an early retry would do harm.
    #[serde(default)]
    pub left_alone: BackoffList,
    /// Since when and how the remote that answered lacks the branch, while it has other refs.
    #[serde(default)]
    pub no_ref: Option<Unreachable>,
    /// Answers that have to be repeated before they are believed. The other fields are as before them.
    #[serde(default)]
    pub doubts: Vec<DoubtedAnswer>,
}

impl PollRecord {
    /// This record, as far as it is about what is `wanted` now: another branch may be checked out or
    /// configured since.
    pub fn about(self, wanted: &PollScope) -> Self {
        let branch = wanted.branch();
        if (!self.known || self.wanted.as_ref() == branch) && self.fixed == wanted.fixed() {
            return self;
        }
        let (branch, tip, known) = (branch.cloned(), None, false);
        Self {
            wanted: branch.clone(),
            branch,
            fixed: wanted.fixed(),
            tag: None,
            no_commits: BTreeSet::new(),
            tag_names: None,
            tip,
            known,
            no_ref: None,
            doubts: Vec::new(),
            ..self
        }
    }

    /// Connection details of the last poll, if it was of `remote`.
    pub fn way_of(&self, remote: &Remote) -> Option<&RemoteHints> {
        let same = self.remote.as_ref() == Some(&remote.to_string());
        self.way.as_ref().filter(|_| same)
    }

    /// The hints for a poll of `remote`: how it was polled last, or what its silence taught.
    pub fn hints_for(&self, remote: &Remote) -> Option<RemoteHints> {
        let first = self.discovery_first.contains(&remote.to_string());
        self.way_of(remote).cloned().or(first.then(RemoteHints::discovery_first))
    }

    /// Backoff of `remote`, for polls or only for fetches; `None` when there is none now.
    pub fn leaves_alone(&self, remote: &Remote, now: DateTime<Utc>) -> Option<&Backoff> {
        self.left_alone.get(&remote.to_string()).filter(|left| left.lasts(now))
    }

    /// Hash of all listed refs; it changes when one of them changes.
    pub fn listed_as(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.tip.map(|tip| tip.to_string()).hash(&mut hasher);
        for tip in self.refs.iter().flatten() {
            (&tip.name, tip.id.to_string()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Earliest end of the backoffs of all `remotes`; `None` when one of them may be polled now.
    pub fn all_left_alone(&self, remotes: &[Remote], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let until = |remote| self.leaves_alone(remote, now).map(|left| left.until);
        remotes.iter().map(until).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Whether the result may be older than the known state: other remotes have a newer one, or did not
    /// answer.
    pub fn is_doubtful(&self) -> bool {
        self.mirror || self.lags.is_some()
    }

    /// Whether this answer leaves nothing to clone.
    pub fn is_unclonable(&self) -> bool {
        self.unreachable.is_some() || self.no_ref.is_some()
    }

    /// The known tip of upstream's branch, where there is no clone.
    pub fn upstream_without_clone(&self) -> UpstreamTip {
        match (self.known, self.tip) {
            (false, _) => UpstreamTip::Unknown,
            (true, None) => UpstreamTip::Empty,
            (true, Some(commit)) => UpstreamTip::Tip { commit, fetched: false },
        }
    }

    /// Whether both are equal except for byte counts and durations.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same_way = match (&self.way, &other.way) {
            (Some(one), Some(other)) => {
                let key = |way: &RemoteHints| (way.since, way.failed);
                one.is_the_same(other) && key(one) == key(other)
            }
            (one, other) => one.is_none() && other.is_none(),
        };
        let same = Self {
            way: other.way.clone(),
            refs: other.refs.clone(),
            tags: other.tags.clone(),
            bytes: other.bytes,
            ..self.clone()
        };
        same_way && same == *other
    }

    /// The remote that answered last, and how it was polled. `on_demand`: no tick polls it by itself.
    pub fn last_poll(&self, on_demand: bool) -> Option<LastPoll> {
        let (remote, way) = (self.remote.clone()?, self.way.clone()?);
        Some(LastPoll { remote, mirror: self.mirror, way, on_demand })
    }
}
