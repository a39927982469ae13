//! `after` as somebody else than the user of the repository, whose worker cannot become that: root's
//! tick runs it in the worker's stead. What is run comes from root's own configuration; the worker
//! says for what. It could say anything, so that nothing of its own becomes more than a variable's text:
//! neither a file that it could change (`AGENT_CHANGED`, or a folder to begin in) nor a variable's name.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::Here;
use super::observe::one_line;
use super::roster::Repo;
use super::scripts::{self, Facts};
use crate::config::RepoSettings;
use crate::domain::action::Outcome;
use crate::domain::git::{Commit, RefName};
use crate::system::access;
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
    /// What of it, and why.
    pub facts: Facts,
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
    let Question { repository, reference, facts, target } = question;
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

    ensure!(!facts.remote.contains(char::is_control), "the worker names no remote");

    let mut env = environment(&repo.settings, &user)?;
    env.extend(facts.told(here, repository));
    env.push(("AGENT_TARGET".into(), target.into()));
    env.push(("AGENT_REF".into(), reference.into()));
    let argv = publish.after.iter().map(OsString::from).collect();
    // Not in the target: what lies there is in the hands of somebody with fewer rights.
    let user = (user.uid != here.node.user.uid).then_some(user.name);
    let script = Script { argv, folder: "/".into(), env, user };
    let report = process::report_file()?;
    let ended = script.stage(&report)?.go(scripts::deadline(repo.settings.timeout), || {})?;
    let said = process::reported(report, MOST_SAID).unwrap_or_default();
    Ok(Answer { outcome: scripts::outcome_of(ended), said })
}

/// What is in it whatever the worker says. A file that somebody else than root can change must not say
/// what a program of root's finds in its environment.
fn environment(settings: &RepoSettings, user: &User) -> Result<Vec<(OsString, OsString)>> {
    if let Some(file) = &settings.env_file
        && let Some(part) = access::replaceable_by_others(file, 0)?
    {
        bail!(
            "after_user = \"{}\" would run with what others than root can write: env_file {}, by \
             {}\nhint: chown root {1} and what is above it, and let nobody else write there",
            user.name,
            file.display(),
            part.display()
        );
    }
    scripts::standing_environment_of(user, settings)
}
