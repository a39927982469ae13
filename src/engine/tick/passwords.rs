//! Keeps what the programs of `password_command` print until its time is over: run by the agent's own user, once for
//! each program and server, before anything is polled. A password that a server refused is dropped, so that the next
//! poll has another one. Does not know how a password is sent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};

use super::evaluation::RepoReport;
use crate::config::RepoSettings;
use crate::domain::password_cache::FAILED_PASSWORD;
use crate::domain::remote::Backoff;
use crate::domain::repository::status::MachineStatus;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::{RepoEntry, safe_paths};
use crate::engine::error::reason;
use crate::engine::request::TickOptions;
use crate::system::agent_state::AgentState;
use crate::system::process::{WaitOutcome, run_with_input};
use crate::system::{files, host};

/// The time limit of a program.
const LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for another process that runs the same program.
const PATIENCE: Duration = Duration::from_secs(45);
/// The longest pause after a program that failed, in minutes.
const LONGEST: i64 = 5;
/// The largest password file of ours, in bytes.
const CAP: u64 = 1 << 20;

/// A password that a repository uses for one of its remotes.
#[derive(Clone, Debug)]
pub struct UsedPassword {
    repo: String,
    /// The remote, without credentials.
    remote: String,
    /// The file that keeps it.
    file: PathBuf,
}

/// The passwords that `repos` use, each with the settings of its program.
fn used(repos: &[RepoEntry]) -> impl Iterator<Item = (&RepoSettings, UsedPassword)> {
    repos.iter().filter(|repo| repo.settings.broken.is_none()).flat_map(|repo| {
        let of_url = |file: PathBuf, remote: String| {
            (&repo.settings, UsedPassword { repo: repo.name.clone(), remote, file })
        };
        let urls = repo.settings.urls.iter();
        urls.filter_map(move |url| {
            let file = repo.settings.reach.cached_password(&url.server()?)?;
            Some(of_url(file, url.to_string()))
        })
    })
}

/// Runs the programs whose password `repos` need now and do not have; `options`: the orders of a tick, `None`: all
/// remotes are polled. Returns the passwords that may be used. A program that fails leaves its error for the poll.
pub fn refresh(
    context: &Context,
    repos: &[RepoEntry],
    before: &Option<MachineStatus>,
    options: Option<&TickOptions>,
) -> Vec<UsedPassword> {
    let (mut due, mut all) = (BTreeMap::new(), Vec::new());
    let now = host::now();
    let is_named = options.is_none_or(TickOptions::is_named);
    for (settings, password) in used(repos) {
        let is_asked = options.is_none_or(|options| {
            let named = options.names.is_empty() || options.names.contains(&password.repo);
            named && (options.asks(settings) || !options.follow())
        });
        let pauses = !is_named && refusal(before, &password).is_some_and(|left| left.until > now);
        if settings.policy.active && is_asked && !pauses {
            let shortest: &mut &RepoSettings = due.entry(password.file.clone()).or_insert(settings);
            if settings.password_ttl < shortest.password_ttl {
                *shortest = settings;
            }
        }
        all.push(password);
    }
    due.retain(|file, settings| !is_fresh(file, settings.password_ttl, now));
    due.retain(|file, _| is_named || may_run(file, now));
    thread::scope(|scope| {
        for (file, settings) in due {
            scope.spawn(move || {
                if let Err(error) = run(context, &file, settings, is_named) {
                    let error = format!("{error:#}").escape_controls();
                    tracing::warn!("no password of password_command can be kept: {error}");
                }
            });
        }
    });
    all
}

/// Drops each password of `used` that its server refused since the status `before`.
pub fn drop_refused(used: &[UsedPassword], before: &Option<MachineStatus>, reports: &[RepoReport]) {
    for password in used {
        let row = reports.iter().find(|it| it.name == password.repo).map(|it| &it.row);
        let left = row.and_then(|row| row.left_alone.get(&password.remote));
        let left = left.filter(|left| left.credentials.is_some());
        let is_news = left.is_some_and(|left| {
            refusal(before, password).is_none_or(|known| known.until != left.until)
        });
        if is_news && let Some((dir, name)) = place(&password.file) {
            // One that stays is refused again.
            let _ = files::remove_lazily(dir, name);
        }
    }
}

/// The refusal of the password by the status of the last tick.
fn refusal<'a>(before: &'a Option<MachineStatus>, it: &UsedPassword) -> Option<&'a Backoff> {
    let row = before.as_ref()?.repositories.iter().find(|row| row.name == it.repo)?;
    row.left_alone.get(&it.remote).filter(|left| left.credentials.is_some())
}

/// Whether the password in `file` may still be used. One from the future was written under another clock.
fn is_fresh(file: &Path, ttl: Duration, now: DateTime<Utc>) -> bool {
    let ttl = TimeDelta::from_std(ttl).unwrap_or(TimeDelta::MAX);
    written(file).is_some_and(|at| at <= now && now - at < ttl)
}

fn written(file: &Path) -> Option<DateTime<Utc>> {
    fs::symlink_metadata(file).ok()?.modified().ok().map(DateTime::from)
}

/// Whether the pause after the last failure is over.
fn may_run(file: &Path, now: DateTime<Utc>) -> bool {
    let failed = failed_file(file);
    let Some(at) = written(&failed) else { return true };
    let doublings = failures(&failed).saturating_sub(1).min(8);
    let pause = TimeDelta::minutes((1 << doublings).min(LONGEST));
    at > now || now - at >= pause
}

/// How often the program failed in a row: the first line of the file of its failure.
fn failures(failed: &Path) -> u32 {
    let text = files::read_private(failed, CAP).unwrap_or_default();
    text.lines().next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn failed_file(file: &Path) -> PathBuf {
    file.with_extension(FAILED_PASSWORD)
}

fn place(file: &Path) -> Option<(&Path, &str)> {
    Some((file.parent()?, file.file_name()?.to_str()?))
}

/// Runs the program, and keeps what it prints or why it failed.
fn run(context: &Context, file: &Path, settings: &RepoSettings, is_named: bool) -> Result<()> {
    let Some((dir, name)) = place(file) else { bail!("{} is no file", file.display()) };
    files::ensure_dir(dir, 0o700)?;
    safe_paths::own_directory(context, dir)?;
    let lock = AgentState::at(dir).lock_within(&format!("{name}.lock"), PATIENCE)?;
    ensure!(lock.is_some(), "another process runs the same program for too long");
    let now = host::now();
    if is_fresh(file, settings.password_ttl, now) || !(is_named || may_run(file, now)) {
        return Ok(());
    }
    let failed = failed_file(file);
    let failed_name = place(&failed).map(|(_, name)| name).unwrap_or_default();
    match ask(context, &settings.password_command) {
        Ok(password) => {
            files::put_lazily(dir, name, format!("{password}\n").as_bytes(), 0o600)?;
            files::remove_lazily(dir, failed_name)
        }
        Err(error) => {
            let text = format!("{}\n{}\n", failures(&failed) + 1, reason(&error));
            files::remove_lazily(dir, name)?;
            files::put_lazily(dir, failed_name, text.as_bytes(), 0o600)
        }
    }
}

/// The first line that the program prints. Nothing else of it is shown: it may hold secrets.
fn ask(context: &Context, argv: &[String]) -> Result<String> {
    if let Some(fault) = safe_paths::own_program_fault(context, "password_command", argv) {
        return Err(fault);
    }
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let ended = run_with_input(&words, b"", LIMIT)?;
    let program = words.first().map_or_else(String::new, |program| program.escape_controls());
    let hint = format!("hint: run it by hand as {}, with its arguments", context.node.user.name);
    match ended.ended {
        WaitOutcome::Exited(0) => {}
        WaitOutcome::Exited(code) => bail!("{program} exited {code}\n{hint}"),
        WaitOutcome::Signalled(signal) => bail!("{program} was ended by signal {signal}\n{hint}"),
        WaitOutcome::TimedOut => {
            bail!("{program} took longer than {} s and was ended\n{hint}", LIMIT.as_secs())
        }
    }
    let text = String::from_utf8(ended.output).ok();
    let line = text.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
    if line.is_empty() || line.chars().any(char::is_control) {
        bail!("the first line that {program} prints is no password\n{hint}");
    }
    Ok(line.to_owned())
}
