//! How many entries a change would visit, without visiting each: a pair of subtrees that occurs many
//! times is looked at once. Ten trees can hold ten thousand million paths.

use std::collections::{BTreeMap, HashMap};

use super::tree::{lenient_folder, parse};
use super::{MAX_DEPTH, MAX_ENTRIES, Objects};
use crate::domain::git::Id;

/// The old and the new side of a folder that differs.
type Pair = (Option<Id>, Option<Id>);

/// The number of tree entries from `old` to `new`, on both sides together. Stops counting somewhere
/// over [`MAX_ENTRIES`]; what cannot be read or lies too deep counts nothing, for it is refused.
pub(super) fn entries(old: Option<Id>, new: Id, objects: &impl Objects) -> usize {
    Census { objects, known: HashMap::new() }.count((old, Some(new)), 0)
}

struct Census<'o, O> {
    objects: &'o O,
    known: HashMap<Pair, usize>,
}

impl<O: Objects> Census<'_, O> {
    fn count(&mut self, pair: Pair, depth: usize) -> usize {
        if depth > MAX_DEPTH {
            return 0;
        }
        if let Some(&known) = self.known.get(&pair) {
            return known;
        }
        let (mut total, below) = self.look(pair);
        for inner in below {
            if total > MAX_ENTRIES {
                break;
            }
            total = total.saturating_add(self.count(inner, depth + 1));
        }
        self.known.insert(pair, total);
        total
    }

    /// The number of entries on both sides, and the folders in them that differ.
    fn look(&self, (old, new): Pair) -> (usize, Vec<Pair>) {
        let (old_count, mut old) = self.folders(old);
        let (new_count, new) = self.folders(new);
        let mut below: Vec<Pair> = Vec::new();
        for (name, id) in new {
            let before = old.remove(&name);
            if before != Some(id) {
                below.push((before, Some(id)));
            }
        }
        below.extend(old.into_values().map(|id| (Some(id), None)));
        (old_count.saturating_add(new_count), below)
    }

    fn folders(&self, id: Option<Id>) -> (usize, BTreeMap<Vec<u8>, Id>) {
        let Some(id) = id else { return (0, BTreeMap::new()) };
        let Ok(bytes) = self.objects.tree(&id) else { return (0, BTreeMap::new()) };
        let raw = parse(&bytes, id.as_bytes().len()).unwrap_or_default();
        let folders = raw.iter().filter_map(lenient_folder);
        (raw.len(), folders.map(|(name, id)| (name.to_vec(), id)).collect())
    }
}
