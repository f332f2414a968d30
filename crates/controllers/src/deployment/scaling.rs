//! Scaling between rollouts, and proportionally in the middle of one.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;

use super::revisions::{desired_annotation, max_annotation};
use super::{Rollout, available, replicas};

impl Rollout<'_> {
    /// Writes the size and what it was computed from.
    pub(super) fn size(&self, set: &mut ReplicaSet, size: i32) {
        set.spec.replicas = Some(size);
        let annotations = set.metadata.annotations.get_or_insert_default();
        let max = self.desired + self.max_surge;
        annotations.insert("deployment.kubernetes.io/desired-replicas".into(), self.desired.to_string());
        annotations.insert("deployment.kubernetes.io/max-replicas".into(), max.to_string());
    }

    /// Spreads a change of the Deployment's size over its sets.
    pub(super) fn scale(&mut self, _now: Timestamp) {
        let active: Vec<Arc<ReplicaSet>> = self.sets().filter(|set| replicas(set) > 0).cloned().collect();
        if active.len() <= 1 {
            let newest = self.current.clone().or_else(|| self.old.last().cloned());
            if let Some(set) = active.into_iter().next().or(newest)
                && (replicas(&set) != self.desired || desired_annotation(&set) != Some(self.desired))
            {
                self.resize(&set, self.desired);
            }
            return;
        }
        if let Some(current) = &self.current
            && replicas(current) == self.desired
            && desired_annotation(current) == Some(self.desired)
            && available(current) == self.desired
        {
            let rest: Vec<Arc<ReplicaSet>> = self.old.iter().filter(|set| replicas(set) > 0).cloned().collect();
            for set in rest {
                self.resize(&set, 0);
            }
            return;
        }
        if !self.recreate {
            self.scale_in_proportion(active);
        }
    }

    fn scale_in_proportion(&mut self, mut active: Vec<Arc<ReplicaSet>>) {
        let allowed = if self.desired > 0 { self.desired + self.max_surge } else { 0 };
        let change = allowed - active.iter().map(|set| replicas(set)).sum::<i32>();
        // The largest set takes what rounding leaves; of equals the newer when growing, the older when shrinking.
        active.sort_by(|left, right| {
            let by_age = left.metadata.creation_timestamp.cmp(&right.metadata.creation_timestamp);
            replicas(right).cmp(&replicas(left)).then(if change > 0 { by_age.reverse() } else { by_age })
        });
        let mut sizes: Vec<i32> = Vec::new();
        let mut given = 0;
        for set in &active {
            let mut size = replicas(set);
            if change != 0 {
                let share = self.share(set);
                let rest = change - given;
                let step = if change > 0 { share.min(rest) } else { share.max(rest) };
                size += step;
                given += step;
            }
            sizes.push(size);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + change - given).max(0);
        }
        for (set, size) in active.iter().zip(sizes) {
            if replicas(set) != size || desired_annotation(set) != Some(self.desired) {
                self.resize(set, size);
            }
        }
    }

    /// By how much a set should change so that it keeps its share of the whole.
    fn share(&self, set: &ReplicaSet) -> i32 {
        let has = replicas(set);
        if self.desired == 0 {
            return -has;
        }
        let status = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let whole = max_annotation(set).unwrap_or(status);
        if whole <= 0 {
            return 0;
        }
        let scaled = f64::from(has) * f64::from(self.desired + self.max_surge) / f64::from(whole);
        #[expect(clippy::cast_possible_truncation, reason = "a rounded number of pods fits")]
        let rounded = scaled.round() as i32;
        rounded - has
    }
}
