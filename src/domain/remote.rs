//! The words of the wire: how a remote may be reached, what it is asked and what it said. Knows no
//! protocol; its bytes are in [`wire`](super::wire).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::git::{Commit, RefName, Remote};

/// Which hash a repository names its objects by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// 20 bytes.
    #[default]
    Sha1,
    /// 32 bytes.
    Sha256,
}

/// How the remotes of a repository may be reached: what its settings say about the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// `insecure`: whether `http://` and `git://` may be used.
    pub insecure: bool,
    /// `network_timeout`: how long a poll or a whole fetch may take.
    pub limit: Duration,
    /// `depth`: how many commits of history are fetched; 0: all.
    pub depth: u32,
    /// `key_file`: for ssh; `None`: the user's own OpenSSH set-up decides.
    pub key_file: Option<PathBuf>,
    /// `known_hosts`: likewise.
    pub known_hosts: Option<PathBuf>,
    /// `username`: for https.
    pub username: Option<String>,
    /// `password_file`: for https; read anew each time.
    pub password_file: Option<PathBuf>,
    /// `ca_file`: trusted instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// `client_cert`: a certificate and its key, shown to the server.
    pub client_cert: Option<PathBuf>,
    /// `proxy`: for https and http; `None`: the usual variables decide. Displays without credentials.
    pub proxy: Option<Remote>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            insecure: false,
            limit: Duration::from_secs(120),
            depth: 0,
            key_file: None,
            known_hosts: None,
            username: None,
            password_file: None,
            ca_file: None,
            client_cert: None,
            proxy: None,
        }
    }
}

/// Which branch to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Branch(RefName),
    /// This one, or where the remote has none such, its default branch.
    Preferably(RefName),
    /// The remote's default branch.
    Default,
    /// Every ref of some kinds; and where this branch is, or without one the default.
    Every {
        /// The branch.
        branch: Option<RefName>,
        /// Which.
        kinds: Kinds,
    },
}

/// Which of a remote's refs are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Those below `refs/heads/`.
    pub branches: bool,
    /// Those below `refs/tags/`.
    pub tags: bool,
}

/// A branch or a tag of a remote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tip {
    /// Its full name, which is foreign text and may be none that git allows.
    pub name: String,
    /// What it points at: a commit, of annotated tags the tag object.
    pub id: Commit,
}

impl Wanted {
    /// The branch that is meant on a remote with this default branch.
    pub fn choose(
        &self,
        default: Option<RefName>,
        has: impl Fn(&RefName) -> bool,
    ) -> Option<RefName> {
        match self {
            Self::Branch(branch) => Some(branch.clone()),
            Self::Preferably(branch) if has(branch) => Some(branch.clone()),
            Self::Preferably(branch) => default.filter(&has).or_else(|| Some(branch.clone())),
            Self::Default | Self::Every { branch: None, .. } => default,
            Self::Every { branch, .. } => branch.clone(),
        }
    }
}

/// What a remote said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The branch that this is about; `None` when the remote is empty and none was named.
    pub branch: Option<RefName>,
    /// Its tip; `None` when there is no such branch.
    pub tip: Option<Commit>,
    /// Every ref that was asked for, by name; empty when one branch was.
    pub refs: Vec<Tip>,
    /// How it was asked.
    pub way: Way,
}

/// In which of git's dialects a remote was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Its files were read.
    #[default]
    Files,
    /// Protocol v2, in one round trip.
    Direct,
    /// Protocol v2, after its capabilities were asked for.
    Discovered,
    /// Protocol v0, which lists every ref.
    Old,
    /// A plain web server: it can be polled and not fetched from.
    Dumb,
}

/// How a remote was reached: for the next poll, and for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// In which dialect.
    pub dialect: Dialect,
    /// By which hash it names its objects.
    pub format: Format,
    /// Where redirects led, without credentials; `None`: nowhere else.
    pub base: Option<String>,
    /// It wants to know who asks, and is told at once.
    #[serde(default)]
    pub wants_login: bool,
    /// Bytes sent and received, those of TLS not counted; 0 for files.
    pub bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// When this was found out, and these bytes and milliseconds measured; `None`: only now.
    pub since: Option<DateTime<Utc>>,
}

impl Way {
    /// Whether the next poll would be asked the same way.
    pub fn is_the_same(&self, other: &Self) -> bool {
        let key = |way: &Self| (way.dialect, way.format, way.base.clone(), way.wants_login);
        key(self) == key(other)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.dialect {
            Dialect::Files => return f.write_str("its files are read"),
            Dialect::Direct => "git protocol v2 in one request",
            Dialect::Discovered => "git protocol v2 in two requests",
            Dialect::Old => "git protocol v0, which lists every ref",
            Dialect::Dumb => "the list of refs of a plain web server",
        };
        write!(f, "{how}, {} bytes, {} ms", self.bytes, self.milliseconds)?;
        match &self.base {
            Some(base) => write!(f, ", redirected to {}", base.escape_debug()),
            None => Ok(()),
        }
    }
}

/// Which remote was asked last with success, and how: for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Which, as it is displayed.
    pub remote: String,
    /// It is not the first of several.
    pub mirror: bool,
    /// How.
    pub way: Way,
}

/// What a failure means for others and for later: stands in an error's chain, found by
/// `downcast_ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody can connect to that server: no repository there needs to be asked in the same tick.
    Server,
    /// It does not accept who we are; asking again and again locks accounts.
    Credentials,
    /// It asks to be left alone, for this long if it says so.
    Later(Option<Duration>),
}

impl fmt::Display for Trouble {
    /// Nothing: the words around it in the chain say what happened.
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Trouble {}

/// Which remotes are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All of them: a person wants an answer.
    Everybody,
    /// Those that are not left alone.
    TheWilling,
}

/// Until when nobody asks a remote, unless a person wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Until when.
    pub until: DateTime<Utc>,
    /// How often that was the answer in a row.
    pub times: u32,
    /// What it said, in words.
    pub reason: String,
}

/// The remotes of a repository that are left alone, as they are displayed.
pub type AllLeftAlone = BTreeMap<String, LeftAlone>;

/// The longest that a remote is left alone.
const LONGEST: TimeDelta = TimeDelta::minutes(5);

impl LeftAlone {
    /// After `before`, when `trouble` was the answer at `now`, in words `reason`. Credentials that are refused are tried
    /// again after one, two, four and then every five minutes: many accounts are locked after a few
    /// failures. A server that says how long waits no longer than that.
    pub fn after(
        trouble: Trouble,
        reason: &str,
        before: Option<&Self>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let times = before.map_or(1, |before| before.times.saturating_add(1));
        let doubled = || TimeDelta::minutes(1 << times.saturating_sub(1).min(3));
        let wait = match trouble {
            Trouble::Server => return None,
            Trouble::Later(Some(time)) => TimeDelta::from_std(time).unwrap_or(LONGEST),
            Trouble::Credentials | Trouble::Later(None) => doubled(),
        };
        Some(Self { until: now + wait.min(LONGEST), times, reason: reason.to_owned() })
    }

    /// Whether it is not over at `now`. A time that is further away than anybody is ever left alone
    /// was written under another clock.
    pub fn lasts(&self, now: DateTime<Utc>) -> bool {
        now < self.until && self.until - now <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_credentials_are_tried_again_ever_more_rarely_but_every_five_minutes() {
        let now = DateTime::UNIX_EPOCH;
        let mut left = None;
        for minutes in [1, 2, 4, 5, 5] {
            left = LeftAlone::after(Trouble::Credentials, "who?", left.as_ref(), now);
            assert_eq!(left.as_ref().unwrap().until - now, TimeDelta::minutes(minutes));
        }
    }

    #[test]
    fn a_server_is_left_alone_as_long_as_it_asks_for_and_no_longer_than_five_minutes() {
        let now = DateTime::UNIX_EPOCH;
        for (asked, seconds) in [(7, 7), (300, 300), (86_400, 300)] {
            let trouble = Trouble::Later(Some(Duration::from_secs(asked)));
            let left = LeftAlone::after(trouble, "not now", None, now).unwrap();
            assert_eq!(left.until - now, TimeDelta::seconds(seconds));
        }
        let down = LeftAlone::after(Trouble::Server, "down", None, now);
        assert_eq!(down, None, "asked at the next tick");
    }

    #[test]
    fn a_wait_that_was_written_under_a_clock_ahead_is_none() {
        let now = DateTime::UNIX_EPOCH;
        let (until, reason) = (now + TimeDelta::minutes(3), "who?".to_owned());
        let left = LeftAlone { until, times: 1, reason };
        assert!(left.lasts(now) && !left.lasts(now + TimeDelta::minutes(3)));
        assert!(!left.lasts(now - TimeDelta::days(365)));
    }
}
