//! Changes the user of this process permanently. Only root can, and only while the process has a single
//! thread: the kernel changes one thread at a time. Does not know why.

use std::fmt;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};
use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::system::users::User;

/// Bytes of a /proc/…/status without its groups: three times what any kernel writes today.
const REPORT: usize = 8 << 10;
/// Bytes of a group's number in it, with a space.
const LONGEST_GROUP: usize = 11;

/// Becomes `user` with all its groups, irrevocably; does nothing if this process already runs as that
/// user.
///
/// # Errors
/// When the user's groups cannot be read, or the kernel refuses, lets us become root again, or reports
/// other ids than that user's: the caller must then do nothing more.
pub fn become_user(user: &User) -> Result<()> {
    let failed = || format!("cannot become {}", user.name);
    let Some(mut identity) = Identity::of(user)? else { return Ok(()) };
    identity.assume().with_context(failed)?;
    // The current directory may be out of the user's reach.
    rustix::process::chdir("/").with_context(failed)
}

/// A user that this process, or one that it forks, can become.
#[derive(Debug)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    /// All its groups, by number.
    groups: Vec<Gid>,
    /// Space for the kernel's report on a process with these groups.
    report: Vec<u8>,
}

/// The reason why a process is not the user that it was to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The kernel refused.
    Refused(Errno),
    /// It could become root again.
    StillRoot,
    /// The kernel reports something else under this key.
    Differs(&'static str),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::StillRoot => f.write_str("the process could become root again"),
            Self::Differs(key) => write!(f, "the kernel reports another {key}"),
        }
    }
}

impl std::error::Error for IdentityError {}

impl From<Errno> for IdentityError {
    fn from(error: Errno) -> Self {
        Self::Refused(error)
    }
}

impl Identity {
    /// The identity of `user`; `None`: this process already runs as that user.
    ///
    /// # Errors
    /// When the user's groups cannot be read, or it is root.
    pub fn of(user: &User) -> Result<Option<Self>> {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        if geteuid() == uid && getuid() == uid {
            return Ok(None);
        }
        ensure!(!uid.is_root(), "only root itself is root");
        let groups = user.groups().with_context(|| format!("cannot become {}", user.name))?;
        let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
        let report = vec![0; REPORT + LONGEST_GROUP * groups.len()];
        Ok(Some(Self { uid, gid, groups, report }))
    }

    /// Becomes this user, irrevocably. Only calls the kernel, so that a forked process may do it.
    ///
    /// # Errors
    /// When the kernel refuses, or the process is not exactly this user: it must do nothing more then.
    pub fn assume(&mut self) -> Result<(), IdentityError> {
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        if set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
            return Err(IdentityError::StillRoot);
        }
        let status =
            open(c"/proc/thread-self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut length = 0;
        while let Some(rest) = self.report.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match read(&status, rest)? {
                0 => break,
                count => length += count,
            }
        }
        let report = self.report.get(..length).and_then(|bytes| str::from_utf8(bytes).ok());
        match self.difference(report.unwrap_or_default()) {
            Some(key) => Err(IdentityError::Differs(key)),
            None => Ok(()),
        }
    }

    /// The first key of a /proc/…/status whose value is not that of this user; `None` when all are.
    fn difference(&self, status: &str) -> Option<&'static str> {
        let value =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        let numbers =
            |key: &str| value(key).split_whitespace().map(|word| word.parse::<u32>().ok());
        // The real, effective, saved and file system id.
        let four = |key: &str, number: u32| numbers(key).eq([Some(number); 4]);
        let none = |key: &str| value(key).trim().parse() == Ok(0);
        // The kernel reports them by number, too.
        let groups = self.groups.iter().map(|group| Some(group.as_raw()));
        let right = [
            ("Uid:", four("Uid:", self.uid.as_raw())),
            ("Gid:", four("Gid:", self.gid.as_raw())),
            ("Groups:", numbers("Groups:").eq(groups)),
            ("CapPrm:", none("CapPrm:")),
            ("CapEff:", none("CapEff:")),
        ];
        right.into_iter().find(|(_, right)| !right).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status of a process that has become user 1001 with groups 1001 and 27.
    const BECOME: &str = "Name:\tagent\nUid:\t1001\t1001\t1001\t1001\nGid:\t1001\t1001\t1001\t1001\n\
        Groups:\t27 1001 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\n";

    #[test]
    fn a_process_that_keeps_more_or_less_than_the_user_has_is_found_out() {
        let groups = [27, 1001].map(Gid::from_raw).to_vec();
        let (uid, gid) = (Uid::from_raw(1001), Gid::from_raw(1001));
        let identity = Identity { uid, gid, groups, report: Vec::new() };
        assert_eq!(identity.difference(BECOME), None);
        for (line, instead) in [
            ("Uid:\t1001\t1001\t1001\t1001", "Uid:\t1001\t1001\t0\t1001"),
            ("Uid:\t1001\t1001\t1001\t1001", "Uid:\t1001\t1001\t1001"),
            ("Gid:\t1001\t1001\t1001\t1001", "Gid:\t1001\t1001\t0\t1001"),
            ("Groups:\t27 1001 ", "Groups:\t0 27 1001 "),
            ("Groups:\t27 1001 ", "Groups:\t1001 "),
            ("Groups:\t27 1001 ", "Groups:\t"),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000080"),
            ("CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff"),
            ("CapEff:\t0000000000000000\n", ""),
        ] {
            let key = line.split('\t').next();
            assert_eq!(identity.difference(&BECOME.replace(line, instead)), key, "{instead:?}");
        }
    }
}
