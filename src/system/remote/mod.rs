//! The wire: ask a remote where a branch is, and carry a fetch. Which way a remote is reached is
//! decided here by its scheme; each way is a file of its own.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use git2::{AutotagOption, Direction, FetchOptions, RemoteCallbacks};

use super::git::error::explained;
use super::git::{Format, Git, commit_of};
use super::node::since_boot;
use crate::domain::git::{Commit, RefName, Remote, Scheme};

mod local;
pub mod shallow;

/// The most that a fetch may receive: a hostile server must not fill the disk.
const MOST_BYTES: usize = 8 << 30;

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

/// What a remote said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The branch that this is about; `None` when the remote is empty and none was named.
    pub branch: Option<RefName>,
    /// Its tip; `None` when there is no such branch.
    pub tip: Option<Commit>,
}

/// Whether a remote of this kind may be used at all.
///
/// # Errors
/// Says why not.
pub fn permitted(remote: &Remote, insecure: bool) -> Result<()> {
    match remote.scheme() {
        Some(Scheme::Local) => Ok(()),
        Some(Scheme::Git) if insecure => Ok(()),
        Some(Scheme::Git | Scheme::Http) if !insecure => bail!(
            "{remote} is neither encrypted nor authenticated\n\
             hint: use https or ssh, or set insecure = true where the network is trusted"
        ),
        Some(_) => bail!(
            "{remote}: this version reaches paths, file:// and git:// only\n\
             hint: mirror it to a path on this machine"
        ),
        None => bail!("{remote}: its scheme is not known\nhint: use a path, file:// or git://"),
    }
}

/// Asks `remote` where the wanted branch is.
///
/// # Errors
/// When it does not answer, or with something that is no answer.
pub fn poll(remote: &Remote, wanted: &Wanted) -> Result<Answer> {
    match remote.scheme() {
        Some(Scheme::Local) => local::poll(remote, wanted),
        _ => listed(remote, wanted),
    }
}

/// Over libgit2's own transport, which downloads every ref.
fn listed(remote: &Remote, wanted: &Wanted) -> Result<Answer> {
    let mut handle = git2::Remote::create_detached(remote.secret_url())
        .with_context(|| format!("{remote} is no address"))?;
    let connection = handle
        .connect_auth(Direction::Fetch, None, None)
        .map_err(|error| anyhow!("{}", error.message()))
        .with_context(|| format!("{remote} does not answer"))?;
    let heads = connection.list().with_context(|| format!("{remote} does not list its refs"))?;
    let tip_of = |name: &str| heads.iter().find(|head| head.name() == name);
    let default = tip_of("HEAD")
        .and_then(|head| head.symref_target())
        .and_then(|target| target.strip_prefix("refs/heads/")?.parse::<RefName>().ok());
    let branch = choose(wanted, default, |branch| tip_of(&branch.local()).is_some());
    let tip = match branch.as_ref().and_then(|branch| tip_of(&branch.local())) {
        Some(head) => Some(commit_of(head.oid())?),
        None => None,
    };
    Ok(Answer { branch, tip })
}

/// The branch that `wanted` means on a remote with this default branch.
fn choose(
    wanted: &Wanted,
    default: Option<RefName>,
    has: impl Fn(&RefName) -> bool,
) -> Option<RefName> {
    match wanted {
        Wanted::Branch(branch) => Some(branch.clone()),
        Wanted::Preferably(branch) if has(branch) => Some(branch.clone()),
        Wanted::Preferably(branch) => default.filter(&has).or_else(|| Some(branch.clone())),
        Wanted::Default => default,
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

/// Brings `branch` of `remote` into `git` as its tracking ref.
///
/// # Errors
/// When it fails, takes longer than `limit`, or sends too much; the tracking ref stays then.
pub fn fetch(
    git: &Git,
    remote: &Remote,
    branch: &RefName,
    limit: Duration,
    mut progress: impl FnMut(Progress),
) -> Result<()> {
    let deadline = since_boot() + limit;
    let mut stopped = None;
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|stats| {
        progress(Progress {
            received: stats.received_objects(),
            total: stats.total_objects(),
            bytes: stats.received_bytes(),
        });
        if since_boot() > deadline {
            stopped = Some(format!("took longer than {}", humantime::format_duration(limit)));
        } else if stats.received_bytes() > MOST_BYTES {
            stopped = Some(format!("sends more than {MOST_BYTES} bytes"));
        }
        stopped.is_none()
    });
    let mut options = FetchOptions::new();
    options.remote_callbacks(callbacks).download_tags(AutotagOption::None).update_fetchhead(false);
    if remote.scheme() == Some(Scheme::Local) {
        local::must_be_whole(remote)?;
    }
    shallow::keep(git.git_dir())?;
    let refspec = format!("+{}:{}", branch.local(), branch.tracking());
    let fetched = git
        .for_the_wire()?
        .remote_anonymous(remote.secret_url())
        .and_then(|mut handle| handle.fetch(&[refspec], Some(&mut options), Some("fetch")));
    drop(options);
    shallow::put_back(git.git_dir())?;
    match (fetched, stopped) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(reason)) => Err(anyhow!("it {reason}")),
        (Err(error), None) => Err(explained(&error)),
    }
    .with_context(|| format!("cannot fetch {branch} from {remote}"))
}

/// Which hash `remote` names its objects by.
///
/// # Errors
/// When it does not answer.
pub fn format(remote: &Remote) -> Result<Format> {
    match remote.scheme() {
        Some(Scheme::Local) => local::format(remote),
        _ => Ok(Format::Sha1),
    }
}
