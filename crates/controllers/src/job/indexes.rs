//! Sets of completion indexes in upstream's notation: `0-2,4`.

use std::collections::BTreeSet;
use std::fmt;

/// Upstream's limit of completions of an Indexed Job; a larger index in a status is not believed.
const INDEX_MAX: u32 = 100_000;

/// Completed indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IndexSet(BTreeSet<u32>);

impl IndexSet {
    pub(super) fn parse(text: &str) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
                set.extend(first..=last.min(INDEX_MAX));
            }
        }
        Self(set)
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        self.0.contains(&index)
    }

    pub(super) fn insert(&mut self, index: u32) {
        self.0.insert(index);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut indexes = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = indexes.next() {
            let mut last = first;
            while let Some(next) = indexes.next_if(|next| *next == last + 1) {
                last = next;
            }
            // Two neighbours are written as a list, three and more as a range, as upstream does.
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::IndexSet;

    #[test]
    fn indexes_are_written_as_upstream_writes_them() {
        let check = |text: &str, expected: &str| assert_eq!(IndexSet::parse(text).to_string(), expected, "{text}");
        check("", "");
        check("0", "0");
        check("0,1,2,4", "0-2,4");
        check("1-2", "1,2");
        check("3-5,7,9-12", "3-5,7,9-12");
        check("x,2-y,5", "5");
        assert_eq!(IndexSet::parse("0-4294967295").len(), 100_001);
    }
}
