//! Trust in paths: which users may change the files on a path.
//!
//! [`PathWalk`] goes from `/` to a path part by part and by handle, resolves symbolic links itself, and
//! records the owner and the other writers of each directory, link and file. [`WalkedPath::check`]
//! compares them with a [`Trust`], as sshd(8) does for `StrictModes`. A path that passes has one real
//! path without a link, no part of which any other user can change, so it can safely be used by name
//! afterwards.
//!
//! Reads attributes only, and knows nothing of repositories. It opens for reading only group-writable
//! files, for their ACL, and never so that the open blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::files;
use crate::domain::trust::Trustee;
use crate::system::users::{GroupKey, NameServiceError, User, group_members};

mod access;
mod part;
mod walk;

pub use access::{AccessList, WriteAccess, WriteFault, read_acl};
pub use part::UntrustedPart;
pub use walk::{PathWalk, WalkedPath};

/// Users who may change the files that one user works with: that user, root, and the configured
/// trustees.
#[derive(Debug)]
pub struct Trust {
    uid: u32,
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
    /// Results of the private-group check by group id; the name service is asked once for each.
    private_groups: Mutex<BTreeMap<u32, bool>>,
    /// Error of the name service; a user not known to be trusted may then still be trusted.
    unanswered: Mutex<Option<NameServiceError>>,
}

impl Trust {
    /// Trust for work as user `uid`. A trustee unknown on this machine adds nothing.
    pub fn new(uid: u32, trustees: &[Trustee]) -> Self {
        let mut trust = Self {
            uid,
            users: BTreeSet::from([0, uid]),
            groups: BTreeSet::new(),
            private_groups: Mutex::default(),
            unanswered: Mutex::default(),
        };
        for trustee in trustees {
            match trustee {
                Trustee::User(name) => {
                    let user = trust.answered(User::named(name)).flatten();
                    trust.users.extend(user.map(|user| user.uid));
                }
                Trustee::Group(name) => {
                    let group = trust.answered(group_members(GroupKey::Name(name))).flatten();
                    trust.groups.extend(group.map(|group| group.gid));
                }
            }
        }
        trust
    }

    /// Error of the name service, when it left the trust of a user unknown; `None` otherwise.
    pub fn unanswered(&self) -> Option<NameServiceError> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answered<T>(&self, answer: Result<T, NameServiceError>) -> Option<T> {
        let note = |error| {
            *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        };
        answer.map_err(note).ok()
    }

    /// Trust for work as the current user, without further trustees.
    pub fn own() -> Self {
        Self::new(rustix::process::geteuid().as_raw(), &[])
    }

    /// The user that does the work.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether user `uid` may change the files: a trusted user, or a member of a trusted group.
    pub fn includes_user(&self, uid: u32) -> bool {
        self.users.contains(&uid) || (!self.groups.is_empty() && self.is_member(uid))
    }

    fn is_member(&self, uid: u32) -> bool {
        let Some(user) = self.answered(User::numbered(uid)).flatten() else { return false };
        user.groups().is_ok_and(|all| all.iter().any(|gid| self.groups.contains(gid)))
    }

    /// Whether every member of group `gid` may change the files: a trusted group, or the private group
    /// of a trusted user.
    pub fn includes_group(&self, gid: u32) -> bool {
        if self.groups.contains(&gid) {
            return true;
        }
        let mut known = self.private_groups.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(gid).or_insert_with(|| self.users.iter().any(|uid| self.is_private(gid, *uid)))
    }

    /// Whether group `gid` is the primary group of user `uid`, has that user's name and has no other
    /// member. Otherwise it may have members through another user's entry, or through a set-gid
    /// program.
    fn is_private(&self, gid: u32, uid: u32) -> bool {
        let user = self.answered(User::numbered(uid)).flatten();
        let Some(user) = user.filter(|user| user.gid == gid) else { return false };
        let group = self.answered(group_members(GroupKey::Number(gid))).flatten();
        group.is_some_and(|group| {
            group.name == user.name
                && group.members.iter().all(|member| *member == user.name)
                && !is_primary_of_another(gid, &user.name)
        })
    }
}

/// Whether the local user table has `gid` as the primary group of another user than `name`. Network
/// name services mostly do not list their users, and their entry for the group is already checked.
fn is_primary_of_another(gid: u32, name: &str) -> bool {
    const LARGEST: u64 = 16 << 20;
    let Ok(Some(table)) = files::read_small(Path::new("/etc/passwd"), LARGEST) else {
        return false;
    };
    table.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let is_other = fields.next().is_some_and(|login| login != name.as_bytes());
        let number = fields.nth(2).and_then(|field| std::str::from_utf8(field).ok());
        is_other && number.and_then(|number| number.parse().ok()) == Some(gid)
    })
}

#[cfg(test)]
mod tests;
