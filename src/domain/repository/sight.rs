//! The first sight of a revision that waits, and for how long it is known since. Within a boot the clock
//! that no one can set counts; over a reboot the time of day does, as far as it can be believed.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;

/// By how much the two clocks may differ since the first sight before the time of day counts as set.
const DRIFT: TimeDelta = TimeDelta::seconds(10);

/// The first sight of the newest revision that waits, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSight {
    /// The revision.
    pub revision: Commit,
    /// The time of day of this record.
    pub at: DateTime<Utc>,
    /// The boot of this record.
    pub boot_id: String,
    /// The time since boot of this record.
    pub since_boot: Duration,
    /// For how long the revision had been known at the time of this record: 0, or the time before a reboot.
    pub waited: Duration,
    /// For how much longer the oldest revision that waits has been known.
    pub oldest: Duration,
    /// `urgent` in its `.pmpy.toml`, unless it was heeded before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent: Option<String>,
    /// Its tree succeeded here before.
    pub succeeded_before: bool,
    /// The machine was failing at a revision that never succeeded here.
    pub mends: bool,
}

/// The clocks of this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks<'a> {
    /// The time of day.
    pub now: DateTime<Utc>,
    /// The boot.
    pub boot_id: &'a str,
    /// The time since it.
    pub since_boot: Duration,
    /// When the last tick ended, by the time of day of then.
    pub last_tick: Option<DateTime<Utc>>,
}

/// The newest revision that waits. Both times are those at which it would have been seen if the time of day
/// had never been set since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The revision.
    pub revision: Commit,
    /// When it was seen first.
    pub since: DateTime<Utc>,
    /// When the oldest revision that waits was seen first.
    pub oldest_since: DateTime<Utc>,
    /// `urgent` in its `.pmpy.toml`, unless it was heeded before.
    pub urgent: Option<String>,
    /// Its tree succeeded here before.
    pub succeeded_before: bool,
    /// The machine was failing at a revision that never succeeded here.
    pub mends: bool,
    /// The record is of this boot, so that no time is lost by the next.
    pub is_of_this_boot: bool,
}

impl FirstSight {
    /// For how long the revision is known.
    pub fn known_for(&self, clocks: &Clocks) -> Duration {
        let of_day =
            |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).to_std().unwrap_or_default();
        let since = match (self.boot_id == clocks.boot_id, clocks.last_tick) {
            (true, _) => clocks.since_boot.saturating_sub(self.since_boot),
            // What the records prove, and what lies behind the last of them: never less than nothing.
            (false, Some(last_tick)) => of_day(self.at, last_tick)
                .saturating_add(of_day(last_tick.max(self.at), clocks.now)),
            (false, None) => of_day(self.at, clocks.now),
        };
        self.waited.saturating_add(since)
    }

    /// The revision that waits, by the clocks of this moment.
    pub fn waiting(&self, clocks: &Clocks) -> Waiting {
        let known = TimeDelta::from_std(self.known_for(clocks)).unwrap_or(TimeDelta::MAX);
        let began = |known| clocks.now.checked_sub_signed(known).unwrap_or(DateTime::UNIX_EPOCH);
        let recorded =
            TimeDelta::from_std(self.waited).ok().and_then(|it| self.at.checked_sub_signed(it));
        // While the clock is not set it is the same moment in each tick, and so is what follows from it.
        let since = match recorded {
            Some(recorded) if (recorded - began(known)).abs() <= DRIFT => recorded,
            _ => began(known).duration_round(TimeDelta::minutes(1)).unwrap_or(began(known)),
        };
        let oldest = TimeDelta::from_std(self.oldest).unwrap_or_default();
        Waiting {
            revision: self.revision,
            since,
            oldest_since: since.checked_sub_signed(oldest).unwrap_or(since),
            urgent: self.urgent.clone(),
            succeeded_before: self.succeeded_before,
            mends: self.mends,
            is_of_this_boot: self.boot_id == clocks.boot_id,
        }
    }

    /// The same sight, recorded by the clocks of this moment.
    pub fn renewed(&self, clocks: &Clocks) -> Self {
        Self {
            waited: self.known_for(clocks),
            at: clocks.now,
            boot_id: clocks.boot_id.to_owned(),
            since_boot: clocks.since_boot,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight() -> FirstSight {
        FirstSight {
            revision: "1".repeat(40).parse().unwrap(),
            at: time(12, 0),
            boot_id: "one".to_owned(),
            since_boot: Duration::from_secs(500),
            waited: Duration::ZERO,
            oldest: Duration::from_secs(60),
            urgent: None,
            succeeded_before: false,
            mends: false,
        }
    }

    fn time(hour: u32, minute: u32) -> DateTime<Utc> {
        format!("2026-11-30T{hour:02}:{minute:02}:00Z").parse().unwrap()
    }

    fn clocks(
        now: DateTime<Utc>,
        boot_id: &str,
        since_boot: u64,
        last_tick: DateTime<Utc>,
    ) -> Clocks<'_> {
        let since_boot = Duration::from_secs(since_boot);
        Clocks { now, boot_id, since_boot, last_tick: Some(last_tick) }
    }

    #[test]
    fn within_a_boot_the_clock_that_nobody_sets_counts() {
        for now in [time(12, 10), time(2, 0), time(23, 0)] {
            let clocks = clocks(now, "one", 1100, time(12, 9));
            assert_eq!(sight().known_for(&clocks), Duration::from_secs(600), "{now}");
        }
    }

    #[test]
    fn the_moment_of_the_first_sight_is_the_same_in_each_tick() {
        for (seconds, drift) in [(60, 0), (120, 1), (180, -2)] {
            let now = time(12, 0) + TimeDelta::seconds(seconds + drift);
            let seen = sight().waiting(&clocks(now, "one", 500 + seconds as u64, now));
            assert_eq!(seen.since, time(12, 0));
            assert_eq!(seen.oldest_since, time(11, 59));
        }
    }

    #[test]
    fn over_a_reboot_the_time_of_day_counts_at_least_nothing() {
        let since = |now, last_tick| sight().known_for(&clocks(now, "two", 5, last_tick)).as_secs();
        assert_eq!(since(time(13, 0), time(12, 30)), 3600);
        // A clock that begins in the past after the reboot: what the last tick proves is kept.
        assert_eq!(since(time(1, 0), time(12, 30)), 1800);
        assert_eq!(since(time(1, 0), time(11, 0)), 0);
    }

    #[test]
    fn a_renewed_sight_goes_on_from_where_it_was() {
        let after = clocks(time(13, 0), "two", 5, time(12, 30));
        let renewed = sight().renewed(&after);
        assert_eq!(renewed.known_for(&after), Duration::from_secs(3600));
        let later = clocks(time(13, 10), "two", 605, time(13, 9));
        assert_eq!(renewed.known_for(&later), Duration::from_secs(4200));
        assert_eq!(renewed.waiting(&later).since, time(12, 0));
        assert!(
            renewed.waiting(&later).is_of_this_boot && !sight().waiting(&later).is_of_this_boot
        );
    }
}
