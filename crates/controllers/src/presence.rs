//! What heartbeats tell of nodes, as controllers look at it (decision 0010).

use std::collections::BTreeMap;

/// What a silence allows by its length, which is measured by a monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Taint and endpoints.
    Fresh,
    /// Replacements of pods that want fast failover.
    Replace,
    /// `NoExecute`.
    Evict,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its agent beats.
    Healthy,
    /// The host lives, its agent does not beat.
    AgentHung,
    /// The agent ended on a living host.
    AgentAway {
        /// Nobody can ask the host any more: its Lease says when it is lost.
        by_lease: bool,
    },
    /// Nothing is heard of it.
    Silent(Silence),
}

/// A node as it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What is known of it.
    pub presence: Presence,
    /// It has changed too often lately to be believed at once.
    pub flapping: bool,
    /// All nodes fell silent at once: nothing may follow from it.
    pub held: bool,
}

impl Seen {
    /// How long the node has been silent, where something may follow from it.
    #[must_use]
    pub fn silence(&self) -> Option<Silence> {
        match self.presence {
            Presence::Silent(silence) if !self.held => Some(silence),
            _ => None,
        }
    }
}

/// All nodes with heartbeats, by name. Others are judged by their Leases.
pub type Picture = BTreeMap<String, Seen>;
