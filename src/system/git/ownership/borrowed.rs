//! Checks the files outside a clone that it uses: the configurations that its own includes, and the
//! object stores that it borrows from. Each is judged as the clone is, with the path to it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{ExpectedFile, ForeignPart, OwnershipCheck, unreadable};
use crate::system::files;

/// The largest list of alternates that is read, in bytes.
const MOST_LENDERS: u64 = 64 << 10;

/// The largest configuration that is read, in bytes.
const MOST_SETTINGS: u64 = 1 << 20;

/// How deep configurations may include one another, as in libgit2 (config_file.c: MAX_INCLUDE_DEPTH).
const MOST_INCLUDES: usize = 10;

/// The list of object stores that this one borrows from (gitrepository-layout(5)).
pub(super) const LENDERS: &str = "objects/info/alternates";

impl OwnershipCheck<'_> {
    /// The text of the clone's own configuration, after a check of the files that it includes, which
    /// count as much. `None` when it cannot be read; the code that needs it reports that.
    pub(super) fn config(&self, git: &Path) -> Result<Option<Vec<u8>>, ForeignPart> {
        let path = git.join("config");
        let Ok(Some(text)) = files::read_small(&path, MOST_SETTINGS) else { return Ok(None) };
        self.includes(&path, &text, MOST_INCLUDES)?;
        Ok(Some(text))
    }

    fn includes(&self, path: &Path, text: &[u8], depth: usize) -> Result<(), ForeignPart> {
        for included in included(&String::from_utf8_lossy(text)) {
            // `~` has no meaning here: no home directory is searched for configuration.
            let file = path.parent().unwrap_or(path).join(included);
            let walked = self.walk(&file)?;
            match files::read_small(&walked.real, MOST_SETTINGS) {
                Ok(Some(text)) if depth > 0 => self.includes(&walked.real, &text, depth - 1)?,
                Ok(_) => {}
                Err(error) => return Err(unreadable(&file, io::Error::other(error.to_string()))),
            }
        }
        Ok(())
    }

    /// Checks the object stores that the clone borrows from, and those that these borrow from.
    pub(super) fn lenders(&self, git: &Path) -> Result<(), ForeignPart> {
        // The depth to which libgit2 follows them (odb.c: GIT_ALTERNATES_MAX_DEPTH).
        self.lenders_of(&git.join("objects"), 5)
    }

    fn lenders_of(&self, objects: &Path, depth: usize) -> Result<(), ForeignPart> {
        let list = objects.join("info/alternates");
        let text = match files::read_small(&list, MOST_LENDERS) {
            Ok(Some(text)) if depth > 0 => text,
            Ok(_) => return Ok(()),
            Err(error) => {
                return Err(unreadable(&list, io::Error::other(error.to_string())));
            }
        };
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
            let store = objects.join(Path::new(OsStr::from_bytes(line)));
            let walked = self.walk(&store)?;
            if walked.found.is_none() {
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(&walked.real, flags, Mode::empty())
                .map_err(|error| unreadable(&walked.real, error))?;
            for (name, expected) in [
                ("pack", ExpectedFile::Directory),
                ("info", ExpectedFile::Directory),
                ("info/alternates", ExpectedFile::ReadFile),
            ] {
                self.check_file(dir.as_fd(), Path::new(name), &walked.real.join(name), expected)?;
            }
            self.lenders_of(&walked.real, depth - 1)?;
        }
        Ok(())
    }
}

/// The paths that a configuration includes, whatever the condition (git-config(1), "Includes").
fn included(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut includes = false;
    // A backslash at the end continues a line.
    for line in text.replace("\\\n", "").lines() {
        let line = line.trim();
        if let Some(title) = line.strip_prefix('[') {
            includes = title.trim_start().to_ascii_lowercase().starts_with("include");
        }
        // The first key may follow the section title in the same line.
        let assignment = line.rsplit_once(']').map_or(line, |(_, rest)| rest).trim();
        let Some((key, value)) = assignment.split_once('=').filter(|_| includes) else { continue };
        if key.trim().eq_ignore_ascii_case("path") {
            let value = value.trim();
            let path = match value.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => value.split([';', '#']).next().map(str::trim_end),
            };
            paths.extend(path.map(str::to_owned));
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_configurations_are_found_however_they_are_written() {
        for (text, paths) in [
            ("[include]\n\tpath = a\n", vec!["a"]),
            ("[Include] path=a\n[user]\npath = b\n", vec!["a"]),
            ("[includeIf \"gitdir:/x\"]\n  PATH = \"a b\" ; why\n", vec!["a b"]),
            ("[include]\npath = a\\\nb\n", vec!["ab"]),
            ("[remote \"include\"]\npath = a\n", vec![]),
            ("[include]\n", vec![]),
        ] {
            assert_eq!(included(text), paths, "{text:?}");
        }
    }
}
