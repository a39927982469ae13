//! Packs byte by byte: those that are accepted, and those that are refused with their reason.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;

use super::*;

const LARGEST: u64 = 1 << 20;

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The header of an object of the type `code` that announces `size` bytes.
fn head(code: u8, mut size: u64) -> Vec<u8> {
    let mut bytes = vec![code << 4 | (size & 15) as u8];
    size >>= 4;
    while size > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push((size & 0x7f) as u8);
        size >>= 7;
    }
    bytes
}

fn object(code: u8, content: &[u8]) -> Vec<u8> {
    [head(code, content.len() as u64), deflated(content)].concat()
}

fn size(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A delta against `base` bytes that claims to produce `made` bytes.
fn delta(base: u64, made: u64, rest: &[u8]) -> Vec<u8> {
    [size(base), size(made), rest.to_vec()].concat()
}

fn upon(id: u8, delta: &[u8]) -> Vec<u8> {
    [head(7, delta.len() as u64), vec![id; 20], deflated(delta)].concat()
}

/// A delta against the object that begins `distance` bytes before it; distances below 128 only.
fn behind(distance: u8, delta: &[u8]) -> Vec<u8> {
    [head(6, delta.len() as u64), vec![distance], deflated(delta)].concat()
}

fn pack(announced: u32, objects: &[Vec<u8>]) -> Vec<u8> {
    let head = [b"PACK".to_vec(), vec![0, 0, 0, 2], announced.to_be_bytes().to_vec()].concat();
    [head, objects.concat(), vec![0; 20]].concat()
}

fn scan(bytes: &[u8], piece: usize) -> Result<PackScan, PackError> {
    let mut scan = PackScan::new(20, LARGEST);
    bytes.chunks(piece).try_for_each(|piece| scan.feed(piece))?;
    Ok(scan)
}

/// The reason why `objects` are refused, with the bytes in pieces of any size.
#[track_caller]
fn refused(announced: u32, objects: &[Vec<u8>], expected: &str) {
    let bytes = pack(announced, objects);
    for piece in [1, 7, bytes.len()] {
        let message = scan(&bytes, piece).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_pack_is_read_in_pieces_of_any_size() {
    let long = [b'x'; 200_000];
    let blob = object(3, b"a base of twenty-two by");
    let bytes = pack(
        4,
        &[
            object(3, &long),
            blob.clone(),
            behind(blob.len() as u8, &delta(22, 9, b"\x09whatever.")),
            upon(1, &delta(5, 1, b"\x01x")),
        ],
    );
    for piece in [1, 13, 4096, bytes.len()] {
        let scan = scan(&bytes, piece).unwrap();
        assert!(scan.is_complete() && scan.names_bases());
        let sizes: Vec<u64> = scan.entries.iter().map(|entry| entry.size).collect();
        assert_eq!(sizes, [200_000, 23, 9, 1]);
        assert!(scan.has_object_at(12) && !scan.has_object_at(13));
    }
    let cut_off = scan(&bytes[..bytes.len() - 1], 100).unwrap();
    assert!(!cut_off.is_complete());
}

#[test]
fn what_a_pack_may_not_say_is_refused() {
    let blob = object(3, b"blob");
    refused(u32::MAX, &[], "announces 4294967295 objects");
    refused(1, &[object(0, b"x")], "unknown kind 0");
    refused(1, &[object(5, b"x")], "unknown kind 5");
    refused(1, &[[vec![0xff; 12], blob.clone()].concat()], "size without end");
    refused(1, &[blob.clone(), blob.clone()], "continues after its end");
    refused(1, &[[head(3, 2), deflated(b"three")].concat()], "more than the 2 bytes");
    refused(1, &[[head(3, 9), deflated(b"three")].concat()], "less than the 9 bytes");
    refused(1, &[[head(3, 9), b"no zlib stream".to_vec()].concat()], "not deflated");
    refused(2, &[blob.clone(), behind(5, &delta(1, 1, b"\x01x"))], "no object begins");
    refused(1, &[behind(100, &delta(1, 1, b"\x01x"))], "no object begins");
    refused(1, &[upon(1, b"\xff\xff")], "does not begin as one does");
    let twice = upon(1, &delta(4, 1, b"\x01x"));
    refused(2, &[twice.clone(), twice], "the same delta twice");
    assert!(scan(b"<html>no pack at all</html>", 5).is_err());
}

#[test]
fn what_would_be_built_in_memory_is_bounded_before_it_is() {
    for (code, what, most) in
        [(1, "commit", MAX_META), (2, "tree", MAX_TREE_TAKEN), (4, "tag", MAX_META)]
    {
        refused(1, &[head(code, most + 1)], &format!("a {what} of"));
    }
    refused(1, &[head(7, LARGEST + 1), vec![1; 20]], "a delta of");
    refused(1, &[upon(1, &delta(LARGEST + 1, 1, b""))], "against an object of");
    refused(1, &[upon(1, &delta(1, 4 << 30, b""))], "makes an object of 4294967296 bytes");
    let many = scan(&pack(3, &[upon(1, &delta(9, LARGEST, b""))]), 9);
    let expected = MEMORY + 3 * MEMORY_ANNOUNCED + MEMORY_EACH + 3 * LARGEST;
    assert_eq!(many.unwrap_err().to_string(), "its pack has an object of the unknown kind 0");
    let mut one = PackScan::new(20, LARGEST);
    let bytes = pack(3, &[upon(1, &delta(9, LARGEST, b""))]);
    one.feed(&bytes[..bytes.len() - 20]).unwrap();
    assert_eq!(one.memory(), expected);
}

#[test]
fn deltas_upon_one_another_are_counted_and_keep_the_kind_of_the_first() {
    let chain = |length: u32, kind: u8| {
        let first = object(kind, b"first");
        let mut objects = vec![first.clone()];
        let mut before = first.len() as u8;
        for number in 0..length {
            let next = behind(before, &delta(5, 4, format!("\x04{number:04}").as_bytes()));
            before = next.len() as u8;
            objects.push(next);
        }
        scan(&pack(length + 1, &objects), 100)
    };
    assert_eq!(chain(MAX_DEPTH, 3).unwrap().check(|_| None), Ok(()));
    let message = chain(MAX_DEPTH + 1, 3).unwrap_err().to_string();
    assert!(message.contains("more than 4095 deltas"), "{message}");
}

#[test]
fn a_delta_by_name_is_judged_by_what_it_is_upon() {
    let bytes = pack(2, &[upon(1, &delta(9, 3, b"\x03abc")), upon(2, &delta(3, 1, b"\x01x"))]);
    let scan = scan(&bytes, 50).unwrap();
    let upon_the_first = |id: &ObjectId| match id.as_bytes()[0] {
        1 => Some(DeltaBase::Outside(ObjectKind::Tree)),
        _ => Some(DeltaBase::Inside(12)),
    };
    assert_eq!(scan.check(upon_the_first), Ok(()));
    assert!(scan.check(|_| None).is_err(), "what it is upon is nowhere");
    assert!(scan.check(|_| Some(DeltaBase::Inside(12))).is_err(), "it is upon itself");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_in_whatever_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        piece in 1_usize..40,
    ) {
        let bytes = [b"PACK\0\0\0\x02\0\0\0\x05".to_vec(), bytes].concat();
        let whole = scan(&bytes, bytes.len()).map(|scan| scan.entries);
        let pieces = scan(&bytes, piece).map(|scan| scan.entries);
        prop_assert_eq!(whole, pieces);
    }
}
