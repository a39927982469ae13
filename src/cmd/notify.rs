//! `agent notify`, the `post-receive` hook of git servers: announces a push on the message bus. It never
//! fails a push and delays it for at most two seconds: servers without the message poll within a minute
//! anyway. Does not know how messages are sent.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Error, Result};

use super::settings;
use crate::cli::{GlobalArgs, NotifyArgs};
use crate::domain::bus::message::RefUpdate;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::text::EscapeControls;
use crate::engine::discovery::safe_paths::{self, ConfigSection};
use crate::engine::listen::announce::{self, AnnounceOutcome, PushedRefs};
use crate::exit::{ExitStatus, UsageError};
use crate::system::host::{self, since_boot};
use crate::system::syslog::{self, SyslogLevel};
use crate::system::users::User;

/// The maximum time that the pusher waits.
const LIMIT: Duration = Duration::from_secs(2);
/// The variables with the repository's name: of gitolite, GitLab and Gitea. GitLab's directories have no
/// names of people.
const NAMES: [&str; 3] = ["GL_REPO", "GL_PROJECT_PATH", "GITEA_REPO_NAME"];
/// The variables with the user's name on servers where all share one account.
const USERS: [&str; 3] = ["GL_USER", "GL_USERNAME", "GITEA_PUSHER_NAME"];
/// The part of it that is kept for printing the result.
const RESERVE: Duration = Duration::from_millis(200);
/// The maximum of bytes from git: a hundred thousand refs.
const MOST: u64 = 16 << 20;
/// The maximum of refs that are printed one by one.
const MOST_PRINTED: usize = 10;

/// Announces the push that git writes to standard input.
///
/// # Errors
/// Only when a person runs it on a terminal: it never fails a push.
pub fn run(global: &GlobalArgs, args: &NotifyArgs) -> Result<ExitStatus> {
    if std::io::stdin().is_terminal() {
        let reason = "agent notify is a hook: git writes the pushed refs to its input\n\
                      hint: install it as hooks/post-receive of a repository on the git server";
        return Err(UsageError(reason.to_owned()).into());
    }
    let deadline = since_boot() + LIMIT - RESERVE;
    let (sender, receiver) = mpsc::channel();
    let (global, args) = (global.clone(), args.clone());
    // Some operations that can hang have no deadline of their own, such as disk access.
    let begun = std::thread::Builder::new().spawn(move || {
        // After the deadline the receiver is gone.
        let _ = sender.send(announced(&global, &args, deadline));
    });
    if let Err(error) = begun {
        warn(&format!("cannot start a thread: {error}"));
        return Ok(ExitStatus::Fine);
    }
    match receiver.recv_timeout(LIMIT) {
        Ok(Ok(lines)) => print_line(&mut std::io::stdout(), &lines),
        Ok(Err(error)) => warn(&in_one_line(&error)),
        Err(_) => warn("it took too long"),
    }
    Ok(ExitStatus::Fine)
}

/// Announces the push; returns the text for the pusher.
fn announced(global: &GlobalArgs, args: &NotifyArgs, deadline: Duration) -> Result<String> {
    let mut input = Vec::new();
    std::io::stdin().take(MOST).read_to_end(&mut input).context("cannot read what was pushed")?;
    let input = String::from_utf8_lossy(&input);
    let updates: Result<Vec<RefUpdate>, String> = input.lines().map(str::parse).collect();
    let mut updates =
        updates.map_err(Error::msg).context("the input is not that of a post-receive hook")?;
    // What servers and review tools keep elsewhere, no machine follows.
    updates.retain(RefUpdate::is_branch_or_tag);
    if updates.is_empty() {
        return Ok(String::new());
    }
    let settings = settings(global)?;
    let bus = settings.bus.as_ref().context("no [bus] is configured")?;
    let mut faults = safe_paths::section_faults(&settings).into_iter();
    if let Some((_, fault)) = faults.find(|(section, _)| *section == ConfigSection::Bus) {
        return Err(fault);
    }
    let git_dir = git_dir()?;
    let repo = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&git_dir)?,
    };
    let user = host::variable(&USERS).unwrap_or_else(|| User::current().name);
    let push = PushedRefs { repo, git_dir, user, updates };
    let taken = announce::announce(bus, &push, deadline)?;
    Ok(receipt(&push, taken))
}

/// The repository for which git runs the hook.
fn git_dir() -> Result<PathBuf> {
    let named = host::variable(&["GIT_DIR"]).unwrap_or_else(|| ".".to_owned());
    Path::new(&named).canonicalize().context("cannot resolve the path of the repository")
}

/// The repository's name on the bus: by the server, else by its directory.
fn name_of(git_dir: &Path) -> Result<String> {
    if let Some(name) = host::variable(&NAMES) {
        return Ok(name);
    }
    let dir = match git_dir.file_name() {
        Some(name) if name == ".git" => git_dir.parent().and_then(Path::file_name),
        name => name,
    };
    let name = dir.context("the repository has no name\nhint: give it one with --name")?;
    let name = name.to_string_lossy();
    Ok(name.strip_suffix(".git").unwrap_or(&name).to_owned())
}

fn receipt(push: &PushedRefs, taken: AnnounceOutcome) -> String {
    let repo = push.repo.escape_controls();
    let mut lines: Vec<String> = push
        .updates
        .iter()
        .take(MOST_PRINTED)
        .map(|update| {
            let gone = if update.new.is_none() { ", which is gone" } else { "" };
            format!("announced {repo} {}{gone}", update.short_name())
        })
        .collect();
    if push.updates.len() > MOST_PRINTED {
        lines.push(format!("and {} more refs of {repo}", push.updates.len() - MOST_PRINTED));
    }
    if let AnnounceOutcome::Unconfirmed(missing) = taken {
        lines.push(format!("the broker has not confirmed {missing} of them in time"));
    }
    lines.join("\n")
}

/// Prints a line to the pusher and to the server's log, whose reader can do something about it.
fn warn(reason: &str) {
    let line = format!("agent: not announced: {reason}; servers will see it at their next poll");
    print_line(&mut std::io::stderr(), &line);
    syslog::send(SyslogLevel::Warning, &line);
}

/// Prints a line; a pusher who is gone does not make the push fail.
fn print_line(to: &mut impl Write, text: &str) {
    if !text.is_empty() {
        let _ = writeln!(to, "{text}");
    }
}

/// The error without its hints, which are not for the pusher.
fn in_one_line(error: &Error) -> String {
    ErrorReport::of_causes(error.chain()).sentence()
}
