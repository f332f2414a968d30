//! Remembers answers of other servers for as long as they allow, within a bound of bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers remembered at most.
const ENTRIES_MAX: usize = 10_000;
/// Their size at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// No answer is remembered longer than this, so that a changed name is seen.
const TTL_S_MAX: u32 = 300;

/// What an answer depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    pub(crate) name: Box<[u8]>,
    pub(crate) kind: u16,
    pub(crate) has_edns: bool,
    pub(crate) wants_dnssec: bool,
    pub(crate) checking_disabled: bool,
}

struct Entry {
    bytes: Arc<[u8]>,
    ttl_offsets: Box<[u32]>,
    stored: Instant,
    expires: Instant,
    generation: u64,
}

/// The cache. Oldest entries go first when it is full.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<CacheKey, Entry>,
    order: VecDeque<(CacheKey, u64)>,
    bytes: usize,
    generation: u64,
}

impl Cache {
    /// Copies a remembered answer to `out`, with its TTLs counted down. The id and the question's spelling are the caller's to set.
    pub(crate) fn get(&self, key: &CacheKey, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.entries.get(key).filter(|entry| now < entry.expires) else { return false };
        let age_s = u32::try_from(now.saturating_duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        out.clear();
        out.extend_from_slice(&entry.bytes);
        for offset in &entry.ttl_offsets {
            let at = usize::try_from(*offset).unwrap_or(usize::MAX);
            if let Some(field) = at.checked_add(4).and_then(|end| out.get_mut(at..end)) {
                let ttl_s = <[u8; 4]>::try_from(&*field).map_or(0, u32::from_be_bytes);
                field.copy_from_slice(&ttl_s.saturating_sub(age_s).to_be_bytes());
            }
        }
        true
    }

    /// Remembers an answer.
    pub(crate) fn put(&mut self, key: CacheKey, bytes: &[u8], ttl_offsets: Vec<u32>, ttl_s: u32, now: Instant) {
        if ttl_s == 0 {
            return;
        }
        self.generation += 1;
        let lifetime = Duration::from_secs(u64::from(ttl_s.min(TTL_S_MAX)));
        let entry = Entry {
            bytes: bytes.into(),
            ttl_offsets: ttl_offsets.into(),
            stored: now,
            expires: now + lifetime,
            generation: self.generation,
        };
        self.bytes += entry.size(&key);
        self.order.push_back((key.clone(), self.generation));
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.bytes -= old.size(&key);
        }
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX || self.order.len() > 2 * ENTRIES_MAX {
            let Some((key, generation)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.generation == generation)
                && let Some(old) = self.entries.remove(&key)
            {
                self.bytes -= old.size(&key);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Entry {
    fn size(&self, key: &CacheKey) -> usize {
        self.bytes.len() + 4 * self.ttl_offsets.len() + 2 * key.name.len() + 200
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> CacheKey {
        CacheKey {
            name: name.as_bytes().into(),
            kind: 1,
            has_edns: false,
            wants_dnssec: false,
            checking_disabled: false,
        }
    }

    #[test]
    fn ttls_count_down_and_entries_end() {
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.put(key("a"), &[9, 9, 0, 0, 0, 60, 9], vec![2], 60, now);
        let mut out = Vec::new();
        assert!(cache.get(&key("a"), now + Duration::from_secs(10), &mut out));
        assert_eq!(out, [9, 9, 0, 0, 0, 50, 9]);
        assert!(!cache.get(&key("a"), now + Duration::from_secs(60), &mut out));
        cache.put(key("b"), &[0], vec![], 0, now);
        assert!(!cache.get(&key("b"), now, &mut out));
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let mut cache = Cache::default();
        let now = Instant::now();
        for number in 0..30_000 {
            cache.put(key(&number.to_string()), &[0; 300], vec![], 60, now);
            cache.put(key("same"), &[0; 300], vec![], 60, now);
        }
        assert!(cache.entries.len() <= ENTRIES_MAX && cache.bytes <= BYTES_MAX && cache.order.len() <= 2 * ENTRIES_MAX);
        assert!(cache.get(&key("29999"), now, &mut Vec::new()));
    }
}
