//! The two processes of their own that take in a pack, as git-index-pack(1), and write one, as
//! git-pack-objects(1). The sender of a pack decides how much work and memory it takes, and libgit2
//! neither counts nor can be stopped. So the process limits its own memory, by [`PackScan::memory`] for
//! a pack that comes in, and its parent ends it at the deadline.
//!
//! A pack and its index are built in `STAGING`. The holder of the lock moves them into the store; this
//! module does not.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use git2::{
    ErrorClass, Indexer, ObjectType, Odb, Oid, PackBuilder, Repository, RepositoryOpenFlags,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::error::explained;
use super::history::{self, History};
use super::packs::{STAGING, entries};
use super::{Git, format_of, oid_in};
use crate::domain::git::ObjectId;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::wire::pack::{DeltaBase, ObjectKind, PackError, PackScan};
use crate::system::files::{self, DiskFault};
use crate::system::host::{self, since_boot};

const PIECE: usize = 64 << 10;
/// Milliseconds between two progress lines.
const BEAT: u128 = 100;
/// The smallest step, in bytes, by which the memory limit grows.
const MEMORY_STEP: u64 = 16 << 20;

/// Bytes of memory that reading a remote on this machine may use at least. A quarter of all memory is
/// allowed where that is more.
const PACKER_MEMORY: u64 = 1 << 30;

/// A line that the process writes to its parent, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexerEvent {
    /// How many objects have arrived.
    Progress {
        /// Objects so far.
        received: usize,
        /// Objects in all.
        total: usize,
    },
    /// The pack and its index are in the staging directory.
    Done,
    /// The pack cannot be taken in.
    Failed {
        /// The reason, as one sentence.
        reason: String,
        /// The fault of the disk; `None` when the disk is not the cause.
        fault: Option<DiskFault>,
    },
}

impl IndexerEvent {
    /// The event for an `error` that ended the process.
    pub fn failed(error: &anyhow::Error) -> Self {
        Self::Failed { reason: one_line(error), fault: DiskFault::of(error) }
    }
}

/// The causes of `error` as one sentence, without the [`DiskFault`]; hints behind it.
pub fn one_line(error: &anyhow::Error) -> String {
    let causes = error.chain().filter(|cause| cause.downcast_ref::<DiskFault>().is_none());
    ErrorReport::of_causes(causes).to_reason()
}

/// The reason to report when a pack needs more memory than it may use, however that showed.
pub fn out_of_memory() -> String {
    "its pack needs more memory than taking it in may use: 128 MB, 800 bytes for each object and three \
     times the largest; one that holds an object twice does so\n\
     hint: on the server: git fsck, then git repack -adf"
        .to_owned()
}

/// Sets how much memory this process may use from now on, in bytes; file mappings do not count.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_memory(bytes: u64) -> Result<()> {
    if cfg!(sanitized) {
        // The address sanitizer maps twenty terabytes of its own, which would not fit.
        return Ok(());
    }
    let maximum = getrlimit(Resource::Data).maximum;
    let current = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
    setrlimit(Resource::Data, Rlimit { current, maximum })
        .context("cannot limit the memory of the process that takes in a pack")
}

/// Makes the kernel kill this process when its parent ends: only the parent uses its output.
///
/// # Errors
/// When the kernel refuses.
pub fn end_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot be tied to the parent process")
}

/// Takes in the pack from `input`, for the repository with this git directory. Fails when a delta makes
/// an object larger than `largest` bytes. `report` gets the progress.
///
/// # Errors
/// When the pack is wrong, or the disk is full or fails.
pub fn index_pack(
    git_dir: &Path,
    largest: u64,
    input: &mut dyn Read,
    report: &dyn Fn(&IndexerEvent),
) -> Result<()> {
    let none: [&std::ffi::OsStr; 0] = [];
    let repo = Repository::open_ext(git_dir, RepositoryOpenFlags::NO_SEARCH, none)
        .map_err(|error| explained(&error))?;
    let format = repo.object_format();
    let id_length = format_of(&repo).id_length();
    let odb = repo.odb().map_err(|error| explained(&error))?;
    let staging = git_dir.join(STAGING);
    let mut scan = PackScan::new(id_length, largest);
    let mut limit = scan.memory();
    limit_memory(limit)?;
    files::ensure_dir(&staging, 0o700)?;
    let mut indexer = Indexer::new_ext(Some(&odb), &staging, 0o444, false, format)
        .map_err(|error| failed(&error))?;
    let mut last = since_boot();
    indexer.progress(move |stats| {
        let now = since_boot();
        if (now - last).as_millis() >= BEAT {
            last = now;
            let (received, total) = (stats.received_objects(), stats.total_objects());
            report(&IndexerEvent::Progress { received, total });
        }
        true
    });
    let mut piece = vec![0; PIECE];
    loop {
        let count = match input.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("the pack breaks off"),
        };
        let bytes = piece.get(..count).unwrap_or_default();
        // The scan comes first: libgit2 believes what a pack says of itself.
        scan.feed(bytes)?;
        if scan.memory() >= limit.saturating_add(MEMORY_STEP) {
            limit = scan.memory();
            limit_memory(limit)?;
        }
        if let Err(error) = indexer.write_all(bytes) {
            return Err(match error.downcast::<git2::Error>() {
                Ok(error) => failed(&error),
                Err(error) => error.into(),
            });
        }
    }
    if !scan.is_complete() {
        return Err(PackError("ends in the middle".to_owned()).into());
    }
    limit_memory(scan.memory())?;
    let name = indexer.commit().map_err(|error| failed(&error))?;
    // The check needs no more memory than each object was allowed.
    let index = staging.join(format!("pack-{name}.idx"));
    check_objects(&scan, &repo, &odb, &index, id_length)
}

/// Checks what shows only once the ids of a pack's objects are known.
fn check_objects(
    scan: &PackScan,
    repo: &Repository,
    odb: &Odb<'_>,
    index: &Path,
    id_length: usize,
) -> Result<()> {
    let offsets: HashMap<ObjectId, u64> = match scan.names_bases() {
        true => entries(index, id_length)?.into_iter().collect(),
        false => HashMap::new(),
    };
    let base = |id: &ObjectId| match offsets.get(id) {
        Some(offset) if scan.has_object_at(*offset) => Some(DeltaBase::Inside(*offset)),
        // libgit2 appended it to complete a thin pack.
        _ => {
            let (_, kind) = odb.read_header(oid_in(repo, id).ok()?).ok()?;
            kind_of(kind).map(DeltaBase::Outside)
        }
    };
    Ok(scan.check(base)?)
}

fn kind_of(kind: ObjectType) -> Option<ObjectKind> {
    match kind {
        ObjectType::Commit => Some(ObjectKind::Commit),
        ObjectType::Tree => Some(ObjectKind::Tree),
        ObjectType::Blob => Some(ObjectKind::Blob),
        ObjectType::Tag => Some(ObjectKind::Tag),
        ObjectType::Any => None,
    }
}

/// Explains libgit2's error about a pack. libgit2 does not always report that memory ran out.
fn failed(error: &git2::Error) -> anyhow::Error {
    if error.class() == ErrorClass::NoMemory || is_memory_used_up() {
        return anyhow!(out_of_memory());
    }
    explained(error).context("its pack cannot be taken in")
}

/// Whether this process is so close to its memory limit that an allocation probably failed.
fn is_memory_used_up() -> bool {
    let Some(limit) = getrlimit(Resource::Data).current else { return false };
    let status = files::read_small(Path::new("/proc/self/status"), 64 << 10).ok().flatten();
    let text = String::from_utf8_lossy(&status.unwrap_or_default()).into_owned();
    let data = text.lines().find_map(|line| line.strip_prefix("VmData:")?.strip_suffix("kB"));
    let used = data.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()).unwrap_or_default();
    used.saturating_mul(1024) > limit - limit / 16
}

/// Writes a pack of the objects that `wanted` need and the repository with the git directory `into`
/// lacks, from the repository at `from`, as git-pack-objects(1). The order of `wanted` does not matter.
///
/// # Errors
/// When an object is missing or damaged, or `output` cannot be written.
pub fn pack_objects(
    from: &Path,
    into: &Path,
    wanted: &[ObjectId],
    output: &mut dyn Write,
) -> Result<()> {
    let none: [&std::ffi::OsStr; 0] = [];
    let open = |path: &Path| {
        Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, none)
            .map_err(|error| explained(&error))
            .with_context(|| format!("{} cannot be opened", path.display()))
    };
    let (source, clone) = (open(from)?, open(into)?);
    let (format, ours) = (format_of(&source), format_of(&clone));
    ensure!(
        format == ours,
        "{} names its objects by {format}, and the clone by {ours}",
        from.display()
    );
    // libgit2 never returns from reading a torn object.
    if let Some((object, _)) =
        crate::system::git::torn_objects::torn_object(&git_dir_in(from), format)
    {
        bail!("{} is damaged: {} is cut off", from.display(), object.display());
    }
    limit_memory((host::memory() / 4).max(PACKER_MEMORY))?;
    let unreadable = |error: git2::Error| match error.class() {
        ErrorClass::NoMemory => anyhow!("it needs more memory than reading it may use"),
        _ => explained(&error),
    };
    let mut builder = source.packbuilder().map_err(unreadable)?;
    let odb = source.odb().map_err(unreadable)?;
    let mut commits = Vec::new();
    for id in wanted {
        let mut oid = oid_in(&source, id)?;
        // An annotated tag may point at another tag.
        while let Some(target) = history::tag_target(&source, oid)? {
            builder.insert_object(oid, None).map_err(unreadable)?;
            oid = target;
        }
        match odb.read_header(oid).map_err(unreadable)?.1 {
            ObjectType::Commit => commits.push(oid),
            _ => builder.insert_recursive(oid, None).map_err(unreadable)?,
        }
    }
    let references = clone.references().map_err(unreadable)?.flatten();
    let ours: Vec<Oid> = references.filter_map(|reference| reference.target()).collect();
    if let Err(error) = insert_walk(&source, &mut builder, &commits, &ours) {
        insert_history(&source, &mut builder, &commits, &ours).map_err(|_| unreadable(error))?;
    }
    // The reader of a closed pipe knows why it closed it.
    builder.foreach(|bytes| output.write_all(bytes).is_ok()).map_err(unreadable)
}

/// Inserts `commits` and their history with all they hold, without what is behind `ours`.
fn insert_walk(
    source: &Repository,
    builder: &mut PackBuilder,
    commits: &[Oid],
    ours: &[Oid],
) -> Result<(), git2::Error> {
    let mut walk = source.revwalk()?;
    commits.iter().try_for_each(|&oid| walk.push(oid))?;
    for &oid in ours {
        // A ref that the source does not have hides nothing.
        let _ = walk.hide(oid);
    }
    builder.insert_walk(&mut walk)
}

/// [`insert_walk`] for a history that libgit2 does not read; inserts whole trees.
fn insert_history(
    source: &Repository,
    builder: &mut PackBuilder,
    commits: &[Oid],
    ours: &[Oid],
) -> Result<()> {
    let history = History::of(source)?;
    let nothing = HashSet::new();
    let mut hidden = HashSet::new();
    for &oid in ours {
        // So does one whose history the source does not have.
        let peeled = history::peeled(source, oid).ok();
        let behind = peeled.and_then(|oid| history.reachable(&[oid], &nothing).ok());
        hidden.extend(behind.unwrap_or_default());
    }
    for oid in history.reachable(commits, &hidden)? {
        builder.insert_object(oid, None)?;
        builder.insert_tree(history.commit(oid)?.tree)?;
    }
    Ok(())
}

/// The git directory of the repository at `path`, bare or not.
pub fn git_dir_in(path: &Path) -> PathBuf {
    let below = path.join(".git");
    if below.is_dir() { below } else { path.to_owned() }
}

impl Git {
    /// Makes libgit2 see the packs that another process put into the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(in crate::system) fn look_for_new_packs(&self) -> Result<()> {
        self.repo.odb().and_then(|odb| odb.refresh()).map_err(|error| explained(&error))
    }
}
