//! The number of entries that a change visits, without visiting each: a pair of subtrees that occurs
//! many times is counted once. Ten trees can hold ten thousand million paths.

use std::collections::{BTreeMap, HashMap};

use super::raw::{lenient_dir, parse};
use super::{MAX_DEPTH, MAX_ENTRIES, ObjectSource};
use crate::domain::git::ObjectId;

/// The old and the new tree of a directory that differs.
type TreePair = (Option<ObjectId>, Option<ObjectId>);

/// The number of tree entries from `old` to `new`, on both sides together. Stops counting above
/// [`MAX_ENTRIES`]; unreadable or too deep trees count as 0, because they are refused later.
pub(super) fn entries(old: Option<ObjectId>, new: ObjectId, objects: &impl ObjectSource) -> usize {
    TreeCensus { objects, known: HashMap::new() }.count((old, Some(new)), 0)
}

struct TreeCensus<'o, O> {
    objects: &'o O,
    known: HashMap<TreePair, usize>,
}

impl<O: ObjectSource> TreeCensus<'_, O> {
    fn count(&mut self, pair: TreePair, depth: usize) -> usize {
        if depth > MAX_DEPTH {
            return 0;
        }
        if let Some(&known) = self.known.get(&pair) {
            return known;
        }
        let (mut total, below) = self.compare_dirs(pair);
        for inner in below {
            if total > MAX_ENTRIES {
                break;
            }
            total = total.saturating_add(self.count(inner, depth + 1));
        }
        self.known.insert(pair, total);
        total
    }

    /// The number of entries on both sides, and the directories in them that differ.
    fn compare_dirs(&self, (old, new): TreePair) -> (usize, Vec<TreePair>) {
        let (old_count, mut old) = self.dirs(old);
        let (new_count, new) = self.dirs(new);
        let mut below: Vec<TreePair> = Vec::new();
        for (name, id) in new {
            let before = old.remove(&name);
            if before != Some(id) {
                below.push((before, Some(id)));
            }
        }
        below.extend(old.into_values().map(|id| (Some(id), None)));
        (old_count.saturating_add(new_count), below)
    }

    fn dirs(&self, id: Option<ObjectId>) -> (usize, BTreeMap<Vec<u8>, ObjectId>) {
        let Some(id) = id else { return (0, BTreeMap::new()) };
        let Ok(bytes) = self.objects.tree(&id) else { return (0, BTreeMap::new()) };
        let raw = parse(&bytes, id.as_bytes().len()).unwrap_or_default();
        let dirs = raw.iter().filter_map(lenient_dir);
        (raw.len(), dirs.map(|(name, id)| (name.to_vec(), id)).collect())
    }
}
