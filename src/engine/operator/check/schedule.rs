//! Checks whether something makes this machine tick, and whether another loop pulls the same repositories.
//! Does not know how either is recognized.

use std::path::Path;

use chrono::Duration;

use crate::domain::repository::status::MachineStatus;
use crate::engine::context::Context;
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::engine::machine::conflicting_cron::{self, PullJob};
use crate::engine::machine::schedule as machine;
use crate::engine::machine::ticking::{self, TickSource};
use crate::system::schedule::{self as door, CrontabScan};

/// The findings about what makes this machine tick, with the crontabs below `base`; none for an agent with
/// its own `--root`. While ticks happen, a source that seems not to work is a warning only, and so is a
/// machine that is still being set up: nothing is installed, and there was no tick. `last_tick` is the age
/// of the last one.
pub fn ticks(context: &Context, base: &Path, last_tick: Option<Duration>) -> Vec<CheckFinding> {
    let Some(sources) = ticking::sources(context, base) else { return Vec::new() };
    if let Some(trouble) = ticking::trouble(&sources) {
        let is_harmless = match last_tick {
            Some(age) => age <= MachineStatus::longest_silence(),
            None => sources.is_empty(),
        };
        let level = if is_harmless { FindingLevel::Warn } else { FindingLevel::Bad };
        return vec![CheckFinding::new(level, "schedule", trouble)];
    }
    let finding = |source: TickSource| match source.fault {
        None => CheckFinding::ok("schedule", format!("{} makes the agent tick", source.place)),
        Some(fault) => {
            CheckFinding::warn("schedule", format!("{}\nhint: {}", fault.text, fault.remedy))
        }
    };
    sources.into_iter().map(finding).collect()
}

/// The finding for all crontabs below `base`.
pub fn other_loops(context: &Context, base: &Path) -> CheckFinding {
    let CrontabScan { read, closed } = door::crontabs(base);
    let found: Vec<PullJob> =
        read.iter().flat_map(|crontab| conflicting_cron::of(context, base, crontab)).collect();
    if !found.is_empty() {
        let world = &context.settings.world;
        let remedy = match found.iter().all(|pull_job| pull_job.about_us) && !world.own {
            true => format!("{} replaces it", machine::take_over_command(context)),
            false => format!(
                "remove it if it is about a repository under {}: the agent does that work",
                world.root.display()
            ),
        };
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        return CheckFinding::warn(
            "crontabs",
            format!("another loop pulls here: {}\nhint: {remedy}", found.join("; ")),
        );
    }
    let closed: Vec<String> = closed.iter().map(|path| path.display().to_string()).collect();
    match closed.as_slice() {
        [] => CheckFinding::ok("crontabs", "no other loop pulls here"),
        closed => CheckFinding::ok(
            "crontabs",
            format!("no other loop in those that may be read (not {})", closed.join(", ")),
        ),
    }
}
