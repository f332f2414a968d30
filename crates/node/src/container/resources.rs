//! Requests and limits as control groups take them, and the OOM score, with upstream's formulas.

use super::launch::Limits;
use crate::lifecycle::{Requests, qos_class};
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

fn amount(resources: Option<&ResourceRequirements>, limits: bool, name: &str) -> Option<i64> {
    let resources = resources?;
    let map = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
    let text = &map?.get(name)?.0;
    if name == "cpu" { quantity::milli(text) } else { quantity::value(text) }
}

/// CPU shares of a request in thousandths: 1024 a CPU, at least 2.
fn shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or(0).clamp(2, 262_144)
}

/// Microseconds per 100 ms of a limit in thousandths, at least 1 ms.
fn quota(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(100)).unwrap_or(0).max(1000)
}

/// The limits of one container.
#[must_use]
pub fn container_limits(container: &Container) -> Limits {
    let resources = container.resources.as_ref();
    let cpu_limit = amount(resources, true, "cpu").filter(|milli| *milli > 0);
    let cpu_request = amount(resources, false, "cpu").or(cpu_limit).unwrap_or(0);
    let memory = amount(resources, true, "memory").filter(|bytes| *bytes > 0);
    Limits {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: cpu_limit.map(quota),
        memory_limit_bytes: memory.and_then(|bytes| u64::try_from(bytes).ok()),
    }
}

/// The limits of the whole pod: a limit only where every container has one.
#[must_use]
pub fn pod_limits(spec: &PodSpec) -> Limits {
    let requests = Requests::of_pod(spec);
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let total = |name: &str| {
        let each: Option<Vec<i64>> = all()
            .map(|container| amount(container.resources.as_ref(), true, name).filter(|amount| *amount > 0))
            .collect();
        each.map(|each| each.iter().fold(0_i64, |sum, one| sum.saturating_add(*one)))
    };
    Limits {
        cpu_shares: Some(shares(requests.cpu_milli)),
        cpu_quota_us: total("cpu").map(quota),
        memory_limit_bytes: total("memory").and_then(|bytes| u64::try_from(bytes).ok()),
    }
}

/// The memory limits of a pod's containers together, of those that have one; None where none has.
#[must_use]
pub fn memory_limits(spec: &PodSpec) -> Option<u64> {
    let limit = |container: &Container| amount(container.resources.as_ref(), true, "memory").filter(|bytes| *bytes > 0);
    let apps = spec.containers.iter().filter_map(limit).fold(0_i64, i64::saturating_add);
    // Init containers run one after the other, before the others.
    let init = spec.init_containers.iter().flatten().filter_map(limit).max().unwrap_or(0);
    u64::try_from(apps.max(init)).ok().filter(|bytes| *bytes > 0)
}

/// The OOM score: guaranteed pods die last, best-effort ones first, the others by their share of the node's memory.
#[must_use]
pub fn oom_score_adjust(spec: &PodSpec, container: &Container, node_memory_bytes: i64) -> i32 {
    if spec.priority.is_some_and(|priority| priority >= 2_000_000_000) {
        return -997; // node-critical
    }
    match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = amount(container.resources.as_ref(), false, "memory")
                .or_else(|| amount(container.resources.as_ref(), true, "memory"))
                .unwrap_or(0);
            let score = 1000 - (1000_i128 * i128::from(request)) / i128::from(node_memory_bytes.max(1));
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn upstream_s_numbers() {
        // (resources, shares, quota, memory, score on a node with 1000 Mi)
        let cases = [
            (json!({}), 2, None, None, 1000),
            (json!({"requests": {"cpu": "250m"}}), 256, None, None, 999),
            (json!({"limits": {"cpu": "1500m", "memory": "100Mi"}}), 1536, Some(150_000), Some(104_857_600), -997),
            (json!({"requests": {"memory": "500Mi"}}), 2, None, None, 500),
            (json!({"limits": {"cpu": "1m"}}), 2, Some(1000), None, 999),
        ];
        for (resources, shares, quota, memory, score) in cases {
            let spec: PodSpec =
                serde_json::from_value(json!({"containers": [{"name": "c", "resources": resources}]})).unwrap();
            let limits = container_limits(&spec.containers[0]);
            assert_eq!(limits.cpu_shares, Some(shares), "{resources}");
            assert_eq!(limits.cpu_quota_us, quota, "{resources}");
            assert_eq!(limits.memory_limit_bytes, memory, "{resources}");
            assert_eq!(oom_score_adjust(&spec, &spec.containers[0], 1000 << 20), score, "{resources}");
        }
    }
}
