//! The program: parse, start the log, run, exit code.

use std::io::IsTerminal;
use std::panic::catch_unwind;
use std::process::ExitCode;

use anyhow::Result;
use pmpy::cli::{Cli, Command, LogFormat};
use pmpy::exit::{self, Code};
use pmpy::usage::{self, Stop};
use pmpy::{cmd, system};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    exit::on_panic();
    let cli = match usage::parse(&system::node::command_line()) {
        Ok(cli) => cli,
        Err(Stop::Help(error)) => error.exit(),
        Err(Stop::Wrong(usage)) => return exit::report(&usage.into()).into(),
    };
    match catch_unwind(|| start(&cli)) {
        Err(_) => Code::Bug.into(),
        Ok(Ok(code)) => code.into(),
        Ok(Err(error)) => exit::report(&system::files::Fault::explained(error)).into(),
    }
}

fn start(cli: &Cli) -> Result<Code> {
    // Before anything is opened, started or let go of.
    system::ffi::keep_what_is_open_to_ourselves()?;
    system::process::usual_umask();
    // The far side of the gate is on its way to being somebody else's program.
    if let Command::Stage(stage) = &cli.command {
        return cmd::worker::stage(stage);
    }
    // Before there is a second thread, and before anything is read.
    if let Command::Helper(helper) = &cli.command {
        cmd::helper::become_user(&helper.user)?;
    }
    system::ffi::set_up_libgit2()?;
    start_log(cli);
    cmd::run(cli)
}

/// The log of what is done: with `-v`, for people who watch, and of an agent that stays up. Cron mails
/// whatever is printed, so it hears nothing of it.
fn start_log(cli: &Cli) {
    let global = &cli.global;
    let stays = matches!(cli.command, Command::Listen);
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::OFF,
        (_, true) => LevelFilter::DEBUG,
        _ if stays || std::io::stderr().is_terminal() => LevelFilter::INFO,
        _ => LevelFilter::OFF,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    match global.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => {
            // Colours where they belong; the subscriber honours NO_COLOR itself.
            log.without_time().with_ansi(std::io::stderr().is_terminal()).compact().init();
        }
    }
}
