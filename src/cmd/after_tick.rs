//! What the configuration asks for after a tick: programs that report changes and actions, and the metrics file.
//! Decides nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use chrono::{DateTime, Utc};

use crate::cli::GlobalArgs;
use crate::cmd::format;
use crate::config::{ConfigError, Settings};
use crate::domain::report::metrics;
use crate::domain::repository::action::FinishedRun;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{MachineStatus, StatusRow};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths;
use crate::engine::error::one_line;
use crate::engine::machine::presence::{self, PresenceNews, PresencePublisher, reaction};
use crate::engine::operator::action_reports;
use crate::engine::tick::{self, TickReport};
use crate::exit;
use crate::system::agent_state::AgentState;
use crate::system::files::{self, DiskFault};
use crate::system::{process, syslog};

/// The time limit of a program that reports.
const LIMIT: Duration = Duration::from_secs(60);

/// Does what the configuration asks for after a tick: runs the programs of `on_change` and `on_action`, and writes
/// the metrics file; and lets `publisher` publish the status. None of it fails the tick. Returns the errors that were
/// not reported before.
pub fn carry_out(context: &Context, done: &TickReport, publisher: PresencePublisher) -> Vec<Error> {
    // Changes first: they are reported once, and the next tick no longer knows them.
    let mut troubles = ReportTroubles { context, at: done.status.at, all: Vec::new() };
    let argv = &context.settings.on_change;
    if !argv.is_empty() && !done.changes.is_empty() && troubles.is_safe("on_change", argv) {
        for (row, was) in &done.changes {
            troubles.note(on_change(context, row, *was));
        }
    }
    // Before the actions are reported: their programs may take a while.
    let PresenceNews { report, trouble } = presence::after_tick(context, &done.status, publisher);
    let metrics = match &context.settings.metrics_file {
        // The publications are no part of what a tick says of its repositories.
        Some(_) if report.is_some() => {
            put_metrics(context, &MachineStatus { presence: report, ..done.status.clone() })
        }
        _ => put_metrics(context, &done.status),
    };
    let reported = action_reports::tell(context, done, &mut |repo, run| {
        let argv = context.settings.on_action(repo);
        if troubles.is_safe("on_action", argv) {
            troubles.note(on_action(context, argv, repo, run));
        }
    });
    if let Err(error) = reported {
        let machine = AgentState::at(&context.settings.world.state);
        if machine.is_news("actions.trouble", Some(&one_line(&error)), done.status.at) {
            troubles.all.push(error);
        }
    }
    troubles.all.extend(metrics.err());
    troubles.all.extend(trouble);
    troubles.all.extend(reaction::react(context, publisher));
    troubles.all
}

/// The errors of the programs that report, each once.
struct ReportTroubles<'a> {
    context: &'a Context,
    at: DateTime<Utc>,
    all: Vec<Error>,
}

impl ReportTroubles<'_> {
    /// Whether no other user can exchange the program of `key`. Why not is reported once a day.
    fn is_safe(&mut self, key: &str, argv: &[String]) -> bool {
        let Some(error) = safe_paths::own_program_fault(self.context, key, argv) else {
            return true;
        };
        let machine = AgentState::at(&self.context.settings.world.state);
        if machine.is_news(&format!("{key}.trouble"), Some(&one_line(&error)), self.at) {
            syslog::send(syslog::SyslogLevel::Warning, &one_line(&error));
            self.all.push(error);
        }
        false
    }

    fn note(&mut self, ended: Result<()>) {
        let Err(error) = ended else { return };
        if !self.all.iter().any(|known| known.to_string() == error.to_string()) {
            syslog::send(syslog::SyslogLevel::Warning, &one_line(&error));
            self.all.push(error);
        }
    }
}

/// Runs the program of `on_change` for one change.
fn on_change(context: &Context, row: &StatusRow, was: Option<State>) -> Result<()> {
    let env = [
        ("AGENT_REPO", row.name.clone()),
        ("AGENT_STATE", row.state.to_string()),
        ("AGENT_WAS", was.map_or_else(String::new, |was| was.to_string())),
        ("AGENT_REASON", row.reason.clone().unwrap_or_default()),
    ];
    report_by("on_change", &context.settings.on_change, &env)
}

/// Runs the program of `on_action` for one ended action.
fn on_action(context: &Context, argv: &[String], repo: &str, run: &FinishedRun) -> Result<()> {
    let env = [
        ("AGENT_REPO", repo.to_owned()),
        ("AGENT_REVISION", run.revision.to_string()),
        ("AGENT_PREVIOUS", run.previous.map_or_else(String::new, |it| it.to_string())),
        // It is a stranger's text: without control characters it stays one line.
        ("AGENT_SUBJECT", run.subject.escape_controls()),
        ("AGENT_OUTCOME", run.outcome.word().to_owned()),
        ("AGENT_SECONDS", format!("{:.1}", run.seconds)),
        ("AGENT_TRIGGER", run.trigger.to_string()),
        ("AGENT_HOST", context.node.host.clone()),
    ];
    report_by("on_action", argv, &env)
}

/// Runs a program of the configuration that reports something.
fn report_by(key: &str, argv: &[String], env: &[(&str, String)]) -> Result<()> {
    let end = match process::run(argv, env, LIMIT) {
        Ok(process::WaitOutcome::Exited(0)) => return Ok(()),
        Ok(process::WaitOutcome::Exited(code)) => format!("exited {code}"),
        Ok(process::WaitOutcome::Signalled(signal)) => format!("was ended by signal {signal}"),
        Ok(process::WaitOutcome::TimedOut) => {
            format!("took longer than {} s and was ended", LIMIT.as_secs())
        }
        Err(error) => {
            return Err(error.context(format!(
                "the command of {key} did not start, so its event was not reported\n\
                 hint: agent check"
            )));
        }
    };
    let program = argv.first().map_or_else(String::new, |program| format::escaped(program));
    let shown = |(name, value): &(&str, String)| format!("{name}={}", format::escaped(value));
    let shown: Vec<_> = env.iter().take(2).map(shown).collect();
    Err(anyhow!(
        "the command of {key} failed: {program} {end}\nhint: run it by hand with {} set",
        shown.join(" and ")
    ))
}

/// Says in the status file and in the metrics that no tick runs because of `error`, if that is the
/// configuration.
pub fn note_unusable(global: &GlobalArgs, error: &Error) {
    let Some(wrong) = error.chain().find_map(|cause| cause.downcast_ref::<ConfigError>()) else {
        return;
    };
    let noted = super::bare(global).map_err(Error::new).and_then(|mut context| {
        let Some(status) = tick::note_unusable(&context, wrong)? else { return Ok(()) };
        let mut settings = Settings::clone(&context.settings);
        settings.metrics_file = wrong.metrics_file().map(Path::to_owned);
        context.settings = settings.into();
        put_metrics(&context, &status)
    });
    if let Err(trouble) = noted {
        exit::report(&trouble.context("the status does not say that the configuration is wrong"));
    }
}

/// Writes the metrics file, if configured.
///
/// # Errors
/// When it cannot be written; once a day for each reason.
fn put_metrics(context: &Context, status: &MachineStatus) -> Result<()> {
    let Some(path) = &context.settings.metrics_file else { return Ok(()) };
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Without fsync: the next tick writes the file anew.
    let written = safe_paths::shared_directory(context, dir)
        .and_then(|real| files::put_lazily(&real, &name, metrics::text(status).as_bytes(), 0o644));
    let written = written.map_err(|error| {
        let (shown, us) = (format::escaped(&dir.display().to_string()), &context.node.user.name);
        let hint = match DiskFault::of(&error) {
            Some(fault) => fault.remedy().to_owned(),
            None if dir.is_dir() => format!("let {us} write in {shown}"),
            None => format!("make the directory: mkdir -p {shown}; or correct metrics_file"),
        };
        error.context(format!("the metrics are not written\nhint: {hint}"))
    });
    let trouble = written.as_ref().err().map(one_line);
    let machine = AgentState::at(&context.settings.world.state);
    match machine.is_news("metrics.trouble", trouble.as_deref(), status.at) {
        true => written,
        false => Ok(()),
    }
}
