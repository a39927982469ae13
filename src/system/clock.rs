//! The clocks: the only reader of the wall clock, and the time since boot. Below everything else that
//! reaches outside the process.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::time::{ClockId, clock_gettime};

/// Current wall clock time. Read it once per decision and pass the value on.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Time since boot, including suspended time; it never goes back.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
