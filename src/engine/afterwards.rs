//! `after` as somebody else than the user of the repository, whose worker cannot become that: root's
//! tick runs it in the worker's stead. What is run comes from root's own configuration; the worker
//! says for what.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::observe::one_line;
use super::roster::Repo;
use super::{Here, scripts};
use crate::domain::action::Outcome;
use crate::domain::git::{Commit, RefName};
use crate::system::node::User;
use crate::system::process::{self, Script};

/// The most of its output that is kept, in bytes.
const MOST_SAID: u64 = 256 << 10;

/// What a worker asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Which repository.
    pub repository: String,
    /// The full name of the ref that is shown.
    pub reference: String,
    /// What of it.
    pub revision: Commit,
    /// Where.
    pub target: PathBuf,
}

/// How it ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The outcome.
    pub outcome: Outcome,
    /// What it printed.
    pub said: String,
}

/// Whether one of `repos` may have something to ask.
pub fn is_needed(repos: &[Repo]) -> bool {
    repos.iter().any(|repo| repo.settings.publish.after_user.is_some())
}

/// Runs the `after` of one of `repos` as its `after_user`.
pub fn answer(here: &Here, repos: &[Repo], question: &Question) -> Answer {
    run(here, repos, question).unwrap_or_else(|error| {
        let reason = format!("after: {}", one_line(&error));
        Answer { outcome: Outcome::Hindered { reason }, said: String::new() }
    })
}

fn run(here: &Here, repos: &[Repo], question: &Question) -> Result<Answer> {
    let Question { repository, reference, revision, target } = question;
    let repo = repos.iter().find(|repo| repo.name == *repository);
    let repo = repo.context("the worker asks for a repository that is not its own")?;
    let publish = &repo.settings.publish;
    let name = publish.after_user.as_ref().context("no after_user is configured")?;
    let user = User::named(name)
        .with_context(|| format!("there is no user \"{}\" on this machine", name.escape_debug()))?;
    let short = ["refs/heads/", "refs/tags/"].iter().find_map(|at| reference.strip_prefix(at));
    let is_ref = short.is_some_and(|short| short.parse::<RefName>().is_ok());
    ensure!(is_ref || reference.parse::<Commit>().is_ok(), "the worker names no ref");
    let folder = repo.settings.target().context("there is no target")?.folder;
    ensure!(target.parent() == Some(&folder), "the worker names another target");

    let mut env = scripts::environment_of(&user);
    let mut set = |key: &str, value: OsString| env.push((key.into(), value));
    for (key, value) in &repo.settings.env {
        set(key, value.into());
    }
    set("AGENT_REPO", repository.into());
    set("AGENT_ROOT", here.settings.world.root.clone().into());
    set("AGENT_HOST", here.node.host.clone().into());
    set("AGENT_PART", here.part.clone().unwrap_or_default().into());
    set("AGENT_STACK", here.stack.clone().unwrap_or_default().into());
    set("AGENT_TARGET", target.into());
    set("AGENT_REF", reference.into());
    set("AGENT_REVISION", revision.to_string().into());
    let argv = publish.after.iter().map(OsString::from).collect();
    // Not in the target: what lies there is in the hands of somebody with fewer rights.
    let user = (user.uid != here.node.user.uid).then_some(user.name);
    let script = Script { argv, folder: "/".into(), env, user };
    let report = process::report_file()?;
    let ended = script.stage(&report)?.go(scripts::deadline(repo.settings.timeout), || {})?;
    let said = process::reported(report, MOST_SAID).unwrap_or_default();
    Ok(Answer { outcome: scripts::outcome_of(ended), said })
}
