//! `after` as another user than that of the repository, whose worker cannot become that user: root's
//! tick runs it for the worker. The command comes from root's own configuration; the worker only names
//! the repository, ref, revision and target. The worker could send anything, so nothing from it becomes
//! more than the text of a variable: neither a file that it could change (`AGENT_CHANGED`, or a working
//! directory) nor a variable's name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::config::RepoSettings;
use crate::domain::git::{Commit, RefName};
use crate::domain::repository::action::Outcome;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::discovery::safe_paths::{self, SafePaths};
use crate::engine::error::one_line;
use crate::engine::run::scripts::{self, ActionEnv};
use crate::system::process::{self, ScriptCommand};
use crate::system::users::User;

/// The limit of the output that is kept, in bytes.
const MOST_SAID: u64 = 256 << 10;

/// A worker's request to run `after`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AfterHookRequest {
    /// The name of the repository.
    pub repository: String,
    /// The full name of the ref that is shown, or its revision.
    pub reference: String,
    /// The revision, attempt and trigger, for the variables.
    pub facts: ActionEnv,
    /// The path at which the ref is shown.
    pub target: PathBuf,
}

/// The result of `after`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AfterHookReply {
    /// The outcome.
    pub outcome: Outcome,
    /// The output.
    pub said: String,
}

/// Whether a worker of one of `repos` may send a request.
pub fn is_needed(repos: &[RepoEntry]) -> bool {
    repos.iter().any(|repo| repo.settings.publish.after_user.is_some())
}

/// Runs the `after` of one of `repos` as its `after_user`, and reports the result.
pub fn answer(
    context: &Context,
    repos: &[RepoEntry],
    question: &AfterHookRequest,
) -> AfterHookReply {
    run(context, repos, question).unwrap_or_else(|error| {
        let reason = format!("after: {}", one_line(&error));
        AfterHookReply { outcome: Outcome::Hindered { reason }, said: String::new() }
    })
}

fn run(
    context: &Context,
    repos: &[RepoEntry],
    question: &AfterHookRequest,
) -> Result<AfterHookReply> {
    let AfterHookRequest { repository, reference, facts, target } = question;
    let repo = repos.iter().find(|repo| repo.name == *repository);
    let repo = repo.context("the worker asks for a repository that is not its own")?;
    let publish = &repo.settings.publish;
    let name = publish.after_user.as_ref().context("no after_user is configured")?;
    let user = User::named(name)?.with_context(|| {
        format!("there is no user \"{}\" on this machine", name.escape_controls())
    })?;
    let short = ["refs/heads/", "refs/tags/"].iter().find_map(|at| reference.strip_prefix(at));
    let is_ref = short.is_some_and(|short| short.parse::<RefName>().is_ok());
    ensure!(is_ref || reference.parse::<Commit>().is_ok(), "the worker names no ref");
    let dir = repo.settings.target().context("there is no target")?.links_dir;
    ensure!(target.parent() == Some(&dir), "the worker names another target");

    ensure!(!facts.remote.contains(char::is_control), "the worker names no remote");

    let mut env = environment(context, &repo.settings, &user)?;
    env.extend(facts.environment(context, repository));
    env.push(("AGENT_TARGET".into(), target.into()));
    env.push(("AGENT_REF".into(), reference.into()));
    let name = publish.after.first().context("no after is configured")?;
    let program = safe_paths::program(context, name, &env, Path::new("/"), user.uid)?;
    let arguments = publish.after.iter().skip(1).map(OsString::from);
    let argv = std::iter::once(program.into_os_string()).chain(arguments).collect();
    // Not in the target: a user with fewer rights can change its content.
    let user = (user.uid != context.node.user.uid).then_some(user);
    let script = ScriptCommand { argv, working_dir: "/".into(), id: None, env, user };
    let report = process::report_file()?;
    let ended =
        script.spawn_gated(&report)?.release(scripts::deadline(repo.settings.timeout), || {})?;
    let said = process::reported(report, MOST_SAID).unwrap_or_default();
    Ok(AfterHookReply { outcome: scripts::outcome_of(ended), said })
}

/// The variables that do not depend on the worker. `env_file` must be safe for root: a file that another
/// user can change must not decide the environment of a program with root's configuration.
fn environment(
    context: &Context,
    settings: &RepoSettings,
    user: &User,
) -> Result<Vec<(OsString, OsString)>> {
    if let Some(file) = &settings.env_file {
        SafePaths::new(context).require(file, 0).with_context(|| {
            format!(
                "after_user = \"{}\" would run with what others than root can write: env_file {}",
                user.name,
                file.display()
            )
        })?;
    }
    scripts::standing_environment_of(user, settings)
}
