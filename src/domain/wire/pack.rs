//! The scan of a pack, as its bytes arrive and before a library builds anything from it: the number of
//! objects, their sizes, and their delta bases. The sender of a pack chooses all of these, so each has a
//! limit here. Keeps a few bytes for each object, and no content.
//!
//! The format is gitformat-pack(5). The library verifies that the content matches the object ids.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use flate2::{Decompress, FlushDecompress, Status};

use crate::domain::git::ObjectId;

/// The limit of objects in one pack.
pub const MAX_OBJECTS: u32 = 100_000_000;
/// The limit of a commit or a tag in bytes.
pub const MAX_META: u64 = 64 << 20;
/// The limit of a tree in bytes. Above [`MAX_TREE`](crate::domain::repository::change::MAX_TREE) the
/// rules for trees refuse the revision, with a better message than a failed fetch.
pub const MAX_TREE_TAKEN: u64 = 4 * crate::domain::repository::change::MAX_TREE;
/// The limit of a delta chain: the most that git makes.
pub const MAX_DEPTH: u32 = 4_095;

/// The memory in bytes that any pack may need.
const MEMORY: u64 = 128 << 20;
/// The memory in bytes for each announced object: their list is allocated before they come.
const MEMORY_ANNOUNCED: u64 = 12;
/// The memory in bytes for each received object.
const MEMORY_EACH: u64 = 800;
/// The multiple of the largest delta object that must fit in memory: its base, the delta and the result.
const MEMORY_TIMES: u64 = 3;

/// The buffer for inflated data, in bytes.
const PIECE: usize = 64 << 10;
/// The longest encoding of the two sizes at the start of a delta, in bytes.
const DELTA_HEAD: usize = 20;

/// The reason to refuse a pack, as the end of a sentence that begins with "its pack".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackError(pub String);

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its pack {}", self.0)
    }
}

impl std::error::Error for PackError {}

fn bad<T>(what: impl Into<String>) -> Result<T, PackError> {
    Err(PackError(what.into()))
}

/// The type of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A commit.
    Commit,
    /// A tree.
    Tree,
    /// A blob.
    Blob,
    /// An annotated tag.
    Tag,
}

/// The storage of an object in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectStorage {
    /// The complete content.
    Whole(ObjectKind),
    /// A delta against the object that begins at this offset.
    OffsetDelta(u64),
    /// A delta against the object with this id.
    RefDelta(ObjectId),
}

/// One object of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackEntry {
    /// The offset of the object in the pack.
    offset: u64,
    storage: ObjectStorage,
    /// The size of the content in bytes; for a delta, of its result.
    size: u64,
    /// The length of the delta chain up to this object, as far as it is known while the pack arrives.
    depth: u32,
}

/// The place of a delta base that is named by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaBase {
    /// In the same pack, at this offset.
    Inside(u64),
    /// In the clone already.
    Outside(ObjectKind),
}

/// The part of a pack that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackStage {
    /// The twelve bytes of the pack header.
    Head,
    /// The type and size of an object.
    EntryHead,
    /// The base of a delta.
    Base { code: u8, size: u64 },
    /// The deflated content.
    Content { storage: ObjectStorage, size: u64 },
    /// The checksum at the end.
    Trailer,
}

/// Scans a pack as its bytes arrive.
#[derive(Debug)]
pub struct PackScan {
    /// The length of an object id in bytes.
    id_length: usize,
    /// The size limit in bytes for the base and the result of a delta.
    largest_allowed: u64,
    stage: PackStage,
    /// The bytes of an incomplete header; never content.
    held: Vec<u8>,
    /// The number of bytes before the next one to read.
    offset: u64,
    /// The offset of the object that is being read.
    begun: u64,
    announced: u32,
    entries: Vec<PackEntry>,
    largest: u64,
    inflate: Decompress,
    inflated: Vec<u8>,
    delta_head: Vec<u8>,
    delta_hash: DefaultHasher,
    deltas: HashSet<u64>,
    trailing: usize,
}

impl PackScan {
    /// A scan for a repository whose ids have `id_length` bytes, and whose deltas may produce objects of
    /// at most `largest_allowed` bytes.
    pub fn new(id_length: usize, largest_allowed: u64) -> Self {
        Self {
            id_length,
            largest_allowed,
            stage: PackStage::Head,
            held: Vec::new(),
            offset: 0,
            begun: 0,
            announced: 0,
            entries: Vec::new(),
            largest: 0,
            inflate: Decompress::new(true),
            inflated: vec![0; PIECE],
            delta_head: Vec::new(),
            delta_hash: DefaultHasher::new(),
            deltas: HashSet::new(),
            trailing: 0,
        }
    }

    /// The memory in bytes that processing the received part may need.
    pub fn memory(&self) -> u64 {
        MEMORY
            .saturating_add(MEMORY_ANNOUNCED * u64::from(self.announced))
            .saturating_add(MEMORY_EACH * self.entries.len() as u64)
            .saturating_add(self.largest.saturating_mul(MEMORY_TIMES))
    }

    /// Scans the next bytes, in pieces of any size.
    ///
    /// # Errors
    /// The bytes are no pack, or one that breaks a limit.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let taken = match self.stage {
                PackStage::Content { storage, size } => self.take_content(bytes, storage, size)?,
                PackStage::Trailer => self.take_trailer(bytes)?,
                PackStage::Head | PackStage::EntryHead | PackStage::Base { .. } => {
                    self.held.extend(bytes.first());
                    self.take_held()?;
                    1
                }
            };
            self.offset += taken as u64;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Returns `true` if all announced objects and the checksum have arrived.
    pub fn is_complete(&self) -> bool {
        self.stage == PackStage::Trailer && self.trailing == self.id_length
    }

    /// Returns `true` if a delta names its base by id.
    pub fn names_bases(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.storage, ObjectStorage::RefDelta(_)))
    }

    /// Returns `true` if a received object begins at `offset`.
    pub fn has_object_at(&self, offset: u64) -> bool {
        self.at(offset).is_some()
    }

    /// Continues with the next stage once the held header is complete: of the pack, an object or a
    /// delta.
    fn take_held(&mut self) -> Result<(), PackError> {
        match self.stage {
            PackStage::Head if self.held.len() == 12 => {
                let (magic, numbers) = self.held.split_at(4);
                let number = |at: usize| {
                    let bytes = numbers.get(at..at + 4).and_then(|four| four.try_into().ok());
                    bytes.map_or(0, u32::from_be_bytes)
                };
                if magic != b"PACK" || !matches!(number(0), 2 | 3) {
                    return bad("does not begin as a pack does");
                }
                self.announced = number(4);
                if self.announced > MAX_OBJECTS {
                    return bad(format!(
                        "announces {} objects; {MAX_OBJECTS} are the most",
                        self.announced
                    ));
                }
                self.next_entry(1);
            }
            PackStage::EntryHead if self.held.last().is_some_and(|byte| byte & 0x80 == 0) => {
                let (code, size) = entry_head(&self.held)?;
                self.held.clear();
                match code {
                    1 => self.begin(ObjectStorage::Whole(ObjectKind::Commit), size)?,
                    2 => self.begin(ObjectStorage::Whole(ObjectKind::Tree), size)?,
                    3 => self.begin(ObjectStorage::Whole(ObjectKind::Blob), size)?,
                    4 => self.begin(ObjectStorage::Whole(ObjectKind::Tag), size)?,
                    6 | 7 => self.stage = PackStage::Base { code, size },
                    _ => return bad(format!("has an object of the unknown kind {code}")),
                }
            }
            PackStage::EntryHead if self.held.len() > 10 => return bad("has a size without end"),
            PackStage::Base { code: 7, size } if self.held.len() == self.id_length => {
                if let Some(id) = ObjectId::from_bytes(&self.held) {
                    self.begin(ObjectStorage::RefDelta(id), size)?;
                }
            }
            PackStage::Base { code: 6, size }
                if self.held.last().is_some_and(|it| it & 0x80 == 0) =>
            {
                let base = distance(&self.held)
                    .and_then(|distance| self.begun.checked_sub(distance))
                    .filter(|base| self.at(*base).is_some());
                match base {
                    Some(base) => self.begin(ObjectStorage::OffsetDelta(base), size)?,
                    None => return bad("has a delta against an offset where no object begins"),
                }
            }
            PackStage::Base { code: 6, .. } if self.held.len() > 10 => {
                return bad("has a delta against an offset where no object begins");
            }
            _ => {}
        }
        Ok(())
    }

    /// The index of the object that begins at `offset`.
    fn at(&self, offset: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()
    }

    /// Prepares for the content of an object.
    fn begin(&mut self, storage: ObjectStorage, size: u64) -> Result<(), PackError> {
        match storage {
            ObjectStorage::Whole(kind) => self.check_meta(kind, size)?,
            ObjectStorage::OffsetDelta(_) | ObjectStorage::RefDelta(_) => {
                self.check_delta("has a delta", size)?;
                self.delta_hash = DefaultHasher::new();
                if let ObjectStorage::RefDelta(id) = storage {
                    id.hash(&mut self.delta_hash);
                } else if let ObjectStorage::OffsetDelta(base) = storage {
                    base.hash(&mut self.delta_hash);
                }
            }
        }
        self.held.clear();
        self.delta_head.clear();
        self.inflate.reset(true);
        self.stage = PackStage::Content { storage, size };
        Ok(())
    }

    /// Prepares for the next object, or the trailer, which begins `after` bytes from here.
    fn next_entry(&mut self, after: u64) {
        self.held.clear();
        self.begun = self.offset + after;
        self.stage = match self.entries.len() as u64 == u64::from(self.announced) {
            true => PackStage::Trailer,
            false => PackStage::EntryHead,
        };
    }

    fn check_meta(&self, kind: ObjectKind, size: u64) -> Result<(), PackError> {
        let (what, most) = match kind {
            ObjectKind::Commit => ("commit", MAX_META),
            ObjectKind::Tag => ("tag", MAX_META),
            ObjectKind::Tree => ("tree", MAX_TREE_TAKEN),
            // A blob is never held in memory just because it is in the pack.
            ObjectKind::Blob => return Ok(()),
        };
        match size > most {
            true => bad(format!("has a {what} of {size} bytes; {} MiB are the most", most >> 20)),
            false => Ok(()),
        }
    }

    /// Checks and records the size of something that is built in memory.
    fn check_delta(&mut self, what: &str, size: u64) -> Result<(), PackError> {
        if size > self.largest_allowed {
            return bad(format!(
                "{what} of {size} bytes; {} are the most\n\
                 hint: if such large files are meant to be there, set max_file",
                self.largest_allowed
            ));
        }
        self.largest = self.largest.max(size);
        Ok(())
    }

    fn take_content(
        &mut self,
        bytes: &[u8],
        storage: ObjectStorage,
        size: u64,
    ) -> Result<usize, PackError> {
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(bytes, &mut self.inflated, FlushDecompress::None);
        let taken = (self.inflate.total_in() - before_in) as usize;
        let given = (self.inflate.total_out() - before_out) as usize;
        if self.inflate.total_out() > size {
            return bad(format!("has an object of more than the {size} bytes that it announces"));
        }
        if !matches!(storage, ObjectStorage::Whole(_)) {
            let given = self.inflated.get(..given).unwrap_or_default();
            self.delta_hash.write(given);
            let missing = DELTA_HEAD - self.delta_head.len();
            self.delta_head.extend(given.iter().take(missing));
        }
        match status {
            Ok(Status::StreamEnd) => self.end(storage, size, taken as u64)?,
            Ok(Status::Ok | Status::BufError) if taken > 0 || given > 0 => {}
            _ => return bad("has content that is not deflated as it has to be"),
        }
        Ok(taken)
    }

    /// Finishes an object whose content is complete.
    fn end(&mut self, storage: ObjectStorage, size: u64, after: u64) -> Result<(), PackError> {
        if self.inflate.total_out() != size {
            return bad(format!("has an object of less than the {size} bytes that it announces"));
        }
        let depth = match storage {
            ObjectStorage::Whole(_) => 0,
            ObjectStorage::RefDelta(_) => 1,
            ObjectStorage::OffsetDelta(base) => {
                let below = self.at(base).and_then(|at| self.entries.get(at));
                1 + below.map_or(0, |entry| entry.depth)
            }
        };
        check_depth(depth)?;
        let size = match storage {
            ObjectStorage::Whole(_) => size,
            ObjectStorage::OffsetDelta(_) | ObjectStorage::RefDelta(_) => {
                let head = std::mem::take(&mut self.delta_head);
                let mut rest = head.as_slice();
                let (Some(base), Some(made)) = (varint(&mut rest), varint(&mut rest)) else {
                    return bad("has a delta that does not begin as one does");
                };
                self.check_delta("has a delta against an object", base)?;
                self.check_delta("has a delta that makes an object", made)?;
                if !self.deltas.insert(self.delta_hash.finish()) {
                    return bad("has the same delta twice, and so an object twice");
                }
                made
            }
        };
        self.entries.push(PackEntry { offset: self.begun, storage, size, depth });
        self.next_entry(after);
        Ok(())
    }

    fn take_trailer(&mut self, bytes: &[u8]) -> Result<usize, PackError> {
        self.trailing += bytes.len();
        match self.trailing > self.id_length {
            true => bad("continues after its end"),
            false => Ok(bytes.len()),
        }
    }

    /// Checks what only the complete pack shows: the length of delta chains, and the size of the
    /// commits, trees and tags that deltas produce. `base` finds the object that a delta names by id.
    ///
    /// # Errors
    /// The rule that the pack breaks.
    pub fn check(
        &self,
        mut base: impl FnMut(&ObjectId) -> Option<DeltaBase>,
    ) -> Result<(), PackError> {
        // The chain length and the type of each object, once they are known.
        let mut known: Vec<Option<(u32, ObjectKind)>> = vec![None; self.entries.len()];
        for index in 0..self.entries.len() {
            let mut chain = Vec::new();
            let mut at = index;
            let (mut depth, kind) = loop {
                if let Some(Some(found)) = known.get(at) {
                    break *found;
                }
                let Some(entry) = self.entries.get(at) else { return bad("has a lost object") };
                let inside = match entry.storage {
                    ObjectStorage::Whole(kind) => break (0, kind),
                    ObjectStorage::OffsetDelta(offset) => Some(offset),
                    ObjectStorage::RefDelta(id) => match base(&id) {
                        Some(DeltaBase::Inside(offset)) => Some(offset),
                        Some(DeltaBase::Outside(kind)) => {
                            chain.push(at);
                            break (0, kind);
                        }
                        None => None,
                    },
                };
                chain.push(at);
                match inside.and_then(|offset| self.at(offset)) {
                    Some(next) if chain.len() <= self.entries.len() => at = next,
                    _ => return bad("has a delta against an object that is missing"),
                }
            };
            while let Some(at) = chain.pop() {
                depth += 1;
                check_depth(depth)?;
                if let (Some(entry), Some(known)) = (self.entries.get(at), known.get_mut(at)) {
                    self.check_meta(kind, entry.size)?;
                    *known = Some((depth, kind));
                }
            }
        }
        Ok(())
    }
}

fn check_depth(depth: u32) -> Result<(), PackError> {
    match depth > MAX_DEPTH {
        true => bad(format!(
            "has more than {MAX_DEPTH} deltas in a row\n\
             hint: on the server: git repack -adf --depth=50"
        )),
        false => Ok(()),
    }
}

/// The type and the size from the header of an object.
fn entry_head(bytes: &[u8]) -> Result<(u8, u64), PackError> {
    let Some((first, rest)) = bytes.split_first() else { return bad("has an empty head") };
    let mut size = u64::from(first & 15);
    for (at, byte) in rest.iter().enumerate() {
        let part = u64::from(byte & 0x7f);
        let shift = 4 + 7 * at as u32;
        match part.checked_shl(shift).filter(|shifted| shifted >> shift == part) {
            Some(shifted) => size |= shifted,
            None => return bad("has a size without end"),
        }
    }
    Ok(((first >> 4) & 7, size))
}

/// The distance in bytes from a delta back to its base.
fn distance(bytes: &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    let mut distance = u64::from(first & 0x7f);
    for byte in rest {
        let higher = distance.checked_add(1)?.checked_mul(128)?;
        distance = higher | u64::from(byte & 0x7f);
    }
    (distance > 0).then_some(distance)
}

/// A size at the beginning of a delta.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(first & 0x7f);
        value |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
