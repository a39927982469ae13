//! Changes the user of this process permanently. Only root can, and only while the process has a single
//! thread: the kernel changes one thread at a time. Does not know why.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::system::users::User;

/// Becomes `user` with all its groups, irrevocably; does nothing if this process already runs as that
/// user.
///
/// # Errors
/// When the user's groups cannot be read, or the kernel refuses, lets us become root again, or reports
/// other ids than that user's: the caller must then do nothing more.
pub fn become_user(user: &User) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if geteuid() == uid && getuid() == uid {
        return Ok(());
    }
    ensure!(!uid.is_root(), "only root itself is root");
    let groups = user.groups().with_context(|| format!("cannot become {}", user.name))?;
    let list: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let failed = || format!("cannot become {}", user.name);
    set_thread_groups(&list).with_context(failed)?;
    set_thread_res_gid(gid, gid, gid).with_context(failed)?;
    set_thread_res_uid(uid, uid, uid).with_context(failed)?;
    if set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        bail!("{} could become root again", user.name);
    }
    let status = std::fs::read_to_string("/proc/thread-self/status").with_context(failed)?;
    if let Some(line) = differs(&status, user, &groups) {
        bail!("cannot become {}: the kernel says \"{line}\"", user.name);
    }
    // The current directory may be out of the user's reach.
    rustix::process::chdir("/").with_context(failed)
}

/// The first line of a /proc/…/status that differs from `user` with `groups`; `None` when all match.
fn differs(status: &str, user: &User, groups: &BTreeSet<u32>) -> Option<String> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
    let numbers = |key: &str| -> Option<Vec<u32>> {
        value(key).split_whitespace().map(|word| word.parse().ok()).collect()
    };
    // The real, effective, saved and file system id.
    let four = |key: &str, number: u32| numbers(key).is_some_and(|all| all == [number; 4]);
    let none = |key: &str| value(key).trim().parse() == Ok(0);
    let right = [
        ("Uid:", four("Uid:", user.uid)),
        ("Gid:", four("Gid:", user.gid)),
        ("Groups:", numbers("Groups:").is_some_and(|all| BTreeSet::from_iter(all) == *groups)),
        ("CapPrm:", none("CapPrm:")),
        ("CapEff:", none("CapEff:")),
    ];
    let (key, _) = right.into_iter().find(|(_, right)| !right)?;
    Some(format!("{key} {}", value(key).trim()))
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
        let user = User {
            uid: 1001,
            gid: 1001,
            name: "pat".to_owned(),
            home: "/home/pat".into(),
            shell: "/bin/sh".into(),
        };
        let groups = BTreeSet::from([1001, 27]);
        let differs = |status: &str| differs(status, &user, &groups);
        assert_eq!(differs(BECOME), None);
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
            let key = line.split('\t').next().unwrap();
            let difference = differs(&BECOME.replace(line, instead));
            assert!(
                difference.is_some_and(|difference| difference.starts_with(key)),
                "{instead:?}"
            );
        }
    }
}
