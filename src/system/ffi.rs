//! The few unsafe calls that libraries force on us. Each is made once, at start-up, before any
//! thread starts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use git2::ConfigLevel;
use rustix::fd::{BorrowedFd, RawFd};
use rustix::io::{FdFlags, fcntl_setfd};

/// How long connecting to a server may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may stay silent.
const STALL: Duration = Duration::from_secs(30);

/// Keeps whatever our caller had open out of every program that we start: they get their standard input
/// and outputs, and nothing else. Somebody else's program must not read what only root may, nor hold a
/// lock of the caller's for as long as it runs.
///
/// # Errors
/// When there is no /proc that tells what is open, or the kernel refuses.
#[expect(unsafe_code, reason = "a number that we were born with is not known to be open")]
pub fn keep_what_is_open_to_ourselves() -> Result<()> {
    let told = "cannot see which files are open here\nhint: mount -t proc proc /proc";
    for entry in std::fs::read_dir("/proc/self/fd").context(told)? {
        // The listing is one of them, and is closed on exec already.
        let Ok(number) = entry.context(told)?.file_name().to_string_lossy().parse::<RawFd>() else {
            continue;
        };
        if number > 2 {
            // SAFETY: the kernel lists it, so it is open, and with a single thread nobody closes it
            // before the call is done.
            let open = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(open, FdFlags::CLOEXEC)
                .with_context(|| format!("descriptor {number} cannot be kept from programs"))?;
        }
    }
    Ok(())
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
