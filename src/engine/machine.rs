//! The machine as a whole: its bootstrap, its schedule, cron jobs that pull the same clones, and its presence.

pub mod bootstrap;
pub mod conflicting_cron;
pub mod presence;
pub mod schedule;
pub mod ticking;
