//! Counting each pod's end exactly once: written down as uncounted, released, and only then counted.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{TRACKING, Work, failure, index_of, release};
use crate::meta;
use crate::pods;

/// When a pod's last container ended.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let ends = containers
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
    ends.max().or_else(|| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
}

impl Work<'_> {
    fn uncounted(&self, succeeded: bool) -> BTreeSet<String> {
        let lists = self.status.uncounted_terminated_pods.as_ref();
        let list = lists.and_then(|lists| if succeeded { lists.succeeded.as_ref() } else { lists.failed.as_ref() });
        list.into_iter().flatten().cloned().collect()
    }

    /// Ends that are known: counted, and written down to be counted.
    pub(super) fn succeeded(&self) -> i32 {
        if self.indexed {
            return super::count(self.completed.len());
        }
        self.status.succeeded.unwrap_or(0) + super::count(self.uncounted(true).len())
    }

    pub(super) fn failed(&self) -> i32 {
        self.status.failed.unwrap_or(0) + super::count(self.uncounted(false).len())
    }

    pub(super) fn has_uncounted(&self) -> bool {
        let held = self.pods.iter().any(|pod| super::ended(pod) && meta::has_finalizer(&pod.metadata, TRACKING));
        held || !self.uncounted(true).is_empty() || !self.uncounted(false).is_empty()
    }

    /// Whether the pod's end has been taken into account already.
    pub(super) fn is_counted(&self, pod: &Pod) -> bool {
        !meta::has_finalizer(&pod.metadata, TRACKING) || self.is_written_down(pod)
    }

    fn is_written_down(&self, pod: &Pod) -> bool {
        let uid = meta::uid(&pod.metadata);
        self.uncounted(true).contains(uid) || self.uncounted(false).contains(uid)
    }

    /// One step for every pod that ended. Each step starts from what the last status update made durable, so a crash
    /// between steps neither loses an end nor counts it twice.
    pub(super) fn account(&mut self) {
        let (mut succeeded, mut failed) = (self.uncounted(true), self.uncounted(false));
        let waits_for_phase =
            self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some();
        let mut counted = (0, 0);
        let known: BTreeSet<String> = succeeded.union(&failed).cloned().collect();
        for uid in &known {
            let pod = self.pods.iter().find(|pod| meta::uid(&pod.metadata) == uid);
            match pod.filter(|pod| meta::has_finalizer(&pod.metadata, TRACKING)) {
                Some(pod) => self.actions.push(release(pod)),
                None if succeeded.remove(uid) => counted.0 += 1,
                None => {
                    failed.remove(uid);
                    counted.1 += 1;
                }
            }
        }
        let mut ignored = Vec::new();
        for pod in self.pods.iter().filter(|pod| meta::has_finalizer(&pod.metadata, TRACKING)) {
            let uid = meta::uid(&pod.metadata);
            if known.contains(uid) {
                continue;
            }
            match pods::phase(pod) {
                "Succeeded" => {
                    if !self.indexed {
                        succeeded.insert(uid.to_owned());
                    } else if let Some(index) =
                        index_of(pod).filter(|index| i64::from(*index) < i64::from(self.spec.completions.unwrap_or(0)))
                    {
                        self.completed.insert(index);
                        succeeded.insert(uid.to_owned());
                    }
                }
                "Failed" if failure::is_ignored(self.spec, pod) => ignored.push(release(pod)),
                "Failed" => {
                    failed.insert(uid.to_owned());
                }
                _ if meta::is_deleting(&pod.metadata) && !waits_for_phase => {
                    failed.insert(uid.to_owned());
                }
                _ => {}
            }
        }
        self.actions.extend(ignored);
        let add = |count: &mut Option<i32>, more: i32| {
            if more > 0 {
                *count = Some(count.unwrap_or(0) + more);
            }
        };
        add(&mut self.status.failed, counted.1);
        if self.indexed {
            let completed = super::count(self.completed.len());
            self.status.succeeded = (completed > 0).then_some(completed);
            self.status.completed_indexes = (!self.completed.is_empty()).then(|| self.completed.to_string());
        } else {
            add(&mut self.status.succeeded, counted.0);
        }
        let list = |uids: BTreeSet<String>| (!uids.is_empty()).then(|| uids.into_iter().collect::<Vec<_>>());
        let lists = self.status.uncounted_terminated_pods.get_or_insert_default();
        (lists.succeeded, lists.failed) = (list(succeeded), list(failed));
    }
}
