//! What a disk says when it cannot go on, told apart from every other error, and what a person can
//! do about it.

use std::fmt;
use std::io;

use anyhow::Error;
use rustix::io::Errno;

/// The disk is to blame, not the repository and not its remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No bytes or no inodes are left.
    Full,
    /// The user's share of it is used up.
    Quota,
    /// It may not be written to.
    ReadOnly,
    /// It does not do as it is told.
    Broken,
}

impl Fault {
    const ALL: [(Errno, Self); 4] = [
        (Errno::NOSPC, Self::Full),
        (Errno::DQUOT, Self::Quota),
        (Errno::ROFS, Self::ReadOnly),
        (Errno::IO, Self::Broken),
    ];

    /// The fault behind `error`, if there is one.
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

    /// The fault behind the words of a library that hands on no more than the system's own at their
    /// end.
    pub fn behind(words: &str) -> Option<Self> {
        let ends = |errno: Errno| {
            let told = io::Error::from(errno).to_string();
            told.split(" (os error").next().is_some_and(|told| words.ends_with(told))
        };
        Self::ALL.into_iter().find(|(errno, _)| ends(*errno)).map(|(_, fault)| fault)
    }

    /// What a person can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Full => {
                "free some space or, where df -i shows none left, inodes; \
                           the next tick goes on by itself"
            }
            Self::Quota => "raise the quota or free some space; the next tick goes on by itself",
            Self::ReadOnly => {
                "make the file system writable (dmesg may say why it is not); \
                               the next tick goes on by itself"
            }
            Self::Broken => {
                "disk I/O error: see dmesg; what was recorded is still there, \
                             and the next tick tries again"
            }
        }
    }

    /// `error` with what a person can do about it as its hint, where the disk is to blame, or that it
    /// is not this user's.
    pub fn explained(error: Error) -> Error {
        match Self::of(&error) {
            Some(fault) => error.context(format!("hint: {}", fault.remedy())),
            None if is_denied(&error) => error.context("hint: run this as its owner or as root"),
            None => error,
        }
    }
}

/// Whether this user may not do it.
fn is_denied(error: &Error) -> bool {
    let denied = |kind| kind == io::ErrorKind::PermissionDenied;
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| denied(error.kind()))
            || cause.downcast_ref::<Errno>().is_some_and(|errno| denied(errno.kind()))
    })
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the disk is full",
            Self::Quota => "the disk quota is used up",
            Self::ReadOnly => "the file system is read-only",
            Self::Broken => "disk I/O error",
        })
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_fault_is_found_however_deep_and_whoever_tells_it() {
        let told = |error: Error| Fault::of(&error.context("cannot write a").context("ops"));
        assert_eq!(told(io::Error::from(Errno::NOSPC).into()), Some(Fault::Full));
        assert_eq!(told(Errno::ROFS.into()), Some(Fault::ReadOnly));
        assert_eq!(told(Fault::Broken.into()), Some(Fault::Broken));
        assert_eq!(told(io::Error::from(Errno::NOENT).into()), None);
        assert_eq!(told(anyhow!("No space left on device")), None, "words alone may be anybody's");
    }

    #[test]
    fn a_librarys_words_are_the_systems() {
        assert_eq!(Fault::behind("cannot extend a: No space left on device"), Some(Fault::Full));
        assert_eq!(Fault::behind("cannot connect: Connection refused"), None);
    }

    #[test]
    fn the_hint_comes_once_and_only_where_the_disk_or_the_user_is_to_blame() {
        let told = Fault::explained(Error::from(Fault::Full).context("cannot write a"));
        assert_eq!(told.to_string(), format!("hint: {}", Fault::Full.remedy()));
        let told = Fault::explained(Error::from(Errno::ACCESS).context("cannot write a"));
        assert!(told.to_string().starts_with("hint: run this as"));
        let other = Err::<(), _>(anyhow!("no such thing")).context("ops").unwrap_err();
        assert_eq!(Fault::explained(other).to_string(), "ops");
    }
}
