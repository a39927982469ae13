//! Write access to one file or directory, from its owner, its mode and its ACL. Does not know the path.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Trust;
use crate::system::files::ACCESS_ACL;

const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Largest ACL that is read, in bytes; a larger one counts as open to everybody.
const LONGEST_ACL: usize = 4 << 10;

/// Users and groups with write access to a file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteAccess {
    kind: FileType,
    owner: u32,
    sticky: bool,
    everyone: bool,
    users: Vec<u32>,
    groups: Vec<u32>,
}

/// Way in which an untrusted user could change a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// An untrusted owner.
    Owner(u32),
    /// A mode that lets everybody write.
    Everyone,
    /// Write permission for this group.
    Group(u32),
    /// An ACL entry that lets this user write.
    AclUser(u32),
    /// An ACL entry that lets this group write.
    AclGroup(u32),
}

impl WriteAccess {
    /// Type of the file.
    pub fn kind(&self) -> FileType {
        self.kind
    }

    /// Whether the directory is sticky: only the owner of an entry can replace it.
    pub fn is_sticky(&self) -> bool {
        self.sticky
    }

    /// Write access according to the attributes `found`. `acl` reads the ACL, and is called only if the
    /// group bits permit writes, because they are the mask of an ACL (acl(5)).
    pub fn of(found: &Stat, acl: impl FnOnce() -> AccessList) -> Self {
        let kind = FileType::from_raw_mode(found.st_mode);
        let mode = found.st_mode;
        // The mode of a symbolic link has no meaning.
        let is_link = kind == FileType::Symlink;
        let mut access = Self {
            kind,
            owner: found.st_uid,
            sticky: mode & STICKY != 0,
            everyone: mode & OTHERS_WRITE != 0 && !is_link,
            users: Vec::new(),
            groups: Vec::new(),
        };
        if mode & GROUP_WRITE != 0 && !is_link {
            match acl() {
                AccessList::Absent => access.groups.push(found.st_gid),
                AccessList::Unreadable => access.everyone = true,
                AccessList::Found(bytes) => access.add_acl(&bytes, found.st_gid),
            }
        }
        access
    }

    fn add_acl(&mut self, bytes: &[u8], gid: u32) {
        const WRITE: u16 = 2;
        let Some(entries) = acl_entries(bytes) else {
            self.everyone = true;
            return;
        };
        let mask =
            entries.iter().find(|(tag, ..)| *tag == tag::MASK).map_or(WRITE, |(_, it, _)| *it);
        for (tag, permissions, id) in entries {
            if permissions & mask & WRITE == 0 {
                continue;
            }
            match tag {
                tag::USER => self.users.push(id),
                tag::GROUP_OBJ => self.groups.push(gid),
                tag::GROUP => self.groups.push(id),
                _ => {}
            }
        }
    }

    /// Way in which a user outside `trust` could change it; `None` when there is no way.
    pub fn fault(&self, trust: &Trust, gid: Option<u32>) -> Option<WriteFault> {
        if !trust.includes_user(self.owner) {
            return Some(WriteFault::Owner(self.owner));
        }
        if self.everyone {
            return Some(WriteFault::Everyone);
        }
        if let Some(user) = self.users.iter().find(|uid| !trust.includes_user(**uid)) {
            return Some(WriteFault::AclUser(*user));
        }
        let group = *self.groups.iter().find(|gid| !trust.includes_group(**gid))?;
        Some(match gid == Some(group) {
            true => WriteFault::Group(group),
            false => WriteFault::AclGroup(group),
        })
    }
}

/// ACL of a file, as far as it is readable.
#[derive(Debug, PartialEq, Eq)]
pub enum AccessList {
    /// No ACL, or none supported by the file system: the mode says all.
    Absent,
    /// The ACL cannot be read.
    Unreadable,
    /// Bytes of the ACL.
    Found(Vec<u8>),
}

/// Tags of ACL entries (linux/posix_acl.h).
mod tag {
    pub const USER: u16 = 0x02;
    pub const GROUP_OBJ: u16 = 0x04;
    pub const GROUP: u16 = 0x08;
    pub const MASK: u16 = 0x10;
}

/// Tag, permissions and id of each entry (linux/posix_acl_xattr.h); `None` when it is not an ACL of the
/// known version.
fn acl_entries(bytes: &[u8]) -> Option<Vec<(u16, u16, u32)>> {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    let entries = bytes.strip_prefix(&VERSION)?;
    let (entries, rest) = entries.as_chunks::<8>();
    rest.is_empty().then(|| {
        let entry = |[a, b, c, d, id @ ..]: &[u8; 8]| {
            (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]), u32::from_le_bytes(*id))
        };
        entries.iter().map(entry).collect()
    })
}

/// Reads the ACL of `name` in `dir`, whose attributes are `found`.
pub fn read_acl(dir: BorrowedFd<'_>, name: &Path, found: &Stat) -> AccessList {
    if !matches!(
        FileType::from_raw_mode(found.st_mode),
        FileType::RegularFile | FileType::Directory
    ) {
        // Opening any other file type may have an effect, and none is used anyway.
        return AccessList::Absent;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty()) else {
        return AccessList::Unreadable;
    };
    // Another file may have that name by now.
    let same = rustix::fs::fstat(&file)
        .is_ok_and(|now| (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino));
    if !same {
        return AccessList::Unreadable;
    }
    let mut bytes = vec![0; LONGEST_ACL];
    match rustix::fs::fgetxattr(&file, ACCESS_ACL, &mut bytes[..]) {
        Ok(length) => {
            bytes.truncate(length);
            AccessList::Found(bytes)
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => AccessList::Absent,
        Err(_) => AccessList::Unreadable,
    }
}
