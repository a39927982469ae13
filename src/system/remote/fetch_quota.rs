//! The most bytes that a fetch may receive: a hostile server must not fill the disk, and a friendly one
//! must leave room for other programs. Reads the free space; knows nothing of the fetch.

use std::io;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

/// The most bytes that any fetch may receive.
const MOST: u64 = 8 << 30;
/// One part in this many of the free space stays free.
const LEFT: u64 = 8;

/// The most that one fetch may receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FetchQuota {
    /// The limit by the free space; `None` when that is unknown, or allows more than [`MOST`].
    by_the_disk: Option<u64>,
}

impl FetchQuota {
    /// The limit for a fetch into the clone with this git directory, by the free space now.
    pub(super) fn of(git_dir: &Path) -> Self {
        // A disk that does not report its free space reports when it is full.
        Self::when_free(fs2::available_space(git_dir).ok())
    }

    fn when_free(free: Option<u64>) -> Self {
        Self { by_the_disk: free.map(|free| free - free / LEFT).filter(|most| *most < MOST) }
    }

    /// Checks that `received` bytes are within the limit.
    ///
    /// # Errors
    /// When they are not; a full disk, where the free space sets the limit.
    pub(super) fn covers(self, received: usize) -> Result<()> {
        let received = received as u64;
        match self.by_the_disk {
            Some(most) if received > most => {
                Err(io::Error::from(Errno::NOSPC)).with_context(|| {
                    format!(
                        "it sends more than {most} bytes, and an eighth of what is free stays so"
                    )
                })
            }
            Some(_) => Ok(()),
            None => {
                ensure!(received <= MOST, "it sends more than {MOST} bytes");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::system::files::DiskFault;
    use crate::system::remote::fetch_quota::*;

    #[test]
    fn a_fetch_may_receive_what_the_disk_can_spare_and_never_more_than_eight_gibibytes() {
        let small = FetchQuota::when_free(Some(800));
        assert!(small.covers(700).is_ok());
        let error = small.covers(701).unwrap_err();
        assert_eq!(DiskFault::of(&error), Some(DiskFault::Full));
        for free in [None, Some(u64::MAX), Some(16 << 30)] {
            let large = FetchQuota::when_free(free);
            assert!(large.covers(8 << 30).is_ok(), "{free:?}");
            let error = large.covers((8 << 30) + 1).unwrap_err();
            assert_eq!(error.to_string(), "it sends more than 8589934592 bytes");
            assert_eq!(DiskFault::of(&error), None);
        }
    }
}
