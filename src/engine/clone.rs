//! A clone comes to be: an empty one appears whole at its path; the first pass fills it.

use std::fmt;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::poll::{Question, Standing};
use super::roster::Repo;
use super::{Here, poll};
use crate::domain::git::RefName;
use crate::domain::plan::Unreachable;
use crate::domain::remote::{Wanted, Whom};
use crate::system::git::Git;
use crate::system::record::{Memory, Polled, Records};
use crate::system::{node, skeleton};

/// No remote answered: the reason of each.
#[derive(Debug)]
pub struct NoAnswer(String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}

/// Asks the remotes of a repository that is to be cloned what they have.
///
/// # Errors
/// When it cannot be said what to ask for.
pub fn ask(
    here: &Here,
    repo: &Repo,
    before: &Polled,
    whom: Whom,
    now: DateTime<Utc>,
) -> Result<Polled> {
    let branch = repo.branch(here)?;
    let wanted = match repo.settings.mode.fetched() {
        Some(kinds) => Wanted::Every { branch, kinds },
        None => branch.map_or(Wanted::Default, Wanted::Branch),
    };
    let (remotes, reach) = (repo.settings.urls.as_slice(), &repo.settings.reach);
    let question = Question { remotes, reach, wanted: &wanted, whom };
    poll::ask(here, question, before, &|_| Ok(Standing::Sound), now)
}

/// Asks, and makes what [`begin`] makes.
///
/// # Errors
/// [`NoAnswer`] when no remote answers; anything else when it cannot be made.
pub fn make(here: &Here, repo: &Repo) -> Result<()> {
    begin(repo, &ask(here, repo, &Polled::default(), Whom::Everybody, node::now())?)
}

/// Makes the skeleton of a clone of what answered `polled` and puts it in its place; fetching is the
/// first pass's work, which finds there what the remote listed.
///
/// # Errors
/// [`NoAnswer`] when nothing answered; anything else when it cannot be made.
pub fn begin(repo: &Repo, polled: &Polled) -> Result<()> {
    let Some(remote) = repo.settings.urls.first() else {
        bail!("no url says where to clone it from")
    };
    if let Some(Unreachable { reason, .. }) = &polled.unreachable {
        bail!(NoAnswer(reason.clone()));
    }
    let branch = match &polled.branch {
        Some(branch) => branch.clone(),
        None => "main".parse::<RefName>()?,
    };
    let format = polled.way.as_ref().map(|way| way.format).unwrap_or_default();
    skeleton::make(&repo.path, |staged| {
        let git = Git::create(staged, remote, format, &branch)?;
        let records = Records::of(git.git_dir(), staged);
        records.make(git.git_dir())?;
        let memory = Memory { init_due: true, ..records.memory()? };
        records.put_polled(polled)?;
        if let Some(tips) = &polled.refs {
            records.put_heard(tips)?;
        }
        records.put_memory(&memory)
    })
    .with_context(|| format!("cannot clone {} from {remote}", repo.name))
}
