//! The verdict on loops that pull beside us.

use std::path::Path;

use super::Verdict;
use crate::engine::Here;
use crate::engine::rivals::{self, Rival};
use crate::engine::schedule;
use crate::system::rivals::Crontabs;

const SUBJECT: &str = "crontabs";

/// The verdict on all crontabs below `base`.
pub fn verdict(here: &Here, base: &Path) -> Verdict {
    let Crontabs { read, closed } = rivals::crontabs(base);
    let found: Vec<Rival> =
        read.iter().flat_map(|crontab| rivals::of(here, base, crontab)).collect();
    if !found.is_empty() {
        let world = &here.settings.world;
        let remedy = match found.iter().all(|rival| rival.about_us) && !world.own {
            true => format!("{} takes it over", schedule::take_over_command(here)),
            false => format!(
                "remove it if it is about a repository under {}: the agent does that work",
                world.root.display()
            ),
        };
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        return Verdict::warn(
            SUBJECT,
            format!("another loop pulls here: {}\nhint: {remedy}", found.join("; ")),
        );
    }
    let closed: Vec<String> = closed.iter().map(|path| path.display().to_string()).collect();
    match closed.as_slice() {
        [] => Verdict::ok(SUBJECT, "no other loop pulls here"),
        closed => Verdict::ok(
            SUBJECT,
            format!("no other loop in those that may be read (not {})", closed.join(", ")),
        ),
    }
}
