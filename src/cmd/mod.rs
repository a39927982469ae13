//! The commands, one file each: settings in, text or JSON out. No other part prints. Decides nothing.

use std::ffi::OsString;

use anyhow::{Context as _, Error, Result, bail};

use crate::cli::{Cli, Command, GlobalArgs, LogFormat, ScheduleKind, WorkerArgs};
use crate::config::{self, AgentDirs, ConfigLocations, ConfigTexts, Settings};
use crate::domain::repository::names;
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths;
use crate::engine::machine::presence::{self, reaction};
use crate::exit::{self, ExitStatus};
use crate::system::files::DiskFault;
use crate::system::host::{self, Host};
use crate::system::users::User;

pub mod after_tick;
pub mod check;
pub mod completions;
pub mod confirm;
pub mod demo;
pub mod diff;
pub mod explain;
pub mod fleet;
pub mod forget;
pub mod format;
pub mod helper;
pub mod history;
pub mod init;
pub mod listen;
pub mod log;
pub mod man;
pub mod notify;
pub mod operator;
pub mod schedule;
pub mod status;
pub mod stream;
pub mod tick;
pub mod worker;

/// Runs the command of the command line.
///
/// # Errors
/// When the command fails; the exit code follows from the error.
pub fn run(cli: &Cli) -> Result<ExitStatus> {
    let global = &cli.global;
    match &cli.command {
        Command::Init(args) => init::run(global, args),
        Command::Check(args) => check::run(global, args),
        Command::Notify(args) => notify::run(global, args),
        Command::Listen => listen::run(global),
        Command::Demo => demo::run(),
        Command::Completions(args) => completions::run(global, args),
        Command::Man(args) => man::run(args),
        Command::IndexPack(args) => worker::index_pack(args),
        Command::PackObjects(args) => worker::pack_objects(args),
        Command::PublishPresence => presence::publish_handed_over().map(|()| ExitStatus::Fine),
        Command::ReactToPresence => reaction::react_handed_over().map(|()| ExitStatus::Fine),
        Command::Helper(args) => helper::run(global, args),
        Command::Worker(WorkerArgs { repo: None, .. }) => {
            worker::run_for_tick(None, log_args(global))
        }
        command => match (context(global), command) {
            (Ok(context), command) => {
                let ended = within(&context, global, command);
                with_faults(&context, command, ended)
            }
            (Err(error), Command::Tick(args)) => {
                if !args.dry_run {
                    after_tick::note_unusable(global, &error);
                }
                Err(error)
            }
            (Err(error), Command::Status(args)) if is_closed(&error) => {
                status::from_outside(error, &AgentDirs::of(&sources(global))?, global, args)
            }
            // Monitoring reads stdout and a code of its own.
            (Err(error), Command::Status(args)) if args.form.nagios => status::unknown(&error),
            // The fleet can be seen from a machine whose own configuration is wrong or not readable.
            (Err(_), Command::Fleet(args)) if args.url().is_some() => {
                fleet::run(&bare(global)?, args, global.verbose)
            }
            // Ticks can be switched off even when the configuration is wrong.
            (Err(_), Command::Schedule(args)) if args.how == Some(ScheduleKind::None) => {
                schedule::run(&bare(global)?, args)
            }
            (Err(error), _) => Err(error),
        },
    }
}

/// Runs a command that needs the repositories.
fn within(context: &Context, global: &GlobalArgs, command: &Command) -> Result<ExitStatus> {
    match command {
        Command::Tick(args) => tick::run(context, global, args),
        Command::Status(args) => status::run(context, global, args),
        Command::Explain(args) => explain::run(context, args),
        Command::Diff(args) => diff::run(context, args),
        Command::Fleet(args) => fleet::run(context, args, global.verbose),
        Command::History(args) => history::run(context, args),
        Command::Log(args) => log::run(context, args),
        Command::Schedule(args) => schedule::run(context, args),
        Command::Redo(args) => operator::redo(context, global, args),
        Command::Rollback(args) => operator::rollback(context, global, args),
        Command::Checkout(args) => operator::checkout(context, global, args),
        Command::Hold(args) => operator::hold(context, args),
        Command::Unhold(args) => operator::unhold(context, args),
        Command::Accept(args) => operator::accept(context, global, args),
        Command::Forget(args) => forget::run(context, args),
        Command::Worker(args) => match &args.repo {
            Some(name) => worker::run(context, name, args),
            None => worker::run_for_tick(Some(context), log_args(global)),
        },
        _ => bail!("this command is never delegated"),
    }
}

/// The end of a command on a machine where entries of repositories are wrong: exit code 2, unless the command
/// names only others.
fn with_faults(
    context: &Context,
    command: &Command,
    ended: Result<ExitStatus>,
) -> Result<ExitStatus> {
    let names = named(command);
    let is_named = |name: &str| {
        // A pattern selects what it matches.
        names.iter().any(|given| names::selected(&[(*given).to_owned()], &[name]).is_ok())
    };
    let faults = context.settings.faults.iter();
    let mut concerned = faults.filter(|(name, _)| names.is_empty() || is_named(name)).peekable();
    if concerned.peek().is_none() || matches!(command, Command::Schedule(_) | Command::Worker(_)) {
        return ended;
    }
    match ended {
        Err(error) => Ok(print_error(error).max(ExitStatus::Usage)),
        // Their rows say it.
        Ok(code) if matches!(command, Command::Tick(_) | Command::Status(_)) => {
            Ok(code.max(ExitStatus::Usage))
        }
        Ok(code) => {
            let codes = concerned.map(|(_, error)| print_error(error.clone().into()));
            Ok(codes.fold(code, ExitStatus::max))
        }
    }
}

/// The repositories that a command names; it is about all when there are none.
fn named(command: &Command) -> Vec<&str> {
    match command {
        Command::Tick(args) => args.repos.iter().map(String::as_str).collect(),
        Command::Status(args) => args.repos.iter().map(String::as_str).collect(),
        Command::Explain(args) => vec![&args.repo],
        Command::Diff(args) => vec![&args.repo],
        Command::History(args) => args.repo.iter().map(String::as_str).collect(),
        Command::Log(args) => vec![&args.repo],
        Command::Redo(args) => vec![&args.repo],
        Command::Rollback(args) => vec![&args.repo],
        Command::Checkout(args) => vec![&args.repo],
        Command::Hold(args) => args.repo().into_iter().collect(),
        Command::Unhold(args) => args.repo.iter().map(String::as_str).collect(),
        Command::Accept(args) => vec![&args.repo],
        Command::Forget(args) => vec![&args.repo],
        _ => Vec::new(),
    }
}

/// Whether this user may not read the configuration.
fn is_closed(error: &Error) -> bool {
    let denied = |cause: &config::ConfigError| cause.is_denied();
    error.chain().filter_map(|cause| cause.downcast_ref()).any(denied)
}

/// Prints an error that does not stop the rest; returns the least exit code that the command gets.
fn print_error(error: Error) -> ExitStatus {
    exit::report(&DiskFault::explained(error))
}

/// The locations by the command line, the environment and passwd.
fn sources(global: &GlobalArgs) -> ConfigLocations {
    let user = User::current();
    ConfigLocations {
        config: global.config.clone(),
        root: global.root.clone(),
        home: Some(host::home().unwrap_or(user.home)),
        is_root: user.uid == 0,
    }
}

/// Reads the settings and the facts about this host.
///
/// # Errors
/// When the configuration or the node information cannot be used.
pub fn context(global: &GlobalArgs) -> Result<Context> {
    let settings = settings(global)?;
    let context =
        Context::new(settings, Host::current()).context("the node information cannot be used")?;
    Ok(Context { log_args: log_args(global), ..context })
}

/// The options by which a process that we start logs as we do.
fn log_args(global: &GlobalArgs) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    args.extend(global.quiet.then(|| "--quiet".into()));
    args.extend(global.verbose.then(|| "--verbose".into()));
    args.extend((global.log_format == LogFormat::Json).then(|| "--log-format=json".into()));
    args
}

/// The context with default settings, for an unusable configuration.
fn bare(global: &GlobalArgs) -> Result<Context, config::ConfigError> {
    let settings = Settings::parse(AgentDirs::of(&sources(global))?, &ConfigTexts::default())?;
    Ok(Context::bare(settings, Host::current()))
}

/// Reads the settings by the locations of the command line and the environment.
fn settings(global: &GlobalArgs) -> Result<Settings, config::ConfigError> {
    let sources = sources(global);
    // One of our scripts has AGENT_ROOT in its environment. It is the root of the script's own agent and
    // does not ask for a separate one.
    if host::within_an_action() && sources.root.is_some() {
        let usual = load(&ConfigLocations { root: None, ..sources.clone() });
        if let Ok(usual) = usual
            && Some(&usual.world.root) == sources.root.as_ref()
        {
            return Ok(usual);
        }
    }
    load(&sources)
}

/// Reads the configuration, if no user besides root and our own can have changed it.
fn load(sources: &ConfigLocations) -> Result<Settings, config::ConfigError> {
    safe_paths::configuration(&AgentDirs::of(sources)?)?;
    Settings::load(sources)
}
