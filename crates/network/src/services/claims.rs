//! Who owns an address and port when several Services ask for the same (spec.externalIPs): the first, then the next.

use std::collections::HashMap;
use std::collections::VecDeque;

use super::compile::FrontKey;
use super::state::ServiceKey;

/// The claims of all Services on fronts.
#[derive(Default)]
pub(crate) struct Claims {
    owners: HashMap<FrontKey, ServiceKey>,
    /// Those who came later, per front; few fronts have any.
    waiting: HashMap<FrontKey, VecDeque<ServiceKey>>,
}

impl Claims {
    /// Claims a front; true if the Service now owns it.
    pub(crate) fn claim(&mut self, front: FrontKey, service: &ServiceKey) -> bool {
        let owner = self.owners.entry(front).or_insert_with(|| service.clone());
        if owner == service {
            return true;
        }
        let waiting = self.waiting.entry(front).or_default();
        if !waiting.contains(service) {
            tracing::warn!(?front, %owner.namespace, %owner.name, namespace = %service.namespace, name = %service.name,
                "two Services ask for the same address and port; the first keeps it");
            waiting.push_back(service.clone());
        }
        false
    }

    /// Gives a claim up; returns the Service that owns the front from now on, if that changed and somebody waited.
    pub(crate) fn release(&mut self, front: FrontKey, service: &ServiceKey) -> Option<ServiceKey> {
        if self.owners.get(&front) != Some(service) {
            if let Some(waiting) = self.waiting.get_mut(&front) {
                waiting.retain(|other| other != service);
                if waiting.is_empty() {
                    self.waiting.remove(&front);
                }
            }
            return None;
        }
        self.owners.remove(&front);
        let waiting = self.waiting.get_mut(&front)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&front);
        }
        if let Some(next) = &next {
            self.owners.insert(front, next.clone());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Family;
    use crate::services::TransportProtocol;

    #[test]
    fn the_next_claimant_inherits() {
        let front = FrontKey::NodePort { family: Family::Ip, protocol: TransportProtocol::Tcp, port: 1 };
        let [a, b, c] = ["a", "b", "c"].map(|name| ServiceKey::new("default", name));
        let mut claims = Claims::default();
        assert!(claims.claim(front, &a) && claims.claim(front, &a));
        assert!(!claims.claim(front, &b) && !claims.claim(front, &c) && !claims.claim(front, &b));
        assert_eq!(claims.release(front, &b), None);
        assert_eq!(claims.release(front, &a), Some(c.clone()));
        assert_eq!(claims.release(front, &c), None);
        assert!(claims.claim(front, &b));
    }
}
