//! The crontabs of this machine and the scripts that they name, as text. Does not know what makes
//! one a rival.

use std::io;
use std::path::{Path, PathBuf};

use super::files;

/// The most of a crontab or a script that is read, in bytes; a larger one is left out.
const CAP: u64 = 256 * 1024;

/// Where packages and administrators put theirs.
const SYSTEMS: &str = "/etc/cron.d";

/// A crontab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crontab {
    /// Where it is, without the base folder.
    pub path: PathBuf,
    /// Whose it is; `None`: the system's, where each line names a user.
    pub user: Option<String>,
    /// What it says, in whatever encoding.
    pub content: Vec<u8>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crontabs {
    /// Those that can be read, by path.
    pub read: Vec<Crontab>,
    /// Files and folders that we may not read.
    pub closed: Vec<PathBuf>,
}

/// Every crontab below `base`, which is `/` on a real machine: the system's own, those of packages,
/// and those of users where Debian and where others keep them.
pub fn crontabs(base: &Path) -> Crontabs {
    let mut found = Crontabs::default();
    found.add(base, Path::new("/etc/crontab"), None);
    for folder in [SYSTEMS, "/var/spool/cron/crontabs", "/var/spool/cron"] {
        let is_the_systems = folder == SYSTEMS;
        let folder = Path::new(folder);
        match std::fs::read_dir(below(base, folder)) {
            Ok(listing) => {
                let names = listing.flatten().map(|entry| folder.join(entry.file_name()));
                let mut paths: Vec<PathBuf> = names.collect();
                paths.sort();
                for path in paths {
                    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                    found.add(base, &path, name.filter(|_| !is_the_systems));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => found.closed.push(folder.to_owned()),
        }
    }
    found
}

/// The text of a script that a crontab names by its absolute path; `None` when there is none, or it
/// is a program or larger than any script.
pub fn script(base: &Path, path: &Path) -> Option<String> {
    let real = below(base, path).canonicalize().ok()?;
    let bytes = files::read_small(&real, CAP).ok()??;
    (!bytes.contains(&0)).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

impl Crontabs {
    fn add(&mut self, base: &Path, path: &Path, user: Option<String>) {
        match files::read_small(&below(base, path), CAP) {
            Ok(Some(content)) => self.read.push(Crontab { path: path.to_owned(), user, content }),
            Ok(None) | Err(files::ReadError::NotAFile { .. }) => {}
            Err(_) => self.closed.push(path.to_owned()),
        }
    }
}

/// `path`, which is absolute, as if `base` were the root of the file system.
fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}
