//! Tells on the Node that cluster DNS cannot be kept alive, and that it serves again.

use crate::agent::Recorder;
use crate::lifecycle::Severity;
use network::dns::process::Health;
use tokio::sync::watch;

/// Writes events about the node until the process ends; the condition is written with the node's status.
pub async fn tell_dns_health(mut health: watch::Receiver<Health>, recorder: Recorder, node: String) {
    while health.changed().await.is_ok() {
        let (severity, reason, message) = event(&health.borrow_and_update());
        recorder.node(&node, severity, reason, message);
    }
}

fn event(health: &Health) -> (Severity, &'static str, String) {
    match health {
        Health::Serving => (Severity::Normal, "ClusterDNSServing", "Cluster DNS answers again on this node".to_owned()),
        Health::Failing(why) => (
            Severity::Warning,
            "ClusterDNSFailing",
            format!("Pods of this node have no names: cluster DNS cannot be kept alive: {why}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why() {
        let (severity, reason, message) = event(&Health::Failing("No such file".to_owned()));
        assert!(matches!(severity, Severity::Warning) && reason == "ClusterDNSFailing");
        assert!(message.ends_with("cannot be kept alive: No such file"), "{message}");
    }
}
