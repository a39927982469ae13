//! Checks for cron jobs that pull the same repositories. Does not know how they are recognized.

use std::path::Path;

use crate::engine::context::Context;
use crate::engine::finding::CheckFinding;
use crate::engine::machine::conflicting_cron::{self, PullJob};
use crate::engine::machine::schedule;
use crate::system::crontabs::CrontabScan;

const SUBJECT: &str = "crontabs";

/// The finding for all crontabs below `base`.
pub fn verdict(context: &Context, base: &Path) -> CheckFinding {
    let CrontabScan { read, closed } = conflicting_cron::crontabs(base);
    let found: Vec<PullJob> =
        read.iter().flat_map(|crontab| conflicting_cron::of(context, base, crontab)).collect();
    if !found.is_empty() {
        let world = &context.settings.world;
        let remedy = match found.iter().all(|pull_job| pull_job.about_us) && !world.own {
            true => format!("{} replaces it", schedule::take_over_command(context)),
            false => format!(
                "remove it if it is about a repository under {}: the agent does that work",
                world.root.display()
            ),
        };
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        return CheckFinding::warn(
            SUBJECT,
            format!("another loop pulls here: {}\nhint: {remedy}", found.join("; ")),
        );
    }
    let closed: Vec<String> = closed.iter().map(|path| path.display().to_string()).collect();
    match closed.as_slice() {
        [] => CheckFinding::ok(SUBJECT, "no other loop pulls here"),
        closed => CheckFinding::ok(
            SUBJECT,
            format!("no other loop in those that may be read (not {})", closed.join(", ")),
        ),
    }
}
