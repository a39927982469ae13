//! `agent notify`, the `post-receive` hook of git servers: announces a push on the message bus. It never
//! fails a push and never holds it up for longer than two seconds: whoever is not told looks within a
//! minute anyway.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Error, Result};

use super::settings;
use crate::cli::{Global, Notify};
use crate::domain::bus::Update;
use crate::engine::announce::{self, Push, Taken};
use crate::exit::{Code, Usage};
use crate::system::node::{self, User, since_boot};
use crate::system::syslog::{self, Level};

/// How long the pusher waits at most.
const LIMIT: Duration = Duration::from_secs(2);
/// What is kept of it to tell the pusher how it went.
const RESERVE: Duration = Duration::from_millis(200);
/// The most bytes that git may write into the hook: a hundred thousand refs.
const MOST: u64 = 16 << 20;
/// How many refs are told one by one.
const TOLD: usize = 10;

/// Announces the push that git tells of on standard input.
///
/// # Errors
/// Only when a person typed it: a push is never failed.
pub fn run(global: &Global, args: &Notify) -> Result<Code> {
    if std::io::stdin().is_terminal() {
        let reason = "agent notify is a hook: git writes what was pushed into it\n\
                      hint: install it as hooks/post-receive of a repository on the git server";
        return Err(Usage(reason.to_owned()).into());
    }
    let deadline = since_boot() + LIMIT - RESERVE;
    let (tell, told) = mpsc::channel();
    let (global, args) = (global.clone(), args.clone());
    // Not everything that may hang has a deadline of its own: a disk has none.
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = tell.send(announced(&global, &args, deadline));
    });
    match told.recv_timeout(LIMIT) {
        Ok(Ok(lines)) => say(&mut std::io::stdout(), &lines),
        Ok(Err(error)) => warn(&told_in_a_line(&error)),
        Err(_) => warn("it took too long"),
    }
    Ok(Code::Fine)
}

/// Announces it; what the pusher is to read.
fn announced(global: &Global, args: &Notify, deadline: Duration) -> Result<String> {
    let mut input = Vec::new();
    std::io::stdin().take(MOST).read_to_end(&mut input).context("cannot read what was pushed")?;
    let input = String::from_utf8_lossy(&input);
    let updates: Result<Vec<Update>, String> = input.lines().map(str::parse).collect();
    let updates = updates.map_err(Error::msg).context("git tells nothing that was pushed")?;
    if updates.is_empty() {
        return Ok(String::new());
    }
    let settings = settings(global)?;
    let bus = settings.bus.context("no [bus] is configured")?;
    let git_dir = git_dir()?;
    let repo = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&git_dir)?,
    };
    // Whoever comes in through gitolite has a name of their own there, and all share one account.
    let user = node::variable(&["GL_USER"]).unwrap_or_else(|| User::current().name);
    let push = Push { repo, git_dir, user, updates };
    let taken = announce::announce(&bus, &push, deadline)?;
    Ok(lines(&push, taken))
}

/// The repository that git called the hook for.
fn git_dir() -> Result<PathBuf> {
    let named = node::variable(&["GIT_DIR"]).unwrap_or_else(|| ".".to_owned());
    Path::new(&named).canonicalize().context("cannot tell which repository it is")
}

/// What the repository is called on the bus: by gitolite, else by its folder.
fn name_of(git_dir: &Path) -> Result<String> {
    if let Some(name) = node::variable(&["GL_REPO"]) {
        return Ok(name);
    }
    let folder = match git_dir.file_name() {
        Some(name) if name == ".git" => git_dir.parent().and_then(Path::file_name),
        name => name,
    };
    let name = folder.context("the repository has no name\nhint: give it one with --name")?;
    let name = name.to_string_lossy();
    Ok(name.strip_suffix(".git").unwrap_or(&name).to_owned())
}

fn lines(push: &Push, taken: Taken) -> String {
    let repo = push.repo.escape_debug();
    let mut lines: Vec<String> = push
        .updates
        .iter()
        .take(TOLD)
        .map(|update| {
            let gone = if update.new.is_none() { ", which is gone" } else { "" };
            format!("announced {repo} {}{gone}", update.short_name())
        })
        .collect();
    if push.updates.len() > TOLD {
        lines.push(format!("and {} more refs of {repo}", push.updates.len() - TOLD));
    }
    if let Taken::Unconfirmed(missing) = taken {
        lines.push(format!("the broker has not confirmed {missing} of them in time"));
    }
    lines.join("\n")
}

/// Tells the pusher in one line, and the server's log, whose reader can do something about it.
fn warn(reason: &str) {
    let line = format!("agent: not announced: {reason}; servers will see it at their next poll");
    say(&mut std::io::stderr(), &line);
    syslog::tell(Level::Warning, &line);
}

/// A pusher who went away does not make the push fail.
fn say(to: &mut impl Write, text: &str) {
    if !text.is_empty() {
        let _ = writeln!(to, "{text}");
    }
}

/// What went wrong, without what to do about it: that is not for the pusher to do.
fn told_in_a_line(error: &Error) -> String {
    let sentences = error.chain().map(|cause| {
        let text = cause.to_string();
        let saying = text.lines().filter(|line| !line.starts_with("hint: "));
        saying.collect::<Vec<_>>().join(" ")
    });
    sentences.collect::<Vec<_>>().join(": ")
}
