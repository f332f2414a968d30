//! The two ways from old pods to new ones.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{Memory, Rollout, available, replicas};
use crate::meta;
use crate::view::View;

impl Rollout<'_> {
    /// How many pods the current set may have now, given what it has.
    pub(super) fn wanted_of_current(&self, has: i32) -> i32 {
        if self.recreate {
            return self.desired;
        }
        let total: i32 = self.sets().map(|set| replicas(set)).sum();
        let room = self.desired + self.max_surge - total;
        if room <= 0 { has } else { has + room.min(self.desired - has) }
    }

    /// One step of a rolling update: grow the new set, else shrink the old ones, else clean up.
    pub(super) fn roll(&mut self, _memory: &mut Memory, now: Timestamp) {
        if !self.adopt_revision(now, true) {
            return;
        }
        let Some(current) = self.current.clone() else { return };
        let has = replicas(&current);
        let wanted = if has > self.desired { self.desired } else { self.wanted_of_current(has) };
        if wanted != has {
            self.resize(&current, wanted);
            return;
        }
        if !self.shrink_old(&current) && self.is_complete() {
            self.clean_up();
        }
    }

    fn shrink_old(&mut self, current: &ReplicaSet) -> bool {
        let old_pods: i32 = self.old.iter().map(|set| replicas(set)).sum();
        if old_pods == 0 {
            return false;
        }
        let all_pods = old_pods + replicas(current);
        let min_available = self.desired - self.max_unavailable;
        let new_unavailable = replicas(current) - available(current);
        let shrinkable = all_pods - min_available - new_unavailable;
        if shrinkable <= 0 {
            return false;
        }
        // Pods that are not available serve nobody, so they go first and cost nothing.
        let mut sizes: Vec<i32> = self.old.iter().map(|set| replicas(set)).collect();
        let mut unhealthy_removed = 0;
        for (set, size) in self.old.iter().zip(&mut sizes) {
            let unhealthy = *size - available(set).min(*size);
            let step = unhealthy.min(shrinkable - unhealthy_removed);
            *size -= step;
            unhealthy_removed += step;
        }
        let available_pods: i32 = self.sets().map(|set| available(set)).sum();
        let mut removable = available_pods - min_available;
        for size in &mut sizes {
            let step = (*size).min(removable.max(0));
            *size -= step;
            removable -= step;
        }
        let resized: Vec<(Arc<ReplicaSet>, i32)> =
            self.old.iter().cloned().zip(sizes).filter(|(set, size)| replicas(set) != *size).collect();
        for (set, size) in &resized {
            self.resize(set, *size);
        }
        !resized.is_empty()
    }

    /// All old pods first, and only when the last of them has ended, the new ones.
    pub(super) fn roll_by_recreating(&mut self, view: &View, memory: &mut Memory, now: Timestamp) {
        let active: Vec<Arc<ReplicaSet>> = self.old.iter().filter(|set| replicas(set) > 0).cloned().collect();
        if !active.is_empty() {
            for set in &active {
                self.resize(set, 0);
            }
            self.adopt_revision(now, false);
            return;
        }
        let old_pods = self.old.iter().flat_map(|set| view.pods.controlled_by(meta::uid(&set.metadata)));
        if old_pods.into_iter().any(|pod| !scheduler::is_terminal(pod)) {
            return;
        }
        self.roll(memory, now);
    }

    fn is_complete(&self) -> bool {
        let counts = self.deployment.status.as_ref();
        counts.is_some_and(|status| {
            status.updated_replicas.unwrap_or(0) == self.desired
                && status.replicas.unwrap_or(0) == self.desired
                && status.available_replicas.unwrap_or(0) == self.desired
                && status.observed_generation >= self.deployment.metadata.generation
        })
    }

    /// Gives a set another number of pods and tells it.
    pub(super) fn resize(&mut self, set: &ReplicaSet, size: i32) {
        let from = replicas(set);
        let mut changed = set.clone();
        self.size(&mut changed, size);
        let name = meta::name(&set.metadata).to_owned();
        let changed = Arc::new(changed);
        for known in self.old.iter_mut().chain(&mut self.current) {
            if meta::name(&known.metadata) == name {
                *known = changed.clone();
            }
        }
        let event = (from != size).then(|| self.scaled_event(&changed, from, size));
        self.replace(&changed, event);
    }
}
