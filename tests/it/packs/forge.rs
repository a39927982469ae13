//! Packs made byte by byte, by gitformat-pack(5): whatever they say of themselves, true or not.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// A kind of object, by its number in a pack.
#[derive(Clone, Copy)]
pub enum Kind {
    Commit = 1,
    Tree = 2,
    Blob = 3,
}

/// An object, for what is made of it.
pub struct Object {
    kind: Kind,
    content: Vec<u8>,
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The head of an object of the kind `code` that announces `size` bytes.
fn head(code: u8, mut size: usize) -> Vec<u8> {
    let mut bytes = vec![code << 4 | (size & 15) as u8];
    size >>= 4;
    while size > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push((size & 0x7f) as u8);
        size >>= 7;
    }
    bytes
}

/// A size as deltas begin with it.
fn size(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// How far before a delta its base is.
fn distance(mut value: usize) -> Vec<u8> {
    let mut bytes = vec![(value & 0x7f) as u8];
    value >>= 7;
    while value > 0 {
        value -= 1;
        bytes.insert(0, (value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes
}

impl Object {
    pub fn new(kind: Kind, content: &[u8]) -> Self {
        Self { kind, content: content.to_vec() }
    }

    /// As git names it.
    fn id(&self) -> Vec<u8> {
        let name = match self.kind {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
        };
        let head = format!("{name} {}\0", self.content.len());
        sha1(&[head.as_bytes(), &self.content].concat())
    }

    /// It, whole.
    pub fn whole(&self) -> Vec<u8> {
        self.announcing(self.content.len())
    }

    /// It, whole, as one of `bytes`.
    pub fn announcing(&self, bytes: usize) -> Vec<u8> {
        [head(self.kind as u8, bytes), deflated(&self.content)].concat()
    }

    /// A few bytes that announce an object of `bytes`, and begin as one.
    pub fn bomb(kind: Kind, bytes: usize) -> Vec<u8> {
        [head(kind as u8, bytes), deflated(&vec![0; 1 << 20])].concat()
    }

    fn delta(&self, delta: &[u8]) -> Vec<u8> {
        [head(7, delta.len()), self.id(), deflated(delta)].concat()
    }

    /// A delta upon it that makes `content`, of at most 127 bytes.
    pub fn upon(&self, content: &[u8]) -> Vec<u8> {
        let (base, made) = (size(self.content.len()), size(content.len()));
        self.delta(&[&base, &made, &[content.len() as u8][..], content].concat())
    }

    /// Another delta upon it that makes the same.
    pub fn in_halves(&self, content: &[u8]) -> Vec<u8> {
        let (base, made) = (size(self.content.len()), size(content.len()));
        let (one, two) = content.split_at(content.len() / 2);
        let parts = [&[one.len() as u8], one, &[two.len() as u8], two].concat();
        self.delta(&[base, made, parts].concat())
    }

    /// A delta upon it that makes `bytes` of its first 64 KiB.
    pub fn repeated(&self, bytes: usize) -> Vec<u8> {
        let copies = [0xc0, 1].repeat((bytes >> 16).min(1 << 14));
        self.delta(&[size(self.content.len()), size(bytes), copies].concat())
    }
}

/// Whole packs.
pub struct Pack;

impl Pack {
    /// Of these parts.
    pub fn of(parts: &[&[u8]]) -> Vec<u8> {
        Self::announcing(parts.len() as u32, parts)
    }

    /// Of these parts, as if there were `count`.
    pub fn announcing(count: u32, parts: &[&[u8]]) -> Vec<u8> {
        let head = [&b"PACK\0\0\0\x02"[..], &count.to_be_bytes()].concat();
        let all = [head, parts.concat()].concat();
        [all.clone(), sha1(&all)].concat()
    }

    /// So many deltas in a row.
    pub fn chain(length: usize) -> Vec<u8> {
        Self::slow_chain(length, 64)
    }

    /// So many deltas in a row, each of which makes an object of `bytes`.
    pub fn slow_chain(length: usize, bytes: usize) -> Vec<u8> {
        let first = Object::new(Kind::Blob, &vec![b'c'; bytes]).whole();
        let (mut parts, mut before) = (vec![first.clone()], first.len());
        let count = (bytes - 8) as u32;
        let copy = [&[0xff][..], &8_u32.to_le_bytes(), &count.to_le_bytes()[..3]].concat();
        for number in 0..length {
            let new = format!("\x08{number:08}").into_bytes();
            let delta = [size(bytes), size(bytes), new, copy.clone()].concat();
            let part = [head(6, delta.len()), distance(before), deflated(&delta)].concat();
            before = part.len();
            parts.push(part);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Self::of(&parts)
    }
}

/// Replaces all objects of the bare repository `server` by a pack, with an index, of two deltas upon each
/// other, of which one is named `tip`.
pub fn replace_by_a_circle(server: &Path, tip: &str) {
    let tip: Vec<u8> =
        (0..20).map(|at| u8::from_str_radix(&tip[2 * at..][..2], 16).unwrap()).collect();
    let other = vec![0xee; 20];
    let delta = deflated(&[size(4), size(4), b"\x04abcd".to_vec()].concat());
    let upon = |id: &[u8]| [&head(7, 7), id, &delta].concat();
    let (one, two) = (upon(&other), upon(&tip));
    let pack = Pack::of(&[&one, &two]);
    let mut names = [(tip, 12_u32), (other, 12 + one.len() as u32)];
    names.sort();
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    for first in 0..=255 {
        let count = names.iter().filter(|(id, _)| id[0] <= first).count() as u32;
        index.extend(count.to_be_bytes());
    }
    names.iter().for_each(|(id, _)| index.extend(id));
    names.iter().for_each(|_| index.extend([0; 4]));
    names.iter().for_each(|(_, offset)| index.extend(offset.to_be_bytes()));
    index.extend(&pack[pack.len() - 20..]);
    index.extend(sha1(&index));

    let objects = server.join("objects");
    fs::remove_dir_all(&objects).unwrap();
    fs::create_dir_all(objects.join("pack")).unwrap();
    let stem = objects.join(format!("pack/pack-{}", "c".repeat(40)));
    fs::write(stem.with_extension("pack"), pack).unwrap();
    fs::write(stem.with_extension("idx"), index).unwrap();
}
