//! The hidden commands of workers: `worker` works on one repository and may run longer than its tick,
//! and two more handle packs. Decides nothing.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli;
use crate::cmd::format;
use crate::domain::git::ObjectId;
use crate::domain::repository::request::ActionRequest;
use crate::engine::action::failure;
use crate::engine::action::reconcile;
use crate::engine::context::Context;
use crate::engine::discovery;
use crate::engine::error::WorkerError;
use crate::engine::repository::limits;
use crate::engine::request::{LockWait, WorkerCommand, WorkerInput, WorkerJob};
use crate::exit::ExitStatus;
use crate::system::git::index_pack::{self, IndexerEvent};
use crate::system::process;
use crate::system::remote::{FetchProgress, Relay};
use crate::system::watchdog::{self, TimedStep};

/// The time that a fetch takes without a progress bar.
const UNSHOWN: Duration = Duration::from_secs(1);

/// Works on one repository for the tick at the other end of our standard output. `helper` is the context of
/// a worker of another user; any other one gets its settings from the tick.
///
/// # Errors
/// When there is no tick, or the repository is gone.
pub fn run_for_tick(helper: Option<&Context>, log_args: Vec<OsString>) -> Result<ExitStatus> {
    let (line, WorkerInput { repo, path, job, settings }) = process::job()
        .context("this command is for ticks; a person works with: agent tick REPO")?;
    let own = settings.map(|settings| {
        let mut context = Context { log_args, ..Context::handed_over(settings) };
        context.put_path(&repo, path.into());
        context
    });
    let context = own.as_ref().or(helper).context("the tick sent no settings")?;
    context.wire.fetch_over(Relay::over(line));
    work(context, &repo, &job)
}

/// Works on one repository, without a tick.
///
/// # Errors
/// When the repository is not known.
pub fn run(context: &Context, name: &str, args: &cli::WorkerArgs) -> Result<ExitStatus> {
    let command = match args.accept {
        _ if args.redo => WorkerCommand::Redo,
        Some(revision) => WorkerCommand::Accept(revision),
        None => WorkerCommand::Follow,
    };
    let request = ActionRequest { trigger: args.trigger, named: args.named, overrides: false };
    work(context, name, &WorkerJob { request, wait: LockWait::No, command, reason: None })
}

/// Works on one repository. An error that cannot be recorded is printed for the waiting tick.
fn work(context: &Context, name: &str, order: &WorkerJob) -> Result<ExitStatus> {
    // Leaves the session of the terminal and the tick: Ctrl-C ends the waiting, not the action.
    process::leave_session();
    let repo = discovery::one(context, name)?;
    let (ours, given, at) = (context.clone(), order.clone(), repo.clone());
    let end = move |late: TimedStep| {
        let reason = limits::standstill(&at, late);
        failure::give_up(&ours, &at, &given, &reason);
        // The journal stays: the next tick repairs the unfinished work.
        let worker_error = serde_json::to_string(&WorkerError::failing(reason));
        process::print_line(&worker_error.unwrap_or_default(), Duration::ZERO);
        std::process::exit(i32::from(ExitStatus::Attention.number()));
    };
    watchdog::begin(limits::LOOKING, 2 * limits::evaluation_timeout(&repo.settings));
    watchdog::start(end)?;
    // With a log, with `-q`, and where several workers write to the terminal, there is no bar.
    let mut bar = FetchBar::new(std::io::stderr().is_terminal() && context.log_args.is_empty());
    let done = match &context.node.unnamed {
        // A script needs its user's names and home directory; without them nothing runs.
        Some(error) => Err(error.clone().into()),
        None => reconcile::work(context, &repo, order, &mut |progress| bar.show(progress)),
    };
    bar.clear();
    match done {
        Ok(_) => Ok(ExitStatus::Fine),
        Err(error) => {
            format::print(&serde_json::to_string(&WorkerError::of(&error))?)?;
            Ok(ExitStatus::Attention)
        }
    }
}

/// Indexes the pack on standard input; prints the progress and the result for the waiting worker.
///
/// # Errors
/// When the kernel refuses the limits of the process.
pub fn index_pack(args: &cli::IndexPackArgs) -> Result<ExitStatus> {
    index_pack::end_with_parent()?;
    // Without a reader, this process is about to be ended.
    let report = |event: &IndexerEvent| {
        let line = serde_json::to_string(event).unwrap_or_default();
        let _ = format::print(&format!("{line}\n"));
    };
    let input = &mut std::io::stdin().lock();
    match index_pack::index_pack(&args.git_dir, args.largest, input, &report) {
        Ok(()) => {
            report(&IndexerEvent::Done);
            Ok(ExitStatus::Fine)
        }
        Err(error) => {
            report(&IndexerEvent::failed(&error));
            Ok(ExitStatus::Attention)
        }
    }
}

/// Writes a pack with all objects that the ids on standard input need to standard output; an error goes to
/// standard error as one sentence.
///
/// # Errors
/// When an id is invalid, or the kernel refuses the limits of the process.
pub fn pack_objects(args: &cli::PackObjectsArgs) -> Result<ExitStatus> {
    index_pack::end_with_parent()?;
    let ids: Result<Vec<ObjectId>> =
        std::io::stdin().lines().map(|line| Ok(line?.parse()?)).collect();
    let output = &mut std::io::stdout().lock();
    match index_pack::pack_objects(&args.from, &args.into, &ids?, output) {
        Ok(()) => Ok(ExitStatus::Fine),
        Err(error) => {
            eprintln!("{}", index_pack::one_line(&error));
            Ok(ExitStatus::Attention)
        }
    }
}

/// A progress bar for a fetch that takes longer than [`UNSHOWN`], shown only to a person on a terminal.
struct FetchBar {
    watched: bool,
    since: Option<Instant>,
    shown: Option<ProgressBar>,
}

impl FetchBar {
    fn new(watched: bool) -> Self {
        Self { watched, since: None, shown: None }
    }

    fn show(&mut self, progress: FetchProgress) {
        let FetchProgress::Received { received, total, bytes } = progress else {
            return self.clear();
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.watched || since.elapsed() < UNSHOWN {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let style = "{bar:40} {pos}/{len} objects, {msg}";
            ProgressBar::new(0).with_style(
                ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()),
            )
        });
        bar.set_length(total as u64);
        bar.set_position(received as u64);
        bar.set_message(indicatif::HumanBytes(bytes as u64).to_string());
    }

    /// The terminal belongs to the output of the scripts afterwards.
    fn clear(&mut self) {
        self.since = None;
        if let Some(bar) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
