//! Reads files that another user may have planted: without blocking and without following a link. Does
//! not know what the files mean.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use rustix::fs::{FileType, OFlags};

/// Error of reading a small file.
#[derive(Debug)]
pub enum ReadError {
    /// Not a regular file; a read could block forever or reach another file.
    NotAFile {
        /// Path of the file.
        path: PathBuf,
        /// Actual type, such as "a named pipe".
        found: &'static str,
    },
    /// The file is larger than the limit.
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// The limit in bytes.
        cap: u64,
    },
    /// A system call failed.
    Failed {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile { path, found } => {
                write!(f, "{} is {found}, where a regular file is expected", path.display())
            }
            Self::TooLarge { path, cap } => {
                write!(f, "{} has more than {cap} bytes", path.display())
            }
            Self::Failed { path, .. } => write!(f, "cannot read {}", path.display()),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Opens the regular file at `path` for reading; `None` when it is missing. Never blocks, as a planted
/// named pipe would make it, and never follows a symbolic link at the end of `path`.
///
/// # Errors
/// See [`ReadError`].
pub fn open_plain(path: &Path) -> Result<Option<File>, ReadError> {
    Ok(open_found(path)?.map(|(file, _)| file))
}

/// As [`open_plain`], with the attributes of the opened file.
fn open_found(path: &Path) -> Result<Option<(File, fs::Metadata)>, ReadError> {
    let failed = |cause| ReadError::Failed { path: path.to_owned(), cause };
    let not_a_file = |found: &fs::Metadata| {
        let found = kind_in_words(FileType::from_raw_mode(found.mode()));
        ReadError::NotAFile { path: path.to_owned(), found }
    };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link or a socket cannot be opened this way; the error alone does not say which it is.
        Err(error) => {
            return Err(match fs::symlink_metadata(path) {
                Ok(found) if !found.is_file() => not_a_file(&found),
                _ => failed(error),
            });
        }
    };
    let found = file.metadata().map_err(failed)?;
    match found.is_file() {
        true => Ok(Some((file, found))),
        false => Err(not_a_file(&found)),
    }
}

/// Reads the whole regular file at `path`, opened as [`open_plain`] does; `None` when it is missing.
///
/// # Errors
/// See [`ReadError`].
pub fn read_small(path: &Path, cap: u64) -> Result<Option<Vec<u8>>, ReadError> {
    Ok(read_found(path, cap)?.map(|(content, _)| content))
}

/// As [`read_small`], with the attributes of the file that was read.
///
/// # Errors
/// See [`ReadError`].
pub fn read_found(path: &Path, cap: u64) -> Result<Option<(Vec<u8>, fs::Metadata)>, ReadError> {
    let failed = |cause| ReadError::Failed { path: path.to_owned(), cause };
    let Some((mut file, found)) = open_found(path)? else { return Ok(None) };
    let too_large = || ReadError::TooLarge { path: path.to_owned(), cap };
    if found.len() > cap {
        return Err(too_large());
    }
    // One byte more than its size: a regular file gives less than asked for only at its end.
    let expected = usize::try_from(found.len().saturating_add(1)).unwrap_or_default();
    let mut content = vec![0; expected];
    let given = file.read(&mut content).map_err(failed)?;
    content.truncate(given);
    if given == expected || (given as u64) < found.len() {
        // It changes meanwhile.
        file.take(cap.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    }
    match content.len() as u64 > cap {
        true => Err(too_large()),
        false => Ok(Some((content, found))),
    }
}

/// Names a file type for messages, such as "a named pipe".
pub fn kind_in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}

/// Private files that root has read for a user process: texts by path.
static HANDED_OVER: OnceLock<BTreeMap<PathBuf, String>> = OnceLock::new();

/// Makes [`read_private`] return these texts for their paths. Call once in a process.
pub fn hand_over(texts: BTreeMap<PathBuf, String>) {
    // Only one helper input arrives in a process, so a second call does not occur.
    let _ = HANDED_OVER.set(texts);
}

/// Whether [`hand_over`] provided the text of `path`.
pub fn is_handed_over(path: &Path) -> bool {
    HANDED_OVER.get().is_some_and(|texts| texts.contains_key(path))
}

/// Reads a text file of at most `cap` bytes that others must not be able to read, such as a secret.
///
/// # Errors
/// When it is missing, is not a regular file, is not UTF-8, or its mode lets others read it.
pub fn read_private(path: &Path, cap: u64) -> Result<String> {
    if let Some(text) = HANDED_OVER.get().and_then(|texts| texts.get(path)) {
        return Ok(text.clone());
    }
    let shown = path.display();
    let bytes = read_small(path, cap)?.with_context(|| format!("{shown} is not there"))?;
    let meta = fs::symlink_metadata(path).with_context(|| format!("cannot look at {shown}"))?;
    let mode = meta.permissions().mode() & 0o777;
    anyhow::ensure!(
        mode & 0o004 == 0,
        "{shown} can be read by everybody (mode {mode:04o})\nhint: chmod o-r {shown}"
    );
    String::from_utf8(bytes).ok().with_context(|| format!("{shown} is not valid UTF-8"))
}
