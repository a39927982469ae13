//! How much a fetch may receive: a hostile server must not fill the disk, and a friendly one must leave
//! room for everybody else on it.

use std::io;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

/// The most that any fetch may receive, in bytes.
const MOST: u64 = 8 << 30;
/// This part of what is free on the disk stays so.
const LEFT: u64 = 8;

/// What one fetch may receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// What the disk lets it; `None`: nobody can say, or more than it may anyway.
    by_the_disk: Option<u64>,
}

impl Allowance {
    /// For a fetch into the clone with this git directory, by what is free there now.
    pub(super) fn of(git_dir: &Path) -> Self {
        // A disk that does not say how full it is says so when it is written to.
        Self::when_free(fs2::available_space(git_dir).ok())
    }

    fn when_free(free: Option<u64>) -> Self {
        Self { by_the_disk: free.map(|free| free - free / LEFT).filter(|most| *most < MOST) }
    }

    /// Makes sure that `received` bytes are not too many.
    ///
    /// # Errors
    /// When they are; a full disk, where it is the disk that sets the limit.
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
    use super::*;
    use crate::system::files::Fault;

    #[test]
    fn a_fetch_may_receive_what_the_disk_can_spare_and_never_more_than_eight_gibibytes() {
        let small = Allowance::when_free(Some(800));
        assert!(small.covers(700).is_ok());
        let error = small.covers(701).unwrap_err();
        assert_eq!(Fault::of(&error), Some(Fault::Full));
        for free in [None, Some(u64::MAX), Some(16 << 30)] {
            let large = Allowance::when_free(free);
            assert!(large.covers(8 << 30).is_ok(), "{free:?}");
            let error = large.covers((8 << 30) + 1).unwrap_err();
            assert_eq!(error.to_string(), "it sends more than 8589934592 bytes");
            assert_eq!(Fault::of(&error), None);
        }
    }
}
