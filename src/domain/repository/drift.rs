//! Drift: files that no longer are what the applied revision has. When to look, what was found, and what
//! follows. Reads no file.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::{hash, name_time};

/// The default of `drift_every`.
pub const EVERY: Duration = Duration::from_secs(3600);
/// How many differing files a record names.
const NAMED: usize = 50;
/// The limit of their names in bytes, so that a record stays small.
const NAMED_BYTES: usize = 8 * 1024;
/// How often one path is repaired within [`REPAIRS_WITHIN`].
const MOST_REPAIRS: usize = 3;
/// The time in which repairs of one path are counted.
pub const REPAIRS_WITHIN: TimeDelta = TimeDelta::hours(1);
/// For how long a repair is mentioned.
pub const MENTIONED_FOR: TimeDelta = TimeDelta::days(1);
/// For how long the files that a repair replaced are kept.
pub const KEPT_FOR: TimeDelta = TimeDelta::days(30);

/// The settings of drift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftPolicy {
    /// `drift`: what follows from it.
    pub on: OnDrift,
    /// `drift_every`: the files are compared at most once in this time.
    pub every: Duration,
    /// `drift_ignore`: patterns of files that may differ.
    pub ignore: Vec<String>,
}

impl Default for DriftPolicy {
    fn default() -> Self {
        Self { on: OnDrift::default(), every: EVERY, ignore: Vec::new() }
    }
}

/// What follows when files differ from the applied revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDrift {
    /// It is reported.
    #[default]
    Report,
    /// The files are kept, written anew, and the scripts run.
    Repair,
    /// Nothing is compared.
    Ignore,
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// Its content is another.
    Content,
    /// Only its execute bit is another.
    Mode,
    /// It is not there.
    Deleted,
    /// It is of another kind: a file for a link, or a directory for a file.
    Kind,
}

impl Difference {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Content => "changed",
            Self::Mode => "other mode",
            Self::Deleted => "deleted",
            Self::Kind => "other kind",
        }
    }
}

/// One file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftedFile {
    /// Its path, escaped; of a published tree with the name of its directory at the target.
    pub path: String,
    /// How it differs.
    pub how: Difference,
}

/// What the last look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftRecord {
    /// The revision that the files were compared with; `None`: several published ones.
    pub revision: Option<Commit>,
    /// When.
    pub at: DateTime<Utc>,
    /// How many files differ.
    pub files: usize,
    /// The first of them, by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<DriftedFile>,
    /// How many of them were repaired too often within an hour, and are left.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left: usize,
    /// Why not all files could be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Why they could not be repaired; the next look comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrepaired: Option<String>,
    /// The directory of a repair whose scripts have not succeeded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// The last repair, for a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<DriftRepair>,
}

/// A repair of drift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftRepair {
    /// When.
    pub at: DateTime<Utc>,
    /// How many files it wrote anew.
    pub files: usize,
    /// The first of them, escaped.
    pub first: String,
    /// The directory in which they are kept as they were.
    pub kept: String,
}

impl DriftRepair {
    /// What was done, as a sentence without its end.
    pub fn sentence(&self) -> String {
        let (files, more) = match self.files {
            1 => ("1 file was".to_owned(), ""),
            files => (format!("{files} files were"), " …"),
        };
        format!(
            "{files} written anew: {}{more}; what was there is kept in {}",
            self.first, self.kept
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl DriftRecord {
    /// The record of a look at `at` that found `all`, in the order of their paths.
    pub fn new(
        revision: Option<Commit>,
        at: DateTime<Utc>,
        all: impl ExactSizeIterator<Item = DriftedFile>,
    ) -> Self {
        let files = all.len();
        let mut bytes = 0;
        let first = all.take(NAMED).take_while(|file| {
            bytes += file.path.len();
            bytes <= NAMED_BYTES
        });
        let first = first.collect();
        Self {
            revision,
            at,
            files,
            first,
            left: 0,
            fault: None,
            unrepaired: None,
            pending: None,
            repaired: None,
        }
    }

    /// Whether a repair has something to do.
    pub fn wants_repair(&self) -> bool {
        (self.files > self.left && self.unrepaired.is_none()) || self.pending.is_some()
    }

    /// What differs, or was repaired, as a sentence without its end; `None`: neither.
    pub fn reason(&self) -> Option<String> {
        self.sentence().or_else(|| self.repaired.as_ref().map(DriftRepair::sentence))
    }

    /// What differs, as a sentence without its end; `None`: nothing does.
    pub fn sentence(&self) -> Option<String> {
        let fault =
            self.fault.as_ref().map(|fault| format!("not all files could be compared: {fault}"));
        if self.files == 0 {
            return fault;
        }
        let from = self.revision.map_or("what was published".to_owned(), |it| it.short());
        let what = match self.files {
            1 => "1 file differs".to_owned(),
            files => format!("{files} files differ"),
        };
        let name = self.first.first().map_or(String::new(), |file| format!(": {}", file.path));
        let more = if self.files > 1 { " …" } else { "" };
        let left = match self.left {
            0 => String::new(),
            left if left == self.files => {
                "; repaired three times within an hour and left".to_owned()
            }
            left => format!("; {left} of them repaired three times within an hour and left"),
        };
        let unrepaired = self.unrepaired.as_ref().map(|why| format!("not repaired: {why}"));
        let fault = fault.into_iter().chain(unrepaired).map(|it| format!("; {it}"));
        let fault: String = fault.collect();
        Some(format!("{what} from {from}{name}{more}{left}{fault}"))
    }
}

/// When the repair began whose directory, or whose list of paths, is called `name`; `None`: it is another name.
pub fn began(name: &str) -> Option<DateTime<Utc>> {
    name_time::parse(name.split(['-', '.']).next()?)
}

/// Whether a path that was repaired at `times` is left at `now`: a script that edits its own tracked file would
/// be run for ever.
pub fn is_left(times: &[DateTime<Utc>], now: DateTime<Utc>) -> bool {
    let counts = |at: &&DateTime<Utc>| **at <= now && now - **at < REPAIRS_WITHIN;
    times.iter().filter(counts).count() >= MOST_REPAIRS
}

/// The part of `every` at which the files of the repository `name` on this machine are compared.
pub fn offset(machine_id: &str, host: &str, name: &str, every: Duration) -> Duration {
    let parts = [machine_id.as_bytes(), host.as_bytes(), name.as_bytes(), b"drift"];
    every.mul_f64(hash::fraction(&parts))
}

/// What the time of the next look depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookTimes {
    /// The part of `drift_every` at which the files of this repository are compared.
    pub offset: Duration,
    /// When they were compared last; `None`: never.
    pub looked: Option<DateTime<Utc>>,
    /// Since when this program is on the machine: where nothing was compared yet, that counts as a look, so that an
    /// upgrade does not compare everything at once.
    pub installed: Option<DateTime<Utc>>,
    /// When an action wrote the files last, which counts as a look; `None`: never.
    pub written: Option<DateTime<Utc>>,
}

/// How many whole periods without a look there are at most, however often actions write the files.
const MOST_PERIODS: i64 = 2;

/// Whether the files are to be compared at `now`: once in each `every`, at the offset of this repository.
pub fn is_due(policy: &DriftPolicy, times: LookTimes, now: DateTime<Utc>) -> bool {
    let seconds = |it: Duration| i64::try_from(it.as_secs()).unwrap_or(i64::MAX);
    let (every, offset) = (seconds(policy.every).max(1), seconds(times.offset));
    let period = |at: DateTime<Utc>| at.timestamp().saturating_sub(offset).div_euclid(every);
    let this = period(now);
    // A time in the future was written under a clock that has since been set back.
    let is_known = |at: &DateTime<Utc>| *at <= now;
    let looked = times.looked.filter(is_known);
    let counts = looked.or(times.installed.filter(is_known));
    let after_look = counts.is_none_or(|at| period(at) < this);
    // The first period that begins a whole one after the action.
    let after_action = |at: DateTime<Utc>| !is_known(&at) || period(at) + 1 < this;
    let is_overdue = looked.is_some_and(|at| period(at) + MOST_PERIODS < this);
    after_look && times.written.is_some_and(|at| after_action(at) || is_overdue)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn record(files: usize, left: usize) -> DriftRecord {
        let file =
            |number| DriftedFile { path: format!("etc/{number}.conf"), how: Difference::Content };
        let all: Vec<_> = (0..files).map(file).collect();
        let revision = "6b2c3d7".repeat(6)[..40].parse().ok();
        DriftRecord {
            left,
            ..DriftRecord::new(revision, at("2026-11-30T10:00:00Z"), all.into_iter())
        }
    }

    #[test]
    fn the_reason_says_how_many_files_differ_and_names_the_first() {
        assert_eq!(record(0, 0).sentence(), None);
        assert_eq!(record(1, 0).sentence().unwrap(), "1 file differs from 6b2c3d7: etc/0.conf");
        assert_eq!(record(3, 0).sentence().unwrap(), "3 files differ from 6b2c3d7: etc/0.conf …");
        let left = record(3, 1).sentence().unwrap();
        assert!(
            left.ends_with("; 1 of them repaired three times within an hour and left"),
            "{left}"
        );
        assert!(record(3, 1).wants_repair() && !record(3, 3).wants_repair());
    }

    #[test]
    fn a_record_of_many_files_stays_small() {
        let many = record(5_000, 0);
        assert_eq!((many.files, many.first.len()), (5_000, NAMED));
    }

    #[test]
    fn three_repairs_of_one_path_within_an_hour_are_the_most() {
        let now = at("2026-11-30T10:00:00Z");
        let ago = |minutes| now - TimeDelta::minutes(minutes);
        assert!(!is_left(&[ago(1), ago(2)], now));
        assert!(is_left(&[ago(1), ago(2), ago(59)], now));
        assert!(!is_left(&[ago(1), ago(2), ago(60)], now), "an hour is over");
        assert!(!is_left(&[ago(1), ago(2), ago(-5)], now), "the clock was set back");
    }

    #[test]
    fn an_action_counts_as_a_look() {
        let due = |looked: Option<&str>, written, now| {
            let times = LookTimes { looked: looked.map(at), written: Some(at(written)), ..times() };
            is_due(&DriftPolicy::default(), times, at(now))
        };
        let acted = "2026-11-30T10:05:00Z";
        assert!(!due(None, acted, "2026-11-30T10:11:00Z"), "its part of the hour, too soon");
        assert!(due(None, acted, "2026-11-30T11:10:00Z"));
        let looked = Some("2026-11-30T11:10:40Z");
        assert!(!due(looked, acted, "2026-11-30T12:09:59Z"));
        assert!(due(looked, acted, "2026-11-30T12:10:00Z"));
        assert!(!due(looked, "2026-11-30T13:15:00Z", "2026-11-30T13:30:00Z"));
        let busy = "2026-11-30T14:05:00Z";
        assert!(due(looked, busy, "2026-11-30T14:10:00Z"), "however often it is deployed");
    }

    fn times() -> LookTimes {
        LookTimes { offset: Duration::from_secs(600), ..LookTimes::default() }
    }

    #[test]
    fn the_first_look_after_an_upgrade_comes_in_the_part_of_the_hour_of_each_repository() {
        let upgraded = at("2026-11-30T10:30:00Z");
        let policy = DriftPolicy::default();
        let mut minutes = Vec::new();
        for share in [0u32, 10, 25, 40, 59] {
            let times = LookTimes {
                offset: Duration::from_secs(60 * u64::from(share)),
                installed: Some(upgraded),
                written: Some(at("2026-01-01T00:00:00Z")),
                looked: None,
            };
            let first =
                (0..120).find(|it| is_due(&policy, times, upgraded + TimeDelta::minutes(*it)));
            minutes.push(first.unwrap());
        }
        assert_eq!(minutes, [30, 40, 55, 10, 29]);
    }

    proptest! {
        #[test]
        fn at_most_one_look_in_each_period(
            every in 60u64..7200, share in 0.0f64..1.0, start in 1_700_000_000i64..1_800_000_000
        ) {
            let policy = DriftPolicy { every: Duration::from_secs(every), ..DriftPolicy::default() };
            let offset = policy.every.mul_f64(share);
            let written = DateTime::from_timestamp(0, 0);
            let mut times = LookTimes { offset, written, ..LookTimes::default() };
            let mut looks = 0u64;
            for minute in 0..600 {
                let now = DateTime::from_timestamp(start + minute * 60, 0).unwrap();
                if is_due(&policy, times, now) {
                    (times.looked, looks) = (Some(now), looks + 1);
                }
            }
            prop_assert!(looks <= 600 * 60 / every + 2);
            prop_assert!(looks >= 600 * 60 / every.max(60) / 2);
        }
    }
}
