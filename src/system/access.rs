//! What the system would let us and others do in a folder, how much room is left there, and what kind
//! of disk it is on: asked, never tried, so that looking changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Whether files can be made in `folder`, or, where it does not exist yet, it can be made itself.
///
/// # Errors
/// Says in which folder not, and why.
pub fn writable(folder: &Path) -> Result<()> {
    let standing = standing(folder);
    if !standing.is_dir() {
        bail!("{} is not a directory", standing.display());
    }
    // As the effective user, which is the one that writes.
    accessat(CWD, standing, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .with_context(|| format!("nothing can be written in {}", standing.display()))
}

/// How many bytes an unprivileged process may still write on the file system of `folder`.
///
/// # Errors
/// When the system does not tell.
pub fn free_space(folder: &Path) -> Result<u64> {
    let standing = standing(folder);
    fs2::available_space(standing)
        .with_context(|| format!("cannot ask how much room is left in {}", standing.display()))
}

/// The file systems of linux/magic.h that other machines write as well.
const SHARED: [(u32, &str); 7] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// The name of the network file system that `folder` is on; `None` for a disk of this machine.
///
/// # Errors
/// When the system does not tell.
pub fn shared_with_other_machines(folder: &Path) -> Result<Option<&'static str>> {
    let standing = standing(folder);
    let found = rustix::fs::statfs(standing)
        .with_context(|| format!("cannot ask what disk {} is on", standing.display()))?;
    // The kernel's numbers have 32 bits; how wide the field is depends on the machine.
    let kind = found.f_type as u32;
    Ok(SHARED.into_iter().find(|(magic, _)| *magic == kind).map(|(_, name)| name))
}

/// Who else than user `uid` and root could replace the program at `path`: the first file or folder on
/// the way that they may write.
///
/// # Errors
/// When the way cannot be looked at.
pub fn replaceable_by_others(path: &Path, uid: u32) -> Result<Option<PathBuf>> {
    for part in path.ancestors() {
        let meta = fs::symlink_metadata(part)
            .with_context(|| format!("cannot look at {}", part.display()))?;
        let mode = meta.mode();
        let foreign = meta.uid() != 0 && meta.uid() != uid;
        let by_group = mode & 0o020 != 0 && uid == 0 && meta.gid() != 0;
        // In a folder with the sticky bit, nobody replaces what belongs to somebody else.
        let by_others = mode & 0o002 != 0 && mode & 0o1000 == 0;
        if foreign || (!meta.is_symlink() && (by_group || by_others)) {
            return Ok(Some(part.to_owned()));
        }
    }
    Ok(None)
}

/// The nearest folder on the way to `path` that exists.
fn standing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_to_be_made_is_judged_by_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        writable(&dir.path().join("a/b")).unwrap();
        assert!(free_space(&dir.path().join("a/b")).unwrap() > 0);
        std::fs::File::create(dir.path().join("file")).unwrap();
        let error = writable(&dir.path().join("file")).unwrap_err();
        assert!(error.to_string().ends_with("file is not a directory"), "{error}");
    }

    #[test]
    fn where_the_kernel_lets_nobody_write_it_says_so() {
        let error = writable(Path::new("/proc/sys")).map_err(|error| error.to_string());
        assert_eq!(error, Err("nothing can be written in /proc/sys".to_owned()));
    }
}
