//! Numbers for contents: the same content keeps its number as long as somebody uses it, and loses it with the last one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// See the module.
pub(crate) struct Numbers<K> {
    ids: HashMap<Arc<K>, u32>,
    uses: HashMap<u32, (Arc<K>, usize)>,
    last: u32,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { ids: HashMap::new(), uses: HashMap::new(), last: 0 }
    }
}

impl<K: Hash + Eq> Numbers<K> {
    /// The number of a content for one more user; with the content where nobody used it before.
    pub(crate) fn hold(&mut self, content: K) -> (u32, Option<Arc<K>>) {
        if let Some(id) = self.ids.get(&content) {
            let id = *id;
            if let Some((_, uses)) = self.uses.get_mut(&id) {
                *uses += 1;
            }
            return (id, None);
        }
        // Not one that an old content still has, should four thousand million have been given out.
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.uses.contains_key(&self.last) {
                break;
            }
        }
        let content = Arc::new(content);
        self.ids.insert(Arc::clone(&content), self.last);
        self.uses.insert(self.last, (Arc::clone(&content), 1));
        (self.last, Some(content))
    }

    /// One user less; the content where it was the last one.
    pub(crate) fn release(&mut self, id: u32) -> Option<Arc<K>> {
        let (_, uses) = self.uses.get_mut(&id)?;
        *uses -= 1;
        if *uses > 0 {
            return None;
        }
        let (content, _) = self.uses.remove(&id)?;
        self.ids.remove(&content);
        Some(content)
    }

    /// The number of a content that is used.
    pub(crate) fn find(&self, content: &K) -> Option<u32> {
        self.ids.get(content).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_lasts_from_the_first_user_to_the_last() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.hold("a"), (1, Some(Arc::new("a"))));
        assert_eq!(numbers.hold("a"), (1, None));
        assert_eq!(numbers.hold("b").0, 2);
        assert_eq!(numbers.release(1), None);
        assert_eq!(numbers.release(1), Some(Arc::new("a")));
        assert_eq!((numbers.find(&"a"), numbers.find(&"b"), numbers.release(1)), (None, Some(2), None));
        numbers.last = u32::MAX;
        assert_eq!((numbers.hold("a").0, numbers.hold("c").0), (0, 1));
        assert_eq!(numbers.hold("d").0, 3, "2 is in use");
    }
}
