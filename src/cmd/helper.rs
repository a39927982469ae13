//! The hidden command of whoever works as another user for root, and how the commands of people reach
//! the repositories of others.

use std::ffi::OsString;

use anyhow::{Context, Result, anyhow};
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
/// worst of theirs. One that nobody can work on is told of, and stops no other.
///
/// # Errors
/// When a name is not known.
pub fn ours(here: &Here, names: &[String]) -> Result<(Vec<Repo>, Code)> {
    let Sorted { ours, theirs, nobodys } = delegate::sort(here, roster::named(here, names)?);
    let mut code = Code::Fine;
    for (repo, why) in nobodys {
        code = code.max(super::tell(anyhow!("{}: {why}", show::escaped(&repo.name))));
    }
    for (user, repos) in &theirs {
        code = code.max(match delegate::command(here, user, repos, &node::arguments()) {
            Ok(ended) => Code::of(ended),
            Err(error) => super::tell(error.context(format!("nothing was done as {}", user.name))),
        });
    }
    Ok((ours, code))
}
