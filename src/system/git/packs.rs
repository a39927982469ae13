//! The files of the object store: counts them, joins small packs without git, and quarantines damaged
//! ones. Each step adds objects before it removes the files that held them, so a crash in between only
//! costs space.
//!
//! It does not judge the objects themselves, and repairs no refs.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use git2::Oid;

use super::Git;
use super::quarantine::Quarantine;
use crate::domain::git::{ObjectFormat, ObjectId, RefName, Remote};
use crate::domain::wire::pack::MAX_OBJECTS;
use crate::system::git::size_limits;
use crate::system::git::torn_objects::{is_torn, loose};
use crate::system::{files, watchdog};

/// The directory, below `.git`, where packs are made before they move into the store. It is in the
/// store's file system, and git prunes it as a temporary one by its name.
pub(in crate::system) const STAGING: &str = "objects/tmp_objdir-pmpy";

/// The packs and loose objects of a store that ought to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLoad {
    /// Packs without a `.keep` or another mark that keeps them.
    pub packs: usize,
    /// Loose objects, estimated as git does it: one of the 256 directories is counted.
    pub loose: usize,
}

/// Bytes of all packs of `git_dir` together.
pub fn packed_bytes(git_dir: &Path) -> u64 {
    packs(git_dir).iter().map(|pack| pack.size).sum()
}

/// Counts the packs and loose objects of `git_dir`.
pub fn load(git_dir: &Path) -> PackLoad {
    let loose = fs::read_dir(git_dir.join("objects/17")).map_or(0, |entries| entries.count() * 256);
    PackLoad { packs: packs(git_dir).iter().filter(|pack| pack.may_go()).count(), loose }
}

/// One pack, by its path without an extension.
struct PackFile {
    stem: PathBuf,
    size: u64,
}

impl PackFile {
    fn file(&self, extension: &str) -> PathBuf {
        self.stem.with_extension(extension)
    }

    /// Whether its objects may move into another pack: no user marked it, and it is not git's pack of
    /// unreachable objects.
    fn may_go(&self) -> bool {
        !["keep", "promisor", "mtimes"].iter().any(|mark| self.file(mark).exists())
    }

    /// All its files, by their paths from `.git`. The index comes first, so that no reader looks for an
    /// object in a pack that is gone.
    fn files(&self, git_dir: &Path) -> Vec<String> {
        ["idx", "rev", "bitmap", "pack"]
            .iter()
            .map(|extension| self.file(extension))
            .filter(|path| path.exists())
            .filter_map(|path| Some(path.strip_prefix(git_dir).ok()?.to_str()?.to_owned()))
            .collect()
    }
}

fn packs(git_dir: &Path) -> Vec<PackFile> {
    let Ok(entries) = fs::read_dir(git_dir.join("objects/pack")) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().extension() == Some(OsStr::new("pack")))
        .map(|entry| PackFile {
            size: entry.metadata().map_or(0, |meta| meta.len()),
            stem: entry.path().with_extension(""),
        })
        .collect()
}

/// The small packs. A pack that is at least as large as all smaller ones together is left out, so that a
/// large pack is rewritten only when it is worth it.
fn small(mut packs: Vec<PackFile>) -> Vec<PackFile> {
    packs.sort_by_key(|pack| pack.size);
    while let Some((largest, rest)) = packs.split_last() {
        if largest.size < rest.iter().map(|pack| pack.size).sum() {
            break;
        }
        packs.pop();
    }
    packs
}

/// The format of all object ids, by the names of the files in the store; `None` when there are no
/// objects, or both formats occur.
pub fn format_of_store(git_dir: &Path) -> Option<ObjectFormat> {
    let packs = packs(git_dir).into_iter().filter_map(|pack| {
        let name = pack.stem.file_name()?.to_str()?.strip_prefix("pack-")?.parse::<ObjectId>();
        Some(name.ok()?.format())
    });
    let mut formats = loose(git_dir).into_iter().map(|(_, id)| id.format()).chain(packs);
    let first = formats.next()?;
    formats.all(|format| format == first).then_some(first)
}

/// The largest index of a pack, in bytes.
const MAX_INDEX: u64 = MAX_OBJECTS as u64 * 48;

/// The objects in the index of a pack, version 2 of gitformat-pack(5): each id, and its offset in the
/// pack.
pub(super) fn entries(index: &Path, length: usize) -> Result<Vec<(ObjectId, u64)>> {
    const NAMES: usize = 8 + 256 * 4;
    let bytes = files::read_small(index, MAX_INDEX)
        .with_context(|| format!("cannot read {}", index.display()))?
        .with_context(|| format!("there is no {}", index.display()))?;
    let number = |at: usize| {
        let four = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(four.try_into().ok()?))
    };
    let entry = |index: usize, count: usize| {
        let name = bytes.get(NAMES + index * length..)?.get(..length)?;
        // Names, checksums, offsets, and the offsets that do not fit into four bytes.
        let offsets = NAMES + count * (length + 4);
        let long = |at: u32| {
            let at = offsets + count * 4 + (at & 0x7fff_ffff) as usize * 8;
            Some(u64::from(number(at)?) << 32 | u64::from(number(at + 4)?))
        };
        let offset = match number(offsets + index * 4)? {
            short if short & 0x8000_0000 == 0 => Some(u64::from(short)),
            at => long(at),
        };
        Some((ObjectId::from_bytes(name)?, offset?))
    };
    let whole = || {
        let count = number(NAMES - 4).filter(|_| bytes.starts_with(b"\xfftOc\0\0\0\x02"))? as usize;
        (0..count).map(|index| entry(index, count)).collect::<Option<Vec<_>>>()
    };
    whole().with_context(|| format!("{} is no index of a pack", index.display()))
}

impl Git {
    /// The loose objects. A file whose name is an id of the other format does not count.
    fn loose(&self) -> Vec<(PathBuf, Oid)> {
        let found = loose(self.git_dir()).into_iter();
        found.filter_map(|(path, id)| Some((path, self.oid(&id).ok()?))).collect()
    }

    /// Whether git's garbage collection could start a program that the clone's own configuration names:
    /// a hook of its own, which no setting on the command line overrides, or the fetch of objects that a
    /// partial clone lacks. Included files may set either, under conditions that only git understands.
    pub fn names_programs_for_gc(&self) -> bool {
        let named = |pattern: &str| -> Result<bool, git2::Error> {
            let config = self.repo.config()?;
            let mut entries = config.entries(Some(pattern))?;
            entries.next().transpose().map(|entry| entry.is_some())
        };
        [
            r"^gc\.recentobjectshook$",
            r"^include(if)?\.",
            r"^extensions\.partialclone$",
            r"^remote\..*\.promisor$",
        ]
        .iter()
        // An unreadable configuration may contain any setting.
        .any(|pattern| named(pattern).unwrap_or(true))
    }

    /// Puts the small packs and the loose objects into one new pack, and keeps every object in them,
    /// needed or not.
    ///
    /// # Errors
    /// When something cannot be read or written; nothing is lost then.
    pub fn join_packs(&self) -> Result<()> {
        let git_dir = self.git_dir();
        let loose = self.loose();
        let packs = small(packs(git_dir).into_iter().filter(PackFile::may_go).collect());
        let mut members = Vec::new();
        for pack in packs {
            members.push((self.names(&pack.file("idx"))?, pack));
        }
        if members.len() < 2 && loose.is_empty() {
            return Ok(());
        }
        let packed: u64 = members.iter().map(|(_, pack)| pack.size).sum();
        let unpacked = loose.iter().map(|(path, _)| path.metadata().map_or(0, |meta| meta.len()));
        files::check_room(git_dir, packed.saturating_add(unpacked.sum()))?;
        let staging = self.staging()?;
        let mut builder = self.repo.packbuilder().context("cannot make a pack")?;
        let all = members.iter().flat_map(|(names, _)| names).chain(loose.iter().map(|(_, it)| it));
        let on_progress = |_, _, _| {
            watchdog::progress();
            true
        };
        builder.set_progress_callback(on_progress).context("cannot make a pack")?;
        let mut known = HashSet::new();
        for &name in all {
            if known.insert(name) {
                builder.insert_object(name, None).context("an object cannot be packed")?;
            }
        }
        builder.write(&staging, 0o444).context("a pack cannot be written")?;
        let mut joined = HashSet::new();
        let adopted = self.adopt(&staging)?;
        for stem in &adopted {
            joined.extend(self.names(&stem.with_extension("idx"))?);
        }
        // It names the packs that are removed next, and git rebuilds it.
        files::remove_file(&git_dir.join("objects/pack/multi-pack-index"))?;
        for (names, pack) in members {
            if !adopted.contains(&pack.stem) && names.iter().all(|name| joined.contains(name)) {
                for file in pack.files(git_dir) {
                    files::remove_file(&git_dir.join(file))?;
                }
            }
        }
        for (path, name) in loose {
            if joined.contains(&name) {
                files::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The object ids in the index of one of the repository's packs.
    fn names(&self, index: &Path) -> Result<Vec<Oid>> {
        let entries = entries(index, self.format().id_length())?;
        entries.iter().map(|(id, _)| self.oid(id)).collect()
    }

    /// An empty directory for new packs.
    ///
    /// # Errors
    /// When it cannot be emptied or made.
    pub(in crate::system) fn staging(&self) -> Result<PathBuf> {
        let dir = self.git_dir().join(STAGING);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", dir.display()));
            }
            _ => {}
        }
        files::ensure_dir(&dir, 0o700)?;
        Ok(dir)
    }

    /// Moves the packs in `directory` into the store, each before its index, and syncs them to disk.
    ///
    /// # Errors
    /// When one cannot be moved.
    pub(in crate::system) fn adopt(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let store = self.git_dir().join("objects/pack");
        let message = || format!("cannot move a pack to {}", store.display());
        files::ensure_dir(&store, 0o755)?;
        let mut stems = Vec::new();
        for entry in fs::read_dir(dir).with_context(message)? {
            let path = entry.with_context(message)?.path();
            if path.extension() != Some(OsStr::new("pack")) {
                continue;
            }
            for extension in ["pack", "idx"] {
                let from = path.with_extension(extension);
                let name = from.file_name().unwrap_or_default();
                File::open(&from).and_then(|file| file.sync_all()).with_context(message)?;
                fs::rename(&from, store.join(name)).with_context(message)?;
            }
            stems.push(store.join(path.file_stem().unwrap_or_default()));
        }
        files::Dir::open(&store).and_then(|store| store.sync()).with_context(message)?;
        Ok(stems)
    }

    /// Lets `fetch` fetch into a new, empty repository, and moves its packs into the store. A fetch into
    /// the damaged repository would not send the objects that it only seems to have.
    ///
    /// # Errors
    /// When `fetch` fails, or something cannot be written.
    pub fn refill(
        &self,
        remote: &Remote,
        branch: &RefName,
        fetch: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let dir = self.staging()?;
        let mut empty = Self::create(&dir, remote, self.format(), branch)?;
        empty.limit_files(self.max_file());
        fetch(&empty)?;
        self.adopt(&empty.git_dir().join("objects/pack"))?;
        Ok(fs::remove_dir_all(dir)?)
    }

    /// Moves the damaged files of the object store into `quarantine`: each pack with its index where
    /// either is damaged, and each such loose object. Returns a sentence for each.
    ///
    /// # Errors
    /// When something cannot be moved.
    pub fn quarantine_damaged(&self, quarantine: &Quarantine) -> Result<Vec<String>> {
        let git_dir = self.git_dir().to_owned();
        // Files that git derives from the objects and rebuilds by itself.
        for derived in ["pack/multi-pack-index", "info/commit-graph", "info/commit-graphs"] {
            let name = format!("objects/{derived}");
            if git_dir.join(&name).exists() {
                quarantine.take(&name)?;
            }
        }
        let mut done = Vec::new();
        for pack in packs(&git_dir) {
            if self.is_intact(&pack) != Some(true) {
                for file in pack.files(&git_dir) {
                    quarantine.take(&file)?;
                }
                let name = pack.stem.file_name().unwrap_or_default().to_string_lossy();
                done.push(format!("{name} was damaged and put aside"));
            }
        }
        let odb = self.repo.odb().context("the object store cannot be opened")?;
        odb.refresh().context("the object store cannot be read again")?;
        for (path, name) in self.loose() {
            watchdog::progress();
            if (is_torn(&path) || !self.reads_from(&odb, name))
                && let Some(file) = path.strip_prefix(&git_dir).ok().and_then(Path::to_str)
            {
                quarantine.take(file)?;
                done.push(format!("the object {name} was damaged and put aside"));
            }
        }
        Ok(done)
    }

    /// Whether a pack and its index are as they were written: each ends with the checksum of what is
    /// before it, and the index names that of the pack. `None` when either cannot be read.
    fn is_intact(&self, pack: &PackFile) -> Option<bool> {
        let length = self.format().id_length();
        let (index, index_end) = self.open_with_end(&pack.file("idx"), 2 * length)?;
        let (content, content_end) = self.open_with_end(&pack.file("pack"), length)?;
        let (named, of_index) = index_end.split_at_checked(length)?;
        let checksum = |mut file: File| {
            let size = file.metadata().ok()?.len().checked_sub(length as u64)?;
            self.digest(b"", size, &mut file).ok()
        };
        // Compared first: of a pack that was cut off or filled up, nothing else is read.
        let is_intact = named == content_end
            && checksum(index)?.as_ref() == of_index
            && checksum(content)?.as_ref() == content_end;
        Some(is_intact)
    }

    /// Opens a file of a pack, and reads its last bytes; `None` when it is no file, too short or too large.
    fn open_with_end(&self, path: &Path, count: usize) -> Option<(File, Vec<u8>)> {
        // A pipe would block.
        let size = path.metadata().ok().filter(fs::Metadata::is_file)?.len();
        let name = path.strip_prefix(self.git_dir()).ok()?.to_str()?;
        size_limits::check_size(path, name, size).ok()?;
        let mut end = vec![0; count];
        let file = File::open(path).ok()?;
        file.read_exact_at(&mut end, size.checked_sub(count as u64)?).ok()?;
        Some((file, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_as_large_as_all_smaller_ones_together_stays() {
        let packs = |sizes: &[u64]| {
            let pack = |&size| PackFile { stem: PathBuf::new(), size };
            small(sizes.iter().map(pack).collect()).iter().map(|it| it.size).collect::<Vec<_>>()
        };
        assert_eq!(packs(&[1, 900, 1, 1, 1, 50]), [1, 1, 1, 1]);
        assert_eq!(packs(&[8, 4, 2, 1]), [] as [u64; 0]);
        assert_eq!(packs(&[5, 5, 5]), [5, 5, 5]);
    }
}
