//! The terms of polling: how a remote may be reached, what it is asked and what it answers. Knows no
//! protocol; its bytes are in [`wire`](super::wire).

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

pub use self::push::PushHints;
pub use self::scope::{PollScope, RefKinds, RefTip};
use super::git::{Commit, RefName, Remote};
use crate::domain::followed::ChosenTag;
use crate::domain::git::ObjectFormat;
use crate::domain::text::EscapeControls;
use crate::domain::versions::TagPattern;

mod push;
mod scope;

/// Two object formats that cannot be mixed in one repository. In an error's chain it carries the format
/// of a remote, independent of the other messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatMismatch {
    /// The format of the remote, or of the id.
    pub found: ObjectFormat,
    /// The format of the clone.
    pub clone: ObjectFormat,
}

impl FormatMismatch {
    /// Fails unless `found` is the format of the `clone`.
    ///
    /// # Errors
    /// Both formats, when they differ.
    pub fn check(found: ObjectFormat, clone: ObjectFormat) -> Result<(), Self> {
        if found == clone { Ok(()) } else { Err(Self { found, clone }) }
    }
}

impl fmt::Display for FormatMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it names objects by {}, and the clone by {}", self.found, self.clone)
    }
}

impl std::error::Error for FormatMismatch {}

/// The connection settings of a repository's remotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionSettings {
    /// `insecure`: `http://` and `git://` are allowed.
    pub insecure: bool,
    /// `network_timeout`: the time limit of a poll or a whole fetch.
    pub limit: Duration,
    /// `depth`: the number of commits of history to fetch; 0: all.
    pub depth: u32,
    /// `key_file`: the key for ssh; `None`: the user's own OpenSSH configuration decides.
    pub key_file: Option<PathBuf>,
    /// `known_hosts`: the host keys for ssh; `None`: the user's own OpenSSH configuration decides.
    pub known_hosts: Option<PathBuf>,
    /// `username`: the login for https.
    pub username: Option<String>,
    /// `password_file`: the password for https; read again for each use.
    pub password_file: Option<PathBuf>,
    /// The beginning of the names of the files that keep what `password_command` printed; `None`: there is no such
    /// program.
    #[serde(default)]
    pub password_cache: Option<PathBuf>,
    /// `ca_file`: the CA certificates that replace those of the system.
    pub ca_file: Option<PathBuf>,
    /// `client_cert`: a certificate and its key, presented to the server.
    pub client_cert: Option<PathBuf>,
    /// `proxy`: for https and http; `None`: the usual variables decide. Displays without credentials.
    pub proxy: Option<Remote>,
    /// The hosts of `url`, in lower case: a redirect may lead there wherever they are.
    #[serde(default)]
    pub named_hosts: Vec<String>,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            insecure: false,
            limit: Duration::from_secs(120),
            depth: 0,
            key_file: None,
            known_hosts: None,
            username: None,
            password_file: None,
            password_cache: None,
            ca_file: None,
            client_cert: None,
            proxy: None,
            named_hosts: Vec::new(),
        }
    }
}

/// Returns `true` if only this machine or its own network can reach `address`: a loopback, link-local,
/// private or shared address, or none at all.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            let [first, second, ..] = it.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            it.is_loopback() || it.is_private() || it.is_link_local() || is_shared || first == 0
        }
        IpAddr::V6(it) => {
            let is_unusable = it.is_loopback() || it.is_unspecified();
            is_unusable || it.is_unicast_link_local() || it.is_unique_local()
        }
    }
}

/// The answer of a remote to a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollAnswer {
    /// The branch of this answer; `None` when the remote is empty and no branch was named.
    pub branch: Option<RefName>,
    /// The tip; `None` when there is no such branch, or no tag that matches.
    pub tip: Option<Commit>,
    /// The newest tag that matches; `None`: none does, or no tag is followed.
    pub tag: Option<ChosenTag>,
    /// All requested refs, by name; empty when one branch was requested.
    pub refs: Vec<RefTip>,
    /// The branch of the remote's HEAD; `None`: not asked for, or not known for certain.
    pub head: Option<RemoteHead>,
    /// Where there is no tip: short names of branches, else of tags, that the remote has (of tags, else of
    /// branches, where a tag is followed); empty when it has no refs.
    pub others: Vec<String>,
    /// The branch is missing, and the remote has a tag of its name.
    pub is_tag: bool,
    /// How the remote was polled.
    pub way: RemoteHints,
}

/// The branch that the HEAD of a remote names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteHead {
    /// The branch.
    pub branch: RefName,
    /// Its tip; `None`: not read, because the branch that was asked for is there.
    pub tip: Option<Commit>,
}

impl PollAnswer {
    /// The reason for `no-ref` in this answer of `remote` to a poll for `wanted`; `None`: it has the branch or a
    /// tag that matches, or no refs at all.
    pub fn no_ref(&self, remote: &Remote, wanted: &PollScope) -> Option<String> {
        if self.tip.is_some() || self.others.is_empty() {
            return None;
        }
        let named = self.others.iter().take(MOST_NAMED);
        let mut names: Vec<String> =
            named.map(|name| name.chars().take(60).collect::<String>().escape_controls()).collect();
        if self.others.len() > MOST_NAMED {
            names.push("…".to_owned());
        }
        let names = names.join(", ");
        if let Some(pattern) = wanted.pattern() {
            let why = self.why_no_tag(pattern, wanted);
            let pattern = pattern.as_str().escape_controls();
            return Some(format!(
                "{remote} has no tag that matches \"{pattern}\"{why}; it has {names}\n\
                 hint: push such a tag, or correct tag"
            ));
        }
        Some(match &self.branch {
            Some(branch) if self.is_tag => format!(
                "{remote} has no branch {branch}, but a tag of that name\n\
                 hint: to follow the tag, set tag = \"{branch}\" in place of branch"
            ),
            Some(branch) => format!(
                "{remote} has no branch {branch}; it has {names}\n\
                 hint: push that branch, or follow another one: set branch"
            ),
            None => format!(
                "the HEAD of {remote} names no branch that is there; it has {names}\n\
                 hint: correct HEAD at the remote, or set branch"
            ),
        })
    }
}

impl PollAnswer {
    /// Why tags that match do not count; empty: none matches.
    fn why_no_tag(&self, pattern: &TagPattern, wanted: &PollScope) -> String {
        let tags = || {
            let named = |tip: &'_ RefTip| tip.name.strip_prefix("refs/tags/").map(str::to_owned);
            self.refs.iter().filter_map(move |tip| Some((named(tip)?, tip.id)))
        };
        let names: Vec<String> = tags().map(|(name, _)| name).collect();
        let left_out = pattern.pre_releases_left_out(names.iter().map(String::as_str));
        if let Some(first) = left_out.first() {
            let first = first.escape_controls();
            return format!(
                ", only pre-releases such as {first}, which count where the pattern names one, as v*-* does"
            );
        }
        let Some(scope) = wanted.tag_scope() else { return String::new() };
        match tags().find(|(_, id)| scope.no_commits.contains(id)) {
            Some((name, _)) => {
                format!(" and names a commit: {} names none", name.escape_controls())
            }
            None => String::new(),
        }
    }
}

/// The most names of refs in a reason.
const MOST_NAMED: usize = 5;

/// The variant of git's protocol that a remote was polled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireDialect {
    /// A local path, whose files are read.
    #[default]
    Files,
    /// Protocol v2, in one round trip.
    Direct,
    /// Protocol v2, after a request for its capabilities.
    Discovered,
    /// Protocol v0, which lists every ref.
    Old,
    /// A plain web server: it can be polled but not fetched from.
    Dumb,
}

/// How a remote was reached: for the next poll, and for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteHints {
    /// The protocol variant.
    pub dialect: WireDialect,
    /// The object format of the remote.
    pub format: ObjectFormat,
    /// The target of redirects, without credentials; `None`: no redirect.
    pub base: Option<String>,
    /// The server wants credentials; they are sent with the first request.
    #[serde(default)]
    pub wants_login: bool,
    /// Bytes sent and received, without those of TLS; 0 for files.
    pub bytes: u64,
    /// The duration of the poll in milliseconds.
    pub milliseconds: u64,
    /// When these values were measured; `None`: only now.
    pub since: Option<DateTime<Utc>>,
    /// How many polls in a row failed this way, counted up to [`MOST_FAILURES`].
    #[serde(default)]
    pub failed: u32,
}

/// The number of failed polls in a row after which another way to the remote is looked for.
pub const MOST_FAILURES: u32 = 3;

impl RemoteHints {
    /// The hints for a server that wants to be asked for its capabilities before anything else.
    pub fn discovery_first() -> Self {
        Self { dialect: WireDialect::Old, ..Self::default() }
    }

    /// These hints after one more failed poll. The target of redirects may be what does not answer.
    pub fn after_failure(self) -> Self {
        Self { base: None, failed: (self.failed + 1).min(MOST_FAILURES), ..self }
    }

    /// Returns `true` if the next poll is made the same way.
    pub fn is_the_same(&self, other: &Self) -> bool {
        let key = |way: &Self| (way.dialect, way.format, way.base.clone(), way.wants_login);
        key(self) == key(other)
    }
}

impl fmt::Display for RemoteHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.dialect {
            WireDialect::Files => return f.write_str("local path"),
            WireDialect::Direct => "git protocol v2 in one request",
            WireDialect::Discovered => "git protocol v2 in two requests",
            WireDialect::Old => "git protocol v0, which lists every ref",
            WireDialect::Dumb => "the list of refs of a plain web server",
        };
        write!(f, "{how}, {} bytes, {} ms", self.bytes, self.milliseconds)?;
        match &self.base {
            Some(base) => write!(f, ", redirected to {}", base.escape_controls()),
            None => Ok(()),
        }
    }
}

/// The remote that was polled last with success, and how: for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPoll {
    /// The remote, as it is displayed.
    pub remote: String,
    /// It is not the first of several remotes.
    pub mirror: bool,
    /// How it was polled.
    pub way: RemoteHints,
    /// Whether only a message or a person has it polled, and no tick by itself.
    #[serde(default)]
    pub on_demand: bool,
}

/// An answer that is believed only when it is repeated: a ref that this machine has had is missing, or is
/// at a tip that this machine has already seen. One server behind a load balancer may lag behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtedAnswer {
    /// The remote that gave it, as displayed.
    pub remote: String,
    /// The full name of the ref.
    pub name: String,
    /// The tip in the answer; `None`: the ref is missing.
    pub tip: Option<Commit>,
    /// When it was given first.
    pub since: DateTime<Utc>,
    /// How often it was given in a row.
    pub answers: u32,
}

/// The number of equal answers in a row after which one is believed.
const ENOUGH_ANSWERS: u32 = 3;
/// The shortest time between the first and the last of them.
const ENOUGH_TIME: TimeDelta = TimeDelta::minutes(2);

impl DoubtedAnswer {
    /// The doubt about this answer at `now`; counts its repetitions in `before`.
    pub fn again(
        before: &[Self],
        remote: &str,
        name: &str,
        tip: Option<Commit>,
        now: DateTime<Utc>,
    ) -> Self {
        let same = |it: &&Self| it.remote == remote && it.name == name && it.tip == tip;
        // A time later than now was written before the clock was set back.
        match before.iter().find(same).filter(|known| known.since <= now) {
            Some(known) => {
                let answers = known.answers.saturating_add(1).min(ENOUGH_ANSWERS);
                Self { answers, ..known.clone() }
            }
            None => {
                let (remote, name) = (remote.to_owned(), name.to_owned());
                Self { remote, name, tip, since: now, answers: 1 }
            }
        }
    }

    /// Whether it was repeated often and long enough at `now`.
    pub fn is_believed(&self, now: DateTime<Utc>) -> bool {
        self.answers >= ENOUGH_ANSWERS && now - self.since >= ENOUGH_TIME
    }

    /// This answer, believed at once.
    pub fn believed(self, now: DateTime<Utc>) -> Self {
        Self { answers: ENOUGH_ANSWERS, since: self.since.min(now - ENOUGH_TIME), ..self }
    }

    /// The reason for `current` while some answers are in doubt at `now`; `None`: none is.
    pub fn reason(all: &[Self], now: DateTime<Utc>) -> Option<String> {
        let all: Vec<&Self> = all.iter().filter(|it| !it.is_believed(now)).collect();
        let first = all.first()?;
        let short = ["refs/heads/", "refs/tags/"];
        let name = short.into_iter().find_map(|prefix| first.name.strip_prefix(prefix));
        let name = name.unwrap_or(&first.name).escape_controls();
        let how = if first.tip.is_some() { "with an older" } else { "without" };
        let more = match all.len() {
            1 => String::new(),
            count => format!(", and so for {} other refs", count - 1),
        };
        Some(format!("{} answers {how} {name}{more}; asked again", first.remote))
    }
}

/// The consequence of a failure for other repositories and later ticks. Part of an error's chain, found
/// by `downcast_ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteFailure {
    /// The server cannot be reached: no repository there is polled again in the same tick.
    Server,
    /// The server rejects the credentials; repeated attempts lock accounts.
    Credentials,
    /// The server asks for a pause, of this length if it gives one.
    Later(Option<Duration>),
    /// The pack cannot be processed; another attempt costs time and memory.
    Pack,
}

impl fmt::Display for RemoteFailure {
    /// Empty: the other messages of the chain describe the failure.
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for RemoteFailure {}

/// The remote, or this machine, refuses until somebody acts: no access, no such repository, a host key, a
/// certificate, an unusable key, an address that is not permitted. Part of an error's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial;

impl fmt::Display for Denial {
    /// Empty: the other messages of the chain describe the failure.
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Denial {}

/// The server answered neither the request for refs that it had not offered nor the one for its
/// capabilities after it: the next poll asks for its capabilities first. Part of an error's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnansweredProbe;

impl fmt::Display for UnansweredProbe {
    /// Empty: the other messages of the chain describe the failure.
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for UnansweredProbe {}

/// The remotes to poll, by their backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackoffPolicy {
    /// All remotes: a person wants an answer.
    Ignore,
    /// Only remotes that are not in backoff.
    Respect,
}

/// The pause in which a remote is not polled, unless a person asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The end of the pause.
    pub until: DateTime<Utc>,
    /// The number of such failures in a row.
    pub times: u32,
    /// The failure and the time of the next attempt, as a message.
    pub reason: String,
    /// Set when only fetches pause, because the pack for the listed refs cannot be processed: a hash of
    /// that list. Polls continue; a different list may be fetched.
    #[serde(default)]
    pub pack: Option<u64>,
    /// Set when the remote refuses access: a hash of the attributes of the files with credentials. When
    /// one of them changed, the pause is over.
    #[serde(default)]
    pub credentials: Option<u64>,
}

/// The remotes of a repository that are in backoff, by display name.
pub type BackoffList = BTreeMap<String, Backoff>;

/// The longest pause between polls of a remote.
const LONGEST: TimeDelta = TimeDelta::minutes(5);
/// The longest pause between fetches of the same pack, as for a failed action.
const LONGEST_FETCH: TimeDelta = TimeDelta::hours(1);

impl Backoff {
    /// The backoff after `trouble` at `now`, described by `reason`; `before` is the previous one.
    ///
    /// Rejected credentials are tried again after one, two, four and then every five minutes: many
    /// accounts are locked after a few failures. A pack that cannot be processed may have been damaged
    /// in transit: it is fetched again at once, and then after one, two, four … minutes, at most an
    /// hour. A server that names a pause gets it, up to five minutes: the message names the time that we
    /// choose, whatever the server asked for.
    pub fn after(
        trouble: RemoteFailure,
        reason: &str,
        before: Option<&Self>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let times = before.map_or(1, |before| before.times.saturating_add(1));
        let doubled = || TimeDelta::minutes(1 << times.saturating_sub(1).min(3));
        let wait = match trouble {
            RemoteFailure::Server => return None,
            RemoteFailure::Pack if times == 1 => TimeDelta::zero(),
            RemoteFailure::Pack => TimeDelta::minutes(1 << times.saturating_sub(2).min(6)),
            RemoteFailure::Later(Some(time)) => TimeDelta::from_std(time).unwrap_or(LONGEST),
            RemoteFailure::Credentials | RemoteFailure::Later(None) => doubled(),
        };
        let longest = match trouble {
            RemoteFailure::Pack => LONGEST_FETCH,
            _ => LONGEST,
        };
        let until = now + wait.min(longest);
        Some(Self { until, times, reason: reason.to_owned(), pack: None, credentials: None })
    }

    /// Returns `true` if the pause is not over at `now`. An end further away than the longest pause was
    /// written under another clock.
    pub fn lasts(&self, now: DateTime<Utc>) -> bool {
        let longest = if self.pack.is_some() { LONGEST_FETCH } else { LONGEST };
        now < self.until && self.until - now <= longest
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
            left = Backoff::after(RemoteFailure::Credentials, "who?", left.as_ref(), now);
            assert_eq!(left.as_ref().unwrap().until - now, TimeDelta::minutes(minutes));
        }
    }

    #[test]
    fn a_pack_that_cannot_be_taken_in_is_fetched_again_at_once_and_then_ever_more_rarely() {
        let now = DateTime::UNIX_EPOCH;
        let mut left = None;
        for minutes in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
            left = Backoff::after(RemoteFailure::Pack, "twice", left.as_ref(), now);
            left.as_mut().unwrap().pack = Some(1);
            let left = left.as_ref().unwrap();
            assert_eq!(left.until - now, TimeDelta::minutes(minutes));
            assert_eq!(left.lasts(now), minutes > 0);
        }
    }

    #[test]
    fn a_server_is_left_alone_as_long_as_it_asks_for_and_no_longer_than_five_minutes() {
        let now = DateTime::UNIX_EPOCH;
        for (asked, seconds) in [(7, 7), (300, 300), (86_400, 300)] {
            let trouble = RemoteFailure::Later(Some(Duration::from_secs(asked)));
            let left = Backoff::after(trouble, "not now\nhint: wait", None, now).unwrap();
            assert_eq!(left.until - now, TimeDelta::seconds(seconds));
            assert_eq!(left.reason, "not now\nhint: wait");
        }
        let down = Backoff::after(RemoteFailure::Server, "down", None, now);
        assert_eq!(down, None, "asked at the next tick");
    }

    #[test]
    fn what_only_the_own_network_can_reach_is_private() {
        for (addresses, expected) in [
            ("127.0.0.1 127.8.8.8 ::1 ::ffff:127.0.0.1 0.0.0.0 ::", true),
            ("10.1.2.3 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 fd00::1", true),
            ("169.254.169.254 fe80::1", true),
            ("172.32.0.1 100.128.0.1 8.8.8.8 203.0.113.7 ::ffff:8.8.8.8 2001:db8::1", false),
        ] {
            for address in addresses.split(' ') {
                assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    #[test]
    fn a_doubted_answer_is_believed_after_three_in_a_row_over_two_minutes() {
        let start = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let ask = |before: &[DoubtedAnswer], remote: &str, seconds: i64| {
            let now = start + TimeDelta::seconds(seconds);
            let doubt = DoubtedAnswer::again(before, remote, "refs/heads/main", None, now);
            (doubt.is_believed(now), vec![doubt])
        };
        let follow = |answers: &[(&str, i64)]| {
            answers
                .iter()
                .fold((false, Vec::new()), |(_, before), (remote, at)| ask(&before, remote, *at))
        };
        for (answers, is_believed) in [
            (&[("a", 0)][..], false),
            (&[("a", 0), ("a", 600)], false),
            (&[("a", 0), ("a", 1), ("a", 119)], false),
            (&[("a", 0), ("a", 60), ("a", 120)], true),
            (&[("a", 0), ("a", 60), ("b", 61), ("a", 120)], false),
            // The clock was set back in between.
            (&[("a", 9_000), ("a", 60), ("a", 120)], false),
        ] {
            assert_eq!(follow(answers).0, is_believed, "{answers:?}");
        }
        let (_, doubts) = follow(&[("a", 0)]);
        let reason = DoubtedAnswer::reason(&doubts, start);
        assert_eq!(reason.as_deref(), Some("a answers without main; asked again"));
    }

    #[test]
    fn a_wait_that_was_written_under_a_clock_ahead_is_none() {
        let now = DateTime::UNIX_EPOCH;
        let (until, reason) = (now + TimeDelta::minutes(3), "who?".to_owned());
        let left = Backoff { until, times: 1, reason, pack: None, credentials: None };
        assert!(left.lasts(now) && !left.lasts(now + TimeDelta::minutes(3)));
        assert!(!left.lasts(now - TimeDelta::days(365)));
    }
}
