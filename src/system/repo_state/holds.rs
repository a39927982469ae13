//! The file `hold`: the holds of people, as a list. An agent that knew only one reads the one that lasts
//! longest. Does not know whose holds may be lifted.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{RepoRecords, files, is_newer};
use crate::domain::repository::hold::{Hold, UNREADABLE, next_number};
use crate::system::host;

/// The name of the file.
const HOLD: &str = "hold";
/// The format version of the file; one without a version has one hold.
const FORMAT: u32 = 1;
/// How long a command waits for another one that changes the same records.
const PATIENCE: Duration = Duration::from_secs(10);

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct HoldList {
    #[serde(default)]
    format: u32,
    #[serde(flatten)]
    first: Hold,
    #[serde(default)]
    more: Vec<Hold>,
}

/// The lock for records that commands of people change beside a running action. Dropping it releases it.
pub(super) struct RecordsLock(#[expect(dead_code, reason = "kept open for its lock")] File);

impl RepoRecords {
    /// Takes the lock for records that several processes change: a directory can be locked as well as a file.
    ///
    /// # Errors
    /// When it cannot be taken within [`PATIENCE`].
    pub(super) fn lock_records(&self) -> Result<RecordsLock> {
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::DIRECTORY).bits() as i32)
            .open(&self.private)
            .with_context(|| format!("cannot open {}", self.private.display()))?;
        let end = host::since_boot() + PATIENCE;
        while let Err(error) = fs2::FileExt::try_lock_exclusive(&dir) {
            let is_taken = error.raw_os_error() == fs2::lock_contended_error().raw_os_error();
            if !is_taken || host::since_boot() > end {
                return Err(error)
                    .with_context(|| format!("cannot lock {}", self.private.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(RecordsLock(dir))
    }

    /// The holds that last at `now`, by number. A file that cannot be read also holds, since it was written
    /// (or `now`, if that is unknown too): a hold is never an accident.
    pub fn holds(&self, now: DateTime<Utc>) -> Vec<Hold> {
        let mut holds = match self.read_holds() {
            Ok(holds) => holds,
            Err(error) => vec![self.unreadable(&error, now)],
        };
        holds.retain(|hold| hold.lasts(now));
        number(&mut holds);
        holds
    }

    fn read_holds(&self) -> Result<Vec<Hold>> {
        let Some(bytes) = self.read(HOLD)? else { return Ok(Vec::new()) };
        if is_newer(&bytes, FORMAT) {
            bail!("{} was written by a newer agent", self.private.join(HOLD).display());
        }
        let HoldList { first, more, .. } = serde_json::from_slice(&bytes)?;
        Ok([vec![first], more].concat())
    }

    fn unreadable(&self, error: &anyhow::Error, now: DateTime<Utc>) -> Hold {
        let written = std::fs::symlink_metadata(self.private.join(HOLD));
        let since = written.and_then(|meta| meta.modified()).map_or(now, DateTime::from);
        Hold { by: UNREADABLE.to_owned(), reason: format!("{error:#}"), since, ..Hold::default() }
    }

    /// Changes the holds that last at `now`; those that are over go. What cannot be read is one hold of the
    /// list, and the file is kept as `hold.damaged` while the list is not empty.
    ///
    /// # Errors
    /// When the list cannot be written, or a newer agent wrote it and would lose what it knows.
    pub fn change_holds(
        &self,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut Vec<Hold>),
    ) -> Result<()> {
        let _lock = self.lock_records()?;
        let bytes = self.read(HOLD).ok().flatten();
        if bytes.is_some_and(|bytes| is_newer(&bytes, FORMAT)) {
            bail!(
                "{} was written by a newer agent\nhint: run that one; or remove the file, and the holds \
                 in it with it",
                self.private.join(HOLD).display()
            );
        }
        let before = self.holds(now);
        let mut holds = before.clone();
        change(&mut holds);
        number(&mut holds);
        // An agent that knows only one hold reads this one.
        let ends = |hold: &Hold| hold.until.unwrap_or(DateTime::<Utc>::MAX_UTC);
        let longest = (0..holds.len()).max_by_key(|&at| holds.get(at).map(ends));
        let Some(first) = longest.map(|at| holds.remove(at)) else {
            return files::remove(&self.private, HOLD);
        };
        if before.iter().any(|hold| hold.by == UNREADABLE) {
            let _ = std::fs::rename(self.private.join(HOLD), self.private.join("hold.damaged"));
        }
        self.put(HOLD, &HoldList { format: FORMAT, first, more: holds })
    }
}

/// Gives a number to each hold that has none or that of another one, and sorts them by it.
fn number(holds: &mut [Hold]) {
    for at in 0..holds.len() {
        let (before, rest) = holds.split_at_mut(at);
        let Some((hold, after)) = rest.split_first_mut() else { continue };
        if hold.number == 0 || before.iter().any(|known| known.number == hold.number) {
            hold.number = next_number(before).max(next_number(after));
        }
    }
    holds.sort_by_key(|hold| hold.number);
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-22T09:00:00Z".parse().unwrap()
    }

    fn hold(reason: &str, minutes: Option<i64>) -> Hold {
        let until = minutes.map(|minutes| now() + TimeDelta::minutes(minutes));
        Hold { by: "ann".into(), reason: reason.into(), since: now(), until, ..Hold::default() }
    }

    fn reasons(holds: &[Hold]) -> Vec<(u32, &str)> {
        holds.iter().map(|hold| (hold.number, hold.reason.as_str())).collect()
    }

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn records(&self) -> RepoRecords {
            let dir = self.0.path();
            RepoRecords { private: dir.into(), public: dir.into(), format: None }
        }

        fn put(&self, text: &str) {
            files::put(self.0.path(), HOLD, text.as_bytes(), 0o600).unwrap();
        }

        fn add(&self, hold: Hold, now: DateTime<Utc>) {
            self.records().change_holds(now, |holds| holds.push(hold)).unwrap();
        }
    }

    #[test]
    fn holds_keep_their_numbers_while_others_come_and_go() {
        let dir = Dir::new();
        for (reason, minutes) in [("one", None), ("two", Some(5)), ("three", Some(60))] {
            dir.add(hold(reason, minutes), now());
        }
        let all = dir.records().holds(now());
        assert_eq!(reasons(&all), [(1, "one"), (2, "two"), (3, "three")]);
        let later = now() + TimeDelta::minutes(6);
        let left = dir.records().holds(later);
        assert_eq!(reasons(&left), [(1, "one"), (3, "three")]);
        dir.add(hold("four", None), later);
        let left = dir.records().holds(later);
        assert_eq!(reasons(&left), [(1, "one"), (3, "three"), (4, "four")]);
        dir.records().change_holds(later, Vec::clear).unwrap();
        assert!(!dir.0.path().join(HOLD).exists());
    }

    #[test]
    fn an_agent_that_knows_one_hold_reads_the_one_that_lasts_longest() {
        let dir = Dir::new();
        for (reason, minutes) in [("short", Some(5)), ("until a person lifts it", None)] {
            dir.add(hold(reason, minutes), now());
        }
        let text = std::fs::read_to_string(dir.0.path().join(HOLD)).unwrap();
        let one: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(one["reason"], "until a person lifts it");
        assert_eq!(one["until"], serde_json::Value::Null);
    }

    #[test]
    fn the_hold_of_an_older_agent_is_the_first_of_the_list() {
        let dir = Dir::new();
        dir.put(r#"{"by":"ann","reason":"db","since":"2026-11-22T08:00:00Z","until":null}"#);
        dir.add(hold("second", None), now());
        assert_eq!(reasons(&dir.records().holds(now())), [(1, "db"), (2, "second")]);
    }

    #[test]
    fn what_cannot_be_read_still_holds_when_another_one_is_added() {
        for text in ["", "[]", "{\"by\":", "{\"by\":\"ann\"}"] {
            let dir = Dir::new();
            dir.put(text);
            dir.add(hold("second", Some(5)), now());
            let holds = dir.records().holds(now() + TimeDelta::hours(1));
            assert_eq!(holds.len(), 1, "{text}");
            assert_eq!(holds[0].by, UNREADABLE, "{text}");
            let kept = std::fs::read_to_string(dir.0.path().join("hold.damaged")).unwrap();
            assert_eq!(kept, text);
        }
    }

    #[test]
    fn the_list_of_a_newer_agent_holds_and_is_left_alone() {
        let dir = Dir::new();
        let text =
            r#"{"format":9,"by":"ann","reason":"x","since":"2026-11-22T08:00:00Z","until":null}"#;
        dir.put(text);
        assert_eq!(dir.records().holds(now())[0].by, UNREADABLE);
        assert!(dir.records().change_holds(now(), Vec::clear).is_err());
        assert_eq!(std::fs::read_to_string(dir.0.path().join(HOLD)).unwrap(), text);
    }
}
