//! Entries of the index, with git's rule by which their stat data shows that a file is unchanged. Knows
//! no index file: entries and stat data are values.

use super::{FileStat, TreeEntry};

/// The entry of the index at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedEntry {
    /// The content that git compares the file with.
    pub entry: TreeEntry,
    /// The stat data of the file when git last found it unchanged; `None`: not recorded.
    pub recorded: Option<RecordedStat>,
    /// Whether the file is left out of the worktree on purpose: git's skip-worktree flag.
    pub left_out: bool,
    /// Whether the file is to count as unchanged whatever it holds: git's assume-unchanged flag.
    pub assumed: bool,
}

impl From<TreeEntry> for StagedEntry {
    fn from(entry: TreeEntry) -> Self {
        Self { entry, recorded: None, left_out: false, assumed: false }
    }
}

/// The stat data that an index has for a path, and how git compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedStat {
    /// The stat data; the index keeps the low 32 bits of each value.
    pub stat: FileStat,
    /// When the index was written: seconds and nanoseconds of Unix time.
    pub index_written: (i64, u32),
    /// Which values count.
    pub check: StatCheck,
}

/// The values of the stat data that git compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatCheck {
    /// All of them.
    All,
    /// All but the change time: `core.trustctime = false`.
    WithoutChangeTime,
    /// The size, and the time of the last change of content: `core.checkStat = minimal`.
    Minimal,
}

impl RecordedStat {
    /// Whether the file with the stat data `found` is unchanged since git compared its content. A file
    /// that changed last when the index was written, or later, may have changed once more without a
    /// trace (git's "racy" rule): it does not count as unchanged.
    pub fn is_unchanged(&self, found: &FileStat) -> bool {
        let recorded = &self.stat;
        let size = low(recorded.size);
        // Git records the size 0 where it could not be sure.
        let same_content =
            size != 0 && size == low(found.size) && same_time(recorded.mtime, found.mtime);
        let same_change = || same_time(recorded.ctime, found.ctime);
        let same_owner = || (recorded.uid, recorded.gid) == (found.uid, found.gid);
        let same_inode = || low(recorded.ino) == low(found.ino);
        let same = match self.check {
            StatCheck::All => same_content && same_change() && same_owner() && same_inode(),
            StatCheck::WithoutChangeTime => same_content && same_owner() && same_inode(),
            StatCheck::Minimal => same_content,
        };
        same && is_before(found.mtime, self.index_written)
    }
}

/// The low 32 bits of a value, as the index keeps it.
pub fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

/// Compares times as far as both sides have them: some tools and file systems keep only seconds.
fn same_time(one: (i64, u32), other: (i64, u32)) -> bool {
    seconds(one) == seconds(other) && (one.1 == other.1 || one.1 == 0 || other.1 == 0)
}

fn is_before(one: (i64, u32), other: (i64, u32)) -> bool {
    let exact = one.1 != 0 && other.1 != 0;
    seconds(one) < seconds(other) || (exact && seconds(one) == seconds(other) && one.1 < other.1)
}

fn seconds(time: (i64, u32)) -> u32 {
    low(time.0.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: FileStat = FileStat {
        mtime: (1_000, 500),
        ctime: (1_000, 600),
        dev: 1,
        ino: (1 << 40) + 7,
        uid: 0,
        gid: 0,
        size: (1 << 32) + 9,
    };

    fn recorded(change: impl FnOnce(&mut RecordedStat)) -> RecordedStat {
        let index_written = (1_001, 0);
        let mut recorded = RecordedStat { stat: FOUND, index_written, check: StatCheck::All };
        (recorded.stat.ino, recorded.stat.size) = (7, 9);
        change(&mut recorded);
        recorded
    }

    #[test]
    fn equal_stat_data_of_an_older_file_means_unchanged() {
        assert!(recorded(|_| {}).is_unchanged(&FOUND));
        assert!(recorded(|it| it.stat.dev = 99).is_unchanged(&FOUND), "devices are renumbered");
        // Not every tool and file system keeps nanoseconds.
        assert!(recorded(|it| it.stat.mtime.1 = 0).is_unchanged(&FOUND));
        assert!(recorded(|it| it.stat.ctime.1 = 0).is_unchanged(&FOUND));
        assert!(recorded(|it| it.index_written = (1_000, 501)).is_unchanged(&FOUND));
    }

    #[test]
    fn any_other_value_means_that_the_content_has_to_be_read() {
        let changes: [fn(&mut RecordedStat); 8] = [
            |it| it.stat.mtime.0 = 999,
            |it| it.stat.mtime.1 = 499,
            |it| it.stat.ctime.0 = 999,
            |it| it.stat.ino = 8,
            |it| it.stat.uid = 33,
            |it| it.stat.gid = 33,
            |it| it.stat.size = 8,
            |it| it.stat.size = 0,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(!recorded(change).is_unchanged(&FOUND), "change {number}");
        }
        let empty = FileStat { size: 0, ..FOUND };
        assert!(!recorded(|it| it.stat.size = 0).is_unchanged(&empty), "git was not sure");
    }

    #[test]
    fn a_file_as_young_as_the_index_may_have_changed_without_a_trace() {
        for written in [(1_000, 500), (1_000, 499), (1_000, 0), (999, 999)] {
            assert!(!recorded(|it| it.index_written = written).is_unchanged(&FOUND), "{written:?}");
        }
    }

    #[test]
    fn the_configuration_of_the_clone_says_which_values_count() {
        let other_times =
            |check| recorded(|it| (it.stat.ctime, it.check) = ((1, 1), check)).is_unchanged(&FOUND);
        assert!(!other_times(StatCheck::All));
        assert!(other_times(StatCheck::WithoutChangeTime));
        assert!(other_times(StatCheck::Minimal));
        let other_owner =
            |check| recorded(|it| (it.stat.uid, it.check) = (33, check)).is_unchanged(&FOUND);
        assert!(!other_owner(StatCheck::WithoutChangeTime));
        assert!(other_owner(StatCheck::Minimal));
    }
}
