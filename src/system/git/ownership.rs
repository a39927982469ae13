//! Checks that no other user can change a clone's `.git`: write access there decides what the agent
//! runs. Each part that git reads or writes has to be a plain file or directory of the agent's user, of
//! root or of a user that the configuration trusts, and no other user may write it, ACLs included.
//! libgit2 checks the owner of two directories only, and trusts the user who called sudo.
//!
//! [`check_opened`] runs each time a repository is opened, and judges what libgit2 then opens.
//! [`check_all`] runs before a change and for `agent check`, and judges everything. Both
//! read attributes, and open a file only after they found it to be a plain one, so that a named pipe
//! cannot make the agent wait. This module repairs nothing.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::domain::text::EscapeControls;
use crate::system::files::{self, DEFAULT_ACL, Dir};
use crate::system::git::size_limits::{self, OversizedFile};
use crate::system::trust::{
    PathWalk, Trust, UntrustedPart, WalkedPath, WriteAccess, WriteFault, read_acl,
};

mod borrowed;

/// The deepest nesting of directories that is searched; git's own are a few levels deep.
const DEEPEST: usize = 64;

/// The kind of file that has to have a name in `.git`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExpectedFile {
    /// A file that is only read; a link of the user's own is followed.
    ReadFile,
    /// A file that is written in place, such as a log; no link is followed.
    File,
    /// A directory; a link of the user's own to one is followed.
    Directory,
    /// A file that neither libgit2 nor the agent opens. Its owner and mode count, since the user's own
    /// git commands may open it.
    Unopened,
}

/// The names that git keeps at the top of `.git`. Neither libgit2 nor the agent opens any other name.
/// Found by tracing the system calls of ticks and repairs; a test compares.
const TOP: [(&str, ExpectedFile); 28] = [
    ("HEAD", ExpectedFile::File),
    ("FETCH_HEAD", ExpectedFile::File),
    ("ORIG_HEAD", ExpectedFile::File),
    ("MERGE_HEAD", ExpectedFile::File),
    ("MERGE_MSG", ExpectedFile::File),
    ("MERGE_MODE", ExpectedFile::File),
    ("CHERRY_PICK_HEAD", ExpectedFile::File),
    ("REVERT_HEAD", ExpectedFile::File),
    ("BISECT_LOG", ExpectedFile::File),
    ("config", ExpectedFile::ReadFile),
    ("config.worktree", ExpectedFile::ReadFile),
    ("commondir", ExpectedFile::File),
    ("gitdir", ExpectedFile::File),
    ("index", ExpectedFile::File),
    ("packed-refs", ExpectedFile::File),
    ("shallow", ExpectedFile::File),
    ("refs", ExpectedFile::Directory),
    ("objects", ExpectedFile::Directory),
    ("logs", ExpectedFile::Directory),
    ("info", ExpectedFile::Directory),
    ("pmpy", ExpectedFile::Directory),
    ("rebase-merge", ExpectedFile::Directory),
    ("rebase-apply", ExpectedFile::Directory),
    ("sequencer", ExpectedFile::Directory),
    ("hooks", ExpectedFile::Unopened),
    ("modules", ExpectedFile::Unopened),
    ("lfs", ExpectedFile::Unopened),
    ("worktrees", ExpectedFile::Unopened),
];

/// The names further down that opening a repository uses.
const BELOW: [(&str, ExpectedFile); 5] = [
    ("refs/heads", ExpectedFile::Directory),
    ("objects/pack", ExpectedFile::Directory),
    ("objects/info", ExpectedFile::Directory),
    (borrowed::LENDERS, ExpectedFile::ReadFile),
    ("info/grafts", ExpectedFile::ReadFile),
];

/// A part of a clone that another user may change, or that is of the wrong kind.
#[derive(Debug)]
pub struct ForeignPart {
    path: PathBuf,
    fault: ForeignFault,
}

#[derive(Debug)]
enum ForeignFault {
    /// A user outside the trusted ones could change it.
    Untrusted(UntrustedPart),
    /// It is of the kind `found`, not `expected`.
    Kind { found: FileType, expected: &'static str },
    /// The user's own link leads to what another user could change.
    Leads(UntrustedPart),
    /// It is larger than its limit.
    Oversize(OversizedFile),
    /// It, or its attributes, cannot be read.
    Unreadable(io::Error),
}

impl fmt::Display for ForeignPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = path.escape_controls();
        match &self.fault {
            ForeignFault::Untrusted(part) => {
                let remedy = match part.fault {
                    WriteFault::Owner(_) => part.remedy().replacen("chown ", "chown -R ", 1),
                    WriteFault::AclUser(_) | WriteFault::AclGroup(_) => {
                        part.remedy().replacen("-b ", "-Rb ", 1)
                    }
                    WriteFault::Everyone | WriteFault::Group(_) => {
                        part.remedy().replacen("chmod ", "chmod -R ", 1)
                    }
                };
                write!(f, "{part}\nhint: look at what is in it, then: {remedy}")
            }
            ForeignFault::Kind { found, expected } => write!(
                f,
                "{path} is {}, where {expected} is expected\n\
                 hint: look at what it is, and move it away; if the clone is useless without it, \
                 clone again",
                files::kind_in_words(*found)
            ),
            ForeignFault::Leads(part) => write!(
                f,
                "{path} leads to another place: {part}\nhint: {}, or clone again without the link",
                part.remedy()
            ),
            ForeignFault::Oversize(fault) => write!(f, "{fault}"),
            ForeignFault::Unreadable(error) => write!(f, "cannot look at {path}: {error}"),
        }
    }
}

impl std::error::Error for ForeignPart {}

impl ForeignPart {
    /// Whether it is a file of the git directory `git` that is only too large and that a repair
    /// replaces.
    fn is_damage(&self, git: &Path) -> bool {
        let name = self.path.strip_prefix(git);
        matches!(self.fault, ForeignFault::Oversize(_)) && name.is_ok_and(size_limits::is_put_right)
    }
}

/// Fails on the first part of the clone at `worktree` that opening it uses and that a user outside
/// `trust` could change, or that is of the wrong kind. Missing parts are fine. Returns the text of the
/// configuration, which this has to read anyway; `None` when it cannot be read.
///
/// # Errors
/// When a part fails; names it and the remedy.
pub fn check_opened(worktree: &Path, trust: &Trust) -> Result<Option<Vec<u8>>, ForeignPart> {
    let check = OwnershipCheck { trust, sweeps: false };
    let Some((git, dir)) = check.open_git(worktree)? else { return Ok(None) };
    check.top(&git, &dir, SizeRule::OfAll)?;
    let mut borrows = false;
    for (name, expected) in BELOW {
        let is_there = check.check_file(dir.as_fd(), Path::new(name), &git.join(name), expected)?;
        borrows |= is_there && name == borrowed::LENDERS;
    }
    let config = check.config(&git)?;
    if borrows {
        check.lenders(&git)?;
    }
    Ok(config)
}

/// As [`check_opened`], and all that is below: refs, logs, packs, loose objects, the agent's own state.
///
/// # Errors
/// As for [`check_opened`].
pub fn check_all(worktree: &Path, trust: &Trust) -> Result<(), ForeignPart> {
    OwnershipCheck { trust, sweeps: false }.all(worktree)
}

/// As [`check_all`], before a write: also removes the default ACLs in `.git`, which could let another
/// user write the files that are made there.
///
/// # Errors
/// As for [`check_opened`].
pub fn prepare_to_write(worktree: &Path, trust: &Trust) -> Result<(), ForeignPart> {
    OwnershipCheck { trust, sweeps: true }.all(worktree)
}

/// Judges what libgit2 opens by itself when it reads the first object: packs, their indexes and files
/// derived from them.
///
/// # Errors
/// As for [`check_opened`].
pub fn check_store(git_dir: &Path, trust: &Trust) -> Result<(), ForeignPart> {
    let check = OwnershipCheck { trust, sweeps: false };
    for name in ["objects/pack", "objects/info"] {
        let path = git_dir.join(name);
        check.tree(CWD, &path, &path, Path::new(name), 0)?;
    }
    Ok(())
}

/// The kind of file that has the name of a ref below `.git`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefFile {
    /// The ref's file, or none: then the ref may be in packed-refs.
    FileOrNone,
    /// A directory of other refs, or one that removed refs left.
    Directory,
}

/// Judges the file of the ref `name`, if it has one, and returns its kind.
///
/// # Errors
/// As for [`check_opened`].
pub fn check_ref(git_dir: &Path, name: &str, trust: &Trust) -> Result<RefFile, ForeignPart> {
    let path = git_dir.join(name);
    let check = OwnershipCheck { trust, sweeps: false };
    let Some(found) = stat(CWD, &path, &path)? else { return Ok(RefFile::FileOrNone) };
    if kind(&found) == FileType::Directory {
        return Ok(RefFile::Directory);
    }
    check.judge_found(CWD, &path, &path, &found, ExpectedFile::File)?;
    judge_size(Path::new(name), &path, &found)?;
    Ok(RefFile::FileOrNone)
}

/// Whether this module judges the name `name` at the top of `.git`.
pub fn is_judged(name: &str) -> bool {
    TOP.iter().any(|(known, _)| *known == name)
}

/// The files whose size counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SizeRule {
    /// All: libgit2 is about to open them.
    OfAll,
    /// Those that no repair replaces: a worker has to get as far as the repair.
    OfLastingDamage,
}

struct OwnershipCheck<'a> {
    trust: &'a Trust,
    sweeps: bool,
}

impl OwnershipCheck<'_> {
    /// Opens the git directory; `None` when there is none.
    fn open_git(&self, worktree: &Path) -> Result<Option<(PathBuf, Dir)>, ForeignPart> {
        // A slash at the end would follow a link.
        let worktree: PathBuf = worktree.components().collect();
        let git = worktree.join(".git");
        for path in [&worktree, &git] {
            self.check_file(CWD, path, path, ExpectedFile::Directory)?;
        }
        match Dir::open(&git) {
            Ok(dir) => Ok(Some((git, dir))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&git, error)),
        }
    }

    fn top(&self, git: &Path, dir: &Dir, sizes: SizeRule) -> Result<(), ForeignPart> {
        for name in names(git, dir)? {
            let known =
                TOP.iter().find(|(known, _)| known.as_bytes() == name.as_os_str().as_bytes());
            if let Some((_, expected)) = known {
                match self.check_file(dir.as_fd(), &name, &git.join(&name), *expected) {
                    Err(part) if sizes == SizeRule::OfLastingDamage && part.is_damage(git) => {}
                    // Opening a repository does not read the index; the code that reads it checks its
                    // size.
                    Err(part) if name == Path::new("index") && part.is_damage(git) => {}
                    judged => drop(judged?),
                }
            }
        }
        Ok(())
    }

    fn all(&self, worktree: &Path) -> Result<(), ForeignPart> {
        let Some((git, dir)) = self.open_git(worktree)? else { return Ok(()) };
        self.sweep(dir.as_fd());
        self.top(&git, &dir, SizeRule::OfLastingDamage)?;
        for name in ["refs", "logs", "info", "objects", "pmpy", "rebase-merge", "rebase-apply"] {
            self.tree(dir.as_fd(), Path::new(name), &git.join(name), Path::new(name), 0)?;
        }
        self.config(&git)?;
        self.lenders(&git)
    }

    /// Judges everything below the directory `name`, which is `relative` in `.git`.
    fn tree(
        &self,
        dir: BorrowedFd<'_>,
        name: &Path,
        path: &Path,
        relative: &Path,
        depth: usize,
    ) -> Result<(), ForeignPart> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            inside => Dir::from(inside.map_err(|error| unreadable(path, error))?),
        };
        self.sweep(inside.as_fd());
        for entry in names(path, &inside)? {
            let (below, within) = (path.join(&entry), relative.join(&entry));
            let file = match () {
                // The agent's own readers neither wait nor follow a link, and report each fault.
                () if relative == Path::new("pmpy") => ExpectedFile::Unopened,
                () if relative.ends_with("info") => ExpectedFile::ReadFile,
                () => ExpectedFile::File,
            };
            let Some(found) = stat(inside.as_fd(), &entry, &below)? else { continue };
            let is_directory = kind(&found) == FileType::Directory;
            let expected = match is_directory && !is_file_of_store(&within) {
                true => ExpectedFile::Directory,
                false => file,
            };
            self.judge_found(inside.as_fd(), &entry, &below, &found, expected)?;
            if !size_limits::is_put_right(&within) {
                judge_size(&within, &below, &found)?;
            }
            // The quarantine and the files of drift stay as a repair found them.
            let is_kept =
                ["pmpy/quarantine", "pmpy/drift"].iter().any(|it| within == Path::new(it));
            if is_directory && !is_kept && depth < DEEPEST {
                self.tree(inside.as_fd(), &entry, &below, &within, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Removes the default ACL of `dir`, which every file that is made there would get.
    fn sweep(&self, dir: BorrowedFd<'_>) {
        if self.sweeps {
            // Mostly there is none. When it stays, the next check finds what it lets other users write.
            let _ = rustix::fs::fremovexattr(dir, DEFAULT_ACL);
        }
    }

    /// Judges a file that may be missing; returns whether it is there.
    fn check_file(
        &self,
        dir: BorrowedFd<'_>,
        name: &Path,
        path: &Path,
        expected: ExpectedFile,
    ) -> Result<bool, ForeignPart> {
        let Some(found) = stat(dir, name, path)? else { return Ok(false) };
        self.judge_found(dir, name, path, &found, expected)?;
        judge_size(name, path, &found)?;
        Ok(true)
    }

    fn judge_found(
        &self,
        dir: BorrowedFd<'_>,
        name: &Path,
        path: &Path,
        found: &Stat,
        expected: ExpectedFile,
    ) -> Result<(), ForeignPart> {
        let foreign = |fault| Err(ForeignPart { path: path.to_owned(), fault });
        let access = WriteAccess::of(found, || read_acl(dir, name, found));
        if let Some(fault) = access.fault(self.trust, Some(found.st_gid)) {
            let uid = self.trust.uid();
            let part = UntrustedPart::new(path.to_owned(), kind(found), fault, uid);
            return foreign(ForeignFault::Untrusted(part));
        }
        let target = match (kind(found), expected) {
            (FileType::Symlink, ExpectedFile::ReadFile | ExpectedFile::Directory) => {
                match (self.walk(path)?.found, expected) {
                    (Some(found), _) => kind(&found),
                    // A link to nothing counts as a missing file.
                    (None, ExpectedFile::ReadFile) => return Ok(()),
                    (None, _) => FileType::Symlink,
                }
            }
            (kind, _) => kind,
        };
        match (expected, target) {
            (ExpectedFile::Unopened, _) => Ok(()),
            // Else libgit2 skips what it may not read, or does not say which file it was.
            _ if is_closed(found, self.trust.uid()) => Err(unreadable(path, Errno::ACCESS)),
            (ExpectedFile::Directory, FileType::Directory)
            | (ExpectedFile::File | ExpectedFile::ReadFile, FileType::RegularFile) => Ok(()),
            (ExpectedFile::Directory, found) => {
                foreign(ForeignFault::Kind { found, expected: "a directory" })
            }
            (_, found) => foreign(ForeignFault::Kind { found, expected: "a regular file" }),
        }
    }

    /// Resolves the user's own link; fails when another user can change a part of the way.
    fn walk(&self, path: &Path) -> Result<WalkedPath, ForeignPart> {
        let walked = PathWalk::default().walk(path).map_err(|error| unreadable(path, error))?;
        walked.check(self.trust).map_err(|part| ForeignPart {
            path: path.to_owned(),
            fault: ForeignFault::Leads(part),
        })?;
        Ok(walked)
    }
}

/// Whether the agent's user owns the file and may not read it. Root may read everything.
fn is_closed(found: &Stat, uid: u32) -> bool {
    const OWNER_READ: u32 = 0o400;
    uid != 0 && found.st_uid == uid && found.st_mode & OWNER_READ == 0
}

/// Whether a name in the object store is that of a file, never of a directory.
fn is_file_of_store(name: &Path) -> bool {
    name.parent() == Some(Path::new("objects/pack"))
        || name == Path::new("objects/info/commit-graph")
}

/// Fails when a file is larger than the limit for this `name` in `.git`.
fn judge_size(name: &Path, path: &Path, found: &Stat) -> Result<(), ForeignPart> {
    let bytes = u64::try_from(found.st_size).unwrap_or_default();
    match (kind(found), name.to_str()) {
        (FileType::RegularFile, Some(name)) => {
            size_limits::check_size(path, name, bytes).map_err(|fault| ForeignPart {
                path: path.to_owned(),
                fault: ForeignFault::Oversize(fault),
            })
        }
        _ => Ok(()),
    }
}

fn names(path: &Path, dir: &Dir) -> Result<Vec<PathBuf>, ForeignPart> {
    let found = dir.entries().map_err(|error| unreadable(path, error))?;
    Ok(found.into_iter().map(|(name, _)| OsString::from_vec(name).into()).collect())
}

/// The attributes of `name` in `dir`, without following a link; `None` when it does not exist.
fn stat(dir: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<Option<Stat>, ForeignPart> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        // The check of the directory reports a missing part of the path, or one that is no directory.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn unreadable(path: &Path, error: impl Into<io::Error>) -> ForeignPart {
    ForeignPart { path: path.to_owned(), fault: ForeignFault::Unreadable(error.into()) }
}
