//! What libgit2 says, in words for people: with a hint where its text alone does not help, and told
//! apart where it matters whose fault it is.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, anyhow};
use git2::{ErrorClass, ErrorCode};

use crate::system::files::Fault;
use crate::system::node::since_boot;

/// How long a git command of a person may hold a lock before it is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Somebody else's git command holds a lock of git's.
#[derive(Debug)]
pub(super) struct Locked;

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is locked")
    }
}

impl std::error::Error for Locked {}

/// What takes a lock of git's for a moment, tried again for as long as a person's git command may
/// rightly hold it.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = since_boot() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if error.downcast_ref::<Locked>().is_some() && since_boot() < end => {
                std::thread::sleep(PATIENCE / 20);
            }
            outcome => return outcome,
        }
    }
}

/// libgit2's error with a hint where its text alone does not help.
pub(in crate::system) fn explained(error: &git2::Error) -> anyhow::Error {
    let text = error.message();
    if let (ErrorClass::Os, Some(fault)) = (error.class(), Fault::behind(text)) {
        return anyhow::Error::new(fault).context(text.to_owned());
    }
    if text.contains("extensions.refstorage") {
        return anyhow!(
            "it keeps its refs as a reftable, which libgit2 cannot read\n\
             hint: git refs migrate --ref-format=files"
        );
    }
    match error.code() {
        ErrorCode::Owner => anyhow!(
            "{text}\nhint: the agent works as the owner of a repository; \
             run it as that user, or give the repository to this one with chown -R"
        ),
        ErrorCode::Locked => anyhow::Error::new(Locked).context(format!(
            "{text}\nhint: another git command works here, or one died: \
             the lock is removed once it is ten minutes old and nobody has it open"
        )),
        _ => anyhow!("{text}"),
    }
}

/// The index is whole, and of a kind that libgit2 does not know.
#[derive(Debug)]
pub(super) struct UnknownKind;

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libgit2 does not know this kind")
    }
}

impl std::error::Error for UnknownKind {}

/// Why libgit2 cannot read the index, with what makes git write another kind.
pub(super) fn unreadable_index(error: &git2::Error) -> anyhow::Error {
    let text = error.message();
    if !text.contains("unsupported") {
        return anyhow!("{}", text.escape_debug());
    }
    let kinds = [
        ("'link'", "it is split over two files\nhint: git update-index --no-split-index"),
        ("'sdir'", "it is sparse\nhint: git sparse-checkout reapply --no-sparse-index"),
    ];
    let known = kinds.into_iter().find(|(extension, _)| text.contains(extension));
    let told = known.map_or_else(|| text.escape_debug().to_string(), |(_, told)| told.to_owned());
    anyhow::Error::new(UnknownKind).context(told)
}
