//! Tells on the Node that a process beside the agent cannot be kept alive, and that it is there again.

use crate::agent::Recorder;
use crate::lifecycle::Severity;
use network::process::Health;
use tokio::sync::watch;

/// A process beside the agent, and what is said of it.
#[derive(Clone, Debug)]
pub struct Beside {
    /// What is said of it.
    pub words: &'static Words,
    /// How it is.
    pub health: watch::Receiver<Health>,
}

/// What is said of a process.
#[derive(Debug)]
pub struct Words {
    /// The condition of the Node that is true while it cannot be kept alive.
    pub condition: &'static str,
    /// The reason then.
    pub failing: &'static str,
    /// The reason afterwards.
    pub serving: &'static str,
    /// What that means; why follows.
    pub lost: &'static str,
    /// That it is there.
    pub found: &'static str,
}

/// Cluster DNS.
pub static CLUSTER_DNS: Words = Words {
    condition: "ClusterDNSUnavailable",
    failing: "ClusterDNSFailing",
    serving: "ClusterDNSServing",
    lost: "Pods of this node have no names: cluster DNS cannot be kept alive",
    found: "Cluster DNS answers on this node",
};

/// Encryption between nodes, where it is in user space.
pub static ENCRYPTION: Words = Words {
    condition: "EncryptionUnavailable",
    failing: "EncryptionFailing",
    serving: "EncryptionServing",
    lost: "Pods of this node and of others do not reach each other: the encryption in user space cannot be kept alive",
    found: "The encryption in user space works on this node",
};

impl Beside {
    /// Whether it fails, and why.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match &*self.health.borrow() {
            Health::Failing(why) => Some(why.clone()),
            Health::Serving => None,
        }
    }
}

/// Writes events about the node until the process ends; the condition is written with the node's status.
pub async fn tell_health(mut beside: Beside, recorder: Recorder, node: String) {
    while beside.health.changed().await.is_ok() {
        let (severity, reason, message) = event(beside.words, &beside.health.borrow_and_update());
        recorder.node(&node, severity, reason, message);
    }
}

fn event(words: &Words, health: &Health) -> (Severity, &'static str, String) {
    match health {
        Health::Serving => (Severity::Normal, words.serving, words.found.to_owned()),
        Health::Failing(why) => (Severity::Warning, words.failing, format!("{}: {why}", words.lost)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why() {
        let (severity, reason, message) = event(&CLUSTER_DNS, &Health::Failing("No such file".to_owned()));
        assert!(matches!(severity, Severity::Warning) && reason == "ClusterDNSFailing");
        assert!(message.ends_with("cannot be kept alive: No such file"), "{message}");
    }
}
