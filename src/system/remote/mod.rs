//! The wire: ask a remote where a branch is, and carry a fetch. Which way a remote is reached is
//! decided here by its scheme; each way is a file of its own.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use git2::{AutotagOption, FetchOptions, RemoteCallbacks};

use self::allowance::Allowance;
use self::silent::Silent;
use super::git::Git;
use super::git::error::explained;
use super::node::since_boot;
use crate::domain::git::{Commit, RefName, Remote, Scheme};
use crate::domain::remote::{Answer, Reach, Wanted, Way};

mod address;
mod allowance;
mod daemon;
mod haves;
mod http;
mod local;
mod receive;
pub mod shallow;
mod silent;
mod ssh;
mod stream;

/// What the polls and fetches of one process share: connections, and what they are kept open with.
#[derive(Debug, Default)]
pub struct Wire {
    /// Those that ssh and git:// cannot connect to, and all that asked to be left alone.
    silent: Silent,
    http: http::Http,
    /// The connections that ssh keeps open.
    masters: ssh::Masters,
}

/// What to fetch.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// From where.
    pub remote: &'a Remote,
    /// Under which settings.
    pub reach: &'a Reach,
    /// What.
    pub goal: Goal<'a>,
    /// How the poll went that found it.
    pub way: Option<&'a Way>,
}

/// What a fetch is to bring.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'a> {
    /// A branch, as its tracking ref.
    Branch {
        /// Which.
        branch: &'a RefName,
        /// Where a poll found it; `None`: nobody asked yet.
        tip: Option<Commit>,
    },
    /// What a poll found, and nothing newer.
    Refs(&'a [Update]),
}

/// A ref that a fetch is to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Its full name there.
    pub from: String,
    /// Its full name here.
    pub to: String,
    /// What it points at there.
    pub id: Commit,
}

impl Update {
    /// Of a branch, as its tracking ref.
    fn of(branch: &RefName, tip: Commit) -> Self {
        Self { from: branch.local(), to: branch.tracking(), id: tip }
    }
}

impl fmt::Display for Goal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch { branch, .. } => branch.fmt(f),
            Self::Refs([update]) => update.from.escape_debug().fmt(f),
            Self::Refs(updates) => write!(f, "{} refs", updates.len()),
        }
    }
}

impl Wire {
    /// With the sockets of shared ssh connections in the first of `folders` that will do.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { masters: ssh::Masters::below(folders), ..Self::default() }
    }

    /// Asks `remote` where the wanted branch is. `known` is how it answered last.
    ///
    /// # Errors
    /// When it may not be used, does not answer, or with something that is no answer. A
    /// [`Trouble`](crate::domain::remote::Trouble) in the chain says what that means for others.
    pub fn poll(
        &self,
        remote: &Remote,
        wanted: &Wanted,
        reach: &Reach,
        known: Option<&Way>,
    ) -> Result<Answer> {
        let scheme = permitted(remote, reach)?;
        let server = remote.server().unwrap_or_default();
        match scheme {
            Scheme::Local => local::poll(remote, wanted),
            Scheme::Http | Scheme::Https => {
                // Whether anybody can be connected to, is known there of each place that is led to.
                let poll = || self.http.poll(remote, wanted, reach, known);
                self.silent.unless_busy(&server, poll)
            }
            Scheme::Git => {
                self.silent.unless(&server, || daemon::poll(remote, wanted, reach, known))
            }
            Scheme::Ssh => {
                let poll = || ssh::poll(&self.masters, remote, wanted, reach, known);
                self.silent.unless(&server, poll)
            }
        }
    }

    /// Makes sure that `remote` could be asked, as far as this machine alone can tell.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self, remote: &Remote, reach: &Reach) -> Result<()> {
        match permitted(remote, reach)? {
            Scheme::Ssh => ssh::ready(remote, reach),
            Scheme::Local | Scheme::Git | Scheme::Http | Scheme::Https => Ok(()),
        }
    }

    /// Brings what `order` names into `git`.
    ///
    /// # Errors
    /// When it fails, takes longer than it may, or sends too much; the refs stay then. Those of
    /// [`Goal::Refs`] may have moved since they were listed.
    pub fn fetch(
        &self,
        git: &Git,
        order: &Order,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let Order { remote, goal, .. } = order;
        match permitted(remote, order.reach)? {
            Scheme::Local => {
                local::must_be_whole(remote)?;
                by_libgit2(git, order, progress)
            }
            Scheme::Http | Scheme::Https => self.http.fetch(git, order, progress),
            Scheme::Git => daemon::fetch(git, order, progress),
            Scheme::Ssh => ssh::fetch(&self.masters, git, order, progress),
        }
        .with_context(|| format!("cannot fetch {goal} from {remote}"))
    }
}

/// The kind of a remote that may be used.
///
/// # Errors
/// Says why it may not.
pub fn permitted(remote: &Remote, reach: &Reach) -> Result<Scheme> {
    if remote.hides_its_host() {
        bail!(
            "{remote}: nobody can tell where its host begins\n\
             hint: in a user and a password write %2F for /, %3F for ?, %23 for # and %40 for @"
        );
    }
    match remote.scheme() {
        Some(Scheme::Git | Scheme::Http) if !reach.insecure => bail!(
            "{remote} is neither encrypted nor authenticated\n\
             hint: use https or ssh, or where the network is trusted set insecure = true for it, in \
             agent.toml or its file in agent.d"
        ),
        Some(scheme) => Ok(scheme),
        None => bail!("{remote}: its scheme is not known\nhint: use https, ssh, a path or file://"),
    }
}

/// How much of a fetch has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Objects so far.
    pub received: usize,
    /// Objects in all.
    pub total: usize,
    /// Bytes so far.
    pub bytes: usize,
}

/// Lets the refs of `updates` point where a poll found them. The objects have to be here.
fn point(git: &Git, updates: &[Update]) -> Result<()> {
    let moves = updates.iter().map(|update| (update.to.clone(), Some(update.id)));
    git.move_refs(&moves.collect::<Vec<_>>(), "fetch")
}

/// Over libgit2's own transport.
fn by_libgit2(git: &Git, order: &Order, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let Order { remote, goal, .. } = order;
    let limit = order.reach.limit;
    let deadline = since_boot() + limit;
    let allowance = Allowance::of(git.git_dir());
    let (mut stopped, mut too_much) = (None, Ok(()));
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|stats| {
        progress(Progress {
            received: stats.received_objects(),
            total: stats.total_objects(),
            bytes: stats.received_bytes(),
        });
        if since_boot() > deadline {
            stopped = Some(format!("took longer than {}", humantime::format_duration(limit)));
        } else {
            too_much = allowance.covers(stats.received_bytes());
        }
        stopped.is_none() && too_much.is_ok()
    });
    let mut options = FetchOptions::new();
    options.remote_callbacks(callbacks).download_tags(AutotagOption::None).update_fetchhead(false);
    shallow::keep(git.git_dir())?;
    let refspecs: Vec<String> = match goal {
        Goal::Branch { branch, .. } => vec![format!("+{}:{}", branch.local(), branch.tracking())],
        Goal::Refs(updates) => {
            updates.iter().map(|update| format!("+{}:{}", update.from, update.to)).collect()
        }
    };
    let fetched = git.for_the_wire()?.remote_anonymous(remote.secret_url()).and_then(
        |mut handle| match goal {
            Goal::Branch { .. } => handle.fetch(&refspecs, Some(&mut options), Some("fetch")),
            // The library would write each ref into a file of its own, with a log, and wait for both.
            Goal::Refs(_) => handle.download(&refspecs, Some(&mut options)),
        },
    );
    drop(options);
    shallow::put_back(git.git_dir())?;
    too_much?;
    match (fetched, stopped) {
        (Ok(()), _) => match goal {
            Goal::Branch { .. } => Ok(()),
            Goal::Refs(updates) => {
                for Update { from, id, .. } in *updates {
                    ensure!(
                        git.has_object(*id),
                        "it did not send {id}; was {from} rewritten just now?"
                    );
                }
                point(git, updates)
            }
        },
        (Err(_), Some(reason)) => Err(anyhow!("it {reason}")),
        (Err(error), None) => Err(explained(&error)),
    }
}
