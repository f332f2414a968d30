//! A thread that forgets connections to endpoints which went, so that the next change does not wait for the walk over conntrack's table.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;
use super::flows::Leftovers;
use crate::netlink::{Conntrack, Family, NetworkNamespace};

/// At least this long from one walk to the next: what changes leave behind meanwhile is one walk.
const PERIOD_MIN_MS: u64 = 50;

/// Takes what changes leave behind; its thread ends with it, when it has forgotten all.
pub(crate) struct Forgetter {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    leftovers: Leftovers,
    families: Vec<Family>,
    has_ended: bool,
}

impl Forgetter {
    /// Starts the thread.
    pub(crate) fn start(namespace: &NetworkNamespace) -> Result<Self, Error> {
        let conntrack = Conntrack::open_in(namespace)?;
        let shared = Arc::new((Mutex::default(), Condvar::new()));
        let of_thread = shared.clone();
        std::thread::Builder::new().name("forgetter".to_owned()).spawn(move || run(conntrack, &of_thread)).map_err(
            |source| crate::netlink::Error::System {
                operation: "start the thread that forgets connections".to_owned(),
                source,
            },
        )?;
        Ok(Self { shared })
    }

    /// Has them forgotten, soon. What waits is bounded by the fronts and endpoints that there are.
    pub(crate) fn add(&self, leftovers: Leftovers, families: &[Family]) {
        if leftovers.is_empty() {
            return;
        }
        let mut state = lock(&self.shared.0);
        state.leftovers.append(leftovers);
        state.families = families.to_vec();
        self.shared.1.notify_one();
    }
}

impl Drop for Forgetter {
    fn drop(&mut self) {
        lock(&self.shared.0).has_ended = true;
        self.shared.1.notify_one();
    }
}

fn run(mut conntrack: Conntrack, (state, changed): &(Mutex<State>, Condvar)) {
    loop {
        let waiting = |state: &mut State| state.leftovers.is_empty() && !state.has_ended;
        let mut now = changed.wait_while(lock(state), waiting).unwrap_or_else(PoisonError::into_inner);
        if now.leftovers.is_empty() {
            return;
        }
        let (leftovers, families) = (std::mem::take(&mut now.leftovers), now.families.clone());
        drop(now);
        let begun = Instant::now();
        let forgotten = leftovers.forget(&mut conntrack, &families);
        tracing::debug!(forgotten, "connections to endpoints that are gone were forgotten");
        std::thread::sleep(Duration::from_millis(PERIOD_MIN_MS).saturating_sub(begun.elapsed()));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
