//! The machine as a whole: its bootstrap, its schedule, and cron jobs that pull the same clones.

pub mod bootstrap;
pub mod conflicting_cron;
pub mod schedule;
pub mod ticking;
