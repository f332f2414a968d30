//! The agent's end when its node is taken out of the cluster.

use super::identity::Identity;
use crate::cli::Global;
use client::{ClusterClient, Https, Request, Target, Verb};
use node::Node;
use object::GroupVersionResource;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(5);
/// What ran here may take so long to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends when the Node object is gone, after the node's pods have ended and the identity is forgotten; the message to end with.
pub(super) async fn removed(global: Global, client: Arc<Https>, node: Arc<OnceLock<Node>>, name: String) -> String {
    let target = Target {
        resource: GroupVersionResource::new("", "v1", "nodes"),
        namespace: "".into(),
        name: name.as_str().into(),
        subresource: "".into(),
    };
    // Twice in a row: whoever deletes a Node by hand and makes it again within the period means no removal.
    let mut missing = 0;
    while missing < 2 {
        tokio::time::sleep(PERIOD).await;
        match client.call(Request { target: target.clone(), verb: Verb::Get }).await {
            Err(status) if status.is_not_found() => missing += 1,
            _ => missing = 0,
        }
    }
    tracing::warn!(node = name, "this node was taken out of the cluster; its pods end");
    let deadline = Instant::now() + STOP_TIMEOUT;
    while node.get().is_some_and(|node| !node.pods().is_empty()) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let forgotten = match Identity::remove(&global) {
        Ok(()) => String::new(),
        Err(failure) => format!(" ({failure})"),
    };
    format!(
        "node {name} was taken out of the cluster{forgotten}; to join again run `klynge agent` with a new token from \
         `klynge token create`, or `klynge down --purge` to leave nothing here"
    )
}
