//! The values of one topology key over all nodes, as small numbers.

use std::collections::HashMap;

/// A node without the topology label.
pub(crate) const MISSING: u32 = u32::MAX;

/// Which domain each node slot belongs to. Numbers of domains that lose their last node are used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains {
    /// By node slot; `MISSING` where a node lacks the label.
    pub(crate) of_slot: Vec<u32>,
    /// One more than the highest number in use.
    pub(crate) count: usize,
    numbers: HashMap<String, u32>,
    /// By number: the value and how many slots have it.
    values: Vec<(String, usize)>,
    free: Vec<u32>,
}

impl Domains {
    /// Makes sure that every slot has an entry.
    pub(crate) fn cover(&mut self, slots: usize) {
        if self.of_slot.len() < slots {
            self.of_slot.resize(slots, MISSING);
        }
    }

    /// Whether the slot has this value already, so that nothing needs to change.
    pub(crate) fn has(&self, slot: u32, value: Option<&str>) -> bool {
        let known = self.of_slot.get(slot as usize).copied().unwrap_or(MISSING);
        let known = self.values.get(known as usize).map(|(value, _)| value.as_str());
        known == value
    }

    /// The node in a slot has this value, or none.
    pub(crate) fn set(&mut self, slot: u32, value: Option<&str>) {
        self.cover(slot as usize + 1);
        let old = self.of_slot[slot as usize];
        if let Some((name, nodes)) = self.values.get_mut(old as usize) {
            *nodes -= 1;
            if *nodes == 0 {
                let name = std::mem::take(name);
                self.numbers.remove(&name);
                self.free.push(old);
            }
        }
        self.of_slot[slot as usize] = value.map_or(MISSING, |value| self.number(value));
    }

    fn number(&mut self, value: &str) -> u32 {
        let number = match self.numbers.get(value) {
            Some(number) => *number,
            None => {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.values.push((String::new(), 0));
                    u32::try_from(self.values.len() - 1).unwrap_or(MISSING)
                });
                self.values[number as usize].0 = value.to_owned();
                self.numbers.insert(value.to_owned(), number);
                self.count = self.values.len();
                number
            }
        };
        self.values[number as usize].1 += 1;
        number
    }
}

#[cfg(test)]
mod tests {
    use super::{Domains, MISSING};

    #[test]
    fn numbers_are_used_again() {
        let mut domains = Domains::default();
        domains.set(0, Some("a"));
        domains.set(1, Some("b"));
        domains.set(2, Some("a"));
        assert_eq!((domains.of_slot.clone(), domains.count), (vec![0, 1, 0], 2));
        domains.set(1, None);
        domains.set(3, Some("c"));
        assert_eq!((domains.of_slot.clone(), domains.count), (vec![0, MISSING, 0, 1], 2));
        assert!(domains.has(1, None) && domains.has(3, Some("c")) && !domains.has(0, Some("c")));
    }
}
