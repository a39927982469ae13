//! `agent fleet forget`: removes machines from the status repository, and asks before it removes what was not named.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use chrono::{DateTime, Duration, Utc};

use crate::cli::FleetForgetArgs;
use crate::cmd::{confirm, format};
use crate::domain::fleet::forget::{ForgetSelection, SelectedMember};
use crate::domain::fleet::{Member, NamePattern};
use crate::domain::git::Remote;
use crate::engine::context::Context;
use crate::engine::fleet::forget::{RemovalOutcome, forget};
use crate::engine::fleet::{self, StatusRepository};
use crate::exit::{ExitStatus, UsageError};
use crate::system::host;

/// `agent fleet forget`
///
/// # Errors
/// When a name selects nothing, the repository cannot be reached, or refuses.
pub fn run(
    context: &Context,
    status: &StatusRepository,
    args: &FleetForgetArgs,
) -> Result<ExitStatus> {
    let now = host::now();
    let selection = match args.silent {
        Some(length) => ForgetSelection::Silent(Duration::from_std(length)?),
        None => ForgetSelection::Named(args.hosts.clone()),
    };
    let members = fleet::look(context, status, &fleet::everyone(), now)?.members;
    if let Some(idle) = selection.idle(&members).first() {
        bail!(UsageError(format!(
            "{}: no machine of {} has this name; nothing was removed\nhint: agent fleet lists them",
            format::escaped(idle),
            status.remote
        )));
    }
    let selected = selection.select(members, now);
    for one in &selected.doubtful {
        format::print(&format!(
            "{}: stays: {}, by no clock but its own; name it to remove it\n",
            one.member.name.short(),
            no_sign(one, now).unwrap_or_default()
        ))?;
    }
    if selected.chosen.is_empty() {
        let other = if selected.doubtful.is_empty() { "" } else { "other " };
        format::print(&format!("no {other}machine of {} is silent for so long\n", status.remote))?;
        return Ok(ExitStatus::Fine);
    }
    let list = list(&selected.chosen, &status.remote, now);
    if args.dry_run {
        format::print(&list)?;
        return Ok(ExitStatus::Fine);
    }
    if !selection.is_by_name() && !confirm::is_confirmed(&list, args.yes, &without_asking(args))? {
        format::print("nothing was removed\n")?;
        return Ok(ExitStatus::Attention);
    }
    let members: Vec<Member> = selected.chosen.into_iter().map(|one| one.member).collect();
    let outcomes = forget(context, status, &members)?;
    let mut ended = ExitStatus::Fine;
    let mut refused: Vec<(&Member, &str)> = Vec::new();
    for (member, outcome) in members.iter().zip(&outcomes) {
        let (name, branch) = (member.name.short(), member.name.branch());
        match outcome {
            RemovalOutcome::Removed => format::print(&format!(
                "{name}: removed; its branch {branch} was at {}\n",
                member.sighting.id
            ))?,
            RemovalOutcome::Published(id) => {
                let id = id.short();
                format::print(&format!(
                    "{name}: stays: it has published meanwhile, and {branch} is at {id}\n"
                ))?;
                ended = ExitStatus::Attention;
            }
            RemovalOutcome::Refused(why) => refused.push((member, why)),
        }
    }
    match refused.as_slice() {
        [] => Ok(ended),
        all => bail!("{}", refusal(all, &status.remote)),
    }
}

/// What is to be removed, a line each.
fn list(chosen: &[SelectedMember], remote: &Remote, now: DateTime<Utc>) -> String {
    let mut text = format!("forget removes from {remote}:\n");
    for one in chosen {
        let silent = no_sign(one, now).map_or(String::new(), |silent| format!(", {silent}"));
        let (branch, id) = (one.member.name.branch(), one.member.sighting.id.short());
        // Writing into a string cannot fail.
        let _ = writeln!(text, "    {branch} at {id}{silent}");
    }
    text
}

fn no_sign(one: &SelectedMember, now: DateTime<Utc>) -> Option<String> {
    Some(format!("no sign since {}", format::when(one.silence?.since, now)))
}

/// The command line that does not ask.
fn without_asking(args: &FleetForgetArgs) -> String {
    let quoted = |name: &NamePattern| match name.is_name() {
        true => format::escaped(name.as_str()),
        false => format!("'{}'", format::escaped(name.as_str())),
    };
    let mut words: Vec<String> = args.hosts.iter().map(quoted).collect();
    words.extend(
        args.silent.map(|length| format!("--silent {}", humantime::format_duration(length))),
    );
    words.extend(args.url.as_ref().map(|_| "--url URL".to_owned()));
    format!("agent fleet forget {} --yes", words.join(" "))
}

/// The error for refs that the server does not remove.
fn refusal(all: &[(&Member, &str)], remote: &Remote) -> String {
    let names: Vec<String> = all.iter().take(5).map(|(member, _)| member.name.short()).collect();
    let more = if all.len() > names.len() { " …" } else { "" };
    let why = all.first().map(|(_, why)| *why).unwrap_or_default();
    let is_of_all = why.contains("deletion");
    let hint = match is_of_all {
        true => "in the repository on the server: git config receive.denyDeletes false".to_owned(),
        false => format!(
            "the key of a machine may write its own branch only: use one that may remove others, by --url URL with \
             key_file below [defaults]; or on the server: git update-ref -d refs/heads/{}",
            all.first().map(|(member, _)| member.name.branch()).unwrap_or_default()
        ),
    };
    format!("{remote} does not remove {}{more}: {why}\nhint: {hint}", names.join(" "))
}
