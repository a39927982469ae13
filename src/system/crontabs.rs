//! Reads the crontabs of this machine, and the scripts that they name, as text. Does not know which of
//! them conflict with the agent.

use std::io;
use std::path::{Path, PathBuf};

use super::files;

/// Largest crontab or script that is read, in bytes; a larger one is skipped.
const CAP: u64 = 256 * 1024;

/// Directory of the crontabs of packages and administrators.
const SYSTEMS: &str = "/etc/cron.d";

/// A crontab of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCrontab {
    /// Path of the crontab, without the base directory.
    pub path: PathBuf,
    /// Owner of the crontab; `None` for a system crontab, where each line names a user.
    pub user: Option<String>,
    /// Content in any encoding.
    pub content: Vec<u8>,
}

/// The crontabs of this machine, and those that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrontabScan {
    /// Readable crontabs, sorted by path.
    pub read: Vec<FoundCrontab>,
    /// Files and directories that this process has no permission to read.
    pub closed: Vec<PathBuf>,
}

/// Lists every crontab below `base` (`/` on a real machine): the system's own, those of packages, and
/// those of users, both where Debian keeps them and where others do.
pub fn crontabs(base: &Path) -> CrontabScan {
    let mut found = CrontabScan::default();
    found.add(base, Path::new("/etc/crontab"), None);
    for dir in [SYSTEMS, "/var/spool/cron/crontabs", "/var/spool/cron"] {
        let is_the_systems = dir == SYSTEMS;
        let dir = Path::new(dir);
        match std::fs::read_dir(below(base, dir)) {
            Ok(listing) => {
                let names = listing.flatten().map(|entry| dir.join(entry.file_name()));
                let mut paths: Vec<PathBuf> = names.collect();
                paths.sort();
                for path in paths {
                    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                    found.add(base, &path, name.filter(|_| !is_the_systems));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => found.closed.push(dir.to_owned()),
        }
    }
    found
}

/// Text of a script that a crontab names by its absolute path; `None` when it is missing, binary, or
/// larger than the limit.
pub fn script(base: &Path, path: &Path) -> Option<String> {
    let real = below(base, path).canonicalize().ok()?;
    let bytes = files::read_small(&real, CAP).ok()??;
    (!bytes.contains(&0)).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

impl CrontabScan {
    fn add(&mut self, base: &Path, path: &Path, user: Option<String>) {
        match files::read_small(&below(base, path), CAP) {
            Ok(Some(content)) => {
                self.read.push(FoundCrontab { path: path.to_owned(), user, content })
            }
            Ok(None) | Err(files::ReadError::NotAFile { .. }) => {}
            Err(_) => self.closed.push(path.to_owned()),
        }
    }
}

/// Maps the absolute `path` into the tree whose root is `base`.
fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}
