//! Gives every node a pod range of its own out of the cluster's (upstream's node IPAM, type RangeAllocator).

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Nodes that are given a range in one plan.
const NODES_PER_PLAN_MAX: usize = 64;

/// A range to cut nodes' ranges from: `network` with its prefix `length`; each node gets one of `node_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRange {
    /// The first address.
    pub network: IpAddr,
    /// Bits of the cluster's prefix.
    pub length: u8,
    /// Bits of a node's prefix, not fewer.
    pub node_length: u8,
}

impl PodRange {
    /// How many nodes fit.
    fn size(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.node_length.saturating_sub(self.length))).unwrap_or(u128::MAX)
    }

    fn bits(&self) -> u32 {
        if self.network.is_ipv4() { 32 } else { 128 }
    }

    /// The range of the node with this number, as text.
    fn at(&self, number: u128) -> String {
        let offset = number << (self.bits() - u32::from(self.node_length));
        let address = match self.network {
            IpAddr::V4(base) => IpAddr::from(Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32))),
            IpAddr::V6(base) => IpAddr::from(Ipv6Addr::from(u128::from(base).wrapping_add(offset))),
        };
        format!("{address}/{}", self.node_length)
    }

    /// The numbers that a taken range covers; none where it lies outside.
    fn numbers(&self, taken: &str) -> Option<std::ops::RangeInclusive<u128>> {
        let (address, length) = taken.split_once('/')?;
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?);
        let value = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        if address.is_ipv4() != self.network.is_ipv4() || length > self.bits() {
            return None;
        }
        let base = value(self.network);
        let first = value(address);
        let last = first + (1_u128.checked_shl(self.bits() - length).unwrap_or(0)).wrapping_sub(1);
        let shift = self.bits() - u32::from(self.node_length);
        let first = first.max(base).checked_sub(base)? >> shift;
        let last = last.checked_sub(base)? >> shift;
        (first < self.size()).then_some(first..=last.min(self.size() - 1))
    }
}

/// The allocator. It has one key, so that two nodes are never given one range by plans that do not see each other.
#[derive(Debug)]
pub struct NodeRangeController;

/// Nodes that have been told that there is no range left.
#[derive(Debug, Default)]
pub struct Memory {
    told: BTreeSet<String>,
}

impl Controller for NodeRangeController {
    const NAME: &'static str = "node-controller";
    const COMPONENT: &'static str = "cidrAllocator";
    type Memory = Memory;

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (_, Some(Typed::Node(node))) if ranges(node).is_empty() => vec![Key::default()],
            // A range has become free: somebody may wait for it.
            (Some(Typed::Node(_)), None) => vec![Key::default()],
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, _key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let waiting: Vec<_> = view.nodes.all().filter(|node| ranges(node).is_empty()).collect();
        let mut plan = Plan::default();
        if waiting.is_empty() || view.settings.pod_ranges.is_empty() {
            return plan;
        }
        let mut free: Vec<Free<'_>> = view.settings.pod_ranges.iter().map(|range| Free::new(range, view)).collect();
        memory.told.retain(|name| view.nodes.get("", name).is_some());
        for node in waiting.iter().take(NODES_PER_PLAN_MAX) {
            let chosen: Option<Vec<String>> = free.iter_mut().map(Free::take).collect();
            match chosen {
                Some(chosen) => {
                    let patch = json!({"spec": {"podCIDR": chosen.first(), "podCIDRs": chosen}});
                    plan.actions.push(Action::patch_unchanged(&***node, "", patch));
                }
                None if memory.told.insert(meta::name(&node.metadata).to_owned()) => {
                    let message = "every pod range of the cluster is taken by a node: remove nodes that are gone \
                                   (`klynge node remove`), or start the cluster with a larger --pod-cidr";
                    plan.actions.push(Action::Event(Event::warning(&***node, "CIDRNotAvailable", message)));
                }
                None => {}
            }
        }
        if waiting.len() > NODES_PER_PLAN_MAX {
            plan.requeue_at(now);
        }
        // Kept in memory as long as somebody waits.
        if !memory.told.is_empty() {
            plan.requeue_at(now.checked_add(jiff::SignedDuration::from_mins(5)).unwrap_or(now));
        }
        plan
    }
}

fn ranges(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

/// What is free of one range, in order.
struct Free<'a> {
    range: &'a PodRange,
    taken: Vec<std::ops::RangeInclusive<u128>>,
    next: u128,
}

impl<'a> Free<'a> {
    fn new(range: &'a PodRange, view: &View) -> Self {
        let held = view.nodes.all().flat_map(|node| ranges(node));
        let mut taken: Vec<_> = held.filter_map(|held| range.numbers(held)).collect();
        taken.sort_unstable_by_key(|numbers| *numbers.start());
        taken.reverse();
        Self { range, taken, next: 0 }
    }

    fn take(&mut self) -> Option<String> {
        while let Some(numbers) = self.taken.last().filter(|numbers| *numbers.start() <= self.next) {
            self.next = self.next.max(numbers.end() + 1);
            self.taken.pop();
        }
        if self.next >= self.range.size() {
            return None;
        }
        self.next += 1;
        Some(self.range.at(self.next - 1))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::Arc;

    fn node(name: &str, range: Option<&str>) -> Arc<Node> {
        let mut object = json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": {}});
        if let Some(range) = range {
            object["spec"] = json!({"podCIDR": range, "podCIDRs": [range]});
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn given(range: PodRange, nodes: &[Arc<Node>]) -> Vec<String> {
        let mut view = View::default();
        view.settings.pod_ranges = vec![range];
        for node in nodes {
            view.nodes.set(node.clone());
        }
        let plan = NodeRangeController::plan(&view, &Key::default(), &mut Memory::default(), Timestamp::UNIX_EPOCH);
        let words = plan.actions.iter().map(|action| match action {
            Action::Patch { target, patch, precondition, .. } => {
                assert_eq!(precondition.resource_version, "1");
                format!("{} {}", target.name, patch["spec"]["podCIDRs"][0].as_str().unwrap())
            }
            Action::Event(event) => event.reason.clone(),
            other => format!("unexpected {other:?}"),
        });
        words.collect()
    }

    #[test]
    fn ranges_are_cut_in_order_around_what_is_taken() {
        let range = PodRange { network: "10.42.0.0".parse().unwrap(), length: 16, node_length: 24 };
        let nodes = [
            node("a", Some("10.42.1.0/24")),
            node("b", None),
            node("c", Some("10.42.2.0/23")), // wider than the others
            node("d", None),
            node("e", Some("10.99.0.0/24")), // outside
            node("f", Some("10.42.200.128/25")),
        ];
        assert_eq!(given(range, &nodes), ["b 10.42.0.0/24", "d 10.42.4.0/24"]);
        let six = PodRange { network: "fd00:42::".parse().unwrap(), length: 48, node_length: 64 };
        assert_eq!(given(six, &[node("a", Some("fd00:42::/64")), node("b", None)]), ["b fd00:42:0:1::/64"]);
    }

    #[test]
    fn a_full_range_is_told_once() {
        let range = PodRange { network: "10.42.0.0".parse().unwrap(), length: 23, node_length: 24 };
        let nodes = [node("a", None), node("b", None), node("c", None)];
        assert_eq!(given(range, &nodes), ["a 10.42.0.0/24", "b 10.42.1.0/24", "CIDRNotAvailable"]);
        let whole = PodRange { network: "10.42.0.0".parse().unwrap(), length: 24, node_length: 24 };
        assert_eq!(given(whole, &[node("a", None)]), ["a 10.42.0.0/24"]);
    }
}
