//! Which pod goes when the machine runs short: the order and the sentences of upstream. Pure.

use crate::lifecycle::Terminal;

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

/// A pod that may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// Memory that it asked for, bytes.
    pub request_bytes: u64,
    /// Memory of each container: name, use and request.
    pub containers: Vec<(String, u64, u64)>,
}

impl Candidate {
    fn usage(&self) -> u64 {
        self.containers.iter().fold(0, |sum, container| sum.saturating_add(container.1))
    }
}

/// From this priority on a pod is never evicted for memory (system-cluster-critical).
const CRITICAL: i32 = 2_000_000_000;

/// The pod to evict for memory, with its reason: those above their requests first, then by priority, then by how far above.
#[must_use]
pub fn choose_victim(
    candidates: &[Candidate],
    threshold_bytes: u64,
    available_bytes: u64,
) -> Option<(String, Terminal)> {
    let excess = |one: &Candidate| i128::from(one.usage()) - i128::from(one.request_bytes);
    let victim = candidates
        .iter()
        .filter(|one| one.priority < CRITICAL)
        .max_by_key(|one| (excess(one) > 0, -i64::from(one.priority), excess(one)))?;
    let mut message = format!(
        "The node was low on resource: memory. Threshold quantity: {}, available: {}Ki. ",
        quantity(threshold_bytes),
        available_bytes >> 10
    );
    for (name, usage, request) in &victim.containers {
        if usage > request {
            let request = quantity(*request);
            message.push_str(&format!(
                "Container {name} was using {}Ki, request is {request}, has larger consumption of memory. ",
                usage >> 10
            ));
        }
    }
    Some((victim.uid.clone(), Terminal { reason: "Evicted".into(), message }))
}

fn quantity(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        bytes if bytes % (1 << 20) == 0 => format!("{}Mi", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{}Ki", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_order_and_the_sentence() {
        let pod = |uid: &str, priority: i32, request: u64, usage: u64| Candidate {
            uid: uid.into(),
            priority,
            request_bytes: request << 20,
            containers: vec![("c".into(), usage << 20, request << 20)],
        };
        let candidates = [
            pod("inside", 0, 500, 400),
            pod("above", 0, 0, 100),
            pod("further", 0, 0, 120),
            pod("dear", 10, 0, 900),
            pod("critical", CRITICAL, 0, 2000),
        ];
        let (uid, terminal) = choose_victim(&candidates, 100 << 20, 50 << 20).unwrap();
        assert_eq!(uid, "further");
        assert_eq!(
            terminal.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. \
             Container c was using 122880Ki, request is 0, has larger consumption of memory. "
        );
        assert_eq!(choose_victim(&candidates[..1], 1, 0).unwrap().0, "inside", "the last resort");
        assert!(choose_victim(&candidates[4..], 1, 0).is_none());
    }
}
