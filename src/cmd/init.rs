//! `agent init`: sets this machine up. Steps without the network come first, so that the next ticks finish
//! whatever is interrupted later. Each step checks what is there already, so the command can be repeated
//! at any time. Does not know how a step is done.

use std::path::PathBuf;

use anyhow::{Context as _, Error, Result};

use super::{schedule as scheduling, status, tick};
use crate::cli::{self, GlobalArgs};
use crate::cmd::format;
use crate::config::{self, NamedAddress};
use crate::domain::git::{Remote, RemoteScheme};
use crate::domain::repository::action::Trigger;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{MachineStatus, StatusRow};
use crate::engine::context::Context;
use crate::engine::machine::bootstrap::{self, ExistingRepo, InitEntry, PresenceEntry};
use crate::engine::machine::schedule::{self, ScheduleMethod};
use crate::engine::request::{LockWait, TickOptions, WorkerCommand};
use crate::engine::{discovery, operator};
use crate::exit::{ExitStatus, UsageError};
use crate::system::host::Host;

/// Writes the node information and the configuration, installs the schedule, clones, runs the init
/// scripts and one tick, and prints the status.
///
/// # Errors
/// When a file cannot be written, or a repository of that name is configured otherwise; the error lists
/// the steps that are done and those that are not.
pub fn run(global: &GlobalArgs, args: &cli::InitArgs) -> Result<ExitStatus> {
    let repos = addresses(args)?;
    let context = before(global, args)?;
    check_arguments(&context, args, &repos)?;
    let (key, known_hosts) = (whole(args.key.as_ref())?, whole(args.known_hosts.as_ref())?);
    let password_file = whole(args.password_file.as_ref())?;
    let ca_file = whole(args.ca_file.as_ref())?;
    let signers = whole(args.allowed_signers.as_ref())?;
    let entries: Vec<InitEntry> = repos
        .iter()
        .map(|repo| InitEntry {
            name: &repo.name,
            url: repo.address.secret_url(),
            branch: args.branch.as_deref(),
            key: key.as_deref(),
            known_hosts: known_hosts.as_deref(),
            username: args.username.as_deref(),
            password_file: password_file.as_deref(),
            ca_file: ca_file.as_deref(),
            signers: signers.as_deref(),
            since: args.since,
        })
        .collect();
    let presence_key = whole(args.presence_key.as_ref())?;
    let presence = args.presence.as_deref().map(config::address).transpose().map_err(UsageError)?;
    let is_ssh = |remote: &Remote| remote.scheme() == Some(RemoteScheme::Ssh);
    let presence = presence.as_ref().map(|remote| PresenceEntry {
        url: remote.secret_url(),
        key: presence_key.as_deref(),
        known_hosts: known_hosts.as_deref().filter(|_| is_ssh(remote)),
        ca_file: ca_file.as_deref().filter(|_| remote.scheme() == Some(RemoteScheme::Https)),
    });
    let presence = match &presence {
        Some(entry) => Some((entry, bootstrap::find_presence(&context, entry)?)),
        None => None,
    };
    // Before anything is written: an entry that contradicts the configuration stops the whole command.
    let found: Vec<ExistingRepo> =
        entries.iter().map(|entry| bootstrap::find(&context, entry)).collect::<Result<_>>()?;

    let mut account = InitProgress { done: Vec::new(), quiet: global.quiet, unheard: None };
    let written = write(&context, args, entries.iter().zip(&found), &mut account);
    let written = written.and_then(|()| match &presence {
        Some((entry, found)) => write_presence(&context, entry, found, &mut account),
        None => Ok(()),
    });
    account
        .with_progress(written, "the configuration, the schedule, the clone and the first tick")?;
    // From here on the files count that were just written.
    let context = super::context(global);
    let context = account.with_progress(context, "the schedule, the clone and the first tick")?;
    let scheduled = install(&context, args.schedule, &mut account);
    let ticked = first_tick(&context, global, (args, &repos), &mut account);
    account.with_progress(ticked, "the first tick")?;
    let now = crate::engine::tick::survey(&context, &[])?;
    let open = unfinished(&now, &repos);
    account.report(&status::text(&now, status::TextForm::brief(format::width()), now.at));
    let scheduled = scheduled.context("no schedule is installed")?;
    if !open.is_empty() {
        let open = open.join(", ");
        account.report(&format!(
            "\nNot ready yet: {open}. The next tick retries; this command is safe to repeat.\n"
        ));
    }
    account.report(&hints(&context, scheduled)?);
    account.finish()?;
    // A machine that acted once and never ticks is not live. Without a running systemd it may be an image that is
    // being made, whose cron starts later.
    let is_silent = scheduled && scheduling::warn_of_no_ticks(&context) && schedule::systemd_runs();
    Ok(if open.is_empty() && !is_silent { ExitStatus::Fine } else { ExitStatus::Attention })
}

/// The context before anything is written. Unusable node information is no error when the arguments
/// contain a part or a stack.
fn before(global: &GlobalArgs, args: &cli::InitArgs) -> Result<Context> {
    match super::context(global) {
        Err(_) if args.part.is_some() || args.stack.is_some() => {
            Ok(Context::bare(super::settings(global)?, Host::current()))
        }
        known => known,
    }
}

/// The named repositories that are not live, because a revision there is not deployed. A tick accepts that
/// while it can wait; a person who waits for a live machine does not.
fn unfinished<'a>(now: &'a MachineStatus, repos: &[NamedAddress]) -> Vec<&'a str> {
    let asked = |row: &&StatusRow| repos.iter().any(|repo| repo.name == row.name);
    // What a person stopped stays where it is.
    let live = |row: &StatusRow| match row.state {
        State::Pinned => true,
        State::Held => row.conditions.iter().any(|it| matches!(it, State::Current | State::Ahead)),
        _ => row.is_at_upstream(),
    };
    let open = |row: &&StatusRow| row.needs_attention(now.at) || !live(row);
    now.repositories.iter().filter(asked).filter(open).map(|row| row.name.as_str()).collect()
}

/// The addresses in the arguments; an error shows a wrong one without its password.
fn addresses(args: &cli::InitArgs) -> Result<Vec<NamedAddress>, UsageError> {
    args.repos.iter().map(|text| text.parse().map_err(UsageError)).collect()
}

/// Fails for arguments that cannot be carried out.
fn check_arguments(
    context: &Context,
    args: &cli::InitArgs,
    repos: &[NamedAddress],
) -> Result<(), UsageError> {
    if context.settings.world.config_named {
        return Err(UsageError(
            "with --config, agent.d is not read, so there is no place to write to\n\
             hint: leave out --config, or write [repo.NAME] into that file and run: agent tick"
                .to_owned(),
        ));
    }
    let node = [
        ("part", &args.part, &context.settings.part),
        ("stack", &args.stack, &context.settings.stack),
    ];
    for (what, asked, configured) in node {
        if let (Some(asked), Some(configured)) = (asked, configured)
            && asked != configured
        {
            let file = context.settings.world.config_file.display();
            return Err(UsageError(format!(
                "this machine is {what} {configured} by [node] in {file}, which wins over \
                 --{what} {asked}\nhint: change it there, or leave out --{what}"
            )));
        }
    }
    let is_judged = context.settings.unlisted.policy.gates.signers.is_some();
    if args.since.is_some() && args.allowed_signers.is_none() && !is_judged {
        return Err(UsageError(
            "--since says from which commit on all is signed, and no file names the keys\n\
             hint: name it: --allowed-signers FILE"
                .to_owned(),
        ));
    }
    let twice = |(index, repo): (usize, &NamedAddress)| {
        repos.iter().take(index).any(|other| other.name == repo.name).then(|| repo.name.clone())
    };
    if let Some(name) = repos.iter().enumerate().find_map(twice) {
        return Err(UsageError(format!(
            "two repositories would have the name \"{name}\"\nhint: write NAME=URL for one of them"
        )));
    }
    Ok(())
}

/// The absolute path, as the configuration needs it.
fn whole(path: Option<&PathBuf>) -> Result<Option<PathBuf>> {
    let whole = |path: &PathBuf| {
        std::path::absolute(path).with_context(|| format!("{} cannot be resolved", path.display()))
    };
    path.map(whole).transpose()
}

/// The steps that are done.
struct InitProgress {
    done: Vec<String>,
    quiet: bool,
    /// The first error of printing; it does not stop the command.
    unheard: Option<Error>,
}

impl InitProgress {
    fn did(&mut self, sentence: String) {
        self.report(&format!("{}\n", format::escaped(&sentence)));
        self.done.push(sentence);
    }

    fn report(&mut self, text: &str) {
        if !self.quiet
            && let Err(error) = format::print(text)
        {
            self.unheard.get_or_insert(error);
        }
    }

    /// Returns the first error of printing.
    fn finish(self) -> Result<()> {
        self.unheard.map_or(Ok(()), Err)
    }

    /// Adds to an error which steps were done before it, and which were not.
    fn with_progress<T>(&self, outcome: Result<T>, undone: &str) -> Result<T> {
        let account = || {
            let done = match self.done.as_slice() {
                [] => "nothing".to_owned(),
                done => done.join("; "),
            };
            format!(
                "the machine is not live yet. Done: {done}. Not done: {undone}\n\
                 hint: correct that, and run the same command again; it is safe to repeat"
            )
        };
        outcome.map_err(|error: Error| error.context(account()))
    }
}

fn write<'a>(
    context: &Context,
    args: &cli::InitArgs,
    entries: impl Iterator<Item = (&'a InitEntry<'a>, &'a ExistingRepo)>,
    account: &mut InitProgress,
) -> Result<()> {
    bootstrap::write_node(context, args.part.as_deref(), args.stack.as_deref())?;
    for (what, word) in [("part", &args.part), ("stack", &args.stack)] {
        if let Some(word) = word {
            let dir = context.settings.world.nodeinfo.display();
            account.did(format!("this machine is {what} {word}: {dir}"));
        }
    }
    for (entry, found) in entries {
        let file = bootstrap::entry_file(context, entry.name);
        match found {
            ExistingRepo::Nothing => {
                bootstrap::write_entry(context, entry)?;
                account.did(format!("{} is configured: {}", entry.name, file.display()));
            }
            ExistingRepo::Same => account.did(format!("{} was configured already", entry.name)),
            ExistingRepo::Other(differences) => {
                for difference in differences {
                    account.did(format!("{difference}; change it in {}", file.display()));
                }
            }
        }
        for sentence in bootstrap::about_the_clone(context, entry) {
            account.did(sentence);
        }
    }
    Ok(())
}

fn write_presence(
    context: &Context,
    entry: &PresenceEntry,
    found: &ExistingRepo,
    account: &mut InitProgress,
) -> Result<()> {
    if *found == ExistingRepo::Nothing {
        let file = bootstrap::write_presence(context, entry)?;
        account.did(format!("presence is configured: {}", file.display()));
    } else {
        account.did("presence was configured already".to_owned());
    }
    Ok(())
}

/// Installs the schedule; returns whether something runs ticks now.
fn install(
    context: &Context,
    asked: Option<cli::ScheduleKind>,
    account: &mut InitProgress,
) -> Result<bool> {
    if context.settings.world.own {
        return Ok(false);
    }
    let installed = schedule::installed(context)?;
    let way = match asked {
        Some(how) => scheduling::way(how),
        // An earlier choice of a person stays.
        None if !installed.is_empty() => None,
        None => schedule::is_usual(context).then_some(ScheduleMethod::Cron),
    };
    let Some(way) = way else { return Ok(!installed.is_empty()) };
    for sentence in schedule::install(context, way)? {
        account.did(sentence);
    }
    Ok(true)
}

fn first_tick(
    context: &Context,
    global: &GlobalArgs,
    (args, repos): (&cli::InitArgs, &[NamedAddress]),
    account: &mut InitProgress,
) -> Result<()> {
    let names: Vec<String> = repos.iter().map(|repo| repo.name.clone()).collect();
    if args.again {
        for repo in discovery::named(context, &names)? {
            if matches!(repo.found, discovery::CloneState::Clone) {
                operator::init_again(context, &repo)?;
            }
        }
    }
    let options = TickOptions {
        names,
        // A healthy repository is left alone, unless a person orders another run.
        trigger: if args.again { Trigger::Redo } else { Trigger::Bootstrap },
        dry_run: false,
        wait: LockWait::Unlimited,
        command: WorkerCommand::Follow,
        reason: None,
        overrides: false,
        deleted: Vec::new(),
    };
    let say = |text: &str| {
        account.report(text);
        Ok(())
    };
    tick::perform_with_progress(context, global, &options, say).map(drop)
}

/// Hints at what a person may still have to do.
fn hints(context: &Context, ticks: bool) -> Result<String> {
    let mut text = String::new();
    if !ticks {
        text += &format!("\n{}", scheduling::by_hand(context, Some(ScheduleMethod::Cron))?);
    }
    if !context.settings.world.own {
        text += &scheduling::loops_beside(context);
    }
    Ok(text)
}
