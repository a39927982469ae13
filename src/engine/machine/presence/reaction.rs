//! `on_change` of presence: runs a program when the hosts that count, or their states, changed. A tick only looks whether
//! a minute is over; a process of its own (in `agent listen` a thread) looks at the fleet and runs the program.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Error, Result, bail, ensure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::detached::DetachedWork;
use super::{PresencePublisher, status_repository};
use crate::config::{FleetReaction, PresenceSettings};
use crate::domain::fleet::reaction::HostSet;
use crate::domain::text::{EscapeControls, utc_minute};
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths;
use crate::engine::error::reason;
use crate::engine::fleet;
use crate::engine::run::scripts::environment_of;
use crate::engine::tick::presence_report::reactions;
use crate::system::agent_state::{AgentState, REACTIONS};
use crate::system::host::since_boot;
use crate::system::pid::Process;
use crate::system::process::{self, ScriptCommand, WaitOutcome};
use crate::system::{files, host, syslog};

/// The time limit of the program.
const LIMIT: Duration = Duration::from_secs(60);
/// The most bytes of output: a program that prints more is ended.
const MOST_PRINTED: u64 = 1 << 20;
/// The most bytes of its output that are logged, and the most lines.
const MOST_LOGGED: (u64, usize) = (4096, 40);
/// The most requests of one look, each of which has its own time limit.
const MOST_REQUESTS: u32 = 4;
/// The lock of all who look in this world.
const LOCK: &str = "reactions.lock";
/// The file that the program reads.
const HOSTS: &str = "reactions.hosts";
/// The file that names the running program.
const RUNNING: &str = "reactions.running";
/// The file that says which trouble was reported.
const TROUBLE: &str = "reactions.trouble";

const LOOK: DetachedWork<PresenceSettings> = DetachedWork {
    name: "on_change",
    command: "react-to-presence",
    for_people: "agent fleet",
    // One more limit: a program of a killed agent may have to end first.
    limit: |presence| presence.reach.limit * MOST_REQUESTS + 3 * LIMIT,
    run: look,
};

/// A program that runs. The next look waits for it when its agent was killed.
#[derive(Serialize, Deserialize)]
struct RunningReaction {
    boot_id: String,
    process: Process,
    /// As time since boot.
    deadline: Duration,
}

/// Begins a look at the fleet where a minute is over since the last one. Returns what a person has to know, and was not
/// reported within the last day. Without `on_change` nothing is read.
pub fn react(context: &Context, publisher: PresencePublisher) -> Option<Error> {
    let presence = context.settings.presence.as_ref()?;
    presence.on_change.as_ref()?;
    let (record, now) = (reactions(context), host::now());
    let begun = match record.is_look_due(now) {
        true => LOOK.begin(context, presence.clone(), publisher),
        false => Ok(()),
    };
    let machine = AgentState::at(&context.settings.world.state);
    let trouble = match begun {
        Err(error) => Some(format!("{error:#}")),
        Ok(()) => record.trouble(now).map(|(since, why)| failing(since, why)),
    }?;
    machine.is_news(TROUBLE, Some(&trouble), now).then(|| Error::msg(trouble))
}

/// The sentence for a person about a program that has failed for a while.
fn failing(since: DateTime<Utc>, reason: &str) -> String {
    format!("presence: on_change fails since {}: {reason}", utc_minute(since))
}

/// Looks for the tick whose settings are in our standard input. Its end is in the record, which the next tick reads.
///
/// # Errors
/// When there are no settings, or the record cannot be read or written.
pub fn react_handed_over() -> Result<()> {
    LOOK.run_handed_over()
}

/// Looks, and runs the program where that is due, unless another process does.
fn look(context: &Context, presence: &PresenceSettings) -> Result<()> {
    safe_paths::state(context)?;
    let Some(reaction) = &presence.on_change else { return Ok(()) };
    let machine = AgentState::at(&context.settings.world.state);
    let Some(_turn) = machine.lock_within(LOCK, Duration::ZERO)? else { return Ok(()) };
    let (mut record, now) = (reactions(context), host::now());
    // Another process may have looked since the tick did.
    if !record.is_look_due(now) {
        return Ok(());
    }
    wait_for_former(context, &machine)?;
    record.looks(now);
    machine.put(REACTIONS, &record)?;
    let looked = seen(context, presence, reaction, now);
    match looked {
        Err(error) => record.failed(reason(&error), None, now),
        Ok(set) => {
            if record.leaves_out(&set.left_out) {
                let names = set.left_out.join(" ").escape_controls();
                log(&format!("left out, for a program could misread their names: {names}"));
            }
            let digest = set.digest(&reaction.argv);
            record.is_well();
            record.is_passed_already(&digest);
            if record.is_due(&digest, now) {
                match run(context, &machine, reaction, &set) {
                    Ok(()) => record.ran(digest, set.hosts, host::now()),
                    Err(error) => record.failed(reason(&error), Some(digest), host::now()),
                }
            }
        }
    }
    machine.put(REACTIONS, &record)
}

/// The hosts that count.
///
/// # Errors
/// When the repository cannot be read, or has none of them: that is no reason to run anything.
fn seen(
    context: &Context,
    presence: &PresenceSettings,
    reaction: &FleetReaction,
    now: DateTime<Utc>,
) -> Result<HostSet> {
    let status = status_repository(context, presence)?;
    let members = fleet::look(context, &status, &reaction.hosts.beginnings(), now)?.members;
    let set = HostSet::of(members, &reaction.hosts, now);
    ensure!(
        set.hosts > 0,
        "{} has none of the hosts that count, so nothing runs\nhint: agent fleet shows what it has",
        status.remote
    );
    Ok(set)
}

/// Waits for the program of an agent that was killed meanwhile: two never run at once.
fn wait_for_former(context: &Context, machine: &AgentState) -> Result<()> {
    let Some(former) = machine.read::<RunningReaction>(RUNNING) else { return Ok(()) };
    if former.boot_id == context.node.boot_id {
        process::wait_for_exit(former.process, former.deadline, || {})?;
    }
    files::remove_lazily(&context.settings.world.state, RUNNING)
}

/// Runs the program with the `set`.
fn run(
    context: &Context,
    machine: &AgentState,
    reaction: &FleetReaction,
    set: &HostSet,
) -> Result<()> {
    if let Some(fault) = safe_paths::own_program_fault(context, "on_change", &reaction.argv) {
        return Err(fault);
    }
    let state = &context.settings.world.state;
    files::put_lazily(state, HOSTS, &set.records, 0o600)?;
    let mut env = environment_of(&context.node.user);
    env.push(("AGENT_HOSTS_FILE".into(), state.join(HOSTS).into()));
    env.push(("AGENT_HOST".into(), context.node.host.clone().into()));
    let command = ScriptCommand {
        argv: reaction.argv.iter().map(OsString::from).collect(),
        working_dir: PathBuf::from("/"),
        id: None,
        env,
        user: None,
    };
    let output = process::report_file()?;
    let program = command.spawn_gated(&output)?;
    let deadline = since_boot() + LIMIT;
    let running = RunningReaction {
        boot_id: context.node.boot_id.clone(),
        process: program.process(),
        deadline,
    };
    machine.put(RUNNING, &running)?;
    let printed = || output.metadata().map_or(0, |meta| meta.len());
    let ended = program.release_while(deadline, || printed() <= MOST_PRINTED)?;
    let too_much = printed() > MOST_PRINTED;
    files::remove_lazily(state, RUNNING)?;
    let (bytes, lines) = MOST_LOGGED;
    for line in process::reported(output, bytes)?.lines().take(lines) {
        log(line);
    }
    let name = reaction.argv.first().map(|name| name.escape_controls()).unwrap_or_default();
    let hint = "hint: its output is in the log of the system (syslog, tag pmpy)";
    match ended {
        WaitOutcome::Exited(0) => {
            log(&format!("{name} succeeded, with {} hosts", set.hosts));
            Ok(())
        }
        WaitOutcome::Exited(code) => bail!("{name} exited {code}\n{hint}"),
        WaitOutcome::Signalled(signal) => bail!("{name} was ended by signal {signal}\n{hint}"),
        WaitOutcome::TimedOut if too_much => {
            bail!("{name} printed more than a megabyte and was ended\n{hint}")
        }
        WaitOutcome::TimedOut => {
            bail!("{name} took longer than {} s and was ended\n{hint}", LIMIT.as_secs())
        }
    }
}

/// Writes a line to the log of the system and to ours, with control characters escaped.
fn log(line: &str) {
    let line = format!("presence on_change: {}", line.escape_controls());
    syslog::send(syslog::SyslogLevel::Info, &line);
    tracing::info!("{line}");
}
