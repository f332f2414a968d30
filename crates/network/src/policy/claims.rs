//! What pods claim: two may claim one address for a moment (the old one's end has not been told yet), so a claim outlives another's end.

use std::collections::BTreeMap;

/// Values by key and the uid of the pod that claims it.
pub(crate) struct Claims<K, V>(BTreeMap<(K, String), V>);

impl<K, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Clone> Claims<K, V> {
    pub(crate) fn insert(&mut self, key: K, uid: &str, value: V) {
        self.0.insert((key, uid.to_owned()), value);
    }

    pub(crate) fn remove(&mut self, key: K, uid: &str) {
        self.0.remove(&(key, uid.to_owned()));
    }

    /// The value that holds: that of the last uid in order, which does not depend on who came first.
    pub(crate) fn of(&self, key: &K) -> Option<V> {
        let claims = self.0.range((key.clone(), String::new())..);
        claims.take_while(|((one, _), _)| one == key).last().map(|(_, value)| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_outlives_another_and_the_order_does_not_matter() {
        let mut claims = Claims::default();
        claims.insert(7, "b", "of b");
        claims.insert(7, "a", "of a");
        claims.insert(8, "c", "of c");
        assert_eq!(claims.of(&7), Some("of b"));
        claims.remove(7, "b");
        claims.remove(7, "c");
        assert_eq!((claims.of(&7), claims.of(&8), claims.of(&6)), (Some("of a"), Some("of c"), None));
        claims.remove(7, "a");
        assert_eq!(claims.of(&7), None);
    }
}
