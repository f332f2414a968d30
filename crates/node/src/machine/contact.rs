//! What is heard of the server, by this machine's own monotonic clock; and pods that want to end when nothing is.

use crate::agent::PodRegistry;
use crate::lifecycle::Terminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seconds without a sign of any server after which a pod wants to be stopped.
const STOP_WHEN_CUT_OFF: &str = "klynge.io/stop-when-cut-off";
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When the server was heard last.
#[derive(Debug)]
pub struct Contact {
    began: Instant,
    heard_ms: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Contact { began: Instant::now(), heard_ms: AtomicU64::new(0) }
    }
}

impl Contact {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The server was heard; how long it was silent before.
    pub fn heard(&self) -> Duration {
        let now = self.now_ms();
        let before = self.heard_ms.swap(now, Ordering::Relaxed);
        Duration::from_millis(now.saturating_sub(before))
    }

    /// How long the server has been silent; since the beginning where it was never heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }
}

/// Whether a pod with these seconds is to be stopped after this silence; a value that is no number stops nothing.
fn is_over(seconds: &str, silence: Duration) -> bool {
    seconds.parse().is_ok_and(|seconds| silence >= Duration::from_secs(seconds))
}

/// Stops pods that ask for it while no server is heard. Ends with the agent.
pub async fn stop_when_cut_off(contact: Arc<Contact>, registry: PodRegistry) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let silence = contact.silence();
        for state in registry.all() {
            let metadata = &state.pod.metadata;
            let wish = metadata.annotations.as_ref().and_then(|all| all.get(STOP_WHEN_CUT_OFF));
            let over = wish.is_some_and(|seconds| is_over(seconds, silence));
            if !over || state.torn_down || state.terminal.is_some() || state.terminate_by.is_some() {
                continue;
            }
            let Some(uid) = &metadata.uid else { continue };
            let message = format!("No server was heard for {} s, and the pod wants to end then", silence.as_secs());
            tracing::warn!(uid, message, "a pod is stopped");
            let grace = state.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
            registry.fail(uid, Terminal::new("CutOff", message), grace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_sign() {
        let contact = Contact::default();
        std::thread::sleep(Duration::from_millis(30));
        assert!(contact.silence() >= Duration::from_millis(30));
        assert!(contact.heard() >= Duration::from_millis(30));
        assert!(contact.silence() < Duration::from_secs(10));
        assert!(is_over("5", Duration::from_secs(5)) && !is_over("5", Duration::from_millis(4_999)));
        assert!(!is_over("soon", Duration::from_secs(500)));
    }
}
