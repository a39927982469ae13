//! One file per command: settings in, text or JSON out. The only part that prints.

use anyhow::{Context, Error, Result, bail};

use crate::cli::{Cli, Command, Global};
use crate::config::{self, Settings, Source, Sources, World};
use crate::engine::Here;
use crate::exit::{self, Code};
use crate::system::files::Fault;
use crate::system::node::{self, Node};

pub mod check;
pub mod completions;
pub mod demo;
pub mod explain;
pub mod helper;
pub mod history;
pub mod init;
pub mod listen;
pub mod log;
pub mod man;
pub mod notify;
pub mod schedule;
pub mod show;
pub mod status;
pub mod steer;
pub mod tick;
pub mod worker;

/// Runs the command that was typed.
///
/// # Errors
/// What a person has to know; the exit code follows from it.
pub fn run(cli: &Cli) -> Result<Code> {
    let global = &cli.global;
    match &cli.command {
        Command::Init(args) => init::run(global, args),
        Command::Check(args) => check::run(global, args),
        Command::Notify(args) => notify::run(global, args),
        Command::Listen => listen::run(global),
        Command::Demo => demo::run(),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Stage(args) => worker::stage(args),
        Command::Helper(args) => helper::run(args),
        command => match (here(global), command) {
            (Ok(here), command) => within(&here, global, command),
            (Err(error), Command::Status(args)) if is_closed(&error) => {
                status::from_outside(error, &World::of(&sources(global))?, global, args)
            }
            // Monitoring reads stdout and a code of its own.
            (Err(error), Command::Status(args)) if args.form.nagios => status::unknown(&error),
            // What calls the agent can be taken away whatever is wrong with its configuration.
            (Err(_), Command::Schedule(args)) if schedule::way(args.how).is_none() => {
                schedule::run(&bare(global)?, args)
            }
            (Err(error), _) => Err(error),
        },
    }
}

/// Runs a command that is about repositories.
fn within(here: &Here, global: &Global, command: &Command) -> Result<Code> {
    match command {
        Command::Tick(args) => tick::run(here, global, args),
        Command::Status(args) => status::run(here, global, args),
        Command::Explain(args) => explain::run(here, args),
        Command::History(args) => history::run(here, args),
        Command::Log(args) => log::run(here, args),
        Command::Schedule(args) => schedule::run(here, args),
        Command::Redo(args) => steer::redo(here, global, args),
        Command::Rollback(args) => steer::rollback(here, global, args),
        Command::Checkout(args) => steer::checkout(here, global, args),
        Command::Hold(args) => steer::hold(here, args),
        Command::Unhold(args) => steer::unhold(here, args),
        Command::Accept(args) => steer::accept(here, global, args),
        Command::Worker(args) => worker::run(here, args),
        _ => bail!("this command is nobody's to delegate"),
    }
}

/// Whether the configuration is not for this user to read.
fn is_closed(error: &Error) -> bool {
    let denied = |cause: &config::Error| cause.is_denied();
    error.chain().filter_map(|cause| cause.downcast_ref()).any(denied)
}

/// Tells an error that stops nothing else; the code that the command ends with at best.
fn tell(error: Error) -> Code {
    exit::report(&Fault::explained(error))
}

/// Where to look, from the command line, the environment and passwd.
fn sources(global: &Global) -> Sources {
    let user = node::User::current();
    Sources {
        config: global.config.clone(),
        root: global.root.clone(),
        home: Some(node::home().unwrap_or(user.home)),
        is_root: user.uid == 0,
    }
}

/// Reads the settings and who we are.
///
/// # Errors
/// When the configuration or the node information cannot be used.
pub fn here(global: &Global) -> Result<Here> {
    let settings = settings(global)?;
    Here::new(settings, Node::here()).context("the node information cannot be used")
}

/// Who we are, with the settings that hold where nothing is configured.
fn bare(global: &Global) -> Result<Here, config::Error> {
    let settings = Settings::parse(World::of(&sources(global))?, &Source::default())?;
    Ok(Here::bare(settings, Node::here()))
}

/// Reads the settings of the world that the command line and the environment name.
fn settings(global: &Global) -> Result<Settings, config::Error> {
    let sources = sources(global);
    // A script of ours has AGENT_ROOT in its environment, which names the root that it belongs to
    // and asks for no other world.
    if node::within_an_action() && sources.root.is_some() {
        let usual = Settings::load(&Sources { root: None, ..sources.clone() });
        if let Ok(usual) = usual
            && Some(&usual.world.root) == sources.root.as_ref()
        {
            return Ok(usual);
        }
    }
    Settings::load(&sources)
}
