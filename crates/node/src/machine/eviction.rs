//! What a machine is short of, and which pod goes for it: the signals, the order and the sentences of upstream. Pure.

use super::facts::Space;
use crate::lifecycle::{Terminal, qos_class};
use k8s_openapi::api::core::v1::{Pod, Toleration};

/// When the machine is short, as upstream's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// memory.available below this many bytes.
    pub memory_available_bytes: u64,
    /// nodefs.available below this many percent.
    pub disk_available_percent: u64,
    /// nodefs.inodesFree below this many percent.
    pub inodes_free_percent: u64,
    /// pid.available below this many percent.
    pub pids_available_percent: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory_available_bytes: 100 << 20,
            disk_available_percent: 10,
            inodes_free_percent: 5,
            pids_available_percent: 5,
        }
    }
}

/// What can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes of the disk.
    EphemeralStorage,
    /// Inodes of the disk.
    Inodes,
    /// Process ids.
    ProcessIds,
}

impl Resource {
    /// As events and messages name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::ProcessIds => "pids",
        }
    }

    /// The node's condition that tells it.
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self {
            Resource::Memory => "MemoryPressure",
            Resource::EphemeralStorage | Resource::Inodes => "DiskPressure",
            Resource::ProcessIds => "PIDPressure",
        }
    }

    pub(super) fn quantity(self, amount: u64) -> String {
        match self {
            Resource::Memory | Resource::EphemeralStorage => {
                scaled(amount, &[(1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")])
            }
            Resource::Inodes | Resource::ProcessIds => scaled(amount, &[(1_000_000, "M"), (1_000, "k")]),
        }
    }
}

/// The largest unit that leaves a whole number, as upstream's quantities print.
fn scaled(amount: u64, units: &[(u64, &str)]) -> String {
    let unit = units.iter().find(|(size, _)| amount > 0 && amount.is_multiple_of(*size));
    unit.map_or_else(|| amount.to_string(), |(size, name)| format!("{}{name}", amount / size))
}

/// Less of something than there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub resource: Resource,
    /// What has to be available.
    pub threshold: u64,
    /// What is.
    pub available: u64,
}

impl Shortage {
    fn below(resource: Resource, available: u64, threshold: u64) -> Option<Self> {
        (available < threshold).then_some(Shortage { resource, threshold, available })
    }
}

/// `percent` of what is there, without overflow.
fn part(whole: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

impl Thresholds {
    /// Whether memory is short.
    #[must_use]
    pub fn of_memory(&self, available_bytes: u64) -> Option<Shortage> {
        Shortage::below(Resource::Memory, available_bytes, self.memory_available_bytes)
    }

    /// Whether the disk is short of bytes, else of inodes. A file system without a fixed number of inodes has enough.
    #[must_use]
    pub fn of_disk(&self, space: Space) -> Option<Shortage> {
        let bytes = part(space.total_bytes, self.disk_available_percent);
        let inodes = part(space.total_inodes, self.inodes_free_percent);
        Shortage::below(Resource::EphemeralStorage, space.available_bytes, bytes)
            .or_else(|| Shortage::below(Resource::Inodes, space.free_inodes, inodes))
    }

    /// Whether process ids are short: `used` of `most`.
    #[must_use]
    pub fn of_process_ids(&self, used: u64, most: u64) -> Option<Shortage> {
        let threshold = part(most, self.pids_available_percent);
        Shortage::below(Resource::ProcessIds, most.saturating_sub(used), threshold)
    }
}

/// A pod that may go, with what it takes of the resource that is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it asked for.
    pub request: u64,
    /// Each container: name, use and request.
    pub containers: Vec<(String, u64, u64)>,
    /// What it uses that is no container's, such as its volumes.
    pub shared: u64,
}

impl Candidate {
    fn usage(&self) -> u64 {
        self.containers.iter().fold(self.shared, |sum, container| sum.saturating_add(container.1))
    }
}

/// From this priority on a pod is never evicted (system-cluster-critical).
const CRITICAL: i32 = 2_000_000_000;

/// The pod to evict, with its reason: those above their requests first, then by priority, then by how far above.
#[must_use]
pub fn choose_victim(candidates: &[Candidate], shortage: Shortage) -> Option<(String, Terminal)> {
    let Shortage { resource, threshold, available } = shortage;
    let excess = |one: &Candidate| i128::from(one.usage()) - i128::from(one.request);
    let victim = candidates
        .iter()
        .filter(|one| one.priority < CRITICAL)
        .max_by_key(|one| (excess(one) > 0, -i64::from(one.priority), excess(one)))?;
    let (name, quantity) = (resource.name(), |amount| resource.quantity(amount));
    let mut message = format!(
        "The node was low on resource: {name}. Threshold quantity: {}, available: {}. ",
        quantity(threshold),
        // Memory is told in kibibytes by the kernel, and by upstream however round it is.
        if resource == Resource::Memory { format!("{}Ki", available >> 10) } else { quantity(available) }
    );
    if matches!(resource, Resource::Memory | Resource::EphemeralStorage) {
        for (container, usage, request) in victim.containers.iter().filter(|(_, usage, request)| usage > request) {
            message.push_str(&format!(
                "Container {container} was using {}Ki, request is {}, has larger consumption of {name}. ",
                usage >> 10,
                quantity(*request)
            ));
        }
    }
    Some((victim.uid.clone(), Terminal { disrupted: true, ..Terminal::new("Evicted", message) }))
}

/// Why a new pod is not taken while the machine is under pressure: all are refused but critical ones; under that of memory
/// alone only those that asked for nothing and do not tolerate it.
#[must_use]
pub fn refused_under(pressures: &[&'static str], pod: &Pod) -> Option<Terminal> {
    let spec = pod.spec.as_ref()?;
    if pressures.is_empty() || spec.priority.unwrap_or(0) >= CRITICAL {
        return None;
    }
    if pressures == ["MemoryPressure"] {
        let tolerates = spec.tolerations.iter().flatten().any(tolerates_memory_pressure);
        if tolerates || qos_class(spec) != "BestEffort" {
            return None;
        }
    }
    let message = format!("Pod was rejected: The node had condition: [{}]. ", pressures.join(" "));
    Some(Terminal::new("Evicted", message))
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let is = |value: &Option<String>, wanted: &str| value.as_deref().is_none_or(|it| it.is_empty() || it == wanted);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let no_key = toleration.key.as_deref().is_none_or(str::is_empty);
    is(&toleration.effect, "NoSchedule")
        && is(&toleration.key, "node.kubernetes.io/memory-pressure")
        && (exists || !no_key && toleration.value.as_deref().is_none_or(str::is_empty))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, priority: i32, request: u64, usage: u64) -> Candidate {
        Candidate {
            uid: uid.into(),
            priority,
            request: request << 20,
            containers: vec![("c".into(), usage << 20, request << 20)],
            shared: 0,
        }
    }

    #[test]
    fn the_order_and_the_sentence() {
        let candidates = [
            pod("inside", 0, 500, 400),
            pod("above", 0, 0, 100),
            pod("further", 0, 0, 120),
            pod("dear", 10, 0, 900),
            pod("critical", CRITICAL, 0, 2000),
        ];
        let memory = Thresholds::default().of_memory(50 << 20).unwrap();
        let (uid, terminal) = choose_victim(&candidates, memory).unwrap();
        assert_eq!((uid.as_str(), terminal.disrupted), ("further", true));
        assert_eq!(
            terminal.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. \
             Container c was using 122880Ki, request is 0, has larger consumption of memory. "
        );
        assert_eq!(choose_victim(&candidates[..1], memory).unwrap().0, "inside", "the last resort");
        assert!(choose_victim(&candidates[4..], memory).is_none());
        assert!(choose_victim(&[], memory).is_none());
    }

    #[test]
    fn volumes_count_for_the_disk_and_sentences_name_the_resource() {
        let mut full = pod("full", 0, 10, 1);
        full.shared = 300 << 20;
        let disk = Shortage { resource: Resource::EphemeralStorage, threshold: 3_218_965_770, available: 1 << 30 };
        let (uid, terminal) = choose_victim(&[pod("small", 0, 0, 2), full.clone()], disk).unwrap();
        assert_eq!(uid, "full");
        assert_eq!(
            terminal.message,
            "The node was low on resource: ephemeral-storage. Threshold quantity: 3218965770, available: 1Gi. "
        );
        let (uid, terminal) = choose_victim(&[pod("small", 0, 0, 2)], disk).unwrap();
        assert_eq!(uid, "small");
        assert!(
            terminal
                .message
                .ends_with("Container c was using 2048Ki, request is 0, has larger consumption of ephemeral-storage. ")
        );
        let many = |uid: &str, priority, shared| Candidate {
            shared,
            ..Candidate { uid: uid.into(), priority, ..Candidate::default() }
        };
        let inodes = Shortage { resource: Resource::Inodes, threshold: 3_276_000, available: 1_000_000 };
        let (uid, terminal) =
            choose_victim(&[many("few", 0, 5), many("many", 0, 5_000), many("dear", 1, 90_000)], inodes).unwrap();
        assert_eq!(uid, "many");
        assert_eq!(
            terminal.message,
            "The node was low on resource: inodes. Threshold quantity: 3276k, available: 1M. "
        );
    }

    #[test]
    fn shortages_begin_below_the_threshold_and_not_at_it() {
        let limits = Thresholds::default();
        let space = |available_bytes, free_inodes| Space {
            total_bytes: 1000,
            available_bytes,
            total_inodes: 1000,
            free_inodes,
        };
        for (available, free, expected) in [
            (100, 50, None),
            (99, 50, Some((Resource::EphemeralStorage, 100, 99))),
            (100, 49, Some((Resource::Inodes, 50, 49))),
            (99, 49, Some((Resource::EphemeralStorage, 100, 99))),
        ] {
            let found = limits.of_disk(space(available, free)).map(|it| (it.resource, it.threshold, it.available));
            assert_eq!(found, expected, "{available} {free}");
        }
        let unnumbered = Space { total_inodes: 0, free_inodes: 0, ..space(1000, 0) };
        assert_eq!(limits.of_disk(unnumbered), None);
        // Nothing is known of a file system that cannot be asked.
        assert_eq!(limits.of_disk(Space::default()), None);
        assert_eq!(limits.of_process_ids(950, 1000), None);
        assert_eq!(limits.of_process_ids(951, 1000).map(|it| it.available), Some(49));
        assert_eq!(limits.of_memory(100 << 20), None);
    }

    #[test]
    fn new_pods_are_refused_under_pressure() {
        let pod = |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let plain = pod(json!({"containers": []}));
        let requests = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let tolerant = pod(
            json!({"containers": [], "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]}),
        );
        let other = pod(
            json!({"containers": [], "tolerations": [{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}]}),
        );
        let critical = pod(json!({"containers": [], "priority": CRITICAL}));
        let (memory, disk, both) =
            (&["MemoryPressure"][..], &["DiskPressure"][..], &["MemoryPressure", "DiskPressure"][..]);
        for (pressures, pod, refused) in [
            (&[][..], &plain, false),
            (memory, &plain, true),
            (memory, &requests, false),
            (memory, &tolerant, false),
            (memory, &other, true),
            (disk, &requests, true),
            (disk, &other, true),
            (both, &tolerant, true),
            (both, &critical, false),
        ] {
            assert_eq!(refused_under(pressures, pod).is_some(), refused, "{pressures:?} {pod:?}");
        }
        let terminal = refused_under(both, &plain).unwrap();
        assert_eq!(terminal.message, "Pod was rejected: The node had condition: [MemoryPressure DiskPressure]. ");
        assert_eq!((terminal.reason.as_str(), terminal.disrupted), ("Evicted", false));
    }
}
