//! Users and groups of this machine, as nsswitch.conf(5) configures them: in files, LDAP, sssd and so on.
//! The C library answers where it is glibc; a static build has to ask getent(1). Knows nothing of what the
//! users do.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};

mod c_library;
mod getent;

/// Whether the C library loads the services of nsswitch.conf; a static build cannot.
const IS_GLIBC: bool = cfg!(target_env = "gnu");

/// The name service (nsswitch.conf(5)) does not answer, so it is unknown whether the user or group
/// exists. Work that depends on the answer must wait.
#[derive(Clone, Debug)]
pub struct NameServiceError {
    database: NameDatabase,
    key: String,
    cause: String,
}

/// Databases of nsswitch.conf(5) that are queried here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NameDatabase {
    Passwd,
    Group,
    /// The groups of a user.
    Initgroups,
}

impl NameDatabase {
    /// Name in nsswitch.conf(5) and of getent(1).
    fn name(self) -> &'static str {
        match self {
            Self::Passwd => "passwd",
            Self::Group => "group",
            Self::Initgroups => "initgroups",
        }
    }

    /// Builds the error of a lookup of `key`.
    fn error(self, key: &str, cause: impl Into<String>) -> NameServiceError {
        NameServiceError { database: self, key: key.to_owned(), cause: cause.into() }
    }
}

impl fmt::Display for NameServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, key, cause } = self;
        let what = match database {
            NameDatabase::Passwd => "user",
            NameDatabase::Group => "group",
            NameDatabase::Initgroups => "groups of user",
        };
        write!(
            f,
            "the name service does not answer for {what} {key}: {cause}\n\
             hint: the next tick asks again; to see it fail: getent {} {key}; /etc/nsswitch.conf \
             says which services are asked, such as sssd",
            database.name()
        )
    }
}

impl std::error::Error for NameServiceError {}

/// A user from the passwd database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Login name, or the number where there is no entry.
    pub name: String,
    /// Home directory; `/` where there is no entry.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

impl User {
    /// The effective user of this process; only its number where the name service knows no more.
    pub fn current() -> Self {
        Self::current_or_why_not().0
    }

    /// [`User::current`], and the error of the name service where only the number is known. Root has
    /// the same name everywhere, so it does not depend on the name service.
    pub fn current_or_why_not() -> (Self, Option<NameServiceError>) {
        let uid = rustix::process::geteuid().as_raw();
        let (name, home, error) = match Self::numbered(uid) {
            Ok(Some(user)) => return (user, None),
            Ok(None) => (uid.to_string(), "/", None),
            Err(_) if uid == 0 => ("root".to_owned(), "/root", None),
            Err(error) => (uid.to_string(), "/", Some(error)),
        };
        let gid = rustix::process::getegid().as_raw();
        let (home, shell) = (PathBuf::from(home), PathBuf::from("/bin/sh"));
        (Self { uid, gid, name, home, shell }, error)
    }

    /// Looks up a user by its number; `None` when it does not exist.
    ///
    /// # Errors
    /// When the name service does not answer.
    pub fn numbered(uid: u32) -> Result<Option<Self>, NameServiceError> {
        if IS_GLIBC { c_library::user_by_number(uid) } else { getent::user_by_number(uid) }
    }

    /// Looks up a user by its name; `None` when it does not exist.
    ///
    /// # Errors
    /// When the name service does not answer.
    pub fn named(name: &str) -> Result<Option<Self>, NameServiceError> {
        if IS_GLIBC { c_library::user_by_name(name) } else { getent::user_by_name(name) }
    }

    /// Ids of all groups of this user, including the primary group.
    ///
    /// # Errors
    /// When the name service does not answer, or there are more groups than the kernel accepts.
    pub fn groups(&self) -> Result<BTreeSet<u32>> {
        // Services that do not answer are skipped when all groups of a user are asked for. So query the
        // primary group first: if its service is down, so are the other groups of this user.
        group_members(GroupKey::Number(self.gid))?;
        let groups = if IS_GLIBC { c_library::group_ids(self) } else { getent::group_ids(self) };
        let groups =
            groups.with_context(|| format!("the groups of {} cannot be read", self.name))?;
        Ok(groups.into_iter().chain([self.gid]).collect())
    }
}

/// A group from the name service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMembers {
    /// Group id.
    pub gid: u32,
    /// Group name.
    pub name: String,
    /// Login names that the group entry lists; it does not list users whose primary group it is.
    pub members: Vec<String>,
}

/// Key of a group lookup.
#[derive(Clone, Copy, Debug)]
pub enum GroupKey<'a> {
    /// Lookup by name.
    Name(&'a str),
    /// Lookup by number.
    Number(u32),
}

/// Looks up a group by its name or number; `None` when it does not exist.
///
/// # Errors
/// When the name service does not answer.
pub fn group_members(key: GroupKey<'_>) -> Result<Option<GroupMembers>, NameServiceError> {
    if IS_GLIBC { c_library::group_by_key(key) } else { getent::group_by_key(key) }
}

/// Name of the user with number `uid`, or the number.
pub fn user_name(uid: u32) -> String {
    User::numbered(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
