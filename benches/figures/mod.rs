//! What the measurements have in common: the time that processes took, and the middle of many figures.

use nix::sys::resource::{UsageWho, getrusage};

/// Milliseconds of processor time of every child that has ended.
pub fn processor_of_children() -> f64 {
    processor(UsageWho::RUSAGE_CHILDREN)
}

/// Milliseconds of processor time of `who`.
pub fn processor(who: UsageWho) -> f64 {
    let usage = getrusage(who).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3)
        .sum()
}

/// The middle one of `all`, of which there is at least one.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
