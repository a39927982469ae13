//! A part of a path that an untrusted user could change, with its message and remedy. Does not search
//! for it.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::WriteFault;
use crate::domain::text::EscapeControls;
use crate::system::users::{self, GroupKey};

/// A directory, link or file that an untrusted user can change.
#[derive(Debug, PartialEq, Eq)]
pub struct UntrustedPart {
    /// Path of the part.
    pub path: PathBuf,
    kind: FileType,
    /// Way in which it can be changed.
    pub fault: WriteFault,
    /// The user that does the work.
    uid: u32,
}

impl UntrustedPart {
    /// A part that users other than `uid` and its trustees could change.
    pub fn new(path: PathBuf, kind: FileType, fault: WriteFault, uid: u32) -> Self {
        Self { path, kind, fault, uid }
    }

    /// Shell command that removes the write access.
    pub fn remedy(&self) -> String {
        let path = shell_quoted(&self.path);
        let us = users::user_name(self.uid);
        match self.fault {
            WriteFault::Owner(_) if self.kind == FileType::Symlink => {
                format!("chown -h {us} {path}")
            }
            WriteFault::Owner(_) => format!("chown {us} {path}"),
            WriteFault::Everyone => format!("chmod o-w {path}"),
            WriteFault::Group(_) => format!("chmod g-w {path}"),
            WriteFault::AclUser(_) | WriteFault::AclGroup(_) => format!("setfacl -b {path}"),
        }
    }

    /// Entry for `trusted` that would permit it; `None` where that would admit everybody.
    pub fn trustee(&self) -> Option<String> {
        match self.fault {
            WriteFault::Owner(uid) | WriteFault::AclUser(uid) => Some(users::user_name(uid)),
            WriteFault::Group(gid) | WriteFault::AclGroup(gid) => {
                Some(format!("@{}", group_name(gid)))
            }
            WriteFault::Everyone => None,
        }
    }

    /// The user who could work there instead; `None` where not a single user is concerned.
    pub fn other_user(&self) -> Option<String> {
        match self.fault {
            WriteFault::Owner(uid) => Some(users::user_name(uid)),
            _ => None,
        }
    }
}

impl fmt::Display for UntrustedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = path.escape_controls();
        let us = users::user_name(self.uid);
        match self.fault {
            WriteFault::Owner(uid) => {
                write!(f, "{path} belongs to {}", users::user_name(uid))?;
            }
            WriteFault::Everyone => write!(f, "{path} can be written by every user")?,
            WriteFault::Group(gid) => {
                write!(f, "{path} can be written by the group {}", group_name(gid))?;
            }
            WriteFault::AclUser(uid) => {
                write!(f, "{path} can be written by {} (ACL)", users::user_name(uid))?;
            }
            WriteFault::AclGroup(gid) => {
                write!(f, "{path} can be written by the group {} (ACL)", group_name(gid))?;
            }
        }
        match self.kind {
            FileType::Symlink => write!(f, ", who could let it lead elsewhere"),
            FileType::Directory => write!(f, ", who could put something else there"),
            _ => write!(f, ", who could change it"),
        }?;
        write!(f, "; the agent works as {us} here")
    }
}

impl std::error::Error for UntrustedPart {}

/// Name of group `gid`, or the number.
fn group_name(gid: u32) -> String {
    let group = users::group_members(GroupKey::Number(gid)).ok().flatten();
    group.map_or_else(|| gid.to_string(), |group| group.name)
}

/// Quotes a path as one shell word.
fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@:,=".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''").escape_controls()),
    }
}
