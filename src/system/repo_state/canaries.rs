//! What the canaries had of the revision that waits, at the last tick. Lost, it is asked for again, and the waits that
//! began with it begin anew.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::RepoRecords;
use crate::domain::git::Commit;
use crate::domain::repository::gate::CanaryReport;
use crate::system::files;

/// The name of the file.
const CANARIES: &str = "canaries";
/// The largest file that is read, in bytes.
const CAP: u64 = 1 << 20;

/// What the canaries had of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenCanaries {
    /// The revision.
    pub revision: Commit,
    /// What they had.
    pub report: CanaryReport,
}

impl RepoRecords {
    /// The record; `None`: there is none, or it is damaged.
    pub fn canaries(&self) -> Option<SeenCanaries> {
        let bytes = files::read_small(&self.private.join(CANARIES), CAP).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_canaries(&self, seen: &SeenCanaries) -> Result<()> {
        files::put_lazily(&self.private, CANARIES, &serde_json::to_vec(seen)?, 0o600)
    }
}
