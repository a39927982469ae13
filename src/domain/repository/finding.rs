//! Reasons that keep a pass from deploying a revision, as they are recorded.

use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::publish::release_paths::shared_conflict;
use crate::domain::repository::change::{ChangeError, ObjectError, RepoPath};
use crate::domain::repository::gate::JudgedTag;

/// The reason why a worker did not deploy a revision, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Finding {
    /// The revision's tree breaks the rules.
    Refused {
        /// The rule and the path, as a message.
        reason: String,
    },
    /// It is not signed as `allowed_signers` asks, or was never accepted here.
    Unsigned {
        /// What is not signed, or who signed it, as a message.
        reason: String,
        /// The hash of the file of the signers.
        signers: String,
        /// The tag by which it was to be applied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<JudgedTag>,
    },
    /// A file of the revision is larger than `max_file`.
    TooLarge {
        /// The size and the limit, as a message.
        reason: String,
        /// The size of the file in bytes: a `max_file` of at least this accepts it.
        bytes: u64,
    },
    /// The revision has a path that `shared` names.
    Shared {
        /// The path in `shared`.
        path: String,
    },
    /// Local changes are in the way. Every tick checks them again.
    Dirty {
        /// The changed paths, at most a few.
        paths: Vec<String>,
    },
    /// The merge has conflicts.
    Conflict {
        /// The paths with conflicts.
        paths: Vec<String>,
    },
    /// The revision's own `.pmpy.toml` holds it.
    Held {
        /// The reason that `.pmpy.toml` gives.
        reason: String,
    },
    /// No path of `paths` changed since the deployed revision.
    Irrelevant {
        /// The deployed revision.
        since_revision: Commit,
    },
}

impl Finding {
    /// The finding for a tree that the agent does not take.
    ///
    /// # Errors
    /// The object that cannot be read, where that is the reason.
    pub fn of(error: ChangeError) -> Result<Self, ObjectError> {
        match error {
            ChangeError::Refused(refusal) => Ok(Self::Refused { reason: refusal.to_string() }),
            ChangeError::TooLarge(refusal, bytes) => {
                Ok(Self::TooLarge { reason: refusal.to_string(), bytes })
            }
            ChangeError::Unreadable(error) => Err(error),
        }
    }

    /// The finding for a tree with `paths`, of which one lies at or in one of the directories `shared`, or
    /// has it inside; `None`: the tree has none of them.
    pub fn of_shared<'p>(
        paths: impl Iterator<Item = &'p RepoPath>,
        shared: &[RepoPath],
    ) -> Option<Self> {
        let path = shared_conflict(paths, shared)?.to_string();
        Some(Self::Shared { path })
    }

    /// Returns `true` if the finding still applies when files may now have `max_file` bytes, `shared` names these
    /// directories, and the file of the signers has the hash `signers`.
    pub fn counts(
        &self,
        max_file: impl FnOnce() -> u64,
        shared: &[String],
        signers: Option<&str>,
    ) -> bool {
        match self {
            Self::TooLarge { bytes, .. } => *bytes > max_file(),
            Self::Shared { path } => shared.contains(path),
            Self::Unsigned { signers: judged_by, .. } => signers == Some(judged_by),
            _ => true,
        }
    }
}
