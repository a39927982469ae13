//! Disk errors as distinct from every other error, each with its remedy. Does not know which operation
//! failed.

use std::path::Path;
use std::{fmt, io};

use anyhow::{Error, Result};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A fault of the disk, not of the repository or its remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskFault {
    /// No space or no inodes are left (ENOSPC).
    Full,
    /// The disk quota of the user is used up (EDQUOT).
    Quota,
    /// The file system is read-only (EROFS).
    ReadOnly,
    /// The device has I/O errors (EIO).
    Broken,
}

impl DiskFault {
    const ALL: [(Errno, Self); 4] = [
        (Errno::NOSPC, Self::Full),
        (Errno::DQUOT, Self::Quota),
        (Errno::ROFS, Self::ReadOnly),
        (Errno::IO, Self::Broken),
    ];

    /// Finds the disk fault that caused `error`; `None` for other causes.
    pub fn of(error: &Error) -> Option<Self> {
        error.chain().find_map(|cause| {
            let known = cause.downcast_ref::<Self>().copied();
            known.or_else(|| {
                let errno = cause
                    .downcast_ref::<Errno>()
                    .copied()
                    .or_else(|| Errno::from_io_error(cause.downcast_ref::<io::Error>()?))?;
                Self::ALL.into_iter().find(|(of, _)| *of == errno).map(|(_, fault)| fault)
            })
        })
    }

    /// Finds the disk fault in the message of a library that only appends the system's error text.
    pub fn behind(words: &str) -> Option<Self> {
        let ends = |errno: Errno| {
            let text = io::Error::from(errno).to_string();
            text.split(" (os error").next().is_some_and(|text| words.ends_with(text))
        };
        Self::ALL.into_iter().find(|(errno, _)| ends(*errno)).map(|(_, fault)| fault)
    }

    /// Remedy that the user can apply, as a hint.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Full => {
                "free some space or, where df -i shows none left, inodes; \
                           the next tick continues"
            }
            Self::Quota => "raise the quota or free some space; the next tick continues",
            Self::ReadOnly => {
                "make the file system writable (dmesg may say why it is not); \
                               the next tick continues"
            }
            Self::Broken => {
                "disk I/O error: see dmesg; what was recorded is still there, \
                             and the next tick tries again"
            }
        }
    }

    /// Adds a hint to `error`: the remedy for a disk fault, or, when permission is denied, to run as
    /// the owner or root.
    pub fn explained(error: Error) -> Error {
        match Self::of(&error) {
            Some(fault) => error.context(format!("hint: {}", fault.remedy())),
            None if is_denied(&error) => error.context("hint: run this as its owner or as root"),
            None => error,
        }
    }
}

/// Checks that `bytes` fit in the file system of `dir` and leave an eighth of its free space. A file
/// system that does not report its free space passes; the write itself may fail then.
///
/// # Errors
/// [`DiskFault::Full`] when they do not fit.
pub fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let Ok(free) = fs2::available_space(dir) else { return Ok(()) };
    if bytes <= free - free / 8 {
        return Ok(());
    }
    Err(Error::new(DiskFault::Full).context(format!(
        "{bytes} bytes would have to be written to {}, where {free} are free and an eighth stays so",
        dir.display()
    )))
}

/// Whether a permission error caused `error`.
fn is_denied(error: &Error) -> bool {
    let denied = |kind| kind == io::ErrorKind::PermissionDenied;
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| denied(error.kind()))
            || cause.downcast_ref::<Errno>().is_some_and(|errno| denied(errno.kind()))
    })
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the disk is full",
            Self::Quota => "the disk quota is used up",
            Self::ReadOnly => "the file system is read-only",
            Self::Broken => "disk I/O error",
        })
    }
}

impl std::error::Error for DiskFault {}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_fault_is_found_however_deep_and_from_any_library() {
        let text = |error: Error| DiskFault::of(&error.context("cannot write a").context("ops"));
        assert_eq!(text(io::Error::from(Errno::NOSPC).into()), Some(DiskFault::Full));
        assert_eq!(text(Errno::ROFS.into()), Some(DiskFault::ReadOnly));
        assert_eq!(text(DiskFault::Broken.into()), Some(DiskFault::Broken));
        assert_eq!(text(io::Error::from(Errno::NOENT).into()), None);
        assert_eq!(text(anyhow!("No space left on device")), None, "words alone may be anybody's");
    }

    #[test]
    fn a_librarys_words_are_the_systems() {
        assert_eq!(
            DiskFault::behind("cannot extend a: No space left on device"),
            Some(DiskFault::Full)
        );
        assert_eq!(DiskFault::behind("cannot connect: Connection refused"), None);
    }

    #[test]
    fn the_hint_comes_once_and_only_where_the_disk_or_the_user_is_to_blame() {
        let text = DiskFault::explained(Error::from(DiskFault::Full).context("cannot write a"));
        assert_eq!(text.to_string(), format!("hint: {}", DiskFault::Full.remedy()));
        let text = DiskFault::explained(Error::from(Errno::ACCESS).context("cannot write a"));
        assert!(text.to_string().starts_with("hint: run this as"));
        let other = Err::<(), _>(anyhow!("no such thing")).context("ops").unwrap_err();
        assert_eq!(DiskFault::explained(other).to_string(), "ops");
    }
}
