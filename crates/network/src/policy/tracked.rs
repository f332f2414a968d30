//! A map that knows what it held at the last commit, for the keys touched since: the difference costs what changed, whatever the size.

use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Tracked<K, V> {
    now: BTreeMap<K, V>,
    /// What touched keys held at the last commit; none where they were not there.
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: BTreeMap::new() }
    }
}

/// A key whose value is another than at the last commit.
pub(crate) struct Changed<'a, K, V> {
    pub(crate) key: &'a K,
    pub(crate) before: Option<&'a V>,
    pub(crate) after: Option<&'a V>,
}

impl<K: Ord + Clone, V: PartialEq> Tracked<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.now.get(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// Everything that it holds.
    #[cfg(test)]
    pub(crate) const fn now(&self) -> &BTreeMap<K, V> {
        &self.now
    }

    /// Gives a key a value; none removes it.
    pub(crate) fn set(&mut self, key: K, value: Option<V>) {
        if self.now.get(&key) == value.as_ref() {
            return;
        }
        let replaced = match value {
            Some(value) => self.now.insert(key.clone(), value),
            None => self.now.remove(&key),
        };
        self.before.entry(key).or_insert(replaced);
    }

    /// What is other than at the last commit.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Changed<'_, K, V>> {
        self.before.iter().filter_map(|(key, before)| {
            let (before, after) = (before.as_ref(), self.now.get(key));
            (before != after).then_some(Changed { key, before, after })
        })
    }

    /// Keys that were not there at the last commit.
    pub(crate) fn added(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changes().filter(|one| one.before.is_none()).filter_map(|one| Some((one.key, one.after?)))
    }

    /// Keys that are no longer there.
    pub(crate) fn removed(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changes().filter(|one| one.after.is_none()).filter_map(|one| Some((one.key, one.before?)))
    }

    /// The commit: what it holds now is what later changes are compared with.
    pub(crate) fn settle(&mut self) {
        self.before.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_since_the_last_commit() {
        let mut map = Tracked::default();
        map.set("stays", Some(1));
        map.set("changes", Some(1));
        map.set("goes", Some(1));
        map.settle();
        assert_eq!(map.changes().count(), 0);
        for (key, value) in [
            ("stays", Some(2)),
            ("stays", Some(1)),
            ("changes", None),
            ("changes", Some(3)),
            ("goes", None),
            ("comes", Some(4)),
            ("passes", Some(5)),
            ("passes", None),
        ] {
            map.set(key, value);
        }
        let changes: Vec<_> = map.changes().map(|one| (*one.key, one.before.copied(), one.after.copied())).collect();
        assert_eq!(changes, [("changes", Some(1), Some(3)), ("comes", None, Some(4)), ("goes", Some(1), None)]);
        assert_eq!(map.added().collect::<Vec<_>>(), [(&"comes", &4)]);
        assert_eq!(map.removed().collect::<Vec<_>>(), [(&"goes", &1)]);
        map.settle();
        assert_eq!(map.changes().count(), 0);
        assert_eq!(map.now().keys().collect::<Vec<_>>(), [&"changes", &"comes", &"stays"]);
    }
}
