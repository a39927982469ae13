//! What the system would let us do in a folder, and how much room is left there: asked, never tried,
//! so that looking changes nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Whether files can be made in `folder`, or, where it does not exist yet, it can be made itself.
///
/// # Errors
/// Says in which folder not, and why.
pub fn writable(folder: &Path) -> Result<()> {
    let standing = standing(folder);
    if !standing.is_dir() {
        bail!("{} is no folder", standing.display());
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
        assert!(error.to_string().ends_with("file is no folder"), "{error}");
    }

    #[test]
    fn where_the_kernel_lets_nobody_write_it_says_so() {
        let error = writable(Path::new("/proc/sys")).map_err(|error| error.to_string());
        assert_eq!(error, Err("nothing can be written in /proc/sys".to_owned()));
    }
}
