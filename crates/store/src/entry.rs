//! An entry, and the side values (decoded objects, other encodings) that are computed once per revision and shared.

use crate::types::{Key, Revision};
use bytes::Bytes;
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

type Decoded = Arc<dyn Any + Send + Sync>;

/// A key's value at the revision of its last modification. Never changes once readers see it.
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The revision of the last modification.
    pub revision: Revision,
    /// The revision that created the key.
    pub created: Revision,
    /// The final bytes, the revision spliced in.
    pub value: Bytes,
    /// Side values, filled when first asked for.
    pub cache: Slots,
}

impl Entry {
    /// An entry whose side values count against `budget`.
    #[must_use]
    pub fn new(key: Key, revision: Revision, created: Revision, value: Bytes, budget: &Arc<DecodedBudget>) -> Self {
        Self { key, revision, created, value, cache: Slots { budget: Arc::clone(budget), slot: OnceLock::new() } }
    }

    /// The decoded object, if it is held right now as a `T`.
    #[must_use]
    pub fn cached<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let slot = self.cache.slot.get()?;
        let decoded = slot.values().decoded.clone()?.downcast().ok();
        slot.used.store(true, Ordering::Relaxed);
        decoded
    }

    /// The decoded object; `decode` runs when it is not held, possibly in several threads at once, and the first wins.
    pub fn cache_with<T: Any + Send + Sync>(&self, decode: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(held) = self.cached() {
            return held;
        }
        let fresh = decode();
        let slot = self.cache.slot();
        {
            let mut values = slot.values();
            if let Some(held) = values.decoded.clone().and_then(|held| held.downcast().ok()) {
                return held;
            }
            values.decoded = Some(fresh.clone());
        }
        self.cache.budget.charge(slot, DecodedBudget::decoded_cost_bytes(self.value.len()));
        fresh
    }

    /// Another encoding of the value, if it is held right now.
    #[must_use]
    pub fn encoding(&self, name: &str) -> Option<Bytes> {
        let slot = self.cache.slot.get()?;
        let bytes = slot.values().encodings.iter().find(|(held, _)| *held == name).map(|(_, bytes)| bytes.clone());
        slot.used.store(true, Ordering::Relaxed);
        bytes
    }

    /// Another encoding of the value (`"protobuf"`), made when it is not held.
    pub fn encoding_with(&self, name: &'static str, encode: impl FnOnce() -> Bytes) -> Bytes {
        if let Some(held) = self.encoding(name) {
            return held;
        }
        let fresh = encode();
        let slot = self.cache.slot();
        {
            let mut values = slot.values();
            if let Some((_, held)) = values.encodings.iter().find(|(held, _)| *held == name) {
                return held.clone();
            }
            values.encodings.push((name, fresh.clone()));
        }
        self.cache.budget.charge(slot, fresh.len() + 64);
        fresh
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{} ({} bytes)", self.key, self.revision, self.value.len())
    }
}

/// Where an entry's side values live; two words until one is asked for.
pub struct Slots {
    budget: Arc<DecodedBudget>,
    slot: OnceLock<Arc<Slot>>,
}

impl Slots {
    fn slot(&self) -> &Arc<Slot> {
        self.slot.get_or_init(|| {
            Arc::new(Slot {
                budget: Arc::clone(&self.budget),
                used: AtomicBool::new(false),
                queued: AtomicBool::new(false),
                cost_bytes: AtomicUsize::new(0),
                values: Mutex::new(Values::default()),
            })
        })
    }
}

struct Slot {
    budget: Arc<DecodedBudget>,
    /// Set by every hit, cleared by the clock's hand.
    used: AtomicBool,
    /// Whether the clock's queue knows this slot; changed under the clock's lock.
    queued: AtomicBool,
    /// What this slot has charged; changed under the clock's lock, or when nobody else can see the slot.
    cost_bytes: AtomicUsize,
    values: Mutex<Values>,
}

#[derive(Default)]
struct Values {
    decoded: Option<Decoded>,
    encodings: Vec<(&'static str, Bytes)>,
}

impl Slot {
    fn values(&self) -> MutexGuard<'_, Values> {
        // Each critical section leaves the values whole, so a poisoned lock is as good as any other.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let cost_bytes = *self.cost_bytes.get_mut();
        if cost_bytes > 0 {
            self.budget.clock().held_bytes -= cost_bytes;
        }
    }
}

/// The bound on all side values of one store: a second-chance clock over weak references.
#[derive(Default)]
pub struct DecodedBudget {
    limit_bytes: usize,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Clock {
    queue: VecDeque<Weak<Slot>>,
    held_bytes: usize,
    swept_length: usize,
}

impl DecodedBudget {
    /// A budget of an estimated number of bytes.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, clock: Mutex::default() })
    }

    /// What a decoded object is taken to cost: the store cannot look inside, and trees and typed structs of Kubernetes
    /// objects take about four times their JSON.
    #[must_use]
    pub fn decoded_cost_bytes(encoded_length: usize) -> usize {
        encoded_length * 4 + 256
    }

    /// The estimated bytes held now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.clock().held_bytes
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new side value, and drops old ones until the budget holds again.
    fn charge(&self, slot: &Arc<Slot>, cost_bytes: usize) {
        // Strong references taken below may be the last ones, and dropping a slot locks the clock: they outlive the lock.
        let mut victims = Vec::new();
        let mut spared = Vec::new();
        {
            let mut clock = self.clock();
            clock.held_bytes += cost_bytes;
            slot.cost_bytes.fetch_add(cost_bytes, Ordering::Relaxed);
            if !slot.queued.swap(true, Ordering::Relaxed) {
                clock.queue.push_back(Arc::downgrade(slot));
            }
            // Replaced entries leave dead references; sweeping at each doubling keeps that amortised.
            if clock.queue.len() > 1024 && clock.queue.len() > clock.swept_length * 2 {
                clock.queue.retain(|slot| slot.strong_count() > 0);
                clock.swept_length = clock.queue.len();
            }
            // Two turns visit every slot with its second chance used up, so the loop ends with the budget held.
            for _ in 0..clock.queue.len() * 2 {
                if clock.held_bytes <= self.limit_bytes {
                    break;
                }
                let Some(weak) = clock.queue.pop_front() else { break };
                let Some(slot) = weak.upgrade() else { continue };
                if slot.used.swap(false, Ordering::Relaxed) {
                    clock.queue.push_back(weak);
                    spared.push(slot);
                } else {
                    slot.queued.store(false, Ordering::Relaxed);
                    clock.held_bytes -= slot.cost_bytes.swap(0, Ordering::Relaxed);
                    victims.push(slot);
                }
            }
        }
        for victim in victims {
            let values = std::mem::take(&mut *victim.values());
            drop(values);
        }
        drop(spared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, budget: &Arc<DecodedBudget>) -> Entry {
        Entry::new(Key::new("pods", name), Revision(2), Revision(2), Bytes::from(vec![b'x'; 1000]), budget)
    }

    #[test]
    fn decodes_once_and_shares() {
        let entry = entry("a", &DecodedBudget::new(1 << 20));
        assert_eq!(entry.cached::<String>(), None);
        let first = entry.cache_with(|| Arc::new(String::from("decoded")));
        let second = entry.cache_with(|| -> Arc<String> { unreachable!("it is held") });
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(entry.cached::<u32>(), None, "another type is not held");
        assert_eq!(entry.encoding_with("protobuf", || Bytes::from_static(b"p")), "p");
        assert_eq!(entry.encoding_with("protobuf", || unreachable!("it is held")), "p");
    }

    #[test]
    fn budget_holds_and_spares_what_is_used() {
        let budget = DecodedBudget::new(20 * DecodedBudget::decoded_cost_bytes(1000));
        let entries: Vec<_> = (0..100).map(|index| entry(&index.to_string(), &budget)).collect();
        let used = &entries[0];
        used.cache_with(|| Arc::new(0_usize));
        for (index, entry) in entries.iter().enumerate().skip(1) {
            entry.cache_with(|| Arc::new(index));
            assert!(used.cached::<usize>().is_some(), "evicted although it was used before entry {index}");
        }
        assert!(budget.held_bytes() <= 20 * DecodedBudget::decoded_cost_bytes(1000));
        let held = entries.iter().filter(|entry| entry.cached::<usize>().is_some()).count();
        assert_eq!(held, 20);
        drop(entries);
        assert_eq!(budget.held_bytes(), 0, "dropped entries give back what they charged");
    }

    #[test]
    fn a_value_above_the_budget_is_returned_but_not_held() {
        let entry = entry("a", &DecodedBudget::new(10));
        assert_eq!(*entry.cache_with(|| Arc::new(7)), 7);
        assert_eq!(entry.cached::<i32>(), None);
    }
}
