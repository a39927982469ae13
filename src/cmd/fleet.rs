//! `agent fleet`: prints what every machine runs, as the machines publish it; for people, programs and monitoring, or
//! as a page in a file.
//! Asks the status repository through the engine and judges nothing itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::cli::{FleetAct, FleetArgs};
use crate::cmd::format;
use crate::domain::fleet::{
    Fleet, FleetFilter, JudgedMember, NamePattern, Said, Sighting, Silence,
};
use crate::domain::git::Remote;
use crate::domain::page::{self, fleet::FleetPage};
use crate::domain::report::presence::Presence;
use crate::domain::repository::state::Severity;
use crate::engine::context::Context;
use crate::engine::fleet::{self, FleetLook, StatusRepository};
use crate::engine::machine::presence;
use crate::exit::{ExitStatus, UsageError};
use crate::system::{files, host};

mod forget;
mod text;
mod wait;

/// `agent fleet`
///
/// # Errors
/// When there is no status repository, it cannot be read, or a name or pattern selects nothing.
pub fn run(context: &Context, args: &FleetArgs, is_verbose: bool) -> Result<ExitStatus> {
    let status = status_repository(context, args)?;
    if let Some(FleetAct::Forget(args)) = &args.act {
        return forget::run(context, &status, args);
    }
    if let [repo, revision] = args.wait.as_slice() {
        return wait::run(context, &status, args, repo, revision);
    }
    let found = look(context, &status, args, &args.repos);
    if args.nagios {
        let (text, code) = match &found {
            Ok((fleet, _)) => nagios(fleet),
            Err(error) => (format!("PMPY UNKNOWN - {}\n", one_line(&format!("{error:#}"))), 3),
        };
        format::print(&text)?;
        return Ok(ExitStatus::Monitoring(code));
    }
    let (fleet, others) = found?;
    match &args.html {
        Some(file) => put_html(&fleet, &status.remote, others, file)?,
        None => format::print(&match args.json {
            true => json(&fleet, &status.remote)?,
            false => text::text(&fleet, &status.remote, others, is_verbose, format::width()),
        })?,
    }
    Ok(match fleet.needs_attention() {
        true => ExitStatus::Attention,
        false => ExitStatus::Fine,
    })
}

/// The status repository that the command is about: the one of `--url`, else that of `[presence]`.
fn status_repository(context: &Context, args: &FleetArgs) -> Result<StatusRepository> {
    let presence = context.settings.presence.as_ref();
    if let Some(url) = args.url() {
        let (remote, reach) = (Remote::new(url), context.settings.unlisted.reach.clone());
        let same = presence.filter(|presence| presence.remote == remote);
        if same.is_none() {
            return Ok(StatusRepository { remote, reach });
        }
    }
    let Some(presence) = presence else {
        bail!(UsageError(
            "no status repository is configured\nhint: name one: agent fleet --url URL; or set url in [presence], and \
             this machine publishes there too"
                .to_owned()
        ))
    };
    presence::status_repository(context, presence)
}

/// Looks once, and keeps what `args` select; with the number of branches that are no machine's.
fn look(
    context: &Context,
    status: &StatusRepository,
    args: &FleetArgs,
    repos: &[NamePattern],
) -> Result<(Fleet, usize)> {
    let now = host::now();
    let FleetLook { members, others } = fleet::look(context, status, &fleet::everyone(), now)?;
    let filter = FleetFilter {
        repos: repos.to_vec(),
        hosts: args.hosts.clone(),
        verdicts: args.states.iter().copied().collect(),
    };
    if let Some(idle) = filter.idle(&members).first() {
        let remedy = match *idle {
            "forget" => "agent fleet forget HOST… [--url URL], with forget before the options",
            _ => "agent fleet lists them",
        };
        bail!(UsageError(format!(
            "{}: no machine or repository of {} has this name\nhint: {remedy}",
            format::escaped(idle),
            status.remote
        )));
    }
    Ok((Fleet::judged(members, &filter, now), others))
}

/// Writes the page of the fleet to `file`, at once and whole; `-` is the standard output.
fn put_html(fleet: &Fleet, remote: &Remote, others: usize, file: &Path) -> Result<()> {
    let remote = remote.to_string();
    let page = FleetPage { fleet, remote, others, failure: None, links: None, now: fleet.at };
    let text = page::fleet::html(&page);
    if file == Path::new("-") {
        return format::print_to(io::stdout().lock(), text.as_bytes());
    }
    let shown = format::escaped(&file.display().to_string());
    let name = file.file_name().and_then(OsStr::to_str).with_context(|| {
        format!("{shown} names no file\nhint: agent fleet --html /var/www/html/fleet.html")
    })?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    // Without a sync: the next call writes the page anew.
    files::put_lazily(dir.unwrap_or(Path::new(".")), name, text.as_bytes(), 0o644)
        .with_context(|| format!("cannot write the page of the fleet to {shown}"))
}

/// The fleet for programs.
#[derive(Serialize)]
struct FleetDocument<'a> {
    url: String,
    at: DateTime<Utc>,
    /// How many machines count as what.
    counts: BTreeMap<&'a str, usize>,
    machines: Vec<MachineDocument<'a>>,
}

#[derive(Serialize)]
struct MachineDocument<'a> {
    name: String,
    verdict: &'a str,
    attention: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    silent: Option<Silence>,
    first_seen: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    #[serde(flatten)]
    presence: Option<Presence>,
}

impl<'a> MachineDocument<'a> {
    fn of(machine: &'a JudgedMember) -> Self {
        let Sighting { first_seen, moved, said, .. } = &machine.member.sighting;
        let (presence, unreadable) = match said {
            Said::Presence(presence) => {
                let repositories = machine.rows.clone();
                (Some(Presence { repositories, ..(**presence).clone() }), None)
            }
            Said::Unreadable(why) => (None, Some(why.as_str())),
        };
        Self {
            name: machine.member.name.short(),
            verdict: machine.verdict.as_str(),
            attention: machine.needs_attention(),
            silent: machine.silence,
            first_seen: *first_seen,
            moved: *moved,
            unreadable,
            presence,
        }
    }
}

/// The whole fleet as one JSON object.
fn json(fleet: &Fleet, remote: &Remote) -> Result<String> {
    let counts = fleet.by_verdict();
    let document = FleetDocument {
        url: remote.to_string(),
        at: fleet.at,
        counts: counts.iter().map(|(verdict, group)| (verdict.as_str(), group.len())).collect(),
        machines: fleet.machines.iter().map(MachineDocument::of).collect(),
    };
    let text = serde_json::to_string_pretty(&document).context("cannot write the fleet as JSON")?;
    Ok(text + "\n")
}

/// The monitoring output: one line with performance data, and the exit code.
fn nagios(fleet: &Fleet) -> (String, u8) {
    let severity = fleet.machines.iter().map(|it| it.severity).max();
    let (word, code) = match severity {
        None => ("UNKNOWN", 3),
        Some(Severity::Ok) => ("OK", 0),
        Some(Severity::Warning) => ("WARNING", 1),
        Some(Severity::Critical) => ("CRITICAL", 2),
    };
    let groups = fleet.by_verdict();
    let summary = match severity {
        None => "no machine publishes there".to_owned(),
        Some(Severity::Ok) => text::tally(&groups),
        Some(_) => {
            let bad = groups.iter().filter_map(|(verdict, group)| {
                let bad = group.iter().filter(|it| it.severity > Severity::Ok);
                let names: Vec<_> = bad.map(|it| it.member.name.short()).collect();
                (!names.is_empty()).then(|| {
                    let shown: Vec<_> = names.iter().take(5).map(String::as_str).collect();
                    let more = if names.len() > shown.len() { " …" } else { "" };
                    format!("{} {}: {}{more}", names.len(), verdict.as_str(), shown.join(" "))
                })
            });
            bad.collect::<Vec<_>>().join("; ")
        }
    };
    let attention = fleet.machines.iter().filter(|it| it.needs_attention()).count();
    let silent = fleet.machines.iter().filter(|it| it.silence.is_some()).count();
    let machines = fleet.machines.len();
    let text = format!(
        "PMPY {word} - {} | machines={machines};;;0 attention={attention};;;0 silent={silent};;;0\n",
        summary.replace('|', "/")
    );
    (text, code)
}

fn one_line(text: &str) -> String {
    format::escaped(text.lines().next().unwrap_or_default()).replace('|', "/")
}
