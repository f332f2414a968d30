//! The events that a node tells of itself, in upstream's words: `kubectl describe node` and `kubectl get events` show them.

use crate::agent::Recorder;
use crate::lifecycle::Severity;

/// The reason that tells of a condition's new value.
fn reason(condition: &str, value: bool) -> Option<&'static str> {
    Some(match (condition, value) {
        ("MemoryPressure", true) => "NodeHasInsufficientMemory",
        ("MemoryPressure", false) => "NodeHasSufficientMemory",
        ("DiskPressure", true) => "NodeHasDiskPressure",
        ("DiskPressure", false) => "NodeHasNoDiskPressure",
        ("PIDPressure", true) => "NodeHasInsufficientPID",
        ("PIDPressure", false) => "NodeHasSufficientPID",
        ("Ready", true) => "NodeReady",
        ("Ready", false) => "NodeNotReady",
        _ => return None,
    })
}

/// Tells of one node.
pub(super) struct Announcer<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) node: &'a str,
}

impl Announcer<'_> {
    fn normal(&self, reason: &str, message: String) {
        self.recorder.node(self.node, Severity::Normal, reason, message);
    }

    fn status(&self, reason: &str) {
        self.normal(reason, format!("Node {} status is now: {reason}", self.node));
    }

    /// The agent begins.
    pub(super) fn starting(&self) {
        self.normal("Starting", "Starting kubelet.".into());
    }

    /// A condition has another value than before.
    pub(super) fn condition(&self, condition: &str, value: bool) {
        if let Some(reason) = reason(condition, value) {
            self.status(reason);
        }
    }

    /// The node was cordoned or uncordoned.
    pub(super) fn schedulable(&self, schedulable: bool) {
        self.status(if schedulable { "NodeSchedulable" } else { "NodeNotSchedulable" });
    }

    /// The machine was started anew since the cluster last heard of it.
    pub(super) fn rebooted(&self, boot_id: &str) {
        let message = format!("Node {} has been rebooted, boot id: {boot_id}", self.node);
        self.recorder.node(self.node, Severity::Warning, "Rebooted", message);
    }
}
