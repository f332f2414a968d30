//! How many questions may be with other servers: of all clients together, and of one, so that a pod that floods leaves room to the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Questions that may be with other servers at a time; more are answered with SERVFAIL.
const ALL_MAX: usize = 1000;
/// Of these the questions of one address: with a resolver that is dead each takes seconds, and one pod would have them all.
const PER_CLIENT_MAX: usize = 100;

/// The questions that are with other servers.
pub(super) struct Forwards {
    all: Arc<Semaphore>,
    /// Only clients that have some: no more than there are questions.
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

/// A question's place; given back when dropped.
pub(super) struct Place {
    forwards: Arc<Forwards>,
    client: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Forwards {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(ALL_MAX)), by_client: Mutex::default() })
    }

    /// A place for a question of this client; none where it, or all together, have too many.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_client.get(&client).copied().unwrap_or_default();
        if count >= PER_CLIENT_MAX {
            return None;
        }
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        by_client.insert(client, count + 1);
        Some(Place { forwards: Arc::clone(self), client, _permit: permit })
    }

    /// Waits until none is left, at most so long.
    pub(super) async fn drain(&self, longest: Duration) {
        let all = u32::try_from(ALL_MAX).unwrap_or(u32::MAX);
        let _ = timeout(longest, self.all.acquire_many(all)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_client = self.forwards.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_client.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_its_share_and_all_have_no_more_than_there_is() {
        let forwards = Forwards::new();
        let client = |number: u8| IpAddr::from([10, 42, 0, number]);
        let take = |number, count: usize| (0..count).filter_map(|_| forwards.take(client(number))).collect::<Vec<_>>();
        let flood = take(1, 5000);
        assert_eq!(flood.len(), PER_CLIENT_MAX);
        let mut others: Vec<Vec<Place>> = (2..11).map(|number| take(number, 200)).collect();
        assert!(others.iter().all(|places| places.len() == PER_CLIENT_MAX));
        assert!(forwards.take(client(99)).is_none(), "all are taken");
        drop(flood);
        assert_eq!(take(99, 1).len(), 1);
        others.clear();
        assert!(
            forwards.by_client.lock().is_ok_and(|by_client| by_client.is_empty()),
            "nothing is remembered of who left"
        );
    }
}
