//! The log directories, one for each repository, opened through handles: the user of a repository owns
//! its directory. Does not know the format of a log.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FileType, Mode, OFlags, fchmod, fchown, fremovexattr, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

use super::printable;
use crate::domain::hash;
use crate::system::files::{self, Dir};

/// Longest file name in bytes (NAME_MAX of linux/limits.h).
const LONGEST_NAME: usize = 255;
/// Mode bit that lets all users pass through a directory.
const OTHERS_SEARCH: u32 = 0o001;

/// Name of the log directory of repository `name`: `name` itself, with everything outside
/// `[A-Za-z0-9._-]` and a leading dot written as `%XX`. A result too long for a file name is cut and
/// ends in `+` and a hash of the whole name.
pub fn dir_name(name: &str) -> String {
    let mut directory = String::new();
    for (at, byte) in name.bytes().enumerate() {
        let written = match byte {
            b'.' if at == 0 => "%2E".to_owned(),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        };
        directory.push_str(&written);
    }
    if directory.len() > LONGEST_NAME {
        let hash = format!("+{:016x}", hash::stable(&[name.as_bytes()]));
        // The text is ASCII, so any cut is at a character boundary.
        directory.truncate(LONGEST_NAME - hash.len());
        directory.push_str(&hash);
    }
    directory
}

/// Creates the log directory of repository `name` below `logs`, and gives it to the user who writes
/// there.
///
/// # Errors
/// When it cannot be created or its owner cannot be changed.
pub fn give_to(logs: &Path, name: &str, uid: u32, gid: u32) -> Result<()> {
    open_for(&logs.join(dir_name(name)), Uid::from_raw(uid), Gid::from_raw(gid)).map(drop)
}

/// Opens the log directory `dir` of one repository and sets its owner; creates it and its parent where
/// they are missing.
pub(super) fn open_for(dir: &Path, owner: Uid, group: Gid) -> Result<Dir> {
    let message = || format!("cannot make the log directory {}", printable(dir));
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { bail!(message()) };
    let name = name.as_bytes();
    let above = match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files::ensure_dir(parent, 0o755)?;
            Dir::open(parent)
        }
        above => above,
    };
    let above = above.with_context(message)?;
    let place = fstat(&above).with_context(message)?;
    let us = geteuid();
    // Older versions created it so that only root could reach the logs.
    if place.st_mode & OTHERS_SEARCH == 0 && place.st_uid == us.as_raw() {
        fchmod(&above, Mode::from(place.st_mode & 0o7777 | 0o055)).with_context(message)?;
    }
    let made = match above.beneath(name) {
        Err(Errno::NOENT) => match above.make(name, 0o750) {
            Ok(made) => {
                drop_acl(&made).with_context(message)?;
                Ok(made)
            }
            // Another worker created it first.
            Err(Errno::EXIST) => above.beneath(name),
            failed => failed,
        },
        found => found,
    };
    let made = match made {
        // Root creates it for other users, and reports the cause where it cannot.
        Err(Errno::ACCESS) if !us.is_root() => bail!(
            "{}: permission denied\nhint: run agent check as root: it says what is wrong there",
            message()
        ),
        Err(Errno::LOOP | Errno::NOTDIR) => bail!(
            "{0} is no directory, and the logs of a repository belong there\n\
             hint: look at what it is, and move it away: mv {0} {0}.old",
            printable(dir)
        ),
        made => made.with_context(message)?,
    };
    let found = fstat(&made).with_context(message)?;
    if found.st_uid == owner.as_raw() {
        return Ok(made);
    }
    ensure!(
        us.is_root(),
        "the log directory {0} belongs to user {1}\nhint: as root: chown -R {2} {0}",
        printable(dir),
        found.st_uid,
        owner.as_raw()
    );
    // If others can write in the parent, they may have put another directory here.
    ensure!(
        place.st_uid == us.as_raw() && place.st_mode & 0o022 == 0,
        "others than root can write in the log directory {0}\n\
         hint: chown root {0}; chmod go-w {0}",
        printable(parent)
    );
    // The previous owner may have given others access.
    drop_acl(&made).with_context(message)?;
    fchmod(&made, Mode::from(0o750)).with_context(message)?;
    fchown(&made, Some(owner), Some(group)).with_context(message)?;
    Ok(made)
}

/// Opens the log directory of one repository; `None` when it is missing.
pub(super) fn open(dir: &Path) -> Result<Option<Dir>, Errno> {
    let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Errno::INVAL);
    };
    let above = match Dir::open(above) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        above => above.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?,
    };
    match above.beneath(name.as_bytes()) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    }
}

/// Opens the log at `path` for reading.
pub(super) fn open_log(path: &Path) -> Result<File> {
    let about = || format!("cannot open the log {}", printable(path));
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { bail!(about()) };
    let dir = open(dir).and_then(|dir| dir.ok_or(Errno::NOENT)).with_context(about)?;
    // Without NONBLOCK, the open would wait for the writer of a named pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&dir, name, flags, Mode::empty()).with_context(about)?;
    let (found, owner) = (fstat(&file)?, fstat(&dir)?.st_uid);
    // A hard link to a file that only root may read has another owner than the directory.
    ensure!(
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_uid == owner,
        "{} is no log: it is no plain file of user {owner}, whose log directory this is",
        printable(path)
    );
    Ok(file.into())
}

/// Removes the ACLs of our own file or directory, such as those inherited from a default ACL: they let
/// others read what its mode denies.
///
/// # Errors
/// When the file system refuses.
pub(super) fn drop_acl(made: &impl AsFd) -> Result<(), Errno> {
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        match fremovexattr(made, list) {
            // There is no ACL, or this file system does not support ACLs.
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
