//! One run of an action: its guard, its scripts, its logs, its record, and `after` run by root's tick.

pub mod guard;
pub mod health;
pub mod log;
pub mod privileged_after_hook;
pub mod record;
pub mod scripts;
