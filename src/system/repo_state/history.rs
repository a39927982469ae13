//! The file `history`: finished runs and acts of people, one JSON object per line, oldest first. Lines are
//! appended; where periodic runs can be folded or old lines are due to go, the file is replaced whole. Does
//! not know how a run ends.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::{CAP, RepoRecords, files};
use crate::domain::repository::action::FinishedRun;
use crate::domain::repository::history::{HistoryEntry, PersonAct, fold, kept};
use crate::system::host;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 64 * CAP;
/// The size from which old entries go although they are younger than 400 days, in bytes.
const FULL: usize = 8 << 20;
/// The number of lines that may be superfluous before the file is replaced.
const SLACK: usize = 64;

/// The file as read: its entries, folded, and how much of it is there.
struct HistoryFile {
    entries: Vec<HistoryEntry>,
    lines: usize,
    bytes: usize,
}

impl RepoRecords {
    /// The history, oldest first. Damaged lines are skipped.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn entries(&self) -> Result<Vec<HistoryEntry>> {
        Ok(self.read_history()?.entries)
    }

    /// The finished runs of the history, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history(&self) -> Result<Vec<FinishedRun>> {
        let run = |entry| match entry {
            HistoryEntry::Run(run) => Some(run),
            HistoryEntry::Act(_) => None,
        };
        Ok(self.entries()?.into_iter().filter_map(run).collect())
    }

    fn read_history(&self) -> Result<HistoryFile> {
        let found = files::read_small(&self.private.join("history"), LARGEST);
        let bytes = found.map_err(|error| self.with_remedy(error))?.unwrap_or_default();
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let entries = fold(lines.clone().filter_map(|line| self.parse(line).ok()).collect());
        Ok(HistoryFile { entries, lines: lines.count(), bytes: bytes.len() })
    }

    /// Appends finished runs, except those that are already recorded, and returns those it appended.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn add_to_history<'a>(&self, runs: &'a [FinishedRun]) -> Result<Vec<&'a FinishedRun>> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock_records()?;
        let file = self.read_history()?;
        let is_known = |run: &&FinishedRun| {
            let newest = file.entries.iter().rev().filter_map(HistoryEntry::run).take(8);
            newest.into_iter().any(|known| known.id == run.id && known.reference == run.reference)
        };
        let new: Vec<&FinishedRun> = runs.iter().filter(|run| !is_known(run)).collect();
        let entries = new.iter().map(|&run| HistoryEntry::Run(run.clone())).collect();
        self.append_to_history(file, entries, host::now())?;
        Ok(new)
    }

    /// Appends an act of a person.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_act(&self, act: PersonAct) -> Result<()> {
        let _lock = self.lock_records()?;
        let now = act.at;
        self.append_to_history(self.read_history()?, vec![HistoryEntry::Act(act)], now)
    }

    fn append_to_history(
        &self,
        file: HistoryFile,
        new: Vec<HistoryEntry>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let text = lines_of(&new)?;
        let HistoryFile { mut entries, lines, bytes } = file;
        let lines = lines + new.len();
        entries.extend(new);
        let entries = fold(entries);
        // Half of what fits, so that the file is not replaced each time.
        let is_full = bytes + text.len() > FULL;
        let most = if is_full { entries.len() / 2 } else { usize::MAX };
        let kept = kept(entries, most, now);
        if is_full || lines > kept.len() + SLACK {
            return files::put(&self.private, "history", &lines_of(&kept)?, 0o600);
        }
        let path = self.private.join("history");
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // Start on a new line, because a crash may have left the last one unfinished.
        let text = [b"\n".as_slice(), &text].concat();
        file.write_all(&text)
            .and_then(|()| file.sync_data())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn lines_of(entries: &[HistoryEntry]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: &str = concat!(
        r#"{"id":"ID","at":"AT","revision":"REVISION","subject":"Release","previous":null,"#,
        r#""trigger":"cron","outcome":{"kind":"succeeded"},"attempt":1,"seconds":0.2,"log":null}"#
    );

    /// A line as an older agent wrote it.
    fn older(number: usize, revision: usize) -> String {
        let at = DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::minutes(number as i64);
        OLDER
            .replace("ID", &number.to_string())
            .replace("AT", &at.to_rfc3339())
            .replace("REVISION", &format!("{revision:040x}"))
    }

    fn records(dir: &tempfile::TempDir) -> RepoRecords {
        let path = dir.path().to_path_buf();
        RepoRecords { private: path.clone(), public: path, format: None }
    }

    fn put(dir: &tempfile::TempDir, lines: impl Iterator<Item = String>) {
        let text: String = lines.map(|line| line + "\n").collect();
        files::put(dir.path(), "history", text.as_bytes(), 0o600).unwrap();
    }

    #[test]
    fn two_thousand_periodic_runs_of_an_older_agent_hide_no_earlier_success() {
        let dir = tempfile::tempdir().unwrap();
        let runs = (1..2000).map(|number| older(number, 2));
        put(&dir, std::iter::once(older(0, 1)).chain(runs));
        let records = records(&dir);
        for number in 2000..2100 {
            let run = serde_json::from_str(&older(number, 2)).unwrap();
            records.add_to_history(std::slice::from_ref(&run)).unwrap();
            records.add_to_history(std::slice::from_ref(&run)).unwrap();
        }
        let runs = records.history().unwrap();
        assert_eq!(runs.len(), 2);
        assert_eq!((runs[1].count, runs[1].id.as_str()), (2099, "2099"));
        let lines = std::fs::read_to_string(dir.path().join("history")).unwrap();
        assert!(lines.lines().count() < 2 * SLACK + 10, "{}", lines.lines().count());
    }

    #[test]
    fn a_damaged_line_loses_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let torn = older(2, 2)[..40].to_owned();
        put(&dir, [older(1, 1), torn, "\0\0\0".to_owned(), older(3, 3)].into_iter());
        let records = records(&dir);
        assert_eq!(records.history().unwrap().len(), 2);
        records.add_to_history(&[serde_json::from_str(&older(4, 4)).unwrap()]).unwrap();
        assert_eq!(records.history().unwrap().len(), 3);
    }
}
