//! The hidden command of whoever works as another user for root, and how the commands of people reach
//! the repositories of others.

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::Parser as _;

use super::show;
use crate::cli::{self, Cli};
use crate::engine::delegate::{self, Sorted};
use crate::engine::roster::Repo;
use crate::engine::{Here, roster};
use crate::exit::Code;
use crate::system::node::{self, User};
use crate::system::privilege;

/// Becomes the user of this name; first of all.
///
/// # Errors
/// When there is none, or we cannot.
pub fn become_user(name: &str) -> Result<()> {
    let user = User::named(name)
        .with_context(|| format!("there is no user \"{}\"", name.escape_debug()))?;
    privilege::become_user(&user)
}

/// Does what root asks for, with what it handed over.
///
/// # Errors
/// As the command.
pub fn run(args: &cli::Helper) -> Result<Code> {
    let (here, errand) = delegate::unpack()?;
    let program = OsString::from("agent");
    let asked = Cli::try_parse_from(std::iter::once(&program).chain(&args.arguments))?;
    match &asked.command {
        cli::Command::Errand => {
            show::print(&delegate::run(&here, &errand)?)?;
            Ok(Code::Fine)
        }
        command => super::within(&here, &asked.global, command),
    }
}

/// The repositories with these names (all when there are none) that are ours. Where some are those of
/// others, this very command line was carried out for them by their helpers first; the code is the
/// worst of theirs.
///
/// # Errors
/// When a name is not known, nobody can work on one of them, or no helper can be started.
pub fn ours(here: &Here, names: &[String]) -> Result<(Vec<Repo>, Code)> {
    let Sorted { ours, theirs, nobodys } = delegate::sort(here, roster::named(here, names)?);
    if let Some((repo, why)) = nobodys.into_iter().next() {
        anyhow::bail!("{}: {why}", repo.name);
    }
    let mut code = Code::Fine;
    for (user, repos) in &theirs {
        let ended = delegate::command(here, user, repos, &node::arguments())?;
        code = code.max(Code::of(ended));
    }
    Ok((ours, code))
}
