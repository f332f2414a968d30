//! Gives pods their addresses from the node's ranges and remembers them in a file.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Prefix;

/// The format of the file; a newer one is refused.
const FILE_VERSION: u32 = 1;
/// A larger file is no file of ours.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// IPv6 ranges are large; this many addresses of one are enough for any node.
const ADDRESSES_PER_RANGE_MAX: u32 = 65_536;

/// Why no address could be given or remembered.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All addresses are in use.
    #[error(
        "all {count} pod addresses of {range} are in use; delete pods, or give the node a larger range (--pod-cidr)"
    )]
    Exhausted {
        /// The range.
        range: Prefix,
        /// Its usable addresses.
        count: u32,
    },
    /// The file cannot be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file was written by a newer version.
    #[error("{} has format {found}, and this version knows {FILE_VERSION}; start the newer version that wrote it", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(default)]
    allocations: BTreeMap<String, Vec<IpAddr>>,
    /// Where the next search begins, per range: addresses are reused as late as possible.
    #[serde(default)]
    next: Vec<u32>,
}

/// The addresses of one node's pods.
#[derive(Debug)]
pub struct AddressPool {
    ranges: Vec<Prefix>,
    path: Option<PathBuf>,
    allocations: BTreeMap<String, Vec<IpAddr>>,
    used: HashSet<IpAddr>,
    next: Vec<u32>,
}

impl AddressPool {
    /// Opens the pool of these ranges (at most one per family). An unreadable file is set aside: live pods are told with [`AddressPool::adopt`].
    pub fn open(ranges: Vec<Prefix>, path: Option<PathBuf>) -> Result<Self, PoolError> {
        let mut pool =
            Self { next: vec![0; ranges.len()], ranges, path, allocations: BTreeMap::new(), used: HashSet::new() };
        if let Some(file) = pool.read()? {
            for (owner, addresses) in file.allocations {
                // A changed range makes old addresses useless; their pods are restarted by whoever changed it.
                if addresses.iter().all(|address| pool.ranges.iter().any(|range| range.contains(*address))) {
                    pool.adopt(&owner, &addresses);
                }
            }
            for (mine, stored) in pool.next.iter_mut().zip(file.next) {
                *mine = stored;
            }
        }
        Ok(pool)
    }

    fn read(&self) -> Result<Option<File>, PoolError> {
        let Some(path) = &self.path else { return Ok(None) };
        let fail = |source| PoolError::File { operation: "read", path: path.clone(), source };
        let length = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail)?.len(),
        };
        let parsed = if length > FILE_BYTES_MAX {
            None
        } else {
            serde_json::from_slice::<File>(&std::fs::read(path).map_err(fail)?).ok()
        };
        match parsed {
            Some(file) if file.version > FILE_VERSION => {
                Err(PoolError::TooNew { path: path.clone(), found: file.version })
            }
            Some(file) => Ok(Some(file)),
            None => {
                let aside = path.with_extension("damaged");
                tracing::warn!(path = %path.display(), aside = %aside.display(), "the file of pod addresses is damaged and set aside; addresses are learnt from live pods");
                std::fs::rename(path, &aside).map_err(|source| PoolError::File {
                    operation: "set aside",
                    path: path.clone(),
                    source,
                })?;
                Ok(None)
            }
        }
    }

    /// The addresses of a pod, one per range: those it has, or new ones.
    pub fn allocate(&mut self, owner: &str) -> Result<Vec<IpAddr>, PoolError> {
        if let Some(addresses) = self.allocations.get(owner) {
            return Ok(addresses.clone());
        }
        let mut addresses = Vec::with_capacity(self.ranges.len());
        for (range, next) in self.ranges.iter().zip(&mut self.next) {
            let count = usable_count(range);
            let found = (0..count)
                .map(|step| (next.wrapping_add(step)) % count.max(1))
                .find(|index| !self.used.contains(&nth(range, *index)));
            let Some(index) = found else { return Err(PoolError::Exhausted { range: *range, count }) };
            *next = (index + 1) % count.max(1);
            addresses.push(nth(range, index));
        }
        self.adopt(owner, &addresses);
        if let Err(error) = self.write() {
            self.forget(owner);
            return Err(error);
        }
        Ok(addresses)
    }

    /// Gives a pod's addresses back; false if it had none.
    pub fn release(&mut self, owner: &str) -> Result<bool, PoolError> {
        if !self.forget(owner) {
            return Ok(false);
        }
        self.write().map(|()| true)
    }

    /// Notes addresses that a live pod is found to have.
    pub fn adopt(&mut self, owner: &str, addresses: &[IpAddr]) {
        self.forget(owner);
        self.used.extend(addresses);
        self.allocations.insert(owner.to_owned(), addresses.to_vec());
    }

    /// Keeps only the addresses of these pods.
    pub fn retain(&mut self, is_live: impl Fn(&str) -> bool) -> Result<(), PoolError> {
        let gone: Vec<String> = self.allocations.keys().filter(|owner| !is_live(owner)).cloned().collect();
        for owner in &gone {
            self.forget(owner);
        }
        if gone.is_empty() { Ok(()) } else { self.write() }
    }

    /// The addresses of a pod, if it has any.
    #[must_use]
    pub fn addresses_of(&self, owner: &str) -> Option<&[IpAddr]> {
        self.allocations.get(owner).map(Vec::as_slice)
    }

    /// How many pods have addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.allocations.len()
    }

    /// Whether no pod has an address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allocations.is_empty()
    }

    fn forget(&mut self, owner: &str) -> bool {
        let Some(addresses) = self.allocations.remove(owner) else { return false };
        for address in addresses {
            self.used.remove(&address);
        }
        true
    }

    /// Writes the file beside and renames it. No fsync: after a power cut no pod is left that the file could speak of.
    fn write(&self) -> Result<(), PoolError> {
        let Some(path) = &self.path else { return Ok(()) };
        let fail = |operation| move |source| PoolError::File { operation, path: path.clone(), source };
        let file = File { version: FILE_VERSION, allocations: self.allocations.clone(), next: self.next.clone() };
        let bytes = serde_json::to_vec(&file).map_err(io::Error::other).map_err(fail("encode"))?;
        let beside = path.with_extension("new");
        std::fs::write(&beside, bytes).map_err(fail("write"))?;
        std::fs::rename(&beside, path).map_err(fail("replace"))
    }
}

/// The first two addresses (network, the node's own) and in IPv4 the last (broadcast) are never given.
fn usable_count(range: &Prefix) -> u32 {
    let (bits, reserved) = match range.network() {
        IpAddr::V4(_) => (32 - u32::from(range.length()), 3),
        IpAddr::V6(_) => (128 - u32::from(range.length()), 2),
    };
    let all = 1_u32.checked_shl(bits).unwrap_or(ADDRESSES_PER_RANGE_MAX).min(ADDRESSES_PER_RANGE_MAX);
    all.saturating_sub(reserved)
}

fn nth(range: &Prefix, index: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().wrapping_add(index + 2))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().wrapping_add(u128::from(index) + 2))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn ranges() -> Vec<Prefix> {
        vec!["10.42.3.0/29".parse().unwrap(), "fd00:42:3::/64".parse().unwrap()]
    }

    #[test]
    fn gives_each_pod_its_own_until_none_is_left() {
        let mut pool = AddressPool::open(ranges(), None).unwrap();
        let mut seen = HashSet::new();
        for pod in 0..5 {
            let addresses = pool.allocate(&pod.to_string()).unwrap();
            assert_eq!(addresses, pool.allocate(&pod.to_string()).unwrap(), "asking again changes nothing");
            assert!(addresses.iter().all(|address| seen.insert(*address)));
        }
        assert!(!seen.contains(&"10.42.3.0".parse().unwrap()) && !seen.contains(&"10.42.3.7".parse().unwrap()));
        assert!(matches!(pool.allocate("one more"), Err(PoolError::Exhausted { count: 5, .. })));
        assert!(pool.release("2").unwrap() && !pool.release("2").unwrap());
        assert_eq!(pool.allocate("one more").unwrap()[0].to_string(), "10.42.3.4");
    }

    #[test]
    fn remembers_and_refuses_what_it_cannot_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses.json");
        let first = AddressPool::open(ranges(), Some(path.clone())).unwrap().allocate("a").unwrap();
        let mut pool = AddressPool::open(ranges(), Some(path.clone())).unwrap();
        assert_eq!(pool.addresses_of("a").unwrap(), first);
        assert_ne!(pool.allocate("b").unwrap(), first);
        std::fs::write(&path, "{damaged").unwrap();
        assert!(AddressPool::open(ranges(), Some(path.clone())).unwrap().is_empty());
        std::fs::write(&path, r#"{"version":99}"#).unwrap();
        assert!(matches!(AddressPool::open(ranges(), Some(path)), Err(PoolError::TooNew { found: 99, .. })));
    }
}
