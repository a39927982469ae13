//! Makes a clone: an empty one appears complete at its path, and the first pass fetches into it.

use anyhow::{Context as _, Result, bail};

use crate::domain::git::RefName;
use crate::domain::remote::BackoffPolicy;
use crate::domain::repository::observed::Unreachable;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::{RefMissing, RemotesDenied, RemotesUnreachable};
use crate::engine::repository::poll::ask_before_cloning;
use crate::system::git::Git;
use crate::system::repo_state::{ActionState, PollRecord, RepoRecords};
use crate::system::{atomic_dir, host};

/// Polls the remotes, and makes the clone as [`begin`] does.
///
/// # Errors
/// [`RemotesUnreachable`] when no remote answers; another error when the clone cannot be made.
pub fn make(context: &Context, repo: &RepoEntry) -> Result<()> {
    begin(
        repo,
        &ask_before_cloning(
            context,
            repo,
            &PollRecord::default(),
            BackoffPolicy::Ignore,
            host::now(),
        )?,
    )
}

/// Makes an empty clone of the remote that answered `polled`, and moves it into its place. The first
/// pass fetches, and finds there the refs that the remote listed.
///
/// # Errors
/// [`RemotesUnreachable`] when no remote answered; another error when the clone cannot be made.
pub fn begin(repo: &RepoEntry, polled: &PollRecord) -> Result<()> {
    let Some(remote) = repo.settings.urls.first() else {
        bail!("no url is configured to clone it from")
    };
    match &polled.unreachable {
        Some(Unreachable { reason, refusals: 0, .. }) => bail!(RemotesUnreachable(reason.clone())),
        Some(Unreachable { reason, .. }) => bail!(RemotesDenied(reason.clone())),
        None => {}
    }
    if let Some(Unreachable { reason, .. }) = &polled.no_ref {
        bail!(RefMissing(reason.clone()));
    }
    let branch = match &polled.branch {
        Some(branch) => branch.clone(),
        None => "main".parse::<RefName>()?,
    };
    let format = polled.way.as_ref().map(|way| way.format).unwrap_or_default();
    atomic_dir::make(&repo.path, |staged| {
        let git = Git::create(staged, remote, format, &branch)?;
        let records = RepoRecords::of(git.git_dir(), staged).in_format(format);
        records.make(git.git_dir())?;
        let memory = ActionState { init_due: true, ..records.memory()? };
        records.put_polled(polled)?;
        if let Some(tips) = &polled.refs {
            records.put_heard(tips)?;
        }
        records.put_memory(&memory)
    })
    .with_context(|| format!("cannot clone {} from {remote}", repo.name))
}
