//! When a Job has failed: too many failures, too much time, or a rule that says so.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use super::Work;
use crate::meta;
use crate::pods;

impl Work<'_> {
    /// Reason and message of the failure, if the Job has failed. Also arranges to look again at the deadline.
    pub(super) fn failure(&mut self, active: &[Arc<Pod>]) -> Option<(&'static str, String)> {
        for pod in self.pods.iter().filter(|pod| pods::phase(pod) == "Failed") {
            if let Some((index, rule, detail)) = matching_rule(self.spec, pod)
                && rule.action == "FailJob"
            {
                let place = format!("pod {}/{}", meta::namespace(&pod.metadata), meta::name(&pod.metadata));
                let message = match detail {
                    Detail::ExitCode { container, code } => {
                        format!(
                            "Container {container} for {place} failed with exit code {code} matching FailJob rule at index {index}"
                        )
                    }
                    Detail::Condition(condition) => format!(
                        "{} has condition {condition} matching FailJob rule at index {index}",
                        place.replacen("pod", "Pod", 1)
                    ),
                };
                return Some(("PodFailurePolicy", message));
            }
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit || self.restarts_in_place(active, limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
        }
        let seconds = self.spec.active_deadline_seconds.filter(|_| self.spec.suspend != Some(true))?;
        let started = self.status.start_time.as_ref()?.0;
        let deadline = started.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        if deadline <= self.now {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
        }
        self.wake_at(deadline);
        None
    }

    /// With restartPolicy OnFailure containers fail without their pod failing.
    fn restarts_in_place(&self, active: &[Arc<Pod>], limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = active
            .iter()
            .flat_map(|pod| pod.status.iter())
            .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten())
            .map(|status| status.restart_count)
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }
}

enum Detail {
    ExitCode { container: String, code: i32 },
    Condition(String),
}

/// Whether a rule says that this failure does not count.
pub(super) fn is_ignored(spec: &JobSpec, pod: &Pod) -> bool {
    matching_rule(spec, pod).is_some_and(|(_, rule, _)| rule.action == "Ignore")
}

fn matching_rule<'a>(spec: &'a JobSpec, pod: &Pod) -> Option<(usize, &'a PodFailurePolicyRule, Detail)> {
    let rules = &spec.pod_failure_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(index, rule)| Some((index, rule, matches(rule, pod)?)))
}

fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<Detail> {
    if let Some(codes) = &rule.on_exit_codes {
        let status = pod.status.as_ref()?;
        let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for container in containers {
            let Some(ended) = container.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
            let named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
            let listed = codes.values.contains(&ended.exit_code);
            // Success is never a failure, whatever the rule lists.
            if named && ended.exit_code != 0 && listed == (codes.operator == "In") {
                return Some(Detail::ExitCode { container: container.name.clone(), code: ended.exit_code });
            }
        }
        return None;
    }
    rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        let condition = pods::condition(pod, &pattern.type_)?;
        (condition.status == pattern.status.as_deref().unwrap_or("True"))
            .then(|| Detail::Condition(pattern.type_.clone()))
    })
}
