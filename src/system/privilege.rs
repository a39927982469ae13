//! Becoming another user for good. Only root can, and only while the process has a single thread: the
//! kernel changes one thread at a time.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Gid, Uid, geteuid, getgid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::node::User;

/// Becomes `user` with all its groups, without a way back; nothing happens when we are it already.
///
/// # Errors
/// When the kernel does not let us, or would let us back: nothing may be done then.
pub fn become_user(user: &User) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if geteuid() == uid && getuid() == uid {
        return Ok(());
    }
    ensure!(!uid.is_root(), "only root itself is root");
    let groups: Vec<Gid> = uzers::get_user_groups(&user.name, user.gid)
        .unwrap_or_default()
        .iter()
        .map(|group| Gid::from_raw(group.gid()))
        .collect();
    let failed = || format!("cannot become {}", user.name);
    set_thread_groups(&groups).with_context(failed)?;
    set_thread_res_gid(gid, gid, gid).with_context(failed)?;
    set_thread_res_uid(uid, uid, uid).with_context(failed)?;
    if set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok()
        || (getuid(), geteuid(), getgid()) != (uid, uid, gid)
    {
        bail!("{} could become root again", user.name);
    }
    // Where we were may be out of the user's reach.
    rustix::process::chdir("/").with_context(failed)
}
