//! Files that a release has and its revision does not, as an application writes them: moved to
//! `STORE/.left/REVISION` before the release is removed. Works on open directories, follows no link, and
//! moves what it does not know as a whole, without looking into it.

use std::collections::BTreeSet;

use anyhow::{Context, Error, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::remove::remove_tree;
use super::shared::open_or_make;
use super::verify::{dirs_of, is_shared_link};
use super::{Dir, Release, ReleaseStore, fresh, is_mount_point, revision};
use crate::domain::git::Commit;
use crate::domain::publish::release_paths::LEFT;
use crate::domain::repository::change::RepoPath;
use crate::system::watchdog;

/// Prefix of the name of a retired release: `.pmpy-tmp-old-REVISION-NUMBER`.
const RETIRED: &str = ".pmpy-tmp-old-";

/// The limit of entries of one release that are moved one by one; with more, the whole release is moved.
const MAX_MOVED: usize = 10_000;

/// The limit of directories in [`LEFT`] for one revision.
const MAX_UNITS: usize = 1_000;

/// What the agent itself puts into releases.
pub struct ReleasePaths<'p> {
    /// Returns the sorted paths of a revision; `None` when they cannot be read.
    pub of_revision: &'p dyn Fn(Commit) -> Option<Vec<RepoPath>>,
    /// The shared directories that are linked into each release.
    pub shared: &'p [RepoPath],
}

impl ReleaseStore {
    /// Retires `release`: it loses its name, and the next [`ReleaseStore::sweep`] removes it.
    ///
    /// # Errors
    /// When the store is not writable.
    pub fn retire(&self, release: &Release) -> Result<()> {
        let Release { place, revision } = release;
        let Some(slot) = self.slot(place)? else { return Ok(()) };
        let name = revision.to_string();
        retired_name(*revision, |retired| rustix::fs::renameat(&slot, &name, &slot, retired))
            .map(drop)
            .with_context(|| {
                let path = self.release_path(place, *revision);
                format!("cannot retire the release {}", path.display())
            })
    }

    /// Moves what is in the place of `release` to `STORE/.left` as a whole, whatever it is: the agent did
    /// not make it.
    ///
    /// # Errors
    /// When the store is not writable, or something is mounted there.
    pub fn set_aside(&self, release: &Release) -> Result<()> {
        let Release { place, revision } = release;
        let Some(slot) = self.slot(place)? else { return Ok(()) };
        let name = revision.to_string();
        let path = self.release_path(place, *revision);
        tracing::warn!(path = %path.display(), "not made by the agent: moved to {}/{LEFT}",
            self.path.display());
        self.move_left(*revision, &slot, &RepoPath::top(), name.as_bytes(), None).with_context(
            || format!("cannot move away {}, which the agent did not make", path.display()),
        )
    }

    /// Removes the retired release `name` in the directory `dir` of `slot`, after what is none of
    /// its `paths` was moved away.
    pub(super) fn clear_retired(
        &self,
        dir: &Dir,
        slot: Option<&str>,
        name: &[u8],
        paths: &ReleasePaths<'_>,
    ) -> Result<()> {
        let Some(revision) = retired(name) else { return Ok(()) };
        let whole = || self.move_left(revision, dir, &RepoPath::top(), name, None);
        let Some(of_revision) = (paths.of_revision)(revision) else { return whole() };
        let top = match dir.beneath(name) {
            Err(Errno::NOENT) => return Ok(()),
            top => top?,
        };
        let Some(surplus) = find_surplus(&top, slot, &of_revision, paths.shared)? else {
            return whole();
        };
        for path in &surplus {
            watchdog::progress();
            let (parent, name) = path.split();
            let from = top.beneath(parent.as_bytes())?;
            match self.move_left(revision, &from, &parent, name, Some(path)) {
                // A directory of another user can be moved only with the one that it is in.
                Err(error) if is_denied(&error) => return whole(),
                moved => moved?,
            }
        }
        remove_tree(dir, name)
    }

    /// Moves the entry `name` of `from` to its path below `.left/REVISION`, or where that is taken, below
    /// `.left/REVISION-1` and so on. `path`: its path in the release; `None`: it becomes that directory
    /// itself.
    fn move_left(
        &self,
        revision: Commit,
        from: &Dir,
        parent: &RepoPath,
        name: &[u8],
        path: Option<&RepoPath>,
    ) -> Result<()> {
        let left = self.make_left()?;
        for number in 0..MAX_UNITS {
            let unit = match number {
                0 => revision.to_string(),
                number => format!("{revision}-{number}"),
            };
            let moved = match path {
                None => rename_new(from, name, &left, unit.as_bytes()),
                Some(_) => make_dirs(&left, unit.as_bytes(), parent)
                    .and_then(|to| rename_new(from, name, &to, name)),
            };
            match moved {
                Err(Errno::EXIST | Errno::NOTDIR | Errno::LOOP | Errno::NOTEMPTY) => {}
                Err(Errno::NOENT) if from.look_at(name)?.is_none() => return Ok(()),
                moved => return Ok(moved?),
            }
        }
        bail!(
            "{}/{LEFT} has {MAX_UNITS} directories for {revision}\nhint: remove them",
            self.path.display()
        )
    }

    fn make_left(&self) -> Result<Dir> {
        let message = || format!("cannot make {}/{LEFT}", self.path.display());
        // What an application wrote may be private.
        match open_or_make(&self.dir, LEFT.as_bytes(), |dir, name| dir.make(name, 0o700)) {
            Err(Errno::NOTDIR | Errno::LOOP) => bail!(
                "{}/{LEFT} is not a directory\nhint: move it away; the agent makes it anew",
                self.path.display()
            ),
            left => left.with_context(message),
        }
    }
}

/// Calls `make` with an unused name for a retired release of `revision`; returns that name.
pub(super) fn retired_name<E: Into<std::io::Error>>(
    revision: Commit,
    make: impl Fn(&str) -> Result<(), E>,
) -> std::io::Result<String> {
    fresh(&format!("{RETIRED}{revision}-"), make).map(|(name, ())| name)
}

/// The revision in the name of a retired release; `None` for other names.
pub(super) fn retired(name: &[u8]) -> Option<Commit> {
    let rest = name.strip_prefix(RETIRED.as_bytes())?;
    let dash = rest.iter().rposition(|&byte| byte == b'-')?;
    revision(rest.get(..dash)?)
}

/// The paths in the release `top` that are none of the sorted `paths` of its revision; a directory that
/// the revision does not have is one path. Removes empty ones at once. `None`: there are too many.
fn find_surplus(
    top: &Dir,
    slot: Option<&str>,
    paths: &[RepoPath],
    shared: &[RepoPath],
) -> Result<Option<BTreeSet<RepoPath>>> {
    let dirs = dirs_of(paths.iter().chain(shared));
    let mut surplus = BTreeSet::new();
    for at in &dirs {
        let dir = match top.beneath(at.as_bytes()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            dir => dir?,
        };
        let found = dir.look_at(b".")?.context("it went away at this moment")?;
        ensure!(!is_mount_point(&found), "\"{at}\" in it is a mount point; umount it");
        // A script may have removed even the owner's permissions.
        if found.stx_mode & 0o700 != 0o700 {
            rustix::fs::fchmod(&dir, Mode::RWXU)?;
        }
        for (name, kind) in dir.entries()? {
            let path = at.join(&name);
            let is_known = match kind {
                FileType::Directory if dirs.contains(&path) => true,
                FileType::Directory => {
                    rustix::fs::unlinkat(&dir, &*name, AtFlags::REMOVEDIR).is_ok()
                }
                FileType::Symlink if is_shared_link(&dir, &name, slot, &path) => true,
                _ => paths.binary_search(&path).is_ok(),
            };
            if !is_known {
                surplus.insert(path);
            }
            if surplus.len() > MAX_MOVED {
                return Ok(None);
            }
        }
    }
    Ok(Some(surplus))
}

/// Opens the directory `path` in the directory `unit` of `left`, and makes what is missing of it.
fn make_dirs(left: &Dir, unit: &[u8], path: &RepoPath) -> Result<Dir, Errno> {
    let names = path.as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    std::iter::once(unit).chain(names).try_fold(left.beneath(b"")?, |dir, name| {
        open_or_make(&dir, name, |dir, name| dir.make(name, 0o755))
    })
}

fn is_denied(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(&(Errno::ACCESS | Errno::PERM)))
}

/// Renames unless the new name is taken.
fn rename_new(from: &Dir, name: &[u8], to: &Dir, new: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Some network file systems do not support this flag. No other process writes there.
        Err(Errno::INVAL | Errno::NOSYS) if to.look_at(new)?.is_none() => {
            rustix::fs::renameat(from, name, to, new)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
        renamed => renamed,
    }
}
