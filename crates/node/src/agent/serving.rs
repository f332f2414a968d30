//! Which pods of this node stand behind Services, so that one that is deleted stops only when nobody is led to it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

/// How long a deleted pod waits at most until it has left its Services: where the control plane is slow, it ends all the same.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// What the other nodes get to program what this one has heard.
const SPREAD: Duration = Duration::from_millis(300);

/// Namespace and name of a Service.
pub type ServiceName = (String, String);

/// The uids of this node's pods that get new connections, by Service.
#[derive(Debug)]
pub struct Serving(watch::Sender<BTreeMap<ServiceName, BTreeSet<String>>>);

impl Default for Serving {
    fn default() -> Self {
        Serving(watch::channel(BTreeMap::new()).0)
    }
}

impl Serving {
    /// The pods behind one Service.
    pub fn set(&self, service: &ServiceName, uids: BTreeSet<String>) {
        self.0.send_if_modified(|all| {
            if uids.is_empty() {
                return all.remove(service).is_some();
            }
            let changed = all.get(service) != Some(&uids);
            if changed {
                all.insert(service.clone(), uids);
            }
            changed
        });
    }

    /// The pods behind all Services.
    pub fn replace(&self, all: BTreeMap<ServiceName, BTreeSet<String>>) {
        self.0.send_replace(all);
    }

    /// Whether a pod gets new connections.
    #[must_use]
    pub fn has(&self, uid: &str) -> bool {
        serves(&self.0.borrow(), uid)
    }

    /// Waits until a pod gets no new connections, here and, as far as time tells, on other nodes; half of its grace at most, so that
    /// the rest is left for its end.
    pub async fn left(&self, uid: &str, grace: Duration) {
        let mut all = self.0.subscribe();
        let leaving = async {
            // Time over: it ends as it would without Services.
            let _ = tokio::time::timeout(LEAVE_MAX, all.wait_for(|all| !serves(all, uid))).await;
            tokio::time::sleep(SPREAD).await;
        };
        let _ = tokio::time::timeout(grace / 2, leaving).await;
    }
}

fn serves(all: &BTreeMap<ServiceName, BTreeSet<String>>, uid: &str) -> bool {
    all.values().any(|uids| uids.contains(uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[tokio::test]
    async fn a_pod_has_left_when_no_service_leads_to_it() {
        let serving = Arc::new(Serving::default());
        let name = |name: &str| ("default".to_owned(), name.to_owned());
        let uids = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<BTreeSet<_>>();
        serving.set(&name("a"), uids(&["u", "v"]));
        serving.set(&name("b"), uids(&["u"]));
        assert!(serving.has("u") && serving.has("v") && !serving.has("w"));
        let begun = Instant::now();
        let leaving = tokio::spawn({
            let serving = Arc::clone(&serving);
            async move { serving.left("u", Duration::from_secs(30)).await }
        });
        serving.set(&name("a"), uids(&["v"]));
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!leaving.is_finished());
        serving.replace(BTreeMap::from([(name("a"), uids(&["v"]))]));
        assert!(leaving.await.is_ok() && begun.elapsed() < LEAVE_MAX);
        // One that never leaves is not waited for.
        let begun = Instant::now();
        serving.left("v", Duration::from_millis(100)).await;
        assert!(begun.elapsed() < LEAVE_MAX, "half of the grace is for its end");
    }
}
