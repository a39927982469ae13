//! Polls remotes for their branches and fetches from them. This file picks the transport by the remote's
//! scheme; each transport has a file of its own, which alone knows its protocol.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, bail};

use self::dead_hosts::DeadHosts;
pub use self::http::OpenConnections;
use super::git::Git;
use crate::domain::followed::Followed;
use crate::domain::git::{Commit, ObjectFormat, RefName, Remote, RemoteScheme};
use crate::domain::remote::{
    ConnectionSettings, Denial, FormatMismatch, PollAnswer, PollScope, PushHints, RefKinds,
    RemoteHints, WireDialect,
};
use crate::domain::text::EscapeControls;
use crate::domain::versions::TagPattern;
use crate::domain::wire::push::{FileCommit, PushOutcome, RefChange, push_request, read_report};
use crate::domain::wire::{Capabilities, ProtocolError};

pub use relay::{Relay, RelayRequest};

/// The most names of refs that an answer without the wanted one has: more than anybody is shown.
const MOST_NAMES: usize = 10;

mod address;
mod dead_hosts;
mod duplex_stream;
mod fetch_quota;
mod git_daemon;
mod haves;
mod http;
mod intake;
mod local;
mod local_push;
mod receive;
mod relay;
mod shallow;
mod ssh;

/// The connections and caches that the polls and fetches of one process share.
#[derive(Debug, Default)]
pub struct Wire {
    /// Servers that ssh and git:// cannot connect to, and all servers that asked for a pause.
    silent: DeadHosts,
    http: http::HttpRemotes,
    /// The connections that ssh keeps open.
    masters: ssh::ControlMasters,
}

/// One fetch: the remote, its settings, and the refs to fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchOrder<'a> {
    /// The remote to fetch from.
    pub remote: &'a Remote,
    /// The connection settings for the remote.
    pub reach: &'a ConnectionSettings,
    /// The refs to fetch.
    pub goal: FetchGoal<'a>,
    /// How the remote answered the poll; `None` without a poll.
    pub way: Option<&'a RemoteHints>,
}

/// One push: changes of refs, each by compare-and-swap and each by itself.
#[derive(Clone, Copy, Debug)]
pub struct PushOrder<'a> {
    /// The remote to push to.
    pub remote: &'a Remote,
    /// The connection settings for the remote.
    pub reach: &'a ConnectionSettings,
    /// What changes.
    pub changes: &'a [RefChange<'a>],
    /// The commit that the remote needs for that; `None`: refs are only removed.
    pub commit: Option<&'a FileCommit>,
}

impl PushOrder<'_> {
    /// The whole push as one message for a server with these capabilities; `None`: it was not asked for them.
    fn request(&self, offered: Option<&Capabilities>) -> Result<Vec<u8>> {
        let pack = self.commit.map(FileCommit::pack).transpose();
        let pack = pack.context("the commit cannot be packed")?.unwrap_or_default();
        Ok(push_request(self.format(), self.changes, &pack, offered))
    }

    /// The object format of all ids.
    fn format(&self) -> ObjectFormat {
        let ids = self.changes.iter().flat_map(|change| [change.new, change.old]);
        ids.flatten().next().map(|id| id.0.format()).unwrap_or_default()
    }

    /// The outcomes, in the order of the changes, by the server's report.
    fn outcomes(&self, report: &[u8]) -> Result<Vec<PushOutcome>, ProtocolError> {
        let names: Vec<&str> = self.changes.iter().map(|change| change.name).collect();
        read_report(report, &names)
    }
}

/// The refs that a fetch brings.
#[derive(Clone, Copy, Debug)]
pub enum FetchGoal<'a> {
    /// A branch, as its tracking ref.
    Branch {
        /// The branch.
        branch: &'a RefName,
        /// The full name of the tracking ref.
        to: &'a str,
        /// Its tip as of the poll; `None` when no poll was made yet.
        tip: Option<Commit>,
    },
    /// The refs that a poll listed, and nothing newer.
    Refs(&'a [FetchedRef]),
}

/// One ref to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedRef {
    /// Its full name at the remote.
    pub from: String,
    /// Its full name in the clone.
    pub to: String,
    /// The object that it points at.
    pub id: Commit,
}

impl FetchedRef {
    /// A branch, as its tracking ref.
    fn of(branch: &RefName, to: &str, tip: Commit) -> Self {
        Self { from: branch.local(), to: to.to_owned(), id: tip }
    }
}

impl FetchGoal<'_> {
    /// The refs that a poll listed; `None` when no poll was made yet.
    fn polled(&self) -> Option<Vec<FetchedRef>> {
        match *self {
            Self::Branch { branch, to, tip } => {
                tip.map(|tip| vec![FetchedRef::of(branch, to, tip)])
            }
            Self::Refs(updates) => Some(updates.to_vec()),
        }
    }
}

impl fmt::Display for FetchGoal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch { branch, .. } => branch.fmt(f),
            Self::Refs([update]) => update.from.escape_controls().fmt(f),
            Self::Refs(updates) => write!(f, "{} refs", updates.len()),
        }
    }
}

impl Wire {
    /// Shares ssh connections over sockets in the first usable directory of `directories`.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { masters: ssh::ControlMasters::below(dirs), ..Self::default() }
    }

    /// Uses the connections to web servers that others left open, and leaves them open for others.
    pub fn share(&mut self, connections: &OpenConnections) {
        self.http.share(connections);
    }

    /// Lets fetches go over `relay`, as long as this process has no connection of its own.
    pub fn fetch_over(&self, relay: Relay) {
        self.http.fetch_over(relay);
    }

    /// Sends the request of a worker at the other end of `line`, and passes the answer on.
    pub fn relay(&self, request: &RelayRequest, line: &UnixStream) {
        let RelayRequest { relay: asked } = request;
        let answer = match permitted(&asked.remote, &asked.reach) {
            Ok(RemoteScheme::Http | RemoteScheme::Https) => self.http.exchange(asked),
            Ok(_) => Err(Error::msg("it has no requests")),
            Err(error) => Err(error),
        };
        // The worker asks by itself then, and has the error as its own.
        let answer = answer.inspect_err(|error| tracing::debug!("not relayed: {error:#}")).ok();
        if let Err(error) = relay::pass_on(line, answer) {
            tracing::debug!("the worker takes nothing more: {error}");
        }
    }

    /// Asks `remote` where the wanted branch is. `known` is how it answered last. `clone` is the object
    /// format of the clone; `None` when there is no clone yet.
    ///
    /// # Errors
    /// When the remote may not be used, does not answer, or sends no valid answer. A
    /// [`RemoteFailure`](crate::domain::remote::RemoteFailure) in the chain says what that means for
    /// other repositories, a [`FormatMismatch`] that the clone has another object format.
    pub fn poll(
        &self,
        remote: &Remote,
        wanted: &PollScope,
        reach: &ConnectionSettings,
        known: Option<&RemoteHints>,
        clone: Option<ObjectFormat>,
    ) -> Result<PollAnswer> {
        // A remote that was never asked most likely has the clone's object format.
        let likely = clone.map(|format| RemoteHints {
            dialect: WireDialect::Direct,
            format,
            ..RemoteHints::default()
        });
        let mut answer = self.ask(remote, wanted, reach, known.or(likely.as_ref()))?;
        if answer.tip.is_none() {
            answer.others = self.names(remote, wanted, reach, &answer)?;
        }
        if let (None, Some(branch), false) = (answer.tip, wanted.branch(), answer.others.is_empty())
        {
            answer.is_tag = self.is_tag(remote, branch, reach, &answer)?;
        }
        if wanted.revision().is_none() {
            of_one_format(remote, &answer)?;
        }
        let format = answer.way.format;
        FormatMismatch::check(format, clone.unwrap_or(format))
            .with_context(|| format!("{remote} cannot be followed"))?;
        Ok(answer)
    }

    /// Lists the branches of `remote` whose names begin with one of `beginnings`, in one request where it was asked
    /// before (`known`). That its HEAD names none of them is no fault.
    ///
    /// # Errors
    /// As for [`Wire::poll`].
    pub fn branches(
        &self,
        remote: &Remote,
        beginnings: &[String],
        reach: &ConnectionSettings,
        known: Option<&RemoteHints>,
    ) -> Result<PollAnswer> {
        let answer = self.ask(remote, &PollScope::Branches(beginnings.to_vec()), reach, known)?;
        of_one_format(remote, &answer)?;
        Ok(answer)
    }

    /// Whether `remote`, which gave `answer`, has a tag of the name of `branch`.
    fn is_tag(
        &self,
        remote: &Remote,
        branch: &RefName,
        reach: &ConnectionSettings,
        answer: &PollAnswer,
    ) -> Result<bool> {
        // No tag of git's has a name that is no pattern.
        let Ok(pattern) = branch.as_str().parse::<TagPattern>() else { return Ok(false) };
        let tag = PollScope::Tag(pattern.into());
        Ok(self.ask(remote, &tag, reach, Some(&answer.way))?.tag.is_some())
    }

    /// The short names of the branches that `remote` has, which gave `answer`; without branches, of tags. The
    /// tags come first where one is `wanted`.
    fn names(
        &self,
        remote: &Remote,
        wanted: &PollScope,
        reach: &ConnectionSettings,
        answer: &PollAnswer,
    ) -> Result<Vec<String>> {
        let tags_first = wanted.pattern().is_some();
        let mut kinds = RefKinds { branches: !tags_first, tags: tags_first };
        for _ in 0..2 {
            let every = PollScope::Every { followed: Followed::Branch(None), kinds };
            let refs = self.ask(remote, &every, reach, Some(&answer.way))?.refs;
            if !refs.is_empty() {
                let short = |name: &str| name.splitn(3, '/').last().map(str::to_owned);
                return Ok(refs
                    .iter()
                    .filter_map(|tip| short(&tip.name))
                    .take(MOST_NAMES)
                    .collect());
            }
            kinds = RefKinds { branches: tags_first, tags: !tags_first };
        }
        Ok(Vec::new())
    }

    fn ask(
        &self,
        remote: &Remote,
        wanted: &PollScope,
        reach: &ConnectionSettings,
        known: Option<&RemoteHints>,
    ) -> Result<PollAnswer> {
        let scheme = permitted(remote, reach)?;
        let server = remote.server().unwrap_or_default();
        match scheme {
            RemoteScheme::Local => local::poll(remote, wanted, known),
            RemoteScheme::Http | RemoteScheme::Https => {
                // The HTTP client itself remembers unreachable servers, for the target of each redirect.
                let poll = || self.http.poll(remote, wanted, reach, known);
                self.silent.unless_busy(&server, poll)
            }
            RemoteScheme::Git => {
                self.silent.unless(&server, || git_daemon::poll(remote, wanted, reach, known))
            }
            RemoteScheme::Ssh => {
                let poll = || ssh::poll(&self.masters, remote, wanted, reach, known);
                self.silent.unless(&server, poll)
            }
        }
    }

    /// Asks `remote` for the tip of `branch` and for nothing else. `known` is how it answered last.
    ///
    /// # Errors
    /// As for [`Wire::poll`].
    pub fn tip(
        &self,
        remote: &Remote,
        branch: &RefName,
        reach: &ConnectionSettings,
        known: Option<&RemoteHints>,
    ) -> Result<PollAnswer> {
        let likely = RemoteHints { dialect: WireDialect::Direct, ..RemoteHints::default() };
        let answer =
            self.ask(remote, &PollScope::Branch(branch.clone()), reach, known.or(Some(&likely)))?;
        match answer.tip.filter(|tip| tip.0.format() != answer.way.format) {
            Some(tip) => bail!("{remote} names objects by {}, and lists {tip}", answer.way.format),
            None => Ok(answer),
        }
    }

    /// Pushes `order`; returns the outcome of each change. `known` is how the remote took the last push; returned is how
    /// it took this one.
    ///
    /// # Errors
    /// When the remote may not be used, does not answer, or gives no valid report. A [`FormatMismatch`] in the chain
    /// says that it has another object format than the commit.
    pub fn push(
        &self,
        order: &PushOrder,
        known: &PushHints,
    ) -> Result<(Vec<PushOutcome>, PushHints)> {
        let PushOrder { remote, reach, .. } = order;
        let pushed = match permitted(remote, reach)? {
            RemoteScheme::Local => local_push::push(order).map(|it| (it, known.clone())),
            RemoteScheme::Http | RemoteScheme::Https => self.http.push(order, known),
            RemoteScheme::Ssh => ssh::push(&self.masters, order).map(|it| (it, known.clone())),
            RemoteScheme::Git => Err(denied(format!("{remote}: git:// takes no push"))),
        };
        pushed.with_context(|| format!("cannot push to {remote}"))
    }

    /// Checks, without a connection, that `remote` could be asked.
    ///
    /// # Errors
    /// When something is missing on this machine; says what.
    pub fn ready(&self, remote: &Remote, reach: &ConnectionSettings) -> Result<()> {
        match permitted(remote, reach)? {
            RemoteScheme::Ssh => ssh::ready(remote, reach),
            RemoteScheme::Local | RemoteScheme::Git | RemoteScheme::Http | RemoteScheme::Https => {
                Ok(())
            }
        }
    }

    /// Fetches the refs of `order` into `git`.
    ///
    /// # Errors
    /// When it fails, takes too long or sends too much; the refs do not move then. The refs of
    /// [`FetchGoal::Refs`] may have moved at the remote since they were listed.
    pub fn fetch(
        &self,
        git: &Git,
        order: &FetchOrder,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        let FetchOrder { remote, goal, .. } = order;
        let fetched = match permitted(remote, order.reach)? {
            RemoteScheme::Local => local::fetch(git, order, progress),
            RemoteScheme::Http | RemoteScheme::Https => self.http.fetch(git, order, progress),
            RemoteScheme::Git => git_daemon::fetch(git, order, progress),
            RemoteScheme::Ssh => ssh::fetch(&self.masters, git, order, progress),
        };
        progress(FetchProgress::Ended);
        fetched.with_context(|| format!("cannot fetch {goal} from {remote}"))
    }
}

/// Checks that `remote` lists ids of the format that it claims.
///
/// # Errors
/// When it does not.
fn of_one_format(remote: &Remote, answer: &PollAnswer) -> Result<()> {
    let format = answer.way.format;
    let mut ids = answer.refs.iter().map(|tip| tip.id).chain(answer.tip);
    match ids.find(|id| id.0.format() != format) {
        Some(id) => bail!("{remote} names objects by {format}, and lists {id}"),
        None => Ok(()),
    }
}

/// The scheme of a remote that the settings permit.
///
/// # Errors
/// When the remote may not be used; says why.
pub fn permitted(remote: &Remote, reach: &ConnectionSettings) -> Result<RemoteScheme> {
    if remote.hides_its_host() {
        return Err(denied(format!(
            "{remote}: it is unclear where its host begins\n\
             hint: in a user and a password write %2F for /, %3F for ?, %23 for # and %40 for @"
        )));
    }
    match remote.scheme() {
        Some(RemoteScheme::Git | RemoteScheme::Http) if !reach.insecure => Err(denied(format!(
            "{remote} is neither encrypted nor authenticated\n\
             hint: use https or ssh, or where the network is trusted set insecure = true for it, in \
             agent.toml or its file in agent.d"
        ))),
        Some(scheme) => Ok(scheme),
        None => Err(denied(format!(
            "{remote}: its scheme is not known\nhint: use https, ssh, a path or file://"
        ))),
    }
}

/// The error `text`, which lasts until somebody acts.
fn denied(text: String) -> Error {
    Error::new(Denial).context(text)
}

/// `error`, which lasts until somebody acts.
fn denied_by(error: impl Into<Error>) -> Error {
    denied(format!("{:#}", error.into()))
}

/// The progress of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchProgress {
    /// More arrived.
    Received {
        /// Objects so far.
        received: usize,
        /// Objects in all.
        total: usize,
        /// Bytes so far.
        bytes: usize,
    },
    /// The fetch is over, successful or not.
    Ended,
}

/// Sets the refs of `updates` to their polled objects, which have to be in the store already.
fn point(git: &Git, updates: &[FetchedRef]) -> Result<()> {
    let moves = updates.iter().map(|update| (update.to.clone(), Some(update.id)));
    git.move_refs(&moves.collect::<Vec<_>>(), "fetch")
}
