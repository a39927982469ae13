//! The hidden command of helpers, which work as another user for root, and the way by which the commands
//! of people reach the repositories of other users. Does not know how helpers are started.

use std::ffi::OsString;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser as _;

use crate::cli::{self, Cli, GlobalArgs};
use crate::cmd::format;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::{self, RepoEntry};
use crate::engine::error::{self, WorkerError};
use crate::engine::operator::helper_main;
use crate::engine::tick::user_helper::{self, CommandExtent, ReposByUser};
use crate::exit::ExitStatus;
use crate::system::host;
use crate::system::privilege;
use crate::system::users::User;

/// Changes this process to the user of this name; must come before all other work.
///
/// # Errors
/// When the user does not exist, or we may not become it.
pub fn become_user(name: &str) -> Result<()> {
    let user = User::named(name)?
        .with_context(|| format!("there is no user \"{}\"", name.escape_controls()))?;
    privilege::become_user(&user)
}

/// [`become_user`] for a helper: reports a failure to the process that waits for its answer.
///
/// # Errors
/// As for [`become_user`].
pub fn begin(helper: &cli::HelperArgs) -> Result<()> {
    let command = helper.arguments.first();
    let answers = command.is_some_and(|command| command == "helper-request" || command == "worker");
    become_user(&helper.user).inspect_err(|error| {
        if answers && let Ok(text) = serde_json::to_string(&WorkerError::of(error)) {
            // If this is lost, the waiting process still sees an end without an answer.
            let _ = format::print(&text);
        }
    })
}

/// Carries out root's request, with the input that root handed over.
///
/// # Errors
/// When there is no input, or the command fails.
pub fn run(global: &GlobalArgs, args: &cli::HelperArgs) -> Result<ExitStatus> {
    let (context, helper_request) = user_helper::read_helper_input()?;
    let context = Context { log_args: super::log_args(global), ..context };
    let program = OsString::from("agent");
    let asked = Cli::try_parse_from(std::iter::once(&program).chain(&args.arguments))?;
    match &asked.command {
        cli::Command::HelperRequest => {
            helper_main::run(&context, &helper_request)?;
            Ok(ExitStatus::Fine)
        }
        command => super::within(&context, &asked.global, command),
    }
}

/// The repositories with these names (all when there are none) that are our own. Before it returns,
/// helpers carry out the same command line for those of other users; the code is the worst of theirs. A
/// repository without a usable user is reported and does not stop the others.
///
/// # Errors
/// When a name is not known.
pub fn ours(
    context: &Context,
    names: &[String],
    extent: CommandExtent,
) -> Result<(Vec<RepoEntry>, ExitStatus)> {
    let ReposByUser { ours, delegated, unusable, .. } =
        user_helper::sort_by_user(context, discovery::named(context, names)?);
    let mut code = ExitStatus::Fine;
    for (repo, why) in unusable {
        code = code.max(super::print_error(anyhow!(
            "{}: {}",
            format::escaped(&repo.name),
            error::reason(&why)
        )));
    }
    let carry_out = |user: &User, repos: &[RepoEntry]| {
        let ended = user_helper::command(context, user, repos, &host::arguments(), extent);
        ended.with_context(|| format!("nothing was done as {}", user.name))
    };
    for (_, ended) in user_helper::side_by_side(&delegated, carry_out) {
        code = code.max(ended.map_or_else(super::print_error, ExitStatus::of));
    }
    Ok((ours, code))
}
