//! Scores of single nodes and upstream's weights, and the breaking of ties.

use crate::node_info::{NodeInfo, Usage};
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// The highest score a plugin gives.
pub(crate) const SCORE_MAX: i64 = 100;
/// Weights of upstream's default profile; the plugins not named here weigh 1.
pub(crate) const WEIGHT_TAINTS: i64 = 3;
pub(crate) const WEIGHT_NODE_AFFINITY: i64 = 2;
pub(crate) const WEIGHT_SPREAD: i64 = 2;
pub(crate) const WEIGHT_POD_AFFINITY: i64 = 2;

const IMAGE_BYTES_MIN: i64 = 23 * 1024 * 1024;
const IMAGE_BYTES_MAX_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

/// Least allocated plus balanced allocation plus image locality: what needs no comparison with other nodes.
pub(crate) fn own_score(pod: &PodInfo, node: &NodeInfo, usage: &Usage, snapshot: &Snapshot) -> i64 {
    least_allocated(pod, node, usage) + balanced_allocation(pod, node, usage) + image_locality(pod, node, snapshot)
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo, usage: &Usage) -> i64 {
    let free_share = |capacity: i64, used: i64| {
        if capacity <= 0 || used > capacity { 0 } else { (capacity - used).saturating_mul(SCORE_MAX) / capacity }
    };
    let cpu = free_share(node.allocatable.cpu_milli, usage.scoring_cpu_milli + pod.scoring_cpu_milli);
    let memory = free_share(node.allocatable.memory_bytes, usage.scoring_memory_bytes + pod.scoring_memory_bytes);
    i64::midpoint(cpu, memory)
}

fn balanced_allocation(pod: &PodInfo, node: &NodeInfo, usage: &Usage) -> i64 {
    // Upstream skips pods that ask for nothing: they cannot unbalance a node.
    if pod.requests.cpu_milli == 0 && pod.requests.memory_bytes == 0 {
        return 0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a score needs two digits")]
    let fraction =
        |capacity: i64, used: i64| if capacity <= 0 { 1.0 } else { (used as f64 / capacity as f64).min(1.0) };
    let cpu = fraction(node.allocatable.cpu_milli, usage.requested.cpu_milli + pod.requests.cpu_milli);
    let memory = fraction(node.allocatable.memory_bytes, usage.requested.memory_bytes + pod.requests.memory_bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the value lies between 0 and 100")]
    let score = ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64;
    score
}

fn image_locality(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
    if snapshot.image_nodes.is_empty() {
        return 0;
    }
    let Some(spec) = &pod.pod.spec else { return 0 };
    let nodes = i64::try_from(snapshot.nodes_live).unwrap_or(i64::MAX).max(1);
    let mut present_bytes: i64 = 0;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut count = 0;
    for container in containers {
        count += 1;
        let Some(image) = &container.image else { continue };
        let tagged;
        let name = if has_tag(image) {
            image
        } else {
            tagged = format!("{image}:latest");
            &tagged
        };
        if let Some(bytes) = node.images.get(name) {
            // An image that every node has says nothing; one that few have is worth going to less, as upstream scales it.
            present_bytes += bytes / nodes * snapshot.image_nodes.get(name).copied().unwrap_or(0);
        }
    }
    let upper = IMAGE_BYTES_MAX_PER_CONTAINER * count.max(1);
    SCORE_MAX * (present_bytes.clamp(IMAGE_BYTES_MIN, upper) - IMAGE_BYTES_MIN) / (upper - IMAGE_BYTES_MIN)
}

fn has_tag(image: &str) -> bool {
    image.rsplit('/').next().is_some_and(|last| last.contains(':') || last.contains('@'))
}

/// Scales so that the highest raw score becomes 100 (or the lowest, if `reverse`).
pub(crate) fn normalise(raw: i64, highest: i64, reverse: bool) -> i64 {
    let scaled = if highest == 0 { 0 } else { raw * SCORE_MAX / highest };
    if reverse { SCORE_MAX - scaled } else { scaled }
}

/// A small generator (splitmix64) that decides ties; the seed arrives from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ties(u64);

impl Ties {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound` (0 if `bound` is 0).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let product = u128::from(mixed) * bound as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }
}
