//! The words of the wire: how a remote may be reached, what it is asked and what it said. Knows no
//! protocol; its bytes are in [`wire`](super::wire).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
            Self::Default => default,
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
    /// Bytes sent and received, those of TLS not counted; 0 for files.
    pub bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// When this was found out; `None`: only now.
    pub since: Option<DateTime<Utc>>,
}

impl Way {
    /// Whether the next poll would be asked the same way.
    pub fn is_the_same(&self, other: &Self) -> bool {
        (self.dialect, self.format, &self.base) == (other.dialect, other.format, &other.base)
    }
}

/// What a failure means for others and for later: stands in an error's chain, found by
/// `downcast_ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers at that server: no repository there needs to be asked in the same tick.
    Server,
    /// It does not accept who we are; asking again and again locks accounts.
    Credentials,
    /// It asks to be left alone, for this long if it says so.
    Later(Option<Duration>),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("the server does not answer"),
            Self::Credentials => f.write_str("the credentials are not accepted"),
            Self::Later(None) => f.write_str("it asks to be left alone for a while"),
            Self::Later(Some(time)) => {
                write!(f, "it asks to be left alone for {}", humantime::format_duration(*time))
            }
        }
    }
}

impl std::error::Error for Trouble {}
