//! What a remote last said, so that a fetch, a look and the next poll need not ask it again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::plan::Unreachable;
use crate::domain::remote::{AllLeftAlone, Asked, LeftAlone, Tip, Way};

/// `poll`: what the remote last said, written when that changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Polled {
    /// Which branch was asked for.
    pub branch: Option<RefName>,
    /// Its tip; `None`: the remote has no such branch.
    pub tip: Option<Commit>,
    /// Whether `tip` was ever learned.
    pub known: bool,
    /// Every ref that was asked for, when just now several were. Not kept: see
    /// [`Listing`](super::Listing).
    #[serde(skip)]
    pub refs: Option<Vec<Tip>>,
    /// Whether the listing that is kept was fetched in this very pass, and from the first remote. What
    /// it lacks is gone.
    #[serde(skip)]
    pub listed: bool,
    /// How many bytes went to and fro, when a remote answered just now. Not kept.
    #[serde(skip)]
    pub bytes: Option<u64>,
    /// Another than the first of several remotes said so.
    #[serde(default)]
    pub mirror: bool,
    /// Which remote said so, as it is displayed.
    #[serde(default)]
    pub remote: Option<String>,
    /// How it was asked.
    #[serde(default)]
    pub way: Option<Way>,
    /// No remote answers.
    pub unreachable: Option<Unreachable>,
    /// The remote that said so, or would have, is behind what was seen here; another one has that, or
    /// did not answer. As it is displayed.
    #[serde(default)]
    pub lags: Option<String>,
    /// Those that asked for it, or where asking again too soon would do harm.
    #[serde(default)]
    pub left_alone: AllLeftAlone,
}

impl Polled {
    /// How `remote` was asked last.
    pub fn way_of(&self, remote: &Remote) -> Option<&Way> {
        let same = self.remote.as_ref() == Some(&remote.to_string());
        self.way.as_ref().filter(|_| same)
    }

    /// Why `remote` is not to be asked yet, when it is not.
    pub fn leaves_alone(&self, remote: &Remote, now: DateTime<Utc>) -> Option<&LeftAlone> {
        self.left_alone.get(&remote.to_string()).filter(|left| left.lasts(now))
    }

    /// Until when none of `remotes` is to be asked; `None`: one of them is.
    pub fn all_left_alone(&self, remotes: &[Remote], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let until = |remote| self.leaves_alone(remote, now).map(|left| left.until);
        remotes.iter().map(until).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Whether what was said may be older than what is known: others have newer things, or were not
    /// heard.
    pub fn is_doubtful(&self) -> bool {
        self.mirror || self.lags.is_some()
    }

    /// Whether nothing is new but how many bytes and how long it took.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same_way = match (&self.way, &other.way) {
            (Some(one), Some(other)) => one.is_the_same(other) && one.since == other.since,
            (one, other) => one.is_none() && other.is_none(),
        };
        let same = Self {
            way: other.way.clone(),
            refs: other.refs.clone(),
            bytes: other.bytes,
            ..self.clone()
        };
        same_way && same == *other
    }

    /// The remote that answered last, and how it was asked.
    pub fn asked(&self) -> Option<Asked> {
        let (remote, way) = (self.remote.clone()?, self.way.clone()?);
        Some(Asked { remote, mirror: self.mirror, way })
    }
}
