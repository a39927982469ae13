//! Objects that many trees share: branches have most of their files and folders in common, and what
//! was read, unpacked and verified for one of them need not be for the next. Knows nothing of trees.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::domain::change::{ObjectError, Objects};
use crate::domain::git::Id;

/// The most bytes of an object that is kept.
const SMALL: usize = 64 << 10;
/// The most bytes of all that are kept.
const MOST: usize = 8 << 20;

/// Objects of which the small ones are read once, as long as there is room for them.
pub struct Shared<'a, O> {
    objects: &'a O,
    trees: RefCell<HashMap<Id, Rc<[u8]>>>,
    blobs: RefCell<HashMap<Id, Rc<[u8]>>>,
    room: Cell<usize>,
}

/// A blob.
enum Content<B> {
    Kept(Rc<[u8]>),
    Large(B),
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Content<B> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Kept(content) => content,
            Self::Large(content) => content.as_ref(),
        }
    }
}

impl<'a, O: Objects> Shared<'a, O> {
    /// Those of `objects`, none of them read yet.
    pub fn of(objects: &'a O) -> Self {
        let (trees, blobs) = Default::default();
        Self { objects, trees, blobs, room: Cell::new(MOST) }
    }

    /// Keeps `content` in `kept`; `None`: it is too large.
    fn keep(
        &self,
        kept: &RefCell<HashMap<Id, Rc<[u8]>>>,
        id: &Id,
        content: &[u8],
    ) -> Option<Rc<[u8]>> {
        let room = self.room.get().checked_sub(content.len()).filter(|_| content.len() <= SMALL)?;
        self.room.set(room);
        let content: Rc<[u8]> = content.into();
        kept.borrow_mut().insert(*id, Rc::clone(&content));
        Some(content)
    }
}

impl<O: Objects> Objects for Shared<'_, O> {
    fn tree(&self, id: &Id) -> Result<Vec<u8>, ObjectError> {
        if let Some(known) = self.trees.borrow().get(id) {
            return Ok(known.to_vec());
        }
        let tree = self.objects.tree(id)?;
        self.keep(&self.trees, id, &tree);
        Ok(tree)
    }

    fn blob_size(&self, id: &Id) -> Result<u64, ObjectError> {
        match self.blobs.borrow().get(id) {
            Some(known) => Ok(known.len() as u64),
            None => self.objects.blob_size(id),
        }
    }

    fn blob(&self, id: &Id) -> Result<impl AsRef<[u8]>, ObjectError> {
        if let Some(known) = self.blobs.borrow().get(id) {
            return Ok(Content::Kept(Rc::clone(known)));
        }
        let content = self.objects.blob(id)?;
        let kept = self.keep(&self.blobs, id, content.as_ref());
        Ok(kept.map_or(Content::Large(content), Content::Kept))
    }

    fn hash_blob(&self, content: &[u8]) -> Option<Id> {
        self.objects.hash_blob(content)
    }
}
