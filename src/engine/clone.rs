//! A clone comes to be: an empty one appears whole at its path; the first pass fills it.

use anyhow::{Context, Result, bail};

use super::roster::Repo;
use super::{Here, observe};
use crate::domain::git::RefName;
use crate::system::git::Git;
use crate::system::record::{Memory, Records};
use crate::system::{remote, skeleton};

/// Makes the skeleton of a clone and puts it in its place; fetching is the first pass's work.
///
/// # Errors
/// When no remote answers, or it cannot be made.
pub fn make(here: &Here, repo: &Repo) -> Result<()> {
    let settings = &repo.settings;
    for remote in &settings.urls {
        remote::permitted(remote, settings.insecure)?;
    }
    let format = observe::format_of(&settings.urls)?;
    let Some(remote) = settings.urls.first() else { bail!("no url says where to clone it from") };
    let branch = match repo.branch(here)? {
        Some(branch) => branch,
        None => "main".parse::<RefName>()?,
    };
    skeleton::make(&repo.path, |staged| {
        let git = Git::create(staged, remote, format, &branch)?;
        let records = Records::of(git.git_dir(), staged);
        records.make(git.git_dir())?;
        let memory = Memory { init_due: true, ..records.memory()? };
        records.put_memory(&memory)
    })
    .with_context(|| format!("cannot clone {} from {remote}", repo.name))
}
