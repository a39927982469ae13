//! The files of the object store: how many there are, joining the small ones without git, and sorting
//! out those that are damaged. Objects are only ever added before the files that held them go, so a
//! death in between costs space and nothing else.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::{Decompress, FlushDecompress, Status};
use git2::{ErrorClass, ErrorCode, Indexer, Oid};

use super::repair::Quarantine;
use super::{Git, format_of, oid_of};
use crate::domain::git::{Id, RefName, Remote};
use crate::system::files;

/// Where packs are made before they move into the store: `.git/pmpy/packs`.
const STAGING: &str = "pmpy/packs";

/// How much lies in an object store that ought to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Packs, without those that somebody marked to be kept.
    pub packs: usize,
    /// Loose objects, estimated as git does it: one folder of 256 is counted.
    pub loose: usize,
}

/// What lies in the object store of `git_dir`.
pub fn load(git_dir: &Path) -> Load {
    let loose = fs::read_dir(git_dir.join("objects/17")).map_or(0, |entries| entries.count() * 256);
    Load { packs: packs(git_dir).iter().filter(|pack| pack.may_go()).count(), loose }
}

/// One pack, by its path without an extension.
struct Pack {
    stem: PathBuf,
    size: u64,
}

impl Pack {
    fn file(&self, extension: &str) -> PathBuf {
        self.stem.with_extension(extension)
    }

    /// Whether its objects may be put into another: nobody marked it, and it is no pack of git's with
    /// what nothing needs any more.
    fn may_go(&self) -> bool {
        !["keep", "promisor", "mtimes"].iter().any(|mark| self.file(mark).exists())
    }

    /// Every file of it, by its path from `.git`; the index first, so that nobody looks for an object
    /// in a pack that is gone.
    fn files(&self, git_dir: &Path) -> Vec<String> {
        ["idx", "rev", "bitmap", "pack"]
            .iter()
            .map(|extension| self.file(extension))
            .filter(|path| path.exists())
            .filter_map(|path| Some(path.strip_prefix(git_dir).ok()?.to_str()?.to_owned()))
            .collect()
    }
}

fn packs(git_dir: &Path) -> Vec<Pack> {
    let Ok(entries) = fs::read_dir(git_dir.join("objects/pack")) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().extension() == Some(OsStr::new("pack")))
        .map(|entry| Pack {
            size: entry.metadata().map_or(0, |meta| meta.len()),
            stem: entry.path().with_extension(""),
        })
        .collect()
}

/// The small packs: without each that is at least as large as all smaller ones together, so that a
/// large pack is written anew only when it is worth it.
fn small(mut packs: Vec<Pack>) -> Vec<Pack> {
    packs.sort_by_key(|pack| pack.size);
    while let Some((largest, rest)) = packs.split_last() {
        if largest.size < rest.iter().map(|pack| pack.size).sum() {
            break;
        }
        packs.pop();
    }
    packs
}

/// The loose objects, those of one folder after another.
fn loose(git_dir: &Path) -> Vec<(PathBuf, Oid)> {
    let Ok(folders) = fs::read_dir(git_dir.join("objects")) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = folders.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let name = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_owned);
    let mut found = Vec::new();
    for folder in folders {
        // Beside the folders of objects stand "info" and "pack".
        let Some(first) = name(&folder).filter(|first| first.len() == 2) else { continue };
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let id = name(&path).and_then(|rest| format!("{first}{rest}").parse::<Id>().ok());
            if let Some(oid) = id.and_then(|id| oid_of(&id).ok()) {
                found.push((path, oid));
            }
        }
    }
    found
}

/// The first loose object whose file ends before its content does. libgit2 1.9 never comes back from
/// reading such a one, so it has to be found before.
pub fn torn_object(git_dir: &Path) -> Option<PathBuf> {
    loose(git_dir).into_iter().map(|(path, _)| path).find(|path| is_torn(path))
}

/// Whether the file of a loose object is no whole zlib stream. One that is not there is not torn.
pub(super) fn is_torn(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => !is_whole(file),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn is_whole(mut file: impl io::Read) -> bool {
    let mut inflate = Decompress::new(true);
    let (mut input, mut output) = (vec![0; 1 << 14], vec![0; 1 << 16]);
    loop {
        let Ok(read) = file.read(&mut input) else { return false };
        let mut rest = input.get(..read).unwrap_or_default();
        loop {
            let before = (inflate.total_in(), inflate.total_out());
            match inflate.decompress(rest, &mut output, FlushDecompress::None) {
                Ok(Status::StreamEnd) => return true,
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) => return false,
            }
            let after = (inflate.total_in(), inflate.total_out());
            if before == after {
                break;
            }
            rest = rest.get((after.0 - before.0) as usize..).unwrap_or_default();
        }
        if read == 0 {
            return false;
        }
    }
}

/// The names in the index of a pack, version 2 of gitformat-pack(5).
fn names(index: &Path, length: usize) -> Result<Vec<Oid>> {
    const HEAD: usize = 8;
    const NAMES: usize = HEAD + 256 * 4;
    let bytes = fs::read(index).with_context(|| format!("cannot read {}", index.display()))?;
    let count = bytes
        .get(NAMES - 4..NAMES)
        .and_then(|last| last.try_into().ok())
        .map_or(0, |last| u32::from_be_bytes(last) as usize);
    let names = bytes.get(NAMES..).and_then(|rest| rest.get(..count.checked_mul(length)?));
    match names {
        Some(names) if bytes.starts_with(b"\xfftOc\0\0\0\x02") => names
            .chunks(length)
            .map(|name| Oid::from_bytes(name).map_err(anyhow::Error::from))
            .collect(),
        _ => bail!("{} is no index of a pack", index.display()),
    }
}

impl Git {
    fn name_length(&self) -> usize {
        match self.repo.object_format() {
            git2::ObjectFormat::Sha256 => 32,
            _ => 20,
        }
    }

    /// Whether git's garbage collection could start a program that the clone's own configuration
    /// names: a hook of its own, which no setting on the command line takes back, or what fetches the
    /// objects that a partial clone lacks. Parts that are included may say either, under conditions
    /// that only git understands.
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
        // What cannot be read may say anything.
        .any(|pattern| named(pattern).unwrap_or(true))
    }

    /// Puts the small packs and the loose objects into one new pack; whatever they hold stays,
    /// needed or not.
    ///
    /// # Errors
    /// When something cannot be read or written; nothing is lost then.
    pub fn join_packs(&self) -> Result<()> {
        let git_dir = self.git_dir();
        let loose = loose(git_dir);
        let packs = small(packs(git_dir).into_iter().filter(Pack::may_go).collect());
        let mut members = Vec::new();
        for pack in packs {
            let names = names(&pack.file("idx"), self.name_length())?;
            members.push((pack, names));
        }
        if members.len() < 2 && loose.is_empty() {
            return Ok(());
        }
        let staging = self.staging()?;
        let mut builder = self.repo.packbuilder().context("cannot make a pack")?;
        let all = members.iter().flat_map(|(_, names)| names).chain(loose.iter().map(|(_, it)| it));
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
            joined.extend(names(&stem.with_extension("idx"), self.name_length())?);
        }
        // It names packs that go now, and git makes it anew.
        remove(&git_dir.join("objects/pack/multi-pack-index"))?;
        for (pack, names) in members {
            if !adopted.contains(&pack.stem) && names.iter().all(|name| joined.contains(name)) {
                for file in pack.files(git_dir) {
                    remove(&git_dir.join(file))?;
                }
            }
        }
        for (path, name) in loose {
            if joined.contains(&name) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// An empty folder for packs that are being made.
    fn staging(&self) -> Result<PathBuf> {
        let folder = self.git_dir().join(STAGING);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
            }
            _ => {}
        }
        files::ensure_dir(&folder, 0o700)?;
        Ok(folder)
    }

    /// Moves the packs in `folder` into the store, each before its index, and brings them to disk.
    fn adopt(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let store = self.git_dir().join("objects/pack");
        let told = || format!("cannot move a pack to {}", store.display());
        files::ensure_dir(&store, 0o755)?;
        let mut stems = Vec::new();
        for entry in fs::read_dir(folder).with_context(told)? {
            let path = entry.with_context(told)?.path();
            if path.extension() != Some(OsStr::new("pack")) {
                continue;
            }
            for extension in ["pack", "idx"] {
                let from = path.with_extension(extension);
                let name = from.file_name().unwrap_or_default();
                File::open(&from).and_then(|file| file.sync_all()).with_context(told)?;
                fs::rename(&from, store.join(name)).with_context(told)?;
            }
            stems.push(store.join(path.file_stem().unwrap_or_default()));
        }
        files::Dir::open(&store).and_then(|store| store.sync()).with_context(told)?;
        Ok(stems)
    }

    /// Lets `fetch` fetch into a repository that owns nothing yet, and takes over the packs that it
    /// got: a fetch into a damaged one would be spared what that only seems to have.
    ///
    /// # Errors
    /// When `fetch` fails, or something cannot be written.
    pub fn refill(
        &self,
        remote: &Remote,
        branch: &RefName,
        fetch: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let folder = self.staging()?;
        let empty = Self::create(&folder, remote, format_of(&self.repo), branch)?;
        fetch(&empty)?;
        self.adopt(&empty.git_dir().join("objects/pack"))?;
        Ok(fs::remove_dir_all(folder)?)
    }

    /// Looks at every file of the object store. What cannot be read goes into `quarantine`; the index
    /// of a pack that is whole is made anew. Says what was done.
    ///
    /// # Errors
    /// When something cannot be moved or written.
    pub fn sort_out(&self, quarantine: &Quarantine) -> Result<Vec<String>> {
        let git_dir = self.git_dir().to_owned();
        // What git derives from the objects and makes anew by itself.
        for derived in ["pack/multi-pack-index", "info/commit-graph", "info/commit-graphs"] {
            let name = format!("objects/{derived}");
            if git_dir.join(&name).exists() {
                quarantine.take(&name)?;
            }
        }
        let mut done = Vec::new();
        for pack in packs(&git_dir) {
            let name = pack.stem.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match self.index_of(&pack)? {
                Some(index) => {
                    if self.replace_index(&pack, &index, quarantine)? {
                        done.push(format!("the index of {name} was made anew"));
                    }
                }
                None => {
                    for file in pack.files(&git_dir) {
                        quarantine.take(&file)?;
                    }
                    done.push(format!("{name} was damaged and put aside"));
                }
            }
        }
        let odb = self.repo.odb().context("the object store cannot be opened")?;
        odb.refresh().context("the object store cannot be read again")?;
        for (path, name) in loose(&git_dir) {
            if (is_torn(&path) || odb.read(name).is_err())
                && let Some(file) = path.strip_prefix(&git_dir).ok().and_then(Path::to_str)
            {
                quarantine.take(file)?;
                done.push(format!("the object {name} was damaged and put aside"));
            }
        }
        fs::remove_dir_all(self.staging()?)?;
        Ok(done)
    }

    /// The index that a pack ought to have, made from its content; `None` when that is damaged.
    fn index_of(&self, pack: &Pack) -> Result<Option<PathBuf>> {
        let told = || format!("cannot read {}", pack.file("pack").display());
        let staging = self.staging()?;
        let format = self.repo.object_format();
        let mut indexer = Indexer::new_ext(None, &staging, 0o444, false, format)?;
        let mut content = File::open(pack.file("pack")).with_context(told)?;
        let mut buffer = vec![0; 1 << 16];
        let verdict = loop {
            match io::Read::read(&mut content, &mut buffer) {
                Ok(0) => break indexer.commit().map(Some),
                // The disk does not give it back.
                Err(_) => break Ok(None),
                Ok(read) => {
                    let part = buffer.get(..read).unwrap_or_default();
                    if let Err(error) = io::Write::write_all(&mut indexer, part) {
                        break match error.downcast::<git2::Error>() {
                            Ok(error) => Err(error),
                            Err(error) => return Err(error).with_context(told),
                        };
                    }
                }
            }
        };
        match verdict {
            Ok(name) => {
                Ok(name.map(|name| staging.join(format!("pack-{name}")).with_extension("idx")))
            }
            // A full disk says nothing about the pack.
            Err(error) if error.class() == ErrorClass::Os || error.code() == ErrorCode::User => {
                Err(error).with_context(told)
            }
            Err(error) => {
                tracing::warn!(pack = %pack.stem.display(), error = error.message(), "damaged");
                Ok(None)
            }
        }
    }

    /// Puts `index` in the place of the one that `pack` has; whether they differed.
    fn replace_index(&self, pack: &Pack, index: &Path, quarantine: &Quarantine) -> Result<bool> {
        let place = pack.file("idx");
        let told = || format!("cannot replace {}", place.display());
        if fs::read(&place).ok() == Some(fs::read(index).with_context(told)?) {
            return Ok(false);
        }
        for file in pack.files(self.git_dir()) {
            if file.ends_with(".idx") {
                quarantine.keep(&file)?;
            } else if !file.ends_with(".pack") {
                quarantine.take(&file)?;
            }
        }
        File::open(index).and_then(|file| file.sync_all()).with_context(told)?;
        fs::rename(index, &place).with_context(told)?;
        Ok(true)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_object_is_told_from_a_whole_one() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut whole = Vec::new();
        let mut deflate = flate2::read::ZlibEncoder::new(&*content, flate2::Compression::fast());
        io::Read::read_to_end(&mut deflate, &mut whole).unwrap();
        assert!(is_whole(&*whole));
        for length in [0, 1, 2, 100, whole.len() / 2, whole.len() - 1] {
            assert!(!is_whole(&whole[..length]), "{length}");
        }
        assert!(!is_whole(&[0x5a; 500][..]));
    }

    #[test]
    fn a_pack_as_large_as_all_smaller_ones_together_stays() {
        let packs = |sizes: &[u64]| {
            let pack = |&size| Pack { stem: PathBuf::new(), size };
            small(sizes.iter().map(pack).collect()).iter().map(|it| it.size).collect::<Vec<_>>()
        };
        assert_eq!(packs(&[1, 900, 1, 1, 1, 50]), [1, 1, 1, 1]);
        assert_eq!(packs(&[8, 4, 2, 1]), [] as [u64; 0]);
        assert_eq!(packs(&[5, 5, 5]), [5, 5, 5]);
    }
}
