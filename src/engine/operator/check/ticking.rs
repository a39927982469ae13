//! Checks whether something makes this machine tick. Does not know what it is.

use std::path::Path;

use chrono::Duration;

use crate::domain::repository::status::MachineStatus;
use crate::engine::context::Context;
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::engine::machine::ticking::{self, TickSource};

const SUBJECT: &str = "schedule";

/// The findings about what makes this machine tick, with the crontabs below `base`; none for an agent with
/// its own `--root`. While ticks happen, a source that seems not to work is a warning only, and so is a
/// machine that is still being set up: nothing is installed, and there was no tick. `last_tick` is the age
/// of the last one.
pub fn verdicts(context: &Context, base: &Path, last_tick: Option<Duration>) -> Vec<CheckFinding> {
    let Some(sources) = ticking::sources(context, base) else { return Vec::new() };
    if let Some(trouble) = ticking::trouble(&sources) {
        let is_harmless = match last_tick {
            Some(age) => age <= MachineStatus::longest_silence(),
            None => sources.is_empty(),
        };
        let level = if is_harmless { FindingLevel::Warn } else { FindingLevel::Bad };
        return vec![CheckFinding::new(level, SUBJECT, trouble)];
    }
    let finding = |source: TickSource| match source.fault {
        None => CheckFinding::ok(SUBJECT, format!("{} makes the agent tick", source.place)),
        Some(fault) => {
            CheckFinding::warn(SUBJECT, format!("{}\nhint: {}", fault.text, fault.remedy))
        }
    };
    sources.into_iter().map(finding).collect()
}
