//! The few unsafe calls that libraries force on us. Each is made once, at start-up, before any
//! thread starts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use git2::ConfigLevel;
use rustix::fd::{BorrowedFd, RawFd};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Resource, getrlimit};

/// How long connecting to a server may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may stay silent.
const STALL: Duration = Duration::from_secs(30);

/// How many numbers are tried where nobody tells which are open.
const MOST_OPEN: u64 = 65_536;

/// Keeps whatever our caller had open out of every program that we start: they get their standard input
/// and outputs, and nothing else. Somebody else's program must not read what only root may, nor hold a
/// lock of the caller's for as long as it runs.
///
/// # Errors
/// When the kernel refuses.
#[expect(unsafe_code, reason = "a number that we were born with is not known to be open")]
pub fn keep_what_is_open_to_ourselves() -> Result<()> {
    for number in open_here().into_iter().filter(|number| *number > 2) {
        // SAFETY: with a single thread nobody opens or closes anything before the call is done, and
        // of a number that is not open the kernel says so.
        let open = unsafe { BorrowedFd::borrow_raw(number) };
        match fcntl_setfd(open, FdFlags::CLOEXEC) {
            // Such as the listing's own.
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("descriptor {number} cannot be kept from programs"));
            }
        }
    }
    Ok(())
}

/// The numbers of what is open here; where there is no /proc that tells, as in a bare chroot, all that
/// there may be.
fn open_here() -> Vec<RawFd> {
    let Ok(list) = std::fs::read_dir("/proc/self/fd") else {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(MOST_OPEN).min(MOST_OPEN);
        return (0..).take(most as usize).collect();
    };
    list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Makes libgit2 look at no configuration but a repository's own, give up on silent servers, and
/// sync what it writes to disk.
///
/// # Errors
/// When libgit2 refuses an option, which only another version of it would.
#[expect(unsafe_code, reason = "libgit2's global options are unsafe functions")]
pub fn set_up_libgit2() -> Result<()> {
    // SAFETY: called once, first thing in `main`, while the process has a single thread; that is
    // all that git2 asks for these functions.
    let synced = unsafe {
        for level in
            [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData]
        {
            git2::opts::set_search_path(level, "")?;
        }
        git2::opts::set_server_connect_timeout_in_milliseconds(CONNECT.as_millis() as i32)?;
        git2::opts::set_server_timeout_in_milliseconds(STALL.as_millis() as i32)?;
        // git2 has no wrapper for this option; it takes one C int.
        libgit2_sys::git_libgit2_opts(libgit2_sys::GIT_OPT_ENABLE_FSYNC_GITDIR as _, 1_i32)
    };
    ensure!(synced == 0, "libgit2 cannot be told to sync what it writes");
    Ok(())
}
