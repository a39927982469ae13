//! Permissions, free space and type of file system of a directory: queries the kernel and never tries,
//! so that a check changes nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Checks that files can be created in `directory`, or, where it does not exist yet, the directory itself.
///
/// # Errors
/// Names the directory that is not writable, and the cause.
pub fn writable(directory: &Path) -> Result<()> {
    let standing = standing(directory);
    if !standing.is_dir() {
        bail!("{} is not a directory", standing.display());
    }
    // As the effective user, which is the one that writes.
    accessat(CWD, standing, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .with_context(|| format!("nothing can be written in {}", standing.display()))
}

/// Bytes that an unprivileged process may still write on the file system of `directory`.
///
/// # Errors
/// When statvfs(2) fails.
pub fn free_space(directory: &Path) -> Result<u64> {
    let standing = standing(directory);
    fs2::available_space(standing)
        .with_context(|| format!("cannot ask how much room is left in {}", standing.display()))
}

/// Network file systems of linux/magic.h, which other machines also write.
const SHARED: [(u32, &str); 7] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// Name of the network file system of `directory`; `None` for a local disk.
///
/// # Errors
/// When statfs(2) fails.
pub fn shared_with_other_machines(directory: &Path) -> Result<Option<&'static str>> {
    let standing = standing(directory);
    let found = rustix::fs::statfs(standing)
        .with_context(|| format!("cannot ask what disk {} is on", standing.display()))?;
    // The kernel's numbers have 32 bits; the width of the field depends on the architecture.
    let kind = found.f_type as u32;
    Ok(SHARED.into_iter().find(|(magic, _)| *magic == kind).map(|(_, name)| name))
}

/// The nearest existing ancestor of `path`, or `path` itself.
fn standing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use crate::system::permissions::*;

    #[test]
    fn a_directory_that_is_to_be_made_is_judged_by_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        writable(&dir.path().join("a/b")).unwrap();
        assert!(free_space(&dir.path().join("a/b")).unwrap() > 0);
        std::fs::File::create(dir.path().join("file")).unwrap();
        let error = writable(&dir.path().join("file")).unwrap_err();
        assert!(error.to_string().ends_with("file is not a directory"), "{error}");
    }

    #[test]
    fn where_the_kernel_lets_no_user_write_it_says_so() {
        let error = writable(Path::new("/proc/sys")).map_err(|error| error.to_string());
        assert_eq!(error, Err("nothing can be written in /proc/sys".to_owned()));
    }
}
