//! Which chains, ranges, port lists and maps the tables hold: what a compiler keeps up to date, and a commit brings into the kernel.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::ranges::{PortRanges, Ranges};
use super::selections::{Selection, matches};
use super::state::{Labels, Policy, Rule};
use super::tracked::Tracked;

/// The side of a connection that a pod is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// What a policy says of the direction; none where it does not isolate.
    pub(crate) const fn rules(self, policy: &Policy) -> Option<&Vec<Rule>> {
        match self {
            Self::Ingress => policy.ingress.as_ref(),
            Self::Egress => policy.egress.as_ref(),
        }
    }

    /// Whether a policy isolates a pod of its namespace that has these labels.
    pub(crate) fn is_isolated(self, policy: &Policy, labels: &Labels) -> bool {
        self.rules(policy).is_some() && matches(&policy.pods, labels)
    }
}

/// Names a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ChainName {
    /// What a policy allows.
    Policy(Direction, u32),
    /// A set of policies, one after the other.
    Group(Direction, u32),
}

impl ChainName {
    pub(crate) const fn direction(self) -> Direction {
        match self {
            Self::Policy(direction, _) | Self::Group(direction, _) => direction,
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(Direction::Ingress, id) => write!(formatter, "in-{id}"),
            Self::Policy(Direction::Egress, id) => write!(formatter, "out-{id}"),
            Self::Group(Direction::Ingress, id) => write!(formatter, "to-{id}"),
            Self::Group(Direction::Egress, id) => write!(formatter, "from-{id}"),
        }
    }
}

/// The other side, by the number of its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PeerSet {
    Any,
    Selection(u32),
    Blocks(u32),
}

/// The destination's ports, by the number of their set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PortSet {
    Any,
    Numbers(u32),
    Named(u32),
}

/// A rule of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ChainRule {
    Jump(ChainName),
    Accept(PeerSet, PortSet),
    Drop,
}

/// What the tables hold, but for the members of selections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) selections: Tracked<u32, Arc<Selection>>,
    pub(crate) blocks: Tracked<u32, Arc<Ranges>>,
    pub(crate) ports: Tracked<u32, Arc<PortRanges>>,
    pub(crate) chains: Tracked<ChainName, Vec<ChainRule>>,
    /// Isolated addresses of this node and the numbers of their sets of policies.
    pub(crate) ingress: Tracked<IpAddr, u32>,
    pub(crate) egress: Tracked<IpAddr, u32>,
    /// The addresses that are isolated in any direction.
    pub(crate) policed: Tracked<IpAddr, ()>,
    /// What may come out of which interface.
    pub(crate) senders: Tracked<(String, IpAddr), ()>,
}

impl Layout {
    /// The isolated addresses in a direction.
    pub(crate) const fn isolated(&self, direction: Direction) -> &Tracked<IpAddr, u32> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What it holds now is in the kernel.
    pub(crate) fn settle(&mut self) {
        let Self { selections, blocks, ports, chains, ingress, egress, policed, senders } = self;
        selections.settle();
        blocks.settle();
        ports.settle();
        chains.settle();
        ingress.settle();
        egress.settle();
        policed.settle();
        senders.settle();
    }
}
