//! Lookups by glibc, which loads the services of nsswitch.conf(5) into this process.

use std::ffi::CString;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, getgrouplist};

use super::{GroupKey, GroupMembers, NameDatabase, NameServiceError, User};
use crate::domain::text::EscapeControls;

fn cause(error: Errno) -> String {
    error.desc().to_lowercase()
}

pub fn user_by_number(uid: u32) -> Result<Option<User>, NameServiceError> {
    let found = nix::unistd::User::from_uid(Uid::from_raw(uid));
    let found =
        found.map_err(|error| NameDatabase::Passwd.error(&uid.to_string(), cause(error)))?;
    Ok(found.map(User::from))
}

pub fn user_by_name(name: &str) -> Result<Option<User>, NameServiceError> {
    let found = nix::unistd::User::from_name(name);
    let found =
        found.map_err(|error| NameDatabase::Passwd.error(&name.escape_controls(), cause(error)))?;
    Ok(found.map(User::from))
}

pub fn group_by_key(key: GroupKey<'_>) -> Result<Option<GroupMembers>, NameServiceError> {
    let (found, key) = match key {
        GroupKey::Name(name) => (Group::from_name(name), name.escape_controls()),
        GroupKey::Number(gid) => (Group::from_gid(Gid::from_raw(gid)), gid.to_string()),
    };
    let found = found.map_err(|error| NameDatabase::Group.error(&key, cause(error)))?;
    Ok(found.map(|group| GroupMembers {
        gid: group.gid.as_raw(),
        name: group.name,
        members: group.mem,
    }))
}

pub fn group_ids(user: &User) -> Result<Vec<u32>> {
    let name = CString::new(user.name.as_str()).context("a name with a NUL byte")?;
    let groups = getgrouplist(&name, Gid::from_raw(user.gid))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

impl From<nix::unistd::User> for User {
    fn from(user: nix::unistd::User) -> Self {
        Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            name: user.name,
            home: user.dir,
            shell: user.shell,
        }
    }
}
