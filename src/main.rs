//! The program: parses the command line, starts the log, runs the command, exits. Knows no command.

use std::io::IsTerminal;
use std::panic::catch_unwind;
use std::process::ExitCode;

use anyhow::Result;
use pmpy::cli::{Cli, Command, LogFormat};
use pmpy::exit::{self, ExitStatus};
use pmpy::usage::{self, EarlyExit};
use pmpy::{cmd, system};
use tracing::level_filters::LevelFilter;

/// Starts the agent; tests start it by this function as well.
pub fn main() -> ExitCode {
    exit::on_panic();
    let cli = match usage::parse(&system::host::command_line()) {
        Ok(cli) => cli,
        Err(EarlyExit::Help(error)) => error.exit(),
        Err(EarlyExit::Wrong(usage)) => return exit::report(&usage.into()).into(),
    };
    match catch_unwind(|| start(&cli)) {
        Err(_) => ExitStatus::Bug.into(),
        Ok(Ok(code)) => code.into(),
        Ok(Err(error)) => exit::report(&system::files::DiskFault::explained(error)).into(),
    }
}

fn start(cli: &Cli) -> Result<ExitStatus> {
    // Before anything opens a file, starts a process or waits for one.
    system::ffi::keep_what_is_open_to_ourselves()?;
    system::ffi::keep_how_children_end()?;
    system::ffi::share_one_heap();
    system::process::usual_umask();
    // Changing the user must come before a second thread, and before anything is read.
    if let Command::Helper(helper) = &cli.command {
        cmd::helper::begin(helper)?;
    }
    // A received pack is synced by the process that moves it into the store.
    system::ffi::set_up_libgit2(!matches!(cli.command, Command::IndexPack(_)))?;
    start_log(cli);
    cmd::run(cli)
}

/// Starts the log: for `-v`, for `--log-format json`, and for `agent listen`. Cron mails all output, so a tick under
/// cron has no log; on a terminal a person reads results.
fn start_log(cli: &Cli) {
    let global = &cli.global;
    let stays = matches!(cli.command, Command::Listen);
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::OFF,
        (_, true) => LevelFilter::DEBUG,
        _ if stays || global.log_format == LogFormat::Json => LevelFilter::INFO,
        _ => LevelFilter::OFF,
    };
    if level == LevelFilter::OFF {
        return;
    }
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    match global.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => {
            // Colours only on a terminal; the subscriber honours NO_COLOR itself.
            log.without_time().with_ansi(std::io::stderr().is_terminal()).compact().init();
        }
    }
}
