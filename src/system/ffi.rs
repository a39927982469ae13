//! The few unsafe calls that libraries force on us. All but [`before_program`] run once, at start-up,
//! before any thread starts. Knows nothing of repositories.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use git2::ConfigLevel;
use rustix::fd::{BorrowedFd, RawFd};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Resource, getrlimit};

/// Time limit to connect to a server.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence of a server before libgit2 gives up.
const STALL: Duration = Duration::from_secs(30);

/// Bytes of a pack that are mapped at a time, and of all packs together. Mapped files are not our own
/// memory, but the process should not appear to use that much for a large pack.
const PACK_WINDOW: usize = 32 << 20;
const PACKS_MAPPED: usize = 128 << 20;

/// Upper bound of the descriptors to try where /proc does not list the open ones.
const MOST_OPEN: u64 = 65_536;

/// Sets close-on-exec on every inherited descriptor except 0, 1 and 2. A program that we start must not
/// read what only root may read, nor hold a lock of our caller for as long as it runs.
///
/// # Errors
/// When the kernel refuses.
#[expect(unsafe_code, reason = "a number that we were born with is not known to be open")]
pub fn keep_what_is_open_to_ourselves() -> Result<()> {
    for number in open_here().into_iter().filter(|number| *number > 2) {
        // SAFETY: there is a single thread, so no descriptor is opened or closed during the call; the
        // kernel reports a number that is not open.
        let open = unsafe { BorrowedFd::borrow_raw(number) };
        match fcntl_setfd(open, FdFlags::CLOEXEC) {
            // BADF: already closed, such as the descriptor of the listing itself.
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("descriptor {number} cannot be kept from programs"));
            }
        }
    }
    Ok(())
}

/// The open descriptors of this process; every possible number where /proc is not mounted, as in a bare
/// chroot.
fn open_here() -> Vec<RawFd> {
    let Ok(list) = std::fs::read_dir("/proc/self/fd") else {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(MOST_OPEN).min(MOST_OPEN);
        return (0..).take(most as usize).collect();
    };
    list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Sets SIGCHLD to its default, so that the kernel keeps the exit status of our children. A caller may
/// ignore SIGCHLD, and exec(2) passes that on, to scripts as well; then no exit status is kept, and
/// waiting for a child does not return it.
///
/// # Errors
/// Never on Linux, which has this signal.
#[expect(unsafe_code, reason = "neither std nor rustix sets what a signal does")]
pub fn keep_how_children_end() -> Result<()> {
    // SAFETY: the default action runs no code of ours, and there is a single thread.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    ensure!(before != libc::SIG_ERR, "SIGCHLD cannot be set to its default");
    Ok(())
}

/// Lets all threads allocate from one heap. glibc makes one for each thread, and a tick has several threads
/// that live for milliseconds: to map and grow their heaps takes longer than to share one.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "no library sets this option of malloc")
)]
pub fn share_one_heap() {
    // SAFETY: there is a single thread. It fails only where malloc does not know the option.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Sets up libgit2: reads no configuration except a repository's own, gives up on silent servers, and maps
/// only a part of large packs. `syncs`: it syncs what it writes to disk.
///
/// # Errors
/// When libgit2 refuses an option, which only another version of it does.
#[expect(unsafe_code, reason = "libgit2's global options are unsafe functions")]
pub fn set_up_libgit2(syncs: bool) -> Result<()> {
    // SAFETY: called once, first in `main`, while the process has a single thread; git2 requires
    // nothing else for these functions.
    let synced = unsafe {
        for level in
            [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData]
        {
            git2::opts::set_search_path(level, "")?;
        }
        git2::opts::set_server_connect_timeout_in_milliseconds(CONNECT.as_millis() as i32)?;
        git2::opts::set_server_timeout_in_milliseconds(STALL.as_millis() as i32)?;
        git2::opts::set_mwindow_size(PACK_WINDOW)?;
        git2::opts::set_mwindow_mapped_limit(PACKS_MAPPED)?;
        // git2 has no wrapper for this option; it takes one C int.
        libgit2_sys::git_libgit2_opts(
            libgit2_sys::GIT_OPT_ENABLE_FSYNC_GITDIR as _,
            i32::from(syncs),
        )
    };
    ensure!(synced == 0, "libgit2 cannot be set to sync its writes");
    Ok(())
}

/// Lets the process of `command` do `first` before it executes the program, and close `other_end` before
/// that: the end of a socket pair that must close when this process dies, and so must not stay open
/// there. `first` may call the kernel and nothing else: another thread may hold the lock of the
/// allocator, or any lock, for ever in the new process.
#[expect(unsafe_code, reason = "std cannot know what runs between fork(2) and execve(2)")]
pub fn before_program(
    command: &mut Command,
    other_end: RawFd,
    mut first: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the new process has a single thread. The number is that of an open descriptor, which the
    // caller keeps open until the fork; the copy here has no other owner. `first` keeps to the above.
    unsafe {
        command.pre_exec(move || {
            rustix::io::close(other_end);
            first()
        });
    }
}
