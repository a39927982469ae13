//! The files that repairs of drift replaced: `drift/TIME/` holds them as they were, `drift/TIME.paths` the paths that
//! the repair wrote anew, each ended by NUL. The list is written last, so that only what was kept whole has one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use rustix::io::Errno;

use super::RepoRecords;
use crate::domain::name_time;
use crate::domain::repository::drift::{self, REPAIRS_WITHIN};
use crate::system::files::{self, Dir};

/// The directory of all of them, in `.git/pmpy`.
const KEPT: &str = "drift";
/// The file with the times of comparisons.
const COMPARED: &str = "compared";
/// What the name of a list ends with.
const LIST: &str = ".paths";
/// The largest list that is read, in bytes; a tree has no longer paths in all.
const CAP: u64 = 65 << 20;

impl RepoRecords {
    /// Makes an empty directory for what a repair at `now` replaces; returns its name and the directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_keeping(&self, now: DateTime<Utc>) -> Result<(String, Dir)> {
        let message =
            || format!("cannot make a directory in {}", self.private.join(KEPT).display());
        let private = Dir::open(&self.private).with_context(message)?;
        let kept = match private.make(KEPT.as_bytes(), 0o700) {
            // Not through a link.
            Err(Errno::EXIST) => private.beneath(KEPT.as_bytes()),
            made => made,
        };
        let kept = kept.with_context(message)?;
        let time = name_time::name(now);
        for number in 0..100 {
            let name = if number == 0 { time.clone() } else { format!("{time}-{number}") };
            match kept.make(name.as_bytes(), 0o700) {
                Err(Errno::EXIST) => {}
                made => {
                    let made = made.with_context(message)?;
                    kept.sync().with_context(message)?;
                    return Ok((name, made));
                }
            }
        }
        Err(Errno::EXIST).with_context(message)
    }

    /// The path of the directory `name`.
    pub fn kept_dir(&self, name: &str) -> PathBuf {
        self.private.join(KEPT).join(name)
    }

    /// Removes the directory `name`, of a repair that did not begin.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn drop_kept(&self, name: &str) -> Result<()> {
        let dir = self.kept_dir(name);
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }

    /// Writes the list of the paths that the repair `name` writes anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_kept_paths(&self, name: &str, paths: &BTreeSet<Vec<u8>>) -> Result<()> {
        let list: Vec<u8> =
            paths.iter().flat_map(|path| [path.as_slice(), &[0]].concat()).collect();
        files::put(&self.private.join(KEPT), &format!("{name}{LIST}"), &list, 0o600)
    }

    /// The paths that the repair `name` wrote anew; `None`: its list cannot be read.
    pub fn kept_paths(&self, name: &str) -> Option<Vec<Vec<u8>>> {
        let path = self.private.join(KEPT).join(format!("{name}{LIST}"));
        let bytes = files::read_small(&path, CAP).ok().flatten()?;
        Some(
            bytes
                .split(|byte| *byte == 0)
                .filter(|it| !it.is_empty())
                .map(<[u8]>::to_vec)
                .collect(),
        )
    }

    /// The repairs that count at `now`: when each was, and its paths.
    pub fn recent_repairs(&self, now: DateTime<Utc>) -> Vec<(DateTime<Utc>, Vec<Vec<u8>>)> {
        let Ok(entries) = std::fs::read_dir(self.private.join(KEPT)) else { return Vec::new() };
        let repair = |entry: std::fs::DirEntry| {
            let name = entry.file_name();
            let name = name.to_str()?.strip_suffix(LIST)?;
            let at = drift::began(name).filter(|at| now - *at < REPAIRS_WITHIN)?;
            Some((at, self.kept_paths(name)?))
        };
        entries.flatten().filter_map(repair).collect()
    }

    /// When each release was compared whole: by its path, the newest change time in it; none where the record cannot be
    /// read, and all content is compared again.
    pub fn compared_releases(&self) -> BTreeMap<String, (i64, u32)> {
        let bytes = files::read_small(&self.private.join(COMPARED), CAP).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Replaces that record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_compared_releases(&self, compared: &BTreeMap<String, (i64, u32)>) -> Result<()> {
        files::put_lazily(&self.private, COMPARED, &serde_json::to_vec(compared)?, 0o600)
    }
}
