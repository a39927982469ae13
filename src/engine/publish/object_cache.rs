//! A cache of objects that many trees share: branches have most files and directories in common, and an
//! object that was read, unpacked and verified once need not be read again. Knows nothing of trees.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use crate::domain::git::ObjectId;
use crate::domain::repository::change::{ObjectError, ObjectSource};

/// The size limit of a cached object, in bytes.
const SMALL: usize = 64 << 10;
/// The size limit of the whole cache, in bytes.
const MOST: usize = 8 << 20;

/// A source of objects that reads each small one once, while the cache has room.
pub struct ObjectCache<'a, O> {
    objects: &'a O,
    trees: RefCell<HashMap<ObjectId, Rc<[u8]>>>,
    blobs: RefCell<HashMap<ObjectId, Rc<[u8]>>>,
    room: Cell<usize>,
}

enum BlobContent<B> {
    Kept(Rc<[u8]>),
    Large(B),
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for BlobContent<B> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Kept(content) => content,
            Self::Large(content) => content.as_ref(),
        }
    }
}

impl<'a, O: ObjectSource> ObjectCache<'a, O> {
    /// An empty cache over `objects`.
    pub fn of(objects: &'a O) -> Self {
        let (trees, blobs) = Default::default();
        Self { objects, trees, blobs, room: Cell::new(MOST) }
    }

    /// Caches `content` in `kept`; `None`: it is too large.
    fn keep(
        &self,
        kept: &RefCell<HashMap<ObjectId, Rc<[u8]>>>,
        id: &ObjectId,
        content: &[u8],
    ) -> Option<Rc<[u8]>> {
        let room = self.room.get().checked_sub(content.len()).filter(|_| content.len() <= SMALL)?;
        self.room.set(room);
        let content: Rc<[u8]> = content.into();
        kept.borrow_mut().insert(*id, Rc::clone(&content));
        Some(content)
    }
}

impl<O: ObjectSource> ObjectSource for ObjectCache<'_, O> {
    fn tree(&self, id: &ObjectId) -> Result<Vec<u8>, ObjectError> {
        if let Some(known) = self.trees.borrow().get(id) {
            return Ok(known.to_vec());
        }
        let tree = self.objects.tree(id)?;
        self.keep(&self.trees, id, &tree);
        Ok(tree)
    }

    fn blob_size(&self, id: &ObjectId) -> Result<u64, ObjectError> {
        match self.blobs.borrow().get(id) {
            Some(known) => Ok(known.len() as u64),
            None => self.objects.blob_size(id),
        }
    }

    fn blob(&self, id: &ObjectId) -> Result<impl AsRef<[u8]>, ObjectError> {
        if let Some(known) = self.blobs.borrow().get(id) {
            return Ok(BlobContent::Kept(Rc::clone(known)));
        }
        let content = self.objects.blob(id)?;
        let kept = self.keep(&self.blobs, id, content.as_ref());
        Ok(kept.map_or(BlobContent::Large(content), BlobContent::Kept))
    }

    fn hash_blob(&self, size: u64, content: &mut dyn io::Read) -> io::Result<ObjectId> {
        self.objects.hash_blob(size, content)
    }

    fn max_file(&self) -> u64 {
        self.objects.max_file()
    }
}
