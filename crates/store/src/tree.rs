//! A sorted map of entries in copy-on-write chunks: a reader's snapshot costs one reference count, whatever its size.

use crate::entry::Entry;
use std::sync::Arc;

/// Entries per chunk before it splits. A write beside a live snapshot copies one chunk of pointers and, once per
/// snapshot, the list of chunks: both are microseconds at 150,000 entries.
const CHUNK_LENGTH_MAX: usize = 256;

type Chunk = Arc<Vec<Arc<Entry>>>;

/// The entries of one bucket, ordered by the rest of their key. Cloning is a snapshot.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    /// No chunk is empty.
    chunks: Arc<Vec<Chunk>>,
    length: usize,
}

/// A position: chunk and index within it.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Position {
    chunk: usize,
    index: usize,
}

impl Tree {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn get(&self, rest: &str) -> Option<&Arc<Entry>> {
        let chunk = &self.chunks[self.chunk_of(rest)?];
        let index = chunk.binary_search_by(|entry| entry.key.rest().cmp(rest)).ok()?;
        Some(&chunk[index])
    }

    /// Inserts or replaces; gives back what was there.
    pub(crate) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let position = self.chunk_of(entry.key.rest());
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(position) = position.or((!chunks.is_empty()).then_some(0)) else {
            chunks.push(Arc::new(vec![entry]));
            self.length += 1;
            return None;
        };
        let chunk = Arc::make_mut(&mut chunks[position]);
        match chunk.binary_search_by(|held| held.key.rest().cmp(entry.key.rest())) {
            Ok(index) => Some(std::mem::replace(&mut chunk[index], entry)),
            Err(index) => {
                chunk.insert(index, entry);
                self.length += 1;
                if chunk.len() > CHUNK_LENGTH_MAX {
                    // Names often arrive in order; splitting near the end then leaves full chunks behind.
                    let at = if index + 1 == chunk.len() { CHUNK_LENGTH_MAX * 7 / 8 } else { CHUNK_LENGTH_MAX / 2 };
                    let tail = chunk.split_off(at);
                    chunk.shrink_to_fit();
                    chunks.insert(position + 1, Arc::new(tail));
                }
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, rest: &str) -> Option<Arc<Entry>> {
        let position = self.chunk_of(rest)?;
        let index = self.chunks[position].binary_search_by(|entry| entry.key.rest().cmp(rest)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[position]);
        let removed = chunk.remove(index);
        self.length -= 1;
        if chunk.is_empty() {
            chunks.remove(position);
        } else if chunk.len() < CHUNK_LENGTH_MAX / 4 && position + 1 < chunks.len() {
            // Merging thin neighbours keeps the list of chunks proportional to the entries.
            if chunks[position].len() + chunks[position + 1].len() <= CHUNK_LENGTH_MAX / 2 {
                let next = chunks.remove(position + 1);
                Arc::make_mut(&mut chunks[position]).extend(next.iter().cloned());
            }
        }
        Some(removed)
    }

    /// The chunk that holds or would hold the key; `None` when the key sorts before everything.
    fn chunk_of(&self, rest: &str) -> Option<usize> {
        self.chunks.partition_point(|chunk| chunk.first().is_some_and(|first| first.key.rest() <= rest)).checked_sub(1)
    }

    /// The first position whose entry is not `before`; `before` must be true for a prefix of the order only.
    pub(crate) fn position(&self, before: impl Fn(&str) -> bool) -> Position {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| before(last.key.rest())));
        let index = self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(|entry| before(entry.key.rest())));
        Position { chunk, index }
    }

    /// The number of entries from one position up to another.
    pub(crate) fn distance(&self, from: Position, to: Position) -> usize {
        if from >= to {
            return 0;
        }
        let chunks = self.chunks[from.chunk..to.chunk].iter().map(|chunk| chunk.len()).sum::<usize>();
        chunks + to.index - from.index
    }

    /// The entries from a position on.
    pub(crate) fn iter_from(&self, from: Position) -> impl Iterator<Item = &Arc<Entry>> {
        let first = self.chunks.get(from.chunk).map_or(&[][..], |chunk| &chunk[from.index..]);
        let others = self.chunks.get(from.chunk + 1..).unwrap_or_default();
        first.iter().chain(others.iter().flat_map(|chunk| chunk.iter()))
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::DecodedBudget;
    use crate::types::{Key, Revision};
    use bytes::Bytes;
    use std::collections::BTreeMap;

    #[test]
    fn behaves_as_a_sorted_map_and_snapshots_stay() {
        let budget = DecodedBudget::new(0);
        let mut tree = Tree::default();
        let mut model = BTreeMap::new();
        let mut snapshots = Vec::new();
        let mut random = 1_u64;
        for step in 0..30_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let name = format!("ns-{}/{:05}", (random >> 33) % 3, (random >> 40) % 3000);
            // Grow first, then shrink, so that chunks split and merge.
            if (random >> 20) % 10 < if step < 15_000 { 7 } else { 2 } {
                let entry = Entry::new(Key::new("pods", &name), Revision(step), Revision(step), Bytes::new(), &budget);
                let previous = tree.insert(Arc::new(entry)).map(|entry| entry.revision.0);
                assert_eq!(previous, model.insert(name.clone(), step));
            } else {
                assert_eq!(tree.remove(&name).map(|entry| entry.revision.0), model.remove(&name));
            }
            assert_eq!(tree.len(), model.len());
            assert_eq!(tree.get(&name).map(|entry| entry.revision.0), model.get(&name).copied());
            if step % 1999 == 0 {
                snapshots.push((tree.clone(), model.clone()));
            }
        }
        snapshots.push((tree, model));
        for (tree, model) in snapshots {
            let held: Vec<_> = tree.iter().map(|entry| (entry.key.rest().to_owned(), entry.revision.0)).collect();
            assert_eq!(held, model.clone().into_iter().collect::<Vec<_>>());
            let from = tree.position(|rest| rest < "ns-1/");
            let to = tree.position(|rest| rest < "ns-1/" || rest.starts_with("ns-1/"));
            let expected = model.keys().filter(|name| name.starts_with("ns-1/")).count();
            assert_eq!(tree.distance(from, to), expected);
            let first = tree.iter_from(from).next().map(|entry| entry.key.rest().to_owned());
            assert_eq!(first.as_ref(), model.range("ns-1/".to_owned()..).next().map(|(name, _)| name));
            assert!(tree.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_LENGTH_MAX));
        }
        assert_eq!(Tree::default().iter_from(Tree::default().position(|_| false)).count(), 0);
    }
}
