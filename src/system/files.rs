//! Small files and directories: write a file so that a reader or a crash sees either the old content or
//! the new, read a file that another user may have planted, and open directories without following a
//! symbolic link. Knows neither git nor what the files mean.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Statx, StatxFlags,
};
use rustix::io::Errno;

use super::pid::Process;

mod fault;
mod read;

pub use fault::{DiskFault, check_room};
pub use read::{
    ReadError, hand_over, is_handed_over, kind_in_words, open_plain, read_found, read_private,
    read_small,
};

/// Bytes of a directory listing that are read at a time: some hundred names.
const LISTING: usize = 8 << 10;

/// Extended attribute that holds the ACL of a file (acl(5)).
pub const ACCESS_ACL: &str = "system.posix_acl_access";
/// Extended attribute that holds the default ACL of a directory, which new entries inherit.
pub const DEFAULT_ACL: &str = "system.posix_acl_default";

/// An open directory. It stays the same directory even when its path changes.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl Dir {
    /// Opens the directory at `path`, which the configuration or the caller trusts: follows symbolic
    /// links in it.
    ///
    /// # Errors
    /// When it is missing or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Opens the directory at `relative` (empty: this one again). Never leaves this directory and never
    /// follows a symbolic link, not even in the middle of the path.
    ///
    /// # Errors
    /// `ENOENT` when it is missing, `ENOTDIR` or `ELOOP` when something else is in the way.
    pub fn beneath(&self, relative: &[u8]) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let relative = if relative.is_empty() { b"." } else { relative };
        Ok(Self { fd: rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve)? })
    }

    /// Opens the current parent of this directory, even after a move.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn above(&self) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, "..", flags, Mode::empty())? })
    }

    /// Creates the directory `name` with exactly `mode`, whatever the umask and a default ACL, and
    /// set-gid where this one is.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken.
    pub fn make(&self, name: &[u8], mode: u32) -> Result<Self, Errno> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from(mode))?;
        let made = self.beneath(name)?;
        have_mode(&made, mode)?;
        Ok(made)
    }

    /// Creates the directory `name` as git does: mode 0777 less the umask, or as the default ACL of this
    /// one says, and set-gid where this one is.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken.
    pub fn make_as_git(&self, name: &[u8]) -> Result<Self, Errno> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from(0o777))?;
        self.beneath(name)
    }

    /// Attributes of the entry `name`, without following a link; `None` when there is no such entry.
    ///
    /// # Errors
    /// When statx(2) fails.
    pub fn look_at(&self, name: &[u8]) -> Result<Option<Statx>, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the file `name` for reading; never follows a link and never blocks.
    ///
    /// # Errors
    /// When it is missing, is a link, or may not be read.
    pub fn open_file(&self, name: &[u8]) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// Names and types of the entries, in no particular order; none once the directory was removed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn entries(&self) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
        let mut found = Vec::new();
        // Read from this descriptor itself: a second one would cost every idle look three system calls.
        rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(LISTING);
        let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                // Removed since it was opened (getdents(2)).
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not report the type in a listing.
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

    /// Checks that the kernel supports what [`Dir::beneath`] needs.
    ///
    /// # Errors
    /// When it does not: Linux before 5.6, or a sandbox that forbids `openat2`.
    pub fn check_kernel(&self) -> Result<()> {
        self.beneath(b"").map(drop).context(
            "this kernel does not let the agent open directories safely (openat2)\n\
             hint: Linux 5.6 or newer is needed; in a container, a newer runtime that allows openat2",
        )
    }

    /// Syncs the entries of this directory to disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

/// A file that is on disk under a temporary name. Dropped without [`PreparedFile::commit`], it is
/// removed.
#[derive(Debug)]
pub struct PreparedFile {
    dir: Dir,
    file: File,
    temporary: String,
    name: String,
    path: PathBuf,
    committed: bool,
}

impl PreparedFile {
    /// Renames the file to its final name and replaces any old file. Needs no new space for content, so
    /// it succeeds on a full disk.
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

    /// Renames the file to its final name unless that is taken; `false` when it is taken. A power cut may
    /// take the name back.
    ///
    /// # Errors
    /// When the rename fails.
    pub fn commit_unless_taken(mut self) -> Result<bool> {
        let message = || format!("cannot make {}", self.path.display());
        let (from, to) = (self.temporary.as_str(), self.name.as_str());
        match rustix::fs::renameat_with(&self.dir, from, &self.dir, to, RenameFlags::NOREPLACE) {
            Ok(()) => self.committed = true,
            Err(Errno::EXIST) => return Ok(false),
            // The file system lacks that flag: a hard link also fails when the name is taken.
            Err(Errno::INVAL) => {
                match rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty()) {
                    Err(Errno::EXIST) => return Ok(false),
                    linked => linked.with_context(message)?,
                }
            }
            Err(error) => return Err(error).with_context(message),
        }
        Ok(true)
    }

    /// Attributes of the file; a commit changes neither its time nor its inode.
    ///
    /// # Errors
    /// When fstat(2) fails.
    pub fn metadata(&self) -> Result<fs::Metadata> {
        self.file.metadata().with_context(|| format!("cannot look at {}", self.path.display()))
    }
}

impl Drop for PreparedFile {
    fn drop(&mut self) {
        if !self.committed {
            // No reader uses it, and the next recovery removes a leftover.
            let _ = rustix::fs::unlinkat(&self.dir, self.temporary.as_str(), AtFlags::empty());
        }
    }
}

/// Writes `bytes` next to `dir/name` with exactly `mode`, and syncs them to disk.
///
/// # Errors
/// When the directory is missing, or the disk is full or fails. Nothing is left behind.
pub fn prepare(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<PreparedFile> {
    let mut staged = stage(dir, name, mode)?;
    let file = &mut staged.file;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", dir.join(name).display()))?;
    Ok(staged)
}

/// Creates an empty temporary file next to `dir/name`.
fn stage(dir: &Path, name: &str, mode: u32) -> Result<PreparedFile> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    let message = || format!("cannot write {}", path.display());
    let handle = Dir::open(dir).with_context(message)?;
    let (temporary, file) = loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".{name}.{}.{number}.new", std::process::id());
        match create_new(&handle, temporary.as_bytes(), mode) {
            // A dead process with our id left it, which is common in a container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            file => break (temporary, file.with_context(message)?),
        }
    };
    Ok(PreparedFile { dir: handle, file, temporary, name: name.to_owned(), path, committed: false })
}

/// Replaces `dir/name` atomically with `bytes` and exactly `mode`: after a crash the file is the old
/// one or the new one, complete.
///
/// # Errors
/// As [`prepare`] and [`PreparedFile::commit`].
pub fn put(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    prepare(dir, name, bytes, mode)?.commit()
}

/// Writes `dir/name` anew, without a temporary file and without a sync: cut off, it is missing or
/// incomplete, and nothing else is left.
///
/// # Errors
/// When it cannot be removed or written.
pub fn put_in_place(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    remove_lazily(dir, name)?;
    let written =
        Dir::open(dir).and_then(|dir| create_new(&dir, name.as_bytes(), mode)?.write_all(bytes));
    written.with_context(|| format!("cannot write {}", dir.join(name).display()))
}

/// Creates the file `name` with exactly `mode`, whatever the umask. Fails when the name is taken, also
/// by a dangling link.
pub(super) fn create_new(dir: &impl AsFd, name: &[u8], mode: u32) -> io::Result<File> {
    let file = create(dir, name, mode)?;
    have_mode(&file, mode)?;
    Ok(file)
}

/// Creates the file `name` as git does: mode 0666, or 0777 for an executable one, less the umask, or as
/// the default ACL of `dir` says. Fails when the name is taken, also by a dangling link.
pub(super) fn create_as_git(dir: &impl AsFd, name: &[u8], executable: bool) -> io::Result<File> {
    create(dir, name, if executable { 0o777 } else { 0o666 })
}

fn create(dir: &impl AsFd, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from(mode))?.into())
}

/// Set-gid: new entries of a directory get its group.
const SET_GID: u32 = 0o2000;

/// Sets the mode of a file or directory where the umask or a default ACL changed it, and keeps set-gid.
/// Checks first, because setting costs one more write.
pub(super) fn have_mode(made: &impl AsFd, mode: u32) -> Result<(), Errno> {
    let found = rustix::fs::fstat(made)?.st_mode & 0o7777;
    let wanted = mode | (found & SET_GID);
    if found == wanted {
        return Ok(());
    }
    rustix::fs::fchmod(made, Mode::from(wanted))
}

/// Removes the file `dir/name`. A missing file or directory is no error.
///
/// # Errors
/// When it is a directory, may not be removed, or the disk cannot confirm it.
pub fn remove(dir: &Path, name: &str) -> Result<()> {
    match unlink(dir, name)? {
        Some(handle) => {
            handle.sync().with_context(|| format!("cannot remove {}", dir.join(name).display()))
        }
        None => Ok(()),
    }
}

/// Removes a file as [`remove`] does, but without a sync: it may reappear after a crash.
///
/// # Errors
/// When it is a directory or may not be removed.
pub fn remove_lazily(dir: &Path, name: &str) -> Result<()> {
    unlink(dir, name).map(drop)
}

/// Removes the file at `path` without a sync. A missing one is no error.
///
/// # Errors
/// When it is a directory or may not be removed.
pub fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Unlinks the file and returns its directory; `None` when there was no such file.
fn unlink(dir: &Path, name: &str) -> Result<Option<Dir>> {
    let message = || format!("cannot remove {}", dir.join(name).display());
    let handle = match Dir::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        handle => handle.with_context(message)?,
    };
    match rustix::fs::unlinkat(&handle, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(None),
        outcome => outcome.map(|()| Some(handle)).map_err(io::Error::from).with_context(message),
    }
}

/// Removes temporary files in `dir` that dead processes never committed.
///
/// # Errors
/// When the directory cannot be read or a leftover cannot be removed. A missing directory is fine.
pub fn sweep(dir: &Path) -> Result<()> {
    let message = || format!("cannot clean up {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(message)?,
    };
    for entry in entries {
        let name = entry.with_context(message)?.file_name();
        if let Some(name) = name.to_str()
            && preparer(name).is_some_and(|pid| Process::find(pid).is_none())
        {
            remove(dir, name)?;
        }
    }
    Ok(())
}

/// Replaces `dir/name` as [`put`] does, but without a sync: after a power cut the file may be the old
/// one, the new one or empty. For data that the next tick recomputes. Several processes may write in
/// the directory without a lock; leftovers of dead ones are removed.
///
/// # Errors
/// As [`put`] and [`sweep`].
pub fn put_lazily(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    sweep(dir)?;
    prepare_lazily(dir, name, bytes, mode)?.rename()
}

/// Writes `bytes` next to `dir/name` with exactly `mode`, without a sync.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_lazily(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<PreparedFile> {
    let mut staged = stage(dir, name, mode)?;
    let written = staged.file.write_all(bytes);
    written.with_context(|| format!("cannot write {}", dir.join(name).display()))?;
    Ok(staged)
}

/// Process id in a temporary name of [`prepare`], `.NAME.PID.NUMBER.new`; `None` for other names.
fn preparer(name: &str) -> Option<i32> {
    let stem = name.strip_prefix('.')?.strip_suffix(".new")?;
    let mut parts = stem.rsplitn(3, '.');
    let _number: u32 = parts.next()?.parse().ok()?;
    let pid = parts.next()?.parse().ok()?;
    parts.next().map(|_| pid)
}

/// Creates the directory `path`, and its missing parents, with exactly `mode`. An existing one keeps
/// its mode.
///
/// # Errors
/// When something else has that name, or it may not be created.
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
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Creates the directory `path/name`, and `path` where it is missing, with mode 0755 and without an
/// ACL, whatever default ACL the parent has. An existing directory is not changed.
///
/// # Errors
/// When it cannot be created, or its ACL cannot be removed.
pub fn make_private_tree(path: &Path, name: &str) -> Result<()> {
    if !path.is_dir() {
        if let Some(parent) = path.parent() {
            ensure_dir(parent, 0o755)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => have_mode(&Dir::open(path)?, 0o755)?,
        }
    }
    let made = match Dir::open(path)?.make(name.as_bytes(), 0o755) {
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    };
    for acl in [ACCESS_ACL, DEFAULT_ACL] {
        match rustix::fs::fremovexattr(&made, acl) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Without an ACL, the group bits are again the permissions of the group, not the ACL's mask.
    Ok(rustix::fs::fchmod(&made, Mode::from(0o755))?)
}

#[cfg(test)]
mod tests;
