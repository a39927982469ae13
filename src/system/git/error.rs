//! Explains libgit2's errors to users: adds a hint where libgit2's text alone does not help, and
//! separates the causes that the agent handles differently. Knows no repository.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, anyhow};
use git2::{ErrorClass, ErrorCode};

use crate::domain::text::EscapeControls;
use crate::system::files::DiskFault;
use crate::system::host::since_boot;

/// How long a user's git command may hold a lock before that is reported.
const PATIENCE: Duration = Duration::from_secs(1);

/// Another process's git command holds one of git's locks.
#[derive(Debug)]
pub(super) struct GitLocked;

impl fmt::Display for GitLocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is locked")
    }
}

impl std::error::Error for GitLocked {}

/// Repeats `attempt` while one of git's locks is held, for as long as a user's git command may hold it.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = since_boot() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if error.downcast_ref::<GitLocked>().is_some() && since_boot() < end => {
                std::thread::sleep(PATIENCE / 20);
            }
            outcome => return outcome,
        }
    }
}

/// Converts libgit2's error, with a hint where its text alone does not help.
pub(in crate::system) fn explained(error: &git2::Error) -> anyhow::Error {
    let text = error.message();
    if let (ErrorClass::Os, Some(fault)) = (error.class(), DiskFault::behind(text)) {
        return anyhow::Error::new(fault).context(text.to_owned());
    }
    if text.contains("extensions.refstorage") {
        return anyhow!(
            "it keeps its refs as a reftable, which libgit2 cannot read\n\
             hint: git refs migrate --ref-format=files"
        );
    }
    if text.contains("graft OID") || text.contains("parent OID") {
        return anyhow!(
            "{text} of its .git/shallow or .git/info/grafts\n\
             hint: each line there is object ids in full, of the length that this repository has; \
             take out what is none, or clone it anew"
        );
    }
    match error.code() {
        ErrorCode::Owner => anyhow!(
            "{text}\nhint: the agent works as the owner of a repository; \
             run it as that user, or give the repository to this one with chown -R"
        ),
        ErrorCode::Locked => anyhow::Error::new(GitLocked).context(format!(
            "{text}\nhint: another git command runs here, or one was killed: the lock is removed \
             once it is ten minutes old and no process has it open"
        )),
        _ => anyhow!("{text}"),
    }
}

/// The index is whole, but of a kind that libgit2 does not know.
#[derive(Debug)]
pub(super) struct UnknownIndexKind;

impl fmt::Display for UnknownIndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libgit2 does not know this kind")
    }
}

impl std::error::Error for UnknownIndexKind {}

/// Why libgit2 cannot read the index, with the command that makes git write another kind.
pub(super) fn unreadable_index(error: &git2::Error) -> anyhow::Error {
    let text = error.message();
    if !text.contains("unsupported") {
        return anyhow!("{}", text.escape_controls());
    }
    let kinds = [
        ("'link'", "it is split over two files\nhint: git update-index --no-split-index"),
        ("'sdir'", "it is sparse\nhint: git sparse-checkout reapply --no-sparse-index"),
    ];
    let known = kinds.into_iter().find(|(extension, _)| text.contains(extension));
    let sentence =
        known.map_or_else(|| text.escape_controls(), |(_, sentence)| sentence.to_owned());
    anyhow::Error::new(UnknownIndexKind).context(sentence)
}
