//! Any bytes as the tree objects of a revision: refused, or a list of paths that all lie inside the
//! worktree and none of which is the repository's own or the agent's.
//!
//! The input is cut into objects; an id means one of them by its first byte, so that trees share
//! subtrees, hold themselves, or are files elsewhere. A second byte of 255 is a missing object.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::domain::git::ObjectId;
use pmpy::domain::repository::change::{
    MAX_DEPTH, MAX_NAME, MAX_PATH, ObjectError, ObjectSource, PathOp, TreeChange,
};

struct Store<'b>(Vec<&'b [u8]>);

impl Store<'_> {
    fn object(&self, id: &ObjectId) -> Result<&[u8], ObjectError> {
        let bytes = id.as_bytes();
        if bytes[1] == 255 {
            return Err(ObjectError::Missing(*id));
        }
        Ok(self.0[usize::from(bytes[0]) % self.0.len()])
    }
}

impl ObjectSource for Store<'_> {
    fn tree(&self, id: &ObjectId) -> Result<Vec<u8>, ObjectError> {
        self.object(id).map(<[u8]>::to_vec)
    }

    fn blob_size(&self, id: &ObjectId) -> Result<u64, ObjectError> {
        self.object(id).map(|object| object.len() as u64)
    }

    fn blob(&self, id: &ObjectId) -> Result<impl AsRef<[u8]>, ObjectError> {
        self.object(id)
    }

    fn hash_blob(&self, _: u64, _: &mut dyn std::io::Read) -> std::io::Result<ObjectId> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn max_file(&self) -> u64 {
        200
    }
}

/// One byte of length, then that many bytes; the rest is the last object.
fn cut(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut objects = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (object, rest) = rest.split_at(rest.len().min(usize::from(length)));
        objects.push(object);
        bytes = rest;
    }
    objects
}

fn check(op: &PathOp) {
    let path = op.path.as_bytes();
    assert!(path.len() <= MAX_PATH || op.new.is_none(), "too long: {op:?}");
    assert!(!path.contains(&0), "a NUL: {op:?}");
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    assert!(names.len() <= MAX_DEPTH + 1 || op.new.is_none(), "too deep: {op:?}");
    for name in &names {
        let plain = name.to_ascii_lowercase();
        assert!(!matches!(*name, b"" | b"." | b".."), "leads elsewhere: {op:?}");
        assert!(plain != b".git" && name.len() <= MAX_NAME, "{op:?}");
        assert!(!name.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'), "{op:?}");
    }
    assert!(names[0].to_ascii_lowercase() != b".temp", "the agent's own: {op:?}");
    assert!(op.old.is_some() || op.new.is_some(), "neither side: {op:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let store = Store(cut(bytes));
    if store.0.is_empty() {
        return;
    }
    let id = |first: u8| ObjectId::from_bytes(&[first; 20]).expect("20 bytes");
    for from in [None, Some(id(1))] {
        match TreeChange::between(from, id(0), &store) {
            Ok(change) => {
                change.ops.iter().for_each(check);
                let sorted = change.ops.windows(2).all(|pair| pair[0].path < pair[1].path);
                assert!(sorted, "each path once, in order");
            }
            Err(error) => {
                let message = error.to_string();
                assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
            }
        }
    }
});
