//! Small files and folders: write one so that a reader and a crash see the old content or the new,
//! read one that somebody else may have planted, and open folders without following a symbolic
//! link. Knows neither git nor what the files mean.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags,
};
use rustix::io::Errno;

use super::pid::Process;

mod fault;

pub use fault::Fault;

/// An open folder. Whatever happens to its path, it stays this folder.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens the folder at `path`, which the configuration or the caller vouches for: symbolic
    /// links in it are followed.
    ///
    /// # Errors
    /// When there is no folder or it may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Opens the folder at `relative` (empty: this one again). Never leaves this folder and never
    /// follows a symbolic link, not even in the middle of the path.
    ///
    /// # Errors
    /// `ENOENT` when it is missing, `ENOTDIR` or `ELOOP` when something else stands in the way.
    pub fn beneath(&self, relative: &[u8]) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let relative = if relative.is_empty() { b"." } else { relative };
        Ok(Self { fd: rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve)? })
    }

    /// The folder that this one is in now, wherever it may have been moved.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn above(&self) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, "..", flags, Mode::empty())? })
    }

    /// Makes the folder `name` with exactly `mode`, whatever the umask and the group of this one.
    ///
    /// # Errors
    /// `EEXIST` when anything has that name.
    pub fn make(&self, name: &[u8], mode: u32) -> Result<Self, Errno> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from(mode))?;
        let made = self.beneath(name)?;
        have_mode(&made, mode)?;
        Ok(made)
    }

    /// What has the name `name`; a link is not followed. `None`: nothing.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn look_at(&self, name: &[u8]) -> Result<Option<Statx>, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names in it and what stands there, in no particular order.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn entries(&self) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems tell no kind when they list.
                FileType::Unknown => match self.look_at(name)? {
                    Some(found) => FileType::from_raw_mode(u32::from(found.stx_mode)),
                    None => continue,
                },
                kind => kind,
            };
            found.push((name.to_vec(), kind));
        }
        Ok(found)
    }

    /// Whether the kernel can do what [`Dir::beneath`] needs.
    ///
    /// # Errors
    /// When it cannot: Linux before 5.6, or a sandbox that forbids `openat2`.
    pub fn check_kernel(&self) -> Result<()> {
        self.beneath(b"").map(drop).context(
            "this kernel does not let the agent open folders safely (openat2)\n\
             hint: Linux 5.6 or newer is needed; in a container, a newer runtime that allows openat2",
        )
    }

    /// Waits until names in this folder are on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

/// A file that is written and on disk, but not yet at its name. Dropped without
/// [`Prepared::commit`], it goes away.
#[derive(Debug)]
pub struct Prepared {
    dir: Dir,
    file: File,
    temporary: String,
    name: String,
    path: PathBuf,
    committed: bool,
}

impl Prepared {
    /// Gives the file its name; the one that had it before is gone. Takes no new space for content,
    /// so a full disk does not stop it.
    ///
    /// # Errors
    /// When the rename fails (the old file stays), or the disk cannot confirm it.
    pub fn commit(mut self) -> Result<()> {
        self.rename()?;
        self.dir.sync().with_context(|| format!("cannot replace {}", self.path.display()))
    }

    fn rename(&mut self) -> Result<()> {
        rustix::fs::renameat(&self.dir, self.temporary.as_str(), &self.dir, self.name.as_str())
            .with_context(|| format!("cannot replace {}", self.path.display()))?;
        self.committed = true;
        Ok(())
    }

    /// Gives the file its name unless something has it; tells whether it did.
    ///
    /// # Errors
    /// As [`Prepared::commit`].
    pub fn commit_unless_taken(mut self) -> Result<bool> {
        let told = || format!("cannot make {}", self.path.display());
        let (from, to) = (self.temporary.as_str(), self.name.as_str());
        match rustix::fs::renameat_with(&self.dir, from, &self.dir, to, RenameFlags::NOREPLACE) {
            Ok(()) => self.committed = true,
            Err(Errno::EXIST) => return Ok(false),
            // A file system without that flag: a hard link fails likewise when the name is taken.
            Err(Errno::INVAL) => {
                match rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty()) {
                    Err(Errno::EXIST) => return Ok(false),
                    linked => linked.with_context(told)?,
                }
            }
            Err(error) => return Err(error).with_context(told),
        }
        self.dir.sync().with_context(told)?;
        Ok(true)
    }

    /// What the file looks like; giving it its name changes neither time nor inode.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn metadata(&self) -> Result<fs::Metadata> {
        self.file.metadata().with_context(|| format!("cannot look at {}", self.path.display()))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing reads it, and a leftover is swept by the next recovery.
            let _ = rustix::fs::unlinkat(&self.dir, self.temporary.as_str(), AtFlags::empty());
        }
    }
}

/// Writes `bytes` beside `dir/name` with exactly `mode`, and waits until they are on disk.
///
/// # Errors
/// When the folder is missing, or the disk is full or fails. Nothing is left behind.
pub fn prepare(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<Prepared> {
    let mut staged = stage(dir, name, mode)?;
    let file = &mut staged.file;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", dir.join(name).display()))?;
    Ok(staged)
}

/// An empty file beside `dir/name`.
fn stage(dir: &Path, name: &str, mode: u32) -> Result<Prepared> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    let told = || format!("cannot write {}", path.display());
    let handle = Dir::open(dir).with_context(told)?;
    let (temporary, file) = loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".{name}.{}.{number}.new", std::process::id());
        match create_new(&handle, temporary.as_bytes(), mode) {
            // Left by a dead process that had our id, which in a container is the usual thing.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            file => break (temporary, file.with_context(told)?),
        }
    };
    Ok(Prepared { dir: handle, file, temporary, name: name.to_owned(), path, committed: false })
}

/// Puts `bytes` at `dir/name` with exactly `mode`: afterwards, and after any crash, the file is the
/// old one or the new one, whole.
///
/// # Errors
/// As [`prepare`] and [`Prepared::commit`].
pub fn put(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    prepare(dir, name, bytes, mode)?.commit()
}

/// Creates the file `name` with exactly `mode`, whatever the umask. Fails when anything has that
/// name, a dangling link included.
pub(super) fn create_new(dir: &impl AsFd, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from(mode))?;
    have_mode(&file, mode)?;
    Ok(file.into())
}

/// Gives what was just made with `mode` that mode, where the umask, the group or a default list of
/// who may do what left it another. Looking is far cheaper than setting: that is one more write.
fn have_mode(made: &impl AsFd, mode: u32) -> Result<(), Errno> {
    if rustix::fs::fstat(made)?.st_mode & 0o7777 == mode {
        return Ok(());
    }
    rustix::fs::fchmod(made, Mode::from(mode))
}

/// Removes the file `dir/name`. That it is gone already is fine, and so is a missing folder.
///
/// # Errors
/// When it is a folder, may not be removed, or the disk cannot confirm it.
pub fn remove(dir: &Path, name: &str) -> Result<()> {
    match unlink(dir, name)? {
        Some(handle) => {
            handle.sync().with_context(|| format!("cannot remove {}", dir.join(name).display()))
        }
        None => Ok(()),
    }
}

/// As [`remove`], for a file that may be there again after a crash.
///
/// # Errors
/// When it is a folder or may not be removed.
pub fn remove_lazily(dir: &Path, name: &str) -> Result<()> {
    unlink(dir, name).map(drop)
}

/// The folder from which the file was removed; `None`: there was none.
fn unlink(dir: &Path, name: &str) -> Result<Option<Dir>> {
    let told = || format!("cannot remove {}", dir.join(name).display());
    let handle = match Dir::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        handle => handle.with_context(told)?,
    };
    match rustix::fs::unlinkat(&handle, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(None),
        outcome => outcome.map(|()| Some(handle)).map_err(io::Error::from).with_context(told),
    }
}

/// Removes what dead processes prepared in `dir` and never committed.
///
/// # Errors
/// When the folder cannot be read or a leftover not be removed. A missing folder is fine.
pub fn sweep(dir: &Path) -> Result<()> {
    let told = || format!("cannot clean up {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(told)?,
    };
    for entry in entries {
        let name = entry.with_context(told)?.file_name();
        if let Some(name) = name.to_str()
            && preparer(name).is_some_and(|pid| Process::find(pid).is_none())
        {
            remove(dir, name)?;
        }
    }
    Ok(())
}

/// Puts `bytes` at `dir/name` as [`put`] does, and does not wait for the disk: after a power cut the
/// file may be the old one, the new one or empty. For what the next tick finds out anew. In a folder
/// that several processes write in without a lock: what dead ones left is removed.
///
/// # Errors
/// As [`put`] and [`sweep`].
pub fn put_lazily(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    sweep(dir)?;
    let mut staged = stage(dir, name, mode)?;
    staged
        .file
        .write_all(bytes)
        .with_context(|| format!("cannot write {}", dir.join(name).display()))?;
    staged.rename()
}

/// Whose file `name` is, if it is one that [`prepare`] gives: `.NAME.PID.NUMBER.new`.
fn preparer(name: &str) -> Option<i32> {
    let stem = name.strip_prefix('.')?.strip_suffix(".new")?;
    let mut parts = stem.rsplitn(3, '.');
    let _number: u32 = parts.next()?.parse().ok()?;
    let pid = parts.next()?.parse().ok()?;
    parts.next().map(|_| pid)
}

/// Makes the folder `path`, and those above it that are missing, with exactly `mode`. One that
/// exists keeps its mode.
///
/// # Errors
/// When something else has that name, or it may not be made.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        ensure_dir(parent, mode)?;
    }
    let made = match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(());
        }
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    };
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Why a small file could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// Something else stands there; reading it might block for ever or lead elsewhere.
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is instead, such as "a named pipe".
        found: &'static str,
    },
    /// It is larger than it can rightly be.
    TooLarge {
        /// Where.
        path: PathBuf,
        /// The most bytes that were expected.
        cap: u64,
    },
    /// The system said no.
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
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

/// The whole content of the regular file at `path`; `None` when there is none. Never waits, as a
/// planted named pipe would make it, and never follows a symbolic link at the end of `path`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_small(path: &Path, cap: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let failed = |cause| ReadError::Failed { path: path.to_owned(), cause };
    let not_a_file = |kind| ReadError::NotAFile { path: path.to_owned(), found: describe(kind) };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link or a socket cannot be opened this way; the error alone does not say which.
        Err(error) => {
            return Err(match fs::symlink_metadata(path) {
                Ok(found) if !found.is_file() => not_a_file(found.file_type()),
                _ => failed(error),
            });
        }
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(not_a_file(found.file_type()));
    }
    // One byte more than it has, so that its end is seen without growing.
    let expected = found.len().min(cap).saturating_add(1);
    let mut content = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    file.take(cap.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > cap {
        return Err(ReadError::TooLarge { path: path.to_owned(), cap });
    }
    Ok(Some(content))
}

fn describe(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// What root has read for us, who may not: private files by their paths.
static HANDED_OVER: OnceLock<BTreeMap<PathBuf, String>> = OnceLock::new();

/// From now on [`read_private`] answers with these texts for their paths. Once in a process.
pub fn hand_over(texts: BTreeMap<PathBuf, String>) {
    // A second call would come from a second parcel, and there is one.
    let _ = HANDED_OVER.set(texts);
}

/// A text file of at most `cap` bytes that others must not be able to read, such as one with
/// secrets.
///
/// # Errors
/// When it is missing, is no file, is no UTF-8, or its mode lets others read it.
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

#[cfg(test)]
mod tests;
